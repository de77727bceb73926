"""Sound content made odd: bytes, JSON values, tensors, files."""

from __future__ import annotations

import copy
import json
import os
import struct
from pathlib import Path
from random import Random
from typing import Any

CELLS: tuple[Any, ...] = (
    *(
        "red cat",
        "",
        " ",
        "0",
        "1",
        "-1",
        "1e308",
        "nan",
        "NaN",
        "true",
        "null",
        "é漢😀",
        "\x1b[31m",
        "a\nb",
        "\u202ex\u200b",
        "[bold]",
    ),
    *(
        '"',
        "'",
        ",",
        "\t",
        "\ud800",
        "x" * 5000,
        "9" * 400,
        0,
        1,
        -1,
        2**70,
        10**500,
        0.5,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
    ),
    *(True, False, None, [], {}, [1, 2], ["a"], {"a": 1}, [{"role": "user", "content": "x"}], [[]], b"\xff"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 7, 10**6, 10**9, 10**18, 2**63, 10**40, -(10**9), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "relu", "\x1b[31m", "../..", "a" * 3000, [], [1, 2], ["a"], {}, {"a": 1}, [[[]]], [None]),
)


def damaged(random: Random, content: bytes) -> bytes:
    """Cut off, with flipped or foreign bytes, or doubled."""
    at = random.randrange(len(content) + 1)
    kind = random.choice(["cut", "flip", "insert", "double", "nul"])
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes(b ^ (1 << random.randrange(8)) for b in content[at : at + 1]) + content[at + 1 :]
    if kind == "double":
        return content + content[at:]
    foreign = b"\0" if kind == "nul" else random.choice([b"\xff\xfe", b"[" * 3000, b"{", b'"', b"\r", "\u2028".encode(), b"NaN"])
    return content[:at] + foreign + content[at:]


def changed_json(random: Random, content: Any, times: int = 2) -> Any:
    """A few fields, at any depth, replaced, removed or added."""
    content = json.loads(json.dumps(content))
    if random.random() < 0.03:
        return random.choice(VALUES)
    for _ in range(random.randint(1, times)):
        at = content
        while isinstance(at, dict | list) and at:
            key = random.choice(list(at)) if isinstance(at, dict) else random.randrange(len(at))
            inner = at[key]
            if isinstance(inner, dict | list) and inner and random.random() < 0.6:
                at = inner
                continue
            if isinstance(at, dict) and random.random() < 0.2:
                del at[key]
            else:
                at[key] = copy.deepcopy(random.choice(VALUES))
            break
    return content


def changed_tensors(random: Random, content: bytes) -> bytes:
    """A safetensors file with tensors renamed, of another type or shape, NaN, zero, or a damaged header."""
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    names = [name for name in header if name != "__metadata__"]
    name, kind = (
        random.choice(names),
        random.choice(["rename", "drop", "dtype", "shape", "nan", "zero", "all zero", "bytes", "offset"]),
    )
    first, last = header[name]["data_offsets"]
    if kind == "rename":
        header[random.choice(["x", name + "_", "\x1b[31m", name.replace("0", "7")])] = header.pop(name)
    elif kind == "drop":
        del header[name]
    elif kind == "dtype":
        header[name]["dtype"] = random.choice(["I32", "F16", "BF16", "BOOL", "F8_E4M3", "X"])
    elif kind == "shape":
        header[name]["shape"] = random.choice([header[name]["shape"][::-1], [1], [2**40], [-1], [], "x"])
    elif kind == "nan":
        body[first:last] = struct.pack("<f", float(random.choice(["nan", "inf"]))) * ((last - first) // 4)
    elif kind in ("zero", "all zero"):
        place = slice(first, last) if kind == "zero" else slice(0, len(body))
        body[place] = bytes(len(body[place]))
    elif kind == "offset":
        header[name]["data_offsets"] = [first, last + random.choice([-4, 4, 2**40])]
    text = json.dumps(header).encode()
    made = struct.pack("<Q", len(text)) + text + bytes(body)
    return damaged(random, made) if kind == "bytes" else made


def resealed(content: Any) -> Any:
    """A JSON object with a checksum that fits what is in it now: the checks behind the checksum are tried."""
    from advisor.core.reading import CHECKSUM, sealed

    if not isinstance(content, dict) or CHECKSUM not in content:
        return content
    try:
        return sealed({key: value for key, value in content.items() if key != CHECKSUM})
    except (TypeError, ValueError, RecursionError):
        return content


def odd_file(random: Random, file: Path) -> None:
    """In place of a file: a pipe, a folder, a device, nothing, or other bytes."""
    kind = random.choice(["missing", "fifo", "folder", "empty", "zero", "garbage", "loop"])
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind in ("empty", "garbage"):
        file.write_bytes(b"" if kind == "empty" else random.randbytes(200))
