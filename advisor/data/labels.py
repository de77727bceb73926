"""Cells as labels: names, numbers, or nothing; and the classes or values a column of them holds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.text import printable
from advisor.data.formats import NUMBER
from advisor.data.tables import Table
from advisor.data.values import missing, said_of_missing

SCORE_NAMES = ("score", "similarity", "rating", "value")
MAX_INFERRED_CLASSES = 200
FARTHEST = 1e100  # of a value to predict from zero: squares of it are still numbers
MANY_ROWS = 20  # from here on, labels that hardly repeat are no classes
WHOLE = re.compile(r"(0|-?[1-9][0-9]*)(\.0)?")  # a whole number as files usually write it; "01", "+1" and "1e2" are names
LIST = re.compile(  # written as text; or several labels of fastText
    r"""[\[({]\s*['"].*[\])}]|\[[\d\s.,+-]*\]|__label__\S+\s+__label__.*""", re.DOTALL
)


def untagged(value: Any) -> bool:
    """Whether a word has no tag to learn: none, or transformers' -100."""
    return missing(value) or number(value) == -100


def number(value: Any) -> float | None:
    """The finite number a cell holds, None if it holds something else (truth values are names)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def class_name(value: Any) -> str:
    """A class is named as it is written, but ``1`` is 1, "1", 1.0 and "1.0"; ``true`` is JSON's true, "true" and "True"."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    name = value.strip() if isinstance(value, str) else json.dumps(value, default=str)
    if WHOLE.fullmatch(name):
        return name.removesuffix(".0")
    return lower if (lower := name.lower()) in ("true", "false") else name


def _in_order(names: Iterable[str], kind: str) -> tuple[str, ...]:
    """Numbers by their size, and where that is the same, or of names, by the alphabet."""
    return tuple(sorted(sorted(names), key=float) if kind in ("integers", "numbers") else sorted(names))


def kind_of(values: Sequence[Any]) -> str:
    """``integers``, ``numbers`` (some with decimals), ``names``, or ``mixed``: mostly numbers."""
    numbers = [parsed for parsed in map(number, values) if parsed is not None]
    if not numbers or 2 * len(numbers) < len(values):
        return "names"
    if len(numbers) < len(values):
        return "mixed"
    return "integers" if all(parsed.is_integer() for parsed in numbers) else "numbers"


def hardly_repeat(values: Sequence[Any]) -> bool:
    """Whether most of many cells stand there once: they are no classes."""
    return len(values) >= MANY_ROWS and 2 * len(set(map(class_name, values))) > len(values)


def are_texts(values: Sequence[Any]) -> bool:
    """Whether the cells that are not empty are texts rather than labels: no numbers, and hardly any of them again."""
    present = [value for value in values if not missing(value)]
    return kind_of(present) == "names" and hardly_repeat(present)


def read_tags(table: Table, words: str, tags: str) -> tuple[str, ...]:
    """Names of the classes of words, in numeric or alphabetical order.

    Raises:
        BadInput: the column of tags holds no lists of names or whole numbers, or always the same one.
    """
    found: dict[str, Any] = {}
    for row, place in zip(table.rows, table.places, strict=True):
        cell = row.get(tags)
        for tag in cell if isinstance(cell, list) and row.get(words) else ():
            if isinstance(tag, list | dict | bytes) or (isinstance(tag, float) and not tag.is_integer()):
                raise BadInput(
                    f"{place}: the tag {printable(json.dumps(tag, default=str), 80)} is neither a name nor a whole number.",
                    "Give each word one tag.",
                )
            if not untagged(tag):
                found.setdefault(class_name(tag), tag)
    if len(found) < 2:
        what = f"every tag is {next(iter(found))!r}" if found else "there is no list of tags"
        raise BadInput(
            f"{table.source}: {what} in column {tags}.", f"Check it: {words} and {tags} must hold lists, one tag for each word."
        )
    return _in_order(found, kind_of(list(found.values())))


def read_labels(table: Table, task: str, texts: Sequence[str], label: str) -> tuple[str, tuple[str, ...]]:
    """Task and class names (in numeric or alphabetical order), from the labels of the rows that have text and label.

    Raises:
        BadInput: no such row, labels that are neither names nor finite numbers, a single label, or nothing but names.
    """
    used = [
        (index, row[label])
        for index, row in enumerate(table.rows)
        if not any(missing(row.get(column)) for column in (*texts, label))
    ]
    if not used:
        columns = " and ".join((*texts, label))
        said = said_of_missing(table.rows, (*texts, label))
        raise BadInput(" ".join((f"{table.source} has no usable row: none has all of {columns}.", *said)), "Check the columns.")
    for index, value in used:
        if isinstance(value, bytes):
            raise BadInput(
                f"{table.places[index]}: the label in column {label} is bytes that are no UTF-8 text.",
                "Save the column as text, or name another --label-column.",
            )
        if isinstance(value, str) and LIST.fullmatch(value.strip()):
            raise BadInput(
                f"{table.places[index]}: the label {printable(value, 80)} in column {label} is a list of labels written as text.",
                "Give each row one label; several labels a row are not supported.",
            )
        if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
            raise BadInput(
                f"{table.places[index]}: the label {printable(json.dumps(value, default=str), 80)} is neither a finite number "
                "nor a name.",
                "Give each row one label; several labels a row are not supported.",
            )
    kind = kind_of([value for _, value in used])
    names = {class_name(value) for _, value in used}
    once = hardly_repeat([value for _, value in used])
    if (kind == "mixed" and task != "classification") or (kind == "names" and task == "regression"):
        index, value = next((index, value) for index, value in used if number(value) is None)
        raise BadInput(
            f"{table.places[index]}: the label {value!r} in column {label} is not a finite number.",
            "Correct the row, or pass --task classification to take every label as a class name.",
        )
    if task == "auto" and kind == "names" and once:
        raise BadInput(
            f"{table.source}: column {label} has {len(names)} names in {len(used)} rows: no classes.",
            "Name another --label-column, or pass --task.",
        )
    if task == "auto":
        scores = label.lower() in SCORE_NAMES and len(names) > MANY_ROWS
        many = scores or once or len(names) > MAX_INFERRED_CLASSES
        task = "regression" if kind == "numbers" or (kind == "integers" and many) else "classification"
    if len(names) < 2:
        said = said_of_missing(table.rows, (label,))
        raise BadInput(
            " ".join((f"{table.source}: every label in column {label} is {names.pop()!r}.", *said)),
            "At least two different labels are needed; check --label-column.",
        )
    if task == "regression":
        for index, value in used:
            if abs(number(value) or 0.0) > FARTHEST:
                raise BadInput(f"{table.places[index]}: the label {value!r} is too far from zero to be learned.", "Correct it.")
        return task, ()
    return task, _in_order(names, kind)
