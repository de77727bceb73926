"""How much all modules win for real, predicted from the probe by a small regression over groups.

    log G = log(expected gain) + β·φ + N(0, sd²),    β ~ N(0, PRIOR_SD²),

φ = (1, log of the training rows over the usual ones, log of the learning rate over the usual one, a, c). Of tasks with a new
head, a is how much better the kernel of all modules aligns with the labels than that of the head alone (centred alignment,
Cortes et al. 2012): it says what adapters can learn that a linear probe does not. Of tasks without one, c is the log of the
condition number κ of the kernel of all modules: where examples are alike, as calls to one database are, κ is large, and what
is learned of one carries over to the others. Of the probe's features these told best how far real gains lie from the expected
one (:func:`advisor.prediction.gain.expected_gain`; docs/real-runs.md). Each is 0 for the other kind.
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
from advisor.prediction.gain import USUAL_CONDITION, USUALLY_ALIGNED, expected_gain, log_rows
from advisor.prediction.groups import Gain, Group, each_data_once

Array = NDArray[np.float64]
LOG_GAINS = np.linspace(-9.0, 2.0, 221)
PRIOR_SD = (3.0, 0.5, 0.5, 0.5, 0.5)  # of β, weak: the intercept is free
USUAL_LR = 1e-3
CONDITION_UNIT = 2.0  # standard deviation of log κ between data sets, nearly
OF_KERNEL = slice(3, 5)  # a and c in φ
PRIOR_SPREAD, PRIOR_WEIGHT = 0.6, 1.0  # sd² is drawn to this one as by so many data sets
ROUNDS = 200
MOST_LEVERAGE = 0.5  # where few groups are known


@dataclass(frozen=True)
class GainLevel:
    """A fitted regression: ``coef`` β [5], its ``covariance`` [5, 5], and ``sd`` of log G between groups.

    ``seen``: least and most a and c, [2] each; what lies beyond counts as the nearest.
    """

    coef: Array
    covariance: Array
    sd: float
    seen: tuple[Array, Array]

    def of(self, context: Mapping[str, Any]) -> tuple[float, float]:
        """Mean and standard deviation of log G of a group with this context; the latter holds that of β."""
        phi = self._features(context)
        mean = math.log(expected_gain(context)) + float(phi @ self.coef)
        return mean, math.sqrt(self.sd**2 + float(phi @ self.covariance @ phi))

    def surprise(self, context: Mapping[str, Any], gain: float) -> float:
        """Log of a group's real gain over the one expected of it, as if nothing had been learned from its data: the residual over
        one less its leverage."""
        phi = self._features(context)
        leverage = min(float(phi @ self.covariance @ phi) / self.sd**2, MOST_LEVERAGE)
        return (math.log(gain) - self.of(context)[0]) / (1 - leverage)

    def _features(self, context: Mapping[str, Any]) -> Array:
        phi = gain_features(context)
        phi[OF_KERNEL] = phi[OF_KERNEL].clip(*self.seen)
        return phi


def gain_features(context: Mapping[str, Any]) -> Array:
    """φ [5] of a group's context."""
    lr = float(context["log_lr"]) - math.log(USUAL_LR)
    aligned = float(context["aligned"]) / USUALLY_ALIGNED - 1.0
    condition = (float(context["log_condition"]) - USUAL_CONDITION) / CONDITION_UNIT
    of_kernel = (0.0, condition) if context["task"] in HEADLESS else (aligned, 0.0)
    return np.array([1.0, log_rows(context), lr, *of_kernel])


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
    of_kernel = phi[:, OF_KERNEL]
    return GainLevel(coef, covariance, math.sqrt(variance), (of_kernel.min(0), of_kernel.max(0)))
