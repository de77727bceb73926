"""Reading a file, folder or hub data set into a table: named columns, rows, and where each row came from."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.errors import BadInput

FORMATS = "JSONL, JSON, CSV, TSV and plain text are read"
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".txt")
OTHER_SUFFIXES = (
    *(".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".pkl", ".npz"),
    *(".zip", ".gz", ".bz2", ".xz", ".zst"),
)
TRAIN_STEMS = ("train",)
EVALUATION_STEMS = ("validation", "valid", "dev", "test")
TEXT_NAMES = ("text", "sentence", "content", "review", "comment", "utterance", "body", "question", "title")
LABEL_NAMES = (
    *("label", "labels", "category", "class", "target", "gold_label", "score", "stars", "rating"),
    *("sentiment", "intent", "emotion", "similarity", "is_duplicate", "quality"),
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,2}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LABEL_FIRST = re.compile(r"([+-]?\d+|__label__\S+|[A-Z]+:\w+)[ \t]+(\S.*)")
NUMBERED_COLUMN = re.compile(r"column_[1-9]\d*")


@dataclass(frozen=True)
class Table:
    """Rows of one file, before anything is read into them.

    Attributes:
        columns: column names in file order.
        rows: cell values by column; a column a JSON row lacks is absent. Delimited files give strings.
        numbers: for each row, the line (or item, or row) it begins at, from 1.
        unit: what ``numbers`` counts.
        source: the file as the user named it.
        notes: what was inferred about the format.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    numbers: tuple[int, ...]
    unit: str
    source: str
    notes: tuple[str, ...]

    def where(self, index: int) -> str:
        """Where row ``index`` stands, for messages."""
        return f"{self.source}, {self.unit} {self.numbers[index]}"

    def column(self, name: str) -> list[Any]:
        """The values of one column; None where a row lacks it."""
        return [row.get(name) for row in self.rows]


def read_table(path: str, wanted: Collection[str] = (), evaluation: bool = False) -> Table:
    """Read ``path``: a file, a folder holding ``train.*``, or a hub id such as ``glue/sst2``.

    Args:
        path: file, folder or hub id.
        wanted: column names the caller will ask for; they settle whether a delimited file has a header.
        evaluation: of a folder or hub data set, read the validation (else test) part, not the training part.

    Raises:
        BadInput: nothing there, not a text file, or a line that does not parse; names file and line.
    """
    file, notes = Path(os.path.expanduser(path)), []
    if os.path.isdir(file):
        file = _file_in_folder(file, EVALUATION_STEMS if evaluation else TRAIN_STEMS)
        notes.append(f"The folder's {file.name} is read.")
    elif not os.path.exists(file):
        if HUB_ID.fullmatch(path) and file.suffix.lower() not in (*SUFFIXES, *OTHER_SUFFIXES):
            return _hub_table(path, EVALUATION_STEMS if evaluation else TRAIN_STEMS)
        raise BadInput(f"There is no file or folder {path}.", "Check the path given as --data.")
    source = str(file)
    suffix = file.suffix.lower()
    if suffix in OTHER_SUFFIXES:
        raise BadInput(f"{source}: {suffix} files are not read yet.", f"{FORMATS}: convert it to JSONL.")
    text = _decode(file, source, notes)
    if suffix in JSON_SUFFIXES or (suffix not in SUFFIXES and text.lstrip()[0] in "{["):
        return _json_table(text, source, notes)
    lines = [line for line in text.split("\n") if line.strip()]
    if suffix in (".csv", ".tsv") or all("\t" in line for line in lines):
        expected = "," if suffix == ".csv" else "\t"
        delimiter = next((d for d in (expected, ";", "\t", ",") if d in lines[0]), expected)
        if delimiter != expected:
            notes.append(f"The cells are separated by {delimiter!r}.")
        return _delimited_table(text, delimiter, source, wanted, notes)
    return _lines_table(text, source, notes)


def _file_in_folder(folder: Path, stems: Sequence[str]) -> Path:
    for stem in stems:
        for suffix in SUFFIXES:
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
    names = ", ".join(f"{stem}.jsonl" for stem in stems)
    raise BadInput(f"The folder {folder} holds no {names} (nor .csv, .tsv).", "Name the file itself.")


