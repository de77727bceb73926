"""Reading files: only regular ones of a bounded size; JSON, YAML, and checksums of what we wrote ourselves (no torch)."""

from __future__ import annotations

import hashlib
import json
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from advisor.core.errors import BadInput
from advisor.core.text import printable

MOST_BYTES = 256 << 20  # of any file of text that is read whole
MOST_YAML_BYTES = 4 << 20
MOST_YAML_VALUES = 100_000  # with aliases written out
CHECKSUM = "checksum"


def read_bytes(path: Path, what: str, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file; ``what`` names it in messages, e.g. ``probe``.

    Raises:
        BadInput: the file is missing, unreadable, a folder, pipe or device, or larger than ``most`` bytes.
    """
    size = check_regular(path, what)
    if size > most:
        raise BadInput(f"{path}: the {what} has {size:,} bytes; at most {most:,} are read.", "Check the path.")
    if size == 0:  # an empty file, or one of the kernel's, such as /proc/kmsg, whose reading may never end
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: the {what} cannot be read: {error.strerror}.", "Check the path.") from error


def check_regular(path: Path, what: str) -> int:
    """The size of a regular file in bytes; to be called before anything opens it, as opening a pipe never ends.

    Raises:
        BadInput: the file is missing, or a folder, pipe or device.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadInput(f"{path}: this is not a regular file, so the {what} is not read.", "Give a file.")
        return found.st_size
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file, so there is no {what} to read.", "Check the path.") from error
    except OSError as error:
        raise BadInput(f"{path}: the {what} cannot be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:  # a null character in the path
        raise BadInput(f"{str(path)!r}: not the name of a file.", "Check the path.") from error


def parse_json(data: bytes | str, where: str, what: str, hint: str = "Copy the file anew.", *, constants: bool = False) -> Any:
    """The value in ``data``, as :func:`load_json` gives it.

    Raises:
        BadInput: it is no JSON, or has a key twice; says where.
    """
    try:
        return load_json(data, constants=constants)
    except RecursionError as error:
        raise BadInput(f"{where}: the {what} is damaged: it is nested too deeply.", hint) from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{where}: the {what} is damaged: {reason}.", hint) from error


def load_json(data: bytes | str, *, constants: bool = False) -> Any:
    """The value in ``data``; NaN and infinities, which JSON has not, are refused unless ``constants`` lets them pass, for a
    check that names the field.

    Raises:
        ValueError: it is no JSON, or an object has a key twice. RecursionError: it is nested too deeply.
    """
    return json.loads(data, parse_constant=None if constants else _refuse_constant, object_pairs_hook=_object)


def parse_yaml(data: bytes | str) -> Any:
    """The one document in ``data``, by PyYAML's safe loader.

    Raises:
        ValueError: it is no YAML, a mapping has a key twice, or it is too large once its aliases are written out; the message
            is one line.
    """
    import yaml  # here, so that the command line and the first paint do not wait for it

    if len(data) > MOST_YAML_BYTES:
        raise ValueError(f"it has {len(data):,} bytes; at most {MOST_YAML_BYTES:,} are read")
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_YAML_VALUES:
            raise ValueError(f"it holds more than {MOST_YAML_VALUES:,} values once its aliases are written out")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply, or an alias holds itself") from error


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node holds, each alias counted as what it stands for.

    Raises:
        ValueError: a mapping in it has a key twice. RecursionError: it is nested too deeply, or holds itself.
    """
    if id(node) not in known:
        check_once([str(key.value) for key, _ in node.value] if node.id == "mapping" else [])
        parts = node.value if isinstance(node.value, list) else []
        flat = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in flat)
    return known[id(node)]


def checksum(content: Mapping[str, Any], under: str = CHECKSUM) -> str:
    """SHA-256 of a JSON object without the field that holds it, whatever the order of the fields."""
    rest = {key: value for key, value in content.items() if key != under}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum, which :func:`check_seal` looks at when the object is read back."""
    return {**content, CHECKSUM: checksum(content)}


def check_seal(content: Mapping[str, Any], where: str, hint: str) -> None:
    """Files of older versions have no checksum and pass.

    Raises:
        BadInput: the content is not what was written, or the very name of the checksum is damaged.
    """
    if CHECKSUM in content:
        intact = content[CHECKSUM] == checksum(content)
    else:
        suspects = [name for name, value in content.items() if isinstance(value, str) and len(value) == 64]
        intact = all(content[name] != checksum(content, name) for name in suspects)
    if not intact:
        raise BadInput(f"{where}: {CHECKSUM} does not match the content, so the file is damaged or was edited.", hint)


def refuse_newer(content: Mapping[str, Any], known: int, where: str) -> None:
    """What a newer version wrote is sound, and nothing to be deleted; ``known`` is the latest ``schema`` of this one.

    Raises:
        BadInput: its schema is a later one.
    """
    schema = content.get("schema")
    if type(schema) is int and schema > known:
        raise BadInput(f"{where}: a newer version of the advisor wrote it.", "Update this one.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        check_once([key for key, _ in pairs], [json.dumps(value, ensure_ascii=False) for _, value in pairs])
    return found


def check_once(keys: Sequence[str], values: Sequence[str] = ()) -> None:
    """``values``: those of the keys, as they are to be shown.

    Raises:
        ValueError: a key is there twice, so that one of its values would be lost.
    """
    if len(set(keys)) < len(keys):
        (twice, _), *_ = Counter(keys).most_common(1)
        both = [printable(value, 60) for key, value in zip(keys, values, strict=False) if key == twice]
        told = f", with {both[0]} and {both[1]}" if both else ""
        raise ValueError(f"the key {twice[:60]!r} is there twice{told}")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
