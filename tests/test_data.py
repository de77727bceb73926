"""Reading rows: every shared file, every format, every inference, every error; splitting and sampling."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.data import Dataset, Example, load_dataset, sample_rows, split_evaluation
from advisor.errors import BadInput
from advisor.profiles import load_profiles
from advisor.recipe import TASKS
from advisor.schema import METRICS, Schema

Write = Callable[[str, Any], str]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    for folder in Path(__file__).resolve().parents:
        if (folder / "shared" / "data").is_dir():
            return folder / "shared" / "data"
    pytest.skip("the shared data folder is not there")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file (str, bytes, or rows as JSONL) and returns its path."""

    def write_file(name: str, content: Any) -> str:
        if not isinstance(content, str | bytes):
            content = "".join(json.dumps(row) + "\n" for row in content)
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(file)

    return write_file


def labelled(labels: list[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text number {i}", "label": label, **more} for i, label in enumerate(labels)]


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
    shared_data: Path,
    name: str,
    rows: int,
    task: str,
    texts: tuple[str, ...],
    label: str | None,
    classes: int,
    metric: str,
) -> None:
    dataset = load_dataset(str(shared_data / name))
    schema = dataset.schema
    assert (len(dataset.examples), schema.task, schema.text_columns) == (rows, task, texts)
    assert (schema.label_column, len(schema.class_names), schema.metric) == (label, classes, metric)
    assert not any(note.startswith("Left out") for note in dataset.notes)
    if classes:
        assert {example.label for example in dataset.examples} == set(range(classes))


def test_raw_files_hold_the_same_examples(shared_data: Path) -> None:
    for raw, same in (
        ("sst2_no_header.tsv", "sst2/validation.jsonl"),
        ("trec_label_first_latin1.txt", "trec/test.jsonl"),
        ("cola_no_header.tsv", "cola/validation.jsonl"),
    ):
        expected = load_dataset(str(shared_data / same)).examples
        assert load_dataset(str(shared_data / "raw" / raw)).examples == expected


def test_evaluation_file_like_training(shared_data: Path) -> None:
    train = load_dataset(str(shared_data / "banking77/train.csv"))
    test = load_dataset(str(shared_data / "banking77/test.csv"), like=train.schema)
    assert test.schema == train.schema
    assert len(test.examples) == 3080


# --- formats ---


def test_every_format_gives_the_same_examples(write: Write) -> None:
    rows = [
        ('He said "no, never", twice', "bad"),
        ("line one\nline two", "good"),
        ("héllo, wörld; ok", "bad"),
    ] * 4
    objects = [{"text": text, "label": label} for text, label in rows]
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in rows]
    files = [
        write("a.jsonl", objects),
        write("a.ndjson", objects),
        write("a.json", json.dumps(objects, indent=1)),
        write("b.json", objects),
        write("unknown.suffix", objects),
        write("crlf.jsonl", "".join(json.dumps(o) + "\r\n" for o in objects)),
        write("bom.jsonl", b"\xef\xbb\xbf" + "".join(json.dumps(o) + "\n\n" for o in objects).encode()),
        *(
            write(
                f"{name}.{suffix}",
                "\n".join([separator.join(["text", "label"]), *map(separator.join, quoted)]),
            )
            for name, suffix, separator in (
                ("comma", "csv", ","),
                ("semicolon", "csv", ";"),
                ("tab", "csv", "\t"),
                ("tab", "tsv", "\t"),
            )
        ),
    ]
    datasets = [load_dataset(file) for file in files]
    assert datasets[0].schema.class_names == ("bad", "good")
    assert datasets[0].examples[1] == Example(texts=("line one\nline two",), label=1)
    for dataset in datasets:
        assert dataset.examples == datasets[0].examples, dataset.source
        assert dataset.fingerprint == datasets[0].fingerprint


def test_tab_separated_bare_quotes_are_plain(write: Write) -> None:
    text = '"Unbalanced he said\t1\nplain text here\t0\nends with one"\t1\n"Quoted," she said\t0\n'
    dataset = load_dataset(write("bare.tsv", text))
    assert [example.texts[0] for example in dataset.examples] == [line[:-2] for line in text.splitlines()]


