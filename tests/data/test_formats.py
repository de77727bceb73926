"""Every format a row can stand in, and what a file that cannot be used is told."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq
from rowfiles import Write, labelled

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset
from advisor.data.examples import Example
from advisor.data.schema import Schema
from advisor.data.tables import read_table


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


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.csv.gz"])
@pytest.mark.parametrize(
    ("head", "separator"), [("sep=;", ";"), ('"sep=;"', ";"), ("SEP=|", "|"), ("sep=,", ","), ("sep=\t", "\t"), ("sep=^^", "^")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_that_excel_wants_named_is_taken(write: Write, name: str, head: str, separator: str, end: str) -> None:
    rows = [(f"number {i}: a; b | c, d", f"{i % 2}") for i in range(6)]
    lines = [head, separator.join(("text", "label")), *(separator.join((f'"{text}"', label)) for text, label in rows)]
    content = (end.join(lines) + end).encode("utf-8-sig")
    read = load_dataset(write(name, gzip.compress(content) if name.endswith("gz") else content))
    assert [(e.texts[0], str(e.label)) for e in read.examples] == rows
    content = (end.join([*lines[:4], separator.join("abc")]) + end).encode()
    with pytest.raises(BadInput, match="line 5 has 3 cells"):
        load_dataset(write(name, gzip.compress(content) if name.endswith("gz") else content))
    for empty in (head, head + end):
        with pytest.raises(BadInput, match="holds no rows"):
            load_dataset(write("empty.csv", empty))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["", "label{} text\n"])
def test_blanks_before_quotes_are_skipped(write: Write, separator: str, head: str) -> None:
    texts = [f"a{separator} b", "plain", 'say "it"', "two\nlines", f'end{separator} "', f'"{separator} head'] * 4
    quoted = (text if text == "plain" else f'"{text.replace(chr(34), chr(34) * 2)}"' for text in texts)
    rows = "".join(f"{i % 2}{separator} {text}\n" for i, text in enumerate(quoted))
    dataset = load_dataset(write("a.tsv" if separator == "\t" else "a.csv", head.format(separator) + rows))
    assert [(e.texts[0], e.label) for e in dataset.examples] == [(text, i % 2) for i, text in enumerate(texts)]
    assert "Blanks at the head of cells are left out: some stand before quotes." in dataset.notes


@pytest.mark.parametrize("text", ['said, ""no"" to me', 'said, """"no', "a, ", 'some; ""quoted""'])
def test_blanks_stay_where_none_stands_before_a_quoted_cell(write: Write, text: str) -> None:
    content = "prompt,completion\n" + f'"{text}", yes\n' * 3
    wanted = (text.replace('""', '"'), " yes")
    assert [(e.prompt, e.completion) for e in load_dataset(write("a.csv", content)).examples] == [wanted] * 3


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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "csv.gz"])
def test_byte_order_marks(write: Write, encoding: str, suffix: str) -> None:
    rows = [{"text": f"„Größe“ {i} 😀", "label": str(i % 2)} for i in range(6)]
    if suffix == "json":
        text = json.dumps(rows, ensure_ascii=False)
    elif suffix == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        separator = "\t" if suffix == "tsv" else ","
        text = "".join(f"{row['text']}{separator}{row['label']}\r\n" for row in [{"text": "text", "label": "label"}, *rows])
    data = (codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b"") + text.encode(encoding)
    dataset = load_dataset(write(f"a.{suffix}", gzip.compress(data) if suffix.endswith("gz") else data))
    assert [e.texts[0] for e in dataset.examples] == [row["text"] for row in rows]
    assert any("byte-order mark" in note for note in dataset.notes) == (encoding != "utf-8-sig")


def test_lines_that_are_not_utf8_are_cp1252(write: Write) -> None:
    lines = [b"text,label", "caf\xe9 “quoted” 5 €".encode("cp1252"), "naïve".encode(), b"odd \x81", b"plain"]
    content = b"\n".join([lines[0], *(line + b",%d" % (i % 2) for i, line in enumerate(lines[1:]))]) + b"\n"
    dataset = load_dataset(write("a.csv", content))
    assert [e.texts[0] for e in dataset.examples] == ["café “quoted” 5 €", "naïve", "odd \x81", "plain"]
    assert "2 lines are not UTF-8 (first: line 2): read as cp1252." in dataset.notes


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.tsv.gz", "a.JSON.gz"])
def test_compressed_files(write: Write, name: str) -> None:
    rows = labelled([0, 1, 0, 1])
    separator = "\t" if "tsv" in name else ","
    delimited = "".join(f"{row['text']}{separator}{row['label']}\n" for row in [{"text": "text", "label": "label"}, *rows])
    content = json.dumps(rows) if "json" in name.lower() else delimited
    if "jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in rows)
    examples = load_dataset(write(name, gzip.compress(content.encode()))).examples
    assert examples == load_dataset(write("plain.jsonl", rows)).examples


