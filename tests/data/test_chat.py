"""Conversations in every form they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from rowfiles import Write

from advisor.core.errors import BadInput
from advisor.data.dataset import Dataset, load_dataset
from advisor.data.examples import Example


def turn(role: str, content: str | None = "words") -> dict[str, str | None]:
    return {"role": role, "content": content}


def test_chat_rows(write: Write) -> None:
    rows = [
        {"messages": [turn("system"), turn("user", "hi"), turn("assistant", "yes")]},
        {"messages": [turn("user", "hi"), turn("assistant", "yes"), turn("user", "thanks"), turn("tool")]},
        {"messages": [turn("user", "hi"), turn("assistant", "yes"), turn("assistant", None)]},
        {"messages": [turn("user"), turn("user")]},
        {"messages": []},
        {"messages": None},
    ]
    dataset = load_dataset(write("a.jsonl", rows))
    answered = (("user", "hi"), ("assistant", "yes"))
    assert [e.messages for e in dataset.examples] == [(("system", "words"), *answered), answered, answered]
    assert "Left out: 2 rows without an answer by the assistant." in dataset.notes
    assert "Left out: 1 row with an empty text." in dataset.notes


def test_sharegpt_rows(write: Write) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}], "id": "a"},
        {
            "conversations": [
                {"from": "system", "value": "short"},
                {"from": "human", "value": "hi"},
                {"from": "gpt", "value": "no"},
            ]
        },
        {"conversations": [{"from": "human", "value": "hi"}]},
    ]
    dataset = load_dataset(write("a.jsonl", rows))
    assert dataset.schema.text_columns == ("conversations",)
    assert [e.messages for e in dataset.examples] == [
        (("user", "hi"), ("assistant", "yes")),
        (("system", "short"), ("user", "hi"), ("assistant", "no")),
    ]
    assert "Left out: 1 row without an answer by the assistant." in dataset.notes


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_turns_written_as_an_object_of_lists(write: Write, tmp_path: Path, suffix: str) -> None:
    """As older versions of ``datasets`` write a sequence of objects."""

    def read(rows: list[dict[str, Any]]) -> Dataset:
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        return load_dataset(write("a.jsonl", rows) if suffix == "jsonl" else str(tmp_path / "a.parquet"))

    asked, said = (("user", "hi"), ("assistant", "yes"))
    chat = {"role": ["system", "user", "assistant"], "content": ["short", "hi", "yes"], "weight": None}
    assert read([{"messages": chat}] * 3).examples == (Example(messages=(("system", "short"), asked, said)),) * 3
    shared = {"from": ["human", "gpt"], "value": ["hi", "yes"]}
    assert read([{"conversations": shared}] * 3).examples == (Example(messages=(asked, said)),) * 3
    pair = {"prompt": {"role": ["user"], "content": ["hi"]}, "completion": {"role": ["assistant"], "content": ["yes"]}}
    assert read([pair] * 3).examples == (Example(messages=(asked, said)),) * 3
    ends = [{"role": ["user", "assistant"], "content": ["hi", text]} for text in ("yes", "no")]
    assert read([{"chosen": ends[0], "rejected": ends[1]}] * 3).examples[0].messages == (asked, said)


def test_a_system_column_comes_first(write: Write) -> None:
    turns = [turn("user", "hi"), turn("assistant", "yes")]
    rows = [{"messages": turns, "system": "be brief"}, {"messages": turns, "system": ""}, {"messages": turns}]
    dataset = load_dataset(write("a.jsonl", rows))
    assert dataset.schema.text_columns == ("system", "messages")
    answered = (("user", "hi"), ("assistant", "yes"))
    assert [e.messages for e in dataset.examples] == [(("system", "be brief"), *answered), answered, answered]


def test_prompt_and_completion_of_turns(write: Write) -> None:
    rows = [{"prompt": [turn("user", "hi")], "completion": [turn("assistant", "yes")]}] * 2
    dataset = load_dataset(write("a.jsonl", rows))
    assert dataset.examples[0].messages == (("user", "hi"), ("assistant", "yes"))


def test_text_parts_are_joined_and_others_refused(write: Write) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    rows = [{"messages": [{"role": "user", "content": parts}, turn("assistant", "yes")]}]
    assert load_dataset(write("a.jsonl", rows)).examples[0].messages[0] == ("user", "one\ntwo")
    parts[1] = {"type": "image_url", "image_url": "x"}
    with pytest.raises(BadInput, match="Left out: 1 row with an image in a turn"):
        load_dataset(write("b.jsonl", rows))


@pytest.mark.parametrize(
    ("asks", "answers"), [("Human", "Assistant"), ("USER", "ASSISTANT"), ("user", "model"), ("prompter", "bot")]
)
def test_roles_by_other_names_are_read_and_said(write: Write, asks: str, answers: str) -> None:
    turns = [{"role": "System", "content": "s"}, {"role": asks, "content": "q"}, {"role": answers, "content": "a"}]
    dataset = load_dataset(write("chat.jsonl", [{"messages": turns}] * 20))
    assert dataset.examples[0].messages == (("system", "s"), ("user", "q"), ("assistant", "a"))
    (note,) = (note for note in dataset.notes if note.startswith("Roles are read by another name"))
    assert f"{answers} as assistant" in note
    assert "System as system" in note


def test_unknown_roles_are_named(write: Write) -> None:
    turns = [{"role": "doctor", "content": "q"}, {"role": "patient", "content": "a"}]
    with pytest.raises(BadInput) as refused:
        load_dataset(write("chat.jsonl", [{"messages": turns}] * 20))
    assert refused.value.hint == "The answer's role is assistant; those here are doctor, patient. Rename them."


def test_usual_roles_are_not_worth_a_note(write: Write) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert not any("Roles" in note for note in load_dataset(write("chat.jsonl", [{"conversations": turns}] * 20)).notes)
