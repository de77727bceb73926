"""Reference rows beside the training rows of a probe: cross blocks between their gradients (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from advisor.models.encode import IGNORED, EncodedRow, collate, length_bucketed
from advisor.models.forward import aligned
from advisor.models.load import LoadedModel

ROWS_AT_ONCE = 16


def target_tokens(row: EncodedRow) -> int:
    """Tokens that a causal language model's row has a loss on."""
    return sum(label != IGNORED for label in row.token_labels[1:])  # the first token is never predicted


@torch.no_grad()
def with_sampled_targets(loaded: LoadedModel, rows: Sequence[EncodedRow], seed: int) -> list[EncodedRow]:
    """The same rows of a causal language model, every target token drawn from what the model predicts there; what it reads
    stays. Their loss gradients are score gradients: their outer product has the Fisher matrix as its expectation."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[EncodedRow] = list(rows)
    for indices in length_bucketed([row.length for row in rows], ROWS_AT_ONCE):
        batch = collate([rows[i] for i in indices], loaded)
        labels = batch.pop("labels")
        logits, _ = aligned(loaded.task, loaded.model(**batch).logits, labels)
        probabilities = torch.softmax(logits.float(), -1).cpu()
        for i, of_row in zip(indices, probabilities, strict=True):
            wanted = [t for t, label in enumerate(rows[i].token_labels) if t and label != IGNORED]
            tokens = torch.multinomial(of_row[[t - 1 for t in wanted]], 1, generator=generator)[:, 0].tolist()
            sampled = dict(zip(wanted, tokens, strict=True))
            drawn[i] = replace(rows[i], token_labels=tuple(sampled.get(t, IGNORED) for t in range(len(rows[i].token_labels))))
    return drawn
