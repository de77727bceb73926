"""How far real runs lie from what is predicted of them, as shares of the gain G: between seeds, and selection by selection."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from advisor.core.choices import LEVEL
from advisor.core.selections import ALL_LINEAR
from advisor.prediction.forgone import real_shares
from advisor.prediction.groups import Gain, Group, repeats, seed_sd

Array = NDArray[np.float64]


def noise_between_seeds(groups: Sequence[Group], gains: Sequence[Gain]) -> tuple[float, float] | None:
    """Standard deviation of log loss between seeds as a share of G: its root mean square over groups, and its median.

    None where no group has a second seed. A group's variance is known to 2σ⁴/freedom, and variances of groups differ by about as
    much as they are large; so groups are weighted.
    """
    known = [
        ((sd / gain.value) ** 2, repeats(g)) for g, gain in zip(groups, gains, strict=True) if (sd := seed_sd(g)) is not None
    ]
    if not known:
        return None
    variances, freedom = np.array(known).T
    weights = freedom / (freedom + 2)
    return math.sqrt(float(np.average(variances, weights=weights))), math.sqrt(_median(variances, weights))


def misfit_of(groups: Sequence[Group], forgone: Sequence[Array], noise: float) -> float:
    """Standard deviation of a selection's share around the predicted one, for intervals of groups of other data.

    Errors of two selections are correlated by what they share. So the share differs from that of all modules by an error with
    variance 2·apart·misfit², beside the noise between seeds. Its mean is over the groups of a data set, then over data sets.
    Few data sets say little of a variance: the interval of a new data set's error is Student's, with one degree of freedom less
    than there are data sets. The standard deviation is widened so that a normal interval is as wide. It never falls below half
    of ``noise``.
    """
    by_data: dict[str, list[float]] = {}
    for group, shares in zip(groups, forgone, strict=True):
        everything = group.selections.index(ALL_LINEAR)
        others = (np.arange(len(shares)) != everything) & (group.apart > 0)
        if others.any():
            between_seeds = noise**2 * (1 / group.seeds + 1 / group.seeds[everything])
            variances = ((real_shares(group) - shares) ** 2 - between_seeds)[others] / (2 * group.apart[others])
            by_data.setdefault(group.data, []).append(float(variances.mean()))
    quantile = 0.5 + LEVEL / 2
    wider = float(stdtrit(max(len(by_data) - 1, 1), quantile) / ndtri(quantile))
    variance = float(np.mean([np.mean(found) for found in by_data.values()])) if by_data else 0.0
    return wider * math.sqrt(max(variance, noise**2 / 4))


def _median(values: Array, weights: Array) -> float:
    """The least of the values that half of all weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
