"""The gain of all modules by a small regression over groups."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import make_rows
from numpy.typing import NDArray
from sklearn.linear_model import BayesianRidge

from advisor.core.selections import HEAD_ONLY
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.gain import ALIGNMENT, USUALLY_ALIGNED, counted_gain, expected_gain
from advisor.prediction.gain_level import (
    BEND,
    HEADLESS_BEND,
    HEADLESS_PRIOR_SD,
    PRIOR_SD,
    GainLevel,
    fit_gain_level,
    gain_features,
)
from advisor.prediction.groups import Gain, Group, grouped
from advisor.prediction.predictor import Predictor

Array = NDArray[np.float64]


def groups_of(count: int, seed: int = 0, task: str = "classification") -> list[Group]:
    """Each of data of its own: with its own alignment, or loss of counting."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        lr, rows = rng.choice([3e-4, 1e-3, 3e-3]), rng.choice([256, 512, 2048])
        context = {
            "task": task,
            "model": f"model {i % 3}",
            "log_start": 0.0,
            "log_simulated": -rng.uniform(0.1, 1.5),
            "log_counted": -rng.uniform(-0.5, 2.0),
            "aligned": rng.uniform(0.0, 0.3),
            "head_gain": 1.0,
            "log_train_rows": math.log(rows),
            "log_lr": math.log(lr),
        }
        found.append(Group(f"data {i}", ["0"], np.zeros(1), np.full(1, -0.5), np.ones(1), context, []))
    return found


def centre(level: GainLevel, group: Group) -> float:
    return level.of(group.context)[0]


def bent(latent: Array, headless: bool) -> Array:
    bend = HEADLESS_BEND if headless else BEND
    return bend * np.log1p(np.exp(latent / bend))


def offsets(groups: list[Group]) -> Array:
    """g of the expected gains of tasks with a new head."""
    return BEND * np.log(np.expm1(np.array([expected_gain(g.context) for g in groups]) / BEND))


