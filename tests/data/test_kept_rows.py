"""Rows to keep that cannot be read: what to do is said of them, not of the training data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.models.prepare import Source, prepare, with_kept

ROWS = {
    "causal-lm": lambda i: {"text": f"some words {i}"},
    "seq2seq": lambda i: {"prompt": f"some words {i}", "completion": "more"},
    "classification": lambda i: {"text": f"some words {i}", "label": i % 2},
}
TURN = {"role": "user", "content": "a"}


def write(folder: Path, name: str, row: Callable[[int], dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row(i)) + "\n" for i in range(24)))
    return str(folder / name)


@pytest.mark.parametrize(
    ("model", "task", "kept", "said"),
    [
        ("llama", "causal-lm", {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference data"),
        ("llama", "causal-lm", {"anchor": "a", "positive": "b", "negative": "c"}, "texts to be embedded"),
        ("llama", "causal-lm", {"tokens": ["a", "b"], "ner_tags": ["O", "B"]}, "words with a tag each"),
        ("llama", "causal-lm", {"prompt": "a", "completion": "b", "label": True}, "marked answers"),
        ("llama", "causal-lm", {"one": "a", "two": "b"}, "cannot be told"),
        ("t5", "seq2seq", {"text": "a"}, "seq2seq learns a target from a source"),
        ("t5", "seq2seq", {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference data"),
        ("bert", "classification", {"one": "a", "two": "b"}, "cannot be told"),
    ],
)
def test_the_training_data_are_not_to_be_read_otherwise(
    tiny_model: Callable[..., Path], tmp_path: Path, model: str, task: str, kept: dict[str, Any], said: str
) -> None:
    place = str(tiny_model(model, task))
    prepared = prepare(Source(place, write(tmp_path, "train.jsonl", ROWS[task]), device="cpu"), Session())
    with pytest.raises(BadInput, match=f"Rows to keep: .*{said}") as refused:
        with_kept(prepared, write(tmp_path, "keep.jsonl", lambda i: kept), Session())
    text = "text, " if task == "causal-lm" else ""
    assert refused.value.hint == f"Give rows of {text}prompt and completion, or messages as --keep."
