"""Data files of any form from a seed: cells, rows, conversations, encodings, containers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

from campaign.damage import CELLS, damaged

WORDS = ("red", "blue", "cat", "dog", "tree", "house", "ran", "slept", "happy", "sad")
COLUMNS = (
    *("text", "label", "sentence1", "sentence2", "prompt", "completion", "messages", "conversations", "instruction", "output"),
    *(
        "tokens",
        "ner_tags",
        "chosen",
        "rejected",
        "image",
        "score",
        "id",
        "toxic",
        "obscene",
        "a\nb",
        "",
        "\u202e",
        "tools",
        "question",
    ),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1", "utf-16-le", "shift_jis")


def _words(random: Random) -> str:
    return " ".join(random.choice(WORDS) for _ in range(random.randint(1, 9)))


def _json_text(value: Any) -> str:
    return json.dumps(value, default=lambda v: v.decode("latin-1"))


def _turns(random: Random) -> list[Any]:
    """A conversation, mostly a sound one."""
    turns: list[Any] = []
    for i in range(random.randint(0, 4)):
        turn: dict[str, Any] = {"role": ("user", "assistant")[i % 2], "content": _words(random)}
        if random.random() < 0.2:
            turn["role"] = random.choice(["system", "tool", "human", "gpt", "", None, 3, "\x1b"])
        if random.random() < 0.2:
            turn["content"] = random.choice([None, "", [{"type": "text", "text": "x"}], [{"type": "image"}], [], 3, {"a": 1}])
        if random.random() < 0.1:
            turn["tool_calls"] = [{"function": {"name": "f", "arguments": "{}"}}]
        turns.append(turn if random.random() < 0.95 else random.choice([None, "x", [], 3]))
    return turns


def rows(random: Random) -> list[dict[str, Any]]:
    """Rows of a few columns, a share of the cells odd."""
    names = random.sample(COLUMNS, random.randint(1, 4))
    if random.random() < 0.8:
        names = random.choice(
            [
                ["text", "label"],
                ["messages"],
                ["prompt", "completion"],
                ["text", "toxic", "obscene"],
                ["sentence1", "sentence2", "score"],
                ["tokens", "ner_tags"],
                ["prompt", "chosen", "rejected"],
                ["chosen", "rejected"],
                ["anchor", "positive"],
                ["query", "positive", "negative"],
            ]
        )
    odd = random.choice([0, 0, 0, 0.01, 0.1, 1])
    labels = random.choice(
        [(0, 1), ("a", "b", "c"), (0.5, 1.5, 2.25), (1e308, -1e308, 0.5), (True, False), (3,), tuple(range(60))]
    )
    made, in_turns = [], random.random() < 0.5
    for _ in range(random.choice([0, 1, 3, 5, 19, 30, 40, 40, 60, 60])):
        row: dict[str, Any] = {}
        for name in names:
            row[name] = _cell(random, name, labels, in_turns)
            if random.random() < odd:
                row[name] = random.choice(CELLS)
        if random.random() < odd / 4 and row:
            row.pop(random.choice(list(row)))
        made.append(row)
    return made


def _cell(random: Random, name: str, labels: tuple[Any, ...], in_turns: bool) -> Any:
    """What a column of that name mostly holds; pairs of answers are texts, or conversations where they are ``in_turns``."""
    if name in ("messages", "conversations") or (name in ("chosen", "rejected") and in_turns):
        return _turns(random)
    if name in ("label", "score", "toxic", "obscene"):
        return random.choice(labels)
    if name in ("tokens", "ner_tags"):
        many = 5 if random.random() < 0.9 else random.randint(0, 6)
        return [random.choice(WORDS if name == "tokens" else labels) for _ in range(many)]
    return _words(random)


def data_file(random: Random, folder: Path) -> Path:
    """A file or folder of rows in any form, damaged now and then."""
    kind = random.choice(["jsonl", "jsonl", "json", "csv", "tsv", "txt", "parquet", "folder", "odd"])
    found, encoding = rows(random), random.choice(ENCODINGS) if random.random() < 0.4 else "utf-8"
    if kind == "odd":
        return _odd_place(random, folder)
    place = folder / f"data.{kind}" if kind != "folder" else folder / "train.jsonl"
    if kind == "parquet":
        content = _parquet(random, found)
    elif kind in ("csv", "tsv"):
        content = _delimited(random, found, "," if kind == "csv" else "\t").encode(encoding, "replace")
    elif kind == "json":
        content = _json_text(_document(random, found)).encode(encoding, "replace")
    elif kind == "txt":
        content = "\n".join(str(random.choice(CELLS)) for _ in range(30)).encode(encoding, "replace")
    else:
        content = "".join(_json_text(row) + "\n" for row in found).encode(encoding, "replace")
    if random.random() < 0.2:
        content = damaged(random, content)
    if random.random() < 0.1:
        place, content = place.with_name(place.name + ".gz"), gzip.compress(content)
        content = damaged(random, content) if random.random() < 0.5 else content
    place.write_bytes(content)
    return folder if kind == "folder" else place


def _odd_place(random: Random, folder: Path) -> Path:
    place = folder / random.choice(["data.jsonl", "train", "data.csv", "data.parquet", "x\x1b[31m.jsonl", "data.xlsx"])
    kind = random.choice(["fifo", "zero", "folder", "nothing", "empty", "link"])
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "zero":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
        if random.random() < 0.5:
            os.mkfifo(place / "train.jsonl")
    elif kind == "empty":
        place.write_bytes(b"")
    elif kind == "link":
        place.symlink_to(place)
    return place


def _document(random: Random, found: list[dict[str, Any]]) -> Any:
    """Rows as pandas and others lay them out in one JSON document."""
    names = list(found[0]) if found else ["text"]
    columns = {name: [row.get(name) for row in found] for name in names}
    return random.choice(
        [
            found,
            columns,
            {name: {str(i): value for i, value in enumerate(values)} for name, values in columns.items()},
            {str(i): row for i, row in enumerate(found)},
            {"columns": names, "index": list(range(len(found))), "data": [[row.get(name) for name in names] for row in found]},
            {"data": found, "version": 1},
            {"data": {"train": found}},
            random.choice(CELLS),
            [[row] for row in found],
            {name: values[: random.randint(0, len(values))] for name, values in columns.items()},
        ]
    )


def _delimited(random: Random, found: list[dict[str, Any]], delimiter: str) -> str:
    stream = io.StringIO()
    writer = csv.writer(
        stream, delimiter=random.choice([delimiter, delimiter, ";"]), quoting=random.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    )
    if found and random.random() < 0.8:
        writer.writerow(list(found[0]))
    for row in found:
        writer.writerow([str(value) for value in row.values()])
    return stream.getvalue()


def _parquet(random: Random, found: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    stream = pa.BufferOutputStream()
    count = max(len(found), 3)
    odd = {
        "bytes": pa.array([b"a\xff"] * count, pa.binary()).view(pa.utf8()),
        "far": pa.array([2**62] * count, pa.int64()).view(pa.timestamp(random.choice(["us", "ns"]))),
        "days": pa.array([2**30] * count, pa.int32()).view(pa.date32()),
        "text": pa.array([f"red {i}" for i in range(count)]),
        "label": pa.array([i % 3 for i in range(count)]),
        "nested": pa.array([[{"a": i}] for i in range(count)]),
        "empty": pa.nulls(count),
    }
    names = ["text", "label", *random.sample(list(odd), 1)] if random.random() < 0.7 else random.sample(list(odd), 3)
    parquet.write_table(
        pa.table([odd[name] for name in names], names=names if random.random() < 0.9 else ["text"] * len(names)), stream
    )
    return stream.getvalue().to_pybytes()
