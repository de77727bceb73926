"""What a run that trains the head alone ends at, where the head has linear layers before its last (docs/design.md 2.4).

PEFT trains such a head in full. From 128 examples the simulation does not see how fast it learns, so it is really trained: on
what it reads of the frozen model, by the recipe's own optimizer, held out by folds. The matrices are small, so it takes seconds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from advisor.core.events import Session, Stage
from advisor.core.probe import stratified_folds
from advisor.core.recipe import TrainingRecipe, default_recipe
from advisor.models.descent import descent
from advisor.models.encode import EncodedRow, collate
from advisor.models.forward import batch_loss, logits_of
from advisor.models.load import LoadedModel

RATES = tuple(1e-4 * 10 ** (k / 2) for k in range(4))
MOST_ROWS = 1024
CHECKED = 4  # rows on which the head by itself must give what the whole model gives
AGREES = 1e-2  # of the largest logit


@dataclass(frozen=True)
class HeadRun:
    """A run that trained the head alone: ``loss`` held out at its best epoch (nats, or squared error of standardised values);
    ``travel``: learning rate times steps."""

    travel: float
    loss: float


class _Below(nn.Module):
    """Stands in for all of a model below its head: its output are ``states`` [rows, 1, h] that were computed before."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.states = torch.empty(0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.kind(last_hidden_state=self.states)


def train_head_alone(
    loaded: LoadedModel, features: np.ndarray, rows: Sequence[EncodedRow], scale: tuple[float, float], session: Session
) -> list[HeadRun]:
    """Train the head alone at :data:`RATES`, lowest first; none where the head cannot be run without the model below it, or where
    there are too few rows to hold some out. A rate at which it diverges is left out.

    Args:
        features: [rows, h] what the head's first linear layer reads, empty where it reads nothing.
        scale: mean and standard deviation of a regressor's labels.

    Raises:
        Interrupted: cancelled.
    """
    if len(rows) > MOST_ROWS:
        some = np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)
        features, rows = features[some], [rows[i] for i in some]
    folds = stratified_folds(np.array([row.label for row in rows]), seed=0)
    head = _head_of(loaded, features, rows, scale) if len(features) == len(rows) and folds.any() else None
    if head is None:
        return []
    states = torch.from_numpy(features).float().to(loaded.device)[:, None]
    values = torch.tensor([(row.label - scale[0]) / scale[1] for row in rows], dtype=torch.float32)
    labels = (torch.tensor([row.label for row in rows]).long() if loaded.task == "classification" else values).to(loaded.device)
    recipe = default_recipe(loaded.task)
    steps = recipe.epochs * math.ceil(len(rows) / recipe.batch_size)
    stage = Stage(session, "Head alone (runs)", len(RATES) * len(np.unique(folds)))
    runs = []
    for lr in RATES:
        curves = []
        for fold in np.unique(folds):
            inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            curves.append(
                _curve(loaded, head, states, labels, inside, outside, replace(recipe, lr=lr), steps, int(fold), session)
            )
            stage.advance()
        lowest = float(np.nan_to_num(np.mean(curves, axis=0), nan=math.inf).min())
        if math.isfinite(lowest):
            runs.append(HeadRun(lr * steps, lowest))
    return runs


def _head_of(
    loaded: LoadedModel, features: np.ndarray, rows: Sequence[EncodedRow], scale: tuple[float, float]
) -> nn.Module | None:
    """A float32 copy of the model with :class:`_Below` in the place of all below the head; None where its logits are others."""
    model: Any = loaded.model
    name = model.base_model_prefix
    below = getattr(model, name, None)
    if not isinstance(below, nn.Module) or below is model:
        return None
    kinds: list[type] = []
    handle = below.register_forward_hook(lambda module, inputs, output: kinds.append(type(output)))
    batch = collate(rows[:CHECKED], loaded, *scale)
    del batch["labels"]
    try:
        with torch.no_grad():
            whole = logits_of(loaded, model(**batch), batch).float()
    finally:
        handle.remove()
    states = torch.from_numpy(features[: len(whole)]).float().to(loaded.device)[:, None]
    if not kinds:  # the model does not call it
        return None
    setattr(model, name, _Below(kinds[0]))
    try:
        head: nn.Module = copy.deepcopy(model).float().eval()
        with torch.no_grad():
            alone = _logits(loaded, head, states)
    except Exception:  # the model's own code, which was not written for this: then the simulation says it
        return None
    finally:
        setattr(model, name, below)
    if alone.shape != whole.shape or float((alone - whole).abs().max()) > AGREES * float(whole.abs().max()):
        return None
    for part in loaded.head:
        head.get_submodule(part).requires_grad_(True)
    return head


def _batch(states: torch.Tensor) -> dict[str, torch.Tensor]:
    one = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return {"input_ids": one, "attention_mask": one}


def _logits(loaded: LoadedModel, head: Any, states: torch.Tensor) -> torch.Tensor:
    getattr(head, head.base_model_prefix).states = states
    return logits_of(loaded, head(**_batch(states)), _batch(states))


def _curve(
    loaded: LoadedModel,
    fresh: nn.Module,
    states: torch.Tensor,
    labels: torch.Tensor,
    inside: np.ndarray,
    outside: np.ndarray,
    recipe: TrainingRecipe,
    steps: int,
    seed: int,
    session: Session,
) -> list[float]:
    """Loss on the rows ``outside`` after each epoch's share of ``steps`` on those ``inside``; ``seed``: of order and dropout."""
    head: Any = copy.deepcopy(fresh)
    named = {name: p for name, p in head.named_parameters() if p.requires_grad}
    descend = descent(named, {}, recipe, steps)

    def loss(some: np.ndarray) -> torch.Tensor:
        getattr(head, head.base_model_prefix).states = states[some]
        return batch_loss(head, loaded, {**_batch(states[some]), "labels": labels[some]})[0]

    found: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step, batch in zip(range(1, steps + 1), _batches(inside, recipe.batch_size, seed), strict=False):
            session.check()
            head.train()
            with torch.enable_grad():
                descend(loss(batch))
            if step * recipe.epochs // steps > len(found):
                head.eval()
                with torch.no_grad():
                    found.append(float(loss(outside)))
    return found


def _batches(rows: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Pass after pass without end, each in an order of its own."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(rows)
        yield from (order[start : start + size] for start in range(0, len(order), size))
