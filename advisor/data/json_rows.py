"""Rows of a JSON file: one a line, a list of them, or an object of parts or of columns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.reading import load_json
from advisor.data.files import EVALUATION_STEMS, Rows, TextFile, suffix_of

LISTS = ("train", "data", "rows", "examples")  # where a .json object keeps its rows


def json_rows(text: TextFile, evaluation: bool) -> tuple[list[str], Rows]:
    """What was inferred about the form, and the rows of JSON lines, of a list, or of an object that holds lists or columns.

    Args:
        evaluation: of an object of several parts, read the validation (else test) part, not the training part.

    Raises:
        BadInput: (while iterating too) what does not parse, holds a key twice, or is no row.
    """

    def parse(document: str, line: int | None) -> Any:
        try:
            return load_json(document, constants=True)
        except (json.JSONDecodeError, RecursionError) as error:
            at = line or getattr(error, "lineno", 1)
            reason = getattr(error, "msg", None) or type(error).__name__
            raise BadInput(
                f"{text.source}, line {at} does not parse as JSON: {reason}.",
                "A .jsonl file holds one JSON object a line; a .json file may hold one list of them.",
            ) from error
        except ValueError as error:  # a key twice, or a number of more digits than Python reads
            raise BadInput(f"{text.source}{f', line {line}' if line else ''}: {error}.", "Correct it.") from error

    def checked(items: Iterable[tuple[int, Any]], unit: str) -> Rows:
        for number, item in items:
            if not isinstance(item, dict):
                raise BadInput(
                    f"{text.source}, {unit} {number} is not a JSON object.",
                    'Each row looks like {"text": "…", "label": "…"}.',
                )
            yield f"{text.source}, {unit} {number}", item

    if text.start == "[":
        return text.notes, checked(enumerate(parse("".join(text.lines()), None), start=1), "item")
    if suffix_of(text.file) == ".json" and (text.count == 1 or not _is_json(next(filter(str.strip, text.lines())))):
        document = parse("".join(text.lines()), None)
        keys = (*EVALUATION_STEMS, *LISTS) if evaluation else LISTS
        if (columns := _json_columns(document)) is not None:
            return [*text.notes, "The file holds columns, not rows; row i is made of each column's i-th value."], checked(
                enumerate(columns, start=1), "row"
            )
        if name := next((key for key in keys if isinstance(document, dict) and isinstance(document.get(key), list)), None):
            return [*text.notes, _which_list(document, name)], checked(enumerate(document[name], start=1), "item")
        _refuse_other_lists(document, text.source)
        if text.count > 1:
            return text.notes, checked([(1, document)], "item")
    lines = ((number, line) for number, line in enumerate(text.lines(), start=1) if line.strip())
    return text.notes, checked(((number, parse(line, number)) for number, line in lines), "line")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_list_of_objects(document: Any, key: str) -> bool:
    cell = document.get(key) if isinstance(document, dict) else None
    return isinstance(cell, list) and bool(cell) and all(isinstance(item, dict) for item in cell)


def _which_list(document: dict[str, Any], name: str) -> str:
    others = ", ".join(repr(key) for key in document if key != name and _is_list_of_objects(document, key))
    return f"The rows are the list {name!r}{others and f'; not read: {others}'}."


def _refuse_other_lists(document: Any, source: str) -> None:
    """Raises:
    BadInput: a JSON object holds lists, and how rows are made of them cannot be told.
    """
    lists = {key: cell for key, cell in document.items() if isinstance(cell, list)} if isinstance(document, dict) else {}
    turns = any(isinstance(item, dict) and item.keys() & {"role", "from"} for cell in lists.values() for item in cell)
    if not lists or turns or len(lists) < len(document):  # one row, which may hold turns, or a list beside other cells
        return
    named = ", ".join(f"{key} ({len(cell)})" for key, cell in lists.items())
    if all(_is_list_of_objects(document, key) for key in lists):
        raise BadInput(
            f"{source} holds lists of rows whose names do not say what they are for: {named}.",
            f"Call the one to learn from {LISTS[0]!r}, one for evaluation 'validation' or 'test', or make a file of each.",
        )
    if len(set(map(len, lists.values()))) > 1:
        raise BadInput(
            f"{source} holds columns of unequal length: {named}.", "Give each as many values, or write the rows as JSONL."
        )
    if len(lists) == 1:
        raise BadInput(
            f"{source} holds one list, {named}, of values that are no rows.", 'Write rows: [{"text": "…"}, {"text": "…"}].'
        )


def _json_columns(document: Any) -> list[dict[str, Any]] | None:
    """Rows of a JSON object that holds columns, as pandas and column stores write it; None where it does not.

    Read are lists of equal length by column, values by index by column (``orient="columns"``), rows by index
    (``"index"``), and names beside a list of lists (``"split"``).
    """
    if not isinstance(document, dict) or not document:
        return None
    names, data = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(r, list) and len(r) == len(names) for r in data):
        return [dict(zip(map(str, names), row, strict=True)) for row in data]
    values = list(document.values())
    of_rows = all(_is_list_of_objects(document, key) for key in document)
    if len(values) > 1 and not of_rows and all(isinstance(v, list) and len(v) == len(values[0]) > 1 for v in values):
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    if not all(isinstance(v, dict) and v and v.keys() == values[0].keys() for v in values):
        return None
    if all(key.isdecimal() for key in document):
        return values
    if all(key.isdecimal() for key in values[0]):
        return [{column: cells[index] for column, cells in document.items()} for index in values[0]]
    return None
