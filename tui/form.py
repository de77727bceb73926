"""The fields of Setup: which options it asks for, and the way from text to their values (no Textual)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from advisor.core import option as kinds
from advisor.core.errors import BadInput
from advisor.core.option import Option, options_of
from advisor.core.option_groups import Columns
from tui.inputs import Inputs
from tui.paths import meant

NAMES = (
    "model",
    "data",
    "eval_data",
    "keep",
    "max_forgetting",
    "task",
    "text_column",
    "label_column",
    "metric",
    "budget",
    "granularity",
    "rank",
    "alpha",
    "epochs",
    "lr",
    "batch_size",
    "train_rows",
    "samples",
    "max_length",
    "revision",
    "device",
)
FIRST = ("model", "data", "budget", "rank")  # what one is asked at first; the others are folded
PLACES = ("model", "data", "eval_data", "keep")  # fields that name a file, a folder or a hub id
FIELDS: tuple[Option, ...] = tuple(options_of(Inputs)[name] for name in NAMES)
READING = ("data", *options_of(Columns))  # the fields that say how the data is read


def by_fields(text: str) -> str:
    """A message with the names of fields in the place of the command line's options."""
    labels = {flag: field.label for field in FIELDS for flag in field.flags} | {"--out": "folder"}
    return re.sub(r"--[a-z][a-z-]*", lambda found: labels.get(found[0], found[0]), text)


def is_choice(field: Option) -> bool:
    """Whether one of a few texts is chosen; where none need be, it is typed."""
    return bool(field.choices) and field.default is not None


def shown(inputs: Inputs, field: Option) -> str:
    """A field's value as text; empty for None."""
    value = getattr(inputs, field.name)
    if value is None:
        return ""
    return ", ".join(value) if field.kind == kinds.NAMES else str(value).removesuffix(".0")


def parsed(texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by field name, and what is wrong with those that cannot be read (their values are left out).

    An empty field has its default.
    """
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in FIELDS:
        if field.name not in texts:
            continue
        text = texts[field.name].strip()
        if field.name in PLACES:
            text = meant(text)
        given = [part.strip() for part in text.split(",") if part.strip()] if field.kind == kinds.NAMES else text
        try:
            values[field.name] = field.check(given, field.label) if given else field.default
        except BadInput as error:
            problems[field.name] = str(error)
    return values, problems
