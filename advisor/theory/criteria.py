"""Ways to choose a selection under a budget besides the prediction: one number of its kernel, to be made small (no torch).

``objective`` minimises V(K_S) = σzᵀ(K_S+σI)⁻¹z, the ridge objective that bounds B and C speak of. ``spectral-ratio`` is
Algorithm 2 of Afzal et al. (arXiv 2602.08239): r_C = λmax(K+S_C+σI)/λmax(K+σI), K the head's block. ``condition-number``
is their metric κ(K_S+σI). Real runs show that neither of the last two ranks selections (see the README); they are here to
be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.core.choices import OBJECTIVE, SPECTRAL_RATIO
from advisor.theory.kernels import Array, Kernels
from advisor.theory.spectrum import Spectrum

RITZ = 6  # eigenvectors at either end of the spectrum that eigenvalues are bounded on
LEAST_GAIN = 1e-9  # an exchange that gains less, relative, is taken for rounding
ROUNDING = 100 * float(np.finfo(np.float64).eps)  # relative error of (K+σI)⁻¹ in float64, times its condition


@dataclass(frozen=True)
class Criterion:
    """The number a strategy makes small, of a kernel [n, n].

    Attributes:
        strategy: one of :data:`advisor.core.choices.STRATEGIES` but ``predicted``. z: residual target [n, c]. sigma: σ.
        base: λmax of the head's block, which Algorithm 2 divides by.
    """

    strategy: str
    z: Array
    sigma: float
    base: float

    @classmethod
    def of(cls, strategy: str, kernels: Kernels, z: Array, sigma: float) -> Criterion:
        return cls(strategy, z, sigma, float(np.linalg.eigvalsh(kernels.head)[-1]))

    def value(self, kernel: Array) -> float:
        """V, r or κ; lower is better."""
        if self.strategy == OBJECTIVE:
            return self.sigma * float(np.sum(self.z * np.linalg.solve(kernel + self.sigma * np.eye(len(kernel)), self.z)))
        values = np.clip(np.linalg.eigvalsh(kernel), 0.0, None)
        if self.strategy == SPECTRAL_RATIO:
            return float((values[-1] + self.sigma) / (self.base + self.sigma))
        return Spectrum(values, np.empty(0)).condition_number(self.sigma)

    def lower_bounds(self, kernel: Array, parts: Array) -> Array:
        """What ``value(kernel + part)`` cannot fall below, for each PSD part [U, n, n]; O(n²) a part.

        For V the larger of two: V is convex in the kernel, so V(K+S) ≥ V(K) − σΣ_c u_cᵀSu_c with u = (K+σI)⁻¹z; and
        bound B with η_σ ≤ tr((K+σI)⁻¹S). For r and κ by Rayleigh and Ritz: on a subspace, here of K's outer eigenvectors, the
        largest eigenvalue is no larger than on the whole space, and the smallest no smaller. All are lowered by what rounding
        may have raised them by, λmax ≤ tr(K+S) taken for the condition.
        """
        size = np.trace(kernel) + np.einsum("uii->u", parts)
        rounding = ROUNDING * (1.0 + size / self.sigma)
        if self.strategy != OBJECTIVE:
            ritz = _ritz_values(kernel, parts)
            least = self.base if self.strategy == SPECTRAL_RATIO else np.clip(ritz[:, 0], 0.0, None)
            return np.asarray((ritz[:, -1] + self.sigma) / (least + self.sigma) * (1.0 - rounding))
        inverse = np.linalg.inv(kernel + self.sigma * np.eye(len(kernel)))
        u = inverse @ self.z
        value = self.sigma * float(np.sum(self.z * u))
        flat = parts.reshape(len(parts), -1)
        tangent = value - self.sigma * (flat @ (u @ u.T).reshape(-1))
        by_trace = value / (1.0 + np.clip(flat @ inverse.reshape(-1), 0.0, None))
        return np.asarray(np.maximum(tangent, by_trace) - value * rounding)


def _ritz_values(kernel: Array, parts: Array) -> Array:
    """Ritz values of each ``kernel + part``, ascending, on the kernel's eigenvectors of the ``RITZ`` least and largest values."""
    values, vectors = np.linalg.eigh(kernel)
    n = len(values)
    outer = np.unique(np.r_[: min(RITZ, n), max(n - RITZ, 0) : n])
    basis = vectors[:, outer]
    moved = (parts.reshape(-1, n) @ basis).reshape(len(parts), n, -1)
    return np.linalg.eigvalsh(np.diag(values[outer]) + basis.T @ moved)


