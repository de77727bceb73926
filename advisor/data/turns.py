"""A conversation's turns as rows write them: roles, contents, parts of contents, and what of them is not read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.text import printable
from advisor.data.values import missing

SHARE_GPT = {"human": "user", "gpt": "assistant"}
ROLES = {  # by other names, in lower case
    **SHARE_GPT,
    **dict.fromkeys(("prompter", "customer"), "user"),
    **dict.fromkeys(("chatgpt", "model", "bot", "chatbot", "ai", "agent"), "assistant"),
}
KNOWN_ROLES = ("system", "user", "assistant")
TEXTS = {"text", "output_text"}  # types of parts of a turn; OpenAI also writes input_text
LEARNED = ("train", "training", "loss")  # fields of a turn that trainers leave out where they are false, as of weight 0
MARK = "\ufffc"  # stands in a text for an image
WRITTEN = "<image>"  # as rows write it
TURN_FIELDS = {"role", "content", "from", "value", "name", "id", "weight", "tool_calls", "function_call", *LEARNED}


def as_turns(cell: Any, role: str) -> list[Any]:
    """A cell of turns, of one turn, or of a text that ``role`` says."""
    if isinstance(cell, list | dict):
        return cell if isinstance(cell, list) else [cell]
    return [] if missing(cell) else [{"role": role, "content": cell}]


def role_of(name: str) -> str:
    """The role as chat templates call it, where it is known by another name or in capitals."""
    plain = name.strip().lower()
    return ROLES.get(plain, plain if plain in KNOWN_ROLES else name)


def roles_in(cell: Any) -> set[str]:
    """The roles of a conversation's turns as they are written."""
    named = (turn.get("role", turn.get("from")) for turn in as_turns(cell, "user") if isinstance(turn, dict))
    return {role for role in named if isinstance(role, str)} if isinstance(cell, list | dict) else set()


def text_of(value: Any, place: str, column: str) -> str:
    """A cell as a text, empty where it is.

    Raises:
        BadInput: it holds several values; ``place`` says where.
    """
    if isinstance(value, list | dict | bytes):
        held = "bytes that are no UTF-8 text" if isinstance(value, bytes) else f"a {type(value).__name__}, not text"
        raise BadInput(
            f"{place}: column {column} holds {held}.",
            "Name another --text-column.",
        )
    return value if isinstance(value, str) else "" if missing(value) else json.dumps(value, default=str)


def _parts(cells: Sequence[Any]) -> Iterator[Any]:
    """Parts of all turns that are written in parts."""
    for turn in (turn for cell in cells if isinstance(cell, list) for turn in cell if isinstance(turn, dict)):
        yield from (part for key in ("content", "value") if isinstance(turn.get(key), list) for part in turn[key])


def _kind(part: Any) -> str:
    """What a part of a turn is: ``text``, ``image`` …"""
    return str(part.get("type", "text")).removeprefix("input_").split("_url")[0] if isinstance(part, dict) else "text"


def image_parts(cells: Sequence[Any]) -> Iterator[dict[str, Any]]:
    return (part for part in _parts(cells) if _kind(part) == "image")


def more_than_text(cells: Sequence[Any], sees: bool) -> str | None:
    """Why a conversation cannot be learned as text, or as text and images where the model ``sees``: a turn holds something
    else, or calls a tool."""
    for turn in (turn for cell in cells if isinstance(cell, list) for turn in cell if isinstance(turn, dict)):
        kinds = sorted({_kind(part) for part in _parts([[turn]])} - TEXTS - ({"image"} if sees else set()))
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


def _joined(parts: Sequence[Any], place: str) -> str:
    """Texts with a line break between two of them, ``MARK`` for an image."""
    joined, before = "", False
    for part in parts:
        if _kind(part) == "image":
            joined, before = joined + MARK, False
            continue
        text = text_of(part if isinstance(part, str) else part.get("text"), place, "messages").replace(MARK, "")
        joined, before = joined + ("\n" if before else "") + text, True
    return joined


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and "text" in part and part.get("type", "text") in (*TEXTS, "input_text")


def read_turn(turn: Any, place: str) -> tuple[str, Any]:
    """Role and content: ``role`` and ``content``, or ShareGPT's ``from`` and ``value``; text parts are joined.

    Raises:
        BadInput: neither, or a part that is no text.
    """
    for role, content in (("role", "content"), ("from", "value")):
        if isinstance(turn, dict) and isinstance(turn.get(role), str) and content in turn:
            value = turn[content]
            if isinstance(value, list) and all(
                isinstance(part, str) or _kind(part) == "image" or _is_text(part) for part in value
            ):
                value = _joined(value, place)
            elif isinstance(value, str):
                value = value.replace(MARK, "")
            return turn[role], value
    if isinstance(turn, str):
        raise BadInput(
            f"{place}: a list of texts stands where one text or a list of turns is read.",
            "Keep one text of each list, such as the first of several answers.",
        )
    raise BadInput(
        f"{place}: a message lacks role or content.",
        'Each looks like {"role": "user", "content": "…"} or {"from": "human", "value": "…"}.',
    )
