"""Questions answered by a span of their context, in SQuAD's form: told, by name, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
