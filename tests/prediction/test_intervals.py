"""Intervals of losses and of differences, and what is said of two selections beside each other."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import distances, fit, make_rows, predict, traits

from advisor.core.choices import ALIKE_SURE
from advisor.prediction.groups import Group, group_gain, grouped
from advisor.prediction.predictions import Estimate, Predictions, times_gain
from advisor.prediction.predictor import Predictor

NOISE, MISFIT = 0.06, 0.15


@pytest.fixture(scope="module")
def new_groups() -> list[tuple[Predictor, Group, np.ndarray]]:
    """Predictors fitted on 10 groups each, with groups that none of them saw and their true expected log losses."""
    cases = []
    for trial in range(12):
        predictor = fit(make_rows(10, 16, seed=100 + trial, noise=NOISE, misfit=MISFIT))
        # the same draw without noise: the expectation over seeds
        seen, true = (
            grouped(make_rows(12, 12, 1, seed=900 + trial, noise=noise, misfit=MISFIT, prefix="new")) for noise in (NOISE, 0.0)
        )
        cases += [(predictor, a, b.log_loss) for a, b in zip(seen, true, strict=True)]
    return cases


def test_ninety_percent_intervals_cover_about_that(new_groups: list[tuple[Predictor, Group, np.ndarray]]) -> None:
    loss, score, relative = [], [], []
    for predictor, group, true in new_groups:
        found = predict(predictor, group)
        loss += list((np.log(found.loss.low) <= group.log_loss) & (group.log_loss <= np.log(found.loss.high)))
        scores = np.array([next(row.score for row in group.rows if row.selection == s) for s in group.selections])
        score += list((found.score.low <= scores) & (scores <= found.score.high))
        actual = (1 - np.exp(true - true[0])) / (NOISE * group_gain(replace(group, log_loss=true)).value)
        relative += list((found.relative.low <= actual) & (actual <= found.relative.high))[1:]
    assert 0.85 <= np.mean(loss) <= 0.97, np.mean(loss)
    assert 0.85 <= np.mean(score) <= 0.985, np.mean(score)
    assert 0.85 <= np.mean(relative) <= 0.97, np.mean(relative)


def test_what_is_called_distinguishable_is_in_that_order(
    new_groups: list[tuple[Predictor, Group, np.ndarray]],
) -> None:
    right, pairs = [], 0
    for predictor, group, true in new_groups:
        found = predict(predictor, group)
        for i in range(len(true)):
            for j in range(i):
                pairs += 1
                if found.distinguishable(i, j):
                    right.append((found.deviation[i] < found.deviation[j]) == (true[i] < true[j]))
    assert np.mean(right) >= 0.95, f"{np.mean(right):.3f} of {len(right)} among {pairs} pairs"
    assert len(right) >= 0.2 * pairs, f"{len(right)} of {pairs}"


@pytest.mark.parametrize("log_gain_sd", [0.0, 0.5])
def test_what_is_called_alike_is_within_five_percent(log_gain_sd: float) -> None:
    rng = np.random.default_rng(0)
    none, words = Estimate(np.zeros(2), np.zeros(2), np.zeros(2)), []
    for value, sd in itertools.product((0.0, 0.01, 0.03, 0.06), (0.002, 0.01, 0.02, 0.04)):
        found = Predictions(none, none, none, np.array([value, 0.0]), np.diag([sd**2, 0.0]), 0.02, (), np.zeros(2), log_gain_sd)
        words.append(found.beside(0, 1))
        assert words[-1] == found.beside(1, 0)
        drawn = np.exp(log_gain_sd * rng.standard_normal(20_000)) * (value + sd * rng.standard_normal(20_000))
        within = np.mean(np.abs(drawn) < math.log(1.05))
        if words[-1] == "alike":
            assert within > ALIKE_SURE - 0.01
        if words[-1] == "not known":
            assert within < ALIKE_SURE + 0.01
    assert set(words) == {"apart", "alike", "not known"}


def test_similar_selections_are_told_apart_more_easily() -> None:
    """Misfit is shared: the same predicted difference is surer where most parameters are the same."""
    predictor = fit(make_rows(misfit=0.3))
    context = predictor.groups_[0].context
    near = np.array([[0, 0.02, 0.1], [0.02, 0, 0.1], [0.1, 0.1, 0]])
    a, b = (predictor.predict(traits([0.0, 0.2]), context, d) for d in (near, distances(2)))
    assert np.linalg.eigvalsh(a.covariance)[0] > -1e-12
    spread = [c[0, 0] + c[1, 1] - 2 * c[0, 1] for c in (a.covariance, b.covariance)]
    assert spread[0] == pytest.approx(0.02 * spread[1])
    assert a.distinguishable(0, 1)
    assert not b.distinguishable(0, 1)


def test_differences_are_a_share_of_a_gain_that_is_known_to_a_factor() -> None:
    """Against draws: a log-normal factor times a Gaussian; and the sign is as sure as it is at a known gain."""
    rng = np.random.default_rng(0)
    centre, sd = np.array([0.2, -0.1, 0.0, 0.3]), np.array([0.1, 0.2, 0.3, 0.1])
    for log_sd in (0.0, 0.3, 1.0):
        found = times_gain(centre, sd, log_sd)
        draws = np.exp(log_sd * rng.standard_normal((400_000, 1))) * (centre + sd * rng.standard_normal((400_000, 4)))
        expected = np.quantile(draws, [0.05, 0.95], axis=0)
        np.testing.assert_allclose(np.array([found.low, found.high]), expected, atol=0.02)
        known = times_gain(centre, sd, 0.0)
        assert ((found.low > 0) == (known.low > 0)).all()
        assert ((found.high < 0) == (known.high < 0)).all()


@pytest.mark.parametrize("tilt", [-0.3, 0.4])
def test_a_difference_may_rise_with_the_gain(tilt: float) -> None:
    rng = np.random.default_rng(0)
    none, sd, log_sd = Estimate(np.zeros(2), np.zeros(2), np.zeros(2)), 0.1, 0.5
    cov, deviation = np.diag([sd**2, 0.0]), np.array([0.15, 0.0])
    found = Predictions(none, none, none, deviation, cov, 0.02, (), np.array([sd, 0.0]), log_sd, np.array([tilt, 0.0]))
    x = log_sd * rng.standard_normal(400_000)
    draws = np.exp(x) * (0.15 + tilt * x + sd * rng.standard_normal(400_000))
    np.testing.assert_allclose(found.difference(0, 1)[1:], np.quantile(draws, [0.05, 0.95]), atol=0.01)
    np.testing.assert_allclose([found.against_all().low[0], found.against_all().high[0]], found.difference(0, 1)[1:], atol=1e-9)
    below = np.mean(draws < 0)
    assert found.distinguishable(0, 1, level=0.01 + abs(1 - 2 * below)) is False
    assert found.distinguishable(0, 1, level=abs(1 - 2 * below) - 0.01) is True
    assert found.first(1).tilt.tolist() == [tilt]


def test_a_difference_excludes_zero_where_two_are_distinguishable() -> None:
    rng = np.random.default_rng(1)
    root = rng.standard_normal((5, 5)) * 0.1
    none = Estimate(np.zeros(5), np.zeros(5), np.zeros(5))
    found = Predictions(none, none, none, rng.standard_normal(5) * 0.2, root @ root.T, 0.02, (), np.full(5, 0.1), 0.7)
    told = []
    for i in range(5):
        for j in range(5):
            value, low, high = found.difference(i, j)
            assert low <= value <= high
            told.append(found.distinguishable(i, j))
            assert told[-1] == (low > 0 or high < 0)
            assert found.difference(j, i) == pytest.approx((-value, -high, -low), abs=1e-9)
    assert any(told)
    assert not all(told)