@dataclass
class Filled:
    """A selection of units that fills a budget, and how many kernels were evaluated to find it."""

    mask: NDArray[np.bool_]
    value: float
    evaluations: int


def fill_by(
    criterion: Criterion,
    kernels: Kernels,
    units: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    ceiling: int,
    *,
    pruned: bool = True,
) -> Filled:
    """Greedy adds while something fits, then single exchanges while they help.

    ``pruned`` skips every candidate whose lower bound is above the best value seen: by the bounds it cannot win, so the
    selection returned is the one that ``pruned=False`` returns.

    Args:
        units: [U, M], the modules that move together. sizes: [U]. ceiling: most Σ sizes.
    """
    parts = (units.astype(np.float64) @ kernels.blocks.reshape(len(kernels.blocks), -1)).reshape(-1, *kernels.head.shape)
    search = _Search(criterion, parts, pruned)
    chosen: list[int] = []
    left, value = ceiling, criterion.value(kernels.head)
    exchanged = True
    while exchanged:
        while (found := search.best(kernels.head + parts[chosen].sum(0), _fitting(sizes, left, chosen))) is not None:
            chosen.append(found[0])
            left, value = left - int(sizes[found[0]]), found[1]
        exchanged = False
        for unit in list(chosen):
            rest = [u for u in chosen if u != unit]
            without = kernels.head + parts[rest].sum(0)
            found = search.best(without, _fitting(sizes, left + int(sizes[unit]), rest), below=value)
            if found is not None and found[1] < value * (1 - LEAST_GAIN):
                chosen, exchanged, value = [*rest, found[0]], True, found[1]
                left += int(sizes[unit]) - int(sizes[found[0]])
    mask = np.zeros(len(sizes), dtype=bool)
    mask[chosen] = True
    return Filled(mask, value, search.evaluations)


def fills(sizes: NDArray[np.int64], mask: NDArray[np.bool_], ceiling: int) -> bool:
    """Whether nothing more fits beside the masked units."""
    return not len(_fitting(sizes, ceiling - int(sizes[mask].sum()), np.flatnonzero(mask)))


def _fitting(sizes: NDArray[np.int64], left: int, chosen: Sequence[int] | NDArray[np.intp]) -> NDArray[np.intp]:
    free = sizes <= left
    free[list(chosen)] = False
    return np.flatnonzero(free)


@dataclass
class _Search:
    criterion: Criterion
    parts: Array
    pruned: bool
    evaluations: int = 0

    def best(self, kernel: Array, units: NDArray[np.intp], below: float = np.inf) -> tuple[int, float] | None:
        """The unit whose addition gives the lowest value, the first of equals, and that value; None if no unit is given
        or, when pruned, none can come below ``below``."""
        if not len(units):
            return None
        bounds = self.criterion.lower_bounds(kernel, self.parts[units]) if self.pruned else np.full(len(units), -np.inf)
        best: tuple[float, int] = (np.inf, -1)
        for position in np.argsort(bounds, kind="stable"):
            if bounds[position] > min(best[0], below):
                break
            unit = int(units[position])
            self.evaluations += 1
            best = min(best, (self.criterion.value(kernel + self.parts[unit]), unit))
        return None if best[1] < 0 else (best[1], best[0])
