"""The simulated run against a per-selection loop written from its definition (DESIGN 2.4)."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import random_psd
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.probe_folder import stratified_folds
from advisor.simulate import (
    EFFICIENCY,
    MAX_STEPS,
    STEPS,
    STRIDE,
    _largest_eigenvalues,
    recipe_steps,
    simulate,
)

N = 16
TASKS = ("binary", "three", "regression", "causal-lm")


def case(kind: str, seed: int = 0, count: int = 3) -> tuple[np.ndarray, str, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % (3 if kind == "three" else 2)
    task = {"binary": "classification", "three": "classification"}.get(kind, kind)
    if kind == "three":
        y = np.eye(3)[labels] - 1 / 3
    elif kind == "binary":
        y = np.where(labels == 1, 1.0, -1.0)[:, None]
    elif kind == "regression":
        y = rng.normal(size=(N, 1))
    else:
        y = np.ones((N, 1))
    f0 = rng.normal(size=y.shape)
    return random_psd(rng, count, N), task, y, f0, stratified_folds(labels, seed)


def example_loss(task: str, f: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss of one example and its slope; f and y are vectors."""
    if task == "regression":
        return 0.5 * float((f[0] - y[0]) ** 2), f - y
    if len(y) == 1:
        sign = y[0]
        return float(np.log(1 + np.exp(-sign * f[0]))), np.array([-sign / (1 + np.exp(sign * f[0]))])
    p = np.exp(f) / np.exp(f).sum()
    target = int(np.argmax(y))
    return float(-np.log(p[target])), p - np.eye(len(y))[target]


def naive(
    kernel: np.ndarray, task: str, y: np.ndarray, f0: np.ndarray, folds: np.ndarray, steps: np.ndarray | None
) -> tuple[float, float, float]:
    """Lowest mean held-out loss, the training loss at that step, and the step as a share."""
    n = len(y)
    count = STEPS if steps is None else len(steps)
    curves, train_curves = np.zeros((4, count)), np.zeros((4, count))
    for fold in range(4):
        train = [i for i in range(n) if folds[i] != fold]
        held = [i for i in range(n) if folds[i] == fold]
        f = f0.copy() if task == "causal-lm" else np.zeros_like(y)
        if steps is None:
            largest = np.linalg.eigvalsh(kernel[np.ix_(train, train)])[-1]
            sizes = np.full(STEPS, (1.0 if task == "regression" else 2.0) / largest)
        else:
            sizes = steps * n / len(train)
        for k, h in enumerate(sizes):
            slopes = np.array([example_loss(task, f[i], y[i])[1] for i in train])
            f = f - h * kernel[:, train] @ slopes
            curves[fold, k] = np.mean([example_loss(task, f[i], y[i])[0] for i in held])
            train_curves[fold, k] = np.mean([example_loss(task, f[i], y[i])[0] for i in train])
    curve = curves.mean(0)
    best = int(np.argmin(curve))
    return curve[best], train_curves.mean(0)[best], (best + 1) / count


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("given_steps", [True, False])
def test_equals_the_loop(kind: str, given_steps: bool) -> None:
    kernels, task, y, f0, folds = case(kind)
    if not given_steps:  # a wide gap, so that power iteration has converged
        kernels = kernels + 30 * np.ones((N, N)) * np.trace(kernels[0]) / N
    steps = np.linspace(0.02, 0.001, 17) / np.trace(kernels[0]) * N if given_steps else None
    got = simulate(kernels, task, y, f0, folds, steps)
    for s, kernel in enumerate(kernels):
        wanted = naive(kernel, task, y, f0, folds, steps)
        np.testing.assert_allclose((got.loss[s], got.train_loss[s], got.stop[s]), wanted, rtol=1e-6)


def test_selections_do_not_see_each_other() -> None:
    kernels, task, y, f0, folds = case("three", count=4)
    together = simulate(kernels, task, y, f0, folds)
    for s in range(4):
        alone = simulate(kernels[s : s + 1], task, y, f0, folds)
        assert alone.loss[0] == pytest.approx(together.loss[s])


