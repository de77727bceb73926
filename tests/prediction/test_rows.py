"""Calibration rows as files: round trip, damage named by file, line and field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import make_rows

from advisor.core.errors import BadInput, UnusableRow
from advisor.core.reading import sealed
from advisor.prediction.calibration_rows import ROW_SCHEMA, CalibrationRow, load_rows, parse_rows, user_rows_folder
from advisor.prediction.groups import grouped
from advisor.prediction.predictor import Predictor
from advisor.theory.features import FEATURE_VERSION

ROWS = make_rows(2, 3, 2)


def test_round_trip() -> None:
    assert parse_rows([row.as_json() for row in ROWS], "f") == ROWS


def test_own_rows_are_found_after_the_shipped_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shipped = load_rows()
    folder = user_rows_folder()
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True)
    (folder / "b.jsonl").write_text("".join(r.as_json() + "\n" for r in ROWS[2:]))
    (folder / "a.jsonl").write_text("".join(r.as_json() + "\n" for r in ROWS[:2]))
    (folder / "notes.txt").write_text("not rows")
    assert load_rows() == shipped + ROWS


MADE = {
    **{f"{of}_fingerprint": of for of in ("model", "data", "eval")},
    **{"model": "run/model", "data": "data/train.jsonl", "train_rows": 512, "eval_rows": 200, "max_length": 64},
}
RUNS = [
    replace(row, group="a name", provenance=MADE, mask=mask)
    for row, mask in zip(ROWS[1:5], ("11", "11", "10", "10"), strict=True)
]


@pytest.mark.parametrize(
    "changes",
    [
        *({"provenance": {**MADE, name: "another"}} for name in ("model_fingerprint", "data_fingerprint", "eval_fingerprint")),
        *({"provenance": {**MADE, name: 7}} for name in ("train_rows", "eval_rows", "max_length", "source_seed")),
        {"provenance": {**MADE, "dtype": "bfloat16"}},
        {"recipe": {**ROWS[0].recipe, "lr": 0.01}},
        {"settings": {**ROWS[0].settings, "rank": 4}},
    ],
    ids=str,
)
def test_runs_of_one_name_are_of_two_groups_where_anything_else_differs(changes: dict[str, Any]) -> None:
    other = [replace(row, **changes) for row in RUNS]
    assert [(group.name, group.rows) for group in grouped(RUNS + other)] == [("a name", RUNS), ("a name", other)]


@pytest.mark.parametrize(
    "changes",
    [
        {"group": "another name"},
        {"provenance": {**MADE, "model": "another", "data": "another", "versions": {}, "device": "cuda"}},
        {"provenance": {**MADE, "dtype": "float32", "source_seed": 0}},
        {"recipe": {**ROWS[0].recipe, "train_rows": 512}},
    ],
    ids=str,
)
def test_runs_of_the_same_are_of_one_group_whatever_they_are_called(changes: dict[str, Any]) -> None:
    (group,) = grouped(RUNS + [replace(row, seed=row.seed + 2, **changes) for row in RUNS])
    assert (group.name, group.seeds.tolist()) == ("a name", [4.0, 4.0])


def test_selections_of_one_name_are_two_where_they_adapt_other_modules() -> None:
    """Two folders may each have a ``random 7% #0``, drawn from other seeds."""
    of_more_modules = [replace(row, mask=row.mask + "0") for row in RUNS]
    assert [group.rows for group in grouped(RUNS + of_more_modules)] == [RUNS, of_more_modules]
    (group,) = grouped(RUNS + [replace(row, mask="01", val_loss=0.1) for row in RUNS[2:]])
    assert (group.masks, group.seeds.tolist()) == (["11", "10", "01"], [2.0, 2.0, 2.0])
    np.testing.assert_allclose(group.log_loss[2], np.log(0.1))
    np.testing.assert_allclose(group.distances, [[0, 0.5, 0.5, 0], [0.5, 0, 1, 0.5], [0.5, 1, 0, 0.5], [0, 0.5, 0.5, 0]])


def write_own(name: str, rows: Sequence[CalibrationRow]) -> None:
    user_rows_folder().mkdir(parents=True, exist_ok=True)
    (user_rows_folder() / name).write_text("".join(row.as_json() + "\n" for row in rows))


def test_a_run_counts_once_however_many_files_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its folder was moved, and more seeds were run there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shipped = load_rows()
    write_own("a.jsonl", RUNS)
    moved = [replace(row, group="new", provenance={**MADE, "model": "new/place"}) for row in RUNS]
    write_own("b.jsonl", moved + [replace(row, seed=row.seed + 2, val_loss=0.1) for row in moved])
    (group,) = grouped(load_rows()[len(shipped) :])
    assert sorted((row.mask, row.seed) for row in group.rows) == [(mask, seed) for mask in ("10", "11") for seed in range(4)]
    assert [row.val_loss for row in group.rows[:4]] == [row.val_loss for row in RUNS]


