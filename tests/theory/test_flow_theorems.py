"""Theorems 2–4 and Eq. 9 against the flows themselves, on small models whose Lipschitz constants are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from flow_models import Model, Quadratic, Ring, Sines, TanhNet
from scipy.integrate import quad, solve_ivp

from advisor.theory.bounds import (
    APPLIES,
    DOES_NOT_APPLY,
    ESTIMATED,
    Bound,
    FlowConstants,
    equation_9,
    horizon,
    theorem_2,
    theorem_3,
    theorem_4,
    threshold_pull,
)

SEEDS = range(4)
RELATIVE_PULLS = (0.0, 1e-3, 0.1, 3.0)  # times Lip(f)²
SLACK, FLOOR = 1e-6, 1e-9  # the integrator's tolerance is 1e-10


def linear(seed: int) -> Sines:
    return Sines.make(seed, amplitude=0.0)


EVERYWHERE: list[Callable[[int], Model]] = [linear, Sines.make]
IN_A_BALL: list[Callable[[int], Model]] = [Quadratic.make, TanhNet.make]
MODELS = EVERYWHERE + IN_A_BALL


def problem(make: Callable[[int], Model], seed: int, residual: float | None = None) -> tuple[Model, np.ndarray, FlowConstants]:
    """Model, Y, constants. Small residuals where the constants hold in a ball only."""
    model = make(seed)
    size = residual or (0.05 if math.isfinite(model.radius) else 2.0)
    before = model.outputs(model.start)
    direction = np.random.default_rng(seed + 100).normal(size=len(before))
    y = before - size * direction / np.linalg.norm(direction)
    return model, y, FlowConstants(*model.lipschitz(), size, model.radius, sampled=False)


def slope(model: Model, y: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """∇‖f−Y‖²."""
    return np.asarray(2 * model.jacobian(theta).T @ (model.outputs(theta) - y))


def flow(model: Model, y: np.ndarray, pull: float, times: Sequence[float], start: np.ndarray | None = None) -> np.ndarray:
    """θ at ``times`` [T, p] of dθ/dt = −∇‖f−Y‖² − λ(θ−θ0)."""

    def velocity(_: float, theta: np.ndarray) -> np.ndarray:
        return -slope(model, y, theta) - pull * (theta - model.start)

    first = model.start if start is None else start
    found = solve_ivp(velocity, (0, times[-1]), first, method="DOP853", t_eval=times, rtol=1e-10, atol=1e-13)
    assert found.success
    return np.asarray(found.y.T)


def linear_outputs(model: Model, y: np.ndarray, times: Sequence[float]) -> np.ndarray:
    """f̄ at ``times`` [T, m]: the flow of f0 + J0(θ−θ0) without pull, Y + e^{−2J0J0ᵀt}(f0−Y) in closed form."""
    jacobian = model.jacobian(model.start)
    values, vectors = np.linalg.eigh(jacobian @ jacobian.T)
    rotated = vectors.T @ (model.outputs(model.start) - y)
    return np.asarray(y + (np.exp(-2 * np.outer(times, values)) * rotated) @ vectors.T)


def travelled(model: Model, path: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(path - model.start, axis=1))


def outputs_apart(model: Model, y: np.ndarray, path: np.ndarray, times: Sequence[float]) -> np.ndarray:
    outputs = np.array([model.outputs(theta) for theta in path])
    return np.asarray(np.linalg.norm(outputs - linear_outputs(model, y, times), axis=1))


def grid(constants: FlowConstants, furthest: float = 20.0) -> np.ndarray:
    return np.asarray(np.geomspace(1e-3, furthest, 30) / constants.lipschitz**2)


def assert_above(bound: Bound, value: float) -> None:
    assert (bound.status, bound.reason, bound.low) == (APPLIES, None, 0.0)
    assert bound.high is not None
    assert value <= bound.high * (1 + SLACK) + FLOOR


def assert_fails(bound: Bound, reason: str) -> None:
    assert (bound.low, bound.high, bound.status) == (None, None, DOES_NOT_APPLY)
    assert bound.reason is not None
    assert reason in bound.reason


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_constants_of_the_models_hold(make: Callable[[int], Model], seed: int) -> None:
    model, _, constants = problem(make, seed)
    rng = np.random.default_rng(seed)

    def inside() -> np.ndarray:
        step = rng.normal(size=len(model.start))
        return np.asarray(model.start + min(model.radius, 3.0) * rng.uniform() * step / np.linalg.norm(step))

    for _ in range(50):
        a, b = inside(), inside()
        ja, jb = model.jacobian(a), model.jacobian(b)
        numeric = [(model.outputs(a + h) - model.outputs(a - h)) / 2e-6 for h in 1e-6 * np.eye(len(a))]
        np.testing.assert_allclose(ja, np.transpose(numeric), atol=1e-7)
        assert np.linalg.norm(ja, 2) <= constants.lipschitz
        assert np.linalg.norm(ja - jb, 2) <= constants.gradient_lipschitz * np.linalg.norm(a - b) + 1e-12


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("seed", SEEDS)
def test_theorems_2_and_3_along_the_flow(make: Callable[[int], Model], seed: int) -> None:
    model, y, constants = problem(make, seed)
    times = grid(constants)
    for relative in RELATIVE_PULLS:
        pull = relative * constants.lipschitz**2
        path = flow(model, y, pull, times)
        applied = 0
        for time, distance, apart in zip(times, travelled(model, path), outputs_apart(model, y, path, times), strict=True):
            bounds = theorem_2(constants, pull, time), theorem_3(constants, pull, time)
            applied += bounds[0].status == APPLIES
            if 2 * constants.lipschitz * constants.residual * time <= model.radius:
                assert bounds[0].status == bounds[1].status == APPLIES
            if bounds[0].status == APPLIES:
                assert_above(bounds[0], distance)
                assert_above(bounds[1], apart)
            else:
                for bound in bounds:
                    assert_fails(bound, "leave the ball")
        assert applied >= 10
        assert applied == len(times) or math.isfinite(model.radius)


@pytest.mark.parametrize("make", IN_A_BALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_theorem_4_keeps_the_flow_within_the_ball(make: Callable[[int], Model], seed: int) -> None:
    model, y, constants = problem(make, seed, residual=0.5)
    least = threshold_pull(constants)
    assert least == pytest.approx(2 * 0.5 * constants.lipschitz / model.radius)
    for relative in (1.0, 1.5, 5.0):
        pull = relative * least
        times = grid(constants, 1000.0)
        path = flow(model, y, pull, times)
        assert horizon(constants, pull) == math.inf
        assert travelled(model, path).max() <= model.radius
        for time, apart in zip(times, outputs_apart(model, y, path, times), strict=True):
            assert_above(theorem_4(constants, pull, time), apart)
            assert theorem_4(constants, pull, time).high == theorem_3(replace(constants, radius=math.inf), pull, time).high
    for relative in (0.0, 0.3, 0.9, 0.999):
        pull = relative * least
        end = horizon(constants, pull)
        assert math.isfinite(end)
        times = np.linspace(0, end, 20)[1:]
        path = flow(model, y, pull, times)
        assert travelled(model, path).max() <= model.radius
        for time, apart in zip(times, outputs_apart(model, y, path, times), strict=True):
            assert_above(theorem_4(constants, pull, time), apart)
        assert_fails(theorem_4(constants, pull, end * (1 + 1e-9)), "beyond the horizon")


def test_the_horizon() -> None:
    constants = FlowConstants(1.5, 2.0, 0.4, radius=0.3, sampled=False)
    least = threshold_pull(constants)
    assert least == pytest.approx(4.0)
    assert horizon(constants, 0.0) == pytest.approx(1 / least)
    assert horizon(constants, 1e-12) == pytest.approx(1 / least, rel=1e-9)
    assert horizon(constants, least / 2) == pytest.approx(2 * math.log(2) / least)
    ends = [horizon(constants, least * (1 - gap)) for gap in (0.5, 1e-2, 1e-6, 1e-12)]
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(math.log(1e12) / least, rel=1e-3)  # and so without end as λ → λ°
    assert horizon(constants, least) == horizon(constants, 2 * least) == math.inf
    assert threshold_pull(replace(constants, radius=math.inf)) == 0.0
    assert horizon(replace(constants, radius=math.inf), 0.0) == math.inf
    for pull in (0.0, 1e-9, 0.1, 3.0, 3.999):  # Theorem 2 reaches the radius just then
        assert theorem_2(replace(constants, radius=math.inf), pull, horizon(constants, pull)).high == pytest.approx(0.3)


def test_the_threshold_and_the_horizon_are_sharp() -> None:
    """f = θ far from its target: d' = 2(r0 − d) − λd leaves the ball of radius 1 soon after the horizon, below λ° only."""
    constants = FlowConstants(1.0, 0.0, 1000.0, radius=1.0, sampled=False)
    assert threshold_pull(constants) == 2000.0

    def distance(pull: float, time: float) -> float:
        return 2000 / (pull + 2) * -math.expm1(-(pull + 2) * time)

    assert 0.99 < distance(2000, math.inf) < 1 < distance(1990, math.inf)
    for pull in (0.0, 500.0, 1000.0, 1500.0):
        end = horizon(constants, pull)
        assert distance(pull, end) < 1 < distance(pull, 1.01 * end)


