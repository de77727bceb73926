"""How far real runs were from what is predicted of a language model's rows to keep, and the intervals from it (docs/keep.md).

A *pair* is a task and the rows to keep, on one model at one learning rate. Its selections err together: a pair has a factor of
its own between predicted and real KL divergence, and a slope of its own between the loss's first-order change and what the loss
does beside that divergence. Both are normal between pairs, so a new pair's are known as well as Student's distribution says;
within a pair there are selections enough to know the spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from advisor.core.choices import LEVEL
from advisor.theory.kernels import Array


@dataclass(frozen=True)
class PairFit:
    """Of one pair: mean and standard deviation, over selections, of log(real KL / predicted KL); and the slope u of real loss
    change less real KL on the first-order change, least squares without an intercept."""

    log_kl: float
    within: float
    slope: float


def fit_pair(first: Array, kl: Array, real_loss: Array, real_kl: Array) -> PairFit:
    """All arguments [S], nats per target token: first-order change and KL as predicted, changes as real runs made them."""
    ratios = np.log(real_kl / kl)
    return PairFit(float(ratios.mean()), float(ratios.std(ddof=1)), float(first @ (real_loss - real_kl) / (first @ first)))


@dataclass(frozen=True)
class Spread:
    """What some pairs say of a new one: means and standard deviations between ``pairs`` pairs, and within them."""

    pairs: int
    log_kl: float
    log_kl_sd: float
    within_sd: float
    slope: float
    slope_sd: float

    @classmethod
    def of(cls, pairs: Sequence[PairFit]) -> Spread:
        """Two pairs at the least."""
        ratios, slopes = (np.array([getattr(pair, name) for pair in pairs]) for name in ("log_kl", "slope"))
        within = float(np.sqrt(np.mean([pair.within**2 for pair in pairs])))
        return cls(
            len(pairs), float(ratios.mean()), float(ratios.std(ddof=1)), within, float(slopes.mean()), float(slopes.std(ddof=1))
        )

    def intervals(self, first: Array, kl: Array) -> tuple[Array, Array]:
        """Of the change of loss and of the KL divergence, [S, 2] each, low and high, ``LEVEL`` of a new pair's runs.

        The loss is u times the first-order change plus the KL divergence; its two parts err independently.

        Args:
            first, kl: as predicted, [S].
        """
        factor, new = stdtrit(self.pairs - 1, 0.5 + LEVEL / 2), 1 + 1 / self.pairs
        width = np.hypot(factor * self.log_kl_sd * np.sqrt(new), ndtri(0.5 + LEVEL / 2) * self.within_sd)
        middle = kl * np.exp(self.log_kl)
        span = np.stack([middle * np.exp(-width), middle * np.exp(width)], 1)
        off = factor * self.slope_sd * np.sqrt(new) * np.abs(first)
        centre, below, above = self.slope * first + middle, np.hypot(off, middle - span[:, 0]), np.hypot(off, span[:, 1] - middle)
        own = first + kl  # what is predicted lies within
        return np.stack([np.minimum(centre - below, own), np.maximum(centre + above, own)], 1), span


LARGEST_KL = 3.8  # nats per token, about the largest of a real run there; what is predicted beyond is no prediction
MEASURED = Spread(pairs=9, log_kl=0.657, log_kl_sd=0.438, within_sd=0.416, slope=0.990, slope_sd=0.722)
"""Of the pairs of benchmarks/results/keep.json whose rows do not surprise the model; it has it as ``spread``. Rank 8, learning
rates 1e-3 and 3e-4."""
