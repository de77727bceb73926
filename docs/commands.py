"""Writes docs/commands.md from the program: ``python docs/commands.py`` (a test fails when the page is stale)."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from advisor.cli.app import app
from advisor.cli.command import help_of, metavar_of
from advisor.core import option as kinds
from advisor.core.option import REQUIRED, Option, options_of
from advisor.core.option_groups import PANELS
from advisor.core.store import write_text

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

<!-- Written by docs/commands.py from the program; do not edit. -->

Results go to stdout; notes, progress and errors go to stderr. `advisor --version` prints the version, and
`advisor --install-completion` installs completion for your shell.

| exit code | |
|---|---|
| 0 | done |
| 1 | surprises (`verify`, `profiles check`); or a bug in the advisor: the error names a log file; or nobody reads the output |
| 2 | bad input: a model, data, file or option that cannot be used |
| 3 | no selection fits the budget |
| 4 | out of memory at the smallest batch |
| 5 | a number is not finite; the error names the module |
| 130 | interrupted; finished work is kept, run the same command again to resume |

`probe` and `recommend` are also Python functions with the same options: [api.md](api.md). A selection file is a JSON list of
`{"name": …, "targets": ["full.module.name", …]}` with optional `rank`, `alpha`, `rslora`, `rank_pattern`, `alpha_pattern`.
"""


def page() -> str:
    return HEAD + "".join(_sections(app, "advisor"))


def _sections(group: typer.Typer, path: str) -> list[str]:
    commands = [_section(f"{path} {c.name}", c.help or "", c.callback.groups) for c in group.registered_commands]  # type: ignore[union-attr]
    inner = [section for g in group.registered_groups for section in _sections(g.typer_instance, f"{path} {g.name}")]  # type: ignore[arg-type]
    return commands + inner


def _section(path: str, text: str, groups: list[type[kinds.Checked]]) -> str:
    """One command: usage, what it does, a table of arguments and options."""
    found = [option for group in groups for option in options_of(group).values()]
    arguments = [option for option in found if option.is_argument]
    options = sorted((option for option in found if not option.is_argument), key=lambda option: PANELS.index(option.panel))
    usage = " ".join([path, *map(_argument, arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"\n## {path}\n", f"```text\n{usage}\n```\n", _plain(text), ""]
    rows = [(f"`{_argument(a)}`", _plain(help_of(a)), "", "") for a in arguments]
    rows += [(f"`{_flags(o)}`", _plain(help_of(o)), _range(o), _default(o)) for o in options]
    if rows:
        lines += ["| | | allowed | default |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _argument(argument: Option) -> str:
    return argument.metavar if argument.default is REQUIRED else f"[{argument.metavar}]"


def _flags(option: Option) -> str:
    """Its names and what it takes; nothing for a flag."""
    names, word = ", ".join(option.flags), metavar_of(option)
    return names if word is None else f"{names} {word.replace('|', chr(92) + '|')}"


def _range(option: Option) -> str:
    """The allowed numbers; the help has the allowed texts."""
    return (
        option.allowed.removeprefix("a whole number ").removeprefix("a number ")
        if option.kind in (kinds.WHOLE, kinds.REAL)
        else ""
    )


def _default(option: Option) -> str:
    if option.default is REQUIRED:
        return "required"
    if option.default is None or option.default is False:
        return _plain(option.unset)
    return f"`{option.default}`"


def _plain(text: str) -> str:
    """One line, safe in a table's cell."""
    return re.sub(r"([<|])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    write_text(PAGE, page())