def test_unicode_line_separators_do_not_break_rows(write: Write) -> None:
    rows = labelled([0, 1])
    rows[0]["text"] = "one\u2028two\x85three\x0bfour"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert load_dataset(write("a.jsonl", lines)).examples[0].texts == (rows[0]["text"],)
    tsv = f"{rows[0]['text']}\t0\nanother text\t1\n" + "more\t0\nrest\t1\n"
    assert load_dataset(write("a.tsv", tsv)).examples[0].texts == (rows[0]["text"],)


def test_latin1_is_noted_with_its_line(write: Write) -> None:
    dataset = load_dataset(write("a.csv", "text,label\nplain,0\ncaf\xe9,1\n".encode("latin-1")))
    assert dataset.examples[1].texts == ("café",)
    assert "Not UTF-8 (first at line 3): read as latin-1." in dataset.notes


def test_half_characters_are_replaced(write: Write) -> None:
    dataset = load_dataset(
        write("a.jsonl", '{"text": "bad \\ud83d end", "label": 0}\n{"text": "b", "label": 1}\n')
    )
    assert dataset.examples[0].texts == ("bad ? end",)


def test_a_huge_cell_is_read(write: Write) -> None:
    huge = "word " * 400_000
    dataset = load_dataset(write("huge.csv", f'text,label\n"{huge}",0\nshort,1\n'))
    assert dataset.examples[0].texts == (huge,)


def test_markup_and_shell_characters_stay_as_they_are(write: Write) -> None:
    text = "[bold]x[/bold] <b> $(rm -rf) `ls` {0} %s"
    assert load_dataset(
        write("a.jsonl", [{"text": text, "label": "[red]"}, {"text": "b", "label": "c"}])
    ).examples[0] == Example(texts=(text,), label=0)


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("text,label\na b c,0\nd e f,1\n", "text, label"),
        ("Comment,Mood\nnice,good\nawful,bad\nfine,good\npoor,bad\n", "Comment, Mood"),
        ("phrase,value7\nsome words,3\nmore words,4\nlast,3\nend,4\n", "phrase, value7"),
        (",text,label\n0,a,x\n1,b,y\n2,c,x\n", "column_1, text, label"),
        (
            "v1,v2,,,\nham,hello there,,,\nspam,win money,,,\nham,see you,,,\nspam,cash prize,,,\n",
            "v1, v2",
        ),
        ("0,1\nsome text,pos\nother text,neg\nthird text,pos\nmore text,neg\n", "0, 1"),
    ],
)
def test_header_is_recognised(write: Write, content: str, columns: str) -> None:
    notes = load_dataset(write("a.csv", content)).notes
    assert any(note.startswith(f"The first line names the columns: {columns}") for note in notes), notes


@pytest.mark.parametrize(
    "content",
    [
        "good film,positive\nbad film,negative\nfine film,positive\npoor film,negative\n",
        "1,some text here\n0,other text here\n1,third text\n0,text four\n",
        "What is text?,question\nSay hi.,command\nWho is it?,question\nGo now.,command\n",
    ],
)
def test_missing_header_is_recognised(write: Write, content: str) -> None:
    dataset = load_dataset(write("a.csv", content))
    assert len(dataset.examples) == 4
    assert any("no header line" in note for note in dataset.notes)


def test_named_columns_settle_the_header(write: Write) -> None:
    file = write("a.csv", "alpha,beta\nalpha,gamma\nbeta,delta\nalpha,gamma\n")
    assert (
        len(load_dataset(file, text_columns=["beta"], label_column="alpha", task="classification").examples)
        == 3
    )
    named = load_dataset(file, text_columns=["column_2"], label_column="column_1")
    assert len(named.examples) == 4


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("5 How far is it ?\n4 Which city ?\n5 How tall ?\n", ("4", "5")),
        ("__label__pos great film\n__label__neg dull film\n", ("neg", "pos")),
        ("NUM:dist How far ?\nHUM:ind Who ?\nNUM:dist How long ?\n", ("HUM:ind", "NUM:dist")),
    ],
)
def test_label_first_lines(write: Write, content: str, classes: tuple[str, ...]) -> None:
    assert load_dataset(write("a.txt", content)).schema.class_names == classes


def test_plain_lines_are_texts(write: Write) -> None:
    dataset = load_dataset(write("a.txt", "Once upon a time.\n\nThere was a model.\n"))
    assert dataset.schema == Schema("causal-lm", ("text",), None, (), "token_accuracy")
    assert [example.completion for example in dataset.examples] == ["Once upon a time.", "There was a model."]


