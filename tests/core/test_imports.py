"""What importing and asking for help may load, and which parts may know of which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import advisor

ROOT = Path(advisor.__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "peft", "datasets", "textual")
# Rooms of plain arrays and data. What needs a model loads it when it is called.
PLAIN_ROOMS = ("core", "theory", "prediction", "advice", "report")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600)


@pytest.mark.parametrize("code", ["import advisor", "import advisor.cli.main", "import advisor.report.console"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    done = python(f"import sys; {code}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_loads_nothing_heavy() -> None:
    done = python(
        "import sys\n"
        "from advisor.cli.main import main\n"
        "sys.argv = ['advisor', '--help']\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n"
        f"print([m for m in {(*HEAVY, 'numpy', 'sklearn')!r} if m in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.strip() == "[]"
    assert "recommend" in done.stdout


def test_the_maths_does_not_load_torch() -> None:
    files = [path for room in PLAIN_ROOMS for path in sorted((ROOT / "advisor" / room).glob("*.py"))]
    modules = ", ".join(["advisor.api", "advisor.results", *(f"advisor.{p.parent.name}.{p.stem}" for p in files)])
    done = python(f"import sys; import {modules}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_what_few_commands_need_is_not_loaded_with_the_others() -> None:
    """matplotlib draws figures for notebooks alone, scikit-learn fits new heads, and bitsandbytes is for quantised weights."""
    done = python(
        "import sys; import advisor.api, advisor.probe_cache, advisor.real_runs, advisor.workflow, tui.engine\n"
        "from advisor.models.adaptable import peft_wraps\n"
        "from torch import nn\n"
        "assert peft_wraps(nn.Module(), 'query')\n"
        "from pathlib import Path; from advisor.export.taken import known_arguments\n"
        "assert known_arguments({'r': 8}, Path('adapter_config.json')) == ({'r': 8}, [])\n"
        "print([m for m in ('matplotlib', 'sklearn', 'pandas', 'scipy.stats', 'datasets', 'bitsandbytes') if m in sys.modules])\n"
        "from peft import import_utils\n"
        "from importlib.util import find_spec\n"
        "print(import_utils.is_bnb_available() == (find_spec('bitsandbytes') is not None))\n"
    )
    assert done.stdout.splitlines() == ["[]", "True"], done.stdout + done.stderr


def test_import_contracts_hold() -> None:
    """The contracts of pyproject.toml, by import-linter."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed (extra `dev`)")
    done = subprocess.run([str(program), "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_engine_never_imports_the_terminal_interface() -> None:
    """Also inside functions, where a contract on the import graph would see it too."""
    seen = 0
    for path in (ROOT / "advisor").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            seen += len(names)
            assert not [n for n in names if n.split(".")[0] == "textual"], path
            if path != ROOT / "advisor/cli/terminal.py":
                assert not [n for n in names if n.split(".")[0] == "tui"], path
    assert seen > 100
