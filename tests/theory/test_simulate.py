"""The simulated run against a per-selection loop written from its definition (docs/design.md 2.4)."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import random_psd
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.probe import stratified_folds
from advisor.theory import simulate as module
from advisor.theory.simulate import (
    EFFICIENCY,
    MAX_STEPS,
    MIN_STEPS,
    STABLE,
    STEPS,
    STRIDE,
    TRAVEL,
    Schedule,
    _largest_eigenvalues,
    simulate,
    simulate_losses,
    simulate_recipe,
    slopes_at_zero,
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
    kernel = np.exp(-(np.subtract.outer(x, x) ** 2) / 0.02) + 0.3 * np.eye(N)
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


def naive_recipe(
    kernel: np.ndarray, head: np.ndarray, task: str, y: np.ndarray, folds: np.ndarray, schedule: Schedule
) -> tuple[float, float, float, int]:
    """As :func:`naive`, and how many steps were shortened in at least one fold."""
    n, count = len(y), len(schedule.steps)
    curves, train_curves, shortened = np.zeros((4, count)), np.zeros((4, count)), set()
    for fold in range(4):
        train = [i for i in range(n) if folds[i] != fold]
        held = [i for i in range(n) if folds[i] == fold]
        of_modules, of_head = (np.linalg.eigvalsh(k[np.ix_(train, train)])[-1] for k in (kernel, head))
        f = np.zeros_like(y)
        for k, (step, growth) in enumerate(zip(schedule.steps, schedule.growth, strict=True)):
            wanted, longest = step * n / len(train), STABLE[task] / (growth * of_modules + of_head)
            if wanted > longest:
                shortened.add(k)
            slopes = np.array([example_loss(task, f[i], y[i])[1] for i in train])
            f = f - min(wanted, longest) * (growth * kernel + head)[:, train] @ slopes
            curves[fold, k] = np.mean([example_loss(task, f[i], y[i])[0] for i in held])
            train_curves[fold, k] = np.mean([example_loss(task, f[i], y[i])[0] for i in train])
    curve = curves.mean(0)
    best = int(np.argmin(curve))
    return curve[best], train_curves.mean(0)[best], (best + 1) / count, len(shortened)


def recipe_case(kind: str, count: int = 3) -> tuple[np.ndarray, np.ndarray, str, np.ndarray, np.ndarray]:
    """Kernels and head of trace about n with a wide gap below λmax, so that power iteration has converged."""
    kernels, task, y, _, folds = case(kind, 1, count + 1)
    kernels = kernels / np.einsum("sii->s", kernels)[:, None, None] * N + 0.8 * np.ones((N, N))
    return kernels[:count], 0.5 * kernels[count], task, y, folds


@pytest.mark.parametrize("kind", ["binary", "three", "regression"])
def test_recipe_equals_the_loop(kind: str) -> None:
    kernels, head, task, y, folds = recipe_case(kind)
    schedule = Schedule(np.array([0.01, 0.02, 3.0, 0.05, 0.04, 0.6, 0.01]), np.array([0.1, 0.5, 0.7, 1.0, 2.0, 2.5, 9.0]))
    got = simulate_recipe(kernels, head, task, y, folds, schedule)
    for s, kernel in enumerate(kernels):
        *wanted, shortened = naive_recipe(kernel, head, task, y, folds, schedule)
        np.testing.assert_allclose((got.loss[s], got.train_loss[s], got.stop[s]), wanted, rtol=1e-6)
        assert 0 < shortened < len(schedule.steps)


@pytest.mark.parametrize("kind", ["binary", "three", "regression"])
def test_recipe_without_head_growth_and_cap_is_the_plain_simulation(kind: str) -> None:
    kernels, _, task, y, folds = recipe_case(kind)
    steps = np.linspace(1e-3, 1e-4, 9)
    plain = simulate(kernels, task, y, np.zeros_like(y), folds, steps)
    recipe = simulate_recipe(kernels, np.zeros((N, N)), task, y, folds, Schedule(steps, np.ones(9)))
    for name in ("loss", "train_loss", "stop"):
        np.testing.assert_allclose(getattr(recipe, name), getattr(plain, name), rtol=1e-12)


def test_growth_moves_the_modules_and_not_the_head() -> None:
    kernels, head, task, y, folds = recipe_case("binary")
    steps = np.linspace(1e-3, 1e-4, 9)
    grown = simulate_recipe(kernels, head, task, y, folds, Schedule(steps, np.full(9, 3.0)))
    scaled = simulate_recipe(3 * kernels, head, task, y, folds, Schedule(steps, np.ones(9)))
    np.testing.assert_allclose(grown.loss, scaled.loss, rtol=1e-12)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, head, task, y, folds = recipe_case("three", 5)
    schedule = Schedule.of(1e-3, 60)

    def everything() -> list[np.ndarray]:
        found = (simulate(kernels, task, y, y, folds), simulate_recipe(kernels, head, task, y, folds, schedule))
        return [getattr(part, name) for part in found for name in ("loss", "train_loss", "stop")]

    whole = everything()
    for floats in (1, 2 * 4 * y.size):  # one selection at a time, and two
        monkeypatch.setattr(module, "CHUNK_FLOATS", floats)
        for a, b in zip(everything(), whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(("lr", "optimizer_steps"), [(1e-3, 96), (2e-4, 40), (2e-4, 17), (1.0, 1), (1e-3, 10**6)])
@pytest.mark.parametrize("fresh_head", [True, False])
def test_schedule_in_closed_form(lr: float, optimizer_steps: int, fresh_head: bool) -> None:
    """It goes as far as a rate that falls linearly to 0, however many steps stand for it; speed follows the way."""
    schedule = Schedule.of(lr, optimizer_steps, fresh_head)
    count = len(schedule.steps)
    assert count == min(max(round(optimizer_steps / STRIDE), MIN_STEPS), MAX_STEPS)
    assert schedule.steps.sum() == pytest.approx(EFFICIENCY * lr * optimizer_steps * (count + 1) / (2 * count))
    assert schedule.steps[0] == pytest.approx(EFFICIENCY * lr * optimizer_steps / count)
    np.testing.assert_allclose(np.diff(schedule.steps), -schedule.steps[0] / count, rtol=1e-6)
    if not fresh_head:
        np.testing.assert_array_equal(schedule.growth, np.ones(count))
        return
    way = [sum(schedule.steps[:k]) + schedule.steps[k] / 2 for k in range(count)]  # to the middle of each step
    np.testing.assert_allclose(schedule.growth, np.array(way) / TRAVEL, rtol=1e-9)


def test_schedules_scale_with_the_learning_rate_and_reach_the_kernels_speed_after_travel() -> None:
    one, two = Schedule.of(1e-3, 96), Schedule.of(2e-3, 96)
    np.testing.assert_allclose(two.steps, 2 * one.steps)
    np.testing.assert_allclose(two.growth, 2 * one.growth)
    travelled = np.cumsum(one.steps)
    before, after = one.growth[travelled < TRAVEL], one.growth[travelled - one.steps > TRAVEL]
    assert before.max() < 1 < after.min()


def naive_losses(kernel: np.ndarray, losses: np.ndarray, folds: np.ndarray, schedule: Schedule) -> float:
    """The lowest mean held-out loss."""
    n, curves = len(losses), np.zeros((4, len(schedule.steps)))
    for fold in range(4):
        train = [i for i in range(n) if folds[i] != fold]
        held = [i for i in range(n) if folds[i] == fold]
        left = losses.copy()
        for k, (step, growth) in enumerate(zip(schedule.steps, schedule.growth, strict=True)):
            share = {j: min(max(left[j] / losses[j], 0), 1) for j in train}
            fall = [step * n / len(train) * growth * sum(kernel[i, j] * share[j] for j in train) for i in range(n)]
            left = left - fall
            curves[fold, k] = np.mean([max(left[i], 0) for i in held])
    return max(curves.mean(0).min(), 1e-3 * losses.mean())


def loss_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    kernels = random_psd(rng, 4, N) / N
    return kernels, rng.uniform(0.5, 3, N), stratified_folds(np.zeros(N), 0)


@pytest.mark.parametrize("scale", [1e-3, 0.03, 1.0])
def test_losses_equal_the_loop(scale: float) -> None:
    """Small steps, steps after which some losses reach 0, and steps that reach the floor or overfit at once."""
    kernels, losses, folds = loss_case()
    schedule = Schedule(scale * np.array([3.0, 2.0, 1.5, 0.5]), np.array([1.0, 1.5, 0.5, 2.0]))
    got = simulate_losses(kernels, losses, folds, schedule)
    np.testing.assert_allclose(got, [naive_losses(k, losses, folds, schedule) for k in kernels], rtol=1e-10)


def test_losses_fall_at_first_order_by_the_summed_gradient_kernel() -> None:
    kernels, losses, folds = loss_case()
    kernels = kernels + 1.0  # every example helps every other
    schedule = Schedule(np.array([2e-7, 1e-7]), np.array([1.0, 3.0]))
    got = simulate_losses(kernels, losses, folds, schedule)
    for s, kernel in enumerate(kernels):
        falls, starts = [], []
        for fold in range(4):
            train = folds != fold
            falls.append(5e-7 * N / train.sum() * kernel[~train][:, train].sum(1).mean())
            starts.append(losses[~train].mean())
        assert np.mean(starts) - got[s] == pytest.approx(np.mean(falls), rel=1e-4)


def test_losses_stay_above_the_floor_and_finite() -> None:
    _, losses, folds = loss_case()
    losses[3] = 0.0  # nothing to learn from it
    alike = np.ones((1, N, N))
    for lr in (1e-3, 1.0, 1e6, 1e30):
        found = simulate_losses(alike, losses, folds, Schedule.of(lr, 100, fresh_head=False))
        assert 1e-3 * losses.mean() <= found[0] <= losses.mean() * 1.5
    assert found[0] == pytest.approx(1e-3 * losses.mean())
    still = simulate_losses(0 * alike, losses, folds, Schedule.of(1e-3, 100))
    assert still[0] == pytest.approx(np.mean([losses[folds == k].mean() for k in range(4)]))


@pytest.mark.parametrize("kind", ["binary", "three", "regression"])
@pytest.mark.parametrize("lr", [1e-12, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e8])
def test_recipe_is_finite_at_absurd_learning_rates(kind: str, lr: float, scale: float) -> None:
    """The cap holds: no step blows up, however long it was meant to be."""
    kernels, head, task, y, folds = recipe_case(kind)
    start = np.log(3) if kind == "three" else np.log(2) if kind == "binary" else 0.5 * np.mean(y**2)
    for of_head in (head, 0 * head):
        with np.errstate(over="ignore"):
            got = simulate_recipe(scale * kernels, of_head, task, y, folds, Schedule.of(lr, 100))
        assert np.isfinite(got.loss).all()
        assert np.isfinite(got.train_loss).all()
        assert (got.loss < 5 * start).all()


def test_the_longest_step_in_closed_form() -> None:
    """All examples alike: 1/λmax solves a regression at once; 4/λmax moves margins by 4 times the slope of ½."""
    kernel, y, folds = np.ones((1, N, N)), np.ones((N, 1)), stratified_folds(np.zeros(N), 0)
    schedule = Schedule(np.array([1e9]), np.ones(1))
    assert simulate_recipe(kernel, 0 * kernel[0], "regression", y, folds, schedule).loss[0] == pytest.approx(0, abs=1e-12)
    margin = simulate_recipe(kernel, 0 * kernel[0], "classification", y, folds, schedule)
    assert margin.loss[0] == pytest.approx(np.log(1 + np.exp(-2)))


def test_no_loss_falls_below_zero() -> None:
    """Half of the examples are learned at once, of the other half nothing."""
    losses, folds = np.linspace(1, 2, N), stratified_folds(np.zeros(N), 0)
    half = (np.arange(N) % 2).astype(float)
    found = simulate_losses(np.outer(half, half)[None], losses, folds, Schedule(np.full(3, 10.0), np.ones(3)))
    assert found[0] == pytest.approx(np.mean([(losses * (1 - half))[folds == k].mean() for k in range(4)]))


def test_slopes_where_a_fresh_head_starts() -> None:
    """Two classes −y/2; three 1/3 less the one-hot target; regression −y."""
    sign, numbers = np.array([[1.0], [-1.0]]), np.array([[0.7], [-2.0]])
    np.testing.assert_allclose(slopes_at_zero("classification", sign), [[-0.5], [0.5]])
    np.testing.assert_allclose(slopes_at_zero("regression", numbers), -numbers)
    three = np.eye(3)[[2, 0]] - 1 / 3
    np.testing.assert_allclose(slopes_at_zero("classification", three), [[1 / 3, 1 / 3, -2 / 3], [-2 / 3, 1 / 3, 1 / 3]])


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8, 1.0, 1e8, 1e30])
@pytest.mark.parametrize("given_steps", [True, False])
def test_losses_are_finite_for_any_kernel(kind: str, scale: float, given_steps: bool) -> None:
    """Zero, tiny, huge and rank-one kernels; steps that diverge leave the earlier, finite losses."""
    kernels, task, y, f0, folds = case(kind)
    kernels = scale * np.concatenate([kernels, y[None] @ y[None].transpose(0, 2, 1)])
    steps = Schedule.of(1e-3, 100).steps if given_steps else None
    with np.errstate(all="ignore"):
        got = simulate(kernels, task, y, f0, folds, steps)
    assert not np.isnan(got.loss).any()
    assert not np.isnan(got.train_loss).any()
    if scale == 0:
        start = f0 if task == "causal-lm" else np.zeros_like(y)
        wanted = np.mean([np.mean([example_loss(task, start[i], y[i])[0] for i in np.flatnonzero(folds == k)]) for k in range(4)])
        np.testing.assert_allclose(got.loss, wanted)


def test_a_kernel_that_knows_the_labels_beats_one_that_does_not() -> None:
    _, task, y, f0, folds = case("binary", seed=2, count=1)
    informed = y @ y.T + 0.1 * np.eye(N)
    shuffled = np.random.default_rng(0).permutation(y)
    both = np.stack([informed, shuffled @ shuffled.T + 0.1 * np.eye(N)])
    loss = simulate(both, task, y, f0, folds).loss
    assert loss[0] < 0.2 < loss[1]
