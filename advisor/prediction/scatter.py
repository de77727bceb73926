"""How far real runs lie from what is predicted of them, as shares of the gain G: between seeds, and selection by selection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri, stdtrit

from advisor.core.choices import LEVEL
from advisor.core.selections import ALL_LINEAR
from advisor.prediction.forgone import real_shares
from advisor.prediction.gain import trust
from advisor.prediction.groups import Gain, Group, each_data_once, repeats, seed_sd

Array = NDArray[np.float64]
PRIOR_MISFIT = 0.2  # as a share of G
PRIOR_COMMON = 0.5  # share of the misfit's variance
USUAL_SURPRISE = 0.4  # log of a gain around the expected one: the tilt is drawn to 0 as by one data set of such gains
LEAST_VARIANCE = 1e-6  # between seeds, as a share of G²
MOST_FREEDOM = 8  # that a group's variance counts with: its selections do not all scatter alike
USUAL_SPREAD, SPREAD_SD = 0.6, 0.5  # log of how far groups' noise spreads around the median, drawn to this one; its own log's
SEARCHED = 1e-4  # log of the median, to which it is searched
SCATTER_POWER = 0.5  # of G that misfit and noise grow with in log loss where the task has a new head; of language models 1
FREEDOM = 2.0  # of Student's scale that a group's gain, misfit and noise share
USUAL_QUIETNESS, QUIETNESS_TRUST = 0.5, 1.5  # the power is drawn to the first as by one data set whose log trust is −1.5
LEAST_RATIO = 0.02  # of a deviation to the expected one: a group whose runs are all alike counts as this


@dataclass(frozen=True)
class Spread:
    """Standard deviations as shares of G: of a selection's log loss around what is predicted of it, and between seeds."""

    misfit: float
    noise: float

    def at(self, believed: float, quietness: float) -> Spread:
        """Of a group whose gain is trusted so far, as shares of that smaller gain: in log loss both fall with a power of it."""
        factor = believed ** (quietness - 1.0)
        return Spread(self.misfit * factor, self.noise * factor)


def scatter_given_gain(log_ratio: float, sd_before: float, sd_after: float, power: float) -> float:
    """By what the variance of misfit and noise, as shares of G, is multiplied once runs say G.

    In log loss both grow with G to this ``power``. And where G is a surprise, so is what selections forgo of it: one scale rules
    all, Student's. Of its ν degrees of freedom and what runs say of G, i of one more, it is (ν + z²)/(ν + i) at a surprise
    of z standard deviations, 1 on average. ν and the power were chosen on development data (docs/real-runs.md).

    Args:
        log_ratio: log of the gain that runs say over the expected one. sd_before, sd_after: of log G, without and with the runs.
    """
    said = max(0.0, 1.0 - (sd_after / sd_before) ** 2)
    surprise = (FREEDOM + (log_ratio / sd_before) ** 2) / (FREEDOM + said)
    return math.exp(2 * (power - 1) * log_ratio) * surprise


