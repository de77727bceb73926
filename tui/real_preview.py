"""What Setup says of model and data before a probe, for :class:`tui.real_engine.RealEngine`; :mod:`advisor` is imported only
when it is asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.engine import Preview
from tui.inputs import Inputs

if TYPE_CHECKING:
    from advisor.data.dataset import Dataset
    from advisor.data.examples import Example

LOOKED_AT = 200  # rows, for how long they are


def preview(inputs: Inputs) -> Preview:
    """As :meth:`tui.engine.Engine.preview`."""
    from advisor.core.errors import BadInput
    from advisor.data.dataset import load_dataset, split_evaluation
    from advisor.data.tables import has_evaluation

    if not inputs.data:
        raise BadInput("No data is named.", "Give a CSV, TSV or JSONL file, a folder, or a hub id.")
    how: dict[str, Any] = {
        "task": inputs.task,
        "text_columns": inputs.text_columns,
        "label_column": inputs.label_column,
        "metric": inputs.metric,
        "language": language_of(inputs.model, inputs.revision),
        "sees": "vision_config" in _config(inputs.model, inputs.revision),
    }
    dataset = load_dataset(inputs.data, **how)
    schema, train = dataset.schema, dataset
    if inputs.eval_data is None and not has_evaluation(inputs.data):
        train, _ = split_evaluation(dataset, inputs.seed)  # as the probe will
    return Preview(
        task=schema.task,
        metric=schema.metric,
        text_columns=schema.text_columns,
        label_column=schema.label_column,
        classes=schema.class_names,
        columns=dataset.columns,
        rows=_rows(dataset),
        total=len(dataset.examples),
        notes=dataset.notes,
        cost=_cost(inputs, train),
    )


def _rows(dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    """The first few: conversations and lists as they were read, other cells as they stand in the file."""
    from advisor.core.tasks import SPANS, TOKENS

    schema, first = dataset.schema, dataset.examples[: len(dataset.first_rows)]
    if schema.task in (SPANS, TOKENS) or first[0].messages:
        return tuple(_told(example, schema.class_names) for example in first)
    wanted = [*schema.text_columns, *([schema.label_column] if schema.label_column else [])]
    return tuple(tuple(str(row.get(column, "")) for column in wanted) for row in dataset.first_rows)


def _told(example: Example, classes: Sequence[str]) -> tuple[str, ...]:
    """Texts, and last what is learned."""
    if example.words:
        tags = ("–" if tag is None else classes[tag] for tag in example.tags)
        return " ".join(example.words), " ".join(tags)
    if not example.messages:
        return *example.texts, "no answer" if example.span is None else example.texts[1][slice(*example.span)]
    *turns, (_, answer) = example.messages
    rejected = example.rejected.messages[-1:] if example.rejected else ()
    marked = [] if example.label is None else [str(bool(example.label))]
    return *(f"{role}: {text}" for role, text in turns), answer, *(text for _, text in rejected), *marked


def model_problem(inputs: Inputs) -> str:
    """As :meth:`tui.engine.Engine.model_problem`."""
    name = str(inputs.model or "")
    folder = Path(name)
    if not name:
        return ""
    if os.path.isdir(folder):  # a name too long is none
        return "" if (folder / "config.json").is_file() else f"{name}: no config.json in that folder. Give a model's folder."
    is_path = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if os.path.exists(folder) or is_path:
        return f"{name}: no such folder. Give a model's folder, or a hub id such as gpt2."
    return ""


def _cost(inputs: Inputs, train: Dataset) -> str:
    """What a probe will take, in words; empty where that cannot be told without the model."""
    from advisor.probing.cost_estimate import estimate_probe

    if not inputs.model or not os.path.isdir(inputs.model):
        return ""
    classes, texts = len(train.schema.class_names), [_texts(example) for example in train.examples[:LOOKED_AT]]
    folder, rows = Path(inputs.model), len(train.examples)
    found = estimate_probe(folder, train.schema.task, classes, rows, texts, inputs.samples, inputs.max_length)
    if found is None:
        return ""
    passes = f"{found.backward} backward {'pass' if found.backward == 1 else 'passes'}"
    return (
        f"Probing takes {found.rows} rows, about {found.tokens:,} tokens, one forward and {passes} "
        f"({found.flops / 1e12:.2g} TFLOP), about {found.disk_bytes / 1e9:.1f} GB of disk while it runs."
    )


def language_of(model: str | os.PathLike[str] | None, revision: str | None) -> str:
    """What a model learns that predicts tokens, by its ``config.json``; ``causal-lm``, as most do, where there is none."""
    return "seq2seq" if _config(model, revision).get("is_encoder_decoder") else "causal-lm"


def _config(model: str | os.PathLike[str] | None, revision: str | None) -> dict[str, Any]:
    """``config.json`` in a model's folder or the hub's cache; empty where neither has one."""
    from huggingface_hub import try_to_load_from_cache

    from advisor.core.errors import BadInput
    from advisor.core.store import read_json

    name = str(model or "")
    try:
        is_folder = os.path.isdir(name)
        path = f"{name}/config.json" if is_folder else try_to_load_from_cache(name, "config.json", revision=revision)
        return read_json(Path(path), "config") if isinstance(path, str) else {}
    except (BadInput, ValueError):  # damaged, or no name that the hub would take
        return {}


def _texts(example: Example) -> list[str]:
    turns = (f"{role}\n{text}\n" for role, text in example.messages)  # as most templates write them between their marks
    own = (*example.texts, *example.words, example.prompt, example.completion, *turns)
    return [*own, *(_texts(example.rejected) if example.rejected else [])]
