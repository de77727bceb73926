"""Reading a file, folder or hub data set into a table: named columns, rows, and where each row came from.

Files are read row by row; of a large one only a random part of the rows is ever held.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from advisor.data.files import EVALUATION_STEMS, OTHER_SUFFIXES, SHARD, SUFFIXES, TRAIN_STEMS, Rows, split_files, suffix_of
from advisor.data.formats import read_rows
from advisor.data.hub import HUB_ID, read_hub, read_saved
from advisor.data.images import read_image_folder
from advisor.data.values import plain, plain_row

ROWS_KEPT = 20_000  # of a larger file, this many random rows are kept
VALUES_KEPT = 1_000  # and the first row with each value of a column of no more values: no class is lost


@dataclass(frozen=True)
class Table:
    """Rows of one source, before anything is read into them.

    Attributes:
        columns: column names in file order.
        rows: cell values by column, as :func:`plain` has them; a column a JSON row lacks is absent. Delimited files give strings.
        places: where each row stands, for messages.
        total: rows the source has; more than ``rows`` where those were drawn from a large one.
        source: the file, folder or hub id as the user named it.
        notes: what was inferred about the format.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    places: tuple[str, ...]
    total: int
    source: str
    notes: tuple[str, ...]

    def column(self, name: str) -> list[Any]:
        """The values of one column; None where a row lacks it."""
        return [row.get(name) for row in self.rows]


def read_table(
    path: str, wanted: Collection[str] = (), evaluation: bool = False, *, keep: int = ROWS_KEPT, seed: int = 0
) -> Table:
    """Read ``path``: a file, a folder of splits, a saved data set, or a hub id such as ``glue/sst2``.

    Args:
        path: file, folder or hub id.
        wanted: column names the caller will ask for; they settle whether a delimited file has a header.
        evaluation: of a folder or hub data set, read the validation (else test) part, not the training part.
        keep: most rows held at a time; of more, a random sample and the first row with each value of a column that
            has at most ``VALUES_KEPT``.
        seed: draws that sample.

    Raises:
        BadInput: nothing there, not a text file, or a line that does not parse; names file and line.
        OutOfMemory: there is not enough memory to read it.
    """
    found = _find_rows(path, wanted, evaluation)
    if found is None and evaluation and os.path.isdir(folder := Path(os.path.expanduser(path))):
        found = read_image_folder(folder, ())  # class folders without parts, named for evaluation
    if found is None:
        stems = ", ".join(f"{stem}.jsonl" for stem in (EVALUATION_STEMS if evaluation else TRAIN_STEMS))
        raise BadInput(f"{path} holds no {stems} (nor .csv, .tsv, .parquet, …), nor such a split.", "Name a file.")
    source, notes, rows = found
    return _table(rows, source, notes, keep, seed)


def has_evaluation(path: str) -> bool:
    """Whether the folder or hub data set at ``path`` has a validation or test part of its own.

    Raises:
        BadInput: a hub data set that cannot be read, or a name that is not UTF-8.
        OutOfMemory: there is not enough memory to read it.
    """
    folder = Path(os.path.expanduser(path))
    return (os.path.isdir(folder) or not os.path.exists(folder)) and _find_rows(path, (), evaluation=True) is not None


def _find_rows(path: str, wanted: Collection[str], evaluation: bool) -> tuple[str, list[str], Rows] | None:
    """(source, notes, rows) of what ``path`` names; None where a folder or data set has no such split."""
    file, stems = Path(os.path.expanduser(path)), EVALUATION_STEMS if evaluation else TRAIN_STEMS
    _require_encodable(path if not os.path.exists(file) else os.path.abspath(file))
    if os.path.isdir(file):
        saved = read_saved(file, stems)
        if saved is not None:
            split = f"'s {saved.split} split" if saved.split else ""
            return str(file), [f"The saved data set{split} is read."], _numbered(saved, str(file))
        files = split_files(file, stems)
        if not files:
            return read_image_folder(file, stems)
        named = files[0].name if len(files) == 1 else f"{len(files)} shards {files[0].name}, …"
        notes = [f"The folder's {named} {'is' if len(files) == 1 else 'are'} read."]
        notes, rows = _read_files(files, wanted, notes, evaluation)
        return str(files[0] if len(files) == 1 else file), notes, rows
    if not os.path.exists(file):
        if not HUB_ID.fullmatch(path) or suffix_of(file) in (*SUFFIXES, *OTHER_SUFFIXES):
            option = "--eval-data" if evaluation else "--data"
            hint = "Addresses are not read: download the file first." if "://" in path else f"Check the path given as {option}."
            raise BadInput(f"There is no file or folder {path}.", hint)
        data = read_hub(path, stems)
        return None if data is None else (path, [f"The hub data set's {data.split} split is read."], _numbered(data, path))
    if not os.path.isfile(file):
        raise BadInput(f"{path} is a pipe, socket or device, not a file.", "Write the rows to a file first.")
    notes = []
    shard = SHARD.search(file.name)
    if shard and int(shard[2]) > 1:
        notes.append(f"This is one of {int(shard[2])} shards; name its folder to read all.")
    return str(file), *_read_files([file], wanted, notes, evaluation)


def _require_encodable(path: str) -> None:
    """Raises:
    BadInput: the name is not UTF-8, and could not be written into a probe.
    """
    try:
        os.path.abspath(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"The name of {path} is not UTF-8.", "Rename the file or folder, or give a link to it.") from error


def _numbered(rows: Iterable[dict[str, Any]], source: str) -> Rows:
    return ((f"{source}, row {number}", row) for number, row in enumerate(rows, start=1))


def _read_files(files: Sequence[Path], wanted: Collection[str], notes: list[str], evaluation: bool) -> tuple[list[str], Rows]:
    parts = []
    for file in files:
        more, rows = read_rows(file, wanted, evaluation)
        notes += [note for note in more if note not in notes]
        parts.append(rows)
    return notes, (row for rows in parts for row in rows)


def _table(rows: Rows, source: str, notes: Iterable[str], keep: int, seed: int) -> Table:
    """At most ``keep`` rows by reservoir sampling (Vitter's algorithm R), and the first ones with rare values."""
    generator = random.Random(seed)
    kept: list[tuple[int, str, dict[str, Any]]] = []
    firsts: dict[str, dict[str, tuple[int, str, dict[str, Any]]] | None] = {}
    total = 0
    for total, (place, row) in enumerate(rows, start=1):
        item = (total, place, row)
        for column, value in row.items():
            seen = firsts.setdefault(column, {})
            if seen is None:
                continue
            if isinstance(value, list | dict) or len(seen) > VALUES_KEPT:
                firsts[column] = None
            elif (key := str(value)) not in seen:
                seen[key] = item
        if total <= keep:
            kept.append(item)
        elif (slot := generator.randrange(total)) < keep:
            kept[slot] = item
    if not firsts:
        raise BadInput(f"{source} holds no rows.", "Give a file with one example a row.")
    notes = list(notes)
    if total > keep:
        rare = (item for seen in firsts.values() if seen is not None for item in seen.values())
        kept = sorted({item[0]: item for item in (*kept, *rare)}.values(), key=lambda item: item[0])
        notes.append(f"{len(kept):,} of {total:,} rows are drawn with seed {seed}, with a row of each class.")
    _, places, values = zip(*kept, strict=True)
    return Table(tuple(dict.fromkeys(map(plain, firsts))), tuple(map(plain_row, values)), places, total, source, tuple(notes))
