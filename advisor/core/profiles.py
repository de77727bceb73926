"""Profiles of model families and tasks: YAML shipped as package data (``profiles/<kind>``), and the user's own.

Own ones lie in the platform's user data folder, ``<kind>/*.yaml``; they come first and replace shipped ones of their name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from advisor.core.errors import BadInput
from advisor.core.recipe import LANGUAGE_TASKS, METRICS
from advisor.core.store import user_folder

KINDS = ("models", "tasks")
GROUPS = ("attention", "mlp", "other")
FIELDS = {
    "models": ("family", "model_types", "roles", "qv", "never"),
    "tasks": ("description", "task", "text_columns", "label_column", "metric", "match"),
}
LISTS = ("model_types", "qv", "never", "text_columns", "match")


class _File(Protocol):  # of a folder or of package data
    @property
    def name(self) -> str: ...
    def read_text(self, encoding: str) -> str: ...


def load_profiles(kind: str) -> dict[str, dict[str, Any]]:
    """Every profile of one kind (``models`` or ``tasks``) by file stem: own ones, then shipped ones, each in name order.

    Treat the result as read-only.

    Raises:
        BadInput: there is no such kind, or a file is not such a profile; names the file and the field.
    """
    own = {name: read_profile(kind, file, str(file)) for name, file in own_files(kind).items()}
    return {**own, **{name: profile for name, profile in _shipped(kind).items() if name not in own}}


def own_files(kind: str) -> dict[str, Path]:
    """The user's own profiles of one kind, by file stem, in name order."""
    return {file.stem: file for file in sorted(user_folder(kind).glob("*.yaml"))}


def shipped_files(kind: str) -> dict[str, Any]:
    """The shipped ones, as own_files gives them.

    Raises:
        BadInput: there is no such kind.
    """
    folder = files("profiles") / kind
    if not folder.is_dir():
        raise BadInput(f"There are no {kind!r} profiles.", "Reinstall lora-layer-advisor.")
    found = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {file.name.removesuffix(".yaml"): file for file in found if file.name.endswith(".yaml")}


@cache
def _shipped(kind: str) -> dict[str, dict[str, Any]]:
    return {name: read_profile(kind, file, f"profiles/{kind}/{file.name}") for name, file in shipped_files(kind).items()}


def read_profile(kind: str, file: _File, name: str) -> dict[str, Any]:
    """One profile, its optional fields filled in.

    Args:
        name: of the file, for messages.

    Raises:
        BadInput: it cannot be read, or a field is unknown, missing or of the wrong kind; names the file and the field.
    """
    import yaml  # here, so that the command line and the first paint do not wait for it

    hint = "See docs/profiles.md, and `advisor profiles show` for examples."
    try:
        profile = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}.", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{name} is not readable YAML: {' '.join(str(error).split())}.", hint) from error
    if not isinstance(profile, dict):
        raise BadInput(f"{name}: the top level must be fields with values.", hint)
    for field in profile:
        if field not in FIELDS[kind]:
            close = difflib.get_close_matches(str(field), FIELDS[kind], 1)
            meant = f"Did you mean {close[0]}?" if close else f"Its fields are {', '.join(FIELDS[kind])}."
            raise BadInput(f"{name}: the field {field!r} is unknown.", meant)
    profile = {"never": [], **profile} if kind == "models" else profile
    problem = next(_model_problems(profile) if kind == "models" else _task_problems(profile), None)
    if problem:
        raise BadInput(f"{name}: {problem}.", hint)
    return profile


def _missing_or_bad(profile: Mapping[str, Any], fields: Iterable[str]) -> Iterator[str]:
    for field in fields:
        value = profile.get(field)
        if field not in profile:
            yield f"the field {field} is missing"
        elif field in LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            yield f"{field} is {value!r}, not a list of names"
        elif field not in LISTS and field != "roles" and not isinstance(value, str):
            yield f"{field} is {value!r}, not a text"


def _model_problems(profile: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing_or_bad(profile, FIELDS["models"])
    roles = profile["roles"]
    if not isinstance(roles, dict) or not roles:
        yield f"roles is {roles!r}, not module names with their group/role"
    for tail, place in roles.items():
        group, _, role = str(place).partition("/")
        if not isinstance(tail, str) or group not in GROUPS or not role:
            yield f"roles: {tail!r} is {place!r}, not one of {', '.join(f'{g}/…' for g in GROUPS)}"
    known = {place.partition("/")[2] for place in roles.values()}
    for role in profile["qv"]:
        if role not in known:
            yield f"qv: {role!r} is none of the roles {', '.join(sorted(known))}"
    if not profile["model_types"]:
        yield "model_types is empty, so it would match no model"


def _task_problems(profile: Mapping[str, Any]) -> Iterator[str]:
    labelled = profile.get("task") not in LANGUAGE_TASKS
    yield from _missing_or_bad(profile, [f for f in FIELDS["tasks"] if f != "label_column" or labelled])
    if profile["task"] not in METRICS:
        yield f"task is {profile['task']!r}, not one of {', '.join(METRICS)}"
    if profile["metric"] not in METRICS[profile["task"]]:
        yield f"metric is {profile['metric']!r}, not one of {', '.join(METRICS[profile['task']])}"
    if not labelled and "label_column" in profile:
        yield f"label_column does not apply to {profile['task']}"
    for field in ("text_columns", "match"):
        if not profile[field]:
            yield f"{field} is empty"
