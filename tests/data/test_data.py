"""What rows are taken for: every shared file, every inference, the notes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rowfiles import Write, labelled

from advisor.core.errors import BadInput
from advisor.core.events import Event, Note, Session, Warn
from advisor.data.dataset import Dataset, load_dataset
from advisor.data.examples import Example
from advisor.data.schema import Schema
from advisor.models.prepare import Source, read_data

# --- the shared files: rows, task, text columns, label column, number of classes, metric ---

SHARED = [
    ("sst2/train.jsonl", 6920, "classification", ("sentence",), "label", 2, "accuracy"),
    ("sst2/validation.jsonl", 872, "classification", ("sentence",), "label", 2, "accuracy"),
    ("sst2/test.jsonl", 1821, "classification", ("sentence",), "label", 2, "accuracy"),
    ("cola/train.jsonl", 8551, "classification", ("sentence",), "label", 2, "matthews"),
    ("cola/validation.jsonl", 1043, "classification", ("sentence",), "label", 2, "matthews"),
    ("mrpc/train.jsonl", 4076, "classification", ("sentence1", "sentence2"), "label", 2, "f1"),
    ("mrpc/validation.jsonl", 1725, "classification", ("sentence1", "sentence2"), "label", 2, "f1"),
    ("rte/train.jsonl", 2490, "classification", ("sentence1", "sentence2"), "label", 2, "accuracy"),
    ("rte/validation.jsonl", 277, "classification", ("sentence1", "sentence2"), "label", 2, "accuracy"),
    ("stsb/train.jsonl", 4249, "regression", ("sentence1", "sentence2"), "score", 0, "spearman"),
    ("stsb/validation.jsonl", 1500, "regression", ("sentence1", "sentence2"), "score", 0, "spearman"),
    ("trec/train.jsonl", 5452, "classification", ("text",), "label", 6, "accuracy"),
    ("trec/test.jsonl", 500, "classification", ("text",), "label", 6, "accuracy"),
    ("imdb/train.jsonl", 2000, "classification", ("text",), "label", 2, "accuracy"),
    ("imdb/test.jsonl", 1000, "classification", ("text",), "label", 2, "accuracy"),
    ("banking77/train.csv", 10003, "classification", ("text",), "category", 77, "accuracy"),
    ("banking77/test.csv", 3080, "classification", ("text",), "category", 77, "accuracy"),
    ("gsm8k/train.jsonl", 7473, "causal-lm", ("question", "answer"), None, 0, "token_accuracy"),
    ("gsm8k/test.jsonl", 1319, "causal-lm", ("question", "answer"), None, 0, "token_accuracy"),
    (
        "alpaca_seed/train.jsonl",
        175,
        "causal-lm",
        ("instruction", "input", "output"),
        None,
        0,
        "token_accuracy",
    ),
    ("tiny_chat/train.jsonl", 1330, "causal-lm", ("messages",), None, 0, "token_accuracy"),
    ("raw/cola_no_header.tsv", 1043, "classification", ("column_4",), "column_2", 2, "accuracy"),
    ("raw/sst2_no_header.tsv", 872, "classification", ("column_1",), "column_2", 2, "accuracy"),
    ("raw/trec_label_first_latin1.txt", 500, "classification", ("text",), "label", 6, "accuracy"),
]


@pytest.mark.parametrize(("name", "rows", "task", "texts", "label", "classes", "metric"), SHARED)
def test_shared_file(
    shared: Path,
    name: str,
    rows: int,
    task: str,
    texts: tuple[str, ...],
    label: str | None,
    classes: int,
    metric: str,
) -> None:
    dataset = load_dataset(str(shared / "data" / name))
    schema = dataset.schema
    assert (len(dataset.examples), schema.task, schema.text_columns) == (rows, task, texts)
    assert (schema.label_column, len(schema.class_names), schema.metric) == (label, classes, metric)
    assert not any(note.startswith("Left out") for note in dataset.notes)
    if classes:
        assert {example.label for example in dataset.examples} == set(range(classes))


def test_raw_files_hold_the_same_examples(shared: Path) -> None:
    for raw, same in (
        ("sst2_no_header.tsv", "sst2/validation.jsonl"),
        ("trec_label_first_latin1.txt", "trec/test.jsonl"),
        ("cola_no_header.tsv", "cola/validation.jsonl"),
    ):
        expected = load_dataset(str(shared / "data" / same)).examples
        assert load_dataset(str(shared / "data" / "raw" / raw)).examples == expected


def test_evaluation_file_like_training(shared: Path) -> None:
    train = load_dataset(str(shared / "data" / "banking77/train.csv"))
    test = load_dataset(str(shared / "data" / "banking77/test.csv"), like=train.schema)
    assert test.schema == train.schema
    assert len(test.examples) == 3080


# --- inference ---


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        ([0, 1, 0, 1], "classification", ("0", "1")),
        ([10, 9, 10, 2], "classification", ("2", "9", "10")),
        (["1", "0", "1", " 0 "], "classification", ("0", "1")),
        ([1.0, 0.0, 1.0], "classification", ("0", "1")),
        ([-1, 1, -1, 1], "classification", ("-1", "1")),
        ([True, False, True], "classification", ("false", "true")),
        (["b", "a", "b"], "classification", ("a", "b")),
        (["01", "1", "2"], "classification", ("01", "1", "2")),
        (["01", "1", "001"], "classification", ("001", "01", "1")),
        (["1e2", "100", "1E2", "100.00", "+100"], "classification", ("+100", "100", "100.00", "1E2", "1e2")),
        (["1", "1.0", 1, 1.0, "١", "-1", -1.0], "classification", ("-1", "1", "١")),
        ([10**20, str(10**20), f"{10**20}.0", 10**20 + 1], "classification", (f"{10**20}", f"{10**20 + 1}")),
        (["a", "b", "3", "a"], "classification", ("3", "a", "b")),
        ([0.5, 1.0, 2.0], "regression", ()),
        (["0.5", "1e-3", "-2.", ".7"], "regression", ()),
        (list(range(50)), "regression", ()),
        (list(range(25)) * 4, "classification", tuple(map(str, range(25)))),
    ],
)
def test_label_kinds(write: Write, labels: list[Any], task: str, classes: tuple[str, ...]) -> None:
    dataset = load_dataset(write("a.jsonl", labelled(labels)))
    assert (dataset.schema.task, dataset.schema.class_names) == (task, classes)
    if task == "regression":
        assert [example.label for example in dataset.examples] == [float(label) for label in labels]


def test_whole_number_scores_are_values(write: Write) -> None:
    rows = [{"text": f"t {i}", "score": i % 30} for i in range(300)]
    assert load_dataset(write("a.jsonl", rows)).schema.task == "regression"
    stars = [{"text": f"t {i}", "stars": i % 5 + 1} for i in range(300)]
    assert load_dataset(write("b.jsonl", stars)).schema.class_names == ("1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("row", "texts", "label"),
    [
        ({"premise": "p q r", "hypothesis": "h", "label": 0}, ("premise", "hypothesis"), "label"),
        ({"question": "q", "sentence": "s", "label": 0}, ("question", "sentence"), "label"),
        (
            {"id": 0, "question1": "q", "question2": "s", "is_duplicate": 0},
            ("question1", "question2"),
            "is_duplicate",
        ),
        ({"Text": "t", "Label": 0}, ("Text",), "Label"),
        ({"title": "t", "content": "c", "label": 0}, ("content",), "label"),
        ({"label": 0, "source": "web", "text": "t"}, ("text",), "label"),
        (
            {"headline": "some words here", "story": "many words are here", "tag": 0},
            ("headline", "story"),
            "tag",
        ),
        ({"uid": "x", "utt": "some words here", "mood": 0}, ("utt",), "mood"),
    ],
)
def test_columns_by_name_or_content(write: Write, row: dict[str, Any], texts: tuple[str, ...], label: str) -> None:
    rows = [{k: i % 2 if k == label else f"{v} {i}" if isinstance(v, str) else i for k, v in row.items()} for i in range(8)]
    schema = load_dataset(write("a.jsonl", rows)).schema
    assert (schema.task, schema.text_columns, schema.label_column) == ("classification", texts, label)


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"prompt": "p", "completion": "c"}, ("prompt", "completion"), Example(prompt="p", completion="c")),
        (
            {"question": "p", "answer": "c", "id": 3},
            ("question", "answer"),
            Example(prompt="p", completion="c"),
        ),
        (
            {"instruction": "p", "input": "more", "output": "c"},
            ("instruction", "input", "output"),
            Example(prompt="p\n\nmore", completion="c"),
        ),
        (
            {"instruction": "p", "input": "", "output": "c"},
            ("instruction", "input", "output"),
            Example(prompt="p", completion="c"),
        ),
        ({"instruction": "p", "output": "c"}, ("instruction", "output"), Example(prompt="p", completion="c")),
        (
            {"instruction": "", "input": "more", "output": "c"},
            ("instruction", "input", "output"),
            Example(prompt="more", completion="c"),
        ),
        ({"prompt": "", "completion": "c"}, ("prompt", "completion"), Example(completion="c")),
        ({"question": None, "answer": "c"}, ("question", "answer"), Example(completion="c")),
        ({"input": "p", "output": "c"}, ("input", "output"), Example(prompt="p", completion="c")),
        ({"text": "all of it"}, ("text",), Example(completion="all of it")),
        ({"text": "all", "url": "u", "meta": {"k": 1}}, ("text",), Example(completion="all")),
    ],
)
def test_language_rows(write: Write, row: dict[str, Any], columns: tuple[str, ...], expected: Example) -> None:
    dataset = load_dataset(write("a.jsonl", [row] * 4))
    assert dataset.schema == Schema("causal-lm", columns, None, (), "token_accuracy")
    assert dataset.examples == (expected,) * 4


def test_overrides(write: Write) -> None:
    rows = [{"text": f"t {i}", "other": f"o {i}", "label": i % 2, "stars": i % 5} for i in range(20)]
    file = write("a.jsonl", rows)
    chosen = load_dataset(file, text_columns=["other", "text"], label_column="stars", metric="f1")
    assert chosen.schema == Schema("classification", ("other", "text"), "stars", ("0", "1", "2", "3", "4"), "f1")
    assert chosen.examples[3].texts == ("o 3", "t 3")
    assert chosen.notes == ("The task is classification.", "There are 5 classes: 0, 1, 2, 3, 4.")
    assert load_dataset(file, task="regression").schema.metric == "spearman"
    language = load_dataset(file, task="causal-lm", text_columns=["other", "text"])
    assert language.examples[0] == Example(prompt="o 0", completion="t 0")
    assert load_dataset(file, task="causal-lm").examples[0] == Example(completion="t 0")


def test_profile_is_a_hint_only(write: Write) -> None:
    rows = [{"sentence": f"s {i}", "label": i % 2} for i in range(8)]
    named = load_dataset(write("cola/train.jsonl", rows))
    assert named.schema.metric == "matthews"
    assert "The task profile cola fits the name and the columns, and is used." in named.notes
    assert load_dataset(write("my-CoLA_dev.jsonl", rows)).schema.metric == "matthews"
    assert load_dataset(write("chocolate.jsonl", rows)).schema.metric == "accuracy"
    assert load_dataset(write("cola/other.jsonl", labelled([0, 1]))).schema.metric == "accuracy"
    assert load_dataset(write("cola.jsonl", rows), metric="f1").schema.metric == "f1"
    assert load_dataset(write("gsm8k.jsonl", [{"question": "q", "answer": "a b"}] * 3)).schema.task == "causal-lm"


def test_stray_rows_are_counted(write: Write) -> None:
    rows = [
        *labelled([0, 1, 0, 1]),
        {"text": " ", "label": 0},
        {"label": 1},
        {"text": "x"},
        {"text": "y", "label": ""},
    ]
    dataset = load_dataset(write("a.jsonl", rows))
    assert len(dataset.examples) == 4
    assert dataset.notes[-2:] == ("Left out: 2 rows with an empty text.", "Left out: 2 rows without a label.")


def test_a_class_of_dropped_rows_only_is_no_class(write: Write) -> None:
    dataset = load_dataset(write("a.jsonl", [*labelled([0, 1]), {"text": "", "label": 2}]))
    assert dataset.schema.class_names == ("0", "1")


def test_fingerprint_follows_content_not_place(write: Write) -> None:
    one, same = write("a.jsonl", labelled([0, 1])), write("elsewhere/b.json", json.dumps(labelled([0, 1])))
    assert load_dataset(one).fingerprint == load_dataset(same).fingerprint
    assert load_dataset(one).fingerprint != load_dataset(one, metric="f1").fingerprint
    assert load_dataset(one).fingerprint != load_dataset(write("c.jsonl", labelled([1, 0]))).fingerprint


def test_reading_imports_nothing_heavy(write: Write) -> None:
    file = write("a.jsonl", labelled([0, 1]))
    code = f"import sys, advisor.data.dataset as d; d.load_dataset({file!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "numpy", "pandas"} & set(modules)


# --- what is said of the rows ---


def test_repeated_rows_and_torn_labels_are_counted(write: Write) -> None:
    rows = labelled([0, 1, 0, 1])
    clean = load_dataset(write("a.jsonl", rows))
    assert not any("repeat" in note or "different" in note for note in clean.notes)
    rows += [rows[0], rows[0], {"text": rows[1]["text"], "label": 0}]
    notes = load_dataset(write("b.jsonl", rows)).notes
    assert "2 rows repeat an earlier row exactly." in notes
    assert "1 text stands with different labels: 'text number 1'." in notes


def test_an_answer_may_differ_but_not_repeat(write: Write) -> None:
    rows = [{"prompt": "p", "completion": c} for c in ("one", "two", "two")]
    notes = load_dataset(write("a.jsonl", rows)).notes
    assert "1 row repeats an earlier row exactly." in notes
    assert not any("different" in note for note in notes)


def test_unbalanced_classes_are_noted(write: Write) -> None:
    notes = load_dataset(write("a.jsonl", labelled(["often"] * 18 + ["seldom"] * 2))).notes
    assert "The class often has 90% of the rows: --metric matthews says more than accuracy." in notes
    notes = load_dataset(write("b.jsonl", labelled(["a", "b"] * 5 + ["once"]))).notes
    assert "Of these classes a single row was read, which training and evaluation cannot both have: once." in notes


def read(source: Source) -> tuple[Dataset, Dataset, list[Event]]:
    events: list[Event] = []
    train, evaluation = read_data(source, Session(events.append))
    return train, evaluation, events


def test_the_split_of_a_folder_is_the_evaluation_data(write: Write, tmp_path: Path) -> None:
    rows = labelled([0, 1] * 15)
    write("d/train.jsonl", rows)
    _, evaluation, _ = read(Source("m", str(tmp_path / "d")))
    assert len(evaluation.examples) == 3  # 10 % split off
    write("d/test.jsonl", labelled([1]))
    write("d/dev.jsonl", [{"text": "new", "label": 0}, {"text": "newer", "label": 1}])
    train, evaluation, events = read(Source("m", str(tmp_path / "d")))
    assert (len(train.examples), [e.texts[0] for e in evaluation.examples]) == (30, ["new", "newer"])
    assert Note(f"Evaluation: 2 rows of {tmp_path / 'd' / 'dev.jsonl'}.") in events
    assert not any(isinstance(event, Warn) for event in events)
    _, evaluation, _ = read(Source("m", str(tmp_path / "d"), eval_data=write("other.jsonl", rows[:5])))
    assert len(evaluation.examples) == 5


def test_evaluation_rows_that_are_trained_on_are_warned_of(write: Write) -> None:
    train = write("train.jsonl", labelled([0, 1] * 15))
    evaluation = write("eval.jsonl", [*labelled([0, 1, 0]), {"text": "new", "label": 1}])
    _, _, events = read(Source("m", train, eval_data=evaluation))
    warnings = [event.text for event in events if isinstance(event, Warn)]
    assert warnings == ["3 of 4 evaluation rows also appear in the training data, so scores will be optimistic."]


# --- a source and its target, for encoder-decoders --------------------------------------------------------------------


PAIR = [{"id": i, "article": f"a long text of number {i}", "summary": f"text {i}"} for i in range(40)]


@pytest.mark.parametrize(
    "options",
    [
        {"language": "seq2seq"},
        {"task": "seq2seq"},
        {"task": "seq2seq", "text_columns": ["article"], "label_column": "summary"},
        {"task": "seq2seq", "label_column": "summary"},
        {"language": "seq2seq", "text_columns": ["article"], "label_column": "summary"},
        {"task": "seq2seq", "text_columns": ["article", "summary"]},
    ],
)
def test_source_and_target_columns(write: Write, options: dict[str, Any]) -> None:
    dataset = load_dataset(write("a.jsonl", PAIR), **options)
    assert dataset.schema == Schema("seq2seq", ("article", "summary"), None, (), "token_accuracy")
    assert dataset.examples[3] == Example(prompt="a long text of number 3", completion="text 3")
    assert ("The task is seq2seq." in dataset.notes) == ("task" not in options)


def test_the_answer_of_a_causal_lm_may_be_named_as_label(write: Write) -> None:
    dataset = load_dataset(write("a.jsonl", PAIR), task="causal-lm", text_columns=["summary"], label_column="article")
    assert dataset.schema.text_columns == ("summary", "article")
    two = [{"front": f"f {i}", "back": f"b {i}"} for i in range(4)]
    assert load_dataset(write("b.jsonl", two), task="seq2seq", label_column="back").schema.text_columns == ("front", "back")


def test_a_column_target_is_a_label_or_a_text_to_learn(write: Write) -> None:
    texts = [{"source": f"a text of number {i}", "target": f"text {i}"} for i in range(40)]
    assert load_dataset(write("a.jsonl", texts)).schema == Schema("causal-lm", ("source", "target"), None, (), "token_accuracy")
    labels = [{"source": f"a text of number {i}", "target": ["good", "bad"][i % 2]} for i in range(40)]
    found = load_dataset(write("b.jsonl", labels), language="seq2seq").schema
    assert (found.task, found.text_columns, found.label_column) == ("classification", ("source",), "target")


def test_an_encoder_decoder_leaves_labels_labels(write: Write) -> None:
    """Only what hardly repeats is taken for a target; the model then says that it is no classifier."""
    rows = [{"text": f"some text {i}", "label": ["good", "bad"][i % 2]} for i in range(40)]
    assert load_dataset(write("a.jsonl", rows), language="seq2seq").schema.task == "classification"
    named = load_dataset(write("a.jsonl", rows), task="seq2seq", text_columns=["text"], label_column="label")
    assert named.examples[1] == Example(prompt="some text 1", completion="bad")


@pytest.mark.parametrize("task", ["auto", "seq2seq"])
def test_task_profiles_and_chats_serve_both_kinds_of_language_model(write: Write, task: str) -> None:
    sums = load_dataset(write("gsm8k.jsonl", [{"question": "q", "answer": "a b"}] * 3), task=task, language="seq2seq")
    assert sums.schema == Schema("seq2seq", ("question", "answer"), None, (), "token_accuracy")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    chats = load_dataset(write("c.jsonl", [{"messages": turns}] * 3), task=task, language="seq2seq")
    assert chats.schema.task == "seq2seq"
    assert chats.examples[0].messages == (("user", "hi"), ("assistant", "ho"))


@pytest.mark.parametrize("few", [2, 3])
def test_fewer_training_rows_than_folds_are_refused(write: Write, few: int) -> None:
    source = Source("m", write("a.jsonl", labelled(["a", "b", "a"][:few])), task="classification")
    others = write("b.jsonl", labelled(["a", "b"] * 5))
    with pytest.raises(BadInput, match=f"has {few} usable rows? to train on"):
        read_data(replace(source, eval_data=others), Session())
    enough = write("c.jsonl", labelled(["a", "b"] * 2))
    assert len(read_data(Source("m", enough, eval_data=others), Session())[0].examples) == 4
