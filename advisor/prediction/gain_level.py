"""How much all modules win for real, predicted from the probe by a small regression over groups.

Of tasks with a new head, log G is linear in what the probe shows:

    log G = log(expected gain) + β·φ + N(0, sd²),    φ = (1, r, l, a)

r and l are the logs of the training rows and of the learning rate over the usual ones, a is how much better the kernel of all
modules aligns with the labels than that of the head alone (centred alignment, Cortes et al. 2012): it says what adapters can
learn that a linear probe does not. Expected is :func:`advisor.prediction.gain.expected_gain`.

Of tasks without one, G is linear, bent so that it stays above 0:

    G = s·log(1 + exp(g/s)),    g = β·φ + N(0, sd²),    φ = (1, r, l, c, x)

x is the gain of the simulated recipe, and c how much less a count of word pairs loses on the probe's examples than the model does
(:mod:`advisor.probing.counted`), 0 where it loses more: so much the format and the wording of the answers tell, and any adapter
learns it. Both of the probe's features that stand here told best how far real gains lie from the expected ones
(docs/real-runs.md). Where the groups are of both kinds, all are taken as of the first, without a.

β ~ N(0, PRIOR_SD²). Gains are measured with an error and may come out negative, so what a group's gain may be is integrated over,
by expectation-maximisation. Groups of the same data count as one together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import HEADLESS
from advisor.prediction.gain import USUALLY_ALIGNED, counted_gain, expected_gain, log_rows, simulated_gain
from advisor.prediction.groups import Gain, Group, each_data_once

Array = NDArray[np.float64]
LOG_GAINS = np.linspace(-9.0, 2.0, 221)
PRIOR_SD = (3.0, 0.5, 0.5, 0.5)  # of β with a new head, weak: the intercept is free
BENT_PRIOR_SD = (3.0, 0.5, 0.5, 1.0, 1.0)  # without one
BEND = 0.4  # s, log loss
USUAL_LR = 1e-3
PRIOR_SPREAD, PRIOR_WEIGHT = 0.6, 1.0  # sd² is drawn to this one as by so many data sets
ROUNDS, SETTLED = 200, 1e-6  # at most so many, until the variance changes by no more
MOST_LEVERAGE = 0.5  # where few groups are known


@dataclass(frozen=True)
class GainLevel:
    """A fitted regression: ``coef`` β and its ``covariance``, and ``sd`` between groups: of log G, or of g where it is ``bent``.

    ``new_sd``: of groups of a model that no group was of. ``seen``: least and most a; what lies beyond counts as the nearest.
    """

    coef: Array
    covariance: Array
    sd: float
    new_sd: float
    bent: bool
    seen: tuple[float, float]

    def of(self, context: Mapping[str, Any], new: bool = False) -> tuple[float, float]:
        """Mean and standard deviation of log G of a group with this context, of a ``new`` model; the latter holds that of β."""
        phi, sd = self._features(context), self.new_sd if new else self.sd
        centre, spread = float(phi @ self.coef), math.sqrt(sd**2 + float(phi @ self.covariance @ phi))
        if not self.bent:
            return math.log(expected_gain(context)) + centre, spread
        gain = BEND * float(np.logaddexp(0.0, centre / BEND))
        return math.log(gain), spread * -math.expm1(-gain / BEND) / gain

    def surprise(self, context: Mapping[str, Any], gain: float) -> float:
        """Log of a group's real gain over the one expected of it, as if nothing had been learned from its data: the residual over
        one less its leverage."""
        phi = self._features(context)
        leverage = min(float(phi @ self.covariance @ phi) / self.sd**2, MOST_LEVERAGE)
        return (math.log(gain) - self.of(context)[0]) / (1 - leverage)

    def _features(self, context: Mapping[str, Any]) -> Array:
        phi = gain_features(context, self.bent)
        if not self.bent:
            phi[-1] = np.clip(phi[-1], *self.seen)
        return phi


def gain_features(context: Mapping[str, Any], bent: bool) -> Array:
    """φ of a group's context, [5] or [4]."""
    usual = [1.0, log_rows(context), float(context["log_lr"]) - math.log(USUAL_LR)]
    if bent:
        return np.array([*usual, counted_gain(context), simulated_gain(context)])
    return np.array([*usual, 0.0 if context["task"] in HEADLESS else float(context["aligned"]) / USUALLY_ALIGNED - 1.0])


