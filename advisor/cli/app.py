"""``advisor`` and its commands. What is heavy is imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli import configs, probing, profiles, scoring, terminal
from advisor.cli.command import add_command
from advisor.core.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which modules should LoRA adapt, for your model and your data? Begin with: advisor recommend MODEL --data FILE",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"lora-layer-advisor {__version__}")
        raise typer.Exit


@app.callback()
def _advisor(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


for function in (
    probing.recommend,
    probing.probe,
    scoring.score,
    scoring.explain,
    scoring.compare,
    terminal.tui,
    configs.export,
    configs.verify,
    probing.calibrate,
):
    add_command(app, function)

_profiles = typer.Typer(no_args_is_help=True, help="List, show and check the profiles of model families and tasks.")
add_command(_profiles, profiles.list_profiles, "list")
add_command(_profiles, profiles.show)
add_command(_profiles, profiles.check)
app.add_typer(_profiles, name="profiles")