def test_data_of_ones_own_are_two_data_sets_though_of_one_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shipped = load_rows()
    write_own("a.jsonl", RUNS)
    write_own("b.jsonl", [replace(row, provenance={**MADE, "data_fingerprint": "another"}) for row in RUNS])
    write_own("c.jsonl", [replace(row, provenance={**MADE, "data": "moved", "model_fingerprint": "b"}) for row in RUNS])
    first, other, moved = (group.data for group in grouped(load_rows()[len(shipped) :]))
    assert first != other
    assert first == moved


def test_runs_of_ones_own_of_a_shipped_model_are_of_that_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever it lies; of others the fingerprint is the name, also where a row's context says another."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shipped = load_rows()
    known = shipped[0].provenance
    for name, made_of in (("a", known["model_fingerprint"]), ("b", "new")):
        provenance = {**MADE, "model": "my/place", "model_fingerprint": made_of}
        context = {"model": "as it was called"}
        write_own(f"{name}.jsonl", [replace(r, provenance=provenance, context={**r.context, **context}) for r in RUNS])
    one, other = sorted((g for g in grouped(load_rows()[len(shipped) :])), key=lambda g: g.model == "new")
    assert (one.model, other.model) == (known["model"], "new")


def test_damage_in_an_own_file_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    user_rows_folder().mkdir(parents=True)
    path = user_rows_folder() / "mine.jsonl"
    path.write_text(ROWS[0].as_json() + "\n" + ROWS[1].as_json()[:40] + "\n")
    with pytest.warns(UnusableRow) as caught:
        rows = load_rows()
    assert rows[-1] == ROWS[0]
    (said,) = [str(warning.message) for warning in caught]
    assert f"{path}, line 2" in said
    assert "\n" not in said


def edited(**changes: Any) -> str:
    fields = json.loads(ROWS[0].as_json())
    for key, value in changes.items():
        first, _, second = key.partition("__")
        holder = fields[first] if second else fields
        name = second or first
        if value is ...:
            del holder[name]
        else:
            holder[name] = value
    return json.dumps(sealed(fields))


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "damaged"),
        ("", "damaged"),
        ("[1]", "list"),
        ("null", "NoneType"),
        (edited(val_loss=...), "val_loss"),
        (edited(val_loss=float("nan")), "val_loss"),
        (edited(val_loss="0.3"), "val_loss"),
        (edited(val_loss=True), "val_loss"),
        (edited(val_loss=0.0), "val_loss"),
        (edited(score=float("inf")), "score"),
        (edited(surprise=1), "surprise"),
        (edited(features__recipe_loss=float("nan")), "features.recipe_loss"),
        (edited(features__params=...), "features.params"),
        (edited(features=None), "features"),
        (edited(context=[1]), "context"),
        (edited(context__log_lr=None), "context.log_lr"),
        (edited(context__log_simulated=...), "context.log_simulated"),
        (edited(context__log_start=float("inf")), "context.log_start"),
        (edited(context__chance=...), "context.chance"),
        (edited(context__log_guess="0"), "context.log_guess"),
        (edited(context__task=...), "task"),
        (edited(group=None), "group"),
        (edited(schema=ROW_SCHEMA + 1), "schema"),
        (edited(schema=...), "schema"),
        (edited(feature_version=...), "feature_version"),
        (edited(feature_version="1"), "feature_version"),
    ],
)
def test_a_bad_line_is_named(line: str, field: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_rows([ROWS[0].as_json(), line, ROWS[1].as_json()], "rows.jsonl")
    assert "rows.jsonl, line 2" in caught.value.what
    assert field in caught.value.what
    assert "\n" not in str(caught.value)


def test_rows_of_another_feature_version_are_left_out() -> None:
    old = replace(ROWS[0], feature_version=FEATURE_VERSION - 1, features={"forgotten": 1.0})
    assert parse_rows([old.as_json(), ROWS[1].as_json()], "f") == [ROWS[1]]


def test_rows_older_than_a_feature_stay_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    line = edited(features__params=...)
    with pytest.raises(BadInput, match=r"features\.params"):
        parse_rows([line], "f")
    monkeypatch.setattr("advisor.theory.features.LATER_FEATURES", ("params",))
    assert "params" not in parse_rows([line], "f")[0].features


def test_nan_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(ROWS[0], val_loss=float("nan")).as_json()


def test_whatever_parses_can_be_fitted() -> None:
    parsed = parse_rows([row.as_json() for row in make_rows(3, 8, 2)], "f")
    assert Predictor().fit(parsed, "classification").noise_ > 0
