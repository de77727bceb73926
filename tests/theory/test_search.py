"""The surrogate against alignment itself; the search against random and exhaustive selections."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from fakes import random_kernels
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advisor.core.errors import BudgetTooSmall
from advisor.theory.kernels import Kernels
from advisor.theory.spectrum import alignment
from advisor.theory.surrogate import Surrogate, fill_budget, pareto, unit_matrix

N = 14


def targets_of(seed: int, columns: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(N) % 2, 1.0, -1.0)[:, None]
    return y if columns == 1 else np.eye(columns)[rng.integers(0, columns, N)]


def informed(seed: int, modules: int) -> Kernels:
    """Some modules' blocks carry the label."""
    kernels = random_kernels(seed, modules, N)
    y = targets_of(seed)
    shares = np.random.default_rng(seed).uniform(0, 1, modules) ** 3
    sizes = np.einsum("mii->m", kernels.blocks) / N
    return Kernels("adam", kernels.blocks + (shares * sizes)[:, None, None] * (y @ y.T), kernels.head)


@given(st.integers(0, 500), st.integers(0, 2**6 - 1), st.sampled_from([1, 3]))
@settings(deadline=None)
def test_surrogate_is_the_alignment_and_flips_are_flips(seed: int, bits: int, columns: int) -> None:
    kernels, y = random_kernels(seed, 6, N), targets_of(seed, columns)
    surrogate = Surrogate.of(kernels, y, np.eye(6, dtype=bool))
    mask = np.array([bool(bits >> i & 1) for i in range(6)])
    assert surrogate.value(mask) == pytest.approx(alignment(kernels.of(mask[None].astype(float))[0], y), abs=1e-9)
    flipped = surrogate.after_flips(mask)
    for unit in range(6):
        other = mask.copy()
        other[unit] = ~other[unit]
        assert flipped[unit] == pytest.approx(alignment(kernels.of(other[None].astype(float))[0], y), abs=1e-9)


def test_units_move_together() -> None:
    kernels, y = random_kernels(0, 6, N), targets_of(0)
    units = unit_matrix(["a", "b", "a", "c", "b", "a"])
    assert units.tolist() == [[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]]
    value = Surrogate.of(kernels, y, units).value(np.array([True, False, True]))
    assert value == pytest.approx(alignment(kernels.of(np.array([[1.0, 0, 1, 1, 0, 1]]))[0], y))


def test_without_a_head_the_empty_selection_has_no_alignment() -> None:
    surrogate = Surrogate.of(random_kernels(0, 3, N, head=False), targets_of(0), np.eye(3, dtype=bool))
    assert surrogate.value(np.zeros(3, dtype=bool)) == 0.0
    assert np.isfinite(surrogate.after_flips(np.array([True, False, False]))).all()


@given(st.integers(0, 500), st.floats(0.05, 1.0))
@example(197, 0.0625)  # the only module that fits aligns worse than the head alone
@settings(max_examples=40, deadline=None)
def test_budget_is_kept_and_used(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    kernels = informed(seed, 10)
    sizes = rng.integers(5, 40, 10)
    budget = max(int(sizes.min()), int(share * sizes.sum()))
    mask = fill_budget(Surrogate.of(kernels, targets_of(seed), np.eye(10, dtype=bool)), sizes, budget)
    assert mask.any()
    assert sizes[mask].sum() <= budget
    # full, but for a unit that was worth less than leaving its room empty after a swap
    fits = ~mask & (sizes <= budget - sizes[mask].sum())
    assert fits.sum() <= 1


def test_against_random_and_exhaustive_at_ten_modules() -> None:
    """Over 12 problems; regret in units of the spread between the best and the mean random selection."""
    regrets, beaten = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        kernels = informed(seed, 10)
        sizes = rng.integers(5, 40, 10)
        budget = int(0.4 * sizes.sum())
        surrogate = Surrogate.of(kernels, targets_of(seed), np.eye(10, dtype=bool))
        found = surrogate.value(fill_budget(surrogate, sizes, budget))
        masks = [np.array(bits, dtype=bool) for bits in product([0, 1], repeat=10)]
        left = [budget - sizes[mask].sum() for mask in masks]
        full = [m for m, rest in zip(masks, left, strict=True) if rest >= 0 and not (~m & (sizes <= rest)).any()]
        values = np.array([surrogate.value(mask) for mask in full])
        regrets.append((values.max() - found) / (values.max() - values.mean()))
        beaten.append(float((values < found).mean()))
    message = f"regret: mean {np.mean(regrets):.4f}, worst {np.max(regrets):.4f}; beats {np.mean(beaten):.1%}"
    assert np.mean(regrets) <= 0.03, message
    assert np.max(regrets) <= 0.2, message
    assert np.mean(beaten) >= 0.97, message


def test_too_small_a_budget() -> None:
    surrogate = Surrogate.of(random_kernels(0, 3, N), targets_of(0), np.eye(3, dtype=bool))
    with pytest.raises(BudgetTooSmall, match="below the smallest"):
        fill_budget(surrogate, np.array([10, 20, 30]), 9)
    assert fill_budget(surrogate, np.array([10, 20, 30]), 10).tolist() == [True, False, False]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-10, 10)), min_size=1, max_size=30))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    costs, values = np.array([p[0] for p in points]), np.array([float(p[1]) for p in points])
    front = pareto(costs, values)
    on_front = {(costs[i], values[i]) for i in front}
    assert (np.diff(costs[front]) > 0).all()
    assert (np.diff(values[front]) > 0).all()
    for cost, value in points:
        beaten = any((c <= cost and v >= value) and (c < cost or v > value) for c, v in points)
        assert ((cost, value) in on_front) == (not beaten)
