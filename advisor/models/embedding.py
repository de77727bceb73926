"""Embeddings of texts and what contrasts them, by the rules of sentence-transformers (docs/design.md 2.2).

The loss of a row is that of MultipleNegativesRankingLoss (InfoNCE): the cross-entropy of its positive among the positives and
negatives of all rows of its batch, by ``SCALE``·cosine with its anchor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.utils.hub import cached_file

from advisor.core.errors import BadInput
from advisor.core.reading import parse_json, read_bytes
from advisor.core.tasks import SCALE
from advisor.core.text import printable

TOGETHER = 32  # rows that are contrasted with one another in a probe and in an evaluation, at most
POOLINGS = {"mean": "the mean of its tokens", "cls": "its first token", "lasttoken": "its last token"}
OTHER_NAMES = {"cls_token": "cls", "mean_tokens": "mean", "mean_sqrt_len_tokens": "mean"}  # the last one: of the same cosines
FOLDER = re.compile(r"\w+_Pooling")  # of the pooling's file, which the model's fingerprint covers
FLAG = "pooling_mode_"  # of older files
KNOWN = ("Transformer", "Pooling", "Normalize")  # modules of sentence-transformers; cosines do not see the last one


def pooling_of(name: str, options: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Which of ``POOLINGS`` sentence-transformers has for a model folder or hub id, ``mean`` where nothing is said; and a
    sentence on its modules that are left out, if there are any.

    Args:
        options: those of ``from_pretrained``.

    Raises:
        BadInput: it pools in another way, or its files are damaged.
    """
    listed = _read(name, "modules.json", options)
    modules = [module for module in listed if isinstance(module, dict)] if isinstance(listed, list) else []
    kinds = {str(module.get("type", "")).rsplit(".", 1)[-1]: str(module.get("path", "")) for module in modules}
    left = " and ".join(kind for kind in kinds if kind not in KNOWN)
    notes = [f"sentence-transformers puts {left} behind this model, which AutoModel lacks: left out here."] if left else []
    folder = kinds.get("Pooling", "")
    if folder and not FOLDER.fullmatch(folder):
        raise BadInput(f"{name}: modules.json names {printable(folder, 80)} for the pooling.", "Name a folder like 1_Pooling.")
    found = _read(name, f"{folder}/config.json", options) if folder else {}
    fields = found if isinstance(found, dict) else {}
    said = fields.get("pooling_mode") or [
        key.removeprefix(FLAG) for key in fields if key.startswith(FLAG) and fields[key] is True
    ]
    modes = [OTHER_NAMES.get(str(mode), str(mode)) for mode in (said if isinstance(said, list) else [said])] or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise BadInput(
            f"{name}: sentence-transformers pools it by {' and '.join(modes)[:80]}, which is not covered.",
            f"Use a model with one of: {', '.join(POOLINGS)}.",
        )
    return modes[0], notes


def _read(name: str, file: str, options: Mapping[str, Any]) -> Any:
    """What a JSON file of a model folder or hub id holds; None where there is none."""
    if Path(name).is_dir():
        path: str | None = str(Path(name) / file) if (Path(name) / file).is_file() else None
    else:
        path = cached_file(
            name,
            file,
            revision=options.get("revision"),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return None if path is None else parse_json(read_bytes(Path(path), file), path, file)


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Embeddings [texts, h] of a model's last states [texts, tokens, h], padded on the right as ``mask`` says."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    if pooling == "cls":
        return states[:, 0]
    count = mask.sum(1)
    if pooling == "lasttoken":
        return states[torch.arange(len(states), device=states.device), count.to(states.device) - 1]
    return (states * mask[..., None].to(states)).sum(1) / count[:, None].to(states)


def scores(embeddings: torch.Tensor) -> torch.Tensor:
    """``SCALE``·cosine of each row's anchor with all positives, then all negatives: [rows, texts·rows], the own positive on the
    diagonal.

    Args:
        embeddings: [rows, 1 + texts, h] of the anchors, positives and negatives of the rows of a batch.
    """
    unit = functional.normalize(embeddings, dim=-1)
    return SCALE * unit[:, 0] @ unit[:, 1:].transpose(0, 1).flatten(0, 1).T


def contrast_losses(embeddings: torch.Tensor) -> torch.Tensor:
    """The loss of each row of a batch [rows], from what :func:`scores` takes."""
    found = scores(embeddings)
    return functional.cross_entropy(found, torch.arange(len(found), device=found.device), reduction="none")


def leads(embeddings: torch.Tensor) -> torch.Tensor:
    """By how much each row's positive is ahead of the nearest other text [rows]; below 0 it is not found first."""
    found = scores(embeddings)
    own = found.diagonal()
    others = found.masked_fill(torch.eye(*found.shape, dtype=torch.bool, device=found.device), -torch.inf)
    return own - others.max(1).values


def batches_of(rows: int, seed: int) -> list[np.ndarray]:
    """Indices of the rows that are contrasted with one another: drawn once, in batches of nearly the same size, ``TOGETHER`` at
    most."""
    return np.array_split(np.random.default_rng(seed).permutation(rows), math.ceil(rows / TOGETHER))
