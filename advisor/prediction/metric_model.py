"""The metric of a run from its loss: a regression over groups.

What is missing of the metric is about proportional to a power of the loss, so −log of one is regressed on log of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.context import SIGNED_METRICS
from advisor.prediction.groups import Group

Array = NDArray[np.float64]
SCORE_RIDGE = 0.3


def design_row(log_loss: float, context: Mapping[str, Any]) -> Array:
    """Log of the loss over that of guessing (entropy of the labels; 1 for standardised values), and the kind of metric."""
    metric = context["metric"]
    kinds = (metric in SIGNED_METRICS, metric == "token_accuracy")
    return np.array([context["log_guess"] - log_loss, *map(float, kinds)])


def fit_metric(groups: Sequence[Group]) -> tuple[Array, float]:
    """The metric from log loss by ridge regression, every group weighing the same; spread from leaving groups out."""
    runs = [(_designs(group), np.array([_target(row) for row in group.rows])) for group in groups]
    grams = [design.T @ design / len(target) for design, target in runs]
    moments = [design.T @ target / len(target) for design, target in runs]
    gram, moment, penalty = sum(grams), sum(moments), SCORE_RIDGE * np.eye(len(moments[0]))
    errors = []
    for i, (design, target) in enumerate(runs):
        others = np.linalg.solve(gram - grams[i] + penalty / (len(groups) - 1), moment - moments[i])
        errors.append(float(np.mean(np.square(target - design @ others))))
    return np.linalg.solve(gram + penalty / len(groups), moment), math.sqrt(float(np.mean(errors)))


def _designs(group: Group) -> Array:
    return np.array([design_row(math.log(row.val_loss), row.context) for row in group.rows])


def _target(row: CalibrationRow) -> float:
    """−log of the share of the way from guessing to perfect that is missing; about proportional to −log loss."""
    possible = 1 - float(row.context["chance"])  # 0 where all examples are of one class
    return -math.log(max((1 - row.score) / possible, 0.01)) if possible > 0 else 0.0
