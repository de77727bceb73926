"""The update by real runs against brute force, and on worlds drawn from the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fakes import as_simulated, make_rows, traits
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from advisor.advice.confirm import decide
from advisor.advice.recommend import pick
from advisor.prediction import posterior as posterior_module
from advisor.prediction.gain import CURVE, curve, simulated_gain
from advisor.prediction.likeness import parameter_distances
from advisor.prediction.pilot_level import on_scale_of
from advisor.prediction.posterior import LEAST_ERROR, Posterior, Prior, update
from advisor.prediction.predictions import Predictions
from advisor.prediction.predictor import Predictor

Array = np.ndarray


# --- the update -------------------------------------------------------------------------------------------------------


def some_distances(rng: np.random.Generator, count: int, modules: int = 8) -> Array:
    masks = (rng.uniform(size=(count, modules)) < 0.5).astype(float)
    masks[:, 0] = 1
    return parameter_distances(masks, np.ones(modules))[:count, :count]


def some_prior(seed: int, count: int = 6, **changes: Any) -> Prior:
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "start": -0.4,
        "start_sd": 0.05,
        "gain": 0.4,
        "log_gain_sd": 0.6,
        "forgone": rng.uniform(0, 0.8, count),
        "covariance": 0.15**2 * (1 - some_distances(rng, count)),
        "noise": 0.07,
        "tilt": rng.uniform(0, 0.3, count),
    }
    return Prior(**{**values, **changes})


def by_brute_force(prior: Prior, observed: Sequence[int], losses: Sequence[float]) -> dict[str, Array]:
    """The same posterior by other means: on a fine grid of G itself, densities by scipy, conditioning of the state
    (H, u_1 … u_S) in information form, moments of mixtures by their definition."""
    count, k = len(prior.forgone), len(observed)
    grid = np.geomspace(prior.gain * math.exp(-6 * prior.log_gain_sd), prior.gain * math.exp(6 * prior.log_gain_sd), 3000)
    jitter = 1e-12 * np.eye(count)
    weights, r_means, r_covs, l_means, l_sds = [], [], [], [], []
    precision = np.zeros((count + 1, count + 1))
    precision[0, 0] = prior.start_sd**-2
    precision[1:, 1:] = np.linalg.inv(prior.covariance + jitter)
    for gain in grid:
        forgone = prior.forgone + prior.tilt * math.log(gain / prior.gain)
        design = np.zeros((k, count + 1))
        design[:, 0] = 1
        design[range(k), 1 + np.asarray(observed, dtype=int)] = gain
        offset = -gain * (1 - forgone[list(observed)])
        noise = (gain * prior.noise) ** 2
        covariance = np.linalg.inv(precision + design.T @ design / noise)
        mean = covariance @ (precision[:, 0] * prior.start + design.T @ (np.array(losses) - offset) / noise)
        expected = design[:, 0] * prior.start + offset
        spread = design @ np.linalg.inv(precision) @ design.T + noise * np.eye(k)
        density = multivariate_normal(expected, spread).pdf(losses) if k else 1.0
        weights.append(density * norm(math.log(prior.gain), prior.log_gain_sd).pdf(math.log(gain)))
        r_means.append(forgone + mean[1:])
        r_covs.append(covariance[1:, 1:])
        to_loss = np.hstack([np.ones((count, 1)), gain * np.eye(count)])
        l_means.append(to_loss @ mean - gain * (1 - forgone))
        l_sds.append(np.sqrt(np.diag(to_loss @ covariance @ to_loss.T) + noise))
    w = np.array(weights) / np.sum(weights)
    r, low, sds = np.array(r_means), np.array(l_means), np.array(l_sds)
    centre, x = w @ r, np.log(grid) - w @ np.log(grid)
    tilt = (w * x) @ r / (w @ x**2)
    beside = r - centre - np.outer(x, tilt)
    covariance = np.einsum("p,pij->ij", w, np.array(r_covs)) + np.einsum("p,pi,pj->ij", w, beside, beside)

    def quantile(level: float) -> list[float]:
        return [brentq(lambda x, i=i: w @ norm.cdf(x, low[:, i], sds[:, i]) - level, -20, 20, xtol=1e-9) for i in range(count)]

    return {
        "gain": np.exp(w @ np.log(grid)),
        "forgone": centre,
        "tilt": tilt,
        "covariance": covariance,
        **{str(q): np.array(quantile(q)) for q in (0.05, 0.5, 0.95)},
    }


@pytest.mark.parametrize(
    ("seed", "observed", "shifts"),
    [
        (0, [], []),
        (1, [2], [0.1]),
        (2, [0, 3], [-0.2, 0.0]),
        (3, [1, 1, 4], [0.05, 0.1, -0.1]),
        (4, [0, 1, 2, 5], [0.3, 0.2, 0.25, 0.1]),
    ],
)
def test_update_is_what_brute_force_finds(seed: int, observed: list[int], shifts: list[float]) -> None:
    prior = some_prior(seed)
    losses = [prior.start - prior.gain * (1 - prior.forgone[i]) + s for i, s in zip(observed, shifts, strict=True)]
    found, expected = update(prior, observed, losses), by_brute_force(prior, observed, losses)
    assert found.gain == pytest.approx(expected["gain"], rel=1e-3)
    np.testing.assert_allclose(found.forgone, expected["forgone"], atol=1e-3)
    np.testing.assert_allclose(found.tilt, expected["tilt"], atol=2e-3)
    np.testing.assert_allclose(found.covariance, expected["covariance"], atol=1e-4, rtol=2e-3)
    for level in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(found.quantile(level), expected[str(level)], atol=1e-3, err_msg=str(level))


def test_no_runs_no_news() -> None:
    prior = some_prior(0)
    found = update(prior, [], [])
    assert found.gain == pytest.approx(prior.gain)
    np.testing.assert_allclose(found.forgone, prior.forgone, atol=1e-12)
    np.testing.assert_allclose(found.tilt, prior.tilt, atol=1e-12)
    np.testing.assert_allclose(found.covariance, prior.covariance, atol=1e-12)


def test_without_noise_a_run_says_it_all_of_its_selection() -> None:
    prior = some_prior(5, noise=0.0)
    found = update(prior, [2, 4], [-0.71, -0.55])
    for index, loss in ((2, -0.71), (4, -0.55)):
        for level in (0.05, 0.5, 0.95):
            assert found.quantile(level)[index] == pytest.approx(loss, abs=2 * LEAST_ERROR)
    assert (found.quantile(0.95) - found.quantile(0.05))[[0, 1, 3, 5]].min() > 0.01


def test_two_seeds_of_one_selection_weigh_as_their_mean_with_half_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior_module, "LEAST_ERROR", 0.0)  # it adds to a run's variance, which two seeds would halve
    prior = some_prior(6, log_gain_sd=1e-6)
    twice = update(prior, [1, 1], [-0.6, -0.5])
    once = update(replace(prior, noise=prior.noise / math.sqrt(2)), [1], [-0.55])
    np.testing.assert_allclose(twice.forgone, once.forgone, atol=1e-9)
    np.testing.assert_allclose(twice.covariance, once.covariance, atol=1e-9)


def test_a_run_tells_more_of_what_resembles_it() -> None:
    covariance = 0.15**2 * np.array([[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]])
    prior = some_prior(0, 3, forgone=np.full(3, 0.3), covariance=covariance, log_gain_sd=0.05, start_sd=0.01)
    found = update(prior, [0], [prior.start - 0.7 * prior.gain + 0.1])
    moved = found.forgone - 0.3
    assert moved[0] > moved[1] > 3 * moved[2] > 0
    assert found.covariance[0, 0] < found.covariance[1, 1] < found.covariance[2, 2] < prior.covariance[2, 2]


def draw(prior: Prior, rng: np.random.Generator, seeds: int = 2) -> Array:
    """[seeds, S] log losses of a world of the model."""
    surprise = prior.log_gain_sd * rng.normal()
    gain = prior.gain * math.exp(surprise)
    start = prior.start + prior.start_sd * rng.normal()
    count = len(prior.forgone)
    factor = np.linalg.cholesky(prior.covariance + 1e-12 * np.eye(count))
    forgone = prior.forgone + prior.tilt * surprise + factor @ rng.normal(size=count)
    return start - gain * (1 - forgone) + gain * prior.noise * rng.normal(size=(seeds, count))


def width(found: Posterior) -> Array:
    return found.quantile(0.95) - found.quantile(0.05)


def test_further_runs_hardly_widen_the_interval_of_one_that_was_run() -> None:
    ratios, last = [], []
    for seed in range(60):
        prior = some_prior(seed, 8, tilt=0.0)
        (losses,) = draw(prior, np.random.default_rng(seed), 1)
        widths = [width(update(prior, range(k), losses[:k]))[0] for k in range(1, 7)]
        ratios += [b / a for a, b in pairwise(widths)]
        last.append(widths[-1] / widths[0])
    assert np.quantile(ratios, 0.95) < 1.3, np.quantile(ratios, 0.95)
    assert max(ratios) < 2, max(ratios)
    assert np.median(last) < 1, np.median(last)


# --- worlds drawn from the model --------------------------------------------------------------------------------------


@cache
def fitted() -> Predictor:
    return as_simulated(Predictor().fit(make_rows(8, 30, seed=1), "classification"))


@cache
def worlds(count: int = 150, selections: int = 20) -> dict[str, Array]:
    """Regret of the pick and coverage of the intervals before and after four runs, in worlds as the model has them."""
    found: dict[str, list[Any]] = {"before": [], "after": [], "covered_before": [], "covered_after": [], "width": []}
    predictor = fitted()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        context = predictor.groups_[seed % len(predictor.groups_)].context
        gain = context["log_start"] - context["log_simulated"]
        simulated = rng.uniform(0, 0.5, selections) * gain
        masks = (rng.uniform(size=(selections, 12)) < rng.uniform(0.2, 0.8, (selections, 1))).astype(float)
        masks[:, 0] = 1
        distances = parameter_distances(masks, np.ones(12))
        prior = Prior(
            context["log_start"],
            predictor.start_sd_,
            math.exp(predictor.gain_level_.of(context)[0]),
            predictor.gain_level_.of(context)[1],
            (simulated / gain) ** 1.5,
            predictor.misfit_**2 * (1 - distances[:-1, :-1]),
            predictor.noise_,
            predictor.tilt_ * np.sqrt(distances[-1, :-1]),
        )
        run, judge = draw(prior, rng)
        params = masks.sum(1).astype(np.int64)

        world = (traits(simulated), context, distances)

        def predict(runs: Sequence[int], world: Any = world, losses: Array = run) -> Predictions:
            return predictor.given(*world, list(runs), np.exp(losses[list(runs)]))

        before = predict([])
        first, _ = pick(before, params, range(selections))
        finalists = [first, *(i for i in range(selections) if i != first)]
        made = decide(predict, params, finalists, [first, finalists[1]], 4, lambda chosen: [True] * len(chosen))
        after = predict(made.runs)
        found["before"].append(judge[first] - judge.min())
        found["after"].append(judge[made.picked] - judge.min())
        for name, p in (("covered_before", before), ("covered_after", after)):
            found[name].append(np.mean((p.loss.low <= np.exp(judge)) & (np.exp(judge) <= p.loss.high)))
        found["width"].append(np.median(np.log(after.loss.high / after.loss.low) / np.log(before.loss.high / before.loss.low)))
    return {key: np.array(values) for key, values in found.items()}


def test_regret_falls() -> None:
    found = worlds()
    assert found["after"].mean() < 0.9 * found["before"].mean(), (found["after"].mean(), found["before"].mean())


def test_intervals_cover_what_they_say_and_narrow() -> None:
    found = worlds()
    assert 0.85 <= found["covered_before"].mean() <= 0.96
    assert 0.85 <= found["covered_after"].mean() <= 0.96
    assert np.median(found["width"]) < 0.7


def test_without_runs_the_predictions_are_those_of_the_predictor() -> None:
    predictor = fitted()
    rng = np.random.default_rng(0)
    distances = parameter_distances((rng.uniform(size=(5, 6)) < 0.6).astype(float), np.ones(6))
    like = predictor.groups_[0].context
    for context in (like, {**like, "log_lr": 0.0}):  # the second is far from the rows
        simulated = rng.uniform(0, 0.2, 5)
        plain = predictor.predict(traits(simulated), context, distances)
        given = predictor.given(traits(simulated), context, distances, [], [])
        for name in ("deviation", "covariance", "tilt"):
            np.testing.assert_allclose(getattr(given, name), getattr(plain, name), atol=1e-9)
        assert given.seed_sd == pytest.approx(plain.seed_sd)
        assert given.far == plain.far
        for edge in ("value", "low", "high"):
            np.testing.assert_allclose(getattr(given.relative, edge), getattr(plain.relative, edge), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(getattr(given.loss, edge), getattr(plain.loss, edge), rtol=0.5)
        np.testing.assert_allclose(given.loss.value, plain.loss.value, rtol=0.1)
        assert [given.distinguishable(0, i) for i in range(5)] == [plain.distinguishable(0, i) for i in range(5)]
    assert given.far


def test_a_better_run_moves_loss_metric_and_relative_to_the_better() -> None:
    predictor = fitted()
    context, distances = predictor.groups_[0].context, 1 - np.eye(4)
    simulated = np.array([0.05, 0.05, 0.05])
    plain = predictor.predict(traits(simulated), context, distances)
    good, bad = (predictor.given(traits(simulated), context, distances, [1], [f * plain.loss.value[1]]) for f in (0.7, 1.3))
    assert good.loss.value[1] < plain.loss.value[1] < bad.loss.value[1]
    assert good.score.value[1] > bad.score.value[1]
    assert good.deviation[1] / good.seed_sd < bad.deviation[1] / bad.seed_sd
    assert good.seed_sd > bad.seed_sd  # and the gain is larger
    assert good.relative.value[1] > bad.relative.value[1]
    for p in (good, bad):
        for estimate in (p.loss, p.score, p.relative):
            assert (estimate.low <= estimate.value).all()
            assert (estimate.value <= estimate.high).all()
        assert p.loss.high[1] / p.loss.low[1] < plain.loss.high[1] / plain.loss.low[1]
    # all-linear takes part: without a distance to it, the deviation is none
    masks = np.array([[1.0, 1.0], [0.0, 1.0]])
    same = predictor.given(traits([0.0, 0.1]), context, parameter_distances(masks, np.ones(2)), [1], [0.5])
    assert same.deviation[0] == pytest.approx(0)


def test_the_first_few() -> None:
    predictor = fitted()
    whole = predictor.predict(traits([0.1, 0.2, 0.3]), predictor.groups_[0].context, 1 - np.eye(4))
    part = whole.first(2)
    for name in ("loss", "score", "relative"):
        assert len(getattr(part, name).value) == len(getattr(part, name).low) == len(getattr(part, name).high) == 2
    assert part.deviation.tolist() == whole.deviation[:2].tolist()
    assert part.covariance.shape == (2, 2)


# --- a pilot run ------------------------------------------------------------------------------------------------------


def test_a_measurement_counts_by_its_order_alone() -> None:
    shares, measured = np.array([0.0, 0.7, 0.2, 1.0]), np.array([1.0, 3.0, 2.0, 9.0])
    np.testing.assert_allclose(on_scale_of(shares, measured, measured), shares)
    np.testing.assert_allclose(on_scale_of(shares, np.log(measured), np.log(measured)), shares)
    np.testing.assert_allclose(on_scale_of(shares, measured, np.array([1.5, 0.0, 10.0])), [0.1, 0.0, 1.0])


def test_measured_and_simulated_shares_count_alike() -> None:
    """Halfway between what the same predictor says by each alone; NaN leaves the simulated share."""
    predictor = as_simulated(Predictor().fit(make_rows(groups=4, selections=12), "classification"))
    context = predictor.groups_[0].context
    gain = simulated_gain(context)
    simulated = np.array([0.2, 0.5, 0.8]) * gain
    apart = 1 - np.eye(4)
    run = [0], [math.exp(context["log_start"] - 0.2)]

    def deviation(measured: Array | None) -> Array:
        return predictor.given(traits(simulated), context, apart, *run, measured).deviation

    shares = curve(np.append(simulated, 0.0) / gain)
    np.testing.assert_allclose(deviation(shares), deviation(None))
    np.testing.assert_allclose(deviation(np.full(4, np.nan)), deviation(None))
    other = np.array([0.9, 0.1, 0.4, 0.0])
    middle = gain * np.sign((shares + other) / 2) * np.abs((shares + other) / 2) ** (1 / CURVE)
    found = predictor.given(traits(middle[:3]), context, apart, *run).deviation
    np.testing.assert_allclose(deviation(other), found)
