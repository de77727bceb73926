"""Docstrings of public functions name the errors that their code raises."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import advisor
from advisor.core import errors

ROOT = Path(advisor.__file__).resolve().parent
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.AdvisorError)}
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent.name != "cli"]  # there docstrings are what --help says


def functions(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods by the names that calls in the same module use: ``read``, ``self.read``."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield within + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node.body, "self.")


def caught(function: ast.FunctionDef) -> set[str]:
    """Names of the errors that it catches anywhere."""
    kinds = [node.type for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.type is not None]
    return {name.id for kind in kinds for name in ast.walk(kind) if isinstance(name, ast.Name)}


def raised(function: ast.FunctionDef, private: dict[str, ast.FunctionDef], seen: frozenset[str] = frozenset()) -> set[str]:
    """Our errors that it raises itself, or through private functions of its module where it does not catch them."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found |= {ast.unparse(node.exc.func)} & OURS
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in private.keys() - seen:
            found |= raised(private[name], private, seen | {name}) - caught(function)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_public_functions_say_what_they_raise(file: Path) -> None:
    everything = dict(functions(ast.parse(file.read_text(encoding="utf-8")).body))
    private = {name: function for name, function in everything.items() if function.name.startswith("_")}
    for function in (function for name, function in everything.items() if name not in private):
        said = (ast.get_docstring(function) or "").partition("Raises:")[2]
        missing = {error for error in raised(function, private) if error not in said and "AdvisorError" not in said}
        assert not missing, f"{function.name}, line {function.lineno}: Raises: does not name {', '.join(sorted(missing))}"


def test_the_check_finds_what_is_not_said() -> None:
    code = """
def read(): return _read()
def _read(): raise BadInput("x")
def safe():
    try: return _read()
    except BadInput: return 0
"""
    everything = dict(functions(ast.parse(code).body))
    private = {"_read": everything["_read"]}
    assert raised(everything["read"], private) == {"BadInput"}
    assert raised(everything["safe"], private) == set()
