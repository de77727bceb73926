"""Cells that Parquet, numpy, pandas and JSON have beside texts and numbers: read as what they say, or as missing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas._libs.parsers import STR_NA_VALUES as pandas_names
from pyarrow import parquet
from rowfiles import Write, labelled

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset
from advisor.data.in_memory import data_place
from advisor.data.values import FOR_MISSING, missing, plain, plain_row

NOTHING = [None, "", " \n", math.nan, np.float32("nan"), np.datetime64("NaT"), pd.NaT, pd.NA, Decimal("NaN")]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_nothing_is_missing_however_it_is_written(value: Any) -> None:
    assert missing(value)
    assert plain(value) in (None, value)


@pytest.mark.parametrize("value", [0, False, 0.0, "nan", [], {}, [math.nan], math.inf, np.zeros(2), b"", Decimal(0)], ids=repr)
def test_something_is_not_missing(value: Any) -> None:
    assert not missing(value)


def as_parquet(folder: Path, column: list[Any], kind: Any, name: str) -> str:
    texts = [f"text number {i}" for i in range(len(column))]
    table = pa.table({"text": texts, name: pa.array(column, kind)} if name != "text" else {"text": pa.array(column, kind)})
    parquet.write_table(table, folder / "a.parquet")
    return str(folder / "a.parquet")


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ([Decimal("1.50"), Decimal("2.00")], pa.decimal128(6, 2), ("1.5", "2")),
        ([b"neg", "größe".encode()], pa.binary(), ("größe", "neg")),
        ([date(2024, 1, 2), date(2024, 1, 3)], pa.date32(), ("2024-01-02", "2024-01-03")),
        ([datetime(2024, 1, 2, tzinfo=UTC), None], pa.timestamp("ns", "UTC"), ("2024-01-02T00:00:00+00:00", "None")),
        ([time(1, 2), time(3, 4, 5)], pa.time64("us"), ("01:02:00", "03:04:05")),
        ([True, False], pa.bool_(), ("false", "true")),
        ([1.0, math.nan], pa.float16(), ("1", "None")),
    ],
)
def test_classes_in_parquet_are_named_by_what_they_say(
    tmp_path: Path, values: list[Any], kind: Any, names: tuple[str, ...]
) -> None:
    column = [np.float16(v) for v in values] if kind == pa.float16() else values
    path = as_parquet(tmp_path, column * 12, kind, "label")
    if "None" in names:  # one of the values is missing, and no class
        with pytest.raises(BadInput, match=f"every label in column label is '{names[0].replace('+', '.')}'"):
            load_dataset(path, task="classification")
    else:
        assert sorted(load_dataset(path, task="classification").schema.class_names) == sorted(names)


def test_decimals_are_predicted_as_numbers(tmp_path: Path) -> None:
    read = load_dataset(as_parquet(tmp_path, [Decimal(i) / 8 for i in range(24)], pa.decimal128(12, 6), "label"))
    assert (read.schema.task, [e.label for e in read.examples]) == ("regression", [i / 8 for i in range(24)])


def test_bytes_are_texts_where_they_are_utf8(tmp_path: Path) -> None:
    read = load_dataset(as_parquet(tmp_path, [f"größe {i}".encode() for i in range(24)], pa.binary(), "text"))
    assert [e.completion for e in read.examples[:2]] == ["größe 0", "größe 1"]
    with pytest.raises(BadInput, match="row 1: column text holds bytes that are no UTF-8 text"):
        load_dataset(as_parquet(tmp_path, [b"\xff\xfe", b"b"] * 12, pa.binary(), "text"), task="causal-lm")
    with pytest.raises(BadInput, match="row 2: the label in column label is bytes that are no UTF-8 text"):
        load_dataset(as_parquet(tmp_path, [b"b", b"\xff\xfe"] * 12, pa.binary(), "label"))


def test_values_within_lists_and_objects_are_read_alike(tmp_path: Path) -> None:
    tags = {"tokens": [b"a", b"b", b"c"], "tags": [Decimal(1), Decimal(20), None]}
    parquet.write_table(pa.Table.from_pylist([tags] * 24), tmp_path / "tags.parquet")
    read = load_dataset(str(tmp_path / "tags.parquet"))
    assert (read.examples[0].words, read.schema.class_names, read.examples[0].tags) == (
        ("a", "b", "c"),
        ("1", "20"),
        (0, 1, None),
    )
    turns = [{"role": b"user", "content": b"hi"}, {"role": b"assistant", "content": b"yes"}]
    parquet.write_table(pa.Table.from_pylist([{"messages": turns}] * 3), tmp_path / "turns.parquet")
    assert load_dataset(str(tmp_path / "turns.parquet")).examples[0].messages == (("user", "hi"), ("assistant", "yes"))


def test_only_turns_in_a_cell_are_made_a_list() -> None:
    columns = {"role": ["user"], "content": ["hi"]}
    assert plain({"messages": columns}) == {"messages": [{"role": "user", "content": "hi"}]}
    for other in ({"role": ["user"], "content": []}, {"text": ["a"], "answer_start": [0]}, {"role": "user", "content": ["hi"]}):
        assert plain(other) == other
    assert plain_row(columns) == columns


def test_nan_is_no_text_label_or_tag(write: Write) -> None:
    read = load_dataset(write("texts.jsonl", [{"text": math.nan if i % 3 == 0 else f"words {i}"} for i in range(24)]))
    assert (len(read.examples), "Left out: 8 rows with an empty text." in read.notes) == (16, True)
    read = load_dataset(write("labels.jsonl", labelled([0, 1, math.nan] * 8)))
    assert (len(read.examples), "Left out: 8 rows without a label." in read.notes) == (16, True)
    tagged = [{"tokens": ["a", "b", "c"], "tags": ["X", math.nan, "Y"]}] * 24
    assert load_dataset(write("tags.jsonl", tagged)).examples[0].tags == (0, None, 1)
    asked = [{"question": "q", "context": "c d", "answers": math.nan if i % 2 else {"text": ["d"]}} for i in range(24)]
    assert [e.span for e in load_dataset(write("squad.jsonl", asked)).examples[:2]] == [(2, 3), None]
    answers = [{"prompt": "q", "system": math.nan, "completion": f"a {i}"} for i in range(24)]
    assert load_dataset(write("answers.jsonl", answers)).examples[0].prompt == "q"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_cells_of_tables_without_types_are_missing_as_pandas_has_it(write: Write, suffix: str) -> None:
    separator = "," if suffix == "csv" else "\t"

    def table(labels: list[str], header: str = "label") -> str:
        rows = [f"text number {i}{separator}{label}" for i, label in enumerate(labels)]
        return write(f"a.{suffix}", "\n".join([f"text{separator}{header}", *rows]))

    assert {*pandas_names, "NaT"} == {*FOR_MISSING, ""}
    for said in sorted(FOR_MISSING):
        read = load_dataset(table(["favor", "against", said] * 8), task="classification")
        assert (read.schema.class_names, len(read.examples)) == (("against", "favor"), 16)
        assert "Left out: 8 rows without a label." in read.notes
        assert f"Read as missing in column label: {said!r} (8); written as JSONL these are texts." in read.notes
    scores = load_dataset(table(["0.5", " nan", "1.5", "NA"] * 8, "score"))
    assert (scores.schema.task, [e.label for e in scores.examples[:2]]) == ("regression", [0.5, 1.5])
    assert "Read as missing in column score: 'nan' (8), 'NA' (8); written as JSONL these are texts." in scores.notes
    assert load_dataset(table(["3", "nan", "4", "5"] * 8, "value7")).schema.label_column == "value7"
    headless = write(f"b.{suffix}", "".join(f"some text {i}{separator}{'nan' if i == 0 else i / 7}\n" for i in range(24)))
    assert load_dataset(headless).schema.label_column == "column_2"


def test_a_class_called_none_stays_one(write: Write) -> None:
    csv = "text,stance\n" + "".join(f"text {i},{('none', 'favor', 'na', 'Null')[i % 4]}\n" for i in range(24))
    assert load_dataset(write("a.csv", csv)).schema.class_names == ("Null", "favor", "na", "none")
    read = load_dataset(write("a.jsonl", labelled(["None", "NA", "nan", "null"] * 6)))
    assert read.schema.class_names == ("NA", "None", "nan", "null")
    assert not any("missing" in note for note in read.notes)


def test_missing_texts_of_tables_without_types(write: Write) -> None:
    rows = "".join(f"q {i},{('nan', 'more')[i % 2]},{('a', 'None', 'b', 'c')[i % 4]}\n" for i in range(24))
    read = load_dataset(write("a.csv", f"instruction,input,output\n{rows}"))
    assert [(e.prompt, e.completion) for e in read.examples[:2]] == [("q 0", "a"), ("q 2", "b")]
    assert "Left out: 6 rows with an empty text." in read.notes
    assert "Read as missing in column input: 'nan' (12); written as JSONL these are texts." in read.notes


@pytest.mark.parametrize("given", [lambda rows: rows, datasets.Dataset.from_list, pd.DataFrame])
def test_rows_in_memory_hold_them_too(given: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = [{"text": f"t {i}", "label": (Decimal("1.5"), Decimal("2.5"), None)[i % 3]} for i in range(24)]
    read = load_dataset(data_place(given(rows)), task="classification")
    assert (read.schema.class_names, len(read.examples)) == (("1.5", "2.5"), 16)


def test_lists_in_memory_may_hold_what_numpy_and_pandas_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    labels = [np.int64(0), np.int64(1), pd.NA, pd.NaT, np.float32("nan")]
    read = load_dataset(data_place([{"text": f"t \ud83d {i}", "label": labels[i % 5]} for i in range(25)]))
    assert ([e.label for e in read.examples], read.examples[0].texts) == ([0, 1] * 5, ("t ? 0",))


def test_truth_values_have_one_spelling(write: Write) -> None:
    read = load_dataset(write("a.jsonl", labelled([True, "False", "true", False, " TRUE", "false"])))
    assert (read.schema.class_names, [e.label for e in read.examples]) == (("false", "true"), [1, 0, 1, 0, 1, 0])
    as_csv = "text,label\n" + "".join(f"text {i},{i % 2 == 0}\n" for i in range(6))
    assert [e.label for e in load_dataset(write("a.csv", as_csv), like=read.schema).examples] == [1, 0] * 3
    tagged = [{"tokens": ["a", "b", "c"], "tags": [True, "True", "False"]}] * 24
    assert load_dataset(write("b.jsonl", tagged)).examples[0].tags == (1, 1, 0)


def test_half_characters_are_replaced_wherever_they_stand(write: Write) -> None:
    rows = [{"te\ud83dxt": f"text {i}", "cl\udfff": ("a\ud83d0", "a\ud83e0", "b\udc00")[i % 3]} for i in range(24)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    read = load_dataset(write("a.jsonl", lines), text_columns=["te?xt"], label_column="cl?", task="classification")
    assert (read.schema.class_names, read.columns) == (("a?0", "b?"), ("te?xt", "cl?"))
    tagged = [{"tokens": ["a", "b"], "tags": ["X\ud83d", "Y"]}] * 24
    json.dumps(load_dataset(write("b.jsonl", tagged)).schema.class_names, ensure_ascii=False).encode()
