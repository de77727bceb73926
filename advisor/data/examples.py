"""One row as an example: texts and label, prompt and completion, or a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.text import printable
from advisor.data.images import ImageFile
from advisor.data.labels import class_name, missing, number
from advisor.data.schema import Schema

CHAT_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names
TEXTS = {"text", "output_text"}  # types of parts of a turn; OpenAI also writes input_text
LEARNED = ("train", "training", "loss")  # fields of a turn that trainers leave out where they are false, as of weight 0
TURN_FIELDS = {"role", "content", "from", "value", "name", "id", "weight", "tool_calls", "function_call", *LEARNED}


@dataclass(frozen=True)
class Example:
    """One row, ready for a tokenizer or an image processor.

    Attributes:
        texts: one or two texts (classification, regression).
        label: class id, or the value to predict.
        prompt: what the completion answers; empty for plain text (language tasks).
        completion: the text that is learned (language tasks).
        messages: (role, content) turns of a chat; the last one is the assistant's answer, which is learned.
        image: in place of texts (classification, regression).
    """

    texts: tuple[str, ...] = ()
    label: int | float | None = None
    prompt: str = ""
    completion: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    image: ImageFile | None = None


def example_of(row: dict[str, Any], schema: Schema, place: str) -> Example | str:
    """The row as an example, or the reason to leave it out.

    Raises:
        BadInput: a cell that is no text, label or conversation; ``place`` says where.
    """
    columns = schema.text_columns
    if schema.task in LANGUAGE_TASKS and isinstance(row.get(columns[-1]), list):
        return _chat([row.get(column) for column in columns], place)
    image = row.get(columns[0])
    if isinstance(image, ImageFile):
        return Example(label=_label(row.get(schema.label_column or ""), schema, place), image=image)
    texts = tuple(_text(row.get(column), place, column) for column in columns)
    if schema.task in LANGUAGE_TASKS:
        *prompt, completion = texts
        if missing(completion) or (prompt and missing(prompt[0])):
            return "with an empty text"
        return Example(prompt="\n\n".join(text for text in prompt if not missing(text)), completion=completion)
    if any(map(missing, texts)):
        return "with an empty text"
    label = row.get(schema.label_column or "")
    if missing(label):
        return "without a label"
    return Example(texts=texts, label=_label(label, schema, place))


def _text(value: Any, place: str, column: str) -> str:
    if isinstance(value, list | dict | bytes):
        raise BadInput(
            f"{place}: column {column} holds a {type(value).__name__}, not text.",
            "Name another --text-column.",
        )
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")  # tokenizers reject the half characters JSON allows


def _label(value: Any, schema: Schema, place: str) -> int | float:
    if schema.task == "regression":
        parsed = number(value)
        if parsed is None:
            raise BadInput(f"{place}: the label {value!r} is not a finite number.", "Correct the row.")
        return parsed
    name = class_name(value)
    if name not in schema.class_names:
        known = ", ".join(schema.class_names[:10]) + (", …" if len(schema.class_names) > 10 else "")
        raise BadInput(f"{place}: the class {name!r} is not among the training classes.", f"They are: {known}.")
    return schema.class_names.index(name)


def _chat(cells: Sequence[Any], place: str) -> Example | str:
    """Turns of all ``cells``: lists of them, or a text, which is the system's."""
    messages, learned = [], []
    if other := _more_than_text(cells):
        return other
    for cell in cells:
        for turn in cell if isinstance(cell, list) else [] if missing(cell) else [{"role": "system", "content": cell}]:
            role, content = _turn(turn, place)
            messages.append((CHAT_ROLES.get(role, role), _text(content, place, "messages")))
            learned.append(turn.get("weight") != 0 and all(turn.get(key) is not False for key in LEARNED))
    while messages and (messages[-1][0] != "assistant" or missing(messages[-1][1]) or not learned[len(messages) - 1]):
        messages.pop()
    return Example(messages=tuple(messages)) if messages else "without an answer by the assistant"


def _more_than_text(cells: Sequence[Any]) -> str | None:
    """Why a conversation cannot be learned as text: a turn holds an image or the like, or calls a tool."""
    for turn in (turn for cell in cells if isinstance(cell, list) for turn in cell if isinstance(turn, dict)):
        parts = [part for key in ("content", "value") if isinstance(turn.get(key), list) for part in turn[key]]
        kinds = sorted({str(part.get("type", "text")).removeprefix("input_") for part in parts if isinstance(part, dict)} - TEXTS)
        if any(kind.startswith("tool") for kind in kinds):
            return "with a tool call in a turn (only text is read)"
        if kinds:
            kind = printable(kinds[0].split("_")[0], 20)
            named = {"image": "an image", "audio": "an audio", "video": "a video"}.get(kind, f"a part of type {kind}")
            return f"with {named} in a turn (only text is read)"
        if turn.get("tool_calls") or turn.get("function_call") or turn.get("from") == "function_call":
            return "with a tool call in a turn (only text is read)"
    return None


def unread_fields(cell: Any) -> set[str]:
    """Fields of a conversation's turns that hold something and are not read."""
    turns = [turn for turn in cell if isinstance(turn, dict)] if isinstance(cell, list) else []
    return {key for turn in turns for key, value in turn.items() if key not in TURN_FIELDS and not missing(value) and value != []}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and "text" in part and part.get("type", "text") in (*TEXTS, "input_text")


def _turn(turn: Any, place: str) -> tuple[str, Any]:
    """Role and content: ``role`` and ``content``, or ShareGPT's ``from`` and ``value``; text parts are joined.

    Raises:
        BadInput: neither, or a part that is no text.
    """
    for role, content in (("role", "content"), ("from", "value")):
        if isinstance(turn, dict) and isinstance(turn.get(role), str) and content in turn:
            value = turn[content]
            if isinstance(value, list) and all(isinstance(part, str) or _is_text(part) for part in value):
                parts = (part if isinstance(part, str) else part.get("text") for part in value)
                value = "\n".join(_text(part, place, "messages") for part in parts)
            return turn[role], value
    raise BadInput(
        f"{place}: a message lacks role or content.",
        'Each looks like {"role": "user", "content": "…"} or {"from": "human", "value": "…"}.',
    )