def fit_gain_level(groups: Sequence[Group], gains: Sequence[Gain]) -> GainLevel:
    """The regression that groups with these real gains make likely, and how far it misses those of a model that is left out."""
    level = _fitted(groups, gains)
    models = np.array([group.model for group in groups])
    if len(set(models)) < 2:
        return level
    data = _Measured.of(groups, gains, level.bent)
    left = np.empty(len(groups))
    for model in set(models):
        other = _fitted(*zip(*(both for both in zip(groups, gains, strict=True) if both[0].model != model), strict=True))
        if other.bent == level.bent:
            held = models == model
            left[held] = data.left(other.coef, other.sd**2)[held]
    return replace(level, new_sd=max(level.sd, math.sqrt(_pooled(left, data.weights))))


@dataclass(frozen=True)
class _Measured:
    """Features φ of groups, what β·φ is added to, the chance of their measured gains on the grid, and groups' weights."""

    phi: Array
    offset: Array
    chance: Array
    straight: Array
    weights: Array

    @classmethod
    def of(cls, groups: Sequence[Group], gains: Sequence[Gain], bent: bool) -> _Measured:
        values, errors = (np.array([getattr(gain, name) for gain in gains])[:, None] for name in ("value", "error"))
        straight, steepness = _unbent(np.exp(LOG_GAINS)) if bent else (LOG_GAINS, np.ones(len(LOG_GAINS)))
        return cls(
            np.array([gain_features(g.context, bent) for g in groups]),
            np.zeros(len(groups)) if bent else np.log([expected_gain(g.context) for g in groups]),
            steepness * (np.exp(-0.5 * ((values - np.exp(LOG_GAINS)) / errors) ** 2) + 1e-300),
            straight,
            each_data_once([g.data for g in groups]),
        )

    def posterior(self, coef: Array, variance: float) -> tuple[Array, Array]:
        """Mean and variance of each group's log G, or g, less its offset."""
        centre = self.offset + self.phi @ coef
        chance = self.chance * np.exp(-0.5 * (self.straight - centre[:, None]) ** 2 / variance)
        chance /= chance.sum(1, keepdims=True)
        mean = chance @ self.straight
        return mean - self.offset, chance @ self.straight**2 - mean**2

    def left(self, coef: Array, variance: float) -> Array:
        """Expected squared residual of each group."""
        mean, own = self.posterior(coef, variance)
        return np.asarray((mean - self.phi @ coef) ** 2 + own)


def _fitted(groups: Sequence[Group], gains: Sequence[Gain]) -> GainLevel:
    bent = all(g.context["task"] in HEADLESS for g in groups)
    data = _Measured.of(groups, gains, bent)
    phi, weights = data.phi, data.weights
    prior_sd = BENT_PRIOR_SD if bent else PRIOR_SD
    prior = np.diag(1.0 / np.square(prior_sd))
    coef, variance, covariance = np.zeros(len(prior_sd)), 1.0, np.diag(np.square(prior_sd))
    for _ in range(ROUNDS):
        mean, own = data.posterior(coef, variance)
        covariance = np.linalg.inv(phi.T @ (weights[:, None] * phi) / variance + prior)
        coef = covariance @ phi.T @ (weights * mean) / variance
        before, variance = variance, _pooled((mean - phi @ coef) ** 2 + own, weights)
        if abs(variance - before) < SETTLED * variance:
            break
    sd = math.sqrt(variance)
    return GainLevel(coef, covariance, sd, sd, bent, (float(phi[:, -1].min()), float(phi[:, -1].max())))


def _pooled(left: Array, weights: Array) -> float:
    """Variance between groups from their squared residuals."""
    return float((weights @ left + PRIOR_WEIGHT * PRIOR_SPREAD**2) / (weights.sum() + PRIOR_WEIGHT))


def _unbent(gains: Array) -> tuple[Array, Array]:
    """g of gains G above 0, and by how much it rises with log G."""
    left = -np.expm1(-gains / BEND)
    return gains + BEND * np.log(left), gains / left
