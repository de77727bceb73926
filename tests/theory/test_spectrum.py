"""Closed forms of one kernel against direct inverses, refits, integration and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import random_psd
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

from advisor.theory.spectrum import LOO_RIDGES, Spectrum, alignment

N, C = 11, 3
sizes = st.floats(1e-4, 1e3)
seeds = st.integers(0, 10_000)


def case(seed: int, rank: int = 6, columns: int = C) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return random_psd(rng, 1, N, rank)[0], rng.normal(size=(N, columns))


@given(seeds, sizes)
def test_ridge_quantities_equal_direct_inverses(seed: int, sigma: float) -> None:
    kernel, z = case(seed)
    spectrum = Spectrum.of(kernel)
    inverse = np.linalg.inv(kernel + sigma * np.eye(N))
    assert spectrum.ridge_risk(z, sigma) == pytest.approx(sigma**2 * np.sum((inverse @ z) ** 2), rel=1e-5)
    assert spectrum.objective(z, sigma) == pytest.approx(sigma * np.trace(z.T @ inverse @ z), rel=1e-5)
    condition = np.linalg.cond(kernel + sigma * np.eye(N))
    assert spectrum.condition_number(sigma) == pytest.approx(condition, rel=1e-4)


def test_objective_is_the_minimum_of_the_ridge_problem() -> None:
    """min over a of ‖z − Ka‖² + σ aᵀKa, by least squares on the stacked problem."""
    kernel, z = case(1, rank=N)
    sigma = 0.7
    root = np.linalg.cholesky(kernel + 1e-12 * np.eye(N)).T
    stacked = np.vstack([kernel, np.sqrt(sigma) * root])
    _, residual, *_ = np.linalg.lstsq(stacked, np.vstack([z, np.zeros((N, C))]), rcond=None)
    assert Spectrum.of(kernel).objective(z, sigma) == pytest.approx(residual.sum(), rel=1e-6)


@given(seeds, st.sampled_from(LOO_RIDGES))
def test_leave_one_out_equals_refits(seed: int, ridge: float) -> None:
    kernel, z = case(seed)
    sigma = ridge * np.trace(kernel) / N
    errors = []
    for i in range(N):
        keep = np.arange(N) != i
        model = KernelRidge(alpha=sigma, kernel="precomputed").fit(kernel[np.ix_(keep, keep)], z[keep])
        errors.append(np.sum((z[i] - model.predict(kernel[i : i + 1, keep])[0]) ** 2))
    assert Spectrum.of(kernel).leave_one_out(z, sigma) == pytest.approx(np.mean(errors), rel=1e-5)


def test_best_leave_one_out_is_the_smallest_over_the_ridges() -> None:
    kernel, z = case(3)
    spectrum = Spectrum.of(kernel)
    every = [spectrum.leave_one_out(z, r * np.trace(kernel) / N) for r in LOO_RIDGES]
    assert spectrum.best_leave_one_out(z) == pytest.approx(min(every))
    assert len({round(e, 6) for e in every}) > 1


@given(seeds, sizes, st.integers(1, N))
def test_theorem_5_encloses_the_ridge_risk(seed: int, sigma: float, rank: int) -> None:
    kernel, z = case(seed, rank)
    spectrum = Spectrum.of(kernel)
    size, risk = np.linalg.norm(z), spectrum.ridge_risk(z, sigma)
    low = (sigma * size / (sigma + spectrum.values[-1])) ** 2
    high = (sigma * size / (sigma + spectrum.values[0])) ** 2
    assert low * (1 - 1e-9) <= risk <= high * (1 + 1e-9)


@given(seeds, st.integers(1, N))
def test_effective_rank_lies_between_one_and_the_rank(seed: int, rank: int) -> None:
    effective = Spectrum.of(case(seed, rank)[0]).effective_rank()
    assert 1 - 1e-9 <= effective <= rank * (1 + 1e-6)


def test_effective_rank_of_known_spectra() -> None:
    assert Spectrum.of(np.zeros((N, N))).effective_rank() == 0.0
    assert Spectrum.of(3 * np.eye(N)).effective_rank() == pytest.approx(N)
    assert Spectrum.of(np.ones((N, N))).effective_rank() == pytest.approx(1.0)
    assert Spectrum.of(np.diag([1.0, 1.0, 0.0, 0.0])).effective_rank() == pytest.approx(2.0)


def test_negative_rounding_is_clipped() -> None:
    kernel = np.outer(np.arange(5.0), np.arange(5.0))
    assert (Spectrum.of(kernel).values >= 0).all()
    assert Spectrum.of(kernel).condition_number(1e-4) == pytest.approx((30 + 1e-4) / 1e-4)


@given(seeds)
def test_alignment_by_explicit_centring(seed: int) -> None:
    kernel, y = case(seed)
    h = np.eye(N) - np.ones((N, N)) / N
    a, b = h @ kernel @ h, h @ (y @ y.T) @ h
    direct = np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
    value = alignment(kernel, y)
    assert value == pytest.approx(direct, rel=1e-9)
    assert -1e-12 <= value <= 1 + 1e-12


@given(seeds, st.floats(0.01, 100), st.floats(-5, 5))
def test_alignment_ignores_scale_shift_and_order(seed: int, scale: float, shift: float) -> None:
    kernel, y = case(seed)
    value = alignment(kernel, y)
    assert alignment(scale * kernel, y) == pytest.approx(value)
    assert alignment(kernel + abs(shift), y + shift) == pytest.approx(value, rel=1e-6)
    order = np.random.default_rng(seed).permutation(N)
    assert alignment(kernel[np.ix_(order, order)], y[order]) == pytest.approx(value)


def test_alignment_is_one_for_the_target_itself_and_zero_without_contrast() -> None:
    y = np.array([1.0, -1, 1, -1])[:, None]
    assert alignment(y @ y.T, y) == pytest.approx(1.0)
    assert alignment(y @ y.T, np.ones((4, 1))) == 0.0
    assert alignment(np.zeros((4, 4)), y) == 0.0
    assert alignment(np.ones((4, 4)), y) == 0.0
