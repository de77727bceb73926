"""The user's rows as examples: what the task is, which columns are read, what the labels are.

Everything inferred becomes a note, and every inference can be overridden.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from advisor.errors import BadInput
from advisor.profiles import load_profiles
from advisor.recipe import TASKS
from advisor.tables import LABEL_NAMES, NUMBER, TEXT_NAMES, Table, read_table

METRICS = {
    "classification": ("accuracy", "matthews", "f1"),
    "regression": ("spearman",),
    "causal-lm": ("token_accuracy",),
}
TEXT_PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
    ("question", "passage"), ("query", "passage"), ("text1", "text2"), ("text_a", "text_b"),
)  # fmt: skip
PROMPT_COMPLETION = (
    ("prompt", "completion"), ("prompt", "response"), ("instruction", "input", "output"),
    ("instruction", "context", "response"), ("instruction", "output"), ("instruction", "response"),
)  # fmt: skip
PROMPT_COMPLETION_UNLABELLED = (("question", "answer"), ("input", "output"))
REFUSED = {
    "Token classification": (("tokens", "ner_tags"), ("tokens", "pos_tags"), ("tokens", "tags"), ("words", "ner")),
    "Extractive question answering": (("context", "answers"),),
}
SCORE_NAMES = ("score", "similarity", "rating", "value")
MAX_GUESSED_CLASSES = 200
MIN_ROWS_TO_SPLIT = 20


@dataclass(frozen=True)
class Example:
    """One row, ready for a tokenizer.

    Attributes:
        texts: one or two texts (classification, regression).
        label: class id, or the value to predict.
        prompt: what the completion answers; empty for plain text (causal-lm).
        completion: the text that is learned (causal-lm).
        messages: (role, content) turns of a chat; the last one is the assistant's answer, which is learned.
    """

    texts: tuple[str, ...] = ()
    label: int | float | None = None
    prompt: str = ""
    completion: str = ""
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Schema:
    """How rows are read.

    Attributes:
        task: ``classification``, ``regression`` or ``causal-lm``.
        text_columns: columns the text is read from. Chat: ``("messages",)``; prompt and completion: the completion
            is last, what stands before it is joined to the prompt; plain text: one column.
        label_column: column of the label, None for causal-lm.
        class_names: name of each class id; empty unless classification.
        metric: ``accuracy``, ``matthews``, ``f1``, ``spearman`` or ``token_accuracy``.
    """

    task: str
    text_columns: tuple[str, ...]
    label_column: str | None
    class_names: tuple[str, ...]
    metric: str


@dataclass(frozen=True)
class Dataset:
    """Examples and how they were read.

    Attributes:
        source: the file as the user named it.
        notes: every inference made and every kind of row dropped, one sentence each.
        fingerprint: sha256 of schema and examples, the same wherever the file lies.
    """

    examples: tuple[Example, ...]
    schema: Schema
    source: str
    notes: tuple[str, ...]
    fingerprint: str


def load_dataset(
    path: str,
    *,
    task: str = "auto",
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    metric: str | None = None,
    like: Schema | None = None,
) -> Dataset:
    """Read a JSONL, JSON, CSV, TSV or text file, a folder holding ``train.*``, or a hub data set.

    Args:
        path: file, folder or hub id such as ``glue/sst2``.
        task: one of ``TASKS``, or ``auto`` to infer it.
        text_columns: columns to read the text from; inferred when empty.
        label_column: column of the label; inferred when None.
        metric: one the task allows; inferred when None.
        like: read an evaluation file as the training file was read: same columns and class ids. The other options
            are not consulted then, and a folder's or hub data set's validation (else test) part is taken.

    Raises:
        BadInput: nothing readable there, a row or label that cannot be used, a column that is missing, or a task
            this program does not do; the message names file, line or column.
    """
    if task not in ("auto", *TASKS):
        raise BadInput(f"There is no task {task!r}.", f"Use one of: auto, {', '.join(TASKS)}.")
    if like is not None:
        text_columns, label_column = like.text_columns, like.label_column
    wanted = (*text_columns, *([label_column] if label_column is not None else []))
    table = read_table(path, wanted, evaluation=like is not None)
    for column in wanted:
        if column not in table.columns:
            raise BadInput(f"{table.source} has no column {column!r}.", f"Its columns: {', '.join(table.columns)}.")
    notes = list(table.notes)
    schema = like or _infer(table, path, task, tuple(text_columns), label_column, metric, notes)
    examples = _examples(table, schema, notes)
    return Dataset(examples, schema, table.source, tuple(notes), _fingerprint(examples, schema))


# --- inference ---------------------------------------------------------------------------------------------------


def _infer(
    table: Table, path: str, task: str, texts: tuple[str, ...], label: str | None, metric: str | None, notes: list[str]
) -> Schema:
    asked = (task, texts, label, metric)
    if not texts:
        _refuse_other_tasks(table)
    profile_name, profile = _matching_profile(table, path, task)
    if profile:
        notes.append(f"The {profile_name} profile fits the name and the columns, and is used.")
        task = profile["task"]
        texts = texts or tuple(profile["text_columns"])
        label = label or _find(table, (profile.get("label_column"),))
    if task in ("auto", "causal-lm") and label is None:
        texts = texts if task == "causal-lm" and texts else texts or _language_columns(table, task)
        if texts and (task == "causal-lm" or not asked[1]):
            task = "causal-lm"
    if task == "causal-lm":
        if label is not None:
            raise BadInput("A label column does not apply to causal-lm.", "Name the answer as the last --text-column.")
        if not texts:
            raise _cannot_tell("text", table)
        classes: tuple[str, ...] = ()
    else:
        label = label or _find(table, LABEL_NAMES, texts) or _guess_label(table, texts)
        if label is None:
            raise _cannot_tell("label", table)
        texts = texts or _classifier_columns(table, label)
        if len(texts) > 2:
            raise BadInput(f"A classifier reads one or two texts, not {len(texts)}.", "Name at most two columns.")
        task, classes = _label_kind(table, task, texts, label)
    default = profile.get("metric") if profile and profile["task"] == task else None
    metric = metric or default or METRICS[task][0]
    if metric not in METRICS[task]:
        raise BadInput(f"The metric {metric!r} does not apply to {task}.", f"Use one of: {', '.join(METRICS[task])}.")
    if asked[0] == "auto":
        notes.append(f"The task is {task}.")
    if not asked[1]:
        notes.append(f"The text is read from {' and '.join(texts)}.")
    if asked[2] is None and label is not None:
        notes.append(f"The label is read from {label}.")
    if classes:
        shown = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
        notes.append(f"There are {len(classes)} classes: {shown}.")
    if asked[3] is None:
        notes.append(f"The metric is {metric}.")
    return Schema(task, texts, label, classes, metric)


def _cannot_tell(what: str, table: Table) -> BadInput:
    return BadInput(
        f"{table.source}: which column holds the {what} cannot be told from the columns {', '.join(table.columns)}.",
        f"Name it with --{what}-column, or pass --task.",
    )


def _find(table: Table, names: Iterable[str | None], exclude: Sequence[str] = ()) -> str | None:
    """The first of ``names`` that is a column, whatever its case."""
    columns = {column.lower(): column for column in reversed(table.columns) if column not in exclude}
    return next((columns[name] for name in names if name in columns), None)


def _find_all(table: Table, groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The first group whose names are all columns."""
    for names in groups:
        found = [_find(table, (name,)) for name in names]
        if all(found):
            return tuple(column for column in found if column)
    return ()


