"""The predictor on rows of a known model, and on the shipped rows with their results shuffled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fakes import make_rows
from scipy.stats import spearmanr

from advisor.errors import BadInput
from advisor.features import all_feature_names
from advisor.predictor import (
    FEATURES,
    Group,
    Predictions,
    Predictor,
    context_of,
    grouped,
    parameter_distances,
)
from advisor.rows import CalibrationRow, load_rows
from advisor.selections import ALL_LINEAR, HEAD_ONLY

TWO = ("recipe_loss", "params")
FLOOR = 0.5  # of the rank correlation on groups left out


def distances(count: int) -> np.ndarray:
    """Selections that share nothing with each other; all-linear last."""
    return np.asarray(1.0 - np.eye(count + 1))


def predict(predictor: Predictor, group: Group) -> Predictions:
    return predictor.predict(group.table, group.context, distances(len(group.selections)))


def left_out_correlation(rows: Sequence[CalibrationRow]) -> float:
    """Mean over groups of the rank correlation of predicted and actual loss, fitted on all other groups.

    Only groups of the same kind of task predict each other, as in a real fit; single groups borrow all others.
    """
    found = []
    for group in grouped(rows, FEATURES):
        others = [row for row in rows if row.group != group.name]
        try:
            predictor = Predictor().fit(others, str(group.context["task"]))
        except BadInput:  # one group is left: fit on it twice under two names
            twins = [replace(row, group=row.group + " twin") for row in others]
            try:
                predictor = Predictor().fit([*others, *twins], str(group.context["task"]))
            except BadInput:  # no second seed there
                continue
        found.append(spearmanr(predict(predictor, group).deviation, group.log_loss).statistic)
    assert found, "no group can be left out"
    return float(np.mean(found))


def shuffled_within_groups(rows: Sequence[CalibrationRow], seed: int) -> list[CalibrationRow]:
    rng = np.random.default_rng(seed)
    result = []
    for name in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == name]
        order = rng.permutation(len(members))
        result += [replace(row, val_loss=members[int(i)].val_loss) for row, i in zip(members, order, strict=True)]
    return result


@pytest.mark.parametrize("source", ["synthetic", "shipped"])
def test_ranks_left_out_groups_and_not_when_results_are_shuffled(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # the shipped rows alone
    rows = make_rows(5, 20) if source == "synthetic" else load_rows()
    if len(grouped(rows, FEATURES)) < 2:
        pytest.skip("fewer than two groups of calibration rows are shipped")
    real = left_out_correlation(rows)
    broken = [left_out_correlation(shuffled_within_groups(rows, seed)) for seed in range(5)]
    assert real >= FLOOR, f"{source}: {real:.3f}"
    assert max(broken) < FLOOR, f"{source}: shuffled {broken}"
    assert real > max(broken) + 0.2, f"{source}: {real:.3f} against {broken}"


def two(rows: Sequence[CalibrationRow], task: str = "classification") -> Predictor:
    """A predictor of two features, whatever the shipped one has."""
    return Predictor(TWO).fit(rows, task)


def test_learns_coefficients_that_the_prior_does_not_hold() -> None:
    """The prior says 1 for the simulated recipe and 0 for the rest; the rows say otherwise."""
    rows = make_rows(6, 30, effect=lambda f: 0.4 * f["recipe_loss"] + 0.1 * f["params"], noise=0.01, misfit=0.005)
    assert two(rows).coef_ == pytest.approx([0.4, 0.1], abs=0.03)


def test_few_noisy_rows_are_drawn_towards_the_prior() -> None:
    """Where the prior holds, coefficients from a few noisy rows lie nearer to it than least squares puts them."""
    errors, plain = [], []
    for seed in range(20):
        rows = make_rows(2, 4, seed=seed, effect=lambda f: f["recipe_loss"], noise=0.3, misfit=0.0)
        errors.append(np.abs(two(rows).coef_ - [1, 0]).sum())
        groups = grouped(rows, TWO)
        table = np.vstack([g.table - g.table.mean(0) for g in groups])
        target = np.concatenate([g.log_loss - g.log_loss.mean() for g in groups])
        plain.append(np.abs(np.linalg.lstsq(table, target, rcond=None)[0] - [1, 0]).sum())
    assert np.mean(errors) < 0.7 * np.mean(plain), (np.mean(errors), np.mean(plain))


def test_seed_noise_and_misfit_are_told_apart() -> None:
    noisy = Predictor().fit(make_rows(8, 30, noise=0.08, misfit=0.0), "classification")
    assert noisy.seed_sd_ == pytest.approx(0.08, rel=0.15)
    assert noisy.misfit_ <= 0.5 * 0.08 + 1e-9 or noisy.misfit_ < 0.06
    unlike = Predictor().fit(make_rows(8, 30, noise=0.01, misfit=0.08), "classification")
    assert unlike.seed_sd_ == pytest.approx(0.01, rel=0.15)
    assert unlike.misfit_ == pytest.approx(0.08, rel=0.2)


def test_all_linear_has_no_deviation_and_no_relative_interval() -> None:
    predictor = two(make_rows())
    context = predictor.groups_[0].context
    table = np.array([[0.0, 0.0], [0.2, -1.0]])
    params = np.array([[8.0, 8.0], [8.0, 0.0]])
    found = predictor.predict(table, context, parameter_distances(params, np.array([8.0, 8.0])))
    assert found.deviation[0] == 0
    assert (found.relative.value[0], found.relative.low[0], found.relative.high[0]) == pytest.approx((0, 0, 0))
    assert found.relative.low[1] < found.relative.value[1] < found.relative.high[1]
    assert not found.distinguishable(0, 0)


def test_relative_is_in_seed_deviations_higher_better() -> None:
    predictor = two(make_rows())
    found = predictor.predict(np.array([[0.3, 0.0], [-0.3, 0.0]]), predictor.groups_[0].context, distances(2))
    assert found.relative.value[0] < 0 < found.relative.value[1]
    expected = (1 - math.exp(found.deviation[0])) / predictor.seed_sd_
    assert found.relative.value[0] == pytest.approx(expected)
    assert found.loss.value[0] / found.loss.value[1] == pytest.approx(math.exp(found.deviation[0] - found.deviation[1]))


def test_intervals_are_ordered_and_within_the_metric_range() -> None:
    for metric, classes in (("accuracy", 2), ("f1", 2), ("matthews", 2)):
        rows = make_rows(metric=metric, level_sd=1.0)
        predictor = two(rows)
        context = {**predictor.groups_[0].context, "metric": metric, "classes": classes}
        found = predictor.predict(np.array([[0.0, 0.0], [1.5, -3.0]]), context, distances(2))
        for estimate in (found.loss, found.score, found.relative):
            assert (estimate.low <= estimate.value).all()
            assert (estimate.value <= estimate.high).all()
        assert (found.loss.low > 0).all()
        assert (found.score.high <= 1).all()
        assert (found.score.low >= (-1 if metric == "matthews" else 0)).all()
        assert found.score.value[0] > found.score.value[1]  # a higher loss means a lower metric


@pytest.fixture(scope="module")
def new_groups() -> list[tuple[Predictor, Group, np.ndarray]]:
    """Predictors fitted on 8 groups each, with a group that none of them saw and its true expected log losses."""
    cases = []
    for trial in range(40):
        rows = make_rows(8, 16, seed=100 + trial, noise=0.03, misfit=0.04)
        predictor = Predictor().fit(rows, "classification")
        # the same draw without noise: the expectation over seeds
        seen = make_rows(1, 16, 1, seed=900 + trial, noise=0.03, misfit=0.04, prefix="new")
        true = make_rows(1, 16, 1, seed=900 + trial, noise=0.0, misfit=0.04, prefix="new")
        cases.append((predictor, grouped(seen, FEATURES)[0], grouped(true, FEATURES)[0].log_loss))
    return cases


def test_ninety_percent_intervals_cover_about_that(new_groups: list[tuple[Predictor, Group, np.ndarray]]) -> None:
    loss, relative = [], []
    for predictor, group, true in new_groups:
        found = predict(predictor, group)
        loss += list((np.log(found.loss.low) <= group.log_loss) & (group.log_loss <= np.log(found.loss.high)))
        actual = (1 - np.exp(true - true[0])) / predictor.seed_sd_
        relative += list((found.relative.low <= actual) & (actual <= found.relative.high))[1:]
    assert 0.82 <= np.mean(loss) <= 0.98, np.mean(loss)
    assert 0.8 <= np.mean(relative) <= 0.995, np.mean(relative)


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
    assert len(right) >= 0.1 * pairs, f"{len(right)} of {pairs}"


def test_similar_selections_are_told_apart_more_easily() -> None:
    """Misfit is shared: the same predicted difference is surer where most parameters are the same."""
    predictor = two(make_rows(misfit=0.1))
    table, context = np.array([[0.0, -0.1], [0.05, -0.2]]), predictor.groups_[0].context
    near = np.array([[0, 0.02, 0.1], [0.02, 0, 0.1], [0.1, 0.1, 0]])
    a, b = (predictor.predict(table, context, d).covariance for d in (near, distances(2)))
    assert np.linalg.eigvalsh(a)[0] > -1e-12
    spread = [c[0, 0] + c[1, 1] - 2 * c[0, 1] for c in (a, b)]
    assert spread[0] < 0.2 * spread[1]


def test_far_targets_are_named_and_widened() -> None:
    predictor = two(make_rows())
    near = dict(predictor.groups_[0].context)
    table = np.array([[0.1, -1.0]])
    usual = predictor.predict(table, near, distances(1))
    assert usual.far == ()
    changes = {
        "learning rate": {"log_lr": near["log_lr"] + math.log(5)},
        "training rows": {"log_train_rows": near["log_train_rows"] - math.log(5)},
        "rank": {"log_rank": near["log_rank"] + math.log(5)},
        "regression": {"task": "regression", "metric": "spearman", "classes": 0},
    }
    for reason, change in changes.items():
        far = predictor.predict(table, {**near, **change}, distances(1))
        assert len(far.far) == 1
        assert reason in far.far[0]
        assert far.relative.high[0] - far.relative.low[0] > 1.5 * (usual.relative.high[0] - usual.relative.low[0])
        assert far.covariance[0, 0] > usual.covariance[0, 0]
    within = predictor.predict(table, {**near, "log_lr": near["log_lr"] + math.log(3.9)}, distances(1))
    assert within.far == ()


def test_language_models_are_fitted_apart() -> None:
    classifiers = make_rows(3, 12, effect=lambda f: f["recipe_loss"])
    models = make_rows(
        3, 12, task="causal-lm", metric="token_accuracy", prefix="lm", effect=lambda f: 0.2 * f["recipe_loss"],
        noise=0.002, misfit=0.0,
    )  # fmt: skip
    apart = two(classifiers + models, "causal-lm")
    assert {g.name for g in apart.groups_} == {"lm 0", "lm 1", "lm 2"}
    assert apart.coef_[0] == pytest.approx(0.2, abs=0.05)
    regressor = two(classifiers + models, "regression")
    assert {g.name for g in regressor.groups_} == {"group 0", "group 1", "group 2"}
    borrowed = two(classifiers, "causal-lm")
    assert len(borrowed.groups_) == 3
    one = two(classifiers + [row for row in models if row.group == "lm 0"], "causal-lm")
    assert len(one.groups_) == 4
    for predictor in (borrowed, one):
        (reason,) = predictor.predict(np.zeros((1, 2)), models[0].context, distances(1)).far
        assert "causal-lm" in reason
    assert apart.predict(np.zeros((1, 2)), models[0].context, distances(1)).far == ()


def test_rows_that_cannot_be_fitted() -> None:
    with pytest.raises(BadInput, match=r"hold 0 usable"):
        Predictor().fit([], "classification")
    with pytest.raises(BadInput, match=r"hold 1 usable.*calibrate"):
        Predictor().fit(make_rows(1), "classification")
    with pytest.raises(BadInput, match="second seed"):
        Predictor().fit(make_rows(3, seeds=1), "classification")
    headless = [row for row in make_rows(2) if row.selection != ALL_LINEAR]
    with pytest.raises(BadInput, match=r"hold 0 usable"):
        Predictor().fit(headless, "classification")


def test_grouping_averages_seeds_and_leaves_head_only_out() -> None:
    rows = make_rows(2, 4, 3)
    extra = [replace(row, selection=HEAD_ONLY) for row in rows[:1]]
    groups = grouped([*rows, *extra], FEATURES)
    assert [g.name for g in groups] == ["group 0", "group 1"]
    first = groups[0]
    assert HEAD_ONLY not in first.selections
    assert (first.seeds == 3).all()
    own = [math.log(r.val_loss) for r in rows if r.group == "group 0" and r.selection == first.selections[2]]
    assert first.log_loss[2] == pytest.approx(np.mean(own))


def test_the_order_of_rows_does_not_matter() -> None:
    rows = make_rows(3, 10)
    shuffled = [rows[int(i)] for i in np.random.default_rng(0).permutation(len(rows))]
    a, b = (Predictor().fit(r, "classification") for r in (rows, shuffled))
    np.testing.assert_allclose(a.coef_, b.coef_, rtol=1e-8)
    assert (a.seed_sd_, a.misfit_, a.level_sd_) == pytest.approx((b.seed_sd_, b.misfit_, b.level_sd_))


def test_parameter_distances() -> None:
    params = np.array([[4.0, 0, 0], [2, 2, 0], [0, 0, 0]])
    found = parameter_distances(params, np.array([4.0, 4, 4]))
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 0)
    assert found[0, 1] == pytest.approx(1 - 2 / 6)
    assert found[0, 3] == pytest.approx(1 - 4 / 12)
    assert found[2, 3] == found[0, 2] == 1.0


def test_context_is_logarithmic() -> None:
    context = context_of(
        task="regression", metric="spearman", classes=0, train_rows=100, lr=1e-3, rank=4, simulated=0.5
    )
    assert context["log_train_rows"] == pytest.approx(math.log(100))
    assert context["log_simulated"] == pytest.approx(math.log(0.5))
    assert set(FEATURES) <= set(all_feature_names())
