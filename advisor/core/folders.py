"""Folders that we write to: one process at a time, all files of a result or none, never over what is the user's (no torch)."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.store import read_json, write_json, write_text, writing
from advisor.core.text import printable

LOCK_FILE = ".advisor.lock"
WRITTEN_FILE = ".advisor.json"  # names of the files that we wrote into the folder, with the hashes of what we wrote
WRITTEN_SCHEMA = 1
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf"}  # beside a config.json: those of a model
NEW_FOLDER = ".advisor-new"  # files that are not all written yet
PATIENCE_S = 24 * 3600.0
MOST_SHOWN = 300  # characters of a path that no folder can have
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def locked(folder: Path, session: Session) -> Iterator[None]:
    """Make ``folder`` if need be, and keep other processes out; wait for one that is in there, which a note says.

    Reading needs no lock. A process that is killed leaves the lock file, which then locks nothing.

    Raises:
        BadInput: the folder cannot be made or written to, holds a model, or another process has been in there for a day.
        Interrupted: cancelled while waiting.
    """
    _refuse_other(folder)
    path = folder / LOCK_FILE
    lock = FileLock(path)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _acquire(lock, folder, session)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            session.warn(f"{folder}: this file system has no locks. Let no two commands write there at the same time.")
    try:
        if lock.is_locked:
            with suppress(OSError):
                path.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                path.unlink()  # those who wait see that the file has gone, and make another
        lock.release()


def sweep(folder: Path, *left: str) -> None:
    """Remove what a process that was killed left in a finished ``folder``: subfolders of these names, its lock file.

    Nothing happens while another process is in there, or where we may not write.
    """
    if not any((folder / name).exists() for name in (*left, LOCK_FILE)):
        return
    with suppress(OSError, Timeout), FileLock(folder / LOCK_FILE, timeout=0):
        for name in left:
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / LOCK_FILE).unlink()


def _acquire(lock: FileLock, folder: Path, session: Session) -> None:
    for tried in range(int(PATIENCE_S)):
        try:
            lock.acquire(timeout=0 if tried == 0 else 1.0)
            return
        except Timeout:
            session.check()
        if tried == 0:
            session.note(f"{folder}: {_holder(folder)} writes there; waiting until it has finished.")
    raise BadInput(f"{folder}: {_holder(folder)} has been writing there for a day.", "Stop it, or choose another folder.")


def _holder(folder: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if text := (folder / LOCK_FILE).read_text(encoding="utf-8")[:100]:
            return f"process {text}" if text.isprintable() else "another process"
    return "another process"


def write_files(
    folder: Path, files: Mapping[str, str], session: Session, *, only: bool = False, last: str = "", overwrite: bool = False
) -> list[Path]:
    """Write texts by their names into ``folder``. Whenever we are killed, all the old files are there, or all the new ones,
    or the file ``last`` is missing; the next call then puts it right. Files that we did not write stay as they are.

    Args:
        only: remove what we wrote there before and is not among ``files``, unless it was changed since.
        last: the file that is removed first and written last, so that a folder that has it is whole.
        overwrite: replace files of the user too.

    Raises:
        BadInput: a file is there that we did not write or that was changed since, or the folder cannot be written.
    """
    new = folder / NEW_FOLDER
    names = sorted(files, key=lambda name: name == last)
    mine = {name: [_hash(text.encode())] for name, text in files.items()}
    with locked(folder, session):
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        if not overwrite:
            require_ours(folder, names)
        before = _written(folder)
        try:
            with writing(folder):
                new.mkdir()
                for name in names:
                    write_text(new / name, files[name])
                _save_written(folder, {name: before.get(name, []) + mine.get(name, []) for name in {*before, *mine}})
                if last:
                    (folder / last).unlink(missing_ok=True)
                for name in before.keys() - mine.keys() if only else ():
                    if _is_ours(folder / name, before[name]):
                        (folder / name).unlink()
                for name in names:
                    os.replace(new / name, folder / name)
            with suppress(BadInput):  # no room: the longer list does as well
                _save_written(folder, {**({} if only else before), **mine})
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return [folder / name for name in files]


def _refuse_other(folder: Path) -> None:
    """Raises:
    BadInput: ``folder`` is a file or cannot be there, or holds a model or an adapter's weights, which files of ours would make
        something else of.
    """
    try:
        there = bool(os.lstat(folder))
    except FileNotFoundError:
        there = False
    except (OSError, ValueError) as error:  # too long, below a file, no text that names one
        raise BadInput(
            f"{printable(str(folder), MOST_SHOWN)}: no folder can be there ({getattr(error, 'strerror', None) or error}).",
            "Choose another --out.",
        ) from None
    if there and not folder.is_dir():
        raise BadInput(f"{folder}: this is no folder.", "Choose another --out.")
    if (folder / "config.json").exists() and any(path.suffix in WEIGHTS for path in folder.glob("*")):
        raise BadInput(f"{folder}: this folder holds a model.", "Choose another --out.")
    if any(folder.glob("adapter_model.*")):
        raise BadInput(f"{folder}: this folder holds a trained adapter's weights.", "Choose another --out.")


def require_ours(folder: Path, names: Sequence[str]) -> None:
    """Check that writing files of these names replaces nothing of the user's, nor lies in a model's folder.

    Raises:
        BadInput: names the first file that we did not write, or that was changed since; or the folder holds a model.
    """
    _refuse_other(folder)
    written = _written(folder)
    for name in names:
        path = folder / name
        if os.path.lexists(path) and not _is_ours(path, written.get(name, [])):
            why = "was changed since `advisor` wrote it" if name in written else "is there already, and not by `advisor`"
            raise BadInput(f"{path}: {why}.", "Move it away, or choose another --out.")


def _written(folder: Path) -> dict[str, list[str]]:
    """Hashes of what we wrote, by the names of files; more than one where we were killed in between."""
    path = folder / WRITTEN_FILE
    if not path.exists():
        return {}
    try:
        files = read_json(path, "list of written files")["files"]
        return {name: [str(each) for each in hashes] for name, hashes in files.items() if Path(name).name == name}
    except (BadInput, KeyError, TypeError, AttributeError):
        return {}  # a damaged list: nothing is ours


def _save_written(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    whole = folder / NEW_FOLDER / WRITTEN_FILE
    write_json(whole, {"schema": WRITTEN_SCHEMA, "files": dict(sorted(files.items()))})
    with writing(folder):
        os.replace(whole, folder / WRITTEN_FILE)


def _is_ours(path: Path, hashes: Sequence[str]) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and _hash(path.read_bytes()) in hashes
    except OSError:
        return False


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