def _decode(file: Path, source: str, notes: list[str]) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadInput(f"{source} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if b"\0" in data:
        raise BadInput(f"{source} holds NUL bytes: no UTF-8 text file.", f"{FORMATS}; save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        notes.append(f"Not UTF-8 (first at line {line}): read as latin-1.")
        text = data.decode("latin-1")
    if not text.strip():
        raise BadInput(f"{source} is empty.", "Give a file with one example a row.")
    return text


def _table(rows: Iterable[tuple[int, dict[str, Any]]], unit: str, source: str, notes: Iterable[str]) -> Table:
    pairs = list(rows)
    columns = tuple(dict.fromkeys(name for _, row in pairs for name in row))
    if not columns:
        raise BadInput(f"{source} holds no rows.", "Give a file with one example a row.")
    return Table(columns, tuple(r for _, r in pairs), tuple(n for n, _ in pairs), unit, source, tuple(notes))


def _json_table(text: str, source: str, notes: list[str]) -> Table:
    def parse(document: str, line: int | None) -> Any:
        try:
            return json.loads(document)
        except (ValueError, RecursionError) as error:
            at = line or getattr(error, "lineno", 1)
            reason = getattr(error, "msg", None) or type(error).__name__
            raise BadInput(
                f"{source}, line {at} does not parse as JSON: {reason}.",
                "A .jsonl file holds one JSON object a line; a .json file may hold one list of them.",
            ) from error

    if text.lstrip().startswith("["):
        items, unit = list(enumerate(parse(text, None), start=1)), "item"
    else:
        lines = enumerate(text.split("\n"), start=1)
        items, unit = [(number, parse(line, number)) for number, line in lines if line.strip()], "line"
    for number, item in items:
        if not isinstance(item, dict):
            raise BadInput(
                f"{source}, {unit} {number} is not a JSON object.",
                'Each row looks like {"text": "…", "label": "…"}.',
            )
    return _table(items, unit, source, notes)


def _lines_table(text: str, source: str, notes: list[str]) -> Table:
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    matches = [(n, LABEL_FIRST.fullmatch(line)) for n, line in lines]
    if all(match for _, match in matches):
        notes.append("Each line is read as a label, a space and the text (columns label, text).")
        rows = [(n, {"label": m[1].removeprefix("__label__"), "text": m[2]}) for n, m in matches if m]
        return _table(rows, "line", source, notes)
    notes.append("Each line is read as one text (column text).")
    return _table([(n, {"text": line}) for n, line in lines], "line", source, notes)


def _delimited_table(
    text: str, delimiter: str, source: str, wanted: Collection[str], notes: list[str]
) -> Table:
    records = _records(text, delimiter, source)
    width = len(records[0][1])
    for number, cells in records:
        if len(cells) != width:
            raise BadInput(
                f"{source}, line {number} has {len(cells)} cells, the first line has {width}.",
                f"Quote cells that contain {delimiter!r} or a line break.",
            )
    names = tuple(cell.strip() or f"column_{i}" for i, cell in enumerate(records[0][1], start=1))
    if _has_header(records, wanted):
        if len(set(names)) != width:
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"{source}: the column name {twice!r} stands twice.", "Rename one of them.")
        notes.append(f"The first line names the columns: {', '.join(names)}.")
        records = records[1:]
    else:
        names = tuple(f"column_{i}" for i in range(1, width + 1))
        notes.append(f"There is no header line; the columns are called {', '.join(names)}.")
    return _table(((n, dict(zip(names, cells, strict=True))) for n, cells in records), "line", source, notes)


def _records(text: str, delimiter: str, source: str) -> list[tuple[int, list[str]]]:
    """(number of its first line, cells) of each non-blank row.

    Tab-separated files often hold bare quotes: where reading them as quotes fails, or joins lines that are
    whole rows already, they are plain characters.
    """
    quoted, error = [], None
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                quoted.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as caught:
        error = caught
    if delimiter == "\t":
        lines = enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
        plain = [(number, content.split("\t")) for number, content in lines if content]
        same_width = len({len(cells) for _, cells in plain}) == 1
        if error or (same_width and len(plain) != len(quoted)):
            return plain
    if error:
        raise BadInput(
            f"{source}, the row at line {line} does not parse: {error}.",
            "Inside a quoted cell, write a quote twice.",
        ) from error
    return quoted


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
    if known >= 2 or (known and len(records) == 1):
        return True
    below = [[cells[i].strip() for _, cells in records[1:] if cells[i].strip()] for i in range(len(first))]
    recurs = any(cell in values for cell, values in zip(first, below, strict=True))
    if recurs or any(NUMBER.fullmatch(cell) for cell in first):
        return False
    if known or any(values and all(map(NUMBER.fullmatch, values)) for values in below):
        return True
    short = all(len(cell) <= 30 and len(cell.split()) <= 3 for cell in first)
    return short and any(0 < 2 * len(set(values)) <= len(values) for values in below)


def _hub_table(name: str, stems: Sequence[str]) -> Table:
    """Read ``owner/name``, ``owner/name/config`` or the short form ``name/config`` through ``datasets``."""
    import datasets

    base, _, last = name.rpartition("/")
    attempts: list[tuple[str, str | None]] = [] if name.count("/") == 2 else [(name, None)]
    if base:
        attempts.append((base, last))
    failures = []
    for repository, config in attempts:
        try:
            splits = datasets.get_dataset_split_names(repository, config)
            split = next((stem for stem in stems if stem in splits), splits[0])
            data = datasets.load_dataset(repository, config, split=split)
            break
        except Exception as error:  # whatever the hub client raises, the name could not be read
            failures.append(error)
    else:
        reason = " ".join(str(failures[0]).split()) or type(failures[0]).__name__
        raise BadInput(
            f"There is no file or folder {name}, and no hub data set could be read: {reason.rstrip('.')}.",
            "Check the name and the network, or download the rows and name the file.",
        ) from failures[0]
    rows = [dict(row) for row in data]
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            for row in rows:
                hidden = row[column] is None or row[column] < 0  # GLUE's test labels are -1
                row[column] = None if hidden else feature.int2str(row[column])
    return _table(enumerate(rows, start=1), "row", name, [f"The hub data set's {split} split is read."])
