"""Whether a run that ended with a finite loss diverged all the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from advisor.core.errors import NotFinite
from advisor.core.tasks import COMPARED
from advisor.models.rows import IGNORED, EncodedRow
from advisor.training.finetune import RunResult

FAR = 2.0  # times the loss before training; of 2,827 runs on file the worst ended at 1.14 times that or guessing


def require_sound(result: RunResult, task: str, train: Sequence[EncodedRow], name: str) -> None:
    """Refuse a run whose loss, at its best, is far above that before training and above that of guessing too.

    A run that learned nothing ends near one of these two.

    Raises:
        NotFinite: it diverged.
    """
    before, best = result.epochs[0].val_loss, result.at_best.val_loss
    if best > FAR * before and best > (guess := guessing(task, train)):
        raise NotFinite(
            f"{name}: training diverged: the validation loss is {best:.3g} at best, {before:.3g} before training and about "
            f"{guess:.2g} for guessing.",
            "Lower --lr.",
        )


def guessing(task: str, rows: Sequence[EncodedRow]) -> float:
    """Loss of guessing by how often each class, token or place is right; of values by their mean, of comparisons a tie."""
    if task == "regression":
        return 1.0
    if task in COMPARED:
        return math.log(2)
    labels = [label for row in rows for label in row.token_labels or (row.label,) if label != IGNORED]
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())
