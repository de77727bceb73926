"""Files that are either whole or not there, and errors that name them (no torch)."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import platformdirs

from advisor.core.errors import BadInput, NotFinite

APP = "lora-layer-advisor"
PROBE_FILE = "probe.json"  # written last: a folder that has it holds a finished probe


def user_folder(kind: str) -> Path:
    """Where the user's own data of a kind (``predictors``, ``models``, ``tasks``) lie; it need not exist."""
    return Path(platformdirs.user_data_dir(APP)) / kind


def is_probe(folder: Path) -> bool:
    """Whether ``folder`` holds a finished probe."""
    return (folder / PROBE_FILE).is_file()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8: whenever we are killed, a reader sees the old file or the whole new one.

    Raises:
        BadInput: the file cannot be written (no such folder, no permission, disk full); nothing is left.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; on leaving without an error it takes the place of ``path``.

    Without ``sync`` the file survives our being killed, but perhaps not a power failure: for what can be made anew.

    Raises:
        BadInput: the file cannot be written (no such folder, no permission, disk full); nothing is left.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            yield part
            if sync:
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written: {error.strerror}.", "Free space, or choose another place to write."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, as :func:`write_text` does.

    Raises:
        NotFinite: ``value`` holds a NaN or an infinity, which JSON has not.
        BadInput: the file cannot be written.
    """
    try:
        text = json.dumps(value, allow_nan=False, indent=1)
    except ValueError as error:
        raise NotFinite(f"{path}: not written, a number in it is not finite.") from error
    write_text(path, text + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in ``path``; ``what`` names it in messages, e.g. ``probe``.

    Raises:
        BadInput: the file is missing, unreadable, not JSON, not an object, or holds NaN or an infinity.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file, so there is no {what} to read.", "Check the path.") from error
    except OSError as error:
        raise BadInput(f"{path}: the {what} cannot be read: {error.strerror}.", "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: the {what} is damaged: {error}.", "Make the file anew.") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: the {what} is not a JSON object ({type(value).__name__}).", "Check it.")
    return value


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, for names that come from outside.

    Raises:
        BadInput: the name leads out of ``folder`` (``..``, absolute, a symbolic link) or names no file.
    """
    path, root = folder / name, folder.resolve()
    if "\0" not in name:
        resolved = path.resolve()
        if resolved != root and resolved.is_relative_to(root):
            return path
    raise BadInput(f"{name!r} is not the name of a file inside {folder}.", "Use a plain file name.")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