def test_folder(write: Write, tmp_path: Path) -> None:
    write("d/train.csv", "text,label\na,0\nb,1\n")
    train = load_dataset(str(tmp_path / "d"))
    assert "The folder's train.csv is read." in train.notes
    write("d/dev.csv", "text,label\nc,1\n")
    evaluation = load_dataset(str(tmp_path / "d"), like=train.schema)
    assert evaluation.examples == (Example(texts=("c",), label=1),)


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
def test_columns_by_name_or_content(
    write: Write, row: dict[str, Any], texts: tuple[str, ...], label: str
) -> None:
    rows = [
        {k: i % 2 if k == label else f"{v} {i}" if isinstance(v, str) else i for k, v in row.items()}
        for i in range(8)
    ]
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
        ({"input": "p", "output": "c"}, ("input", "output"), Example(prompt="p", completion="c")),
        ({"text": "all of it"}, ("text",), Example(completion="all of it")),
        ({"text": "all", "url": "u", "meta": {"k": 1}}, ("text",), Example(completion="all")),
    ],
)
def test_language_rows(
    write: Write, row: dict[str, Any], columns: tuple[str, ...], expected: Example
) -> None:
    dataset = load_dataset(write("a.jsonl", [row] * 4))
    assert dataset.schema == Schema("causal-lm", columns, None, (), "token_accuracy")
    assert dataset.examples == (expected,) * 4


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


def test_overrides(write: Write) -> None:
    rows = [{"text": f"t {i}", "other": f"o {i}", "label": i % 2, "stars": i % 5} for i in range(20)]
    file = write("a.jsonl", rows)
    chosen = load_dataset(file, text_columns=["other", "text"], label_column="stars", metric="f1")
    assert chosen.schema == Schema(
        "classification", ("other", "text"), "stars", ("0", "1", "2", "3", "4"), "f1"
    )
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
    assert (
        load_dataset(write("gsm8k.jsonl", [{"question": "q", "answer": "a b"}] * 3)).schema.task
        == "causal-lm"
    )


def test_stray_rows_are_counted(write: Write) -> None:
    rows = [
        *labelled([0, 1, 1]),
        {"text": " ", "label": 0},
        {"label": 1},
        {"text": "x"},
        {"text": "y", "label": ""},
    ]
    dataset = load_dataset(write("a.jsonl", rows))
    assert len(dataset.examples) == 3
    assert dataset.notes[-2:] == ("Left out: 2 rows with an empty text.", "Left out: 2 rows without a label.")


def test_a_class_of_dropped_rows_only_is_no_class(write: Write) -> None:
    dataset = load_dataset(write("a.jsonl", [*labelled([0, 1]), {"text": "", "label": 2}]))
    assert dataset.schema.class_names == ("0", "1")


def test_fingerprint_follows_content_not_place(write: Write) -> None:
    one, same = write("a.jsonl", labelled([0, 1])), write("elsewhere/b.json", json.dumps(labelled([0, 1])))
    assert load_dataset(one).fingerprint == load_dataset(same).fingerprint
    assert load_dataset(one).fingerprint != load_dataset(one, metric="f1").fingerprint
    assert load_dataset(one).fingerprint != load_dataset(write("c.jsonl", labelled([1, 0]))).fingerprint


# --- errors: file name, content, options, what the message must say ---

