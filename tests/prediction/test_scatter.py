"""What the predictor learns of misfit and of noise between seeds, from rows of a known model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fakes import make_rows

from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction import scatter
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.gain import LEARNABLE
from advisor.prediction.groups import grouped, seed_sd
from advisor.prediction.likeness import error_correlations
from advisor.prediction.predictor import Predictor
from advisor.prediction.scatter import USUAL_QUIETNESS, Spread


def fit(rows: Sequence[CalibrationRow]) -> Predictor:
    return Predictor().fit(rows, "classification")


@pytest.mark.parametrize(("misfit", "noise"), [(0.02, 0.1), (0.2, 0.02)])
def test_noise_between_seeds_and_misfit_are_told_apart(misfit: float, noise: float) -> None:
    predictor = fit(make_rows(20, 30, seed=1, misfit=misfit, noise=noise))
    assert predictor.noise_ == pytest.approx(noise, rel=0.15)
    assert predictor.misfit_ == pytest.approx(max(misfit, noise / 2), rel=0.3)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_how_shares_rise_with_the_gain_is_learned(tilt: float) -> None:
    """Drawn to 0 as by one data set; what it explains is no misfit."""
    options = {"misfit": 0.1, "noise": 0.02, "ratio_sd": 0.5, "start_sd": 0.0}
    named = [
        replace(row, provenance={**row.provenance, "data": row.group})
        for row in make_rows(60, 16, seed=2, tilt=tilt, **options)  # type: ignore[arg-type]
    ]
    found = fit(named)
    assert found.tilt_ == pytest.approx(tilt, abs=0.04)
    assert found.misfit_ == pytest.approx(fit(make_rows(60, 16, seed=2, **options)).misfit_, rel=0.25)  # type: ignore[arg-type]


def test_noise_is_pooled_over_selections_run_twice() -> None:
    rows = make_rows(1, 3, 3)
    logs = {s: [math.log(r.val_loss) for r in rows if r.selection == s] for s in (ALL_LINEAR, "selection 1", "selection 2")}
    single = [r for r in rows if r.selection != "selection 2" or r.seed == 0]
    wanted = math.sqrt(np.mean([np.var(logs[s], ddof=1) for s in (ALL_LINEAR, "selection 1")]))
    assert seed_sd(grouped(single)[0]) == pytest.approx(wanted)
    assert seed_sd(grouped([r for r in rows if r.seed == 0])[0]) is None


def test_noise_is_that_of_a_usual_group() -> None:
    """One group of noisy runs does not change it; how much loss the pick may give up is counted in it too."""
    rows = make_rows(9, 12, 2, noise=0.05)
    noisy = make_rows(1, 12, 2, seed=5, noise=0.8, prefix="noisy")
    usual, both = fit(rows), fit(rows + noisy)
    assert usual.noise_ == pytest.approx(0.05, rel=0.1)
    assert both.noise_ == pytest.approx(usual.noise_, rel=0.3)
    context = both.groups_[0].context
    found = both.predict(np.zeros((1, 3)), context, np.zeros((2, 2)))
    assert found.seed_sd == pytest.approx(math.exp(both.gain_level_.of(context)[0]) * both.noise_)


def test_single_pairs_of_runs_do_not_make_noise_look_small() -> None:
    """Half of all pairs differ by less than 0.95 standard deviations of one run: their median would be a third too low."""
    pairs = [
        replace(row, group=f"{row.group}, {seed}")
        for seed in range(4)
        for row in make_rows(15, 12, 2, seed=seed, noise=0.1, misfit=0.05)
        if row.seed == 0 or row.selection == ALL_LINEAR
    ]
    assert fit(pairs).noise_ == pytest.approx(0.1, rel=0.2)


def known_masks(rows: Sequence[CalibrationRow], share: float = 0.25, modules: int = 40) -> list[CalibrationRow]:
    """The same, each selection with a share of the modules, drawn by its name."""

    def mask(name: str) -> str:
        if name == ALL_LINEAR:
            return "1" * modules
        chosen = np.random.default_rng(list(name.encode())).permutation(modules) < share * modules
        return "".join(map(str, chosen.astype(int)))

    return [replace(row, mask=mask(row.selection)) for row in rows]


def erring_together(shared: float, own: float) -> list[CalibrationRow]:
    """Rows of 40 groups: all of one err by ``shared`` of the gain or by as much less against all modules, each by its own beside
    it."""
    rng, rows = np.random.default_rng(0), known_masks(make_rows(40, 16, seed=4, misfit=0.0, noise=0.002, start_sd=0.0))
    errors = {}
    for i, group in enumerate(grouped(rows)):
        gain = group.context["log_start"] - group.log_loss[group.selections.index(ALL_LINEAR)]
        for name in group.selections:
            error = gain * (shared * (-1) ** i + own * rng.normal())
            errors[group.name, name] = 0.0 if name == ALL_LINEAR else error
    return [replace(row, val_loss=row.val_loss * math.exp(errors.get((row.group, row.selection), 0.0))) for row in rows]


@pytest.mark.parametrize("own", [0.02, 0.1])
def test_what_selections_of_a_group_have_in_common_is_told_from_their_own_error(
    own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "PRIOR_MISFIT", 0.0)
    monkeypatch.setattr(scatter, "PRIOR_COMMON", 1.0)
    shared = 0.2
    rows = erring_together(shared, own)
    predictor = fit(rows)
    distances = grouped(rows)[0].distances
    assert distances is not None
    correlations = error_correlations(distances, predictor.common_)
    against_all = predictor.misfit_ * math.sqrt(2 - 2 * np.median(correlations[-1]))
    pair = predictor.misfit_ * math.sqrt(2 - 2 * correlations[1, 2])
    assert against_all == pytest.approx(math.hypot(shared, own), rel=0.25)
    assert pair == pytest.approx(own * math.sqrt(2), rel=0.4)


@pytest.mark.parametrize("misfit", [0.02, 0.6])
def test_misfit_is_drawn_to_a_usual_one_as_by_one_data_set(misfit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(4, 16, seed=6, misfit=misfit, noise=0.01)
    drawn = fit(rows).misfit_
    monkeypatch.setattr(scatter, "PRIOR_MISFIT", 0.0)
    alone = fit(rows).misfit_
    students = 2.353 / 1.645  # of 4 data sets
    assert (drawn / students) ** 2 == pytest.approx((4 * (alone * math.sqrt(5 / 4) / students) ** 2 + 0.2**2) / 5, rel=0.01)


def test_what_selections_have_in_common_is_drawn_to_half_as_by_one_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = erring_together(0.2, 0.1)
    drawn = fit(rows).common_
    monkeypatch.setattr(scatter, "PRIOR_COMMON", 1.0)
    alone = fit(rows).common_
    students = 1.685 / 1.645  # of 40 data sets
    assert alone - drawn == pytest.approx(students**2 * 0.5 / (40 + 1), rel=0.01)


def test_rows_that_do_not_say_what_they_adapt_have_nothing_in_common() -> None:
    assert fit(make_rows(6)).common_ == 0.0
    assert grouped(make_rows(1))[0].distances is None
    assert grouped(known_masks(make_rows(1)))[0].distances is not None


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_runs_of_tasks_that_a_linear_probe_cannot_learn_are_as_quiet_as_real_ones_were(power: float) -> None:
    """Their deviations are made those of the others, times a power of the trust."""
    believed = 0.1
    usual = make_rows(20, 12, seed=1, misfit=0.15, noise=0.05)
    quiet = []
    for row in make_rows(10, 12, seed=2, misfit=0.15, noise=0.05, prefix="quiet"):
        start = row.context["log_start"]
        won = (start - math.log(row.val_loss)) * believed**power * 0.3
        context = {**row.context, "head_gain": believed * LEARNABLE}
        quiet.append(replace(row, context=context, val_loss=math.exp(start - won), features={**row.features, "recipe_loss": 0.0}))
    found = [fit(usual + some).quietness_ for some in (quiet, [])]
    assert found[1] == USUAL_QUIETNESS
    assert found[0] == pytest.approx(power, abs=0.35)
    spread = Spread(0.2, 0.1)
    assert spread.at(1.0, power) == spread
    in_log_loss = believed * spread.at(believed, power).misfit
    assert in_log_loss == pytest.approx(0.2 * believed**power)


@pytest.mark.parametrize(("before", "after"), [(0.6, 0.6), (0.6, 0.3), (0.6, 0.001), (1.5, 0.2)])
def test_what_runs_say_of_the_gain_changes_the_misfit_by_nothing_on_average(before: float, after: float) -> None:
    """A surprise is as large as the runs say much: its variance is what they take off that of log G."""
    said = 1 - (after / before) ** 2
    nodes, mass = np.polynomial.hermite_e.hermegauss(9)
    factors = [scatter.scatter_given_gain(s, before, after, power=1.0) for s in math.sqrt(said) * before * nodes]
    assert mass @ factors / mass.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_gain_that_surprises_makes_the_misfit_larger_and_one_as_expected_smaller(power: float) -> None:
    def factor(ratio: float) -> float:
        """Of the variance in log loss, beside its power of the gain."""
        return math.exp(2 * (1 - power) * ratio) * scatter.scatter_given_gain(ratio, 0.5, 0.01, power)

    assert factor(0.0) < 1 < factor(1.5) == pytest.approx(factor(-1.5))
    assert scatter.scatter_given_gain(0.0, 0.5, 0.5, power) == 1.0


def test_misfit_with_unequal_numbers_of_seeds() -> None:
    """Selections run once are as noisy as one run, however often others were repeated."""
    rows = [
        row
        for row in make_rows(20, 30, 8, seed=2, misfit=0.1, noise=0.15)
        if row.seed == 0 or row.selection in (ALL_LINEAR, *(f"selection {s}" for s in range(1, 8)))
    ]
    assert fit(rows).misfit_ == pytest.approx(0.1, rel=0.15)


def test_an_error_that_all_selections_of_a_group_share_is_misfit() -> None:
    """Against all modules they err together, by 0.2 of the gain or by −0.2: the spread within the group does not show it."""
    rows = make_rows(20, 12, seed=4, misfit=0.01, noise=0.01)
    gains = {group.name: group.context["log_start"] - group.log_loss[0] for group in grouped(rows)}
    shifts = {name: 0.2 * gain * (-1) ** int(name.split()[1]) for name, gain in gains.items()}
    apart = [row.selection not in (ALL_LINEAR, HEAD_ONLY) for row in rows]
    shifted = [replace(r, val_loss=r.val_loss * math.exp(a * shifts[r.group])) for r, a in zip(rows, apart, strict=True)]
    students = 1.729 / 1.645  # of 20 data sets
    assert fit(shifted).misfit_ == pytest.approx(students * 0.2 / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize(("data", "factor"), [(2, 6.314 / 1.645), (5, 2.132 / 1.645), (20, 1.729 / 1.645)])
def test_misfit_known_from_few_data_sets_is_widened_as_students_interval_is(data: int, factor: float) -> None:
    rows = make_rows(20, 12, seed=3, misfit=0.2)
    named = [replace(row, provenance={"data": f"data {int(row.group.split()[1]) % data}"}) for row in rows]
    unlike = [replace(row, provenance={"data": row.group}) for row in rows]
    assert fit(named).misfit_ / factor == pytest.approx(fit(unlike).misfit_ / (1.729 / 1.645), rel=0.15)


def test_selections_count_as_far_as_they_differ_from_all_modules() -> None:
    """The same error of a selection with three quarters of the modules means twice that of one with none, as a deviation."""
    rows = [row for row in make_rows(20, 12, seed=6, misfit=0.2) if row.selection != HEAD_ONLY]
    near = known_masks(rows, 0.75)
    assert (grouped(near)[0].apart == [0, *[0.25] * 11]).all()
    assert (grouped(rows)[0].apart == [0, *[1.0] * 11]).all()
    assert fit(near).misfit_ == pytest.approx(2 * fit(rows).misfit_, rel=0.1)
