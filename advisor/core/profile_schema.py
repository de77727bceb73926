"""What a profile file holds: fields and their types."""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

from pydantic import Field, model_validator

from advisor.core.checked import Name, Text, Written
from advisor.core.tasks import TASKS, TaskName, columns_taken

GROUPS = ("attention", "mlp", "recurrent", "other")
Item = TypeVar("Item")
NotEmpty = Annotated[list[Item], Field(min_length=1)]


class ModelProfile(Written):
    """``profiles/models/*.yaml``: the modules of a family and their roles, see docs/profiles.md."""

    family: Text = Field(description="The family's name, for people.")
    model_types: NotEmpty[Name] = Field(description="The values of model_type in config.json that this is for.")
    roles: Annotated[dict[Name, Text], Field(min_length=1)] = Field(
        description="What follows the block's number in a module's name, and its group/role: attention, mlp, recurrent or other."
    )
    qv: list[Name] = Field(description='The roles that stand for "q,v".')
    never: list[Name] = Field(default_factory=list, description="Linear modules that LoRA must not adapt.")

    @model_validator(mode="after")
    def _roles_are_known(self) -> Self:
        for tail, place in self.roles.items():
            group, _, role = place.partition("/")
            if group not in GROUPS or not role:
                raise ValueError(f"roles: {tail!r} is {place!r}, not one of {', '.join(f'{g}/…' for g in GROUPS)}")
        known = {place.partition("/")[2] for place in self.roles.values()}
        for role in self.qv:
            if role not in known:
                raise ValueError(f"qv: {role!r} is none of the roles {', '.join(sorted(known))}")
        return self


class TaskProfile(Written):
    """``profiles/tasks/*.yaml``: the columns and the task of a kind of data, see docs/profiles.md."""

    description: Text
    task: TaskName
    text_columns: NotEmpty[Name]
    label_column: Name | None = Field(
        default=None, description="Required where rows have a label, tags, an answer or a mark; not allowed else."
    )
    metric: Text
    match: NotEmpty[Name] = Field(description="Words in a file's name by which the profile is chosen.")

    @model_validator(mode="after")
    def _fields_fit_the_task(self) -> Self:
        task, texts = TASKS[self.task], self.text_columns
        if self.metric not in task.metrics:
            raise ValueError(f"metric is {self.metric!r}, not one of {', '.join(task.metrics)}")
        if taken := columns_taken(self.task, len(texts)):
            entries = "1 entry" if len(texts) == 1 else f"{len(texts)} entries"
            raise ValueError(f"text_columns has {entries}, and {self.task} takes {taken}")
        if twice := [column for index, column in enumerate(texts) if column in texts[:index]]:
            raise ValueError(f"text_columns has {twice[0]!r} twice")
        if not task.labelled and "label_column" in self.model_fields_set:
            raise ValueError(f"label_column does not apply to {self.task}")
        if task.labelled and self.label_column is None:
            raise ValueError("the field label_column is missing")
        if self.label_column in texts:
            raise ValueError(f"label_column {self.label_column!r} is one of the text_columns")
        return self
