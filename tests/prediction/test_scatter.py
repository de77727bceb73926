"""What the predictor learns of misfit and of noise between seeds, from rows of a known model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes import make_rows

from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.groups import grouped
from advisor.prediction.predictor import Predictor


def fit(rows: Sequence[CalibrationRow]) -> Predictor:
    return Predictor().fit(rows, "classification")


@pytest.mark.parametrize(("misfit", "noise"), [(0.02, 0.1), (0.2, 0.02)])
def test_noise_between_seeds_and_misfit_are_told_apart(misfit: float, noise: float) -> None:
    predictor = fit(make_rows(20, 30, seed=1, misfit=misfit, noise=noise))
    assert predictor.noise_ == pytest.approx(noise, rel=0.15)
    assert predictor.misfit_ == pytest.approx(max(misfit, noise / 2), rel=0.3)


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
    near = [replace(row, mask="1111" if row.selection == ALL_LINEAR else "1110") for row in rows]
    assert (grouped(near)[0].apart == [0, *[0.25] * 11]).all()
    assert (grouped(rows)[0].apart == 1).all()
    assert fit(near).misfit_ == pytest.approx(2 * fit(rows).misfit_, rel=0.1)
