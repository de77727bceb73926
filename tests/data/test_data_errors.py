"""Files that cannot be used: what the message must say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from rowfiles import Write, labelled

from advisor.core.errors import BadInput
from advisor.core.tasks import TASKS
from advisor.data.dataset import load_dataset
from advisor.data.files import MAX_LINE
from advisor.data.tables import read_table

# --- errors: file name, content, options, what the message must say ---

SPANS = [{"text": "a", "entities": [{"start": 0, "end": 1}]}]
SQUAD = [{"context": "c", "question": "q", "answers": {"text": [5]}}]
ERRORS = [
    ("empty.csv", "", {}, "is empty"),
    ("blank.jsonl", " \n\n", {}, "is empty"),
    ("list.json", "[]", {}, "holds no rows"),
    ("header.csv", "text,label\n", {}, "holds no rows"),
    ("nul.csv", b"text,label\na\0b,1\n", {}, "NUL bytes"),
    ("utf16.csv", "text,label\na,1\n".encode("utf-16-le"), {}, "line 1 holds NUL bytes"),
    ("half.csv", "text,label\na,1\n".encode("utf-16")[:-1], {}, "is not valid utf-16"),
    ("a.xlsx", b"PK", {}, r"\.xlsx files are not read.*JSONL, JSON, CSV"),
    ("a.parquet", b"PAR1", {}, "cannot be read as Parquet"),
    ("a.csv.gz", b"text,label\n", {}, "cannot be read: Not a gzipped file"),
    ("cut.csv.gz", gzip.compress(b"text,label\na,0\nb,1\n" * 9)[:-12], {}, "cannot be read: Compressed file ended"),
    ("huge.jsonl", '{"text": "' + "x" * MAX_LINE + '"}\n', {}, "line 1 is longer than 16 MiB: no row of text"),
    (
        "huge.csv",
        'text,label\na,0\n"' + ("x" * 1023 + "\n") * (MAX_LINE // 1024 + 1) + '",1\n',
        {},
        "row at line 3 does not parse: field larger",
    ),
    ("list_of_names.json", '{"data": ["a"]}', {}, "item 1 is not a JSON object"),
    (
        "bad.jsonl",
        '{"text": "a", "label": 0}\n\n{"text": "b" "label": 1}\n',
        {},
        "line 3 does not parse as JSON",
    ),
    (
        "repeated.jsonl",
        '{"text": "a", "label": 0}\n\n{"text": "b", "label": 1, "label": 0}\n',
        {},
        "line 3: the key 'label' is there twice, with 1 and 0",
    ),
    ("repeated.json", '[{"text": "a",\n"text": "b"}]', {}, "repeated.json: the key 'text' is there twice, with .a. and"),
    ("repeated2.json", '{"train": [{"text": "a"}], "train": []}', {}, "the key 'train' is there twice"),
    (
        "inner.jsonl",
        '{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}\n',
        {},
        "line 1: the key 'role' is there twice",
    ),
    (
        "parts.json",
        json.dumps({"one": labelled([0, 1]), "two": labelled([1, 0])}),
        {},
        r"parts.json holds lists of rows whose names do not say what they are for: one \(2\), two \(2\).*'train'",
    ),
    ("part.json", json.dumps({"one": labelled([0, 1])}, indent=1), {}, r"lists of rows whose names do not say .*: one \(2\)"),
    (
        "columns.json",
        '{"text": ["a", "b", "c"], "label": [0, 1]}',
        {},
        r"columns.json holds columns of unequal length: text \(3\), label \(2\)",
    ),
    ("column.json", '{"text": ["a", "b", "c"]}', {}, r"column.json holds one list, text \(3\), of values that are no rows"),
    ("column2.json", json.dumps({"text": ["a", "b"]}, indent=1), {}, r"holds one list, text \(2\), of values that are no rows"),
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
        "column label cannot be text and label at once",
    ),
    ("one.jsonl", labelled([1, 1, 1]), {}, "every label in column label is '1'"),
    ("flat.jsonl", labelled([0.5, 0.5]), {}, "every label in column label is '0.5'"),
    ("task.jsonl", labelled([0, 1]), {"task": "tagging"}, "no task 'tagging'.*auto, classification"),
    ("metric.jsonl", labelled([0, 1]), {"metric": "bleu"}, "metric 'bleu' does not apply to classification"),
    ("metric.jsonl", labelled([0, 1]), {"metric": "spearman"}, "Use one of: accuracy, matthews, f1"),
    (
        "mixed.jsonl",
        labelled([0.5, 1.5, "n/a", 2.5]),
        {},
        "line 3: the label 'n/a' in column label is not a finite",
    ),
    ("mixed.csv", "text,label\na,1\nb,0\nc,x\nd,1\n", {}, "line 4: the label 'x'"),
    (
        "nan.csv",
        "text,label\na,None\nb,1\nc,1\n",
        {},
        "every label in column label is '1'. Read as missing in column label: 'None' .1.; written as JSONL these are texts",
    ),
    ("nan2.csv", "text,label\na,nan\nb,nan\n", {}, "none has all of text and label. Read as missing in column label: 'nan' .2."),
    (
        "list.csv",
        "text,label\na,\"['a', 'b']\"\nb,['a']\n",
        {},
        "line 2: the label .'a', 'b'. in column label is a list of labels",
    ),
    ("list2.jsonl", labelled(["a", '["a"]', "b"]), {}, "line 2: the label .* several labels a row are not supported"),
    ("list3.jsonl", labelled(["[0 1 0]", "[1 0 0]"]), {}, "line 1: the label .* several labels a row are not supported"),
    ("list4.jsonl", labelled(["{'a', 'b'}", "{'a'}"]), {}, "line 1: the label .* several labels a row are not supported"),
    ("fast.csv", "text,label\na,__label__x\nb,__label__x __label__y\n", {}, "line 3: .* several labels a row are not supported"),
    ("fast.txt", "__label__a one text\n__label__a __label__c some text\n", {}, "line 2 has 2 labels: a, c.*not supported"),
    ("after.txt", "one text __label__a\nsome text __label__a __label__c\n", {}, "line 2 has 2 labels: a, c.*not supported"),
    ("blank.csv", 'label,text\n0, "a, b"\n1, c, d\n', {}, "line 2 has 3 cells.*Quote .* without a blank before the quote"),
    ("blank2.csv", 'label,text\n0,"a, b" \n1,c\n', {}, "line 2 does not parse.*its last one stands right before ','"),
    ("nan.jsonl", '{"text":"a","label":NaN}\n{"text":"b","label":NaN}\n', {}, "no usable row: none has all of text and label"),
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
        [{"prompt": "a", "response_a": "b", "response_b": "c"}],
        {},
        "Preference data without a chosen and a rejected answer .columns response_a and response_b. is not supported",
    ),
    ("numbers.csv", "1,2\n2,1\n1,2\n2,1\n", {}, "which column holds the text cannot be told"),
    (
        "three.jsonl",
        labelled([0, 1], a="x", b="y"),
        {"text_columns": ["text", "a", "b"]},
        "one or two columns of text, not 3",
    ),
    ("no_text.jsonl", [{"text": "", "label": 0}, {"text": None, "label": 1}], {}, "no usable row"),
    (
        "no_text2.jsonl",
        [{"prompt": "x", "completion": ""}],
        {},
        "no usable row. Left out: 1 row with an empty text",
    ),
    (
        "unanswered.jsonl",
        [{"messages": [{"role": "user", "content": "words"}]}],
        {},
        "no usable row.*without an answer by the assistant",
    ),
    (
        "role.jsonl",
        [{"messages": [{"from": "human", "content": "x"}]}],
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
    ("ner.jsonl", SPANS, {}, "Token classification by spans .*is not supported"),
    (
        "squad.json",
        '{"version": 1, "data": [{"title": "t", "paragraphs": []}]}',
        {},
        "SQuAD's own nested form .*Write one row for each question",
    ),
    ("mc.jsonl", [{"question": "q", "choices": ["a"], "answerKey": "A"}], {}, "Multiple choice .* is not supported"),
    ("wmt.jsonl", [{"translation": {"de": "a", "en": "b"}}], {}, r"Translation \(column translation\) is not supported"),
    ("squad.jsonl", SQUAD, {}, "line 1: answers is no answer"),
    ("lm.jsonl", labelled([0, 1]), {"task": "seq2seq"}, "only text is there to be read.*--text-column SOURCE --label-column"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), ERRORS, ids=[f"{e[0]}-{e[3][:20]}" for e in ERRORS])
def test_errors(write: Write, name: str, content: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_dataset(write(name, content), **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    if not options:
        assert name in caught.value.what


@pytest.mark.parametrize("task", ["auto", *TASKS])
@pytest.mark.parametrize("columns", ["cc", "cpc", "ppc"])
def test_a_column_named_twice_is_refused_for_every_task(write: Write, task: str, columns: str) -> None:
    file = write("a.jsonl", [{"p": f"ask {i}", "c": f"say {i}", "m": i % 2} for i in range(24)])
    with pytest.raises(BadInput, match=f"column {max(columns, key=columns.count)} would be read twice"):
        load_dataset(file, task=task, text_columns=list(columns))


@pytest.mark.parametrize("task", ["causal-lm", "seq2seq", "kto"])
def test_a_label_that_is_also_a_prompt_is_refused(write: Write, task: str) -> None:
    file = write("a.jsonl", [{"p": f"ask {i}", "c": f"say {i}", "m": i % 2} for i in range(24)])
    with pytest.raises(BadInput, match="column m would be read twice"):
        load_dataset(file, task=task, text_columns=["m", "c"], label_column="m")


def test_a_shard_that_is_missing(write: Write, tmp_path: Path) -> None:
    write("d/train-00000-of-00002.jsonl", labelled([0, 1]))
    with pytest.raises(BadInput, match=r"of 2 shards of train\.jsonl only 1 are there"):
        load_dataset(str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("00000-of-00002.jsonl", "00000-of-00002.jsonl.gz"),
            r"number 0 is there twice: .*-00002\.jsonl and .*-00002\.jsonl\.gz",
        ),
        (("00001-of-00002-ab.jsonl", "00001-of-00002-cd.jsonl"), "number 1 is there twice"),
        (("0-of-2.jsonl", "00000-of-00002.jsonl", "1-of-2.jsonl"), "number 0 is there twice"),
        (("00000-of-00002.jsonl", "00005-of-00002.jsonl"), "only 1 are there; number 1 is not"),
        (("00002-of-00003.jsonl", "00003-of-00003.jsonl"), "only 2 are there; number 1 is not"),
        (("00000-of-00002.jsonl", "00001-of-00002.jsonl", "00002-of-00002.jsonl"), "train-00002-of-00002.jsonl is beyond them"),
    ],
)
def test_shards_that_are_not_the_whole(write: Write, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    for name in names:
        lines = "".join(json.dumps(row) + "\n" for row in labelled([0, 1]))
        write(f"d/train-{name}", gzip.compress(lines.encode()) if name.endswith("gz") else lines)
    with pytest.raises(BadInput, match=message):
        load_dataset(str(tmp_path / "d"))


def test_a_test_file_whose_labels_are_hidden(write: Write, tmp_path: Path) -> None:
    write("d/train.jsonl", labelled([0, 1] * 4))
    write("d/test.jsonl", labelled([None] * 3))
    train = load_dataset(str(tmp_path / "d"))
    with pytest.raises(BadInput, match=r"test\.jsonl has no usable row.*3 rows without a label.*--eval-data"):
        load_dataset(str(tmp_path / "d"), like=train.schema)


@pytest.mark.parametrize("name", ["caf\udce9.jsonl", "caf\udce9/train.jsonl", "half \ud83d.jsonl"])
def test_a_name_that_is_not_utf8_is_refused_before_the_work_starts(write: Write, tmp_path: Path, name: str) -> None:
    if "\ud83d" not in name:  # which no file can be called
        write(name, labelled([0, 1] * 4))
    train = load_dataset(write("a.jsonl", labelled([0, 1])))
    for path in (str(tmp_path / name), str((tmp_path / name).parent)) if "/" in name else (str(tmp_path / name),):
        with pytest.raises(BadInput, match=r"half \\ud83d|caf\\udce9.* is not UTF-8") as refused:
            load_dataset(path)
        str(refused.value).encode()
        with pytest.raises(BadInput, match="is not UTF-8"):
            load_dataset(path, like=train.schema)
        with pytest.raises(BadInput, match="is not UTF-8"):
            read_table(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file or folder"):
        load_dataset(str(tmp_path / "missing.csv"))
    with pytest.raises(BadInput, match=r"holds no train\.jsonl"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("path", ["~nobody-by-this-name/x.csv", "x" * 5000 + ".csv", "a\0b", "http://a/b", "-x", "a/b/c/d"])
def test_odd_paths(path: str) -> None:
    with pytest.raises(BadInput, match="no file or folder"):
        load_dataset(path)


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="a file of Linux")
def test_a_file_of_the_kernel_is_not_waited_for() -> None:
    with pytest.raises(BadInput, match="/proc/kmsg is empty"):
        load_dataset("/proc/kmsg")


def test_unseen_class_and_missing_column_of_an_evaluation_file(write: Write) -> None:
    schema = load_dataset(write("a.jsonl", labelled(["x", "y"]))).schema
    with pytest.raises(BadInput, match=r"line 2: the class 'z' is not among the training classes\. They are: x, y"):
        load_dataset(write("b.jsonl", labelled(["x", "z"])), like=schema)
    with pytest.raises(BadInput, match="no column 'label'"):
        load_dataset(write("c.jsonl", [{"text": "a"}]), like=schema)
    assert load_dataset(write("d.jsonl", labelled(["y"])), like=schema).examples[0].label == 1
    values = load_dataset(write("e.jsonl", labelled([0.5, 1.5]))).schema
    with pytest.raises(BadInput, match="line 1: the label 'x' is not a finite number"):
        load_dataset(write("f.jsonl", labelled(["x"])), like=values)
