"""The training recipe a prediction is for, and a real run follows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from advisor.core import tasks
from advisor.core.errors import BadInput

METRICS = {name: task.metrics for name, task in tasks.TASKS.items()}  # the first one is the default
TASKS = tuple(METRICS)
FEWEST_ROWS = 4  # of training rows: the head's linear probe is cross-validated in as many folds
PASSES_A_STEP = 3  # a training step is a forward pass and a backward pass of twice its work
PILOT_EVAL_ROWS = 160  # a pilot run measures selections on this many rows: all on the same ones, so few do
PILOT_SCALES = (1.0, 2.0)  # and with what is left on at these scales
LANGUAGE_TASKS = tuple(name for name, task in tasks.TASKS.items() if task.learns_texts)
HEADLESS = tuple(name for name, task in tasks.TASKS.items() if task.headless)
BY_ODDS = tuple(name for name, task in tasks.TASKS.items() if task.by_odds)


@dataclass(frozen=True)
class TrainingRecipe:
    """AdamW without weight decay, linear schedule with warm-up, best epoch by validation loss.

    Attributes:
        train_rows: rows trained on; None: all there are.
        epochs: passes over them.
        lr: peak learning rate.
        batch_size: rows a step.
        warmup: share of all steps spent warming up.
        pull: λ ≥ 0 of the ℓ2 pull towards the start θ0 (arXiv 2602.08239, Eq. 8): after each optimizer step, θ−θ0 shrinks
            by λ·lr in each parameter tensor where ⟨∇R̃, θ−θ0⟩ ≥ 0. λ·lr is clipped at 1: more would overshoot θ0.
        pull_always: it shrinks after every step, whatever the inner product: dθ/dt = −∇R̃ − λ(θ−θ0).
    """

    train_rows: int | None = None
    epochs: int = 6
    lr: float = 1e-3
    batch_size: int = 32
    warmup: float = 0.06
    pull: float = 0.0
    pull_always: bool = False

    def __post_init__(self) -> None:
        for option, value in (("--epochs", self.epochs), ("--batch-size", self.batch_size), ("--lr", self.lr)):
            if not 0 < value < math.inf:
                raise BadInput(f"{option} must be positive and finite, got {value}.")
        if not 0 <= self.pull < math.inf:
            raise BadInput(f"--pull must be at least 0 and finite, got {self.pull}.")
        if self.train_rows is not None and self.train_rows < FEWEST_ROWS:
            raise BadInput(f"--train-rows {self.train_rows}: too few training rows.", f"Give {FEWEST_ROWS} at the least.")

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    def __str__(self) -> str:
        rows = "all" if self.train_rows is None else self.train_rows
        return f"{self.epochs} epochs, learning rate {self.lr:g}, batch size {self.batch_size}, {rows} training rows"


def default_recipe(task: str) -> TrainingRecipe:
    """Classifiers and regressors: 6 epochs, 1e-3, batch 32; language models: 3 epochs, 2e-4 (preference and kto: 5e-5), batch 16;
    embeddings: 3 epochs, 2e-4, batch 32."""
    usual = tasks.TASKS[task]
    return TrainingRecipe(epochs=usual.epochs, lr=usual.lr, batch_size=usual.batch_size)


def recipe_for(
    task: str, train_rows: int | None = None, epochs: int | None = None, lr: float | None = None, batch_size: int | None = None
) -> TrainingRecipe:
    """The task's default recipe with what is given.

    Raises:
        BadInput: a value is none that can be trained with.
    """
    if task == tasks.EMBEDDING and batch_size == 1:
        raise BadInput("--batch-size 1: a row's texts are contrasted with those of the other rows of its batch.", "Raise it.")
    if task == tasks.KTO and batch_size == 1:
        raise BadInput("--batch-size 1: KTO compares a row's answer with those of the other rows of its batch.", "Raise it.")
    given: dict[str, Any] = {"train_rows": train_rows, "epochs": epochs, "lr": lr, "batch_size": batch_size}
    return replace(default_recipe(task), **{key: value for key, value in given.items() if value is not None})
