"""Selections under a budget: a surrogate that costs O(M) a move, searched by add, drop and swap (no torch).

The surrogate is the centred kernel-target alignment of the selection's kernel, which is a ratio of a linear and the
root of a quadratic form in the mask: ⟨K_S, YYᵀ⟩ = h + aᵀs and ‖HK_SH‖² = sᵀQs + 2qᵀs + r. Finalists are scored by
the regressor elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import BudgetTooSmall
from advisor.theory.kernels import Array, Kernels

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Surrogate:
    """Alignment as a function of the mask over units (modules, roles or layers).

    Attributes:
        linear: a [U]. offset: h. quadratic: Q [U, U]. cross: q [U]. constant: r.
    """

    linear: Array
    offset: float
    quadratic: Array
    cross: Array
    constant: float

    @classmethod
    def of(cls, kernels: Kernels, y: Array, units: NDArray[np.bool_]) -> Surrogate:
        """From additive blocks; ``units`` [U, M] says which modules move together."""
        n = len(y)
        centring = np.eye(n) - 1.0 / n
        blocks = units.astype(np.float64) @ kernels.blocks.reshape(len(kernels.blocks), -1)
        parts = np.vstack([blocks, kernels.head.reshape(1, -1)]).reshape(-1, n, n)
        centred = (centring @ parts @ centring).reshape(len(parts), -1)
        yc = y - y.mean(0)
        against = centred @ (yc @ yc.T).reshape(-1) / (np.linalg.norm(yc @ yc.T) or 1.0)
        gram = centred @ centred.T
        return cls(against[:-1], float(against[-1]), gram[:-1, :-1], gram[:-1, -1], float(gram[-1, -1]))

    def value(self, mask: Mask) -> float:
        """Alignment of one selection of units."""
        s = mask.astype(np.float64)
        size = s @ self.quadratic @ s + 2 * self.cross @ s + self.constant
        return float((self.offset + self.linear @ s) / np.sqrt(size)) if size > 0 else 0.0

    def after_flips(self, mask: Mask) -> Array:
        """Alignment after flipping each unit alone, [U]."""
        s = mask.astype(np.float64)
        sign = np.where(mask, -1.0, 1.0)
        pull = self.quadratic @ s
        size = s @ pull + 2 * self.cross @ s + self.constant
        size = size + 2 * sign * (pull + self.cross) + np.diag(self.quadratic)
        top = self.offset + self.linear @ s + sign * self.linear
        return np.where(size > 0, top / np.sqrt(np.where(size > 0, size, 1.0)), 0.0)


def fill_budget(surrogate: Surrogate, sizes: NDArray[np.int64], budget: int, start: Mask | None = None) -> Mask:
    """A selection of at most ``budget`` parameters: greedy adds, then the best drop-and-refill swaps until none helps.

    Adds go on while they fit even where alignment falls: a budget is meant to be used, and how much of it pays is
    for the regressor to say.

    Raises:
        BudgetTooSmall: not even the smallest unit fits.
    """
    if sizes.min() > budget:
        raise BudgetTooSmall(
            f"The budget of {budget:,} LoRA parameters is below the smallest choice, {int(sizes.min()):,}.",
            "Raise --budget, lower --rank, or use --granularity module.",
        )
    mask = np.zeros(len(sizes), dtype=bool) if start is None else start.copy()
    left = budget - int(sizes[mask].sum())
    left = _add_greedily(surrogate, sizes, mask, left)
    value = surrogate.value(mask)
    for _ in range(2 * len(sizes)):
        best_mask, best_left = None, left
        order = np.argsort(-np.where(mask, surrogate.after_flips(mask), -np.inf))[:8]  # drops that cost least
        for unit in order:
            if not mask[unit]:
                continue
            trial = mask.copy()
            trial[unit] = False
            trial_left = _add_greedily(surrogate, sizes, trial, left + int(sizes[unit]), banned=int(unit))
            trial_value = surrogate.value(trial)
            if trial.any() and trial_value > value + 1e-12:  # no modules at all is no selection
                best_mask, best_left, value = trial, trial_left, trial_value
        if best_mask is None:
            return mask
        mask, left = best_mask, best_left
    return mask


def _add_greedily(surrogate: Surrogate, sizes: NDArray[np.int64], mask: Mask, left: int, banned: int | None = None) -> int:
    """Add to ``mask`` in place the unit that leaves alignment highest, while one fits; returns what is left."""
    while True:
        fits = ~mask & (sizes <= left)
        if banned is not None:
            fits[banned] = False
        if not fits.any():
            return left
        unit = int(np.argmax(np.where(fits, surrogate.after_flips(mask), -np.inf)))
        mask[unit] = True
        left -= int(sizes[unit])


def pareto(costs: NDArray[Any], values: Array) -> list[int]:
    """Indices of selections no other beats in both cost (lower) and value (higher), cheapest first."""
    front: list[int] = []
    best = -np.inf
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i])):
        if values[i] > best:
            front.append(i)
            best = float(values[i])
    return front


def unit_matrix(labels: Sequence[str]) -> NDArray[np.bool_]:
    """[U, M] from a label per module: modules of one label move together, units in order of first appearance."""
    names = list(dict.fromkeys(labels))
    return np.array([[label == name for label in labels] for name in names], dtype=bool)
