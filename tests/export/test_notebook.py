"""Of a notebook the Python is read, as IPython would hand it to Python."""

from __future__ import annotations

import ast
import json

import pytest

from advisor.export.notebook import notebook_code
from advisor.export.script import read_script


def code(*cells: object) -> bytes:
    return notebook_code(json.dumps({"cells": [{"cell_type": "code", "source": source} for source in cells]}).encode())


def test_a_notebook_is_its_code_cells_without_magics() -> None:
    cells = [
        {"cell_type": "markdown", "source": "LoraConfig(r=1)"},
        {"cell_type": "code", "source": ["%%capture\n", "!pip install peft\n", "R = 8"]},
        {"cell_type": "code", "source": "LoraConfig(r=R)"},
        "damaged",
    ]
    assert read_script(notebook_code(json.dumps({"cells": cells}).encode())) == ("trl", {"r": 8})
    with pytest.raises(ValueError, match="'cells' is there twice"):
        notebook_code(b'{"cells": [], "cells": []}')
    for bad in ("{}", "[]", '{"cells": 3}'):
        with pytest.raises(ValueError, match="no notebook"):
            notebook_code(bad.encode())


CELLS = [
    '%%capture\nimport os\nif "COLAB_" not in "".join(os.environ):\n    !pip install unsloth\nelse:\n    !pip install peft',
    "if True:\n    !pip install \\\n        unsloth \\\n        peft\nelse:\n\t%pip install peft",
    "for i in x:\n    # why\n    %cd content",
    "def f():\n    %time\n    print?",
    "files = !ls",
    "a, b = %sx ls",
    "d['x'].y = !ls \\\n  -l",
    "x?",
    "?x",
    "model.forward??",
    "*Lora*?",
    "pip install -q peft",
    "  \n# a title\n%%bash\necho $HOME; ls -l | grep x\nr=3",
    "%%sh\nLoraConfig(r=1)",
    "%%html\n<b>x</b>",
    "%%writefile config.yaml\nr: 8\n  - x y",
    "%%R\nx <- 3",
    "!!ls",
    "x = 5 if not y else 7  # what?",
    "text = 'is it?'",
    "x = (3\n% 2)",
    'x = """\n!ls\n%cd\nwhat?\n"""',
    'x = """it\'s \\""" (\n!ls"""\n!ls "(',
    "x = f(a,  # (\n  '(', ')'\n)\n!ls",
    "x = 7 \\\n  % 2",
    "",
]


@pytest.mark.parametrize("cell", CELLS)
def test_whatever_stands_beside_it_the_config_is_read(cell: str) -> None:
    assert read_script(code(cell, "LoraConfig(r=8)")) == ("trl", {"r": 8})
    assert read_script(code("LoraConfig(r=8)", cell)) == ("trl", {"r": 8})


@pytest.mark.parametrize(
    "source",
    ['x = """\n!ls\n%cd\nwhat?\n"""', "x = (3\n% 2)", "x = 7 \\\n  % 2", "x = '''a''' + \"b'''\" + '#'  # '''\ny = [\n{\n}]"],
)
def test_what_is_python_stays_as_it_is(source: str) -> None:
    assert ast.dump(ast.parse(code(source))) == ast.dump(ast.parse(source))


def test_a_time_magic_and_a_written_script_are_python_too() -> None:
    assert read_script(code("%time R = 8", "%%time\nLoraConfig(r=R)"))[1] == {"r": 8}
    assert read_script(code("%%writefile train.py\nLoraConfig(r=8)"))[1] == {"r": 8}


def test_what_a_shell_line_gives_is_unknown() -> None:
    with pytest.raises(ValueError, match=r"r is no literal but .*nvidia-smi"):
        read_script(code("R = !nvidia-smi", "LoraConfig(r=R)"))
    with pytest.raises(ValueError, match="assigned more than once"):
        read_script(code("R = 8\nif x:\n  R = !cat rank", "LoraConfig(r=R)"))
