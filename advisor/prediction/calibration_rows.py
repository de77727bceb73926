"""Calibration rows: features of a selection beside what a real run made of it; plain JSON lines (no torch).

Shipped ones are ``profiles/predictors/*.jsonl``; the user's own lie in the platform's user data folder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from advisor.core.checked import Count, Logarithm, Name, NotNegative, Own, Text, Written, check
from advisor.core.errors import BadInput, UnusableRow
from advisor.core.reading import CHECKSUM, check_seal, parse_json, read_bytes, sealed
from advisor.core.recipe import TrainingRecipe
from advisor.core.records import RecipeFields, SettingsFields
from advisor.core.store import user_folder
from advisor.core.targets import LoraSettings
from advisor.theory.features import FEATURE_VERSION, required_feature_names

ROW_SCHEMA = 1
HINT = "Remove that line."
OLDER = {"dtype": "float32", "source_seed": 0}  # what rows of older versions do not say, and mostly were
MADE_OF = (  # what a provenance says of model and data; not the machine, which makes no other group
    *("model_fingerprint", "data_fingerprint", "eval_fingerprint", "train_rows", "eval_rows", "max_length"),
    *OLDER,
)


@dataclass(frozen=True)
class CalibrationRow:
    """One real run.

    Attributes:
        group: what to call model and data, e.g. ``all-MiniLM/sst2/512``; :attr:`group_key` identifies them.
        selection: its name. params: LoRA parameters. seed: of the run.
        features: as :func:`advisor.theory.features.feature_table` gives, by name.
        context: the same for every selection of the group, see :func:`advisor.prediction.context.context_of`.
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

    @cached_property
    def group_key(self) -> tuple[Hashable, ...]:
        """Identifies the group by what was trained, on what and how; where the row does not say the model, by the group's name.
        Selections are only compared inside one group."""
        said = {"model_fingerprint": self.group, **OLDER, **self.provenance}
        recipe = replace(TrainingRecipe(**self.recipe), train_rows=None)  # at most so many; the provenance says how many
        return (*(str(said.get(name)) for name in MADE_OF), recipe, LoraSettings(**self.settings), len(self.mask))

    @property
    def selection_key(self) -> str:
        """Identifies the selection inside its group by its modules; where the row does not say them, by its name."""
        return self.mask or self.selection

    def as_json(self) -> str:
        """One line, with its checksum.

        Raises:
            ValueError: a number is not finite.
        """
        return json.dumps(sealed(asdict(self)), allow_nan=False)


class ContextFields(Own):
    """What all selections of a group share: task, metric, and logarithms."""

    task: Name
    metric: Name
    chance: Logarithm
    log_guess: Logarithm
    head_gain: Logarithm
    log_train_rows: Logarithm
    log_lr: Logarithm
    log_rank: Logarithm
    log_start: Logarithm
    log_simulated: Logarithm


class RowFields(Written):
    """A line of a file of calibration rows, see :class:`CalibrationRow`."""

    group: Text
    selection: Text
    params: Count
    seed: Count
    features: dict[Name, Logarithm]
    context: ContextFields
    recipe: RecipeFields
    settings: SettingsFields
    train_loss: NotNegative | None
    val_loss: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    metric: Name
    score: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
    provenance: dict[Name, Any]
    mask: Annotated[str, Field(pattern="^[01]*$")] = ""
    feature_version: Count
    schema_: Count = Field(alias="schema")
    checksum: Text | None = Field(default=None, description="SHA-256 of the other fields.")


def user_rows_folder() -> Path:
    """Where ``advisor calibrate`` leaves the user's own rows."""
    return user_folder("predictors")


