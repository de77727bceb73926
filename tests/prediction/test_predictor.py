"""The predictor on rows of a known model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fakes import as_simulated, distances, fit, make_rows, predict, traits, typical_gain

from advisor.core.errors import BadInput
from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.context import SIGNED_METRICS
from advisor.prediction.gain import (
    FEATURE,
    LEARNABLE,
    LEAST_GAIN,
    LEAST_TRUST,
    ROWS_POWER,
    curve,
    expected_gain,
    simulated_gain,
)
from advisor.prediction.groups import CLEAR, START_ERROR, Group, group_gain, grouped, knows_noise
from advisor.prediction.likeness import parameter_distances
from advisor.prediction.predictor import METRIC_ERROR
from advisor.prediction.scatter import USUAL_QUIETNESS
from advisor.theory.features import all_feature_names


def test_learns_the_model_the_rows_were_made_from() -> None:
    groups = 60
    predictor = fit(make_rows(groups, 24, seed=7, log_ratio=0.1, ratio_sd=0.5, misfit=0.12, noise=0.06, start_sd=0.02))
    ratio = typical_gain(predictor, predictor.groups_[0].context) / expected_gain(predictor.groups_[0].context)
    assert math.log(ratio) == pytest.approx(0.1, abs=3 * 0.5 / math.sqrt(groups))
    spread = predictor.gain_level_.of(predictor.groups_[0].context)[1]
    assert spread == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(2 * groups))
    assert predictor.noise_ == pytest.approx(0.06, rel=0.1)
    assert predictor.misfit_ == pytest.approx(0.12, rel=0.15)
    assert predictor.start_sd_ == pytest.approx(0.02, rel=3 / math.sqrt(2 * groups))
    assert predictor.score_coef_[0] == pytest.approx(1.5, rel=0.1)
    assert predictor.score_sd_ == pytest.approx(0.1, rel=0.25)


def group_of(simulated: Sequence[float], log_loss: Sequence[float], start: float = 0.0, gain: float = 0.5) -> Group:
    context = {
        "log_start": start,
        "log_simulated": start - gain,
        "log_guess": 0.0,
        "head_gain": 1.0,
        "log_train_rows": math.log(512),
    }
    return Group("g", [str(i) for i in simulated], traits(simulated), np.array(log_loss), np.ones(len(simulated)), context, [])


def test_the_gain_of_a_group_in_closed_form() -> None:
    """Selections that forgo x keep 1 − x^1.5 of G; the error holds that of H, shared by all."""
    x = np.array([0.0, 0.25, 1.0, -0.36])
    kept = np.array([1.0, 1 - 0.125, 0.0, 1 + 0.216])
    exact = group_gain(group_of(0.5 * x, -0.1 - 0.8 * kept, start=-0.1))
    assert exact.value == pytest.approx(0.8)
    assert exact.error == pytest.approx(START_ERROR * kept.sum() / (kept @ kept))
    assert exact.is_clear
    left = np.array([0.1, -0.1, 0.1, -0.1])
    noisy = group_gain(group_of(np.zeros(4), -0.3 + left))
    assert noisy.value == pytest.approx(0.3)
    assert noisy.error == pytest.approx(math.hypot(math.sqrt(0.04 / 3 / 4), START_ERROR))
    assert noisy.is_clear == (CLEAR * noisy.error < 0.3)
    assert not group_gain(group_of(np.zeros(4), np.full(4, -2.9 * START_ERROR))).is_clear
    np.testing.assert_allclose(curve(np.array([-1.0, 0.0, 0.25, 1.0, 4.0])), [-1, 0, 0.125, 1, 8])


def test_tiny_simulated_gains_count_as_the_least() -> None:
    assert simulated_gain({"log_start": 0.2, "log_simulated": -0.3}) == pytest.approx(0.5)
    assert simulated_gain({"log_start": 0.2, "log_simulated": 0.19}) == LEAST_GAIN
    assert simulated_gain({"log_start": 0.2, "log_simulated": 0.9}) == LEAST_GAIN


def test_predictions_in_closed_form() -> None:
    predictor = as_simulated(fit(make_rows()))
    context = predictor.groups_[0].context
    gain = simulated_gain(context)
    typical = typical_gain(predictor, context)
    found = predictor.predict(traits(gain * np.array([0.0, 0.25, 1.0])), context, distances(3))
    np.testing.assert_allclose(found.deviation, typical * np.array([0, 0.125, 1]))
    np.testing.assert_allclose(np.log(found.loss.value), context["log_start"] - typical * np.array([1, 0.875, 0]))
    assert found.seed_sd == pytest.approx(typical * predictor.noise_)
    np.testing.assert_allclose(found.relative.value, (1 - np.exp(found.deviation)) / found.seed_sd)
    np.testing.assert_allclose(found.covariance, (typical * predictor.misfit_) ** 2 * np.eye(3))
    # nothing is won without modules: what is left is the error of H, misfit and noise
    own = 1.6449 * math.hypot(typical * math.hypot(predictor.misfit_, predictor.noise_), predictor.start_sd_)
    assert math.log(found.loss.high[2] / found.loss.value[2]) == pytest.approx(own, rel=1e-3)
    assert math.log(found.loss.value[2] / found.loss.low[2]) == pytest.approx(own, rel=1e-3)
    # the first wins between G/r and G·r of all-linear's gain, r the spread of gains, less what it then forgoes more or less
    x = 1.6449 * predictor.gain_level_.of(context)[1]
    for sign, change in ((-1, found.loss.high[0] / found.loss.value[0]), (1, found.loss.value[0] / found.loss.low[0])):
        kept = math.exp(sign * x) * (1 - predictor.tilt_ * sign * x)
        assert math.log(change) == pytest.approx(math.hypot(typical * (kept - 1), own), rel=1e-3)


def test_all_linear_has_no_deviation_and_no_relative_interval() -> None:
    predictor = fit(make_rows())
    params = np.array([[8.0, 8.0], [8.0, 0.0]])
    found = predictor.predict(traits([0.0, 0.2]), predictor.groups_[0].context, parameter_distances(params, np.array([8.0, 8.0])))
    assert found.deviation[0] == 0
    assert (found.relative.value[0], found.relative.low[0], found.relative.high[0]) == pytest.approx((0, 0, 0))
    assert found.relative.low[1] < found.relative.value[1] < found.relative.high[1]
    assert not found.distinguishable(0, 0)


def test_predictions_are_monotone_in_the_simulated_loss() -> None:
    """More simulated loss: more loss, a lower metric, a lower relative; below all-linear included."""
    for metric in ("accuracy", "f1", "matthews"):
        predictor = as_simulated(fit(make_rows(metric=metric)))
        found = predictor.predict(traits(np.linspace(-0.3, 0.8, 23)), predictor.groups_[0].context, distances(23))
        for falling in (found.relative.value, found.relative.low, -found.loss.value, -found.deviation):
            assert (np.diff(falling) < 0).all()
        assert (np.diff(found.score.value) <= 0).all()


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "spearman"])
def test_metrics_are_between_guessing_and_perfect(metric: str) -> None:
    """However far off the simulation is; intervals are ordered."""
    task = "regression" if metric == "spearman" else "classification"
    predictor = as_simulated(fit(make_rows(task=task, metric=metric, ratio_sd=1.0), task))
    context = predictor.groups_[0].context
    for start in (-4.0, context["log_start"], 3.0):
        shifted = {**context, "log_start": start, "log_simulated": start - 0.5}
        found = predictor.predict(traits(np.linspace(-1, 3, 9)), shifted, distances(9))
        for estimate in (found.loss, found.score, found.relative):
            assert (estimate.low <= estimate.value).all()
            assert (estimate.value <= estimate.high).all()
        assert (found.loss.low > 0).all()
        assert (found.score.high <= 1).all()
        assert (found.score.value >= context["chance"] - 1e-12).all()
        assert (found.score.low >= context["chance"] - 1.65 * METRIC_ERROR).all()  # a run may guess unluckily
        assert (found.score.low >= (-1.0 if metric in SIGNED_METRICS else 0.0)).all()
    assert found.score.value[-1] == pytest.approx(context["chance"])
    assert found.score.low[-1] == pytest.approx(context["chance"] - 1.645 * METRIC_ERROR, abs=1e-4)


def test_more_rows_teach_more_and_are_known_less_well() -> None:
    """The same simulation at other numbers of training rows; order and shares of the gain stay."""
    predictor = fit(make_rows())
    context = {**predictor.groups_[0].context, "log_train_rows": math.log(512)}
    simulated = np.linspace(0.0, 0.4, 5)
    usual, more, fewer = (
        predictor.predict(traits(simulated), {**context, "log_train_rows": math.log(rows)}, distances(5))
        for rows in (512, 2048, 128)
    )
    assert (more.loss.value < usual.loss.value).all()
    assert (usual.loss.value < fewer.loss.value).all()
    for other in (more, fewer):
        won = (context["log_start"] - np.log(p.loss.value[0]) for p in (other, usual))
        widths = (np.log(p.loss.high[0] / p.loss.low[0]) / gain for p, gain in zip((other, usual), won, strict=True))
        assert next(widths) > next(widths)
        assert other.relative.value == pytest.approx(usual.relative.value, rel=0.5)
        assert (np.argsort(other.deviation) == np.argsort(usual.deviation)).all()
    ratio = (context["log_start"] - np.log(more.loss.value)) / (context["log_start"] - np.log(usual.loss.value))
    assert ratio == pytest.approx(4**ROWS_POWER, rel=0.05)


def lm_rows(groups: int, **options: float) -> list[CalibrationRow]:
    return make_rows(groups, 12, task="causal-lm", metric="token_accuracy", prefix="lm", ratio_sd=0.1, **options)  # type: ignore[arg-type]


def test_language_models_are_fitted_apart() -> None:
    classifiers, models = make_rows(3, 12), lm_rows(3, log_ratio=-0.8)
    apart = fit(classifiers + models, "causal-lm")
    assert [g.name for g in apart.groups_] == ["lm 0", "lm 1", "lm 2"]
    context = apart.groups_[0].context
    assert math.log(typical_gain(apart, context) / expected_gain(context)) == pytest.approx(-0.8, abs=0.4)
    assert apart.predict(traits([0.0]), models[0].context, distances(1)).far == ()
    assert [g.name for g in fit(classifiers + models, "regression").groups_] == ["group 0", "group 1", "group 2"]
    borrowed = fit(classifiers, "causal-lm")
    one = fit(classifiers + lm_rows(1), "causal-lm")
    assert (len(borrowed.groups_), len(one.groups_)) == (3, 4)
    for predictor in (borrowed, one):
        (reason,) = predictor.predict(traits([0.0]), models[0].context, distances(1)).far
        assert "causal-lm" in reason


def flat(rows: Sequence[CalibrationRow], gain: float = 0.0, sd: float = 1e-3) -> list[CalibrationRow]:
    """The same groups where training gains next to nothing, or loses."""
    rng = np.random.default_rng(0)
    return [
        replace(row, group=row.group + " flat", val_loss=math.exp(row.context["log_start"] - gain + sd * rng.normal()))
        for row in rows
    ]


def test_noise_is_borrowed_where_the_clear_groups_have_one_seed() -> None:
    """Two seeds in a group that gains nothing do not say which share of the gain noise is."""
    classifiers = make_rows(3, 12)
    models = [row for row in lm_rows(1) if row.seed == 0] + flat(lm_rows(1))
    assert not knows_noise(grouped(models))
    predictor = fit(classifiers + models, "causal-lm")
    assert len(predictor.groups_) == 5
    assert predictor.noise_ == pytest.approx(fit(classifiers).noise_)
    (reason,) = predictor.predict(traits([0.0]), models[0].context, distances(1)).far
    assert "too few calibration runs were of a causal-lm task" in reason
    assert knows_noise(grouped(lm_rows(2)))


@pytest.mark.parametrize("gain", [0.0, -0.05, -1.0])
def test_groups_that_gain_nothing_or_lose_widen_the_spread_alone(gain: float) -> None:
    good = make_rows(8, 16)
    usual, both = fit(good), fit(good + flat(good, gain)[: len(good) // 4])
    assert len(both.groups_) == 10
    assert both.noise_ == pytest.approx(usual.noise_)
    assert both.misfit_ == pytest.approx(usual.misfit_, rel=0.02)  # gains are less of a surprise where they spread so far
    if gain > -0.5:
        assert both.gain_level_.sd > 1.3 * usual.gain_level_.sd
        assert typical_gain(both, both.groups_[0].context) < typical_gain(usual, both.groups_[0].context)
    found = predict(both, both.groups_[0])
    for estimate in (found.loss, found.score, found.relative):
        assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()


def test_two_groups_suffice() -> None:
    for selections in (2, 3, 16):
        predictor = fit(make_rows(2, selections, seed=3))
        found = predict(predictor, predictor.groups_[0])
        assert np.isfinite([found.loss.low, found.loss.high, found.relative.low, found.score.low]).all()
    few, many = (fit(make_rows(groups, seed=3, ratio_sd=0.1)).gain_level_.sd for groups in (2, 30))
    assert many < few < 1.2  # two groups do not show how far gains spread


def test_rows_of_one_class_do_not_break_the_fit() -> None:
    rows = make_rows(3)
    one = [replace(row, score=1.0, context={**row.context, "chance": 1.0}) if row.group == "group 0" else row for row in rows]
    assert np.isfinite(fit(one).score_coef_).all()
    found = fit(rows).predict(traits([0.1]), one[0].context, distances(1))
    assert found.score.value[0] == found.score.high[0] == 1.0


def test_rows_that_cannot_be_fitted() -> None:
    with pytest.raises(BadInput, match=r"hold 0 usable"):
        fit([])
    with pytest.raises(BadInput, match=r"hold 1 usable.*calibrate"):
        fit(make_rows(1))
    with pytest.raises(BadInput, match="second seed"):
        fit(make_rows(3, seeds=1))
    with pytest.raises(BadInput, match="differ clearly"):
        fit(flat(make_rows(3)))
    without = [row for row in make_rows(2) if row.selection != ALL_LINEAR]
    with pytest.raises(BadInput, match=r"hold 0 usable"):
        fit(without)


def test_grouping_averages_seeds_and_leaves_head_only_out() -> None:
    rows = make_rows(2, 4, 3)
    groups = grouped(rows)
    assert [g.name for g in groups] == ["group 0", "group 1"]
    first = groups[0]
    assert first.selections == [ALL_LINEAR, "selection 1", "selection 2", "selection 3"]
    assert (first.seeds == 3).all()
    own = [row for row in rows if row.group == "group 0" and row.selection == first.selections[2]]
    assert first.log_loss[2] == pytest.approx(np.mean([math.log(r.val_loss) for r in own]))
    assert first.simulated[2] == own[0].features["recipe_loss"]
    assert sum(row.selection == HEAD_ONLY for row in first.rows) == 1


def test_the_order_of_rows_does_not_matter() -> None:
    rows = make_rows(3, 10)
    shuffled = [rows[int(i)] for i in np.random.default_rng(0).permutation(len(rows))]
    a, b = (vars(fit(r)) for r in (rows, shuffled))
    assert a["gain_level_"].sd == pytest.approx(b["gain_level_"].sd)
    for name in ("noise_", "misfit_", "common_", "quietness_", "start_sd_", "score_sd_", "score_coef_"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)


def test_what_a_linear_probe_cannot_learn_is_not_promised() -> None:
    predictor = as_simulated(fit(make_rows()))
    context = predictor.groups_[0].context
    gain = simulated_gain(context)
    simulated = gain * np.array([0.0, 0.5, 1.0])
    believed = predictor.predict(traits(simulated), {**context, "head_gain": LEARNABLE}, distances(3))
    half = predictor.predict(traits(simulated), {**context, "head_gain": LEARNABLE / 2}, distances(3))
    nothing = predictor.predict(traits(simulated), {**context, "head_gain": -0.01}, distances(3))
    np.testing.assert_allclose(half.deviation, believed.deviation / 2, rtol=0.03)
    np.testing.assert_allclose(nothing.deviation, believed.deviation * LEAST_TRUST, rtol=0.03)
    for found, trusted in ((half, 0.5), (nothing, LEAST_TRUST)):  # noise and misfit fall less than the gain
        fallen = trusted**USUAL_QUIETNESS
        assert found.seed_sd == pytest.approx(believed.seed_sd * fallen, rel=0.03)
        np.testing.assert_allclose(found.covariance, believed.covariance * fallen**2, rtol=0.06)
    assert believed.distinguishable(0, 2)
    assert not nothing.distinguishable(0, 2)
    won = context["log_start"] - np.log(nothing.loss.value[0])
    assert 0 < won < 0.1 * (context["log_start"] - np.log(believed.loss.value[0]))
    assert FEATURE in all_feature_names()