def _refuse_other_tasks(table: Table) -> None:
    for kind, groups in REFUSED.items():
        found = _find_all(table, groups)
        if found:
            raise BadInput(
                f"{table.source}: the columns {' and '.join(found)} are those of another task. {kind} is not supported.",
                "Classification, regression and causal-lm are; name the columns with --text-column if it is one.",
            )


def _matching_profile(table: Table, path: str, task: str) -> tuple[str, dict[str, Any]]:
    """The task profile named by the file or its folder whose text columns the table has."""
    place = Path(path).expanduser()
    parts = [place.stem, place.absolute().parent.name, place.name]
    words = {re.sub(r"[\W_]", "", part.lower()) for part in parts}
    words |= {word for part in parts for word in re.split(r"[\W_]+", part.lower())}
    for name, profile in load_profiles("tasks").items():
        if task not in ("auto", profile["task"]) or words.isdisjoint(profile["match"]):
            continue
        if all(column in table.columns for column in profile["text_columns"]):
            return name, profile
    return "", {}


def _language_columns(table: Table, task: str) -> tuple[str, ...]:
    """Columns of chat, prompt/completion or plain text rows; none when the rows look labelled."""
    messages = _find(table, ("messages",))
    if messages and isinstance(next((v for v in table.column(messages) if v is not None), None), list):
        return (messages,)
    found = _find_all(table, PROMPT_COMPLETION)
    if found:
        return found
    labelled = task == "auto" and (_find(table, LABEL_NAMES) or _guess_label(table, ()))
    if labelled:
        return ()
    found = _find_all(table, PROMPT_COMPLETION_UNLABELLED)
    if found:
        return found
    text = table.columns[0] if len(table.columns) == 1 else _find(table, ("text", "content"))
    return (text,) if text else ()