def test_parquet(tmp_path: Path, write: Write) -> None:
    rows = labelled([0, 1, 0, 1], when=date(2024, 1, 2), price=Decimal("1.5"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    dataset = load_dataset(str(tmp_path / "a.parquet"))
    assert dataset.examples == load_dataset(write("a.jsonl", labelled([0, 1, 0, 1]))).examples
    assert load_dataset(str(tmp_path / "a.parquet"), text_columns=["when"]).examples[0].texts == ("2024-01-02",)


def test_parquet_keeps_class_names(tmp_path: Path) -> None:
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    table = pa.Table.from_pylist([{"text": f"t {i}", "label": i % 2} for i in range(6)] + [{"text": "hidden", "label": -1}])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    dataset = load_dataset(str(tmp_path / "a.parquet"))
    assert dataset.schema.class_names == ("neg", "pos")
    assert "Left out: 1 row without a label." in dataset.notes


def test_parquet_with_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}] * 3), tmp_path / "a.parquet")
    dataset = load_dataset(str(tmp_path / "a.parquet"))
    assert dataset.examples[0].messages == (("user", "hi"), ("assistant", "yes"))


def test_a_list_inside_an_object(write: Write) -> None:
    document = {"version": "1", "data": labelled([0, 1, 0, 1])}
    for name, indent in (("one_line.json", None), ("pretty.json", 2)):
        dataset = load_dataset(write(name, json.dumps(document, indent=indent)))
        assert len(dataset.examples) == 4
        assert "The rows are the list 'data'." in dataset.notes


@pytest.mark.parametrize("indent", [None, 2])
def test_parts_of_equal_length_inside_an_object(write: Write, indent: int | None) -> None:
    parts = {"test": labelled([1, 0, 1, 1]), "train": labelled([0, 1, 0, 1]), "validation": labelled([1, 1, 0, 0])}
    file = write("parts.json", json.dumps(parts, indent=indent))
    train = load_dataset(file)
    assert [e.label for e in train.examples] == [0, 1, 0, 1]
    assert "The rows are the list 'train'; not read: 'test', 'validation'." in train.notes
    assert [e.label for e in load_dataset(file, like=train.schema).examples] == [1, 1, 0, 0]
    broken = json.dumps(parts).replace("}, {", "},\n{")  # at another place than json.dumps does
    assert load_dataset(write("broken.json", broken)).examples == train.examples
    del parts["validation"]
    file = write("parts.json", json.dumps({**parts, "version": "1"}, indent=indent))
    assert [e.label for e in load_dataset(file, like=train.schema).examples] == [1, 0, 1, 1]


@pytest.mark.parametrize("indent", [None, 2])
def test_one_row_alone_in_a_json_file(write: Write, indent: int | None) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    for row in ({"messages": turns}, {"prompt": turns[:1], "completion": turns[1:]}, {"messages": turns, "id": 1}):
        assert len(load_dataset(write("a.json", json.dumps(row, indent=indent))).examples) == 1


def test_columns_may_hold_objects(write: Write) -> None:
    columns = {"question": ["q", "r"], "context": ["a b", "c d"], "answers": [{"text": ["b"]}, {"text": ["c"]}]}
    assert [e.span for e in load_dataset(write("a.json", json.dumps(columns))).examples] == [(2, 3), (0, 1)]


def test_carriage_returns_end_rows(write: Write) -> None:
    dataset = load_dataset(write("a.csv", "text,label\ra b c,0\rd e f,1\r"))
    assert [e.texts[0] for e in dataset.examples] == ["a b c", "d e f"]


def test_half_characters_are_replaced(write: Write) -> None:
    dataset = load_dataset(write("a.jsonl", '{"text": "bad \\ud83d end", "label": 0}\n{"text": "b", "label": 1}\n'))
    assert dataset.examples[0].texts == ("bad ? end",)


def test_a_huge_cell_is_read(write: Write) -> None:
    huge = "word " * 400_000
    dataset = load_dataset(write("huge.csv", f'text,label\n"{huge}",0\nshort,1\n'))
    assert dataset.examples[0].texts == (huge,)