TOKENS = [{"tokens": ["a"], "ner_tags": [0]}]
SQUAD = [{"context": "c", "question": "q", "answers": {"text": ["a"]}}]
ERRORS = [
    ("empty.csv", "", {}, "is empty"),
    ("blank.jsonl", " \n\n", {}, "is empty"),
    ("list.json", "[]", {}, "holds no rows"),
    ("header.csv", "text,label\n", {}, "holds no rows"),
    ("nul.csv", b"text,label\na\0b,1\n", {}, "NUL bytes"),
    ("utf16.csv", "text,label\na,1\n".encode("utf-16"), {}, "NUL bytes"),
    ("a.parquet", b"PAR1", {}, r"\.parquet files are not read yet.*JSONL, JSON, CSV"),
    (
        "bad.jsonl",
        '{"text": "a", "label": 0}\n\n{"text": "b" "label": 1}\n',
        {},
        "line 3 does not parse as JSON",
    ),
    ("cut.json", '[{"text": "a"},\n{"text"', {}, "line 2 does not parse as JSON"),
    ("deep.jsonl", "[" * 100_000, {}, "does not parse as JSON"),
    ("scalar.jsonl", '{"text": "a"}\n5\n', {}, "line 2 is not a JSON object"),
    ("item.json", '[{"text": "a"}, "b"]', {}, "item 2 is not a JSON object"),
    ("many.csv", "text,label\na,0\nb,c,1\n", {}, "line 3 has 3 cells, the first line has 2"),
    ("few.tsv", "text\tlabel\na\t0\nb\n", {}, "line 3 has 1 cells, the first line has 2"),
    ("after.csv", 'text,label\n"two\nlines",0\nb,c,1\n', {}, "line 4 has 3 cells"),
    ("quote.csv", 'text,label\na,0\n"b,1\nc,0\n', {}, "row at line 3 does not parse"),
    ("twice.csv", "text,text,label\na,b,0\nc,d,1\n", {}, "'text' stands twice"),
    ("column.csv", "text,label\na,0\nb,1\n", {"text_columns": ["body"]}, "no column 'body'.*text, label"),
    ("column.csv", "text,label\na,0\nb,1\n", {"label_column": "class"}, "no column 'class'"),
    (
        "same.csv",
        "text,label\na,0\nb,1\n",
        {"text_columns": ["label"], "label_column": "label"},
        "cannot read label",
    ),
    ("one.jsonl", labelled([1, 1, 1]), {}, "every label in column label is '1'"),
    ("flat.jsonl", labelled([0.5, 0.5]), {}, "every label in column label is '0.5'"),
    ("task.jsonl", labelled([0, 1]), {"task": "seq2seq"}, "no task 'seq2seq'.*auto, classification"),
    ("metric.jsonl", labelled([0, 1]), {"metric": "bleu"}, "metric 'bleu' does not apply to classification"),
    ("metric.jsonl", labelled([0, 1]), {"metric": "spearman"}, "Use one of: accuracy, matthews, f1"),
    (
        "mixed.jsonl",
        labelled([0.5, 1.5, "n/a", 2.5]),
        {},
        "line 3: the label 'n/a' in column label is not a finite",
    ),
    ("mixed.csv", "text,label\na,1\nb,0\nc,x\nd,1\n", {}, "line 4: the label 'x'"),
    ("nan.csv", "text,label\na,1.5\nb,0.5\nc,nan\n", {}, "line 4: the label 'nan'"),
    (
        "nan.jsonl",
        '{"text":"a","label":1.5}\n{"text":"b","label":NaN}\n',
        {},
        "line 2: the label NaN is neither",
    ),
    ("inf.jsonl", '{"text":"a","label":1.5}\n{"text":"b","label":1e999}\n', {}, "line 2: the label Infinity"),
    (
        "multi.jsonl",
        labelled([[0, 1], [2]]),
        {},
        "line 1: the label .* several labels a row are not supported",
    ),
    (
        "names.jsonl",
        labelled(["a", "b"]),
        {"task": "regression"},
        "the label 'a' in column label is not a finite",
    ),
    ("free.jsonl", labelled([f"free {i}" for i in range(40)]), {}, "40 names in 40 rows: no classes"),
    (
        "unlabelled.jsonl",
        [{"sentence": "a"}, {"sentence": "b"}],
        {},
        "holds the label cannot be told from: sentence",
    ),
    (
        "dpo.jsonl",
        [{"prompt": "a", "chosen": "b", "rejected": "c"}],
        {},
        "cannot be told from: prompt, chosen",
    ),
    ("numbers.csv", "1,2\n2,1\n1,2\n2,1\n", {}, "which column holds the text cannot be told"),
    (
        "three.jsonl",
        labelled([0, 1], a="x", b="y"),
        {"text_columns": ["text", "a", "b"]},
        "cannot read text, a, b",
    ),
    ("no_text.jsonl", [{"text": "", "label": 0}, {"text": None, "label": 1}], {}, "no usable row"),
    (
        "no_text2.jsonl",
        [{"prompt": "", "completion": "x"}],
        {},
        "no usable row. Left out: 1 row with an empty text",
    ),
    (
        "unanswered.jsonl",
        [{"messages": [turn("user")]}],
        {},
        "no usable row.*without an answer by the assistant",
    ),
    (
        "role.jsonl",
        [{"messages": [{"from": "human", "value": "x"}]}],
        {},
        "line 1: a message lacks role or content",
    ),
    (
        "parts.jsonl",
        [{"messages": [{"role": "user", "content": [{}]}]}],
        {},
        "line 1: column messages holds a list",
    ),
    (
        "nested.jsonl",
        [{"text": {"a": 1}, "label": 0}, {"text": "b", "label": 1}],
        {},
        "column text holds a dict",
    ),
    ("ner.jsonl", TOKENS, {}, "Token classification .*is not supported"),
    ("squad.jsonl", SQUAD, {}, "Extractive question answering .*is not supported"),
    (
        "lm.jsonl",
        labelled([0, 1]),
        {"task": "causal-lm", "label_column": "label"},
        "does not apply to causal-lm",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"), ERRORS, ids=[f"{e[0]}-{e[3][:20]}" for e in ERRORS]
)
def test_errors(write: Write, name: str, content: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_dataset(write(name, content), **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    if not options:
        assert name in caught.value.what


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file or folder"):
        load_dataset(str(tmp_path / "missing.csv"))
    with pytest.raises(BadInput, match=r"holds no train\.jsonl"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(
    "path", ["~nobody-by-this-name/x.csv", "x" * 5000 + ".csv", "a\0b", "http://a/b", "-x", "a/b/c/d"]
)
def test_odd_paths(path: str) -> None:
    with pytest.raises(BadInput, match="no file or folder"):
        load_dataset(path)


def test_unseen_class_and_missing_column_of_an_evaluation_file(write: Write) -> None:
    schema = load_dataset(write("a.jsonl", labelled(["x", "y"]))).schema
    with pytest.raises(
        BadInput, match=r"line 2: the class 'z' is not among the training classes\. They are: x, y"
    ):
        load_dataset(write("b.jsonl", labelled(["x", "z"])), like=schema)
    with pytest.raises(BadInput, match="no column 'label'"):
        load_dataset(write("c.jsonl", [{"text": "a"}]), like=schema)
    assert load_dataset(write("d.jsonl", labelled(["y"])), like=schema).examples[0].label == 1
    values = load_dataset(write("e.jsonl", labelled([0.5, 1.5]))).schema
    with pytest.raises(BadInput, match="line 1: the label 'x' is not a finite number"):
        load_dataset(write("f.jsonl", labelled(["x"])), like=values)


# --- the hub, with a stand-in for the network ---


def test_hub_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*names: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr(datasets, "get_dataset_split_names", offline)
    with pytest.raises(
        BadInput, match=r"no file or folder glue/sst2.*Couldn't reach the Hub \(offline\)"
    ) as caught:
        load_dataset("glue/sst2")
    assert "network" in caught.value.hint


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    rows = {"sentence": ["dull film", "great film", "unlabelled"], "label": [0, 1, -1]}
    asked = []

    def names(repository: str, config: str | None) -> list[str]:
        if config is None:
            raise FileNotFoundError(repository)
        return ["train", "validation", "test"]

    def load(repository: str, config: str | None, split: str) -> Any:
        asked.append((repository, config, split))
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    train = load_dataset("glue/sst2")
    assert train.schema.class_names == ("negative", "positive")
    assert "Left out: 1 row without a label." in train.notes
    load_dataset("nyu-mll/glue/sst2", like=train.schema)
    assert asked == [("glue", "sst2", "train"), ("nyu-mll/glue", "sst2", "validation")]


# --- profiles ---


def test_task_profiles_are_complete() -> None:
    profiles = load_profiles("tasks")
    expected = "alpaca amazon chat cola gsm8k imdb mnli mrpc qnli qqp rte sst2 stsb wnli yelp"
    assert sorted(profiles) == expected.split()
    words: list[str] = []
    for profile in profiles.values():
        assert profile["task"] in TASKS
        assert profile["metric"] in METRICS[profile["task"]]
        assert ("label_column" in profile) == (profile["task"] != "causal-lm")
        words += profile["match"]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "bad.yaml is not readable YAML"), ("- 1", "top level"), ("1: x", "field 1 is not a name")],
)
def test_corrupt_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad.yaml").write_text(content)
    monkeypatch.setattr("advisor.profiles.files", lambda package: tmp_path)
    load_profiles.cache_clear()
    with pytest.raises(BadInput, match=message):
        load_profiles("models")
    with pytest.raises(BadInput, match="no 'nothing' profiles"):
        load_profiles("nothing")
    load_profiles.cache_clear()


def test_reading_imports_nothing_heavy(write: Write) -> None:
    file = write("a.jsonl", labelled([0, 1]))
    code = f"import sys, advisor.data as d; d.load_dataset({file!r}); print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "datasets", "numpy", "pandas"} & set(modules)


# --- splitting and sampling ---


def made_of(labels: list[int], task: str = "classification") -> Dataset:
    examples = tuple(Example(texts=(str(i),), label=label) for i, label in enumerate(labels))
    names = tuple(map(str, range(8))) if task == "classification" else ()
    return Dataset(examples, Schema(task, ("text",), "label", names, METRICS[task][0]), "made", (), "")


many_labels = st.lists(st.integers(0, 7), min_size=20, max_size=120)
seeds = st.integers(0, 2**31)


@given(many_labels, seeds, st.floats(0.01, 0.99), st.sampled_from(["classification", "regression"]))
@settings(max_examples=150, deadline=None)
def test_split_properties(labels: list[int], seed: int, fraction: float, task: str) -> None:
    dataset = made_of(labels, task)
    rest, evaluation = split_evaluation(dataset, seed, fraction)
    assert rest.examples
    assert evaluation.examples
    assert sorted(rest.examples + evaluation.examples, key=lambda e: int(e.texts[0])) == list(
        dataset.examples
    )
    for part in (rest, evaluation):
        order = [int(example.texts[0]) for example in part.examples]
        assert order == sorted(order)
        assert part.schema == dataset.schema
    assert split_evaluation(dataset, seed, fraction) == (rest, evaluation)
    assert rest.fingerprint != evaluation.fingerprint
    if task == "classification":
        assert {e.label for e in rest.examples} == set(labels)
        chosen = Counter(e.label for e in evaluation.examples)
        room = len(set(labels)) + 1  # a class of few rows keeps one, which others may make up for
        for label, size in Counter(labels).items():
            assert abs(chosen[label] - fraction * size) <= room


@given(many_labels, seeds, st.integers(1, 130))
@settings(max_examples=150, deadline=None)
def test_sample_properties(labels: list[int], seed: int, count: int) -> None:
    dataset = made_of(labels)
    sample = sample_rows(dataset, count, seed)
    if count >= len(labels):
        assert sample is dataset
        return
    order = [int(example.texts[0]) for example in sample.examples]
    assert order == sorted(set(order))
    assert len(order) == count
    assert all(dataset.examples[i] == example for i, example in zip(order, sample.examples, strict=True))
    chosen, sizes = Counter(e.label for e in sample.examples), Counter(labels)
    if count >= len(sizes):
        assert set(chosen) == set(sizes)
        if all(count * size >= len(labels) for size in sizes.values()):
            assert all(abs(chosen[c] - count * n / len(labels)) < 1 for c, n in sizes.items())
    assert sample_rows(dataset, count, seed) == sample


def test_split_is_proportional() -> None:
    _, evaluation = split_evaluation(made_of([0] * 700 + [1] * 200 + [2] * 100), seed=0)
    assert Counter(e.label for e in evaluation.examples) == {0: 70, 1: 20, 2: 10}


def test_seed_changes_the_draw() -> None:
    dataset = made_of([0, 1] * 50)
    assert sample_rows(dataset, 30, 0).examples != sample_rows(dataset, 30, 1).examples
    assert split_evaluation(dataset, 0)[1] != split_evaluation(dataset, 1)[1]


@pytest.mark.parametrize("labels", [[0, 1] * 9 + [0], list(range(20))])
def test_too_few_rows_to_split(labels: list[int]) -> None:
    with pytest.raises(BadInput, match="too few to split"):
        split_evaluation(made_of(labels), seed=0)


def test_impossible_fraction_and_count() -> None:
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="between 0 and 1"):
            split_evaluation(made_of([0, 1] * 20), 0, fraction)
    with pytest.raises(BadInput, match="At least one row"):
        sample_rows(made_of([0, 1] * 20), 0, 0)