def load_rows() -> list[CalibrationRow]:
    """Shipped and own rows of the present feature version; a row of the user's that cannot be used is warned of and left out.

    A run counts once, however many files have it, as after its folder was moved or copied.
    """
    rows, folder = _shipped_rows(), user_rows_folder()
    if not (own := sorted(folder.glob("*.jsonl")) if folder.is_dir() else []):
        return rows
    names = {str(row.provenance.get("model_fingerprint")): str(row.provenance["model"]) for row in rows}
    rows += [_by_content(row, names) for path in own for row in _usable_rows(path)]
    once: dict[Hashable, CalibrationRow] = {}
    for row in rows:
        once.setdefault((row.group_key, row.selection_key, row.seed), row)
    return list(once.values())


def _shipped_rows() -> list[CalibrationRow]:
    """Those that come with the program, not looked at field by field, which takes longer than reading them: tests do so."""
    shipped = resources.files("profiles") / "predictors"
    files = sorted(shipped.iterdir(), key=lambda f: f.name) if shipped.is_dir() else []
    lines = [line for file in files if file.name.endswith(".jsonl") for line in file.read_bytes().splitlines()]
    found = map(json.loads, lines)
    return [_row(fields) for fields in found if fields["feature_version"] == FEATURE_VERSION]


def _row(fields: Mapping[str, Any]) -> CalibrationRow:
    return CalibrationRow(**{name: value for name, value in fields.items() if name != CHECKSUM})


def _usable_rows(path: Path) -> Iterator[CalibrationRow]:
    """The rows of a user's file that can be used; one warning on the others."""
    problems = []
    try:
        lines = read_bytes(path, "file of calibration rows").splitlines()
    except BadInput as error:
        lines, problems = [], [error]
    for number, line in enumerate(lines, 1):
        try:
            if (row := parse_row(line, f"{path}, line {number}")) is not None:
                yield row
        except BadInput as error:
            problems.append(error)
    if problems:
        more = f" ({len(problems) - 1} more rows there are left out too.)" if len(problems) > 1 else ""
        warnings.warn(f"A calibration row is left out: {problems[0]}{more}", UnusableRow, stacklevel=2)


def _by_content(row: CalibrationRow, names: Mapping[str, str]) -> CalibrationRow:
    """A user's row, its data and model named by their fingerprints, as any two files may be called ``data/train.jsonl``. (Shipped
    rows keep the names: several samples of one public data set have the same, and count as one data set.) ``names``: of the
    models of shipped rows, by fingerprint; a user's runs of one of these are of that model."""
    said = row.provenance
    content = {key: said[f"{key}_fingerprint"] for key in ("data", "model") if said.get(f"{key}_fingerprint")}
    if "model" in content:
        content["model"] = names.get(content["model"], content["model"])
    return replace(row, provenance={**said, **content})


def parse_rows(lines: Iterable[bytes | str], source: str) -> list[CalibrationRow]:
    """Rows of one file; those of another feature version are left out.

    Raises:
        BadInput: names file, line and field.
    """
    rows = (parse_row(line, f"{source}, line {number}") for number, line in enumerate(lines, 1))
    return [row for row in rows if row is not None]


def parse_row(line: bytes | str, where: str) -> CalibrationRow | None:
    """One row, None if it is of another feature version.

    Raises:
        BadInput: names the field.
    """
    fields = parse_json(line, where, "calibration row", HINT, constants=True)
    if not isinstance(fields, dict):
        raise BadInput(f"{where}: not a calibration row but {type(fields).__name__}.", HINT)
    if fields.get("schema") != ROW_SCHEMA:
        raise BadInput(f"{where}: schema is {fields.get('schema')!r:.60}, not {ROW_SCHEMA}.", "Update the program or the file.")
    version = fields.get("feature_version")
    if type(version) is int and version != FEATURE_VERSION:
        return None
    check(RowFields, fields, where, HINT)
    if absent := [name for name in required_feature_names() if name not in fields["features"]]:
        raise BadInput(f"{where}: the field features.{absent[0]} is missing.", HINT)
    check_seal(fields, where, HINT)
    return _row(fields)
