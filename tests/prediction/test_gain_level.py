"""The gain of all modules by a small regression over groups."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import make_rows
from sklearn.linear_model import BayesianRidge

from advisor.core.selections import HEAD_ONLY
from advisor.prediction.gain import USUAL_CONDITION, USUALLY_ALIGNED, expected_gain
from advisor.prediction.gain_level import PRIOR_SD, GainLevel, fit_gain_level, gain_features
from advisor.prediction.groups import Gain, Group, grouped
from advisor.prediction.predictor import Predictor


def groups_of(count: int, seed: int = 0) -> list[Group]:
    """Each of data of its own: classifiers with their own alignment, language models with their own condition number."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        lr, rows = rng.choice([3e-4, 1e-3, 3e-3]), rng.choice([256, 512, 2048])
        task = "causal-lm" if i % 3 == 2 else "classification"
        kernel = {"aligned": rng.uniform(0.0, 0.3), "log_condition": rng.uniform(3.0, 9.0)}
        own = {"task": task, "log_train_rows": math.log(rows), "log_lr": math.log(lr), **kernel}
        context = {
            "log_start": 0.0,
            "log_simulated": -rng.uniform(0.1, 1.5),
            "head_gain": 1.0,
            **own,
        }
        found.append(Group(f"data {i}", ["0"], np.zeros(1), np.full(1, -0.5), np.ones(1), context, []))
    return found


def centre(level: GainLevel, group: Group) -> float:
    return level.of(group.context)[0]


def test_gains_known_exactly_are_a_weighted_ridge_regression() -> None:
    """With errors near 0 expectation-maximisation is ridge regression with these priors, at the sd it found."""
    groups, rng = groups_of(90), np.random.default_rng(1)
    true = np.array([0.2, 0.6, -0.3, 0.4, 0.3])
    phi = np.array([gain_features(g.context) for g in groups])
    log_gain = np.log([expected_gain(g.context) for g in groups]) + phi @ true + 0.3 * rng.normal(size=90)
    level = fit_gain_level(groups, [Gain(float(v), 0.03 * float(v)) for v in np.exp(log_gain)])
    left = log_gain - np.log([expected_gain(g.context) for g in groups])
    precision = phi.T @ phi / level.sd**2 + np.diag(1 / np.square(PRIOR_SD))
    np.testing.assert_allclose(level.coef, np.linalg.solve(precision, phi.T @ left / level.sd**2), atol=0.05)
    np.testing.assert_allclose(level.covariance, np.linalg.inv(precision), rtol=1e-6)
    assert level.sd == pytest.approx(0.3, abs=0.12)
    np.testing.assert_allclose(level.coef, true, atol=0.45)
    other = BayesianRidge().fit(phi[:, 1:], left)  # another program, with priors of its own
    np.testing.assert_allclose(level.coef[1:], other.coef_, atol=0.12)


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
    assert level.of({**usual, "log_train_rows": 14.0})[1] > level.of(usual)[1] > level.sd


def test_an_alignment_beyond_all_seen_counts_as_the_nearest() -> None:
    """A slope is not carried on: ten times the alignment would be a gain of hundreds of times; so with the condition number."""
    groups = groups_of(12)
    level = fit_gain_level(groups, [Gain(expected_gain(g.context) * (1 + 3 * g.context["aligned"]), 0.02) for g in groups])
    usual, seen = groups[0].context, [g.context["aligned"] for g in groups if g.context["task"] != "causal-lm"]
    least, most = (level.of({**usual, "aligned": end}) for end in (min(seen), max(seen)))
    assert level.of({**usual, "aligned": 2.0}) == most
    assert level.of({**usual, "aligned": -1.0}) == least
    assert most[0] > least[0]
    model = next(g.context for g in groups if g.context["task"] == "causal-lm")
    seen = [g.context["log_condition"] for g in groups if g.context["task"] == "causal-lm"]
    assert level.of({**model, "log_condition": 99.0}) == level.of({**model, "log_condition": max(seen)})


def test_only_tasks_with_a_new_head_know_alignment_and_only_those_without_one_the_condition_number() -> None:
    classifier, model = (next(g.context for g in groups_of(6) if g.context["task"] == t) for t in ("classification", "causal-lm"))
    np.testing.assert_array_equal(gain_features(model), gain_features({**model, "aligned": 9.0}))
    np.testing.assert_array_equal(gain_features(classifier), gain_features({**classifier, "log_condition": 1.0}))
    assert gain_features({**model, "log_condition": 9.0})[4] > gain_features({**model, "log_condition": 3.0})[4]


@pytest.mark.parametrize(
    ("key", "feature", "task", "usual"),
    [
        ("aligned", "adam.alignment", "classification", USUALLY_ALIGNED),
        ("log_condition", "adam.condition", "causal-lm", USUAL_CONDITION),
    ],
)
def test_rows_whose_context_lacks_it_take_it_from_the_run_of_the_head_alone(
    key: str, feature: str, task: str, usual: float
) -> None:
    rows = [
        replace(
            r, context={**{k: v for k, v in r.context.items() if k != key}, "task": task}, features={**r.features, feature: -5.0}
        )
        for r in make_rows(2, 3)
    ]
    assert grouped(rows)[0].context[key] == 5.0
    assert grouped([r for r in rows if r.selection != HEAD_ONLY])[0].context[key] == usual
