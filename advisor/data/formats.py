"""Rows of one file of any format, one at a time: what separates them, whether they have a header, where each stands."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput, loading
from advisor.core.text import printable
from advisor.data.files import FORMATS, JSON_SUFFIXES, MAX_LINE, OTHER_SUFFIXES, TEXT_SUFFIXES, Rows, TextFile, suffix_of
from advisor.data.hub import with_class_names
from advisor.data.json_rows import json_rows
from advisor.data.values import FOR_MISSING, missing, untyped

TEXT_NAMES = ("text", "sentence", "content", "review", "comment", "utterance", "body", "question", "title")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
LABEL_NAMES = (
    *("label", "labels", "category", "class", "target", "gold_label", "score", "stars", "rating"),
    *("sentiment", "intent", "emotion", "similarity", "is_duplicate", "quality"),
)
TOGETHER = {  # two of these make a header
    *(
        "prompt",
        "completion",
        "response",
        "instruction",
        "answer",
        "chosen",
        "rejected",
        "anchor",
        "query",
        "positive",
        "negative",
    ),
    *(name for pair in TEXT_PAIRS for name in pair),
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LABEL_FIRST = re.compile(r"([+-]?\d+|[A-Z]+:\w+)[ \t]+(\S.*)")
FASTTEXT = re.compile(r"(?<!\S)__label__(\S+)")  # a label, wherever it stands in a line
DECLARED = re.compile(r'"?sep=([^\w"\r\n])\1*"?', re.IGNORECASE)  # the delimiter, at the head of a file for Excel
NUMBERED_COLUMN = re.compile(r"column_[1-9]\d*")
HEADER_ROWS = 10_000  # rows that tell whether the first one is a header


def read_rows(file: Path, wanted: Collection[str], evaluation: bool = False) -> tuple[list[str], Rows]:
    """What was inferred about the format, and the rows, read as they are asked for.

    Args:
        wanted: column names the caller will ask for; they settle whether a delimited file has a header.
        evaluation: of a JSON object of several parts, read the validation (else test) part, not the training part.

    Raises:
        BadInput: a format that is not read, not text, or (while iterating too) a row that does not parse.
        OutOfMemory: there is not enough memory to read it.
    """
    suffix = suffix_of(file)
    if suffix in OTHER_SUFFIXES:
        raise BadInput(f"{file}: {suffix} files are not read.", f"{FORMATS}: convert it to JSONL.")
    if os.path.getsize(file) == 0:  # or one of the kernel's, such as /proc/kmsg, whose reading may never end
        raise BadInput(f"{file} is empty.", "Give a file with one example a row.")
    if suffix == ".parquet":
        return [], _parquet_rows(file)
    text = TextFile(file)
    if suffix in JSON_SUFFIXES or (suffix not in TEXT_SUFFIXES and text.start in "{["):
        return json_rows(text, evaluation)
    if suffix in (".csv", ".tsv") or text.tabbed or _declared(text):
        return _delimited_rows(text, "," if suffix == ".csv" else "\t", wanted)
    return _line_rows(text)


def _line_rows(text: TextFile) -> tuple[list[str], Rows]:
    def lines() -> Iterator[tuple[str, str]]:
        return ((f"{text.source}, line {n}", line.strip()) for n, line in enumerate(text.lines(), 1) if line.strip())

    if 2 * sum(FASTTEXT.search(line) is not None for _, line in lines()) > text.count:
        return [*text.notes, "Each line is read as fastText's: __label__ and the text (columns label, text)."], _fasttext(lines())
    if all(LABEL_FIRST.fullmatch(line) for _, line in lines()):
        matches = ((place, LABEL_FIRST.fullmatch(line)) for place, line in lines())
        rows = ((place, {"label": m[1], "text": m[2]}) for place, m in matches if m)
        return [*text.notes, "Each line is read as a label, a space and the text (columns label, text)."], rows
    return [*text.notes, "Each line is read as one text (column text)."], ((place, {"text": line}) for place, line in lines())


def _fasttext(lines: Iterator[tuple[str, str]]) -> Rows:
    """Raises:
    BadInput: a line has several labels.
    """
    for place, line in lines:
        labels = FASTTEXT.findall(line)
        if len(labels) > 1:
            raise BadInput(
                f"{place} has {len(labels)} labels: {printable(', '.join(labels), 80)}.",
                "Give each row one label; several labels a row are not supported.",
            )
        yield place, {"label": labels[0] if labels else None, "text": FASTTEXT.sub("", line).strip()}


def _delimited_rows(text: TextFile, expected: str, wanted: Collection[str]) -> tuple[list[str], Rows]:
    declared = _declared(text)
    notes, first_line = list(text.notes), next(filter(str.strip, _lines_of(text)), None)
    if first_line is None:
        raise BadInput(f"{text.source} holds no rows.", "Give a file with one example a row.")
    delimiter = declared or next((d for d in (expected, ";", "\t", ",") if d in first_line), expected)
    if delimiter != expected:
        notes.append(f"The cells are separated by {delimiter!r}.")
    quoted = delimiter != "\t" or _quotes_count(text)
    blanks = quoted and _blanks_before_quotes(text, delimiter)
    if blanks:
        notes.append("Blanks at the head of cells are left out: some stand before quotes.")
    head = list(islice(_records(text, delimiter, quoted, blanks), HEADER_ROWS))
    names = tuple(cell.strip() or f"column_{i}" for i, cell in enumerate(head[0][1], start=1))
    has_header = _has_header(head, wanted)
    if has_header:
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"{text.source}: the column name {twice!r} stands twice.", "Rename one of them.")
        notes.append(f"The first line names the columns: {', '.join(names)}.")
    else:
        names = tuple(f"column_{i}" for i in range(1, len(names) + 1))
        notes.append(f"There is no header line; the columns are called {', '.join(names)}.")
    records = _records(text, delimiter, quoted, blanks)
    if has_header:
        next(records)
    return notes, ((f"{text.source}, line {n}", dict(zip(names, cells, strict=True))) for n, cells in records)


def _quotes_count(text: TextFile) -> bool:
    """Whether quotes of a tab-separated file are quotes.

    Such files often hold bare ones: where reading them as quotes fails, or joins lines that are whole rows already,
    they are plain characters.
    """
    try:
        rows = sum(1 for _ in _csv_records(text, "\t", blanks=False))
    except BadInput:
        return False
    widths = Counter(line.count("\t") for line in _undeclared(text.lines()) if line.strip("\r\n"))
    return len(widths) > 1 or rows == widths.total()


def _blanks_before_quotes(text: TextFile, delimiter: str) -> bool:
    """Whether blanks stand before the quotes of cells: some seem to, and the file can be read so."""
    d = re.escape(delimiter)
    opening = re.compile(rf'(?:^|{d}) +"[^"\r\n{d}]')  # quotes within a cell stand twice, the last one before a delimiter
    if not any(opening.search(line) for line in _lines_of(text)):
        return False
    try:
        for _ in _records(text, delimiter, quoted=True, blanks=True):
            pass
    except BadInput:
        return False
    return True


def _records(text: TextFile, delimiter: str, quoted: bool, blanks: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of each non-blank row; without the blanks at the head of cells, if ``blanks``.

    Raises:
        BadInput: a row that does not parse, or is not as wide as the first one.
    """
    width = 0
    for number, cells in _csv_records(text, delimiter, blanks) if quoted else _plain_records(text, delimiter):
        width = width or len(cells)
        if len(cells) != width:
            raise BadInput(
                f"{text.source}, line {number} has {len(cells)} cells, the first line has {width}.",
                f"Quote cells that contain {delimiter!r} or a line break, without a blank before the quote.",
            )
        yield number, [untyped(cell) for cell in cells]


