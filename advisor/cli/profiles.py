"""``advisor profiles``: list, show and check the profiles of model families and tasks."""

from __future__ import annotations

from advisor.cli import groups
from advisor.cli.show import say, say_json
from advisor.core.errors import BadInput


def list_profiles(printed: groups.Json) -> None:
    """List the shipped profiles and your own, and the folders for your own."""
    from advisor.core.profiles import KINDS, load_profiles, own_files
    from advisor.core.store import user_folder

    listed = []
    for kind in KINDS:
        own = own_files(kind)
        for name, profile in load_profiles(kind).items():
            what = profile["family"] if kind == "models" else profile["description"]
            listed.append({"kind": kind, "name": name, "own": name in own, "what": what})
    folders = {kind: str(user_folder(kind)) for kind in KINDS}
    if printed.as_json:
        say_json({"profiles": listed, "own_folders": folders})
        return
    for kind in KINDS:
        say(f"{kind} (your own: {folders[kind]})")
        for entry in listed:
            if entry["kind"] == kind:
                say(f"  {entry['name']:<12} {entry['what']}{'  [your own]' if entry['own'] else ''}")


def show(given: groups.ProfileName) -> None:
    """Print the YAML of a profile; your own comes before a shipped one of the same name."""
    from advisor.core.profiles import KINDS, own_files, profile_text, shipped_files

    wanted, _, last = given.name.rpartition("/")
    for kind in KINDS:
        if wanted in ("", kind):
            file = {**shipped_files(kind), **own_files(kind)}.get(last)
            if file is not None:
                print(profile_text(file, str(file)), end="")
                return
    raise BadInput(f"There is no profile {given.name}.", "`advisor profiles list` names them.")


def check(given: groups.ProfileCheck, printed: groups.Json) -> int:
    """Check what your model profile matches in a model. Exit code 0: as intended; 1: surprises; 2: bad input."""
    from advisor.models.profile_check import check_profile

    report = check_profile(given.file, given.model, task=given.task, trust_remote_code=given.trust_remote_code)
    if printed.as_json:
        say_json(report.as_dict())
        return report.exit_code
    use = "applies to" if report.applies else "does not apply to"
    say(f"{report.file} {use} {report.model} ({report.model_type}, {len(report.blocks)} blocks).")
    for role in report.roles:
        say(f"  {role.group}/{role.role}: {role.modules} modules {role.tail}")
    for outside in report.outside:
        say(f"  outside the blocks: {outside}")
    for left_out, reason in report.never.items():
        say(f"  never adapted: {left_out} ({reason})")
    for entry in report.idle:
        say(f"  never: {entry} matches nothing here")
    say(f"q,v stands for {report.qv} modules.")
    for surprise in report.surprises:
        say(f"Surprise: {surprise}")
    return report.exit_code
