"""Parts of an unfinished probe: tensors in a file with a checksum, so that a resumed probe knows what is whole."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

CHECKSUM = "crc32"  # its place in a file's metadata


def save_part(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors of a part of a probe with a checksum of all they hold."""
    save_file(dict(tensors), path, metadata={**metadata, CHECKSUM: _checksum(tensors, metadata)})


def is_whole(path: Path) -> bool:
    """Whether a part is as :func:`save_part` wrote it."""
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            written = metadata.pop(CHECKSUM, "")
            return bool(written == _checksum({key: file.get_tensor(key) for key in file.keys()}, metadata))  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError):
        return False


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32: it finds what a broken disk or an ended process did, which is all that a part has to fear."""
    found = zlib.crc32(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
