"""What ``recommendation.json`` holds for ``advisor export``: the plan and the formats, their fields and types."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from advisor.core.checked import Alpha, Name, Names, Own, Rank, Text, Written
from advisor.core.records import SelectionFields, SettingsFields, TargetFields
from advisor.core.tasks import TaskName


class PlanFields(Written):
    """What is to be trained, see :class:`advisor.export.plan.Plan`."""

    selection: SelectionFields
    settings: SettingsFields
    targets: Annotated[list[TargetFields], Field(min_length=1)]
    task: TaskName
    head: Names
    base_model: Text
    model_type: Text = ""
    outputs: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    ranks: dict[Name, Rank] = Field(default_factory=dict)
    alphas: dict[Name, Alpha] = Field(default_factory=dict)
    comments: list[Text] = Field(default_factory=list)
    reads: Literal["text", "images", "images and text"] = "text"
    revision: Text | None = None
    stored: Text | None = None
    pooling: Name | None = None

    @model_validator(mode="after")
    def _modules_are_known(self) -> Self:
        known = {target.name for target in self.targets}
        chosen = self.selection.targets
        for field, names in (("selection.targets", chosen), ("ranks", self.ranks), ("alphas", self.alphas)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{field}: {name[:100]!r} is not among the targets")
        if len(set(chosen)) != len(chosen):
            raise ValueError("selection.targets: a module is named twice")
        return self


class AlternativeFields(Own):
    """Another selection, which a format can say exactly: why, and what of the plan differs."""

    reason: Text
    plan: dict[Name, Any]


class FormatFields(Own):
    """What was written in one format."""

    alternatives: dict[Name, AlternativeFields] = Field(default_factory=dict)


class RecommendationFields(Own):
    """``recommendation.json``, as far as ``advisor export`` reads it."""

    plan: PlanFields
    formats: dict[Name, FormatFields]
    checksum: Text | None = Field(default=None, description="SHA-256 of the other fields.")
