"""Parts of an unfinished probe: tensors in a file with a checksum, so that a resumed probe knows what is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def save_part(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors of a part of a probe with a checksum of all they hold."""
    save_file(dict(tensors), path, metadata={**metadata, "sha256": _digest(tensors, metadata)})


def is_whole(path: Path) -> bool:
    """Whether a part is as :func:`save_part` wrote it."""
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            written = metadata.pop("sha256", "")
            return bool(written == _digest({key: file.get_tensor(key) for key in file.keys()}, metadata))  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError):
        return False


def _digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
