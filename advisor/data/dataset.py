"""The user's rows as examples, split and sampled with a seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.tasks import KTO, PREFERENCE, SPANS
from advisor.core.text import printable
from advisor.data.examples import NO_ANSWER, Example, example_of
from advisor.data.schema import Schema, infer_schema
from advisor.data.spans import starts_elsewhere
from advisor.data.tables import ROWS_KEPT, read_table
from advisor.data.turns import SHARE_GPT, role_of, roles_in, unread_fields
from advisor.data.values import said_of_missing

MIN_ROWS_TO_SPLIT = 20
FIRST_ROWS = 5
UNEVEN = 4 / 3  # as many times as the others may be the desirable answers, weighted, by KTO's authors (arXiv 2402.01306)
MOST_ROWS = 0.8  # share of one class from which accuracy says little


@dataclass(frozen=True)
class Dataset:
    """Examples and how they were read.

    Attributes:
        examples: the usable rows, in file order.
        schema: how they were read.
        source: the file as the user named it.
        notes: every inference made and every kind of row dropped, one sentence each.
        fingerprint: sha256 of schema, examples and ``rows_there``, the same wherever the file lies.
        rows_there: usable rows of the source these stand for: their number, more where a large file was sampled while
            reading it (then an estimate).
        columns: names of all columns, in file order.
        first_rows: the first rows as they stand in the file, by column, for a preview.
    """

    examples: tuple[Example, ...]
    schema: Schema
    source: str
    notes: tuple[str, ...]
    fingerprint: str
    rows_there: int
    columns: tuple[str, ...] = ()
    first_rows: tuple[dict[str, Any], ...] = ()


def load_dataset(
    path: str,
    *,
    task: str = "auto",
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    metric: str | None = None,
    language: str = "causal-lm",
    like: Schema | None = None,
    sees: bool = False,
    keep: int = ROWS_KEPT,
    seed: int = 0,
) -> Dataset:
    """Read a file of a format :mod:`advisor.data.formats` knows, a folder of splits, or a hub data set.

    Args:
        path: file, folder or hub id such as ``glue/sst2`` or ``owner/name:config@revision``.
        task: one of ``recipe.TASKS``, or ``auto`` to infer it.
        text_columns: columns to read the text from; inferred when empty.
        label_column: column of the label; inferred when None.
        metric: one the task allows; inferred when None.
        language: the task of rows to be learned token by token: ``seq2seq`` where the model is an encoder-decoder.
        like: read an evaluation file as the training file was read: same columns and class ids. The options
            above are not consulted then, and of a folder or hub data set the validation (else test) part is
            read.
        sees: the model reads images beside texts: those that rows name are read, from where the file lies.
        keep: most rows held in memory; of a larger source so many are drawn with ``seed``, each class among them.

    Raises:
        BadInput: nothing readable there, a row or label that cannot be used, a column that is missing, or a
            task this program does not do; the message names file, line or column.
        OutOfMemory: there is not enough memory to read it.
    """
    if like is not None:
        text_columns, label_column = like.text_columns, like.label_column
    wanted = [*text_columns, *([label_column] if label_column is not None else [])]
    table = read_table(path, wanted, evaluation=like is not None, keep=keep, seed=seed)
    for column in wanted:
        if column not in table.columns:
            columns = ", ".join(table.columns)
            raise BadInput(f"{table.source} has no column {column!r}.", f"Its columns: {columns}.")
    _require_once(text_columns, table.source)
    notes = list(table.notes)
    schema = like
    if schema is None:
        schema, inferred = infer_schema(table, path, task, text_columns, label_column, metric, language, sees)
        notes += inferred
    columns_read = [*schema.text_columns, *([schema.label_column] if schema.label_column is not None else [])]
    _require_once(columns_read, table.source)
    lies = Path(table.source).expanduser()
    folder = (lies if lies.is_dir() else lies.parent) if sees else None
    examples = []
    left_out: Counter[str] = Counter()
    elsewhere = 0
    for index, row in enumerate(table.rows):
        example = example_of(row, schema, table.places[index], folder)
        if isinstance(example, str):
            left_out[example] += 1
        else:
            examples.append(example)
            elsewhere += schema.task == SPANS and starts_elsewhere(row.get(schema.label_column or ""), example.span)
    roles = sorted(set().union(*(roles_in(row.get(column)) for row in table.rows for column in schema.text_columns)))
    if schema.task in LANGUAGE_TASKS and (other := [role for role in roles if role_of(role) != role and role not in SHARE_GPT]):
        read = printable(", ".join(f"{role} as {role_of(role)}" for role in other), 120)
        notes.append(f"Roles are read by another name, which trainers may not do: {read}.")
    fields = sorted(set().union(*(unread_fields(row.get(schema.text_columns[-1])) for row in table.rows)))
    if fields and schema.task in LANGUAGE_TASKS:
        notes.append(f"Not read in turns: {printable(', '.join(fields), 120)}.")
    if elsewhere:
        answers = "1 answer is" if elsewhere == 1 else f"{elsewhere} answers are"
        notes.append(f"{answers} not where answer_start says: read at the first place in the context.")
    dropped = [
        *said_of_missing(table.rows, columns_read),
        *(f"Left out: {n} {'row' if n == 1 else 'rows'} {reason}." for reason, n in left_out.items()),
    ]
    if not examples:
        hint = "Check the columns." if like is None else "Name another evaluation file with --eval-data."
        if NO_ANSWER in left_out and roles and "assistant" not in map(role_of, roles):
            hint = f"The answer's role is assistant; those here are {printable(', '.join(roles), 80)}. Rename them."
        raise BadInput(f"{table.source} has no usable row. {' '.join(dropped)}", hint)
    if schema.task == KTO:
        require_both_marks([example.label for example in examples], table.source)
    rows_there = round(table.total * len(examples) / len(table.rows))
    remarks = [*dropped, *_unasked(examples, schema), *_repeats(examples, schema)]
    return Dataset(
        tuple(examples),
        schema,
        table.source,
        (*notes, *remarks, *([] if like else _imbalance(examples, schema))),
        _fingerprint(examples, schema, rows_there),
        rows_there,
        table.columns,
        table.rows[:FIRST_ROWS],
    )


def _require_once(columns: Sequence[str], source: str) -> None:
    """Raises:
    BadInput: a column is named more than once.
    """
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise BadInput(f"{source}: column {twice} would be read twice.", "Name each column once.")


def _content(example: Example) -> tuple[Any, ...]:
    """What the model reads: two rows with the same are duplicates."""
    if example.image is not None:
        return (example.image.digest,)
    texts: tuple[Any, ...] = example.words or example.texts or example.messages or (example.prompt, example.completion)
    beside = () if example.rejected is None else _content(example.rejected)
    return (*texts, *(image.digest for image in example.images), *beside)


def _unasked(examples: Sequence[Example], schema: Schema) -> list[str]:
    """A note on answers to nothing, where there are columns of what is asked."""
    answers = 2 if schema.task == PREFERENCE else 1
    if schema.task not in LANGUAGE_TASKS or len(schema.text_columns) <= answers:
        return []
    count = sum(not (example.prompt or example.messages or example.images) for example in examples)
    return [f"{count} {'row has' if count == 1 else 'rows have'} an empty prompt: the answer alone is read."] if count else []


def _repeats(examples: Sequence[Example], schema: Schema) -> list[str]:
    """Notes on rows that stand there again, with the same label or with another one."""
    labels: dict[tuple[Any, ...], set[Any]] = {}
    again, torn = 0, []
    for example in examples:
        seen = labels.setdefault(_content(example), set())
        label = example.tags or example.span or example.label
        again += label in seen
        if len(seen) == 1 and label not in seen:
            torn.append(example)
        seen.add(label)
    notes = []
    if again:
        notes.append(f"{again} {'row repeats' if again == 1 else 'rows repeat'} an earlier row exactly.")
    if torn:
        image = torn[0].image
        read = torn[0].words or [" | ".join(torn[0].texts)] if schema.task != KTO else _texts_of(torn[0])[-1:]
        first = shorten(" ".join(read) if image is None else image.path.name, 60, placeholder=" …")
        kind = {"regression": "values", KTO: "marks"}.get(schema.task, "labels")
        what = "text" if image is None else "image"
        notes.append(f"{len(torn)} {f'{what} stands' if len(torn) == 1 else f'{what}s stand'} with different {kind}: {first!r}.")
    return notes


def _imbalance(examples: Sequence[Example], schema: Schema) -> list[str]:
    """A note if one class has most rows, and one if a class has a single row; how many answers are marked desirable."""
    counts = Counter(example.label for example in examples)
    if schema.task == KTO:
        uneven = " Both kinds weigh alike in real runs; TRL evens them out with desirable_weight and undesirable_weight."
        said = f"{counts[1]} of {len(examples)} answers are marked desirable."
        return [said + (uneven if max(counts.values()) > UNEVEN * min(counts.values()) else "")]
    if schema.task != "classification":
        return []
    (label, most), notes = counts.most_common(1)[0], []
    if most > MOST_ROWS * len(examples):
        share = f"{100 * most / len(examples):.3g}% of the rows"
        notes.append(f"The class {schema.class_names[int(label or 0)]} has {share}: --metric matthews says more than accuracy.")
    single = sorted(schema.class_names[int(label or 0)] for label, n in counts.items() if n == 1)
    if single:
        shown = ", ".join(single[:5]) + (", …" if len(single) > 5 else "")
        notes.append(f"Of these classes a single row was read, which training and evaluation cannot both have: {shown}.")
    return notes


def overlap(train: Dataset, evaluation: Dataset) -> int:
    """Evaluation rows whose text also stands in the training data."""
    known = {_content(example) for example in train.examples}
    return sum(_content(example) in known for example in evaluation.examples)


def _fingerprint(examples: Sequence[Example], schema: Schema, rows_there: int) -> str:
    digest = hashlib.sha256(json.dumps([asdict(schema), rows_there], sort_keys=True).encode())
    for e in examples:
        texts = e.texts if e.image is None else (e.image.digest,)
        seen = [[image.digest for image in e.images]] if e.images else []
        words: list[Any] = [[e.words, e.tags]] if e.words else [e.span] if e.span else []
        beside = [] if e.rejected is None else [[e.rejected.prompt, e.rejected.completion, e.rejected.messages]]
        digest.update(json.dumps([texts, e.label, e.prompt, e.completion, e.messages, *seen, *beside, *words]).encode() + b"\n")
    return digest.hexdigest()


def only_read(dataset: Dataset) -> Dataset:
    """The same rows for a classifier that reads them and predicts nothing of them: what was to be predicted is gone, and of a
    language task the whole text is one."""
    return replace(dataset, examples=tuple(replace(_as_read(example), label=0) for example in dataset.examples))


def _as_read(example: Example) -> Example:
    if example.texts or example.image is not None:
        return example
    return Example(texts=("\n\n".join(part for part in _texts_of(example) if part),))


def _texts_of(example: Example) -> list[str]:
    """Of a row of a language task, in order."""
    return [content for _, content in example.messages] or [example.prompt, example.completion]


def require_both_marks(marks: Sequence[Any], source: str) -> None:
    """Raises:
    BadInput: all answers are desirable (1), or all undesirable (0).
    """
    if len(set(marks)) == 1:
        kinds = ("desirable", "undesirable") if marks[0] else ("undesirable", "desirable")
        raise BadInput(
            f"{source}: every usable answer ({len(marks)}) is marked {kinds[0]}; KTO learns from both kinds.",
            f"Add {kinds[1]} answers, or learn all alike: --task causal-lm, and --text-column for the prompt and for the answer.",
        )


def split_evaluation(dataset: Dataset, seed: int, fraction: float = 0.1) -> tuple[Dataset, Dataset]:
    """(rest, evaluation): a seeded split, stratified by class; each class keeps a row in the rest, of KTO also in evaluation.

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
    least = [int(dataset.schema.task == KTO and most > 0) for most in largest]
    count = max(1, round(fraction * size), sum(least))
    chosen = _draw(groups, _shares(groups, count, least, largest), seed)
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
    lost = len(groups) - len({dataset.examples[index].label for index in chosen}) if len(groups) > 1 else 0
    without = f"; {lost} of {len(groups)} classes have none" if lost else ""
    return _subset(dataset, sorted(chosen), f"{count} of {size} rows are sampled (seed {seed}){without}.")


def _by_class(dataset: Dataset) -> list[list[int]]:
    """Row indices, one list a class, or a mark, that has rows; one list in all unless there are such."""
    if dataset.schema.task not in ("classification", KTO):
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
    rows_there = round(dataset.rows_there * len(examples) / len(dataset.examples))
    fingerprint = _fingerprint(examples, dataset.schema, rows_there)
    return replace(dataset, examples=examples, notes=(*dataset.notes, note), fingerprint=fingerprint, rows_there=rows_there)