def _plain_records(text: TextFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(_undeclared(text.lines()), start=1):
        if content := line.rstrip("\r\n"):
            yield number, content.split(delimiter)


def _lines_of(text: TextFile) -> Iterator[str]:
    """As csv.reader wants them: a lone carriage return ends a line too."""
    return _undeclared(_split_at_returns(text))


def _split_at_returns(text: TextFile) -> Iterator[str]:
    for line in text.lines():
        if "\r" in line.rstrip("\r\n"):
            yield from io.StringIO(line, newline="")
        else:
            yield line


def _declared(text: TextFile) -> str | None:
    """The delimiter that a first line ``sep=;`` names."""
    match = DECLARED.fullmatch(next(_split_at_returns(text)).rstrip("\r\n"))
    return match[1] if match else None


def _undeclared(lines: Iterator[str]) -> Iterator[str]:
    """The same, with a blank line in place of the one that names the delimiter."""
    first = next(lines)
    yield "\n" if DECLARED.fullmatch(first.rstrip("\r\n")) else first
    yield from lines


def _csv_records(text: TextFile, delimiter: str, blanks: bool) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_lines_of(text), delimiter=delimiter, skipinitialspace=blanks, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(
            f"{text.source}, the row at line {line} does not parse: {error}.",
            f"Inside a quoted cell, write a quote twice; its last one stands right before {delimiter!r} or the end of the line.",
        ) from error


def _has_header(records: Sequence[tuple[int, list[str]]], wanted: Collection[str]) -> bool:
    """Whether the first row names the columns.

    The caller's column names settle it. Otherwise the first row must look like names (no numbers, none found
    again further down its column), and be known names, or stand over numbers, or over a few repeating values.
    """
    first = [cell.strip() for cell in records[0][1]]
    if any(name in first for name in wanted):
        return True
    if any(NUMBERED_COLUMN.fullmatch(name) for name in wanted):
        return False
    counted = [str(i) for i in range(len(first))]
    if len(first) > 1 and first in (counted, ["", *counted[:-1]]):
        return True  # pandas numbers unnamed columns
    known = sum(cell.lower() in (*TEXT_NAMES, *LABEL_NAMES) for cell in first)
    if known >= 2 or len(TOGETHER.intersection(map(str.lower, first))) >= 2 or (known and len(records) == 1):
        return True
    below = [[cells[i].strip() for _, cells in records[1:] if not missing(cells[i])] for i in range(len(first))]
    recurs = any(cell in values for cell, values in zip(first, below, strict=True))
    if recurs or any(NUMBER.fullmatch(cell) or cell in FOR_MISSING for cell in first):
        return False
    if known or any(values and all(map(NUMBER.fullmatch, values)) for values in below):
        return True
    short = all(len(cell) <= 30 and len(cell.split()) <= 3 for cell in first)
    return short and any(0 < 2 * len(set(values)) <= len(values) for values in below)


def _parquet_rows(file: Path) -> Rows:
    from pyarrow import parquet

    with loading(f"{file} cannot be read as Parquet", "Write the file anew."), parquet.ParquetFile(file) as table:
        names = _class_names((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for row in _values(file, batch, number):
                number += 1
                yield f"{file}, row {number}", with_class_names(row, names)


def _values(file: Path, batch: Any, before: int) -> list[dict[str, Any]]:
    """The rows of a record batch as plain values.

    Raises:
        BadInput: a column's values are none of Python's, such as bytes that are no UTF-8; names it.
    """
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        with loading(f"{file}, column {name}, from row {before + 1} on", "Write the column anew, or drop it."):
            columns[name] = column.to_pylist()
    if len(columns) < len(batch.schema.names):
        twice = next(name for name in columns if batch.schema.names.count(name) > 1)
        raise BadInput(f"{file}: the column name {twice!r} stands twice.", "Rename one of them.")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _class_names(metadata: bytes) -> dict[str, list[str]]:
    """Class names by column, as ``datasets`` leaves them in a Parquet file."""
    try:
        features = json.loads(metadata)["info"]["features"]
        kinds = {name: f.get("feature") or f for name, f in features.items()}  # lists: of their items
        return {name: list(f["names"]) for name, f in kinds.items() if f.get("_type") == "ClassLabel" and f.get("names")}
    except (ValueError, KeyError, TypeError, AttributeError):  # another program's
        return {}
