"""What a few real runs of one group say of all its selections: an exact Bayesian update of the predictor's model.

    log loss of a run of S = H − G·(1 − r_S) + G·noise·e,    r_S = predicted share + tilt_S·log(G / its median) + misfit·u_S

r_S is the share of the gain G that S forgoes. H is Gaussian, G log-normal, u jointly Gaussian with a correlation of
1 − distance, e independent. Given G everything is Gaussian and conditioning is textbook linear algebra (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, A.6), so only a grid of log G is summed over, weighted by the marginal
likelihood of the runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]
GRID = np.linspace(-5.0, 5.0, 801)  # prior standard deviations of log G
LEAST_WEIGHT = 1e-12  # of a grid point, against the heaviest
LEAST_ERROR = 1e-4  # of a run's log loss: keeps the runs' covariance invertible, also where the gain is next to nothing
LEAST_VARIANCE = 1e-12  # of log G, to divide by
BISECTIONS = 60


@dataclass(frozen=True)
class Prior:
    """What is believed of S selections before any run.

    Attributes:
        start, start_sd: of H. gain, log_gain_sd: median of G, standard deviation of log G.
        forgone: [S] mean of r at the median of G, and tilt: [S] by how much it rises with log G. covariance: [S, S] of r at a
            known G. noise: between seeds, as a share of G.
    """

    start: float
    start_sd: float
    gain: float
    log_gain_sd: float
    forgone: Array
    covariance: Array
    noise: float
    tilt: Array | float = 0.0


@dataclass(frozen=True)
class Posterior:
    """A mixture over P values of G.

    Attributes:
        gain: geometric mean of G. log_gain_sd: standard deviation of log G.
        forgone: [S] mean of r; tilt: [S] by how much it rises with log G. covariance: [S, S] of r beside that.
        weights: [P]. centres, spreads: [P, S] mean and standard deviation of the log loss of one more run.
    """

    gain: float
    log_gain_sd: float
    forgone: Array
    tilt: Array
    covariance: Array
    weights: Array
    centres: Array
    spreads: Array

    def quantile(self, level: float) -> Array:
        """[S] quantile of the log loss of one more run, by bisection of the mixture's distribution function."""
        low, high = (self.centres - 9 * self.spreads).min(0), (self.centres + 9 * self.spreads).max(0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.weights @ ndtr((middle - self.centres) / self.spreads) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2)


def update(prior: Prior, observed: Sequence[int], log_losses: Sequence[float]) -> Posterior:
    """The posterior given one log loss for each entry of ``observed``, indices of selections (twice: two seeds).

    With y the runs, A = Cov(y | G) and X = Cov(·, y | G): mean + X A⁻¹ (y − E y), covariance − X A⁻¹ Xᵀ.
    """
    at = np.asarray(observed, dtype=np.int64)
    shared, start_variance = prior.covariance[:, at], prior.start_sd**2
    gains = prior.gain * np.exp(prior.log_gain_sd * GRID)

    def variance(gain: Array) -> Array:
        own = (gain**2 * prior.noise**2 + LEAST_ERROR**2)[:, None, None] * np.eye(len(at))
        return np.asarray(gain[:, None, None] ** 2 * shared[at] + own + start_variance)

    expected = prior.forgone + prior.tilt * (prior.log_gain_sd * GRID)[:, None]  # of r at each gain, [P, S]
    surprise = np.asarray(log_losses, dtype=np.float64) - (prior.start - gains[:, None] * (1 - expected[:, at]))
    solved = np.linalg.solve(variance(gains), surprise[:, :, None])[:, :, 0]
    likelihood = -0.5 * ((surprise * solved).sum(1) + np.linalg.slogdet(variance(gains))[1])
    log_weights = likelihood - 0.5 * GRID**2
    kept = log_weights > log_weights.max() + np.log(LEAST_WEIGHT)
    weights = np.exp(log_weights[kept] - log_weights.max())
    weights /= weights.sum()
    gains, solved, expected = gains[kept], solved[kept], expected[kept]
    inverse = np.linalg.inv(variance(gains))
    forgone = expected + gains[:, None] * (solved @ shared.T)
    mean, log_gain = weights @ forgone, weights @ np.log(gains)
    apart = np.log(gains) - log_gain
    variance_left = float(weights @ apart**2)
    tilt = (weights * apart) @ forgone / max(variance_left, LEAST_VARIANCE)
    around = forgone - mean - apart[:, None] * tilt
    explained = shared @ np.einsum("p,pkl->kl", weights * gains**2, inverse) @ shared.T
    centres = prior.start + start_variance * solved.sum(1, keepdims=True) - gains[:, None] * (1 - forgone)
    cross = start_variance + gains[:, None, None] ** 2 * shared  # of a selection's log loss and the runs, [P, S, k]
    own = start_variance + gains[:, None] ** 2 * np.diag(prior.covariance)
    left = own - np.einsum("psk,pkl,psl->ps", cross, inverse, cross, optimize=True)
    return Posterior(
        gain=float(np.exp(log_gain)),
        log_gain_sd=math.sqrt(variance_left),
        forgone=mean,
        tilt=tilt,
        covariance=prior.covariance - explained + (weights[:, None] * around).T @ around,
        weights=weights,
        centres=centres,
        spreads=np.sqrt(np.clip(left, 0.0, None) + (gains[:, None] * prior.noise) ** 2),
    )
