"""Shares of the gain that selections forgo: a planted regression is found again; with nothing to learn the simulation stays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from advisor.core.selections import ALL_LINEAR
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.forgone import ALONE, FEWEST_DATA, LIMITS, Forgone, ForgoneFits, circumstances, fit_forgone, real_shares
from advisor.prediction.gain import curve
from advisor.prediction.groups import Group, grouped
from advisor.theory.features import HEAD_ONLY_SHARE

PLANTED = Forgone(
    np.array([0.5, 0.1, -0.2, -0.2, 0.05, -0.1, 0.1, 0.05, -0.1]),
    np.array([math.log(0.1), 0.5]),
    np.array([0.7, 0.4]),
    np.array([[math.log(0.02), -0.5], [math.log(0.5), 1.5]]),
)
GAIN = 0.5  # simulated and real


def context(lr: float = 1e-3, steps: int = 96, log_guess: float = 0.5) -> dict[str, Any]:
    """There is more to learn than the gain, so gains are counted from the start."""
    return {
        "task": "classification",
        "model": "one",
        "log_lr": math.log(lr),
        "log_steps": math.log(steps),
        "log_start": 0.0,
        "log_guess": log_guess,
        "log_simulated": -GAIN,
        "log_train_rows": math.log(512),
        "head_gain": 1.0,
    }


def group_of(data: int, seed: int, truth: Forgone, noise: float) -> Group:
    """A group of 20 selections and all modules whose real shares are ``truth``'s."""
    rng = np.random.default_rng(seed)
    about = context(float(np.exp(rng.uniform(math.log(3e-4), math.log(5e-3)))), log_guess=rng.uniform(0.0, 1.4))
    drawn = np.column_stack(
        [GAIN * rng.uniform(0, 1, 20), np.log(rng.choice([0.07, 0.18, 0.36], 20)), rng.uniform(-0.4, 0.4, 20)]
    )
    traits = np.vstack([np.zeros(3), drawn])
    shares = truth.of(traits, about) + noise * np.append(0.0, rng.normal(size=20))
    names = [ALL_LINEAR, *(str(i) for i in range(20))]
    return Group(f"data {data}", names, traits, about["log_start"] - GAIN * (1 - shares), np.ones(21), about, [])


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_planted_regression_is_found(noise: float) -> None:
    groups = [group_of(i, i, PLANTED, noise) for i in range(12)]
    fits = fit_forgone(groups)
    found = fits.of_all
    new = group_of(99, 99, PLANTED, 0.0)
    np.testing.assert_allclose(found.of(new.traits, new.context), real_shares(new), atol=0.02 + 2 * noise)
    assert np.abs(ALONE.of(new.traits, new.context) - real_shares(new)).max() > 0.2
    assert set(fits.without_data) == {group.data for group in groups}


def test_what_is_said_of_a_data_set_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.prediction.forgone.PENALTIES", (0.3,))  # all data sets choose it
    groups = [group_of(i, i, PLANTED, 0.05) for i in range(6)]
    other = [*groups[:-1], group_of(5, 5, ALONE, 0.3)]  # another world under the same name
    without, again = fit_forgone(groups).without_data, fit_forgone(other).without_data
    np.testing.assert_allclose(without["data 5"].coef, again["data 5"].coef)
    assert np.abs(without["data 0"].coef - again["data 0"].coef).max() > 1e-3


def test_what_is_said_of_a_model_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.prediction.forgone.PENALTIES", (0.3,))
    groups = [group_of(i, i, PLANTED, 0.05) for i in range(6)]
    groups[0].context = {**groups[0].context, "model": "another"}
    without = fit_forgone(groups).without_model
    alone = fit_forgone(groups[1:])
    new = group_of(99, 99, PLANTED, 0.0)  # coefficients are on another scale
    np.testing.assert_allclose(
        without["another"].of(new.traits, new.context), alone.of_all.of(new.traits, new.context), atol=0.01
    )
    assert alone.without_model == {"one": ALONE}  # no other model


def test_the_simulation_stays_where_it_is_right_or_nothing_is_known() -> None:
    right = fit_forgone([group_of(i, i, ALONE, 0.1) for i in range(8)]).of_all
    np.testing.assert_allclose(right.coef, ALONE.coef, atol=0.05)
    few = fit_forgone([group_of(i, i, PLANTED, 0.0) for i in range(FEWEST_DATA - 1)])
    assert all(fit is ALONE for fit in (few.of_all, *few.without_data.values(), *few.without_model.values()))
    assert fit_forgone([]) == ForgoneFits(ALONE, {}, {})
    x = np.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(ALONE.of(np.column_stack([GAIN * x, np.zeros((3, 2))]), context()), curve(x))


def test_no_module_forgoes_everything_and_all_modules_nothing() -> None:
    ends = np.array([[GAIN, math.log(HEAD_ONLY_SHARE), 0.3], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(PLANTED.of(ends, context()), [1.0, 0.0])


def test_recipes_that_travel_further_than_any_seen_count_as_the_furthest() -> None:
    one = np.array([[0.3, -1.0, 0.2]])
    furthest, further = context(lr=0.5, steps=1), context(lr=0.5, steps=100)
    assert circumstances(further)[0] > PLANTED.seen[1, 0] == pytest.approx(circumstances(furthest)[0])
    assert PLANTED.of(one, further) == pytest.approx(PLANTED.of(one, furthest))
    assert PLANTED.of(one, context()) != pytest.approx(PLANTED.of(one, furthest))


def test_tasks_with_more_classes_than_any_seen_count_as_those_with_the_most() -> None:
    one = np.array([[0.3, -1.0, 0.2]])
    most, more = context(log_guess=1.5), context(log_guess=2.0)
    assert circumstances(more)[1] > PLANTED.seen[1, 1] == circumstances(most)[1]
    assert PLANTED.of(one, more) == pytest.approx(PLANTED.of(one, most))
    assert PLANTED.of(one, context()) != pytest.approx(PLANTED.of(one, most))


def test_real_shares_are_of_the_gain_of_all_modules() -> None:
    group = group_of(0, 0, PLANTED, 0.0)
    group.log_loss[:] = np.linspace(-GAIN, 3.0, len(group.log_loss))
    found = real_shares(group)
    assert found[0] == 0.0
    assert found[1] == pytest.approx((group.log_loss[1] + GAIN) / GAIN)
    assert found.max() == LIMITS[1]


def test_shipped_rows_say_that_deeper_modules_win_where_language_models_travel_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/real-runs.md says of them."""
    monkeypatch.setenv("XDG_DATA_HOME", "/nowhere")
    groups = [g for g in grouped(load_rows()) if g.context["task"] == "causal-lm"]
    found = fit_forgone(groups).of_all
    deep, shallow = np.array([[0.4, -1.7, 0.3], [0.4, -1.7, -0.3]])

    def lead(about: Mapping[str, Any]) -> float:
        deeper, higher = found.of(np.array([deep, shallow]), {**groups[0].context, **about})
        return float(higher - deeper)

    near, far = ({"log_lr": math.log(lr), "log_steps": math.log(72)} for lr in (3e-4, 3e-3))
    assert lead(far) > 2 * abs(lead(near)) > 0
