"""Cells of any source as JSON has them. What a library or a file format has beside these ends here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

LARGEST = Decimal(10) ** 76  # of Arrow's decimals: they are whole numbers, not powers written out
FOR_MISSING = {  # what pandas reads as missing in a table whose cells have no types, as it writes it and other programs do
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL"),
    *("NaN", "NaT", "None", "n/a", "nan", "null"),
}
TURN = ({"role", "content"}, {"from", "value"})  # the fields of one


class ForMissing(str):
    """A cell that says that nothing is there, in a table whose cells have no types."""

    __slots__ = ()


def untyped(cell: str) -> str:
    """A cell of a table whose cells have no types."""
    return ForMissing(cell) if cell.strip() in FOR_MISSING else cell


def said_of_missing(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Of each column a note on the cells that say that nothing is there, and are read as if it were so."""
    notes = []
    for column in columns:
        counts = Counter(cell.strip() for row in rows if isinstance(cell := row.get(column), ForMissing))
        if counts:
            cells = ", ".join(f"{said!r} ({n})" for said, n in counts.most_common())
            notes.append(f"Read as missing in column {column}: {cells}; written as JSONL these are texts.")
    return notes


def missing(value: Any) -> bool:
    """Whether a cell is empty: absent, null, blank, NaN, or what numpy and pandas write for it (NaT, NA)."""
    if value is None or isinstance(value, str):
        return value is None or isinstance(value, ForMissing) or not value.strip()
    if type(value).__name__ == "NAType":  # it equals nothing, nor does it differ
        return True
    several = isinstance(value, list | tuple | dict) or getattr(value, "ndim", 0) > 0
    return not several and bool(value != value)


def plain(value: Any) -> Any:
    """A cell with what it holds as texts, numbers, truth values, lists and objects; null for NaN.

    Decimals are numbers, dates and times ISO texts, durations seconds, bytes the UTF-8 text they are. Half characters, which JSON
    allows and tokenizers and other programs reject, become ``?``. Bytes that are no text stay, as does what holds an image.
    Turns written as an object of lists are a list of turns.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if missing(value):
        return None
    if hasattr(value, "tolist"):  # numpy's
        return plain(value.tolist())
    if isinstance(value, dict):
        return _as_list({plain(key): each if key == "bytes" else plain(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, Decimal):
        return int(value) if abs(value) < LARGEST and value == value.to_integral_value() else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, UUID) else value


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cells by column, all plain."""
    return {plain(column): plain(cell) for column, cell in row.items()}


def _as_list(cell: dict[str, Any]) -> Any:
    """An object, but a list of turns where it holds lists of their fields, as older versions of ``datasets`` write turns."""
    lists = {key: each for key, each in cell.items() if each is not None}
    if not any(fields <= lists.keys() for fields in TURN) or not all(isinstance(each, list) for each in lists.values()):
        return cell
    if len(set(map(len, lists.values()))) > 1:
        return cell
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]
