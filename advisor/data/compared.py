"""Columns of texts that are compared: a chosen and a rejected answer, answers with a mark, or an anchor, its positive and
negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.tasks import EMBEDDING, KTO, PREFERENCE
from advisor.data.formats import TEXT_PAIRS
from advisor.data.refusals import (
    CHATS,
    MARKS,
    PREFERENCES,
    SCORED,
    answers_of,
    contrasted_of,
    find,
    find_all,
    marked_of,
    refuse_two_noes,
)
from advisor.data.tables import Table
from advisor.data.turns import role_of, roles_in
from advisor.data.values import missing

RELATED = (
    *TEXT_PAIRS,
    ("question", "answer"),
    ("query", "answer"),
    ("title", "body"),
    ("query", "response"),
    ("question", "response"),
)
ANSWERS = ("completion", "response", "output", "answer", "generation")  # columns of one answer
SYSTEMS = ("system", "system_prompt")  # columns of the system's words
ASKED = (
    *(("prompt",), ("instruction", "input"), ("instruction", "context"), ("instruction",)),
    *(("context", "question"), ("question",), ("input",), ("query",), ("context",)),
)


def preferred_columns(table: Table, task: str, texts: Sequence[str], label: str | None) -> tuple[str, ...]:
    """Columns of the prompt, if there are any, the chosen and the rejected answer; empty where there are none of these.

    Args:
        texts: those that the user or a profile named.

    Raises:
        BadInput: the task needs them and they cannot be told, or another task is asked for.
    """
    answers = answers_of(table)
    if task == PREFERENCE and label is not None:
        raise BadInput(f"{table.source}: {PREFERENCE} rows have no label.", "Leave --label-column out.")
    if task == PREFERENCE and (len(texts) == 1 or not (texts or answers)):
        raise BadInput(
            f"{table.source}: {PREFERENCE} learns from a chosen and a rejected answer, and these cannot be told from: "
            f"{', '.join(table.columns)}.",
            "Name all: --text-column PROMPT --text-column CHOSEN --text-column REJECTED.",
        )
    if task == PREFERENCE and texts:
        if (texts[-1].lower(), texts[-2].lower()) in PREFERENCES:
            raise BadInput(
                f"{table.source}: {texts[-1]} would be learned as the rejected answer, {texts[-2]} as the chosen one.",
                "Name the rejected answer last.",
            )
        return tuple(texts)
    if answers and task not in ("auto", PREFERENCE):
        raise BadInput(
            f"{table.source}: rows of {' and '.join(answers)} are preference data, and the task is {task}.",
            f"Use --task {PREFERENCE}, or name what is to be learned with --text-column.",
        )
    return (*_asked(table, answers), *answers) if answers else ()


def marked_columns(table: Table, task: str, texts: Sequence[str], label: str | None) -> tuple[str, ...]:
    """Columns of the prompt, if there are any, of the answer, and of its mark; empty where there are none of these.

    Args:
        texts: those that the user or a profile named.

    Raises:
        BadInput: the task needs them and they cannot be told, or another task is asked for.
    """
    found = () if label else marked_of(table)
    if task not in ("auto", KTO) and found:
        raise BadInput(
            f"{table.source}: {', '.join(found[:-1])} and true/false {found[-1]} are marked answers (KTO), the task is {task}.",
            f"Use --task {KTO}, or name what is learned: --text-column for the texts, --label-column to predict {found[-1]}.",
        )
    if task != KTO and not found:
        return ()
    mark = label or (found[-1] if found else find(table, MARKS, exclude=texts))
    answer = find(table, (*ANSWERS, *CHATS), exclude=(mark or "",))
    if mark is None or not (texts or answer):
        raise BadInput(
            f"{table.source}: {KTO} learns from answers that are marked true or false, and these cannot be told from: "
            f"{', '.join(table.columns)}.",
            "Name all: --text-column PROMPT --text-column COMPLETION --label-column MARK.",
        )
    refuse_two_noes(table, mark)
    if texts and task == KTO:
        return (*texts, mark)
    return (*_asked(table, (answer or "", mark)), answer or "", mark)


def _asked(table: Table, answers: Sequence[str]) -> tuple[str, ...]:
    """The columns before the answers: the system's words, and a prompt or the turns so far. Empty ones are left out.

    Args:
        answers: the columns that are no part of it, an answer first.
    """
    empty = [column for column in table.columns if all(missing(cell) or cell == [] for cell in table.column(column))]
    beside = (*answers, *empty)
    system = find(table, SYSTEMS, exclude=beside)
    asked = find_all(table, ASKED, exclude=beside)
    if not asked and not any(map(_starts_a_chat, table.column(answers[0]))):
        asked = tuple(column for column in (find(table, CHATS, exclude=beside),) if column)
    return (system, *asked) if system else asked


def _starts_a_chat(answer: Any) -> bool:
    """Whether an answer's turns begin before it."""
    turn = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(turn, dict) and "assistant" not in map(role_of, roles_in(turn))


def contrasted_columns(table: Table, task: str, texts: Sequence[str], label: str | None) -> tuple[str, ...]:
    """Columns of an anchor, its positive and the negatives; empty where there are none of these.

    Args:
        texts: those that the user or a profile named.

    Raises:
        BadInput: the task needs them and they cannot be told, or another task is asked for.
    """
    found = contrasted_of(table)
    if task != EMBEDDING:
        if found and task != "auto":
            raise BadInput(
                f"{table.source}: rows of {' and '.join(found)} are texts to be embedded, and the task is {task}.",
                f"Use --task {EMBEDDING}, or name what is to be learned with --text-column.",
            )
        return found
    if label is not None:
        raise BadInput(f"{table.source}: {EMBEDDING} rows have no label.", "Leave --label-column out.")
    if len(texts) > 1:
        return tuple(texts)
    scored = None if found else find(table, SCORED)
    found = found or contrasted_of(table, find_all(table, RELATED))
    if not found or texts:
        raise BadInput(
            f"{table.source}: {EMBEDDING} learns from a text and one that belongs to it, and these cannot be told from: "
            f"{', '.join(table.columns)}.",
            "Name all: --text-column ANCHOR --text-column POSITIVE, and NEGATIVE if there is one.",
        )
    if scored:
        raise BadInput(
            f"{table.source}: {scored} says how much {' and '.join(found[:2])} belong together, which is not learned here.",
            "Keep the rows that do, and name both with --text-column; or learn it: --task regression or classification.",
        )
    return found