def test_regression_with_many_steps_is_kernel_regression() -> None:
    """Where held-out loss only falls, its end is that of interpolation: f_V = K_VT K_TT⁻¹ y_T."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(-1, 1, N))
    kernel = np.exp(-np.subtract.outer(x, x) ** 2 / 0.02) + 0.3 * np.eye(N)
    y = (np.sin(3 * x) * 1.0)[:, None]
    folds = stratified_folds(np.arange(N), 0)
    wanted = []
    for fold in range(4):
        train, held = folds != fold, folds == fold
        f = kernel[np.ix_(held, train)] @ np.linalg.solve(kernel[np.ix_(train, train)], y[train])
        wanted.append(0.5 * np.mean((f - y[held]) ** 2))
    got = simulate(kernel[None], "regression", y, np.zeros_like(y), folds, np.full(3000, 0.02))
    assert got.stop[0] > 0.5
    assert got.loss[0] == pytest.approx(np.mean(wanted), rel=0.02)
    assert got.train_loss[0] < 1e-3


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_power_iteration_is_close_to_the_largest_eigenvalue(seed: int) -> None:
    kernels, _, _, _, folds = case("binary", seed)
    train = (folds[:, None] != np.arange(4)).astype(float)
    found = _largest_eigenvalues(kernels, train)
    for s, kernel in enumerate(kernels):
        for fold in range(4):
            keep = train[:, fold] > 0
            exact = np.linalg.eigvalsh(kernel[np.ix_(keep, keep)])[-1]
            assert 0.8 * exact <= found[s, fold] <= exact * (1 + 1e-9)


def test_power_iteration_survives_a_start_vector_nearly_orthogonal_to_the_top() -> None:
    """Top direction alternates in sign, the second is constant like the start; under half would make steps unstable."""
    sign = np.where(np.arange(N) % 2, 1.0, -1.0)
    train = (stratified_folds(np.arange(N) % 2, 0)[:, None] != np.arange(4)).astype(float)
    for ratio in (1.05, 1.3, 2.0, 10.0):
        kernel = ratio * np.outer(sign, sign) + np.ones((N, N))
        found = _largest_eigenvalues(kernel[None], train)
        exact = [np.linalg.eigvalsh(kernel[np.ix_(t > 0, t > 0)])[-1] for t in train.T]
        assert (found[0] > 0.6 * np.array(exact)).all()


@pytest.mark.parametrize(("lr", "optimizer_steps"), [(1e-3, 96), (2e-4, 40), (2e-4, 17), (1.0, 1)])
def test_recipe_steps_go_as_far_as_a_linear_schedule(lr: float, optimizer_steps: int) -> None:
    steps = recipe_steps(lr, optimizer_steps)
    assert (np.diff(steps) < 0).all()
    assert (steps > 0).all()
    assert steps[0] == pytest.approx(EFFICIENCY * lr * min(optimizer_steps / len(steps), STRIDE))
    whole = EFFICIENCY * lr * optimizer_steps / 2  # the mean of a schedule that falls linearly to 0
    assert steps.sum() == pytest.approx(whole, rel=1.01 / len(steps))


def test_long_schedules_start_alike_and_are_cut() -> None:
    long, longer = recipe_steps(1e-3, 10**5), recipe_steps(1e-3, 10**6)
    assert len(long) == len(longer) == MAX_STEPS
    np.testing.assert_allclose(long, longer)
    assert long[0] == pytest.approx(EFFICIENCY * 1e-3 * STRIDE)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8, 1.0, 1e8, 1e30])
@pytest.mark.parametrize("given_steps", [True, False])
def test_losses_are_finite_for_any_kernel(kind: str, scale: float, given_steps: bool) -> None:
    """Zero, tiny, huge and rank-one kernels; steps that diverge leave the earlier, finite losses."""
    kernels, task, y, f0, folds = case(kind)
    kernels = scale * np.concatenate([kernels, y[None] @ y[None].transpose(0, 2, 1)])
    steps = recipe_steps(1e-3, 100) if given_steps else None
    with np.errstate(all="ignore"):
        got = simulate(kernels, task, y, f0, folds, steps)
    assert not np.isnan(got.loss).any()
    assert not np.isnan(got.train_loss).any()
    if scale == 0:
        start = f0 if task == "causal-lm" else np.zeros_like(y)
        wanted = np.mean(
            [np.mean([example_loss(task, start[i], y[i])[0] for i in np.flatnonzero(folds == k)]) for k in range(4)]
        )
        np.testing.assert_allclose(got.loss, wanted)


def test_a_kernel_that_knows_the_labels_beats_one_that_does_not() -> None:
    _, task, y, f0, folds = case("binary", seed=2, count=1)
    informed = y @ y.T + 0.1 * np.eye(N)
    shuffled = np.random.default_rng(0).permutation(y)
    both = np.stack([informed, shuffled @ shuffled.T + 0.1 * np.eye(N)])
    loss = simulate(both, task, y, f0, folds).loss
    assert loss[0] < 0.2 < loss[1]
