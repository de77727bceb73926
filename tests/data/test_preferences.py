"""Pairs of answers as TRL takes them: with a prompt or without, as texts or as turns; told, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset
from advisor.data.examples import Example


def write(folder: Path, row: dict[str, Any]) -> str:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _ in range(24)))
    return str(file)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASKED = (("user", "q"),)
TURNS = Example(messages=(*ASKED, ("assistant", "a")), rejected=Example(messages=(*ASKED, ("assistant", "b"))))
WITH_SYSTEM = Example(
    messages=(("system", "s"), *ASKED, ("assistant", "a")),
    rejected=Example(messages=(("system", "s"), *ASKED, ("assistant", "b"))),
)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            Example(prompt="q", completion="a", rejected=Example(prompt="q", completion="b")),
        ),
        (
            {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
            Example(prompt="s\n\nq", completion="a", rejected=Example(prompt="s\n\nq", completion="b")),
        ),
        (
            {"chosen": "Human: hi Assistant: yes", "rejected": "Human: hi Assistant: yep"},
            Example(
                prompt="Human: hi Assistant:",
                completion=" yes",
                rejected=Example(prompt="Human: hi Assistant:", completion=" yep"),
            ),
        ),
        ({"chosen": [user("q"), said("a")], "rejected": [user("q"), said("b")]}, TURNS),
        ({"prompt": [user("q")], "chosen": [said("a")], "rejected": [said("b")]}, TURNS),
        ({"prompt": "q", "chosen": [said("a")], "rejected": [said("b")]}, TURNS),
        ({"prompt": "q", "chosen": [user("q"), said("a")], "rejected": [user("q"), said("b")]}, TURNS),
        ({"prompt": [user("q")], "chosen": [user("q"), said("a")], "rejected": [user("q"), said("b")]}, TURNS),
        ({"system": "s", "question": "q", "chosen": [said("a")], "rejected": [said("b")]}, WITH_SYSTEM),
        ({"system": "s", "chosen": [user("q"), said("a")], "rejected": [user("q"), said("b")]}, WITH_SYSTEM),
        ({"messages": [user("q")], "chosen": "a", "rejected": "b"}, TURNS),
        ({"prompt": [user("q")], "chosen": "a", "rejected": "b"}, TURNS),
        ({"prompt": "q", "chosen": [said("a")], "rejected": "b"}, TURNS),
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            TURNS,
        ),
        (  # as UltraFeedback has it: the messages are those of the chosen answer
            {
                "messages": [user("q"), said("a")],
                "chosen": [user("q"), said("a")],
                "rejected": [user("q"), said("b")],
                "score_chosen": 8.0,
            },
            TURNS,
        ),
        (  # the question stands there twice
            {"question": "q", "prompt": "q", "chosen": "a", "rejected": "b"},
            Example(prompt="q", completion="a", rejected=Example(prompt="q", completion="b")),
        ),
        (  # Argilla's Orca pairs: two answers and two ratings are no words with tags
            {"input": "q", "chosen": "a", "rejected": "b", "generations": ["a", "b"], "rating": [5, 3]},
            Example(prompt="q", completion="a", rejected=Example(prompt="q", completion="b")),
        ),
    ],
)
def test_a_pair_is_read_in_every_form(tmp_path: Path, row: dict[str, Any], wanted: Example) -> None:
    read = load_dataset(write(tmp_path, row))
    assert read.schema.task == "preference"
    assert read.schema.metric == "reward_accuracy"
    assert read.examples[0] == wanted


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "with an empty text"),
        ({"prompt": "q", "chosen": [said("a")], "rejected": None}, "without an answer by the assistant"),
        ({"chosen": "Human: hi Assistant: yes", "rejected": "Human: hi Assistant: "}, "with an empty text"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "with two answers that are the same"),
        ({"chosen": [user("q"), said("a")], "rejected": [user("r"), said("b")]}, "whose two answers follow other turns"),
        ({"chosen": [user("q"), said("a")], "rejected": [user("q")]}, "without an answer by the assistant"),
    ],
)
def test_what_is_no_pair_is_left_out_with_the_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_dataset(write(tmp_path, row))


def test_columns_can_be_named_and_other_tasks_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"ask": "q", "good": "a", "bad": "b"})
    read = load_dataset(path, task="preference", text_columns=["ask", "good", "bad"])
    assert read.examples[0].rejected == Example(prompt="q", completion="b")
    with pytest.raises(BadInput, match="cannot be told from: ask, good, bad"):
        load_dataset(path, task="preference")
    with pytest.raises(BadInput, match="rows have no label"):
        load_dataset(path, task="preference", label_column="good")
    pairs = write(tmp_path, {"prompt": "q", "chosen": "a", "rejected": "b"})
    with pytest.raises(BadInput, match="the task is causal-lm"):
        load_dataset(pairs, task="causal-lm")
    assert load_dataset(pairs, task="causal-lm", text_columns=["prompt", "chosen"]).examples[0].completion == "a"


def test_another_rejected_answer_is_another_data_set(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    one = load_dataset(write(tmp_path, row))
    other = load_dataset(write(tmp_path, {**row, "rejected": "c"}))
    assert one.fingerprint != other.fingerprint
    assert any("23 rows repeat an earlier row" in note for note in one.notes)


def test_an_empty_prompt_among_others_is_said_and_not_made_of_the_answers(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "q" if i % 2 else None, "chosen": "in a", "rejected": "in b"} for i in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_dataset(str(file))
    assert [e.prompt for e in read.examples] == ["", "q"] * 12
    assert read.examples[0].completion == "in a"
    assert "12 rows have an empty prompt: the answer alone is read." in read.notes


def test_columns_that_say_which_answer_was_chosen_are_no_answers(tmp_path: Path) -> None:
    file = tmp_path / "kto.jsonl"
    rows = [{"prompt": "q", "completion": "a", "chosen": i % 2 == 0, "rejected": i % 2 == 1} for i in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = load_dataset(str(file)).schema
    assert (schema.task, schema.text_columns, schema.label_column) == ("kto", ("prompt", "completion"), "chosen")


def test_turns_as_text_and_swapped_answers_are_refused(tmp_path: Path) -> None:
    turns = [json.dumps([user("q"), said(text)]) for text in "ab"]
    with pytest.raises(BadInput, match="chosen holds JSON written as text"):
        load_dataset(write(tmp_path, {"prompt": "q", "chosen": turns[0], "rejected": turns[1]}))
    path = write(tmp_path, {"prompt": "q", "chosen": "[1]", "rejected": "[2]"})
    assert load_dataset(path).examples[0].completion == "[1]"
    with pytest.raises(BadInput, match="chosen would be learned as the rejected answer"):
        load_dataset(path, task="preference", text_columns=["prompt", "rejected", "chosen"])


def test_another_task_is_not_taken_for_pairs(tmp_path: Path) -> None:
    read = load_dataset(write(tmp_path, {"prompt": "q", "completion": "a", "rejected_reason": "x"}))
    assert (read.schema.task, read.schema.text_columns) == ("causal-lm", ("prompt", "completion"))