def test_markup_and_shell_characters_stay_as_they_are(write: Write) -> None:
    text = "[bold]x[/bold] <b> $(rm -rf) `ls` {0} %s"
    assert load_dataset(write("a.jsonl", [{"text": text, "label": "[red]"}, {"text": "b", "label": "c"}])).examples[0] == Example(
        texts=(text,), label=0
    )


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
        ("anchor,positive\nq one,a one\nq two,a two\n", "anchor, positive"),
        ("Prompt,chosen,rejected\nq one,a,b\nq two,c,d\n", "Prompt, chosen, rejected"),
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
    assert len(load_dataset(file, text_columns=["beta"], label_column="alpha", task="classification").examples) == 3
    named = load_dataset(file, text_columns=["column_2"], label_column="column_1")
    assert len(named.examples) == 4


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("5 How far is it ?\n4 Which city ?\n5 How tall ?\n", ("4", "5")),
        ("__label__pos great film\n__label__neg dull film\n", ("neg", "pos")),
        ("great film __label__pos\ndull __label__neg film\n", ("neg", "pos")),
        ("NUM:dist How far ?\nHUM:ind Who ?\nNUM:dist How long ?\n", ("HUM:ind", "NUM:dist")),
    ],
)
def test_label_first_lines(write: Write, content: str, classes: tuple[str, ...]) -> None:
    assert load_dataset(write("a.txt", content)).schema.class_names == classes


def test_a_label_of_fasttext_is_no_part_of_the_text(write: Write) -> None:
    lines = ["__label__pos great film", "dull film __label__neg", "a film without one"]
    dataset = load_dataset(write("a.txt", "\n".join(lines * 8)))
    assert [(e.texts[0], e.label) for e in dataset.examples[:3]] == [("great film", 1), ("dull film", 0), ("great film", 1)]
    assert "Left out: 8 rows without a label." in dataset.notes


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


def test_shards_are_one_table(write: Write, tmp_path: Path) -> None:
    rows = labelled([0, 1] * 6)
    for i in range(3):
        write(f"d/data/train-0000{i}-of-00003.jsonl", rows[4 * i : 4 * i + 4])
    pq.write_table(pa.Table.from_pylist(labelled([1, 0])), tmp_path / "d" / "data" / "validation-00000-of-00001-a0b1c2.parquet")
    train = load_dataset(str(tmp_path / "d"))
    assert train.examples == load_dataset(write("all.jsonl", rows)).examples
    assert "The folder's 3 shards train-00000-of-00003.jsonl, … are read." in train.notes
    evaluation = load_dataset(str(tmp_path / "d"), like=train.schema)
    assert [e.label for e in evaluation.examples] == [1, 0]
    one = load_dataset(str(tmp_path / "d" / "data" / "train-00001-of-00003.jsonl"))
    assert "This is one of 3 shards; name its folder to read all." in one.notes


def test_shards_stand_in_the_order_of_their_numbers(write: Write, tmp_path: Path) -> None:
    rows = labelled([0, 1] * 11)
    for i in range(11):  # as some programs number them: from 1, and 10 before 2 by name
        write(f"d/train-{i + 1}-of-11.jsonl", rows[2 * i : 2 * i + 2])
    assert load_dataset(str(tmp_path / "d")).examples == load_dataset(write("all.jsonl", rows)).examples


def test_rows_of_shards_are_told_apart(write: Write, tmp_path: Path) -> None:
    write("d/train-00000-of-00002.csv", "text,label\na,0\nb,1\n")
    write("d/train-00001-of-00002.csv", "text,label\na,0\nb,1,2\n")
    with pytest.raises(BadInput, match=r"train-00001-of-00002\.csv, line 3 has 3 cells"):
        load_dataset(str(tmp_path / "d"))


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text
)


@given(st.lists(st.tuples(cells, st.sampled_from(["pos", "neg"])), min_size=4, max_size=12), st.sampled_from(["utf-8", "utf-16"]))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(tmp_path: Path, rows: list[tuple[str, str]], encoding: str) -> None:
    """Any text, quoted as csv.writer does, or as JSON: the cells come back as they were, at the lines they stand in."""
    rows = [*rows, ("some text", "pos"), ("other text", "neg")]
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    (tmp_path / "a.csv").write_bytes(stream.getvalue().encode(encoding))
    lines = "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode(encoding))
    for name in ("a.csv", "a.jsonl"):
        table = read_table(str(tmp_path / name), ["text"])
        assert [(row["text"], row["label"]) for row in table.rows] == rows
        assert table.total == len(rows)
