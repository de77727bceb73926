"""What a predictor says of selections: values with intervals, and how two of them compare."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from advisor.core.choices import ALIKE, ALIKE_SURE, ALIKE_WITHIN, APART, LEVEL, NOT_KNOWN, Beside
from advisor.prediction.posterior import BISECTIONS

Array = NDArray[np.float64]
GAIN_GRID = np.linspace(-4.0, 4.0, 81)  # standard deviations of log G
LEAST_SD = 1e-12  # of a difference


@dataclass(frozen=True)
class Estimate:
    """Values [S] with a central interval at ``LEVEL``."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Predictions:
    """Predictions for S selections.

    Attributes:
        loss, score: of a single run (validation loss, metric). relative: expected loss difference to all-linear in
            seed standard deviations, higher is better.
        deviation: log(loss/loss of all-linear), expected over seeds; covariance: of it, [S, S], and spread: its standard
            deviation, [S], all at the median of the gain G. tilt: [S], by how much the deviation rises with log G beside the rise
            of G itself; none where empty. seed_sd: standard deviation of log loss between seeds in a usual
            group. log_gain_sd: of log G.
        far: reasons why the target is unlike all rows; empty where it is like some.
    """

    loss: Estimate
    score: Estimate
    relative: Estimate
    deviation: Array
    covariance: Array
    seed_sd: float
    far: tuple[str, ...]
    spread: Array = field(default_factory=lambda: np.empty(0))
    log_gain_sd: float = 0.0
    tilt: Array = field(default_factory=lambda: np.empty(0))

    def against_all(self) -> Estimate:
        """Log of the loss over that of all-linear [S], expected over seeds, whatever the gain."""
        return times_gain(self.deviation, self.spread, self.log_gain_sd, self.tilt if len(self.tilt) else 0.0)

    def difference(self, i: int, j: int) -> tuple[float, float, float]:
        """(value, low, high) of the log of the loss of i over that of j, expected over seeds, whatever the gain.

        The interval excludes 0 where the two are :meth:`distinguishable`.
        """
        found = times_gain(
            self.deviation[[i]] - self.deviation[[j]], np.array([self._sd(i, j)]), self.log_gain_sd, self._tilt(i, j)
        )
        return float(found.value[0]), float(found.low[0]), float(found.high[0])

    def _sd(self, i: int, j: int) -> float:
        """Of the difference at the median of the gain."""
        return math.sqrt(max(float(self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]), LEAST_SD**2))

    def _tilt(self, i: int, j: int) -> float:
        return float(self.tilt[i] - self.tilt[j]) if len(self.tilt) else 0.0

    def _below(self, i: int, j: int, log_ratios: tuple[float, ...]) -> Array:
        """Probabilities that the log of the loss of i over that of j is below these, whatever the gain."""
        factors, weights = gain_factors(self.log_gain_sd)
        centre = self.deviation[i] - self.deviation[j] + self._tilt(i, j) * np.log(factors)
        return np.array([weights @ ndtr((ratio / factors - centre) / self._sd(i, j)) for ratio in log_ratios])

    def distinguishable(self, i: int, j: int, level: float = LEVEL) -> bool:
        """The interval of the predicted difference of i and j excludes 0."""
        (below,) = self._below(i, j, (0.0,))
        return bool(abs(below - 0.5) > level / 2)

    def beside(self, i: int, j: int) -> Beside:
        """``APART`` where i and j are :meth:`distinguishable`, ``ALIKE`` where they :meth:`end_alike` with probability
        ``ALIKE_SURE``, else ``NOT_KNOWN``."""
        if self.distinguishable(i, j):
            return APART
        return ALIKE if self.end_alike(i, j) >= ALIKE_SURE else NOT_KNOWN

    def end_alike(self, i: int, j: int) -> float:
        """Probability that the losses of i and j, expected over seeds, lie within ``ALIKE_WITHIN`` of each other."""
        within = math.log1p(ALIKE_WITHIN)
        below, above = self._below(i, j, (-within, within))
        return float(above - below)

    def first(self, count: int) -> Predictions:
        """The same for the first ``count`` selections."""
        loss, score, relative = (
            Estimate(e.value[:count], e.low[:count], e.high[:count]) for e in (self.loss, self.score, self.relative)
        )
        rest = {name: getattr(self, name)[:count] for name in ("deviation", "spread", "tilt")}
        return replace(self, loss=loss, score=score, relative=relative, covariance=self.covariance[:count, :count], **rest)


def gain_factors(log_gain_sd: float) -> tuple[Array, Array]:
    """A grid of factors F [81] by which the gain may differ from its median, and their probabilities: log F ~ N(0, sd²)."""
    weights = np.exp(-0.5 * GAIN_GRID**2)
    return np.exp(log_gain_sd * GAIN_GRID), weights / weights.sum()


def times_gain(centre: Array, sd: Array, log_gain_sd: float, tilt: Array | float = 0.0) -> Estimate:
    """Central interval at ``LEVEL`` of F·N(centre + tilt·log F, sd²) [S], where F is log-normal with median 1.

    Differences between selections are shares of a group's gain G, which is known to a factor F only: left out, 90 % intervals
    of the difference to all-linear held 74 % of real ones over the groups of the committed rows, each predicted from other
    data; with it 89 % (``benchmarks/differences.py``).
    """
    factors, weights = gain_factors(log_gain_sd)
    sd = np.maximum(sd, LEAST_SD)
    centres = centre + tilt * np.log(factors)[:, None]

    def quantile(level: float) -> Array:
        ends = factors[:, None] * np.stack([centres - 9 * sd, centres + 9 * sd])
        low, high = ends.min((0, 1)), ends.max((0, 1))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = weights @ ndtr((middle / factors[:, None] - centres) / sd) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2)

    return Estimate(centre, quantile(0.5 - LEVEL / 2), quantile(0.5 + LEVEL / 2))
