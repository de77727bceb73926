"""SHA-256 of whole files; of large ones it is remembered in the user's cache, so that the second time costs nothing."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import platformdirs

from advisor.core.errors import BadInput
from advisor.core.reading import check_seal, sealed
from advisor.core.store import APP, read_json, write_json

REMEMBERED_FROM = 1 << 20  # bytes; smaller files are hashed each time
SETTLED = 2.0  # seconds: a file changed later than that ago may change again within the clock's resolution


def file_hash(path: Path) -> str:
    """SHA-256 of the content of ``path``.

    A remembered one counts as long as size, times of change of content and of inode, inode and device are the same.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        found = path.stat()
        mark = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
        place = _place(path)
        if found.st_size >= REMEMBERED_FROM and (known := _remembered(place, mark)) is not None:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}.", "Check the file.") from error
    latest = max(found.st_mtime, found.st_ctime)
    if found.st_size >= REMEMBERED_FROM and time.time() - latest > SETTLED:
        _remember(place, mark, digest)
    return digest


def _place(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return Path(platformdirs.user_cache_dir(APP)) / "hashes" / f"{name}.json"


def _remembered(place: Path, mark: list[int]) -> str | None:
    try:
        content = read_json(place, "remembered hash")
        check_seal(content, str(place), "")
    except BadInput:  # not there, or damaged: hash anew
        return None
    digest = content.get("sha256")
    return digest if content.get("mark") == mark and isinstance(digest, str) and "checksum" in content else None


def _remember(place: Path, mark: list[int], digest: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, sealed({"mark": mark, "sha256": digest}))
    except (OSError, BadInput):  # a full or read-only disk: it is hashed again next time
        return
