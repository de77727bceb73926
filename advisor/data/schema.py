"""What the columns of a table mean: the task, the texts, the label, the metric. Every inference is a note."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.profiles import load_profiles
from advisor.core.recipe import HEADLESS, LANGUAGE_TASKS, METRICS, TASKS
from advisor.core.tasks import EMBEDDING, KTO, PREFERENCE, SPANS, TOKENS, columns_taken
from advisor.data.compared import contrasted_columns, marked_columns, preferred_columns
from advisor.data.formats import LABEL_NAMES, TEXT_NAMES, TEXT_PAIRS
from advisor.data.images import IN_ROWS, ImageFile
from advisor.data.labels import MAX_INFERRED_CLASSES, are_texts, kind_of, number, read_labels, read_tags
from advisor.data.refusals import (
    CHATS,
    METADATA_NAMES,
    SPANNED,
    TAGS,
    WORDS,
    are_plain,
    find,
    find_all,
    refuse_other_tasks,
    refuse_several_labels,
    refuse_tagged_words,
    unread_columns,
)
from advisor.data.spans import are_answers
from advisor.data.tables import Table
from advisor.data.values import missing

PROMPT_COMPLETION = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("instruction", "context", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
)
UNLABELLED_PROMPT_COMPLETION = (
    ("context", "question", "answer"),
    ("question", "answer"),
    ("input", "output"),
    ("question", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("article", "highlights"),
    *((text, "summary") for text in ("article", "document", "dialogue", "text")),
    ("source", "target"),
)


@dataclass(frozen=True)
class Schema:
    """How rows are read.

    Attributes:
        task: one of ``recipe.TASKS``.
        text_columns: columns the text is read from. Chat: ``("messages",)``. Prompt and completion: the completion is last, the
            columns before it make the prompt. Preference: the same with a chosen and a rejected answer last; KTO: with the
            marked answer last. Embedding: anchor, positive, negatives. Plain text: one column. Words with tags: one column.
            Images: their column; images beside texts: their column comes first.
        label_column: column of the label, of KTO of the mark; None for causal-lm, seq2seq, preference and embedding.
        class_names: name of each class id; empty unless classification of rows or words.
        metric: ``accuracy``, ``matthews``, ``f1``, ``spearman``, ``token_accuracy``, ``exact_match``, ``reward_accuracy``,
            ``reward_auc`` or ``retrieval_accuracy``.
    """

    task: str
    text_columns: tuple[str, ...]
    label_column: str | None
    class_names: tuple[str, ...]
    metric: str


def infer_schema(
    table: Table,
    path: str,
    task: str,
    text_columns: Sequence[str],
    label_column: str | None,
    metric: str | None,
    language: str = "causal-lm",
    sees: bool = False,
) -> tuple[Schema, list[str]]:
    """The schema, and a note for everything the caller left open (``auto``, no columns, None).

    A language task (``language``, or ``task`` where that is one) is inferred and checked as ``causal-lm`` is; its answer
    may also be named as ``label_column``. ``sees``: images in a column are read beside the texts of a language task.

    Raises:
        BadInput: an unknown task or metric, columns that cannot be told, labels that cannot be used, or a
            task this program does not do.
    """
    if task not in ("auto", *TASKS):
        raise BadInput(f"There is no task {task!r}.", f"Use one of: auto, {', '.join(TASKS)}.")
    tagged = _tagged(table, task, text_columns, label_column)
    spanned = _spanned(table, task, text_columns, label_column)
    if not (text_columns or tagged or spanned):
        refuse_other_tasks(table, sees)
    notes = []
    profile_name, profile = _matching_profile(table, path, task, label_column)
    if profile:
        notes.append(f"The task profile {profile_name} fits the name and the columns, and is used.")
    texts = tuple(text_columns) or tuple(profile.get("text_columns", ()))
    label = label_column or find(table, (profile.get("label_column"),))
    chosen = profile.get("task", task)
    if task == PREFERENCE or not (text_columns or label_column):
        answers = preferred_columns(table, task, texts, label_column)
        texts, chosen = (answers, PREFERENCE) if answers else (texts, chosen)
    if task == KTO or not (text_columns or label_column or chosen == PREFERENCE):
        marked = marked_columns(table, task, texts, label if chosen == KTO else label_column)
        texts, label, chosen = (marked[:-1], marked[-1], KTO) if marked else (texts, label, chosen)
    if task == EMBEDDING or not (text_columns or label_column):
        contrasted = contrasted_columns(table, task, texts, label_column)
        texts, chosen = (contrasted, EMBEDDING) if contrasted else (texts, chosen)
    if tagged:
        texts, label, chosen = tagged[:1], tagged[1], TOKENS
        others = tuple(column for column in table.columns if column not in tagged and _are_tagged(table, tagged[0], column))
        notes += [f"Not read: {_first(others)}, tags too; --label-column names the ones to learn."] if others else []
    elif spanned:
        texts, label, chosen = spanned[:2], spanned[2], SPANS
    if images := _image_column(table):
        texts, chosen = (images,), "classification" if chosen == "auto" else chosen
    if chosen == "auto" and label is None:
        columns = _language_columns(table, unlabelled=True)
        if columns and (not texts or texts == columns):
            chosen, texts = language, columns
    elif chosen == "auto" and language == "seq2seq" and are_texts(table.column(label or "")):
        chosen = language
    class_names: tuple[str, ...] = ()
    if chosen in LANGUAGE_TASKS and chosen != KTO:
        chosen = chosen if chosen == PREFERENCE else language if task == "auto" else task
        texts = texts or _language_columns(table, unlabelled=False)
        if label is not None and label not in texts[-1:]:
            texts = (*(texts if text_columns else _only_other(table, label)), label)
        label = None
        if images or not texts:
            raise _cannot_tell("text", table)
        _require_source(table, chosen, texts)
        beside = find(table, IN_ROWS, exclude=texts) if sees and chosen != PREFERENCE else None
        texts = (beside, *texts) if beside else texts
    elif chosen == EMBEDDING:
        label = None
    elif chosen == TOKENS:
        class_names = read_tags(table, texts[0], label or "")
    elif chosen not in (SPANS, KTO):  # whose answers, or marks, are read row by row
        label = label or find(table, LABEL_NAMES, exclude=texts) or _only_label(table, texts)
        texts = texts or _classifier_columns(table, label)
        _require_apart(table, texts, label)
        chosen, class_names = read_labels(table, chosen, texts, label)
    if taken := columns_taken(chosen, len(texts)):
        raise BadInput(
            f"{table.source}: {chosen} takes {taken} columns of text, not {len(texts)}.", "Name them, each with --text-column."
        )
    schema = Schema(chosen, texts, label, class_names, _metric(metric, chosen, profile))
    if task == "auto":
        notes.append(f"The task is {chosen}.")
    if not (text_columns or images):
        notes.append(f"The text is read from {' and '.join(texts)}.")
    if label_column is None and label is not None and not images:
        notes.append(f"The label is read from {label}.")
    notes += _notes_on(schema, table)
    if metric is None:
        notes.append(f"The metric is {schema.metric}.")
    return schema, notes


def _metric(asked: str | None, task: str, profile: dict[str, Any]) -> str:
    """The one asked for, else the task profile's or the task's first.

    Raises:
        BadInput: it does not apply to the task.
    """
    metric: str = asked or (profile["metric"] if profile and profile["task"] == task else METRICS[task][0])
    if metric not in METRICS[task]:
        raise BadInput(f"The metric {asked!r} does not apply to {task}.", f"Use one of: {', '.join(METRICS[task])}.")
    return metric


def _notes_on(schema: Schema, table: Table) -> list[str]:
    """What is worth knowing of the classes, or of columns that are not read."""
    notes, texts = [], schema.text_columns
    if schema.class_names:
        notes.append(f"There are {len(schema.class_names)} classes: {_first(schema.class_names)}.")
    read = (*texts, schema.label_column) if schema.label_column else texts
    if unread := unread_columns(table, read) if schema.task in HEADLESS else ():
        notes.append(f"Not read: {_first(unread)}{'; only the text of the turns is' if _holds_chats(table, texts[-1]) else ''}.")
    if combined := _combined(schema.class_names):
        notes.append(f"The class {combined!r} combines others, and is learned as a class of its own.")
    return notes


def _first(names: Sequence[str]) -> str:
    """The first eight."""
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _require_source(table: Table, task: str, texts: Sequence[str]) -> None:
    """Raises:
    BadInput: seq2seq, and one column of text.
    """
    if task == "seq2seq" and len(texts) == 1 and not _holds_chats(table, texts[0]):
        raise BadInput(
            f"{table.source}: seq2seq learns a target from a source, and only {texts[0]} is there to be read.",
            "Name both: --text-column SOURCE --label-column TARGET.",
        )


def _only_label(table: Table, texts: Sequence[str]) -> str:
    """The column most like a label, where its name does not say so.

    Raises:
        BadInput: there is none, or several hold labels.
    """
    label = _guess_label(table, texts)
    if label is None:
        raise _cannot_tell("label", table)
    refuse_several_labels(table, label, [c for c in table.columns if c not in texts and c.lower() not in METADATA_NAMES])
    return label


def _require_apart(table: Table, texts: Sequence[str], label: str) -> None:
    """Raises:
    BadInput: a classifier's columns are more than two of text and one other as label.
    """
    if len(texts) > 2 or label in texts:
        both = f"column {label} cannot be text and label at once"
        found = both if label in texts else f"a classifier reads one or two columns of text, not {len(texts)}"
        raise BadInput(f"{table.source}: {found}.", "Name one or two text columns and another one as label.")


def _tagged(table: Table, task: str, texts: Sequence[str], label: str | None) -> tuple[str, ...]:
    """The columns of words and of their tags; empty where rows are for another task.

    Raises:
        BadInput: the task needs them and they cannot be told.
    """
    if task not in ("auto", TOKENS):
        return ()
    words = texts[0] if len(texts) == 1 else None if texts else find(table, WORDS, exclude=(label or "",))
    tags = label or find(table, TAGS, exclude=(words or "",))
    if words and tags and words != tags:
        other = not are_plain(table.rows[0].get(words) or ()) if texts or label else find(table, ("input_ids",))
        return (words, tags) if task == TOKENS or (_are_tagged(table, words, tags) and not other) else ()
    if task == TOKENS:
        if not texts:
            refuse_tagged_words(table)
        raise BadInput(
            f"{table.source}: which columns hold the words and their tags cannot be told from: {', '.join(table.columns)}.",
            "Name both: --text-column WORDS --label-column TAGS.",
        )
    return ()


def _are_tagged(table: Table, words: str, tags: str) -> bool:
    """Whether most rows that have both are two lists of the same length."""
    given = [(row[words], row[tags]) for row in table.rows if row.get(words) and row.get(tags)]
    alike = [isinstance(w, list) and isinstance(t, list) and len(w) == len(t) for w, t in given]
    return any(alike) and 2 * sum(alike) >= len(given)


def _spanned(table: Table, task: str, texts: Sequence[str], label: str | None) -> tuple[str, ...]:
    """The columns of questions, contexts and answers; empty where rows are for another task.

    Raises:
        BadInput: the task needs them and they cannot be told.
    """
    if task not in ("auto", SPANS) or (task == "auto" and (texts or label)):
        return ()
    found = find_all(table, SPANNED)
    columns = (*(texts or found[:2]), *((label,) if label else found[2:]))
    if task == SPANS and len(columns) != 3:
        raise BadInput(
            f"{table.source}: which columns hold question, context and answers cannot be told from: {', '.join(table.columns)}.",
            "Name all: --text-column QUESTION --text-column CONTEXT --label-column ANSWERS.",
        )
    return columns if task == SPANS or (len(columns) == 3 and are_answers(table.column(columns[2]))) else ()


def _combined(class_names: Sequence[str]) -> str | None:
    """The first class whose name lists several that other classes are, or list too."""
    parts = {name: {part.strip() for part in re.split(r"[,;|#]", name)} - {""} for name in class_names}
    times = Counter(part for each in parts.values() for part in each)
    return next((name for name, each in parts.items() if len(each) > 1 and all(times[part] > 1 for part in each)), None)


def _image_column(table: Table) -> str | None:
    return next((name for name, cell in table.rows[0].items() if isinstance(cell, ImageFile)), None)


def _holds_chats(table: Table, column: str) -> bool:
    return any(isinstance(value, list) for value in table.column(column))


def _only_other(table: Table, label: str | None) -> tuple[str, ...]:
    """The one column beside the answer's, where there is but one."""
    others = tuple(column for column in table.columns if column != label)
    return others if label is not None and len(others) == 1 else ()


