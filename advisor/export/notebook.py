"""The Python of a Jupyter notebook: what IPython would not hand to Python is replaced, and nothing is run."""

from __future__ import annotations

import ast
import re

from advisor.core.reading import load_json

RUN_AS_PYTHON = ("capture", "prun", "time", "timeit")  # magics of a cell, the rest of which is Python
OTHER_LANGUAGES = (
    *("bash", "sh", "script", "system", "sx", "cmd", "perl", "ruby", "javascript", "js", "html", "latex", "markdown", "svg"),
    *("sql", "bigquery", "R", "julia", "cython", "python2", "pypy"),
)
# At the start of a statement: a shell line or a magic, a question, or an installation without the magic's sign.
_NO_PYTHON = re.compile(r"\s*(?:[!%?]|[\w.*]+\?{1,2}\s*$|(?:pip3?|conda|mamba|micromamba|uv)\s+(?:install|uninstall|pip)\b)")
_TIMED = re.compile(r"^(\s*)%time\s+(?=[^\s-])")  # the statement that follows is run
_OUTPUT = re.compile(r"((?:[\w.,\s*]|\[[^\]=]*\])+=\s*)([!%].*)")
_PARTS = re.compile(r"""#.*|'{3}|"{3}|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[([{]|[)\]}]""")


def notebook_code(data: bytes) -> bytes:
    """The code cells of a Jupyter notebook as Python. Shell lines and magics become ``pass``, what they assign an unknown value;
    cells in other languages are left out.

    Raises:
        ValueError: it is no notebook.
    """
    content = load_json(data, constants=True)
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it is no notebook: it has no list of cells")
    code = [cell.get("source", "") for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
    sources = ["".join(map(str, source)) if isinstance(source, list) else str(source) for source in code]
    return "\n".join(map(_python_of, sources)).encode("utf-8", "replace")


def _python_of(source: str) -> str:
    """The Python of one cell, line by line; empty for a cell in another language, or with a magic that takes no Python."""
    python = "\n".join(_statements(source.splitlines()))
    magic = re.match(r"(?:\s*(?:#.*)?\n)*%%(\w*)", source)
    if magic is None or magic[1] in RUN_AS_PYTHON:
        return python
    try:
        ast.parse(python)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return "" if magic[1] in OTHER_LANGUAGES else python  # such as a script that %%writefile writes


def _statements(lines: list[str]) -> list[str]:
    found, brackets, quote, continued, dropped = [], 0, "", False, False
    for line in lines:
        if dropped:
            found.append("")
            dropped = line.endswith("\\")
            continue
        if not (brackets or quote or continued):
            line = _TIMED.sub(r"\1", line)
            output = _OUTPUT.match(line)
            if output or _NO_PYTHON.match(line):
                indent = line[: len(line) - len(line.lstrip())]
                found.append(f"{output[1]}get_ipython().getoutput({output[2]!r})" if output else f"{indent}pass")
                dropped = line.endswith("\\")
                continue
        found.append(line)
        brackets, quote = _open_at_end(line, brackets, quote)
        continued = line.endswith("\\")
    return found


def _open_at_end(line: str, brackets: int, quote: str) -> tuple[int, str]:
    """How many brackets, and which triple quote, are open after a line that begins with these open."""
    at = 0
    while True:
        if quote:
            end = re.compile(rf"(?:[^\\]|\\.)*?{quote}").match(line, at)
            if end is None:
                return brackets, quote
            at, quote = end.end(), ""
        part = _PARTS.search(line, at)
        if part is None:
            return brackets, quote
        at = part.end()
        if part[0] in ("'''", '"""'):
            quote = part[0]
        elif part[0] in "([{":
            brackets += 1
        elif part[0] in ")]}":
            brackets = max(0, brackets - 1)