def noise_between_seeds(groups: Sequence[Group], gains: Sequence[Gain]) -> float | None:
    """Standard deviation of log loss between seeds as a share of G: its median over groups; None where none has a second seed.

    A group's is log-normal around the median, and its sample variance chi-square around it; the median and how far groups spread
    are the likeliest, groups of the same data counting as one together. Most groups have a single pair of runs, so their plain
    median would be too low; and their root mean square is ruled by two or three whose runs scatter widely.
    """
    known = [
        (group.data, (sd / gain.value) ** 2, min(repeats(group), MOST_FREEDOM))
        for group, gain in zip(groups, gains, strict=True)
        if (sd := seed_sd(group)) is not None
    ]
    if not known:
        return None
    weights = each_data_once([name for name, _, _ in known])
    variances, freedom = np.array([numbers for _, *numbers in known]).T[:, :, None]
    nodes, mass = np.polynomial.hermite_e.hermegauss(9)

    def likelihood(log_median: float, log_spread: float) -> float:
        log_variance = 2 * (log_median + math.exp(log_spread) * nodes)
        log_chance = -0.5 * freedom * (log_variance + np.maximum(variances, LEAST_VARIANCE) / np.exp(log_variance))
        usual = ((log_spread - math.log(USUAL_SPREAD)) / SPREAD_SD) ** 2
        return float(weights @ logsumexp(log_chance, axis=1, b=mass / mass.sum()) - 0.5 * usual)

    best, step = (math.log(0.1), math.log(USUAL_SPREAD)), 0.5  # a search by hand: scipy.optimize takes 0.2 s to import
    while step > SEARCHED:
        around = [(best[0] + i * step, best[1] + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        better = max(around, key=lambda both: likelihood(*both))
        best, step = better, step if better != best else step / 2
    return math.exp(best[0])


def misfit_of(groups: Sequence[Group], forgone: Sequence[Array], noise: float) -> float:
    """Standard deviation of a selection's share around the predicted one, for intervals of groups of other data.

    Errors of two selections are correlated by what they share. So the share differs from that of all modules by an error with
    variance 2·apart·misfit², beside the noise between seeds. Pooled over groups by :func:`_pooled`.
    """
    by_data: dict[str, list[float]] = {}
    for group, shares in zip(groups, forgone, strict=True):
        everything, others = group.selections.index(ALL_LINEAR), group.apart > 0
        if others.any():
            between_seeds = noise**2 * (1 / group.seeds + 1 / group.seeds[everything])
            variances = ((real_shares(group) - shares) ** 2 - between_seeds)[others] / (2 * group.apart[others])
            by_data.setdefault(group.data, []).append(float(variances.mean()))
    return math.sqrt(_pooled(by_data, PRIOR_MISFIT**2, noise))


def common_misfit(groups: Sequence[Group], forgone: Sequence[Array], noise: float, misfit: float) -> float:
    """Share, 0 to 1, of the variance of :func:`misfit_of` that all selections of a group have in common.

    What they do not have in common is seen in pairs: their shares differ from the predicted difference by an error with variance
    2·distance·own², beside the noise between seeds. Means are as for ``misfit``, and ``own`` never falls below half of ``noise``.
    """
    by_data: dict[str, list[float]] = {}
    for group, shares in zip(groups, forgone, strict=True):
        others = np.flatnonzero(group.apart > 0)
        if (distances := group.distances) is None or len(others) < 2:
            continue
        one, two = others[np.array(np.triu_indices(len(others), 1))]
        apart = float(distances[one, two].sum())
        if apart == 0:
            continue
        error = real_shares(group) - shares
        left = (error[one] - error[two]) ** 2 - noise**2 * (1 / group.seeds[one] + 1 / group.seeds[two])
        by_data.setdefault(group.data, []).append(float(left.sum()) / (2 * apart))
    if not by_data:
        return 0.0
    own = _pooled(by_data, (1 - PRIOR_COMMON) * misfit**2, noise)
    return max(0.0, 1.0 - own / misfit**2)


def tilt_of(groups: Sequence[Group], forgone: Sequence[Array], surprises: Sequence[float]) -> float:
    """By how much the share that a selection forgoes rises with log G, times the root of the share of modules that it leaves out.

    Where all modules win more than expected, others win less of it: what small sets reach is known better than what all modules
    do. By least squares of real shares less the predicted ones; means are over the groups of a data set, then over data sets.

    Args:
        surprises: of each group, log of what all modules really won over what was expected.
    """
    moments: dict[str, list[tuple[float, float]]] = {}
    for group, shares, surprise in zip(groups, forgone, surprises, strict=True):
        others = group.apart > 0
        if others.any():
            slope = surprise * np.sqrt(group.apart[others])
            error = (real_shares(group) - shares)[others]
            moments.setdefault(group.data, []).append((float(np.mean(slope * error)), float(np.mean(slope**2))))
    means = np.array([np.mean(found, 0) for found in moments.values()]).reshape(-1, 2)
    return float(means[:, 0].sum() / (means[:, 1].sum() + USUAL_SURPRISE**2))


def quietness_of(groups: Sequence[Group], forgone: Sequence[Array], log_gains: Sequence[float], usual: Spread) -> float:
    """Power of the trust in a group's gain by which its runs are quieter than those of a fully trusted one, 0 to 1.

    By least squares of the log of how far runs lie from what is predicted, over what they would at the gain of full trust, on
    the log of the trust, drawn to a usual power; groups of the same data count as one together.

    Args:
        log_gains: expected log G of each group.
    """
    found = []
    for group, shares, log_gain in zip(groups, forgone, log_gains, strict=True):
        everything, believed, others = group.selections.index(ALL_LINEAR), trust(group.context), group.apart > 0
        if believed < 1 and others.any():
            gain = math.exp(log_gain)
            error = (group.log_loss - group.log_loss[everything] - gain * shares)[others]
            seeds = 1 / group.seeds[others] + 1 / group.seeds[everything]
            expected = gain / believed * np.sqrt(2 * group.apart[others] * usual.misfit**2 + usual.noise**2 * seeds)
            ratio = max(math.sqrt(float(np.mean((error / expected) ** 2))), LEAST_RATIO)
            found.append((group.data, math.log(believed), math.log(ratio)))
    weights = each_data_once([name for name, _, _ in found])
    trusts, ratios = np.array([numbers for _, *numbers in found]).reshape(-1, 2).T
    moment, square = (weights * trusts) @ ratios, (weights * trusts) @ trusts
    own = QUIETNESS_TRUST**2
    return float(np.clip((moment + USUAL_QUIETNESS * own) / (square + own), 0.0, 1.0))


def _pooled(by_data: Mapping[str, Sequence[float]], usual: float, noise: float) -> float:
    """Variance of a misfit from those of groups by data set, for intervals of groups of other data.

    Its mean is over the groups of a data set, then over data sets, drawn to the ``usual`` one as by one of them. Few data sets
    say little of a variance: the interval of a new data set's error is Student's, with one degree of freedom less than there
    are data sets. The variance is widened so that a normal interval is as wide. It never falls below a quarter of ``noise``².
    """
    quantile = 0.5 + LEVEL / 2
    wider = float(stdtrit(max(len(by_data) - 1, 1), quantile) / ndtri(quantile))
    total = sum(float(np.mean(found)) for found in by_data.values()) + usual
    return wider**2 * max(total / (len(by_data) + 1), noise**2 / 4)
