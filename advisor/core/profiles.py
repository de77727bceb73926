"""Profiles of model families and tasks: YAML shipped as package data (``profiles/<kind>``), and the user's own.

Own ones lie in the platform's user data folder, ``<kind>/*.yaml``; they come first and replace shipped ones of their name.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from advisor.core.errors import BadInput
from advisor.core.reading import parse_yaml, read_bytes
from advisor.core.store import user_folder

KINDS = ("models", "tasks")


class _File(Protocol):  # of a folder or of package data
    @property
    def name(self) -> str: ...
    def read_bytes(self) -> bytes: ...


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


def profile_text(file: _File, name: str) -> str:
    """What a profile's file holds, whatever it says.

    Args:
        name: of the file, for messages.

    Raises:
        BadInput: it cannot be read, or is not UTF-8.
    """
    try:
        text = (read_bytes(file, "profile") if isinstance(file, Path) else file.read_bytes()).decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8: byte {error.start + 1} is none of its characters.", "Save it as UTF-8.") from error
    if "\0" in text:  # UTF-16 without a byte-order mark
        raise BadInput(f"{name} is not UTF-8: it holds NUL bytes.", "Save it as UTF-8.")
    return text


def read_profile(kind: str, file: _File, name: str) -> dict[str, Any]:
    """One profile, its optional fields filled in.

    Args:
        name: of the file, for messages.

    Raises:
        BadInput: it cannot be read, or a field is unknown, missing or of the wrong kind; names the file and the field.
    """
    from advisor.core.checked import check  # here, so that the command line and the first paint do not wait for pydantic
    from advisor.core.profile_schema import ModelProfile, TaskProfile

    hint = "See docs/profiles.md, and `advisor profiles show` for examples."
    text = profile_text(file, name)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise BadInput(f"{name} is not readable YAML: {error}.", hint) from error
    if not isinstance(content, dict):
        raise BadInput(f"{name}: the top level must be fields with values.", hint)
    return check(ModelProfile if kind == "models" else TaskProfile, content, name, hint).model_dump(exclude_unset=kind == "tasks")
