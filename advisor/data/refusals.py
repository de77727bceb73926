"""Columns that say what the rows are for something else: refused with the reason, before anything is guessed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.recipe import TASKS
from advisor.data.labels import missing, number
from advisor.data.tables import Table

CHATS = ("messages", "conversations", "conversation")
OTHER_TASKS = {
    "Token classification": (
        *((words, tags) for words in ("tokens", "words") for tags in ("ner_tags", "pos_tags", "ner", "tags", "labels")),
        ("text", "entities"),
        ("text", "spans"),
    ),
    "Extractive question answering": (("context", "answers"), ("title", "paragraphs")),
    "Multiple choice": (("choices", "answerkey"), ("choices", "answer"), ("endings", "label")),
    "Preference data": (
        ("chosen", "rejected"),
        ("chosen_response", "rejected_response"),
        ("accepted", "rejected"),
        ("preferred", "rejected"),
        ("response_0", "response_1"),
        ("response_a", "response_b"),
    ),
    "Pairs of texts for embeddings": (("anchor", "positive"), ("query", "positive"), ("query", "pos"), ("sentence", "positive")),
    "Translation": (("translation",),),
}
ANSWERED = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), *((chat,) for chat in CHATS))
DESIRED = ("label", "labels", "desirable", "is_desirable", "kto_tag")
BESIDE_TURNS = ("image", "images", "audio", "audios", "video", "videos", "tools")


def find(table: Table, names: Iterable[str | None], exclude: Sequence[str] = ()) -> str | None:
    """The first of ``names`` that is a column, whatever its case."""
    columns = {column.lower(): column for column in reversed(table.columns) if column not in exclude}
    return next((columns[name] for name in names if name in columns), None)


def find_all(table: Table, groups: Iterable[Sequence[str]], exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns of the first group that are all there."""
    for names in groups:
        found = [column for name in names if (column := find(table, (name,), exclude))]
        if len(found) == len(names):
            return tuple(found)
    return ()


def refuse_other_tasks(table: Table, label_column: str | None) -> None:
    """Raises:
    BadInput: the columns are those of a task that is not supported.
    """
    for kind, groups in OTHER_TASKS.items():
        found = find_all(table, groups)
        if found:
            raise BadInput(
                f"{table.source}: {kind} (column{'s' * (len(found) > 1)} {' and '.join(found)}) is not supported.",
                f"The tasks are {', '.join(TASKS)}; if it is one of them, give --text-column.",
            )
    answered, desired = find_all(table, ANSWERED), find(table, DESIRED)
    if answered and desired and label_column is None and _two_valued(table.column(desired)):
        raise BadInput(
            f"{table.source}: {', '.join(answered)} with a true/false {desired} is preference data (KTO), which is not "
            "supported: undesired answers would be learned too.",
            f"Keep the rows to be learned and drop {desired}; to predict it instead, give --text-column and --label-column.",
        )


def refuse_several_labels(table: Table, label: str, others: Sequence[str]) -> None:
    """Raises:
    BadInput: ``label``, which nobody named, is one of several columns of 0 and 1.
    """
    alike = [column for column in others if _two_valued(table.column(column))]
    if label in alike and len(alike) > 1:
        raise BadInput(
            f"{table.source}: {len(alike)} columns hold 0 and 1 only ({', '.join(alike)}), and one label a row is learned.",
            f"Name it, such as --label-column {label}; to learn all, make one column of their combinations.",
        )


def unread_columns(table: Table, texts: Sequence[str]) -> tuple[str, ...]:
    """Columns beside chats that hold images, sounds or tools and are not empty."""
    if not any(isinstance(value, list) for value in table.column(texts[-1])):
        return ()
    return tuple(c for c in table.columns if c.lower() in BESIDE_TURNS and c not in texts and any(table.column(c)))


def _two_valued(values: Sequence[Any]) -> bool:
    """Whether all cells that are not empty are 0 or 1, or true or false, and both are there."""
    truths = {"true": 1.0, "false": 0.0}
    given = [v for v in values if not missing(v)]
    if any(isinstance(v, list | dict) for v in given):
        return False
    seen = {float(v) if isinstance(v, bool) else truths.get(str(v).strip().lower(), number(v)) for v in given}
    return seen == {0.0, 1.0}
