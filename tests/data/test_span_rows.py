"""Questions answered by a span of their context, in SQuAD's form: told, by name, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset

CONTEXT = "Mary saw Tom. Tom ran."


def write(folder: Path, answers: Any, **more: Any) -> str:
    row = {"id": "1", "question": "who?", "context": CONTEXT, "answers": answers, **more}
    file = folder / "squad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(24)))
    return str(file)


@pytest.mark.parametrize(
    ("answers", "span"),
    [
        ({"text": ["Tom", "Mary"], "answer_start": [14, 0]}, (14, 17)),
        ({"text": ["Tom"], "answer_start": [15]}, (9, 12)),  # not there: the first place that it is at
        ([{"text": "Mary", "answer_start": 0}], (0, 4)),
        (["Tom ran"], (14, 21)),
        ({"text": "Mary", "answer_start": 0}, (0, 4)),
        ({"text": [], "answer_start": []}, None),
        ([], None),
        ({"text": ["Tom"], "answer_start": [14.0]}, (14, 17)),
        ({"text": ["Tom"], "answer_start": "14"}, (14, 17)),
        ({"text": "Tom", "answer_start": " 14 "}, (14, 17)),
        ([{"text": "Tom", "answer_start": ["14"]}], (9, 12)),
        ("{'text': ['Tom'], 'answer_start': [14]}", (14, 17)),
        ('{"text": ["Tom"], "answer_start": [14]}', (14, 17)),
        ("[{'answer_start': 14, 'text': 'Tom'}]", (14, 17)),
        ("{'text': [], 'answer_start': []}", None),
    ],
)
def test_an_answer_is_a_span_of_its_context(tmp_path: Path, answers: Any, span: tuple[int, int] | None) -> None:
    read = load_dataset(write(tmp_path, answers))
    assert (read.schema.task, read.schema.metric, read.schema.class_names) == ("question-answering", "exact_match", ())
    assert read.examples[0].texts == ("who?", CONTEXT)
    assert read.examples[0].span == span


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"text": ["Jane"], "answer_start": [0]}, "whose answer is not in the context"),
        ({"text": [7]}, "line 1: answers is no answer"),
        ([{"answer": "Tom"}], "line 1: answers is no answer"),
        ("{'text': array(['Tom'], dtype=object), 'answer_start': array([14])}", "line 1: answers is an object .* holds arrays"),
        ("{'text': ['Tom'], 'answer_start': [np.int64(14)]}", "line 1: answers is an object written as text that cannot be"),
        ("{'text': [__import__('os').getcwd()]}", "line 1: answers is an object written as text that cannot be"),
        ('{"text": [' + "[" * 5000 + "]}", "line 1: answers is an object written as text that cannot be"),
    ],
)
def test_what_is_no_answer_is_said(tmp_path: Path, answers: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_dataset(write(tmp_path, answers))


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, [], passage=CONTEXT, reply="Mary")
    read = load_dataset(path, task="question-answering", text_columns=["question", "passage"], label_column="reply")
    assert read.examples[0].span == (0, 4)
    with pytest.raises(BadInput, match="cannot be told from"):
        load_dataset(path, task="question-answering", text_columns=["question"])
    nested = tmp_path / "nested.jsonl"
    nested.write_text('{"title": "t", "paragraphs": [{"context": "c", "qas": []}]}\n' * 20)
    with pytest.raises(BadInput, match="SQuAD's own nested form"):
        load_dataset(str(nested))


def test_another_span_is_another_data_set(tmp_path: Path) -> None:
    one = load_dataset(write(tmp_path, {"text": ["Tom"], "answer_start": [9]}))
    other = load_dataset(write(tmp_path, {"text": ["Tom"], "answer_start": [14]}))
    assert one.fingerprint != other.fingerprint


def test_an_answer_as_a_text_is_learned_with_its_context(tmp_path: Path) -> None:
    file = tmp_path / "flat.jsonl"
    row = {"question": "who?", "context": "the red cat sat", "answer": "red cat"}
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(20)))
    asked = load_dataset(str(file))
    assert (asked.schema.task, asked.schema.text_columns) == ("causal-lm", ("context", "question", "answer"))
    assert load_dataset(str(file), task="question-answering").examples[0].span == (4, 11)


def test_answers_that_are_not_where_they_are_said_to_be_are_counted(tmp_path: Path) -> None:
    starts: list[Any] = [14, 99, -1, "x", 4.5, None, True, [9, 14], 9.0, "9"]
    rows = [{"question": "who?", "context": CONTEXT, "answers": {"text": ["Tom"], "answer_start": [s]}} for s in starts]
    file = tmp_path / "starts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_dataset(str(file))
    assert "6 answers are not where answer_start says: read at the first place in the context." in read.notes
    assert [example.span for example in read.examples] == [(14, 17), *[(9, 12)] * 9]
    assert not any("answer_start" in note for note in load_dataset(write(tmp_path, ["Tom"])).notes)


def test_a_csv_file_of_pandas_is_read_or_refused_with_the_way_out(tmp_path: Path) -> None:
    lists = {"text": ["Tom"], "answer_start": [14]}
    arrays = {"text": np.array(["Tom"], dtype=object), "answer_start": np.array([14])}
    for answers, name in ((lists, "lists.csv"), (arrays, "arrays.csv")):
        frame = pd.DataFrame({"question": ["who?"] * 24, "context": [CONTEXT] * 24, "answers": [answers] * 24})
        frame.to_csv(tmp_path / name, index=False)
    assert load_dataset(str(tmp_path / "lists.csv")).examples[0].span == (14, 17)
    with pytest.raises(BadInput, match=r"arrays.csv, line 2: answers is an object .* holds arrays") as refused:
        load_dataset(str(tmp_path / "arrays.csv"))
    assert "to_json(FILE, orient='records', lines=True)" in refused.value.hint
