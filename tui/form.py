"""The fields of Setup: labels, help, and the way from text to the values of :class:`tui.inputs.Inputs` (no Textual)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from advisor.advice.budget import parse_budget
from advisor.core.errors import BadInput
from tui.inputs import Inputs

TEXT, WHOLE, REAL, LIST, CHOICE = "text", "whole", "real", "list", "choice"


@dataclass(frozen=True)
class Field:
    """One field: its name in ``Inputs``, what it takes, and what F1 says of it.

    Attributes:
        unset: what is shown while empty: what the engine then does. choices: (shown, value).
        data: the field says how the data is read.
    """

    name: str
    label: str
    kind: str
    help: str
    unset: str = ""
    choices: tuple[str, ...] = ()
    data: bool = False


FIELDS = (
    Field(
        "model", "Model", TEXT, "A local folder with config.json and safetensors, or a hub id such as gpt2.", "folder or hub id"
    ),
    Field(
        "data",
        "Data",
        TEXT,
        "Your training rows: CSV, TSV, JSONL, a folder with train.*, or a hub id such as glue/sst2.",
        "file, folder or hub id",
        data=True,
    ),
    Field(
        "eval_data",
        "Evaluation",
        TEXT,
        "Rows to evaluate on, never probed. Empty: a data folder's own test part, else 10 % split off the data.",
        "its test part, or 10 %",
    ),
    Field(
        "task",
        "Task",
        CHOICE,
        "What the model learns. auto infers it from the columns; the rows show how they are read.",
        choices=("auto", "classification", "regression", "causal-lm", "seq2seq"),
        data=True,
    ),
    Field(
        "text_columns",
        "Text columns",
        LIST,
        "Columns the text is read from, separated by commas; two for pairs of texts.",
        "inferred",
        data=True,
    ),
    Field("label_column", "Label column", TEXT, "Column of the class or the value to predict.", "inferred", data=True),
    Field("metric", "Metric", TEXT, "accuracy, matthews or f1; spearman; token_accuracy.", "inferred", data=True),
    Field(
        "budget",
        "Budget",
        TEXT,
        "The most a selection may cost: 25% of the LoRA parameters of all modules, 2M LoRA "
        "parameters, 12modules, or 24GB of training memory.",
    ),
    Field(
        "granularity",
        "Choose by",
        CHOICE,
        "What moves together in the search: single modules, whole roles or whole layers.",
        choices=("module", "role", "layer"),
    ),
    Field("rank", "Rank", WHOLE, "LoRA rank r: each adapted a×b matrix gets r·(a+b) parameters."),
    Field("alpha", "Alpha", REAL, "LoRA alpha: the update is scaled by alpha/rank."),
    Field("epochs", "Epochs", WHOLE, "Passes over the training rows the prediction is for. LM: language models.", "6 (LM: 3)"),
    Field("lr", "Learning rate", REAL, "Peak learning rate that the prediction is for. LM: language models.", "1e-3 (LM: 2e-4)"),
    Field("batch_size", "Batch size", WHOLE, "Rows a training step; memory grows with it. LM: language models.", "32 (LM: 16)"),
    Field("train_rows", "Training rows", WHOLE, "How many rows the prediction is for.", "all there are"),
    Field(
        "samples", "Probe rows", WHOLE, "Examples the probe looks at; more make it steadier and slower.", "max(128, 4 × classes)"
    ),
    Field("max_length", "Max tokens", WHOLE, "Tokens a row; longer ones are cut. LM: language models.", "128 (LM: 512)"),
    Field("revision", "Revision", TEXT, "Of a model of the hub: branch, tag or commit.", "main"),
    Field("device", "Device", CHOICE, "Where the model runs.", choices=("auto", "cpu", "cuda", "disk")),
)


def shown(inputs: Inputs, field: Field) -> str:
    """A field's value as text; empty for None."""
    value = getattr(inputs, field.name)
    if value is None:
        return ""
    return ", ".join(value) if field.kind == LIST else f"{value:g}" if field.kind == REAL else str(value)


def parsed(texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by field name, and what is wrong with those that cannot be read (their values are left out).

    An empty field is None, or the default of ``Inputs`` where that is not None.
    """
    defaults = Inputs()
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in FIELDS:
        if field.name not in texts:
            continue
        text = texts[field.name].strip()
        try:
            values[field.name] = _value(field, text) if text else getattr(defaults, field.name)
        except ValueError as error:
            problems[field.name] = f"{field.label}: {text} is not {error}."
        except BadInput as error:
            problems[field.name] = f"{field.label}: {str(error).removeprefix(f'--{field.name} ')}"
    return values, problems


def problems_of(inputs: Inputs) -> dict[str, str]:
    """What is wrong with the values of a command line or an old session, by field name."""
    return parsed({field.name: shown(inputs, field) for field in FIELDS})[1]


def usable(inputs: Inputs) -> Inputs:
    """The same, fields with a wrong value at their defaults."""
    return replace(inputs, **{name: getattr(Inputs(), name) for name in problems_of(inputs)})


def _value(field: Field, text: str) -> Any:
    if field.kind == LIST:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if field.kind == WHOLE:
        plain = text.replace(",", "").replace("_", "")
        if not plain.isascii() or not plain.isdigit() or int(plain) < 1:
            raise ValueError("a whole number above 0")
        return int(plain)
    if field.kind == REAL:
        try:
            number = float(text)
        except ValueError:
            raise ValueError("a number") from None
        if not 0 < number < math.inf:
            raise ValueError("a number above 0")
        return number
    if field.name == "budget":
        parse_budget(text)
    if field.kind == CHOICE and text not in field.choices:
        raise ValueError(f"one of {', '.join(field.choices)}")
    return text
