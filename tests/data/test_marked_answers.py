"""Answers with a true/false mark (KTO) as TRL and LLaMA-Factory take them: told, or refused with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset, sample_rows, split_evaluation
from advisor.data.examples import Example


def write(folder: Path, rows: Sequence[dict[str, Any]], name: str = "answers.jsonl") -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


TEXT = Example(prompt="q", completion="a")
TURNS = Example(messages=(("user", "q"), ("assistant", "a")))


@pytest.mark.parametrize("values", [(True, False), (1, 0), (1.0, -1.0), ("true", "False"), ("good", "bad"), ("1", "0")])
@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "q", "completion": "a", "label": 0}, TEXT),
        ({"prompt": "q", "response": "a", "is_desirable": 0}, TEXT),
        ({"instruction": "q", "input": "", "output": "a", "kto_tag": 0}, TEXT),
        ({"system": "s", "prompt": "q", "completion": "a", "label": 0}, Example(prompt="s\n\nq", completion="a")),
        ({"prompt": [user("q")], "completion": [said("a")], "label": 0}, TURNS),
        ({"prompt": [user("q")], "completion": "a", "label": 0}, TURNS),
        ({"prompt": "q", "completion": [said("a")], "label": 0}, TURNS),
        ({"messages": [user("q"), said("a")], "label": 0}, TURNS),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": 0}, TURNS),
        ({"label": 0, "prompt": "q", "completion": "a", "score": 0.5, "id": 3}, TEXT),
    ],
)
def test_a_marked_answer_is_read_in_every_form(
    tmp_path: Path, row: dict[str, Any], wanted: Example, values: tuple[Any, Any]
) -> None:
    (mark,) = (name for name in row if name in ("label", "is_desirable", "kto_tag"))
    read = load_dataset(write(tmp_path, [{**row, mark: values[i % 2]} for i in range(24)]))
    assert (read.schema.task, read.schema.label_column, read.schema.metric) == ("kto", mark, "reward_auc")
    assert [example.label for example in read.examples[:4]] == [1, 0, 1, 0]
    assert (read.examples[0].prompt, read.examples[0].completion, read.examples[0].messages) == (
        wanted.prompt,
        wanted.completion,
        wanted.messages,
    )
    assert "12 of 24 answers are marked desirable." in read.notes
    assert not any(note.startswith("Not read") and mark in note for note in read.notes)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, [{"ask": "q", "said": "a", "liked": i % 3 == 0} for i in range(24)])
    with pytest.raises(BadInput, match="cannot be told from: ask, said, liked"):
        load_dataset(path, task="kto")
    read = load_dataset(path, task="kto", text_columns=["ask", "said"], label_column="liked")
    assert read.examples[0] == Example(prompt="q", completion="a", label=1)
    assert any(note.startswith("8 of 24 answers are marked desirable. Both kinds weigh alike") for note in read.notes)
    alone = write(tmp_path, [{"completion": f"a {i}", "label": i % 2 == 0} for i in range(24)])
    assert load_dataset(alone, task="kto").examples[1] == Example(completion="a 1", label=0)
    asked = write(tmp_path, [{"question": "q", "answer": f"a {i}", "labels": i % 2} for i in range(24)])
    assert load_dataset(asked, task="kto").examples[1] == Example(prompt="q", completion="a 1", label=1)


@pytest.mark.parametrize("task", ["causal-lm", "classification", "seq2seq"])
def test_another_task_is_refused_with_the_way_out(tmp_path: Path, task: str) -> None:
    path = write(tmp_path, [{"prompt": "q", "completion": f"a {i}", "label": i % 2 == 0} for i in range(24)])
    with pytest.raises(BadInput, match=f"marked answers .KTO., the task is {task}") as refused:
        load_dataset(path, task=task)
    assert "--task kto" in refused.value.hint
    if task == "classification":
        assert load_dataset(path, text_columns=["completion"], label_column="label").schema.task == task
    else:
        assert load_dataset(path, task=task, text_columns=["prompt", "completion"]).schema.task == task


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (lambda i: {"prompt": "q", "completion": "a", "label": True}, "every usable answer .24. is marked desirable; KTO"),
        (lambda i: {"prompt": "q", "completion": "a", "label": "false"}, "every usable answer .24. is marked undesirable"),
        (
            lambda i: {"prompt": "q", "completion": "" if i % 2 else "a", "label": i % 2},
            "every usable answer .12. is marked undesirable",
        ),
        (lambda i: {"prompt": "q", "completion": "a" * (i == 9), "label": i % 2}, "every usable answer .1. is"),
        (lambda i: {"prompt": [user("q")], "completion": [user("a")], "label": i % 2}, "without an answer by the assistant"),
        (lambda i: {"prompt": json.dumps([user("q")]), "completion": "a", "label": i % 2}, "prompt holds JSON written as text"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_the_reason(
    tmp_path: Path, row: Callable[[int], dict[str, Any]], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        load_dataset(write(tmp_path, [row(i) for i in range(24)]))


def test_marks_that_say_neither_or_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "q", "completion": f"a {i}", "label": i % 2 == 0} for i in range(24)]
    rows[3]["label"] = None
    read = load_dataset(write(tmp_path, rows))
    assert len(read.examples) == 23
    assert "Left out: 1 row without a mark." in read.notes
    rows[3]["label"] = "perhaps"
    with pytest.raises(BadInput, match="line 4: the mark 'perhaps' in column label says neither true nor false"):
        load_dataset(write(tmp_path, rows), task="kto")
    good = write(tmp_path, [{"prompt": "q", "completion": "a", "label": True}] * 24, "evaluation.jsonl")
    with pytest.raises(BadInput, match=r"evaluation.jsonl: every usable answer .24. is marked desirable"):
        load_dataset(good, like=read.schema)


@pytest.mark.parametrize(
    "marks",
    [
        (1, False, True, 0),
        ("yes", False, 1.0, "N"),
        ("good", "0", True, "rejected"),
        (1.0, 0.0, math.nan, 0),
        (True, "-1", math.nan, "false"),
    ],
)
def test_marks_may_be_written_in_several_ways_and_be_missing(tmp_path: Path, marks: tuple[Any, ...]) -> None:
    read = load_dataset(write(tmp_path, [{"prompt": "q", "completion": f"a {i}", "label": marks[i % 4]} for i in range(24)]))
    says = {"yes": 1, "good": 1, "N": 0, "0": 0, "-1": 0, "false": 0, "rejected": 0, 1.0: 1, 0.0: 0}
    assert read.schema.task == "kto"
    assert [e.label for e in read.examples] == [says[mark] for mark in marks * 6 if mark == mark]


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ((True, False, True, "perhaps"), "line 4: the mark 'perhaps' in column label says neither true nor false"),
        ((0, 1, 1, 2), "line 4: the mark 2 in column label"),
        ((1, 1, 1, "nope"), "line 4: the mark 'nope' in column label"),
        (("good", "bad", "so so", "good"), "line 3: the mark 'so so' in column label"),
        (("false", "true", [True], "true"), "line 3: the mark .True. in column label"),
        (([True], [False], [True], [False]), "line 1: the mark .True. in column label"),
        ((1, 0, -1, 1), "0 and -1 both stand in column label"),
    ],
)
def test_a_column_that_is_nearly_one_of_marks_is_not_passed_over(tmp_path: Path, marks: tuple[Any, ...], reason: str) -> None:
    path = write(tmp_path, [{"prompt": "q", "completion": f"a {i}", "label": marks[i % 4]} for i in range(24)])
    with pytest.raises(BadInput, match=reason) as refused:
        load_dataset(path)
    assert "--text-column" in refused.value.hint
    assert load_dataset(path, text_columns=["prompt", "completion"], task="causal-lm").schema.task == "causal-lm"


@pytest.mark.parametrize("values", [(1, 1, 1, 2), (3, 0, 7, 1), ("a", "b", "yes", "c")])
def test_other_columns_are_no_marks(tmp_path: Path, values: tuple[Any, ...]) -> None:
    path = write(tmp_path, [{"prompt": "q", "completion": f"a {i}", "label": values[i % 4]} for i in range(24)])
    assert load_dataset(path).schema.task == "causal-lm"


def test_both_marks_are_in_every_part(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": f"a {i}", "label": i > 1} for i in range(40)]
    read = load_dataset(write(tmp_path, rows))
    for seed in range(5):
        rest, evaluation = split_evaluation(read, seed)
        for part in (rest, evaluation, sample_rows(rest, 3, seed)):
            assert {example.label for example in part.examples} == {0, 1}


def test_a_mark_is_part_of_the_data_and_two_marks_of_one_answer_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": f"a {i // 2}", "label": i % 2 == 0} for i in range(24)]
    one = load_dataset(write(tmp_path, rows))
    assert "12 texts stand with different marks: 'a 0'." in one.notes
    rows[0]["label"] = False
    assert load_dataset(write(tmp_path, rows)).fingerprint != one.fingerprint


def test_numbers_that_are_all_alike_are_no_marks(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "q", "completion": f"a {i}", "label": 1} for i in range(24)])
    assert load_dataset(path).schema.task == "causal-lm"
