"""What ``runs.jsonl`` and ``failed.jsonl`` hold, a line a run: fields and their types."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from advisor.core.checked import Alpha, Count, Name, Names, NotNegative, Number, Own, Rank, Text
from advisor.core.records import RecipeFields, SelectionFields, SettingsFields

Epoch = Annotated[list[Number | None], Field(min_length=3, max_length=3)]


class PlannedFields(Own):
    """What was to be run, see :class:`advisor.training.runner.PlannedRun`."""

    schema_: Count = Field(alias="schema")
    key: Name = Field(description="Identifies the run inside its folder.")
    selection: SelectionFields
    settings: SettingsFields
    ranks: dict[Name, Rank] = Field(default_factory=dict)
    alphas: dict[Name, Alpha] = Field(default_factory=dict)
    measured: list[Names] = Field(default_factory=list)
    recipe: RecipeFields
    seed: Count
    checksum: Text | None = Field(default=None, description="SHA-256 of the other fields.")


class KeptFields(Own):
    """What a run did to rows to keep: loss before and after and KL divergence in nats per token, or drift."""

    before: NotNegative | None = None
    after: NotNegative | None = None
    kl: Number | None = None
    drift: NotNegative | None = None


class ResultFields(Own):
    """What came of it; losses in nats or half squared errors, times in seconds."""

    train_loss: NotNegative | None
    val_loss: NotNegative
    metric: Number
    best_epoch: Count
    epochs: list[Epoch] = Field(description="Training loss, validation loss and metric before the first and after each epoch.")
    distances: list[Number]
    lora_params: Count
    wall_s: NotNegative
    switched: list[NotNegative] = Field(default_factory=list)
    switched_s: NotNegative = 0.0
    kept: KeptFields | None = None


class RunProvenance(Own):
    """Model, data and machine of a run."""

    model: Text
    model_fingerprint: Text
    data: Text
    data_fingerprint: Text
    eval_fingerprint: Text
    task: Name
    metric: Name
    train_rows: Count
    eval_rows: Count
    versions: dict[Name, Any]


class RunFields(PlannedFields):
    """A line of ``runs.jsonl``: a finished run."""

    result: ResultFields
    provenance: RunProvenance

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if len(self.result.switched) != len(self.measured):
            raise ValueError(f"result.switched has {len(self.result.switched)} entries, measured {len(self.measured)}")
        return self


class FailureFields(PlannedFields):
    """A line of ``failed.jsonl``: a run that ended in an error."""

    error: Name
    what: Text
    hint: Text


class CalibrationFields(Own):
    """``calibration.json``: what all runs of its folder share."""

    source: dict[Name, Any]
    recipe: RecipeFields
    eval_rows: Count
    made_of: dict[Name, Text] | None = None
    checksum: Text | None = None
