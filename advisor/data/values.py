"""Cells of any source as JSON has them. What a library or a file format has beside these ends here."""

from __future__ import annotations

from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

LARGEST = Decimal(10) ** 76  # of Arrow's decimals: they are whole numbers, not powers written out


def missing(value: Any) -> bool:
    """Whether a cell is empty: absent, null, blank, NaN, or what numpy and pandas write for it (NaT, NA)."""
    if value is None or isinstance(value, str):
        return value is None or not value.strip()
    if type(value).__name__ == "NAType":  # it equals nothing, nor does it differ
        return True
    several = isinstance(value, list | tuple | dict) or getattr(value, "ndim", 0) > 0
    return not several and bool(value != value)


def plain(value: Any) -> Any:
    """A cell with what it holds as texts, numbers, truth values, lists and objects; null for NaN.

    Decimals are numbers, dates and times ISO texts, durations seconds, bytes the UTF-8 text they are. Half characters, which JSON
    allows and tokenizers and other programs reject, become ``?``. Bytes that are no text stay, as does what holds an image.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if missing(value):
        return None
    if hasattr(value, "tolist"):  # numpy's
        return plain(value.tolist())
    if isinstance(value, dict):
        return {plain(key): each if key == "bytes" else plain(each) for key, each in value.items()}
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
