"""Calibration rows: features of a selection beside what a real run made of it; plain JSON lines (no torch).

Shipped ones are ``profiles/predictors/*.jsonl``; the user's own lie in the platform's user data folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.store import user_folder
from advisor.theory.features import FEATURE_VERSION, required_feature_names

ROW_SCHEMA = 1
CONTEXT_NUMBERS = ("chance", "log_guess", "head_gain", "log_train_rows", "log_lr", "log_rank", "log_start", "log_simulated")
CONTEXT_TEXTS = ("task", "metric")


@dataclass(frozen=True)
class CalibrationRow:
    """One real run.

    Attributes:
        group: model and data, e.g. ``all-MiniLM/sst2/512``: selections are only compared inside one group.
        selection: its name. params: LoRA parameters. seed: of the run.
        features: as :func:`advisor.theory.features.feature_table` gives, by name.
        context: the same for every selection of the group, see :func:`advisor.prediction.predictor.context_of`.
        recipe, settings: of the run.
        train_loss: nats at the best epoch, None if nothing was trained. val_loss: its validation loss.
        metric: its name. score: its value.
        provenance: model, data, versions.
        mask: a character for each adaptable module in model order, ``1`` where it is adapted: with the model and the
            data, features can be computed anew.
    """

    group: str
    selection: str
    params: int
    seed: int
    features: Mapping[str, float]
    context: Mapping[str, Any]
    recipe: Mapping[str, Any]
    settings: Mapping[str, Any]
    train_loss: float | None
    val_loss: float
    metric: str
    score: float
    provenance: Mapping[str, Any]
    mask: str = ""
    feature_version: int = FEATURE_VERSION
    schema: int = ROW_SCHEMA

    def as_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)


def user_rows_folder() -> Path:
    """Where ``advisor calibrate`` leaves the user's own rows."""
    return user_folder("predictors")


def load_rows() -> list[CalibrationRow]:
    """Shipped and own rows of the present feature version.

    Raises:
        BadInput: a file is corrupt; names file, line and field.
    """
    rows: list[CalibrationRow] = []
    shipped = resources.files("profiles") / "predictors"
    files = sorted(shipped.iterdir(), key=lambda f: f.name) if shipped.is_dir() else []
    for file in files:
        if file.name.endswith(".jsonl"):
            rows += parse_rows(file.read_text(encoding="utf-8").splitlines(), file.name)
    folder = user_rows_folder()
    if folder.is_dir():
        for path in sorted(folder.glob("*.jsonl")):
            rows += parse_rows(path.read_text(encoding="utf-8").splitlines(), str(path))
    return rows


def parse_rows(lines: Iterable[str], source: str) -> list[CalibrationRow]:
    """Rows of one file; those of another feature version are left out.

    Raises:
        BadInput: names file, line and field.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        where = f"{source}, line {number}"
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise TypeError(f"{type(fields).__name__} instead of an object")
            if fields.get("schema") != ROW_SCHEMA:
                raise BadInput(
                    f"{where}: schema is {fields.get('schema')!r}, not {ROW_SCHEMA}.", "Update the program or the file."
                )
            if not isinstance(fields.get("feature_version"), int):
                raise TypeError(f"feature_version is {fields.get('feature_version')!r}")
            if fields["feature_version"] != FEATURE_VERSION:
                continue
            row = CalibrationRow(**fields)
        except (ValueError, TypeError) as error:
            raise BadInput(f"{where}: not a calibration row: {error}", "Remove that line or the file.") from error
        _check_numbers(row, where)
        rows.append(row)
    return rows


def _check_numbers(row: CalibrationRow, where: str) -> None:
    """Raises:
    BadInput: what a fit reads is missing or not a finite number; names the field.
    """
    found: dict[str, Any] = {"val_loss": row.val_loss, "score": row.score}
    for name, part, keys in (("features", row.features, required_feature_names()), ("context", row.context, CONTEXT_NUMBERS)):
        if not isinstance(part, dict):
            raise BadInput(f"{where}: {name} is {part!r}, not an object.", "Remove that line.")
        found |= {f"{name}.{key}": part.get(key) for key in keys}
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"{where}: {key} is {value!r}, not a finite number.", "Remove that line.")
    if not row.val_loss > 0:
        raise BadInput(f"{where}: val_loss is {row.val_loss!r}, not positive.", "Remove that line.")
    for field, text in (("group", row.group), ("selection", row.selection), *((k, row.context.get(k)) for k in CONTEXT_TEXTS)):
        if not isinstance(text, str):
            raise BadInput(f"{where}: {field} is {text!r}, not a text.", "Remove that line.")
