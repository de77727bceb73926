"""How much all modules win for real, predicted from the probe by a small regression over groups.

A gain G is linear in what the probe shows, bent so that it stays above 0:

    G = s·log(1 + exp(g/s)),    g = g₀ + β·φ + N(0, sd²)

So small gains are known up to a factor and large ones up to an amount: where much is expected, real gains lie nearer to it by
ratio (docs/real-runs.md).

Of tasks with a new head, φ = (1, r, l, a) and g₀ is the g of :func:`advisor.prediction.gain.expected_gain`. r and l are the logs
of the training rows and of the learning rate over the usual ones, a is how much better the kernel of all modules aligns with
the labels than that of the head alone (centred alignment, Cortes et al. 2012): it says what adapters can learn that a linear
probe does not.

Of tasks without one, φ = (1, l, c, x) and g₀ = 0. x is the gain of the simulated recipe, which grows with the rows, and c how
much less a count of word pairs loses on the probe's examples than the model does (:mod:`advisor.probing.counted`), 0 where it
loses more: so much the format and the wording of the answers tell, and any adapter learns it. Both of the probe's features that
stand here told best how far real gains lie from the expected ones. Where the groups are of both kinds, all are taken as of the
first, without a.

β ~ N(0, PRIOR_SD²). Each model has a term of its own beside β·φ, with a variance between models; that of a model that no group is
of is not known. Gains are measured with an error and may come out negative, so what a group's gain may be is integrated over,
by expectation-maximisation. Groups of the same data count as one together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import HEADLESS
from advisor.prediction.gain import USUALLY_ALIGNED, counted_gain, expected_gain, log_rows, simulated_gain
from advisor.prediction.groups import Gain, Group, each_data_once

Array = NDArray[np.float64]
LOG_GAINS = np.linspace(-9.0, 2.0, 221)
PRIOR_SD = (3.0, 0.5, 0.5, 0.5)  # of β with a new head, weak: the intercept is free
HEADLESS_PRIOR_SD = (3.0, 0.5, 1.0, 1.0)  # without one
BEND, HEADLESS_BEND = 1.2, 0.4  # s, log loss
USUAL_LR = 1e-3
PRIOR_SPREAD, PRIOR_WEIGHT = 0.6, 1.0  # sd² is drawn to this one as by so many data sets
MODEL_SPREAD = 0.5  # the variance between models is drawn to that of this one as by one model
ROUNDS, SETTLED = 200, 1e-6  # at most so many, until the variance changes by no more
MOST_LEVERAGE = 0.5  # where few groups are known


@dataclass(frozen=True)
class GainLevel:
    """A fitted regression: ``coef`` β and then each model's own term [M], their ``covariance``, and ``sd`` of g between groups.

    ``models``: place among the M of what a model is called; ``model_sd`` between them. ``headless``: whether the groups' tasks
    have no new head. ``seen``: least and most a; what lies beyond counts as the nearest.
    """

    coef: Array
    covariance: Array
    sd: float
    models: Mapping[str, int]
    model_sd: float
    headless: bool
    seen: tuple[float, float]

    def of(self, context: Mapping[str, Any]) -> tuple[float, float]:
        """Mean and standard deviation of log G of a group with this context; the latter holds those of β and of the model's own
        term."""
        x = self._design(context)
        new = 0.0 if self.knows(context) else self.model_sd**2
        centre, spread = float(x @ self.coef), math.sqrt(self.sd**2 + new + float(x @ self.covariance @ x))
        bend = HEADLESS_BEND if self.headless else BEND
        if not self.headless:
            centre += float(_unbent(np.array(expected_gain(context)), bend)[0])
        gain = bend * float(np.logaddexp(0.0, centre / bend))
        return math.log(gain), spread * -math.expm1(-gain / bend) / gain

    def knows(self, context: Mapping[str, Any]) -> bool:
        """Whether some group was of this model."""
        return context["model"] in self.models

    def surprise(self, context: Mapping[str, Any], gain: float) -> float:
        """Log of a group's real gain over the one expected of it, as if nothing had been learned from its data: the residual over
        one less its leverage."""
        x = self._design(context)
        leverage = min(float(x @ self.covariance @ x) / self.sd**2, MOST_LEVERAGE)
        return (math.log(gain) - self.of(context)[0]) / (1 - leverage)

    def _design(self, context: Mapping[str, Any]) -> Array:
        """φ, and then a 1 in the place of the model."""
        phi = gain_features(context, self.headless)
        if not self.headless:
            phi[-1] = np.clip(phi[-1], *self.seen)
        own = np.zeros(len(self.coef) - len(phi))
        if (place := self.models.get(context["model"])) is not None:
            own[place] = 1.0
        return np.concatenate([phi, own])


def gain_features(context: Mapping[str, Any], headless: bool) -> Array:
    """φ of a group's context, [4]."""
    rate = float(context["log_lr"]) - math.log(USUAL_LR)
    if headless:
        return np.array([1.0, rate, counted_gain(context), simulated_gain(context)])
    aligned = 0.0 if context["task"] in HEADLESS else float(context["aligned"]) / USUALLY_ALIGNED - 1.0
    return np.array([1.0, log_rows(context), rate, aligned])


