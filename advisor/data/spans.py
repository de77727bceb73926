"""Answers that are spans of a context, in SQuAD's form: as objects, or written as text the way CSV files have them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from advisor.core.errors import BadInput
from advisor.data.labels import number
from advisor.data.values import missing

OBJECT = re.compile(r"\s*\[?\s*\{\s*['\"](text|answer_start)['\"]\s*:.*\}\s*\]?\s*", re.DOTALL)  # one with a field of answers


def are_answers(cells: Sequence[Any]) -> bool:
    """Whether all cells of a column that are not empty are objects or lists, or objects written as text."""
    given = [cell for cell in cells if not missing(cell)]
    return bool(given) and all(isinstance(cell, dict | list) or _is_object(cell) for cell in given)


def find_span(cell: Any, context: str, where: str) -> tuple[int, int] | str | None:
    """Where the first answer of ``cell`` begins and ends in ``context``; None without an answer, else why it has no place there.

    Where the cell does not say where it starts, or that is wrong, the first place is taken.

    Raises:
        BadInput: it is no answer; ``where`` names row and column.
    """
    text, start = first_answer(cell, where)
    if missing(text):
        return None
    begin = _whole(start)
    if begin is None or context[begin : begin + len(text)] != text:
        begin = context.find(text)
    return (begin, begin + len(text)) if begin >= 0 else "whose answer is not in the context"


def starts_elsewhere(cell: Any, span: tuple[int, int] | None) -> bool:
    """Whether ``cell`` says that its first answer starts at another place than ``span`` does."""
    start = None if span is None else first_answer(cell, "")[1]
    return span is not None and not missing(start) and _whole(start) != span[0]


def first_answer(cell: Any, where: str) -> tuple[str, Any]:
    """Its text, empty where there is none, and where it starts, if the cell says so.

    Raises:
        BadInput: it is none; ``where`` names row and column.
    """
    cell = _parsed(cell, where) if _is_object(cell) else cell
    if isinstance(cell, dict):
        texts, starts = (cell.get(key) for key in ("text", "answer_start"))
        cell = [{"text": text, "answer_start": start} for text, start in zip_longest(*map(_as_list, (texts, starts)))]
    first = next(iter(_as_list(cell)), "")
    text, start = (first.get("text"), first.get("answer_start")) if isinstance(first, dict) else (first, None)
    if not isinstance(text, str):
        raise BadInput(
            f"{where} is no answer.",
            'It looks like {"text": ["…"], "answer_start": [12]}, with empty lists where there is none.',
        )
    return text, start


def _is_object(cell: Any) -> bool:
    return isinstance(cell, str) and OBJECT.fullmatch(cell) is not None


def _parsed(cell: str, where: str) -> Any:
    """The object that a text writes, as JSON or as Python does; nothing in it is run.

    Raises:
        BadInput: it is neither, such as one with numpy's arrays.
    """
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    raise BadInput(
        f"{where} is an object written as text that cannot be read back{', for it holds arrays' if 'array(' in cell else ''}.",
        "Save the rows as JSONL: in pandas to_json(FILE, orient='records', lines=True).",
    )


def _whole(start: Any) -> int | None:
    """A place in a text, also where it is written as 4.0 or "4"."""
    parsed = number(start)
    return int(parsed) if parsed is not None and parsed.is_integer() and parsed >= 0 else None


def _as_list(cell: Any) -> list[Any]:
    return cell if isinstance(cell, list) else [] if missing(cell) else [cell]
