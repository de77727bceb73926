"""Rows with an answer and nothing asked: kept, said, and encoded, as trainers take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rowfiles import Write

from advisor.core.events import Session
from advisor.data.dataset import load_dataset
from advisor.models.prepare import Source, prepare

PROMPTS = ["q", "", None, " "]
SAID = "18 rows have an empty prompt: the answer alone is read."


def rows_for(task: str, prompts: list[str | None]) -> list[dict[str, Any]]:
    """24 rows with one of ``prompts`` after another."""
    answers: dict[str, tuple[str, ...]] = {"preference": ("chosen", "rejected"), "kto": ("completion", "label")}
    rows = []
    for i in range(24):
        values = (f"some words {i}", i % 3 == 0 if task == "kto" else f"some words {i} or not")
        beside = dict(zip(answers.get(task, ("completion",)), values, strict=False))
        rows.append({"prompt": prompts[i % len(prompts)], **beside})
    return rows


@pytest.mark.parametrize("task", ["causal-lm", "seq2seq", "kto", "preference"])
def test_rows_with_an_empty_prompt_are_kept_and_said(write: Write, task: str) -> None:
    read = load_dataset(write("a.jsonl", rows_for(task, PROMPTS)), task=task)
    assert [(e.prompt, e.completion) for e in read.examples[:2]] == [("q", "some words 0"), ("", "some words 1")]
    assert (len(read.examples), SAID in read.notes) == (24, True)
    asked = load_dataset(write("b.jsonl", rows_for(task, ["q"])), task=task)
    assert not any("empty prompt" in note for note in asked.notes)


@pytest.mark.parametrize(
    ("family", "task"),
    [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("t5", "seq2seq"), ("llama", "kto"), ("llama", "preference")],
)
def test_an_answer_alone_can_be_encoded(tiny_model: Callable[..., Path], write: Write, family: str, task: str) -> None:
    model = tiny_model(family, "seq2seq" if task == "seq2seq" else "causal-lm")
    prepared = prepare(Source(str(model), write("a.jsonl", rows_for(task, [""])), task=task, device="cpu"), Session())
    assert len(prepared.train_rows) == len(prepared.train.examples) > 20
