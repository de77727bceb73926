"""From a group of options to a command: what typer has to know of each option is read off its definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from advisor.core import option as kinds
from advisor.core.option import REQUIRED, Checked, Option, options_of
from advisor.core.option_groups import PANELS

TYPES = {kinds.WHOLE: int, kinds.REAL: float, kinds.FLAG: bool, kinds.NAMES: list[str], kinds.PATH: Path}
METAVARS = {kinds.WHOLE: "INTEGER", kinds.REAL: "NUMBER", kinds.PATH: "PATH"}


def add_command(app: typer.Typer, function: Callable[..., int | None], name: str | None = None) -> None:
    """Makes a command of a function whose parameters are groups of options, which are given what is typed; what it returns is
    the exit code, None: 0."""
    groups = groups_of(function)

    def run(context: typer.Context, **given: Any) -> int | None:
        def made(group: type[Checked]) -> Checked:
            return group(**{name: given[name] for name in options_of(group) if _is_typed(context, name)})

        return function(*map(made, groups))

    found = [option for group in groups for option in options_of(group).values()]
    found.sort(key=lambda option: PANELS.index(option.panel))
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__signature__ = inspect.Signature([context, *map(_parameter, found)])  # type: ignore[attr-defined]
    run.groups = groups  # type: ignore[attr-defined]  # for docs/commands.py
    app.command(name or function.__name__, help=inspect.getdoc(function))(run)


def groups_of(function: Callable[..., int | None]) -> list[type[Checked]]:
    """The groups of options that a command takes."""
    return [kind for name, kind in get_type_hints(function).items() if name != "return"]


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether the option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(option: Option) -> inspect.Parameter:
    """As typer reads it from a function's signature."""
    kind: Any = TYPES.get(option.kind, str)
    default = inspect.Parameter.empty if option.default is REQUIRED else option.default
    about: dict[str, Any] = {"help": help_of(option), "metavar": metavar_of(option)}
    if option.kind not in (kinds.FLAG, kinds.NAMES):
        about["parser"] = option.check
    elif option.kind == kinds.NAMES and default is not None:  # one text with commas
        kind = str
    if option.panel:
        about["rich_help_panel"] = option.panel
    if option.unset:
        about["show_default"] = option.unset
    made = typer.Argument(**about) if option.is_argument else typer.Option(*option.flags, **about)
    if default is None:
        kind = kind | None
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])


def help_of(option: Option) -> str:
    """What the option does, and the texts that it takes unless it names them itself."""
    if all(choice in option.help for choice in option.choices):
        return option.help
    return f"{option.help} Choices: {', '.join(option.choices)}."


def metavar_of(option: Option) -> str | None:
    """What stands for the value in the help; None: a flag."""
    return option.metavar or (None if option.kind == kinds.FLAG else METAVARS.get(option.kind, "TEXT"))
