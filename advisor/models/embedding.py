"""Embeddings of texts and what contrasts them, by the rules of sentence-transformers (docs/design.md 2.2).

The loss of a row is that of MultipleNegativesRankingLoss (InfoNCE): the cross-entropy of its positive among the positives and
negatives of all rows of its batch, by ``SCALE``·cosine with its anchor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
CONFIGS = tuple(  # the first one that is there counts
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
KNOWN = ("Transformer", "Pooling", "Normalize")  # modules of sentence-transformers; cosines do not see the last one


@dataclass(frozen=True)
class Embedder:
    """What sentence-transformers says of a model.

    Attributes:
        pooling: which of ``POOLINGS``; ``mean`` where nothing is said.
        max_length: tokens that it cuts a text at; None where nothing is said.
        notes: a sentence on each thing that is not done here as it does it. left_out: those of them on modules left out.
    """

    pooling: str = "mean"
    max_length: int | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def embedder_of(name: str, options: Mapping[str, Any]) -> Embedder:
    """What sentence-transformers says of a model folder or hub id.

    Args:
        options: those of ``from_pretrained``.

    Raises:
        BadInput: it pools in another way, or its files are damaged.
    """
    kinds = _modules(name, options)
    folder = kinds.get("Pooling", "")
    if folder and not FOLDER.fullmatch(folder):
        raise BadInput(f"{name}: modules.json names {printable(folder, 80)} for the pooling.", "Name a folder like 1_Pooling.")
    fields = _fields(name, f"{folder}/config.json", options) if folder else {}
    said = fields.get("pooling_mode") or [
        key.removeprefix(FLAG) for key in fields if key.startswith(FLAG) and fields[key] is True
    ]
    modes = [OTHER_NAMES.get(str(mode), str(mode)) for mode in (said if isinstance(said, list) else [said])] or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise BadInput(
            f"{name}: sentence-transformers pools it by {' and '.join(modes)[:80]}, which is not covered.",
            f"Use a model with one of: {', '.join(POOLINGS)}.",
        )
    left_out = []
    if left := " and ".join(kind for kind in kinds if kind not in KNOWN):
        left_out.append(f"sentence-transformers puts {left} behind this model, which AutoModel lacks: left out here.")
    notes = [*left_out]
    if prompts := _prompts(name, options):
        notes.append(
            f"sentence-transformers has prompts for it ({prompts}), and trains without them unless its argument `prompts` names "
            "some. None is put before texts here: write those that you train with into the rows."
        )
    if _config(name, kinds, options).get("do_lower_case") is True:
        notes.append("sentence-transformers lower-cases texts for it, which is not done here: write the rows in lower case.")
    return Embedder(modes[0], longest_text(name, options), tuple(notes), tuple(left_out))


def longest_text(name: str, options: Mapping[str, Any]) -> int | None:
    """Tokens at which sentence-transformers cuts texts for a model folder or hub id; None where its files do not say.

    Raises:
        BadInput: its files are damaged.
    """
    found = _config(name, _modules(name, options), options).get("max_seq_length")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 2:
        raise BadInput(f"{name}: max_seq_length of {CONFIGS[0]} is {printable(repr(found), 80)}.", "Write a number of tokens.")
    return found


def _modules(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The kinds of modules that sentence-transformers makes of the model, each with its folder."""
    listed = _read(name, "modules.json", options)
    modules = [module for module in listed if isinstance(module, dict)] if isinstance(listed, list) else []
    return {str(module.get("type", "")).rsplit(".", 1)[-1]: str(module.get("path", "")) for module in modules}


def _config(name: str, kinds: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the model's own config for sentence-transformers, which looks there where modules.json names one."""
    found = (_fields(name, file, options) for file in CONFIGS) if "Transformer" in kinds else ()
    return next((fields for fields in found if fields), {})


def _prompts(name: str, options: Mapping[str, Any]) -> str:
    """Its prompts that are not empty, and which one is put before texts by default."""
    fields = _fields(name, "config_sentence_transformers.json", options)
    prompts, usual = fields.get("prompts"), fields.get("default_prompt_name")
    named = prompts.items() if isinstance(prompts, dict) else ()
    shown = [f"{key}: {str(text)[:40]!r}{' by default' if key == usual else ''}" for key, text in named if text]
    return printable(", ".join(shown[:4]) + (", …" if len(shown) > 4 else ""), 240)


def _fields(name: str, file: str, options: Mapping[str, Any]) -> dict[str, Any]:
    found = _read(name, file, options)
    return found if isinstance(found, dict) else {}


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
