"""Reference rows beside the training rows of a probe: score rows, and what is kept of all rows' blocks (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from advisor.core.events import Session
from advisor.core.probe import KeepBlocks
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.forward import aligned
from advisor.models.load import LoadedModel
from advisor.probing.capture import fewer_rows


def target_tokens(row: EncodedRow) -> int:
    """Tokens that a causal language model's row has a loss on."""
    return sum(label != IGNORED for label in row.token_labels[1:])  # the first token is never predicted


@torch.no_grad()
def with_sampled_targets(loaded: LoadedModel, rows: Sequence[EncodedRow], seed: int, session: Session) -> list[EncodedRow]:
    """The same rows of a causal language model, every target token drawn from what the model predicts there; what it reads
    stays. Their loss gradients are score gradients: their outer product has the Fisher matrix as its expectation. A row whose
    outputs are not finite stays as it is: the passes over it will name the module.

    Raises:
        OutOfMemory: one row does not fit. Interrupted: cancelled.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for row in rows:
        session.check()
        batch = collate([row], loaded)
        labels = batch.pop("labels")
        places = [t for t, label in enumerate(row.token_labels) if t and label != IGNORED]
        try:
            logits, _ = aligned(loaded.task, loaded.model(**batch).logits, labels)
            probabilities = torch.softmax(logits[0, [t - 1 for t in places]].float(), -1).cpu()
        except (MemoryError, RuntimeError) as error:
            fewer_rows(error, 1, row.length, session)
            raise
        if not bool(torch.isfinite(probabilities).all()):
            drawn.append(row)
            continue
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
