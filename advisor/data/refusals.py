"""Columns that say what the rows are for something else: refused with the reason, before anything is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.recipe import TASKS
from advisor.core.tasks import TOKENS
from advisor.data.formats import TEXT_NAMES
from advisor.data.images import ImageFile
from advisor.data.labels import number
from advisor.data.tables import Table
from advisor.data.values import missing

PREFERENCES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("accepted", "rejected"),
    ("preferred", "rejected"),
    ("response_j", "response_k"),
    ("better", "worse"),
)
CONTRASTED = tuple(  # columns of a text and of one that belongs to it
    (anchor, positive)
    for anchor in ("anchor", "query", "question", "sentence", "sentence1", "text", "premise")
    for positive in ("positive", "pos", "positives", "positive_passages")
)
NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?(_passages)?(_?\d+)?")  # a column of a text that does not
SCORED = ("score", "similarity", "label", "labels", "gold_label", "relevance", "similarity_score")
CHATS = ("messages", "conversations", "conversation")
WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "bio_tags", "ner", "iob_tags", "ner_labels", "upos", "pos_tags", "chunk_tags")
SPANNED = (("question", "context", "answers"), ("question", "context", "answer"))
MULTIPLE_CHOICE = "Multiple choice"
CHOICE = re.compile(r"(ending|choice|option|opt?|sol(ution)?|answer|candidate|alternative)[_ ]?(\d|[a-f])")  # one of several
OTHER_TASKS = {
    "Token classification by spans": (("text", "entities"), ("text", "spans")),
    "Text that is tokenised already": (("input_ids",),),
    "Speech": tuple(("audio", text) for text in ("text", "sentence", "transcription", "transcript")),
    "Question answering in SQuAD's own nested form": (("title", "paragraphs"),),
    MULTIPLE_CHOICE: (
        *(
            ("choices", "answerkey"),
            ("choices", "answer"),
            ("endings", "label"),
            ("question", "choices"),
            ("question", "options"),
        ),
        ("a", "b", "c", "answer"),
    ),
    "Preference data without a chosen and a rejected answer": (
        ("response_0", "response_1"),
        ("response_a", "response_b"),
        ("responses", "scores"),
        ("answers", "scores"),
        ("instruction", "completions"),
        ("prompt", "completions"),
    ),
    "Translation": (("translation",),),
}
INSTEAD = {  # what to do with some of these rows
    MULTIPLE_CHOICE: "Write a row for each question, with the right answer as completion, or one for each choice, with a label.",
    "Token classification by spans": "Make two lists of each text, tokens and tags.",
    "Question answering in SQuAD's own nested form": "Write one row for each question: question, context, answers.",
    "Preference data without a chosen and a rejected answer": "Make two columns, chosen and rejected.",
}
ANSWERED = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), *((chat,) for chat in CHATS))
METADATA_NAMES = (*("id", "idx", "index", "source", "url", "lang", "language", "split", "fold", "date", "timestamp"),)
ROWS_LOOKED_AT = 1_000
MARKS = ("label", "labels", "desirable", "is_desirable", "kto_tag", "kto_label", "chosen", "is_chosen", "thumbs_up")
SURE_MARKS = MARKS[2:6]  # that say nothing else
YES_OR_NO = (  # values of a column that answers no or yes
    *(("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("-1", "1"), ("bad", "good"), ("down", "up")),
    *(("undesirable", "desirable"), ("rejected", "chosen")),
)
PAIRS = tuple(map(set, YES_OR_NO))
IN_A_SENTENCE = re.compile(r"(O|[BIESLU]-\S+)")  # tags of words: B-PER, I-PER, O
IN_A_LIST = re.compile(r"[^\s,;'\"\[\]]+")  # what a list written as text holds


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


def answers_of(table: Table) -> tuple[str, ...]:
    """The columns of the chosen and the rejected answer; empty where there are none, or they only say which one was chosen."""
    found = find_all(table, PREFERENCES)
    return () if any(_says_which(table.column(column)) for column in found) else found


def contrasted_of(table: Table, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns of an anchor, its positive and all its negatives; empty where there are none, or they hold no texts.

    Args:
        columns: of anchor and positive, where they are known.
    """
    found = tuple(columns) or find_all(table, CONTRASTED)
    if not found:
        return ()
    negatives = (column for column in table.columns if column not in found and NEGATIVE.fullmatch(column.lower()))
    cells = {column: table.column(column) for column in (*found, *negatives)}
    texts = tuple(column for column, values in cells.items() if not (_says_which(values) or _answers(values)))
    return texts if texts[: len(found)] == found else ()


