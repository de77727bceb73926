"""The certificate by brute force over every addition."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from fakes import random_kernels
from hypothesis import given
from hypothesis import strategies as st

from advisor.bounds import certificate

M, N = 5, 12
MASKS = [np.array(bits, dtype=float) for bits in product([0, 1], repeat=M)]


def objective(kernel: np.ndarray, z: np.ndarray, sigma: float) -> float:
    return float(sigma * np.trace(z.T @ np.linalg.solve(kernel + sigma * np.eye(len(z)), z)))


def brute(kernels, mask: np.ndarray, with_head: bool = True) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.asarray(np.einsum("m,mij->ij", mask, kernels.blocks) + with_head * kernels.head)


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("relative_sigma", [1e-4, 1e-2, 10.0])
def test_exact_over_all_additions(relative_sigma: float, with_head: bool) -> None:
    kernels = random_kernels(3, M, N)
    z = np.random.default_rng(0).normal(size=(N, 2))
    sigma = relative_sigma * np.trace(kernels.blocks.sum(0)) / N
    values = [objective(brute(kernels, mask, with_head), z, sigma) for mask in MASKS]
    informative = 0
    for mask, own in zip(MASKS, values, strict=True):
        bound = certificate(kernels, mask, z, sigma, with_head)
        ratios = [
            v / own for other, v in zip(MASKS, values, strict=True) if (other >= mask).all()
        ]
        assert bound.low == pytest.approx(min(ratios), rel=1e-7)  # reached: by adding everything
        assert max(ratios) <= bound.high * (1 + 1e-9)
        assert bound.high == 1.0
        informative += bound.low < 0.999
    assert informative >= 2**M - 2


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_objective_never_rises_when_modules_are_added(seed: int, relative: float) -> None:
    rng = np.random.default_rng(seed)
    kernels = random_kernels(seed, M, N, rank=int(rng.integers(1, N)))
    z = rng.normal(size=(N, int(rng.integers(1, 4))))
    sigma = relative * kernels.default_sigma()
    mask = np.zeros(M)
    previous = certificate(kernels, mask, z, sigma).low
    for m in rng.permutation(M):
        mask[m] = 1
        now = certificate(kernels, mask, z, sigma).low
        assert previous <= now * (1 + 1e-7)  # V(all) is the same, so V(S) must not have risen
        previous = now
    assert previous == pytest.approx(1.0)


def test_everything_adapted_leaves_nothing_to_gain() -> None:
    kernels = random_kernels(1, M, N)
    bound = certificate(kernels, np.ones(M), np.ones((N, 1)), 1.0)
    assert (bound.low, bound.high) == (pytest.approx(1.0), 1.0)
    assert bound.low <= 1.0


def test_nothing_to_fit_leaves_nothing_to_gain() -> None:
    bound = certificate(random_kernels(1, M, N), np.zeros(M), np.zeros((N, 1)), 1.0)
    assert bound.low == bound.high == 1.0


def test_as_plain_data() -> None:
    kernels = random_kernels(1, M, N)
    bound = certificate(kernels, np.zeros(M), np.ones((N, 1)), 0.5, with_head=False).as_dict()
    assert list(bound) == ["id", "quantity", "added", "kernel", "head", "sigma", "low", "high", "status", "reason"]
    assert (bound["id"], bound["quantity"], bound["added"]) == ("C", "V(all)/V(S)", "rest")
    assert (bound["head"], bound["sigma"], bound["kernel"]) == (False, 0.5, "adam")
    assert (bound["status"], bound["reason"]) == ("applies", None)
