"""Data that are for something else, or laid out otherwise: read, or refused with the reason in one short line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset

TEXTS = [f"the red cat {i}" for i in range(30)]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
ASKED = {"role": "user", "content": "x"}
SAID = {"role": "assistant", "content": "y"}


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (lambda i: {"text": TEXTS[i], "toxic": i % 2, "obscene": i // 2 % 2}, "toxic, obscene.*one label a row"),
        (lambda i: {"text": TEXTS[i], "a": i % 2 == 0, "b": "true" if i % 3 else "false"}, r"\(a, b\)"),
        (lambda i: {"prompt": "x", "completion": TEXTS[i], "label": True}, "every usable answer .30. is marked desirable"),
        (lambda i: {"messages": [ASKED], "desirable": i % 2}, "without an answer by the assistant"),
        (lambda i: {"words": ["a"], "ner": [0]}, "every tag is '0' in column ner"),
        (lambda i: {"messages": [ASKED, CALL]}, "30 rows with a tool call in a turn"),
        (lambda i: {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "{}"}]}, "tool call"),
        (lambda i: {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "an image in a turn"),
        (lambda i: {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "an audio in a turn"),
        (lambda i: {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "a tool call in a turn"),
        (lambda i: {"messages": [{"role": "user", "content": [{"type": "thinking"}]}]}, "a part of type thinking in a turn"),
        (lambda i: {"messages": [ASKED, {**SAID, "weight": 0}]}, "without an answer by the assistant"),
        (lambda i: {"messages": [ASKED, {**SAID, "train": False}]}, "without an answer by the assistant"),
        (lambda i: {"messages": json.dumps([ASKED, SAID])}, "messages holds JSON written as text"),
        (lambda i: {"text": TEXTS[i], "a": "YN"[i % 2], "b": "YN"[i // 2 % 2]}, r"n and y only \(a, b\)"),
        (lambda i: {"text": TEXTS[i], "a": i % 2 * 2 - 1, "b": i // 2 % 2 * 2 - 1}, r"-1 and 1 only \(a, b\)"),
        (lambda i: {"text": TEXTS[i], "a": i % 2, "b": 0}, r"0 and 1 only \(a, b\)"),
        (lambda i: {"prompt": "x", "completion": TEXTS[i], "kto_tag": 0}, "every usable answer .30. is marked undesirable"),
        (lambda i: {"prompt": "x", "completions": ["a", "b"], "labels": [True, False]}, "Preference data"),
        (lambda i: {"sentence": ["a", "b"], "marks": ["O", "B"]}, "words with a tag each .columns sentence and marks"),
        (lambda i: {"text": ("the O", "cat B-ANIMAL")[i % 2]}, "words with a tag each .column text: O, B-ANIMAL"),
        (lambda i: {"question": TEXTS[i], "A": "1", "B": "2", "C": "3", "answer": "A"}, "Multiple choice"),
        (
            lambda i: {"sent1": TEXTS[i], "ending0": "a", "ending1": "b", "label": i % 2},
            "Multiple choice .columns ending0 and ending1",
        ),
        (
            lambda i: {"goal": TEXTS[i], "sol1": TEXTS[-i], "sol2": TEXTS[i - 3], "label": i % 2},
            "Multiple choice .columns sol1 and sol2",
        ),
        (lambda i: {"question": TEXTS[i], "opa": "1", "opb": "2", "opc": "3", "cop": i % 3}, "Multiple choice"),
        (lambda i: {"sentence": TEXTS[i], "option_A": "1", "option_B": "2", "answer": "AB"[i % 2]}, "Multiple choice"),
        (lambda i: {"id": i, "prompt": [ASKED]}, "there are prompts and no answers"),
        (lambda i: {"audio": "a.wav", "sentence": TEXTS[i]}, "Speech"),
        (lambda i: {"input_ids": [1, 2], "labels": [1, 2]}, "tokenised already"),
        (lambda i: {"image": "a.jpg", "label": i % 2}, r"images in a column \(image\)"),
        (lambda i: {"text": TEXTS[i], "label": (1e308, -1e308, 0.5)[i % 3]}, "line 1: the label 1e\\+308 is too far from zero"),
    ],
)
def test_rows_for_something_else_are_refused_with_the_reason(
    tmp_path: Path, row: Callable[[int], dict[str, Any]], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        load_dataset(write(tmp_path, [row(i) for i in range(30)]))


def test_a_named_label_is_taken_where_several_would_do(tmp_path: Path) -> None:
    data = write(tmp_path, [{"text": TEXTS[i], "toxic": i % 2, "obscene": i // 2 % 2} for i in range(30)])
    assert load_dataset(data, label_column="toxic").schema.label_column == "toxic"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (lambda i: {"messages": [ASKED, {**SAID, "reasoning_content": "hm"}]}, "Not read in turns: reasoning_content."),
        (lambda i: {"messages": [ASKED, SAID], "tools": [{"name": "f"}]}, "Not read: tools; only the text of the turns is."),
        (lambda i: {"prompt": "x", "completion": TEXTS[i], "reward": i / 7}, "Not read: reward."),
        (lambda i: {"text": TEXTS[i], "labels": ("a", "b", "a,b")[i % 3]}, "The class 'a,b' combines others"),
        (lambda i: {"text": TEXTS[i], "labels": ("a|b", "b|c", "c|a")[i % 3]}, "The class 'a|b' combines others"),
        (lambda i: {"text": TEXTS[i], "labels": ("a", "b", "a#b")[i % 3]}, "The class 'a#b' combines others"),
    ],
)
def test_what_is_not_read_is_said(tmp_path: Path, row: Callable[[int], dict[str, Any]], says: str) -> None:
    notes = load_dataset(write(tmp_path, [row(i) for i in range(30)])).notes
    assert any(says in note for note in notes), notes


def test_texts_in_parts_are_joined_whatever_their_type_is_called(tmp_path: Path) -> None:
    parts = ["a", {"text": "b"}, {"type": "input_text", "text": "c"}, {"type": "output_text", "text": "d"}]
    rows = [{"messages": [{"role": "user", "content": parts}, SAID]}] * 30
    assert load_dataset(write(tmp_path, rows)).examples[0].messages == (("user", "a\nb\nc\nd"), ("assistant", "y"))


def test_only_the_last_answer_that_is_to_be_learned_ends_a_row(tmp_path: Path) -> None:
    rows = [{"messages": [ASKED, SAID, ASKED, {**SAID, "content": "z", "weight": 0}]}] * 30
    assert load_dataset(write(tmp_path, rows)).examples[0].messages == (("user", "x"), ("assistant", "y"))


LABELS = [i % 2 for i in range(30)]


@pytest.mark.parametrize(
    "document",
    [
        {"text": TEXTS, "label": LABELS},
        {"text": {str(i): t for i, t in enumerate(TEXTS)}, "label": {str(i): v for i, v in enumerate(LABELS)}},
        {str(i): {"text": t, "label": LABELS[i]} for i, t in enumerate(TEXTS)},
        {
            "columns": ["text", "label"],
            "index": list(range(30)),
            "data": [list(pair) for pair in zip(TEXTS, LABELS, strict=True)],
        },
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_of_columns_is_the_same_as_rows(tmp_path: Path, document: dict[str, Any], indent: int | None) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps(document, indent=indent))
    read = load_dataset(str(file))
    rows = load_dataset(write(tmp_path, [{"text": t, "label": v} for t, v in zip(TEXTS, LABELS, strict=True)]))
    assert read.examples == rows.examples
    assert any("columns, not rows" in note for note in read.notes)


def test_a_json_object_of_one_conversation_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"messages": [ASKED, {"role": "assistant", "content": "y"}]}))
    assert len(load_dataset(str(file)).examples) == 1


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"blue \xff\xfe dog"] * 30, pa.binary()).view(pa.utf8()),
        pa.array([2**62] * 30, pa.int64()).view(pa.timestamp("us")),
    ],
)
def test_values_that_python_has_not_are_named_by_file_and_column(tmp_path: Path, column: Any) -> None:
    file = tmp_path / "data.parquet"
    parquet.write_table(pa.table({"text": TEXTS, "label": LABELS, "odd": column}), file)
    with pytest.raises(BadInput, match=r"data\.parquet, column odd"):
        load_dataset(str(file))


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to("/dev/tty")])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "data.jsonl"
    make(place)
    with pytest.raises(BadInput, match=r"a pipe, socket or device|There is no file"):
        load_dataset(str(place))


def test_several_answers_are_no_turns(tmp_path: Path) -> None:
    """As in NQ open: a question, and a list of texts that would each be right."""
    rows = [{"question": text, "answer": [f"blue {i}", f"light blue {i}"]} for i, text in enumerate(TEXTS)]
    with pytest.raises(BadInput, match=r"line 1: a list of texts stands where .* the first of several answers"):
        load_dataset(write(tmp_path, rows))
