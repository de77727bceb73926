"""What a real run did to rows that the model should keep doing well (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from advisor.core.recipe import LANGUAGE_TASKS
from advisor.models.encode import IGNORED, EncodedRow, collate, length_bucketed
from advisor.models.forward import aligned
from advisor.models.head_input import at_read_token, first_linear, trained_first_linear
from advisor.models.load import LoadedModel

BATCH_ROWS = 8


@torch.no_grad()
def change_of(loaded: LoadedModel, trained: nn.Module, rows: Sequence[EncodedRow]) -> dict[str, float]:
    """Means over the rows: of a language model ``before`` and ``after``, the loss in nats per target token, and ``kl``; else
    ``drift``, the squared change of what the head reads as a share of its variance between the rows.

    Args:
        trained: an adapted copy of ``loaded``, in eval mode.
    """
    batches = length_bucketed([row.length for row in rows], BATCH_ROWS)
    if loaded.task in LANGUAGE_TASKS:
        found = torch.cat([_language(loaded, trained, [rows[i] for i in batch]) for batch in batches]).mean(0)
        return dict(zip(("before", "after", "kl"), found.tolist(), strict=True))
    both = [_read(loaded, trained, [rows[i] for i in batch]) for batch in batches]
    before, after = (torch.cat(parts) for parts in zip(*both, strict=True))
    variance = before.var(0, correction=0).sum()
    return {"drift": float(((after - before) ** 2).sum(1).mean() / variance)}


def _language(loaded: LoadedModel, trained: nn.Module, rows: Sequence[EncodedRow]) -> torch.Tensor:
    """Of each row loss before, after, and KL divergence, [rows, 3], means over its target tokens."""
    batch = collate(rows, loaded)
    labels = batch.pop("labels")
    logits, aimed = aligned(loaded.task, loaded.model(**batch).logits, labels)
    others, _ = aligned(loaded.task, trained(**batch).logits, labels)
    counted = aimed != IGNORED
    p, q = (functional.log_softmax(each.float(), -1) for each in (logits, others))
    index = aimed.clamp(min=0)[..., None]
    values = [-p.gather(-1, index)[..., 0], -q.gather(-1, index)[..., 0], (p.exp() * (p - q)).sum(-1)]
    return torch.stack([(v * counted).sum(1) / counted.sum(1) for v in values], 1).double().cpu()


def _read(loaded: LoadedModel, trained: nn.Module, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head reads of each row before and after, [rows, h] each."""
    batch = collate(rows, loaded)
    batch.pop("labels")
    with _inputs(first_linear(loaded)) as before:
        loaded.model(**batch)
    with _inputs(trained_first_linear(loaded, trained)) as after:
        trained(**batch)
    first, second = (at_read_token(found[0], batch, loaded.model).double().cpu() for found in (before, after))
    return first, second


@contextmanager
def _inputs(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The inputs of a layer's calls meanwhile."""
    found: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        handle.remove()
