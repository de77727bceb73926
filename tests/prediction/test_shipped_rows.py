"""The shipped rows rank groups that were left out, and no longer when their results or features are taken away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from fakes import fit, make_rows, predict
from scipy.stats import spearmanr

from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction.calibration_rows import CalibrationRow, load_rows, parse_rows
from advisor.prediction.gain import FEATURE, simulated_gain
from advisor.prediction.groups import grouped

FLOOR = 0.5  # of the rank correlation on groups left out


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


def test_every_shipped_row_passes_the_check_that_a_users_row_must(shipped: list[CalibrationRow]) -> None:
    """The program reads them without it."""
    files = sorted((resources.files("profiles") / "predictors").iterdir(), key=lambda file: file.name)
    checked = [row for file in files for row in parse_rows(file.read_bytes().splitlines(), file.name)]
    assert checked == shipped
    runs = {(row.group_key, row.selection_key, row.seed) for row in shipped}
    assert len(runs) == len(shipped) == 2727


def test_shipped_groups_are_those_of_their_names(shipped: list[CalibrationRow]) -> None:
    """Pilot runs and results of benchmarks are kept by these names; groups are told apart by content."""
    by_name: dict[str, list[CalibrationRow]] = {}
    for row in shipped:
        by_name.setdefault(row.group, []).append(row)
    assert {group.name: group.rows for group in grouped(shipped)} == by_name
    assert len(grouped(shipped)) == len(by_name) == 157
    assert {group.data for group in grouped(shipped)} == {row.provenance["data"] for row in shipped}


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
