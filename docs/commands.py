"""Writes docs/commands.md from the program: ``python docs/commands.py`` (a test fails when the page is stale)."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from advisor.cli.main import app
from advisor.core.store import write_text

PAGE = Path(__file__).with_name("commands.md")
WORDS = {"Path": "PATH", "int": "INTEGER", "float": "NUMBER", "str": "TEXT"}
HEAD = """# Commands

<!-- Written by docs/commands.py from the program; do not edit. -->

Results go to stdout, notes and progress to stderr. Exit codes: 0 done; 1 surprises (`verify`); 2 bad input; 3 no selection fits
the budget; 4 out of memory at the smallest batch; 5 a number is not finite (the module is named); 130 interrupted: finished work
is kept, run again to resume.

`probe` and `recommend` are also Python functions with the same options: [api.md](api.md). A selection file is a JSON list of
`{"name": …, "targets": ["full.module.name", …]}` with optional `rank`, `alpha`, `rslora`, `rank_pattern`, `alpha_pattern`.
"""


def page() -> str:
    root = typer.main.get_command(app)
    return HEAD + "".join(_section(command, path) for command, path in _commands(root, "advisor"))


def _commands(command: Any, path: str) -> Iterator[tuple[Any, str]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield command, path
        return
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def _section(command: Any, path: str) -> str:
    """One command: usage, what it does, a table of arguments and options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    kinds = typing.get_type_hints(command.callback)
    usage = " ".join([path, *(_metavar(a) for a in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"\n## {path}\n", f"```text\n{usage}\n```\n", _plain(command.help or ""), ""]
    rows = [(f"`{_metavar(a)}`", _plain(a.help or ""), "") for a in arguments]
    rows += [(f"`{_option(o, kinds[o.name])}`", _plain(o.help or ""), _default(o)) for o in options]
    if rows:
        lines += ["| | | default |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    return "\n".join(lines) + "\n"


def _metavar(argument: Any) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: Any, kind: Any) -> str:
    """Its names and what it takes; nothing for a flag."""
    names = ", ".join(option.opts)
    if kind is bool:
        return names
    word = next(word for known, word in WORDS.items() if known in str(kind))
    return f"{names} {(option.metavar or word).replace('|', chr(92) + '|')}"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.default is None or option.default is False or callable(option.default):
        return ""
    return f"`{option.default}`"


def _plain(text: str) -> str:
    """One line, safe in a table's cell."""
    return re.sub(r"([<|])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    write_text(PAGE, page())