def _cannot_tell(what: str, table: Table) -> BadInput:
    if [column.lower() for column in table.columns if column.lower() not in METADATA_NAMES] == ["prompt"]:
        return BadInput(
            f"{table.source}: there are prompts and no answers; training by rewards alone (GRPO, PPO) is not covered.",
            "Add a column completion, or learn the prompts themselves: --task causal-lm.",
        )
    lists = [column for column in table.columns if any(isinstance(cell, list) for cell in table.column(column))]
    held = f" ({', '.join(lists)}: lists, not texts)" if what == "text" and lists else ""
    return BadInput(
        f"{table.source}: which column holds the {what} cannot be told from: {', '.join(table.columns)}{held}.",
        f"Name it with --{what}-column, or pass --task.",
    )


def _matching_profile(table: Table, path: str, task: str, label_column: str | None) -> tuple[str, dict[str, Any]]:
    """The task profile named like the file or its folder, if the table has its text columns; and its label column, where none
    is looked for under another name."""
    place = Path(os.path.abspath(os.path.expanduser(path)))
    parts = [place.stem.lower(), place.name.lower(), place.parent.name.lower()]
    words = {re.sub(r"[\W_]", "", part) for part in parts}
    words.update(word for part in parts for word in re.split(r"[\W_]+", part))
    for name, profile in load_profiles("tasks").items():
        is_language = profile["task"] in LANGUAGE_TASKS
        fits = task in ("auto", profile["task"], *(LANGUAGE_TASKS if is_language else ())) and not (label_column and is_language)
        needed = {*profile["text_columns"]}
        if profile["task"] in (TOKENS, SPANS, KTO) and not label_column:
            needed.add(profile["label_column"])
        if fits and not words.isdisjoint(profile["match"]) and needed <= set(table.columns):
            return name, profile
    return "", {}