# Eq. 9.


def test_equation_9_is_its_integral() -> None:
    rng = np.random.default_rng(0)
    constants = FlowConstants(1.5, 0.0, 0.4, sampled=False)
    for _ in range(20):
        pulls, durations = rng.uniform(0, 3, 5) * rng.integers(0, 2, 5), rng.uniform(0, 1, 5)
        ends = np.concatenate([[0.0], np.cumsum(durations)])
        total = np.concatenate([[0.0], np.cumsum(pulls * durations)])

        def decay(s: float, ends: np.ndarray = ends, total: np.ndarray = total) -> float:
            return math.exp(-(total[-1] - np.interp(s, ends, total)))

        expected = 2 * 1.5 * 0.4 * quad(decay, 0, ends[-1], points=ends[1:-1], epsabs=1e-12)[0]
        assert equation_9(constants, list(pulls), list(durations)).high == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("pull", [0.0, 1e-9, 0.3, 20.0])
def test_equation_9_of_one_pull_is_theorem_2(pull: float) -> None:
    constants = FlowConstants(1.5, 2.0, 0.4, sampled=False)
    durations = [0.1, 1e-6, 2.0, 0.7]
    expected = theorem_2(constants, pull, sum(durations)).high
    assert equation_9(constants, [pull] * 4, durations).high == pytest.approx(expected, rel=1e-12)
    assert equation_9(constants, [pull], [sum(durations)]).high == expected
    assert equation_9(constants, [], []).high == 0.0
    with pytest.raises(ValueError):
        equation_9(constants, [pull], [1.0, 2.0])