def fit_gain_level(groups: Sequence[Group], gains: Sequence[Gain]) -> GainLevel:
    """The regression that groups with these real gains make likely."""
    weights = each_data_once([g.data for g in groups])
    headless = all(g.context["task"] in HEADLESS for g in groups)
    bend, prior_sd = (HEADLESS_BEND, HEADLESS_PRIOR_SD) if headless else (BEND, PRIOR_SD)
    values, errors = (np.array([getattr(gain, name) for gain in gains])[:, None] for name in ("value", "error"))
    offset = 0.0 if headless else _unbent(np.array([expected_gain(g.context) for g in groups]), bend)[0]
    straight, steepness = _unbent(np.exp(LOG_GAINS), bend)
    seen = steepness * (np.exp(-0.5 * ((values - np.exp(LOG_GAINS)) / errors) ** 2) + 1e-300)
    phi = np.array([gain_features(g.context, headless) for g in groups])
    names = sorted({g.model for g in groups})
    x = np.hstack([phi, np.array([[float(g.model == name) for name in names] for g in groups])])
    of_model = slice(phi.shape[1], None)
    precision = np.append(1.0 / np.square(prior_sd), np.ones(len(names)))
    coef, variance, between, covariance = np.zeros(x.shape[1]), 1.0, MODEL_SPREAD**2, np.diag(1.0 / precision)
    for _ in range(ROUNDS):
        centre = offset + x @ coef
        chance = seen * np.exp(-0.5 * (straight - centre[:, None]) ** 2 / variance)
        chance /= chance.sum(1, keepdims=True)
        mean = chance @ straight
        own = chance @ straight**2 - mean**2
        precision[of_model] = 1.0 / between
        covariance = np.linalg.inv(x.T @ (weights[:, None] * x) / variance + np.diag(precision))
        coef = covariance @ x.T @ (weights * (mean - offset)) / variance
        left = (mean - offset - x @ coef) ** 2 + own
        before, variance = variance, float((weights @ left + PRIOR_WEIGHT * PRIOR_SPREAD**2) / (weights.sum() + PRIOR_WEIGHT))
        terms = coef[of_model] ** 2 + np.diag(covariance)[of_model]
        between = float((terms.sum() + MODEL_SPREAD**2) / (len(names) + 1))
        if abs(variance - before) < SETTLED * variance:
            break
    called = {alias: names.index(g.model) for g in groups for alias in g.model_names}
    limits = float(phi[:, -1].min()), float(phi[:, -1].max())
    return GainLevel(coef, covariance, math.sqrt(variance), called, math.sqrt(between), headless, limits)


def _unbent(gains: Array, bend: float) -> tuple[Array, Array]:
    """g of gains G above 0, and by how much it rises with log G."""
    left = -np.expm1(-gains / bend)
    return gains + bend * np.log(left), gains / left
