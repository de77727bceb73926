"""How much all modules win for real, predicted from the probe by a small regression over groups.

    log G = log(expected gain) + β·φ + N(0, sd²),    β ~ N(0, PRIOR_SD²),

φ = (1, log of the training rows over the usual ones, log of the learning rate over the usual one, a, s). Of tasks with a new
head, a is how much better the kernel of all modules aligns with the labels than that of the head alone (centred alignment,
Cortes et al. 2012): it says what adapters can learn that a linear probe does not, and of the probe's features it told best
how far real gains lie from the expected one (:func:`advisor.prediction.gain.expected_gain`; docs/validity.md). Of tasks
without one, s is the log of the simulated gain. Each is 0 for the other kind.
Gains are measured with an error and may come out negative, so what a group's gain may be is integrated over, by
expectation-maximisation. Groups of the same data count as one together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import HEADLESS
from advisor.prediction.gain import USUALLY_ALIGNED, expected_gain, log_rows, simulated_gain
from advisor.prediction.groups import Gain, Group, each_data_once

Array = NDArray[np.float64]
LOG_GAINS = np.linspace(-9.0, 2.0, 221)
PRIOR_SD = (3.0, 0.5, 0.5, 0.5, 0.5)  # of β, weak: the intercept is free
USUAL_LR = 1e-3
PRIOR_SPREAD, PRIOR_WEIGHT = 0.6, 1.0  # sd² is drawn to this one as by so many data sets
ROUNDS = 200


@dataclass(frozen=True)
class GainLevel:
    """A fitted regression: ``coef`` β [5], its ``covariance`` [5, 5], and ``sd`` of log G between groups.

    ``aligned``: least and most alignment that it has seen; what lies beyond counts as the nearest.
    """

    coef: Array
    covariance: Array
    sd: float
    aligned: tuple[float, float]

    def of(self, context: Mapping[str, Any]) -> tuple[float, float]:
        """Mean and standard deviation of log G of a group with this context; the latter holds that of β."""
        phi = gain_features(context, self.aligned)
        mean = math.log(expected_gain(context)) + float(phi @ self.coef)
        return mean, math.sqrt(self.sd**2 + float(phi @ self.covariance @ phi))


def gain_features(context: Mapping[str, Any], seen: tuple[float, float] = (-math.inf, math.inf)) -> Array:
    """φ [5] of a group's context, its alignment within those ``seen``."""
    lr = float(context["log_lr"]) - math.log(USUAL_LR)
    headless = context["task"] in HEADLESS
    aligned = 0.0 if headless else min(max(float(context["aligned"]), seen[0]), seen[1]) / USUALLY_ALIGNED - 1.0
    return np.array([1.0, log_rows(context), lr, aligned, math.log(simulated_gain(context)) if headless else 0.0])


def fit_gain_level(groups: Sequence[Group], gains: Sequence[Gain]) -> GainLevel:
    """The regression that groups with these real gains make likely."""
    weights = each_data_once([g.data for g in groups])
    values, errors = (np.array([getattr(gain, name) for gain in gains])[:, None] for name in ("value", "error"))
    seen = np.exp(-0.5 * ((values - np.exp(LOG_GAINS)) / errors) ** 2) + 1e-300
    expected = np.log([expected_gain(g.context) for g in groups])
    phi = np.array([gain_features(g.context) for g in groups])
    prior = np.diag(1.0 / np.square(PRIOR_SD))
    coef, variance, covariance = np.zeros(len(PRIOR_SD)), 1.0, np.diag(np.square(PRIOR_SD))
    for _ in range(ROUNDS):
        centre = expected + phi @ coef
        chance = seen * np.exp(-0.5 * (LOG_GAINS - centre[:, None]) ** 2 / variance)
        chance /= chance.sum(1, keepdims=True)
        mean = chance @ LOG_GAINS
        own = chance @ LOG_GAINS**2 - mean**2
        covariance = np.linalg.inv(phi.T @ (weights[:, None] * phi) / variance + prior)
        coef = covariance @ phi.T @ (weights * (mean - expected)) / variance
        left = (mean - expected - phi @ coef) ** 2 + own
        variance = float((weights @ left + PRIOR_WEIGHT * PRIOR_SPREAD**2) / (weights.sum() + PRIOR_WEIGHT))
    aligned = [float(g.context["aligned"]) for g in groups if g.context["task"] not in HEADLESS] or [USUALLY_ALIGNED]
    return GainLevel(coef, covariance, math.sqrt(variance), (min(aligned), max(aligned)))