@pytest.mark.parametrize("make", EVERYWHERE)
@pytest.mark.parametrize("seed", SEEDS)
def test_equation_9_with_pulls_that_change(make: Callable[[int], Model], seed: int) -> None:
    """Falling for any model; in any order for a linear one."""
    model, y, constants = problem(make, seed)
    rng = np.random.default_rng(seed)
    square = constants.lipschitz**2
    pulls = square * rng.uniform(0, 3, 6) * rng.integers(0, 2, 6)
    if constants.gradient_lipschitz > 0:
        pulls = -np.sort(-pulls)
    durations = rng.uniform(0, 3, 6) / square
    theta = model.start
    for i, (pull, duration) in enumerate(zip(pulls, durations, strict=True)):
        times = np.linspace(0, duration, 5)[1:]
        path = flow(model, y, pull, times, theta)
        for time, distance in zip(times, travelled(model, path), strict=True):
            assert_above(equation_9(constants, [*pulls[:i], pull], [*durations[:i], time]), distance)
        theta = path[-1]


def selective(
    model: Model, y: np.ndarray, pull: float, step: float, steps: int, tensors: Sequence[slice]
) -> tuple[np.ndarray, np.ndarray]:
    """The flow of Eq. 8 and the pull of each tensor at each step: path [steps+1, p], pulls [steps, tensors].

    Each pull is decided at a step's start and held over it (classical Runge–Kutta, error step⁴), so the pulls reported
    are the ones that acted; only Eq. 8's own condition is late, by less than a step.
    """
    path, pulls = [model.start], []
    for _ in range(steps):
        theta = path[-1]
        gradient, moved = slope(model, y, theta), theta - model.start
        acting = [pull * float(gradient[t] @ moved[t] >= 0) for t in tensors]
        weights = np.zeros(len(theta))
        for t, value in zip(tensors, acting, strict=True):
            weights[t] = value

        def velocity(at: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
            return -slope(model, y, at) - weights * (at - model.start)

        a = velocity(theta)
        b = velocity(theta + step / 2 * a)
        c = velocity(theta + step / 2 * b)
        d = velocity(theta + step * c)
        path.append(theta + step / 6 * (a + 2 * b + 2 * c + d))
        pulls.append(acting)
    return np.array(path), np.array(pulls)


@pytest.mark.parametrize("tensors", [1, 2])
def test_equation_9_under_the_selective_pull(tensors: int) -> None:
    """Eq. 8 for one tensor and, each with its own switch, for two: the smaller pull counts. Switches must really occur."""
    cases = [problem(lambda s: Sines.make(s, 2.0), seed) for seed in SEEDS]
    ring = Ring(np.array([0.0, -1.0]), tilt=0.1)  # half way round the path turns back
    cases.append((ring, np.zeros(2), ring.constants()))
    switched = pulled = 0
    for model, y, constants in cases:
        constants = replace(constants, selective=True)
        half = len(model.start) // 2
        parts = [slice(None)] if tensors == 1 else [slice(0, half), slice(half, None)]
        pull, step = constants.lipschitz**2 / 30, 0.2 / constants.lipschitz**2
        steps = 4000 if model is ring else 1000
        path, pulls = selective(model, y, pull, step, steps, parts)
        losses = [float(np.sum((model.outputs(theta) - y) ** 2)) for theta in path]
        assert max(losses) <= losses[0] * (1 + 1e-9)
        acting = pulls.min(1)
        switched += int(np.count_nonzero(np.diff(pulls[1:], axis=0)))
        pulled += int(np.count_nonzero(acting[1:]))
        for end in (1, 10, 100, steps // 2, steps):
            bound = equation_9(constants, acting[:end].tolist(), [step] * end)
            assert_above(bound, float(np.linalg.norm(path[end] - model.start)))
            for theorem in (theorem_2, theorem_3, theorem_4):
                assert_fails(theorem(constants, pull, end * step), "Eq. 8")
    assert switched >= 20
    assert pulled >= (20 if tensors == 1 else 0)  # two tensors hardly ever pull at once


def test_theorem_2_is_false_under_the_selective_pull() -> None:
    """A linear flow never turns back, so Eq. 8 never pulls, and it travels beyond what a pull always on would allow."""
    model, y, constants = problem(linear, 0)
    pull = 100 * constants.lipschitz**2
    path, pulls = selective(model, y, pull, 0.02 / constants.lipschitz**2, 1000, [slice(None)])
    assert not pulls[1:].any()
    always = theorem_2(constants, pull, 20 / constants.lipschitz**2).high
    assert always is not None
    assert travelled(model, path)[-1] > 2 * always


def test_equation_9_is_false_for_a_pull_that_rises_by_itself() -> None:
    """Let go first, pull later: the wall keeps the path away, at a loss above the start's, which the proof excludes."""
    model = Ring(np.array([0.0, -1.0]))
    y = np.zeros(2)
    constants = model.constants()
    pulls, durations = [0.0, 0.2], [4000.0, 60.0]
    theta = model.start
    for pull, duration in zip(pulls, durations, strict=True):
        theta = flow(model, y, pull, [duration], theta)[-1]
    distance = float(np.linalg.norm(theta - model.start))
    assert np.linalg.norm(model.outputs(theta)) > 1.9 * constants.residual
    printed = equation_9(replace(constants, gradient_lipschitz=0.0), pulls, durations).high
    assert printed is not None
    assert distance > 1.7 * printed
    assert_fails(equation_9(constants, pulls, durations), "rises")
    assert equation_9(constants, pulls[::-1], durations).status == APPLIES
    assert equation_9(constants, [0.2, 0.2], durations).status == APPLIES
    assert equation_9(replace(constants, selective=True), pulls, durations).status == APPLIES


def test_equation_9_looks_at_the_whole_path_for_the_ball() -> None:
    """A late strong pull shrinks the bound, but the path may have been outside before."""
    constants = FlowConstants(1.0, 0.0, 1.0, radius=1.0, sampled=False)
    assert_fails(equation_9(constants, [0.0, 10.0], [1.0, 5.0]), "leave the ball of radius 1 that the constants hold in (by 2)")
    bound = equation_9(constants, [0.0, 10.0], [0.4, 5.0])
    assert (bound.status, bound.high) == (APPLIES, pytest.approx(0.2))


# Values, limits and statuses.


def test_theorem_3_is_its_formula_and_its_limit() -> None:
    """Against 40 digits, across the switch to a series at λt = 1e-3; λ = 0 is 4Lip(f)²Lip(∇f)‖f0−Y‖²t²."""
    lip, bend, residual = 1.5, 2.0, 0.4
    constants = FlowConstants(lip, bend, residual, sampled=False)
    with mpmath.workdps(40):
        for time in (0.01, 1.0, 30.0):
            limit = 4 * lip**2 * bend * residual**2 * time**2
            assert theorem_3(constants, 0.0, time).high == pytest.approx(limit, rel=1e-14)
            for x in (1e-14, 1e-8, 1e-5, 9.99e-4, 1.001e-3, 1e-2, 1.0, 50.0, 1e4):
                pull = mpmath.mpf(x / time)
                b = 2 * mpmath.mpf(lip) ** 2 * residual * (4 * bend * residual / pull + 1)
                exact = b * (time - (1 - mpmath.exp(-pull * time)) / pull)
                assert theorem_3(constants, x / time, time).high == pytest.approx(float(exact), rel=1e-9)
            assert theorem_3(constants, 1e-14, time).high == pytest.approx(limit, rel=1e-9)
    assert theorem_3(constants, 0.3, 0.0).high == 0.0


def test_theorem_2_is_its_formula_and_its_limit() -> None:
    constants = FlowConstants(1.5, 2.0, 0.4, sampled=False)
    assert theorem_2(constants, 0.0, 0.7).high == pytest.approx(2 * 1.5 * 0.4 * 0.7)
    assert theorem_2(constants, 1e-13, 0.7).high == pytest.approx(2 * 1.5 * 0.4 * 0.7)
    assert theorem_2(constants, 2.0, 0.7).high == pytest.approx(1.5 * 0.4 * (1 - math.exp(-1.4)))
    assert theorem_2(constants, 2.0, 1e3).high == pytest.approx(0.6)


def test_a_sampled_constant_makes_an_estimate() -> None:
    constants = FlowConstants(1.5, 2.0, 0.4, radius=0.3)
    for bound in (
        theorem_2(constants, 5.0, 1.0),
        theorem_3(constants, 5.0, 1.0),
        theorem_4(constants, 5.0, 1.0),
        equation_9(constants, [5.0], [1.0]),
    ):
        assert bound.status == ESTIMATED
        assert bound.reason is not None
        assert "sampled" in bound.reason
        assert bound.high is not None
        assert bound.high > 0
    for bound in (theorem_2(constants, 0.0, 10.0), theorem_3(constants, 0.0, 10.0), equation_9(constants, [0.0], [10.0])):
        assert_fails(bound, "leave the ball")
    assert_fails(theorem_4(constants, 0.0, 10.0), "horizon")


# Tightness.


def along(size: float) -> tuple[Model, np.ndarray, FlowConstants]:
    """Two linear outputs with a Jacobian of rank one, and a residual along it."""
    u, v = np.array([0.6, 0.8]), np.array([1.0, 2.0, 2.0]) / 3
    model = Sines(np.outer(u, v) * 1.5, np.zeros((2, 1)), np.zeros((1, 3)), np.zeros(1), np.zeros(3))
    return model, size * u, FlowConstants(1.5, 0.0, size, sampled=False)


def test_theorem_2_is_reached_by_a_jacobian_of_rank_one() -> None:
    """As t → 0, and for as long as the residual is hardly less, at any pull; within 3 until 2s²t ≈ 2.8."""
    model, y, constants = along(2.0)
    for pull in (0.0, 1.0, 1e4):
        times = np.array([1e-8, 1e-6, 0.1, 0.6])
        distances = travelled(model, flow(model, y, pull, times))
        ratios = [float(theorem_2(constants, pull, t).high or 0) / d for t, d in zip(times, distances, strict=True)]
        assert ratios[0] == pytest.approx(1, abs=1e-6)
        assert ratios[1] == pytest.approx(1, abs=1e-5)
        assert max(ratios) < 3
    assert max(ratios) == pytest.approx(1, abs=1e-3)  # the strong pull, at every time


def test_theorem_3_is_reached() -> None:
    """Through the pull alone by the linear model of rank one, through curvature alone by f = aθ + ½hθ²: both as t → 0."""
    model, y, constants = along(2.0)
    times = np.array([1e-4])
    apart = outputs_apart(model, y, flow(model, y, 5.0, times), times)[0]
    assert float(theorem_3(constants, 5.0, 1e-4).high or 0) / apart == pytest.approx(1, abs=2e-3)
    curve = Quadratic(np.array([[1.5]]), np.array([[[2.0]]]), np.zeros(1), radius=1e-3)
    constants = FlowConstants(*curve.lipschitz(), 0.4, 1e-3, sampled=False)
    y = np.array([0.4])
    apart = outputs_apart(curve, y, flow(curve, y, 0.0, times), times)[0]
    assert float(theorem_3(constants, 0.0, 1e-4).high or 0) / apart == pytest.approx(1, abs=5e-3)