def _values(table: Table, column: str) -> list[Any]:
    return [value for value in table.column(column) if not _missing(value)]


def _guess_label(table: Table, texts: Sequence[str]) -> str | None:
    """The column most like a label: few repeating integers, else few repeating names, else decimal numbers."""
    ranked = []
    for column in table.columns:
        values = _values(table, column)
        if column in texts or 2 * len(values) < len(table.rows) or any(isinstance(v, list | dict) for v in values):
            continue
        kind, distinct = _kind(values), len({str(v) for v in values})
        few = 2 <= distinct <= min(MAX_GUESSED_CLASSES, len(values) // 2)
        if (kind in ("integers", "names") and few) or kind == "numbers":
            ranked.append((("integers", "names", "numbers").index(kind), distinct, column))
    return min(ranked)[2] if ranked else None


def _classifier_columns(table: Table, label: str) -> tuple[str, ...]:
    """One or two text columns: known names, else the wordy columns, else the longest one."""
    found = _find_all(table, TEXT_PAIRS)
    single = _find(table, TEXT_NAMES, exclude=(label,))
    if found or single:
        return found or ((single,) if single else ())
    lengths: dict[str, float] = {}
    wordy = []
    for column in table.columns:
        values = [value for value in _values(table, column) if isinstance(value, str) and _number(value) is None]
        if column == label or 2 * len(values) < len(table.rows):
            continue
        lengths[column] = sum(map(len, values)) / len(values)
        if sum(len(value.split()) for value in values) >= 3 * len(values):
            wordy.append(column)
    if not lengths:
        raise _cannot_tell("text", table)
    return tuple(wordy) if len(wordy) == 2 else (max(lengths, key=lambda column: lengths[column]),)


# --- labels ------------------------------------------------------------------------------------------------------


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float | None:
    """The finite number a cell holds, if it does."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _kind(values: Sequence[Any]) -> str:
    """``integers``, ``numbers`` (some with decimals), ``names``, or ``mixed``: mostly numbers."""
    numbers = [number for number in map(_number, values) if number is not None]
    if not numbers or 2 * len(numbers) < len(values):
        return "names"
    if len(numbers) < len(values):
        return "mixed"
    return "integers" if all(number.is_integer() for number in numbers) else "numbers"


def _class_name(value: Any) -> str:
    """A class is named by its value: ``1`` for 1, "1" and 1.0; ``true`` for JSON's true."""
    number = _number(value)
    if number is not None and number.is_integer():
        return str(int(number))
    return str(value).strip() if isinstance(value, str) else json.dumps(value)


def _label_kind(table: Table, task: str, texts: Sequence[str], label: str) -> tuple[str, tuple[str, ...]]:
    """Task and class names, from the labels of the rows that will be used."""
    used = [
        (index, row[label])
        for index, row in enumerate(table.rows)
        if not any(_missing(row.get(column)) for column in (*texts, label))
    ]
    if not used:
        raise BadInput(
            f"{table.source}: no row has text in {' and '.join(texts)} and a label in {label}.", "Check the columns."
        )
    for index, value in used:
        if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
            raise BadInput(
                f"{table.where(index)}: the label {json.dumps(value)} is neither a number nor a name.",
                "Give each row one finite number or one class name.",
            )
    values = [value for _, value in used]
    kind, distinct = _kind(values), len({_class_name(value) for value in values})
    if (kind == "mixed" and task != "classification") or (kind == "names" and task == "regression"):
        index, value = next((index, value) for index, value in used if _number(value) is None)
        raise BadInput(
            f"{table.where(index)}: the label {value!r} in column {label} is not a number, as others are.",
            "Correct the row, or pass --task classification to take every label as a class name.",
        )
    if task == "auto":
        scores = label.lower() in SCORE_NAMES and distinct > MIN_ROWS_TO_SPLIT
        crowded = distinct > MAX_GUESSED_CLASSES or 2 * distinct > max(len(values), 4)
        regression = kind == "numbers" or (kind == "integers" and (scores or crowded))
        task = "regression" if regression else "classification"
    if distinct < 2:
        raise BadInput(
            f"{table.source}: every label in column {label} is {_class_name(values[0])!r}.",
            "Two different labels are needed at least; check --label-column.",
        )
    if task == "regression":
        return task, ()
    names = {_class_name(value) for value in values}
    return task, tuple(sorted(names, key=float if kind in ("integers", "numbers") else str))


# --- examples ----------------------------------------------------------------------------------------------------


def _text(value: Any, place: str, column: str) -> str:
    if isinstance(value, list | dict):
        raise BadInput(f"{place}: column {column} holds a {type(value).__name__}, not text.", "Use --text-column.")
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate would stop every tokenizer


def _examples(table: Table, schema: Schema, notes: list[str]) -> tuple[Example, ...]:
    """Every usable row; what is dropped is counted in ``notes``."""
    examples = []
    dropped: dict[str, int] = {}
    class_ids = {name: index for index, name in enumerate(schema.class_names)}
    for index, row in enumerate(table.rows):
        place = table.where(index)
        if schema.task == "causal-lm":
            first = row.get(schema.text_columns[0])
            if isinstance(first, list) and len(schema.text_columns) == 1:
                example, reason = _chat(first, place), "without an answer by the assistant"
            else:
                example, reason = _completion(row, schema.text_columns, place), "with an empty text"
        else:
            example, reason = _labelled(row, schema, class_ids, place)
        if example is None:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            examples.append(example)
    for reason, count in dropped.items():
        notes.append(f"{count} {'row' if count == 1 else 'rows'} {reason} left out.")
    if not examples:
        raise BadInput(f"{table.source} has no usable row: {' '.join(notes[-len(dropped):])}", "Check the columns.")
    if schema.task == "causal-lm" and len(schema.text_columns) == 3:
        notes.append(f"The prompt is {schema.text_columns[0]}, then a blank line and {schema.text_columns[1]} if any.")
    return tuple(examples)


def _labelled(row: dict[str, Any], schema: Schema, class_ids: dict[str, int], place: str) -> tuple[Example | None, str]:
    column = str(schema.label_column)
    texts = tuple(_text(row.get(name), place, name) for name in schema.text_columns)
    value = row.get(column)
    if any(_missing(text) for text in texts):
        return None, "with an empty text"
    if _missing(value):
        return None, "without a label"
    if schema.task == "regression":
        number = _number(value)
        if number is None:
            raise BadInput(f"{place}: the label {value!r} in column {column} is not a finite number.", "Correct the row.")
        return Example(texts=texts, label=number), ""
    name = _class_name(value)
    if name not in class_ids:
        raise BadInput(
            f"{place}: the class {name!r} in column {column} is not among the training classes.",
            f"They are: {', '.join(schema.class_names[:10])}{', …' if len(schema.class_names) > 10 else ''}.",
        )
    return Example(texts=texts, label=class_ids[name]), ""


def _completion(row: dict[str, Any], columns: Sequence[str], place: str) -> Example | None:
    *prompts, completion = (_text(row.get(column), place, column) for column in columns)
    if _missing(completion) or (prompts and _missing(prompts[0])):
        return None
    return Example(prompt="\n\n".join(part for part in prompts if not _missing(part)), completion=completion)


def _chat(turns: list[Any], place: str) -> Example | None:
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or "content" not in turn:
            raise BadInput(f"{place}: a message needs a role and a content.", 'As in {"role": "user", "content": "…"}.')
        messages.append((turn["role"], _text(turn["content"], place, "content")))
    while messages and (messages[-1][0] != "assistant" or _missing(messages[-1][1])):
        messages.pop()
    return Example(messages=tuple(messages)) if messages else None


def _fingerprint(examples: Sequence[Example], schema: Schema) -> str:
    digest = hashlib.sha256(json.dumps(asdict(schema), sort_keys=True).encode())
    for e in examples:
        digest.update(json.dumps([e.texts, e.label, e.prompt, e.completion, e.messages]).encode() + b"\n")
    return digest.hexdigest()


# --- splitting and sampling --------------------------------------------------------------------------------------


def split_evaluation(dataset: Dataset, seed: int, fraction: float = 0.1) -> tuple[Dataset, Dataset]:
    """(rest, evaluation): a seeded split, stratified by class; each class keeps a row in the rest.

    Raises:
        BadInput: ``fraction`` is not between 0 and 1, or there are too few rows.
    """
    size = len(dataset.examples)
    if not 0 < fraction < 1:
        raise BadInput(f"The evaluation fraction must lie between 0 and 1, got {fraction}.")
    groups = _by_class(dataset)
    largest = [len(group) - 1 for group in groups]
    if size < MIN_ROWS_TO_SPLIT or not any(largest):
        raise BadInput(
            f"{dataset.source}: {size} usable rows are too few to split an evaluation set off.",
            "Give an evaluation file with --eval-data, or more rows.",
        )
    count = max(1, round(fraction * size))
    chosen = _draw(groups, _shares(groups, count, [0] * len(groups), largest), seed)
    rest = [index for index in range(size) if index not in chosen]
    return (
        _subset(dataset, rest, f"{len(chosen)} of {size} rows are set aside for evaluation (seed {seed})."),
        _subset(dataset, sorted(chosen), f"{len(chosen)} of {size} rows, drawn with seed {seed}, are for evaluation."),
    )


def sample_rows(dataset: Dataset, count: int, seed: int) -> Dataset:
    """``count`` seeded rows in their order, classes in proportion and, where ``count`` allows, each at least once.

    Raises:
        BadInput: ``count`` is below 1.
    """
    size = len(dataset.examples)
    if count < 1:
        raise BadInput(f"At least one row must be sampled, got {count}.")
    if count >= size:
        return dataset
    groups = _by_class(dataset)
    least = [1 if count >= len(groups) else 0] * len(groups)
    chosen = _draw(groups, _shares(groups, count, least, [len(group) for group in groups]), seed)
    return _subset(dataset, sorted(chosen), f"{count} of {size} rows are sampled (seed {seed}).")


def _by_class(dataset: Dataset) -> list[list[int]]:
    """Row indices, one list a class that has rows; one list in all unless classification."""
    if dataset.schema.task != "classification":
        return [list(range(len(dataset.examples)))]
    groups: dict[int | float | None, list[int]] = {}
    for index, example in enumerate(dataset.examples):
        groups.setdefault(example.label, []).append(index)
    return [groups[label] for label in sorted(groups, key=lambda label: label or 0)]


def _shares(groups: Sequence[Sequence[int]], count: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """How many of ``count`` each group gives: in proportion, by largest remainder, within the limits."""
    total = sum(map(len, groups))
    exact = [count * len(group) / total for group in groups]
    shares = [min(max(int(e), low), high) for e, low, high in zip(exact, least, most, strict=True)]
    step = 1 if sum(shares) < count else -1
    while sum(shares) != count:
        free = [i for i, n in enumerate(shares) if (n < most[i] if step > 0 else n > least[i])]
        if not free:
            break
        shares[max(free, key=lambda i: step * (exact[i] - shares[i]))] += step
    return shares


def _draw(groups: Sequence[Sequence[int]], shares: Sequence[int], seed: int) -> set[int]:
    generator = random.Random(seed)
    return {index for group, n in zip(groups, shares, strict=True) for index in generator.sample(group, n)}


def _subset(dataset: Dataset, indices: Iterable[int], note: str) -> Dataset:
    examples = tuple(dataset.examples[index] for index in indices)
    fingerprint = _fingerprint(examples, dataset.schema)
    return replace(dataset, examples=examples, notes=(*dataset.notes, note), fingerprint=fingerprint)