def marked_of(table: Table) -> tuple[str, ...]:
    """The columns of an answer, or of what is asked and the answer, then the one that says yes or no to it (KTO); empty where
    there are none. It is enough that most of its values do: the others are refused where they are read. A column of numbers that
    are all alike is no such one, unless its name says so."""
    answered = find_all(table, ANSWERED)
    marks = (column for name in MARKS if (column := find(table, (name,), exclude=answered))) if answered else ()
    for mark in marks:
        given = [value for value in table.column(mark) if not missing(value)]
        said = (value[0] if isinstance(value, list) and len(value) == 1 else value for value in given)
        marked = [_answer(value) for value in said if says_yes(value) is not None]
        alike = set(marked) in ({"0"}, {"1"}, {"-1"}) and all(number(value) is not None for value in given)
        if 2 * len(marked) > len(given) and (not alike or mark.lower() in SURE_MARKS):
            return (*answered, mark)
    return ()


def says_yes(value: Any) -> bool | None:
    """What a mark says of an answer; None of any other value."""
    said = _answer(value)
    return True if any(said == yes for _, yes in YES_OR_NO) else False if any(said == no for no, _ in YES_OR_NO) else None


def refuse_two_noes(table: Table, mark: str) -> None:
    """Raises:
    BadInput: 0 stands beside -1 in the column of marks.
    """
    if {"0", "-1"} <= {_answer(value) for value in table.column(mark)}:
        raise BadInput(
            f"{table.source}: 0 and -1 both stand in column {mark}, and only one of them can say that an answer is undesirable.",
            "Leave out the rows of the other one, or name what is to be learned with --text-column.",
        )


def _says_which(values: Sequence[Any]) -> bool:
    given = [value for value in values if not missing(value)]
    numbers = bool(given) and not any(isinstance(value, str | list | dict) for value in given)
    return numbers or (bool(seen := _answers(given)) and seen <= {"0", "1", "true", "false"})


def refuse_other_tasks(table: Table, sees: bool = False) -> None:
    """Raises:
    BadInput: the columns are those of a task that is not supported, or conversations are written as text. Images beside texts
        are supported where the model ``sees``.
    """
    pair, marked = answers_of(table), marked_of(table)
    for chat in (column for column in table.columns if column in (*pair, *marked) or column.lower() in CHATS):
        given = [cell for cell in table.column(chat) if not missing(cell)]
        start = ("[", "{") if chat.lower() in CHATS else ("[{",)  # an answer may be JSON itself
        if given and all(isinstance(cell, str) and cell.lstrip().startswith(start) for cell in given):
            raise BadInput(
                f"{table.source}: {chat} holds JSON written as text, not a list of turns.",
                "Write each row's list itself, as JSONL.",
            )
    if pair or marked or contrasted_of(table):
        return
    choices = tuple(column for column in table.columns if CHOICE.fullmatch(column.lower()))
    for kind, groups in OTHER_TASKS.items():
        found = find_all(table, groups)
        if not found and kind == MULTIPLE_CHOICE and len(choices) > 1:
            found = choices[:2]
        if found:
            raise BadInput(
                f"{table.source}: {kind} (column{'s' * (len(found) > 1)} {' and '.join(found)}) is not supported.",
                INSTEAD.get(kind, f"The tasks are {', '.join(TASKS)}; if it is one of them, give --text-column."),
            )
    image = None if sees else find(table, ("image", "img", "pixel_values"))
    if image and find(table, TEXT_NAMES) is None and not any(isinstance(cell, ImageFile) for cell in table.column(image)):
        raise BadInput(
            f"{table.source}: images in a column ({image}) are not read.",
            "Give a folder with a subfolder of image files for each class, or name the texts with --text-column.",
        )
    refuse_tagged_words(table)


