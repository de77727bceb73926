"""What a row of texts to be embedded adds to the gradient of the losses of its batch (docs/design.md 2.2).

The loss L of a batch depends on all its rows. With G = ∂L/∂E at the start, constant, the gradient of ⟨E_i(θ), G_i⟩ summed over a
row's own texts is exactly what that row adds to ∇L; summed over rows it is ∇L itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from advisor.core.events import Session, Stage
from advisor.core.tasks import EMBEDDING
from advisor.models.embedding import batches_of, contrast_losses
from advisor.models.encode import EncodedRow, collate
from advisor.models.forward import logits_of, passing
from advisor.models.load import LoadedModel
from advisor.probing.capture import fewer_rows

ROWS_AT_ONCE = 32


def with_pulls(loaded: LoadedModel, rows: Sequence[EncodedRow], seed: int, session: Session) -> list[EncodedRow]:
    """The rows with what :attr:`EncodedRow.pulls` holds, of batches drawn with ``seed``; rows of another task as they are.

    Raises:
        OutOfMemory: one row does not fit.
    """
    if loaded.task != EMBEDDING:
        return list(rows)
    embeddings = _embeddings(loaded, rows, session).double()
    made = list(rows)
    for batch in batches_of(len(rows), seed):
        own = embeddings[batch].requires_grad_(True)
        losses = contrast_losses(own)
        (slopes,) = torch.autograd.grad(losses.sum(), own)
        for i, slope, loss in zip(batch, slopes, losses.detach(), strict=True):
            made[i] = replace(rows[i], pulls=np.hstack([slope.numpy(), np.full((len(slope), 1), float(loss))]))
    return made


@torch.no_grad()
def _embeddings(loaded: LoadedModel, rows: Sequence[EncodedRow], session: Session) -> torch.Tensor:
    """[rows, texts, h], on the CPU."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].length, i))
    found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    start, most = 0, loaded.at_once(ROWS_AT_ONCE)
    stage = Stage(session, "Embeddings (rows)", len(rows))
    while start < len(order):
        session.check()
        indices = order[start : start + most]
        batch = collate([rows[i] for i in indices], loaded)
        shape = batch.pop("labels").shape
        try:
            with passing(loaded, [rows[i] for i in indices]):
                embedded = logits_of(loaded, loaded.model(**batch), batch)
        except (MemoryError, RuntimeError) as error:
            most = fewer_rows(error, len(indices), rows[indices[-1]].length, session)
            continue
        for i, texts in zip(indices, embedded.view(*shape, -1).cpu(), strict=True):
            found[i] = texts
        stage.advance(units=len(indices))
        start += len(indices)
    return torch.stack(found)
