"""Files that are either whole or not there, and errors that name them (no torch)."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError

from advisor.core.errors import BadInput, NotFinite
from advisor.core.reading import parse_json, read_bytes

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
    content = text.encode()
    with replacing(path, needed=len(content)) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, sync: bool = True, needed: int | None = None) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; on leaving without an error it takes the place of ``path``.

    What a process that was killed left of the same file is removed.

    Args:
        sync: without, the file survives our being killed, but perhaps not a power failure: for what can be made anew.
        needed: bytes to be written, for the error where the disk is full.

    Raises:
        BadInput: the file cannot be written (no such folder, no permission, disk full); nothing is left.
    """
    part = part_of(path)
    with writing(path, needed):
        try:
            part.touch(exist_ok=False)
            mode = part.stat().st_mode & 0o777  # as the umask says, whatever a library makes of it
            yield part
            part.chmod(mode)
            if sync:
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A free name beside ``path`` for what is not whole yet; parts of ``path`` whose process is dead are removed."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    for old in path.parent.glob(f".{glob.escape(path.name)}.{host}-*.part"):
        import psutil  # rarely needed, and not free

        pid = old.name.split("-")[-2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}.part")


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Errors of writing the file or folder ``path`` name it; a full disk is said in bytes.

    Raises:
        BadInput: in place of an OSError or a SafetensorError.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason, hint = getattr(error, "strerror", None) or " ".join(str(error).split()), "Choose another place to write."
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in reason:
            reason, hint = os.strerror(errno.ENOSPC), "Free space, or choose another place to write."
            with suppress(OSError):
                free = shutil.disk_usage(next(each for each in (path, *path.parents) if each.is_dir())).free
                wanted = "" if needed is None else f"{needed:,} bytes are needed, "
                reason += f": {wanted}{free:,} bytes are free"
        raise BadInput(f"{path}: cannot be written: {reason}.", hint) from error


def json_text(value: Any, path: Path) -> str:
    """``value`` as the JSON that ``path`` is to hold.

    Raises:
        NotFinite: ``value`` holds a NaN or an infinity, which JSON has not.
    """
    try:
        return json.dumps(value, allow_nan=False, indent=1) + "\n"
    except ValueError as error:
        raise NotFinite(f"{path}: not written, a number in it is not finite.") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, as :func:`write_text` does.

    Raises:
        NotFinite: ``value`` holds a NaN or an infinity.
        BadInput: the file cannot be written.
    """
    write_text(path, json_text(value, path))


def read_json(path: Path, what: str, hint: str = "Delete it and run again the command that wrote it.") -> dict[str, Any]:
    """The JSON object in ``path``; ``what`` names it in messages, e.g. ``probe``, and ``hint`` says what to do if it is damaged.

    Raises:
        BadInput: the file is missing, unreadable, not JSON, not an object, or holds NaN or an infinity.
    """
    value = parse_json(read_bytes(path, what), str(path), what, hint)
    if not isinstance(value, dict):
        raise BadInput(f"{path}: the {what} is not a JSON object ({type(value).__name__}).", hint)
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