def refuse_several_labels(table: Table, label: str, others: Sequence[str]) -> None:
    """Raises:
    BadInput: ``label``, which nobody named, is one of several columns of 0 and 1.
    """
    alike = [column for column in others if _answers(table.column(column))]
    if label in alike and len(alike) > 1:
        what = " and ".join(sorted(_answers(table.column(label))))
        raise BadInput(
            f"{table.source}: {len(alike)} columns hold {what} only ({', '.join(alike)}), and one label a row is learned.",
            f"Name it, such as --label-column {label}; to learn all, make one column of their combinations.",
        )


def refuse_tagged_words(table: Table) -> None:
    """Raises:
    BadInput: rows are words with a tag each: lists of the same lengths, tags written as text, or lines that end in a tag.
    """
    rows = table.rows[:ROWS_LOOKED_AT]
    lists = [c for c in table.columns if all(isinstance(r.get(c), list) and r[c] and are_plain(r[c]) for r in rows)]
    words = next((c for c in lists if all(isinstance(w, str) and " " not in w for r in rows for w in r[c])), None)
    alike = [c for c in lists if c != words and words and all(len(r[c]) == len(r[words]) for r in rows)]
    if words and alike and any(len(r[words]) > 1 for r in rows) and "input_ids" not in lists:
        tags = min(alike, key=lambda c: len({str(tag) for r in rows for tag in r[c]}))
        raise BadInput(
            f"{table.source}: these are words with a tag each (columns {words} and {tags}).",
            f"Use --task {TOKENS} --text-column {words} --label-column {tags}.",
        )
    for column in table.columns:
        cells = [str(r[column]) for r in rows if not missing(r.get(column)) and not isinstance(r[column], list | dict)]
        found = _tags_in(cells, several=True) or (_tags_in(cells, several=False) if column == table.columns[-1] else [])
        if found:
            raise BadInput(
                f"{table.source}: these are words with a tag each (column {column}: {', '.join(found[:3])}).",
                f"Make two lists of each sentence, tokens and tags, for --task {TOKENS}.",
            )


def _tags_in(cells: Sequence[str], several: bool) -> list[str]:
    """The tags of which each cell consists, where one has ``several``; else those in which each cell ends, as CoNLL's lines do.
    Empty where that is not so."""
    found: dict[str, None] = {}
    most = 0
    for cell in cells:
        parts = IN_A_LIST.findall(cell) if several else cell.split()[-1:]
        if not parts or not all(map(IN_A_SENTENCE.fullmatch, parts)):
            return []
        found |= dict.fromkeys(parts)
        most = max(most, len(parts))
    return list(found) if set(found) - {"O"} and (most > 1 or not several) else []


def are_plain(values: Sequence[Any]) -> bool:
    """Whether no value is a list or holds others."""
    return not any(isinstance(value, list | dict) for value in values)


def unread_columns(table: Table, texts: Sequence[str]) -> tuple[str, ...]:
    """Columns of rows that a language model learns which it does not read, empty ones and metadata left out."""
    beside = (column for column in table.columns if column not in texts and column.lower() not in METADATA_NAMES)
    return tuple(column for column in beside if any(not missing(cell) and cell != [] for cell in table.column(column)))


def _answers(values: Sequence[Any]) -> set[str]:
    """The values of a column that answers yes or no in one of the usual ways, in lower case; empty of any other column."""
    given = [v for v in values if not missing(v)]
    if not are_plain(given):
        return set()
    seen = {_answer(v) for v in given}
    return seen if seen and any(seen <= pair for pair in PAIRS) else set()


def _answer(value: Any) -> str:
    """A cell as ``YES_OR_NO`` has it: ``1`` for 1, "1" and 1.0; ``true`` for JSON's true."""
    return f"{parsed:g}" if (parsed := number(value)) is not None else str(value).strip().lower()
