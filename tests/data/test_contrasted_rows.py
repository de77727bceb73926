"""Rows of texts to be embedded, as data sets for sentence-transformers have them; told, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset
from advisor.data.examples import Example

FILM = {"label": "good", "text": "a film"}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "pairs.jsonl"
    many = [*rows] * (24 // len(rows))
    file.write_text("".join(json.dumps(row) + "\n" for row in many))
    return str(file)


@pytest.mark.parametrize(
    ("row", "columns", "texts"),
    [
        ({"anchor": "a", "positive": "b"}, ("anchor", "positive"), ("a", "b")),
        ({"id": 1, "anchor": "a", "positive": "b", "negative": "c"}, ("anchor", "positive", "negative"), ("a", "b", "c")),
        ({"Query": "a", "Positive": "b", "url": "x"}, ("Query", "Positive"), ("a", "b")),
        (
            {"query": "a", "positive": "b", "negative_1": "c", "negative_2": "d", "score": 0.5},
            ("query", "positive", "negative_1", "negative_2"),
            ("a", "b", "c", "d"),
        ),
        ({"query": "a", "pos": ["b", "e"], "neg": ["c", "d"], "prompt": "p"}, ("query", "pos", "neg"), ("a", "b", "c")),
        ({"sentence": "a", "positive": "b", "hard_negative": "c"}, ("sentence", "positive", "hard_negative"), ("a", "b", "c")),
    ],
)
def test_pairs_and_triplets_are_told(
    tmp_path: Path, row: dict[str, Any], columns: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    read = load_dataset(write(tmp_path, row))
    assert (read.schema.task, read.schema.metric, read.schema.label_column) == ("embedding", "retrieval_accuracy", None)
    assert read.schema.text_columns == columns
    assert read.examples[0] == Example(texts=texts)
    assert any("Not read: " in note for note in read.notes) == bool(row.keys() & {"score", "prompt"})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_of_every_format_give_the_same(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"pairs.{suffix}"
    if suffix == "csv":
        file.write_text("anchor,positive\n" + "one,two\n" * 24)
    else:
        parquet.write_table(pa.table({"anchor": ["one"] * 24, "positive": ["two"] * 24}), file)  # type: ignore[no-untyped-call]
    read = load_dataset(str(file))
    assert read.schema.task == "embedding"
    assert read.examples[0].texts == ("one", "two")


def test_columns_can_be_named_and_pairs_of_texts_are_taken_where_the_task_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, {"title": "a", "body": "b", "id": 3})
    assert load_dataset(path, task="embedding").examples[0].texts == ("a", "b")
    assert load_dataset(path, task="embedding", text_columns=["body", "title"]).examples[0].texts == ("b", "a")
    path = write(tmp_path, {"one": "a", "two": "b", "three": "c"})
    assert load_dataset(path, task="embedding", text_columns=["one", "two", "three"]).examples[0].texts == ("a", "b", "c")
    with pytest.raises(BadInput, match="cannot be told from: one, two, three"):
        load_dataset(path, task="embedding")
    with pytest.raises(BadInput, match="cannot be told from"):
        load_dataset(path, task="embedding", text_columns=["one"])
    with pytest.raises(BadInput, match="has no column 'four'"):
        load_dataset(path, task="embedding", text_columns=["one", "four"])
    with pytest.raises(BadInput, match="embedding rows have no label"):
        load_dataset(path, task="embedding", label_column="one")


def test_a_score_of_how_well_two_texts_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"sentence1": "a", "sentence2": "b", "score": 0.5}, {"sentence1": "c", "sentence2": "d", "score": 0.25}
    )
    with pytest.raises(BadInput, match="score says how much sentence1 and sentence2 belong together") as caught:
        load_dataset(path, task="embedding")
    assert "--task regression" in caught.value.hint
    assert load_dataset(path, task="embedding", text_columns=["sentence1", "sentence2"]).schema.task == "embedding"
    assert load_dataset(path).schema.task == "regression"


def test_another_task_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"anchor": "a", "positive": "b"})
    with pytest.raises(BadInput, match="texts to be embedded, and the task is causal-lm"):
        load_dataset(path, task="causal-lm")
    assert load_dataset(path, task="causal-lm", text_columns=["positive"]).schema.task == "causal-lm"


@pytest.mark.parametrize("values", [(0, 1), ("0", "1"), (True, False), ("yes", "no"), (0.25, 0.5)])
def test_a_column_that_answers_whether_a_text_is_positive_is_a_label(tmp_path: Path, values: tuple[Any, Any]) -> None:
    rows = [{"sentence": f"a film {i}", "positive": values[i % 2]} for i in range(24)]
    file = tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_dataset(str(file), label_column="positive")
    assert (read.schema.task in ("classification", "regression"), read.schema.label_column) == (True, "positive")
    assert load_dataset(str(file)).schema.task != "embedding"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"anchor": "a", "positive": ""}, "with an empty text in column positive"),
        ({"anchor": " ", "positive": "b"}, "with an empty text in column anchor"),
        ({"query": "a", "pos": ["b"], "neg": []}, "with an empty text in column neg"),
        (
            {"anchor": "a", "positive": "b", "negative": None},
            "no usable row. Left out: 24 rows with an empty text in column negative",
        ),
        ({"anchor": "a", "positive": "b", "negative": None, "negative_2": "c"}, "with an empty text in column negative"),
        ({"anchor": "a", "positive": "b", "negative": "c", "negative_2": " "}, "with an empty text in column negative_2"),
        ({"anchor": "a", "positive": "b", "negative": "b"}, "whose positive is a negative too"),
        ({"anchor": "a", "positive": [{"docid": FILM}]}, "column positive holds a dict, not text"),
    ],
)
def test_what_cannot_be_contrasted_is_left_out_with_the_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_dataset(write(tmp_path, row))


def test_another_negative_is_another_data_set(tmp_path: Path) -> None:
    row = {"anchor": "a", "positive": "b", "negative": "c"}
    one = load_dataset(write(tmp_path, row))
    other = load_dataset(write(tmp_path, {**row, "negative": "d"}))
    assert one.fingerprint != other.fingerprint
    assert any("23 rows repeat an earlier row" in note for note in one.notes)


def test_passages_with_titles_are_read(tmp_path: Path) -> None:
    row = {
        "query": "q",
        "positive_passages": [{"docid": "1", "title": "t", "text": "a"}],
        "negative_passages": [{"title": "", "text": "b"}],
    }
    file = tmp_path / "passages.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(20)))
    assert load_dataset(str(file)).examples[0].texts == ("q", "t a", "b")