def unbent(found: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of g of a task with a new head, from those of log G."""
    gain = math.exp(found[0])
    return BEND * math.log(math.expm1(gain / BEND)), found[1] * gain / -math.expm1(-gain / BEND)


def known_exactly(groups: list[Group], latent: Array, headless: bool) -> GainLevel:
    """Fitted to gains that are known to 3 %."""
    return fit_gain_level(groups, [Gain(float(v), 0.03 * float(v)) for v in bent(latent, headless)])


@pytest.mark.parametrize("headless", [False, True])
def test_gains_known_exactly_are_a_weighted_ridge_regression(headless: bool) -> None:
    """With errors near 0 expectation-maximisation is ridge regression with these priors, at the sd it found."""
    groups, rng = groups_of(90, task="causal-lm" if headless else "classification"), np.random.default_rng(1)
    true = np.array([0.2, -0.3, 0.9, 0.3] if headless else [0.2, 0.6, -0.3, 0.4])
    phi = np.array([gain_features(g.context, headless) for g in groups])
    own = np.eye(3)[np.arange(90) % 3]
    offset = np.zeros(90) if headless else offsets(groups)
    left = phi @ true + own @ np.array([-0.4, 0.0, 0.4]) + 0.3 * rng.normal(size=90)
    level = known_exactly(groups, offset + left, headless)
    x, prior_sd = np.hstack([phi, own]), [*(HEADLESS_PRIOR_SD if headless else PRIOR_SD), *[level.model_sd] * 3]
    precision = x.T @ x / level.sd**2 + np.diag(1 / np.square(prior_sd))
    np.testing.assert_allclose(level.coef, np.linalg.solve(precision, x.T @ left / level.sd**2), atol=0.08)
    np.testing.assert_allclose(level.covariance, np.linalg.inv(precision), atol=1e-4)
    assert level.sd == pytest.approx(0.3, abs=0.12)
    np.testing.assert_allclose(level.coef[: len(true)], true, atol=0.45)
    other = BayesianRidge().fit(np.hstack([phi[:, 1:], own]), left)  # another program, with priors of its own
    np.testing.assert_allclose(level.coef[1 : len(true)], other.coef_[: len(true) - 1], atol=0.12)


def test_of_a_model_that_no_group_is_of_the_gain_is_known_less_well() -> None:
    """By the variance between models, which is larger where they differ."""
    groups = groups_of(60)

    def of(difference: float) -> tuple[float, float, float, float]:
        own = np.array([-difference, 0.0, difference])[np.arange(60) % 3]
        level = known_exactly(groups, offsets(groups) + own, False)
        known, new = (unbent(level.of({**groups[2].context, "model": name})) for name in ("model 2", "another"))
        return known[0] - new[0], known[1], new[1], level.model_sd

    alike, apart = of(0.0), of(1.0)
    assert abs(alike[0]) < 0.1
    assert apart[0] == pytest.approx(1.0, abs=0.15)  # the model's own term
    for _, known, new, between in (alike, apart):
        assert new > math.hypot(known, 0.9 * between)
    assert apart[3] > 2 * alike[3]


def test_of_a_bent_gain_mean_and_deviation_are_those_of_its_distribution() -> None:
    """Against draws of g: where gains are large and known well, their log is nearly normal."""
    groups = groups_of(60, task="causal-lm")
    phi = np.array([gain_features(g.context, True) for g in groups])
    level = known_exactly(groups, phi @ np.array([0.5, 0.1, 0.9, 0.3]), True)
    context = {**groups[0].context, "log_counted": -1.5}
    mean, sd = level.of(context)
    features = gain_features(context, True)
    x = np.append(features, [1.0, 0.0, 0.0])
    drawn = np.random.default_rng(0).normal(x @ level.coef, math.sqrt(level.sd**2 + x @ level.covariance @ x), 20_000)
    log_gains = np.log(bent(drawn, True))
    assert mean == pytest.approx(float(np.median(log_gains)), abs=0.01)
    assert sd == pytest.approx(float(log_gains.std()), rel=0.1)


@pytest.mark.parametrize("task", ["causal-lm", "classification"])
def test_large_gains_are_known_better_by_ratio_than_small_ones(task: str) -> None:
    level = Predictor().fit(load_rows(), task).gain_level_
    contexts = [g.context for g in grouped(load_rows()) if g.context["task"] == task]
    least, *_, most = sorted((level.of(context) for context in contexts), key=lambda found: found[0])
    assert most[1] < least[1] * 2 / 3
    assert math.exp(most[0]) * most[1] > math.exp(least[0]) * least[1]  # and worse by amount


def test_counting_that_does_worse_than_the_model_says_nothing() -> None:
    context = groups_of(1, task="causal-lm")[0].context
    better, level, worse = (gain_features({**context, "log_counted": loss}, True)[2] for loss in (-0.7, 0.0, 3.0))
    assert (better, level, worse) == (0.7, 0.0, 0.0)


@pytest.mark.parametrize("task", ["causal-lm", "classification"])
def test_more_rows_are_not_expected_to_win_less(task: str) -> None:
    """Rows that hardly differ in how many they are must not teach that fewer are better."""
    level = Predictor().fit(load_rows(), task).gain_level_
    context = next(g.context for g in grouped(load_rows()) if g.context["task"] == task)
    counts = np.log([32, 256, 1024, 8192])
    gains = [level.of({**context, "log_train_rows": rows})[0] for rows in counts]
    assert gains == sorted(gains)


def test_groups_of_both_kinds_are_taken_as_of_the_first() -> None:
    """As where the rows hold few: what language models alone show is then not looked at."""
    groups = [*groups_of(8), *groups_of(3, seed=1, task="causal-lm")]
    level = fit_gain_level(groups, [Gain(expected_gain(g.context), 0.02) for g in groups])
    model = groups[-1].context
    assert not level.headless
    assert level.of({**model, "aligned": 9.0, "log_counted": -9.0}) == level.of(model)


def test_a_gain_counts_as_far_as_it_is_known() -> None:
    """A group that may have gained anything changes nothing; one that surely gained a tenth of the others does."""
    groups = groups_of(10)
    known = [Gain(expected_gain(g.context) * math.exp(0.1 * (i - 4)), 0.01) for i, g in enumerate(groups[:9])]
    usual = fit_gain_level(groups[:9], known)
    tenth = 0.1 * expected_gain(groups[9].context)
    vague, sure = (fit_gain_level(groups, [*known, Gain(tenth, error)]) for error in (2.0, 0.005))
    assert centre(vague, groups[0]) == pytest.approx(centre(usual, groups[0]), abs=0.06)
    assert vague.sd == pytest.approx(usual.sd, abs=0.06)
    assert centre(sure, groups[9]) < centre(usual, groups[9]) - 0.1
    assert sure.sd > usual.sd + 0.1


def test_groups_that_share_their_data_count_once() -> None:
    """Two recipes on one task are one task's evidence, whatever the groups are called."""
    rows = make_rows(4, 16, seed=5, ratio_sd=0.8)
    twice = [replace(row, group=f"{row.group}, again") for row in rows if row.group == "group 0"]
    named = [replace(row, provenance={**row.provenance, "data": row.group.split(",")[0]}) for row in rows + twice]
    once, shared, apart = (Predictor().fit(r, "classification").gain_level_ for r in (rows, named, rows + twice))
    np.testing.assert_allclose(shared.coef, once.coef, atol=1e-3)
    assert shared.sd == pytest.approx(once.sd, abs=1e-3)
    assert np.abs(apart.coef - once.coef).max() > 0.01


def test_what_is_far_from_all_groups_is_known_less_well() -> None:
    groups = groups_of(12)
    level = fit_gain_level(groups, [Gain(expected_gain(g.context), 0.02) for g in groups])
    usual = groups[0].context
    far, near = (unbent(level.of(context))[1] for context in ({**usual, "log_train_rows": 14.0}, usual))
    assert far > near > level.sd


def test_an_alignment_beyond_all_seen_counts_as_the_nearest() -> None:
    """A slope is not carried on: ten times the alignment would be a gain of hundreds of times."""
    groups = groups_of(12)
    level = fit_gain_level(groups, [Gain(expected_gain(g.context) * (1 + 3 * g.context["aligned"]), 0.02) for g in groups])
    usual, seen = groups[0].context, [g.context["aligned"] for g in groups]
    least, most = (level.of({**usual, "aligned": end}) for end in (min(seen), max(seen)))
    assert level.of({**usual, "aligned": 2.0}) == most
    assert level.of({**usual, "aligned": -1.0}) == least
    assert most[0] > least[0]


def test_rows_whose_context_lacks_it_take_alignment_from_the_run_of_the_head_alone() -> None:
    rows = [
        replace(r, context={k: v for k, v in r.context.items() if k != "aligned"}, features={**r.features, ALIGNMENT: -5.0})
        for r in make_rows(2, 3)
    ]
    assert grouped(rows)[0].context["aligned"] == 5.0
    assert grouped([r for r in rows if r.selection != HEAD_ONLY])[0].context["aligned"] == USUALLY_ALIGNED


def test_rows_whose_context_lacks_it_know_nothing_of_counting() -> None:
    rows = [replace(r, context={k: v for k, v in r.context.items() if k != "log_counted"}) for r in make_rows(2, 3)]
    assert all(counted_gain(group.context) == 0 for group in grouped(rows))
