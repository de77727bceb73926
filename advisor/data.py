"""The user's rows as examples, split and sampled with a seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from advisor.errors import BadInput
from advisor.schema import Schema, class_name, infer_schema, missing, number
from advisor.tables import read_table

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
class Dataset:
    """Examples and how they were read.

    Attributes:
        examples: the usable rows, in file order.
        schema: how they were read.
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
        task: one of ``recipe.TASKS``, or ``auto`` to infer it.
        text_columns: columns to read the text from; inferred when empty.
        label_column: column of the label; inferred when None.
        metric: one the task allows; inferred when None.
        like: read an evaluation file as the training file was read: same columns and class ids. The options
            above are not consulted then, and of a folder or hub data set the validation (else test) part is
            read.

    Raises:
        BadInput: nothing readable there, a row or label that cannot be used, a column that is missing, or a
            task this program does not do; the message names file, line or column.
    """
    if like is not None:
        text_columns, label_column = like.text_columns, like.label_column
    wanted = [*text_columns, *([label_column] if label_column is not None else [])]
    table = read_table(path, wanted, evaluation=like is not None)
    for column in wanted:
        if column not in table.columns:
            columns = ", ".join(table.columns)
            raise BadInput(f"{table.source} has no column {column!r}.", f"Its columns: {columns}.")
    notes = list(table.notes)
    schema = like
    if schema is None:
        schema, inferred = infer_schema(table, path, task, text_columns, label_column, metric)
        notes += inferred
    examples = []
    left_out: Counter[str] = Counter()
    for index, row in enumerate(table.rows):
        example = _example(row, schema, table.where(index))
        if isinstance(example, str):
            left_out[example] += 1
        else:
            examples.append(example)
    dropped = [f"Left out: {n} {'row' if n == 1 else 'rows'} {reason}." for reason, n in left_out.items()]
    if not examples:
        raise BadInput(f"{table.source} has no usable row. {' '.join(dropped)}", "Check the columns.")
    return Dataset(tuple(examples), schema, table.source, (*notes, *dropped), _fingerprint(examples, schema))


def _example(row: dict[str, Any], schema: Schema, place: str) -> Example | str:
    """The row as an example, or the reason to leave it out."""
    columns = schema.text_columns
    if schema.task == "causal-lm" and len(columns) == 1 and isinstance(row.get(columns[0]), list):
        return _chat(row[columns[0]], place)
    texts = tuple(_text(row.get(column), place, column) for column in columns)
    if schema.task == "causal-lm":
        *prompt, completion = texts
        if missing(completion) or (prompt and missing(prompt[0])):
            return "with an empty text"
        return Example(
            prompt="\n\n".join(text for text in prompt if not missing(text)), completion=completion
        )
    if any(map(missing, texts)):
        return "with an empty text"
    label = row.get(schema.label_column or "")
    if missing(label):
        return "without a label"
    return Example(texts=texts, label=_label(label, schema, place))


def _text(value: Any, place: str, column: str) -> str:
    if isinstance(value, list | dict):
        raise BadInput(
            f"{place}: column {column} holds a {type(value).__name__}, not text.",
            "Name another --text-column.",
        )
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode(
        "utf-8"
    )  # tokenizers reject the half characters JSON allows


def _label(value: Any, schema: Schema, place: str) -> int | float:
    if schema.task == "regression":
        parsed = number(value)
        if parsed is None:
            raise BadInput(f"{place}: the label {value!r} is not a finite number.", "Correct the row.")
        return parsed
    name = class_name(value)
    if name not in schema.class_names:
        known = ", ".join(schema.class_names[:10]) + (", …" if len(schema.class_names) > 10 else "")
        raise BadInput(
            f"{place}: the class {name!r} is not among the training classes.", f"They are: {known}."
        )
    return schema.class_names.index(name)


def _chat(turns: list[Any], place: str) -> Example | str:
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or "content" not in turn:
            raise BadInput(
                f"{place}: a message lacks role or content.",
                'Each looks like {"role": "user", "content": "…"}.',
            )
        messages.append((turn["role"], _text(turn["content"], place, "messages")))
    while messages and (messages[-1][0] != "assistant" or missing(messages[-1][1])):
        messages.pop()
    return Example(messages=tuple(messages)) if messages else "without an answer by the assistant"


def _fingerprint(examples: Sequence[Example], schema: Schema) -> str:
    digest = hashlib.sha256(json.dumps(asdict(schema), sort_keys=True).encode())
    for e in examples:
        digest.update(json.dumps([e.texts, e.label, e.prompt, e.completion, e.messages]).encode() + b"\n")
    return digest.hexdigest()


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
        _subset(
            dataset,
            sorted(chosen),
            f"{len(chosen)} of {size} rows, drawn with seed {seed}, are for evaluation.",
        ),
    )


def sample_rows(dataset: Dataset, count: int, seed: int) -> Dataset:
    """``count`` seeded rows in their order; classes in proportion and, if ``count`` allows, each present.

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


def _shares(
    groups: Sequence[Sequence[int]], count: int, least: Sequence[int], most: Sequence[int]
) -> list[int]:
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
