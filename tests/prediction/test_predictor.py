"""The predictor on rows of a known model, and on the shipped rows with their results or their features taken away."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import as_simulated, make_rows, traits
from scipy.stats import spearmanr

from advisor.core.errors import BadInput
from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction.calibration_rows import CalibrationRow, load_rows
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
from advisor.prediction.predictor import (
    FAR_FACTOR,
    METRIC_ERROR,
    Estimate,
    Predictions,
    Predictor,
    times_gain,
)
from advisor.report.words import NOT_KNOWN, loss_span, metric_known
from advisor.theory.features import all_feature_names

FLOOR = 0.5  # of the rank correlation on groups left out


def distances(count: int) -> np.ndarray:
    """Selections that share nothing with each other; all-linear last."""
    return np.asarray(1.0 - np.eye(count + 1))


def distances_of(group: Group) -> np.ndarray:
    """The same, but all-linear is itself."""
    found = distances(len(group.selections))
    i = group.selections.index(ALL_LINEAR)
    found[i, -1] = found[-1, i] = 0.0
    return found


def predict(predictor: Predictor, group: Group) -> Predictions:
    return predictor.predict(group.traits, group.context, distances_of(group))


def typical_gain(predictor: Predictor, context: Mapping[str, Any]) -> float:
    """Median of G."""
    return math.exp(predictor.gain_level_.of(context)[0])


def fit(rows: Sequence[CalibrationRow], task: str = "classification") -> Predictor:
    return Predictor().fit(rows, task)


def rank_correlations(rows: Sequence[CalibrationRow]) -> tuple[float, float]:
    """Means over groups, each left out of the fit, of the rank correlation of actual loss with predicted, and with size:
    within one budget where the group has six runs of one, since over all budgets size alone goes far. Groups of fewer than
    eight selections have no rank correlation worth the name."""
    predicted, size = [], []
    for group in grouped(rows):
        if len(group.selections) < 8:
            continue
        predictor = fit([row for row in rows if row.group != group.name], str(group.context["task"]))
        found = predict(predictor, group).deviation
        params = {row.selection: row.params for row in group.rows}
        sizes = np.array([-params[s] for s in group.selections])
        budgets = np.array([re.match(r"random \d+%|", s)[0] for s in group.selections])  # type: ignore[index]
        parts = [budgets == b for b in set(budgets) if b and (budgets == b).sum() >= 6] or [budgets == budgets]
        parts = [part for part in parts if np.ptp(sizes[part]) > 0]  # equal sizes rank nothing
        predicted += [spearmanr(found[part], group.log_loss[part]).statistic for part in parts]
        size += [spearmanr(sizes[part], group.log_loss[part]).statistic for part in parts]
    return float(np.mean(predicted)), float(np.nan_to_num(size).mean())


def shuffled_within_groups(rows: Sequence[CalibrationRow], seed: int) -> list[CalibrationRow]:
    rng = np.random.default_rng(seed)
    result = []
    for name in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == name and row.selection != HEAD_ONLY]
        order = rng.permutation(len(members))
        result += [replace(row, val_loss=members[int(i)].val_loss) for row, i in zip(members, order, strict=True)]
        result += [row for row in rows if row.group == name and row.selection == HEAD_ONLY]
    return result


def reduced_to_size(rows: Sequence[CalibrationRow]) -> list[CalibrationRow]:
    """The simulated loss replaced by one that says nothing but the number of parameters, and the depth by none."""
    most = {row.group: row.params for row in rows if row.selection == ALL_LINEAR}

    def features(row: CalibrationRow) -> dict[str, float]:
        return {**row.features, FEATURE: simulated_gain(row.context) * (1 - row.params / most[row.group]), "depth": 0.0}

    return [replace(row, features=features(row)) for row in rows if row.group in most]


@pytest.fixture(scope="module")
def shipped() -> list[CalibrationRow]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", "/nowhere")  # no rows of one's own
        rows = load_rows()
    assert len(grouped(rows)) >= 4, f"only {len(grouped(rows))} groups of rows of this feature version are shipped"
    return rows


def test_shipped_rows_rank_left_out_groups_and_not_when_their_results_are_shuffled(shipped: list[CalibrationRow]) -> None:
    real, _ = rank_correlations(shipped)
    broken = [rank_correlations(shuffled_within_groups(shipped, seed))[0] for seed in range(5)]
    assert real >= FLOOR, f"{real:.3f}"
    assert max(broken) < real - 0.2, f"{real:.3f} against {broken}"
    assert abs(np.mean(broken)) < 0.2, f"shuffled {broken}"


def test_shipped_rows_say_more_than_the_number_of_parameters(shipped: list[CalibrationRow]) -> None:
    real, size = rank_correlations(shipped)
    assert real > size + 0.05, f"{real:.3f} against {size:.3f}"
    reduced, _ = rank_correlations(reduced_to_size(shipped))
    assert reduced == pytest.approx(size, abs=0.05)
    assert real > reduced + 0.05, f"{real:.3f} against {reduced:.3f}"


def test_synthetic_rows_too() -> None:
    rows = make_rows(5, 20)
    real, _ = rank_correlations(rows)
    broken = [rank_correlations(shuffled_within_groups(rows, seed))[0] for seed in range(3)]
    assert real > 0.9, real
    assert max(broken) < 0.4, broken


def test_learns_the_model_the_rows_were_made_from() -> None:
    groups = 60
    predictor = fit(make_rows(groups, 24, seed=7, log_ratio=0.1, ratio_sd=0.5, misfit=0.12, noise=0.06, start_sd=0.02))
    ratio = typical_gain(predictor, predictor.groups_[0].context) / expected_gain(predictor.groups_[0].context)
    assert math.log(ratio) == pytest.approx(0.1, abs=3 * 0.5 / math.sqrt(groups))
    assert predictor.gain_level_.sd == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(2 * groups))
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
    # all-linear wins between G/r and G·r, r the spread of gains
    r = math.exp(1.6449 * predictor.gain_level_.of(context)[1])
    assert math.log(found.loss.high[0] / found.loss.value[0]) == pytest.approx(math.hypot(typical * (1 - 1 / r), own), rel=1e-3)
    assert math.log(found.loss.value[0] / found.loss.low[0]) == pytest.approx(math.hypot(typical * (r - 1), own), rel=1e-3)


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
    assert ratio == pytest.approx(4**ROWS_POWER)


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
            assert within > 0.89
        if words[-1] == "not known":
            assert within < 0.91
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
    gain = typical * (1 - math.exp(-1.6449 * FAR_FACTOR * predictor.gain_level_.of(far_context)[1]))
    assert math.log(far.loss.high[0] / far.loss.value[0]) == pytest.approx(math.hypot(gain, 1.6449 * FAR_FACTOR * own), rel=1e-3)
    for within in ({"log_lr": near["log_lr"] - math.log(3.9)}, {"log_rank": near["log_rank"] + math.log(3.9)}):
        assert predictor.predict(traits([0.1]), {**near, **within}, distances(1)).far == ()


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
    assert (both.noise_, both.misfit_) == pytest.approx((usual.noise_, usual.misfit_))
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
    np.testing.assert_allclose(half.deviation, believed.deviation / 2)
    np.testing.assert_allclose(nothing.deviation, believed.deviation * LEAST_TRUST)
    for found in (half, nothing):  # noise and misfit stay what they are in log loss
        assert found.seed_sd == pytest.approx(believed.seed_sd)
        np.testing.assert_allclose(found.covariance, believed.covariance)
    assert believed.distinguishable(0, 2)
    assert not nothing.distinguishable(0, 2)
    won = context["log_start"] - np.log(nothing.loss.value[0])
    assert 0 < won < 0.1 * (context["log_start"] - np.log(believed.loss.value[0]))
    assert FEATURE in all_feature_names()


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
