"""Targets that are unlike all rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import distances, fit, make_rows, traits, typical_gain

from advisor.prediction.predictor import FAR_FACTOR
from advisor.report.words import NOT_KNOWN, loss_span, metric_known


def test_far_targets_are_named_and_widened() -> None:
    predictor = fit(make_rows())
    near = dict(predictor.groups_[0].context)
    usual = predictor.predict(traits([0.1]), near, distances(1))
    assert usual.far == ()
    changes = {
        "learning rate": {"log_lr": near["log_lr"] + math.log(5)},
        "training rows": {"log_train_rows": near["log_train_rows"] - math.log(5)},
        "rank": {"log_rank": near["log_rank"] + math.log(5)},
        "regression": {"task": "regression"},
    }
    for reason, change in changes.items():
        far = predictor.predict(traits([0.1]), {**near, **change}, distances(1))
        assert len(far.far) == 1
        assert reason in far.far[0]
        if reason == "training rows":  # they also change the gain itself
            assert far.relative.high[0] - far.relative.low[0] > 1.5 * (usual.relative.high[0] - usual.relative.low[0])
            continue
        for name in ("loss", "score", "relative"):
            a, b = getattr(usual, name), getattr(far, name)
            assert b.low[0] < a.low[0] < a.high[0] < b.high[0]
            assert a.value[0] == b.value[0]
        assert far.relative.high[0] - far.relative.low[0] > 0.9 * FAR_FACTOR * (usual.relative.high[0] - usual.relative.low[0])
        assert far.covariance[0, 0] == pytest.approx(FAR_FACTOR**2 * usual.covariance[0, 0])
    far_context = {**near, "log_lr": near["log_lr"] + math.log(5)}
    far = predictor.predict(traits([0.0]), far_context, distances(1))
    typical = typical_gain(predictor, far_context)
    own = math.hypot(typical * math.hypot(predictor.misfit_, predictor.noise_), predictor.start_sd_)
    x = 1.6449 * FAR_FACTOR * predictor.gain_level_.of(far_context)[1]
    gain = typical * (1 - math.exp(-x) * (1 + predictor.tilt_ * x))
    assert math.log(far.loss.high[0] / far.loss.value[0]) == pytest.approx(math.hypot(gain, 1.6449 * FAR_FACTOR * own), rel=1e-3)
    (reason,) = predictor.predict(traits([0.1]), {**near, "log_rank": math.log(4096)}, distances(1)).far
    assert "rank 4,096 is over 4 times" in reason
    for within in ({"log_lr": near["log_lr"] - math.log(3.9)}, {"log_rank": near["log_rank"] + math.log(3.9)}):
        assert predictor.predict(traits([0.1]), {**near, **within}, distances(1)).far == ()


def test_a_head_of_more_layers_than_that_of_any_run_is_far() -> None:
    """Head-only runs of mpnet ended where a simulation of its last layer alone did not have them (docs/validity.md)."""
    predictor = fit(make_rows())
    near = dict(predictor.groups_[0].context)
    usual, far = (predictor.predict(traits([0.1]), {**near, "head_layers": many}, distances(1)) for many in (1, 2))
    assert usual.far == ()
    assert far.far == ("its head has layers before the last one, which calibration runs of few data sets had",)
    assert far.loss.low[0] < usual.loss.low[0] < usual.loss.high[0] < far.loss.high[0]
    rows = [replace(row, context={**row.context, "head_layers": 2}) for row in make_rows(5)]
    for data, reasons in ((5, ()), (4, far.far)):
        known = fit([row for row in rows if int(row.group.split(",")[0].split()[-1]) < data])
        assert known.predict(traits([0.1]), {**near, "head_layers": 2}, distances(1)).far == reasons


def test_a_rate_above_those_of_all_runs_is_far_long_before_a_low_one() -> None:
    """At two to four times the highest rate of the rows real runs of all modules learned nothing (benchmarks/rows/rates)."""
    predictor = fit(make_rows())
    near = dict(predictor.groups_[0].context)
    for times, is_far in ((1.4, False), (1.6, True), (0.3, False)):
        found = predictor.predict(traits([0.1]), {**near, "log_lr": near["log_lr"] + math.log(times)}, distances(1))
        assert bool(found.far) == is_far
        assert not is_far or "all modules may learn nothing" in found.far[0]


@pytest.mark.parametrize(
    "change",
    [
        {"task": "preference", "metric": "reward_accuracy", "chance": 0.5},
        {"task": "kto", "metric": "reward_auc", "chance": 0.5},
        {"task": "embedding", "metric": "retrieval_accuracy", "chance": 1 / 32},
        {"reads": "images"},
    ],
)
def test_the_level_is_not_known_where_no_run_was_of_the_kind(change: dict[str, Any]) -> None:
    predictor = fit(make_rows(4, 12), "classification")
    context = predictor.groups_[0].context
    usual, new = (predictor.predict(traits([0.1, 0.4]), {**context, **more}, distances(2)) for more in ({}, change))
    assert usual.far == ()
    assert all(reason.startswith("no calibration run used here") for reason in new.far)
    for index in (0, 1):
        score, loss = ((e.value[index], e.low[index], e.high[index]) for e in (new.score, new.loss))
        assert not metric_known(score, str({**context, **change}["metric"]))
        assert loss_span(loss) == NOT_KNOWN
    assert np.argmin(new.loss.value) == np.argmin(usual.loss.value)


@pytest.mark.parametrize("times", [0.2, 1.0, 40.0])
def test_where_no_run_was_of_the_kind_ones_own_runs_say_the_level(times: float) -> None:
    predictor = fit(make_rows(4, 12), "classification")
    context = {**predictor.groups_[0].context, "task": "preference", "metric": "reward_accuracy", "chance": 0.5}
    ran = times * float(predictor.predict(traits([0.0]), context, distances(1)).loss.value[0])
    found = predictor.given(traits([0.0, 0.4]), context, distances(2), [0], [ran])
    assert found.loss.value[0] == pytest.approx(ran, rel=0.1)
    assert found.loss.low[0] < ran < found.loss.high[0]
