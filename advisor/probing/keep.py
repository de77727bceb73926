"""Reference rows beside the training rows of a probe: score rows, and what is kept of all rows' blocks (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from advisor.core.probe import KeepBlocks
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.forward import aligned
from advisor.models.load import LoadedModel


def target_tokens(row: EncodedRow) -> int:
    """Tokens that a causal language model's row has a loss on."""
    return sum(label != IGNORED for label in row.token_labels[1:])  # the first token is never predicted


@torch.no_grad()
def with_sampled_targets(loaded: LoadedModel, rows: Sequence[EncodedRow], seed: int) -> list[EncodedRow]:
    """The same rows of a causal language model, every target token drawn from what the model predicts there; what it reads
    stays. Their loss gradients are score gradients: their outer product has the Fisher matrix as its expectation."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for row in rows:
        batch = collate([row], loaded)
        labels = batch.pop("labels")
        logits, _ = aligned(loaded.task, loaded.model(**batch).logits, labels)
        places = [t for t, label in enumerate(row.token_labels) if t and label != IGNORED]
        probabilities = torch.softmax(logits[0, [t - 1 for t in places]].float(), -1).cpu()
        tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
        sampled = dict(zip(places, tokens, strict=True))
        drawn.append(replace(row, token_labels=tuple(sampled.get(t, IGNORED) for t in range(len(row.token_labels)))))
    return drawn


def keep_blocks(gradient: np.ndarray, losses: np.ndarray, rows: Sequence[EncodedRow], train: int, kept: int) -> KeepBlocks:
    """From blocks G of all ``rows``: ``train`` training rows, ``kept`` reference rows, then as many score rows.

    Args:
        gradient: [M, N, N]. losses: [N] at θ0.
    """
    scores = slice(train + kept, train + 2 * kept)
    return KeepBlocks(
        loss=np.ascontiguousarray(gradient[:, train : train + kept, :train]),
        score=np.ascontiguousarray(gradient[:, scores, :train]),
        energies=np.ascontiguousarray(np.einsum("mii->mi", gradient)[:, scores]),
        losses=losses[train : train + kept],
        tokens=np.array([target_tokens(row) for row in rows[scores]], dtype=np.float64),
    )
