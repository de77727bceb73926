"""``advisor profiles``: list, show and check the profiles of model families and tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from advisor.core.errors import BadInput
from advisor.core.profiles import KINDS, load_profiles, own_files, shipped_files
from advisor.core.store import user_folder

app = typer.Typer(no_args_is_help=True, help="Profiles of model families and tasks: list, show, check.")
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]


@app.command("list")
def list_profiles(as_json: Json = False) -> None:
    """Shipped profiles and your own, and where yours belong."""
    listed = []
    for kind in KINDS:
        own = own_files(kind)
        for name, profile in load_profiles(kind).items():
            what = profile["family"] if kind == "models" else profile["description"]
            listed.append({"kind": kind, "name": name, "own": name in own, "what": what})
    folders = {kind: str(user_folder(kind)) for kind in KINDS}
    if as_json:
        print(json.dumps({"profiles": listed, "own_folders": folders}, indent=1))
        return
    for kind in KINDS:
        print(f"{kind} (your own: {folders[kind]})")
        for entry in listed:
            if entry["kind"] == kind:
                print(f"  {entry['name']:<12} {entry['what']}{'  [your own]' if entry['own'] else ''}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="As `advisor profiles list` names it, or KIND/NAME.")]) -> None:
    """Print one profile's YAML: yours, if you have one of that name."""
    wanted, _, last = name.rpartition("/")
    for kind in KINDS:
        if wanted in ("", kind):
            file = {**shipped_files(kind), **own_files(kind)}.get(last)
            if file is not None:
                print(file.read_text(encoding="utf-8"), end="")
                return
    raise BadInput(f"There is no profile {name}.", "`advisor profiles list` names them.")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A model profile, YAML.")],
    model: Annotated[str, typer.Option("--model", help="Model folder or hub id.")],
    task: Annotated[str, typer.Option("--task", help="classification, regression, causal-lm or seq2seq.")] = "classification",
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    as_json: Json = False,
) -> None:
    """What your model profile would match in MODEL: exit 0 as intended, 1 surprises, 2 bad input."""
    from advisor.core.recipe import TASKS
    from advisor.models.profile_check import check_profile

    if task not in TASKS:
        raise BadInput(f"--task {task}: unknown.", f"Use one of {', '.join(TASKS)}.")
    report = check_profile(file, model, task=task, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        use = "applies to" if report.applies else "does not apply to"
        print(f"{report.file} {use} {report.model} ({report.model_type}, {len(report.blocks)} blocks).")
        for role in report.roles:
            print(f"  {role.group}/{role.role}: {role.modules} modules {role.tail}")
        for outside in report.outside:
            print(f"  outside the blocks: {outside}")
        for left_out, reason in report.never.items():
            print(f"  never adapted: {left_out} ({reason})")
        for entry in report.idle:
            print(f"  never: {entry} matches nothing here")
        print(f"q,v stands for {report.qv} modules.")
        for surprise in report.surprises:
            print(f"Surprise: {surprise}")
    raise typer.Exit(report.exit_code)