def _language_columns(table: Table, unlabelled: bool) -> tuple[str, ...]:
    """Columns of chat, prompt/completion or plain text rows.

    With ``unlabelled``, columns that a classifier could have too count only if nothing looks like a label.
    """
    messages = find(table, CHATS)
    if messages and _holds_chats(table, messages):
        system = find(table, ("system", "system_prompt"))
        return (system, messages) if system else (messages,)
    found = find_all(table, PROMPT_COMPLETION)
    if found:
        return found
    found = find_all(table, UNLABELLED_PROMPT_COMPLETION)
    if unlabelled and (label := find(table, LABEL_NAMES) or _guess_label(table, ())):
        return found if label in found[-1:] and are_texts(table.column(label)) else ()
    if found:
        return found
    if not unlabelled and len(table.columns) == 1:
        return table.columns
    text = find(table, ("text",) if unlabelled else TEXT_NAMES)
    return (text,) if text else ()


def _guess_label(table: Table, exclude: Sequence[str]) -> str | None:
    """The column most like a label: few repeating integers, else repeating names, else decimal numbers."""
    ranked = []
    for column in table.columns:
        values = [value for value in table.column(column) if not missing(value)]
        if column in exclude or column.lower() in METADATA_NAMES or 2 * len(values) < len(table.rows):
            continue
        if any(isinstance(value, list | dict) for value in values):
            continue
        kind, distinct = kind_of(values), len({str(value) for value in values})
        repeating = 2 <= distinct <= min(MAX_INFERRED_CLASSES, len(values) // 2)
        if kind == "numbers" or (kind in ("integers", "names") and repeating):
            ranked.append((("integers", "names", "numbers").index(kind), distinct, column))
    return min(ranked)[2] if ranked else None


def _classifier_columns(table: Table, label: str) -> tuple[str, ...]:
    """One or two text columns: known names, else two wordy columns, else the longest one."""
    single = find(table, TEXT_NAMES, exclude=(label,))
    found = find_all(table, TEXT_PAIRS, exclude=(label,)) or ((single,) if single else ())
    if found:
        return found
    mean_length: dict[str, float] = {}
    wordy = []
    for column in table.columns:
        values = [v for v in table.column(column) if isinstance(v, str) and not missing(v) and number(v) is None]
        if column == label or 2 * len(values) < len(table.rows):
            continue
        mean_length[column] = sum(map(len, values)) / len(values)
        if sum(len(value.split()) for value in values) >= 3 * len(values):
            wordy.append(column)
    if not mean_length:
        raise _cannot_tell("text", table)
    return tuple(wordy) if len(wordy) == 2 else (max(mean_length, key=lambda column: mean_length[column]),)
