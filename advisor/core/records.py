"""Parts that several of our files share: what a target, a selection, settings and a recipe look like in JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from advisor.core.checked import Alpha, Count, Name, Names, NotNegative, Rank, Text, Written

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]


class TargetFields(Written):
    """An adaptable module, see :class:`advisor.core.targets.Target`."""

    name: Name
    layer: Count | None
    role: Name
    group: Literal["attention", "mlp", "recurrent", "other", "vision", "connector"]
    in_features: Positive
    out_features: Positive
    kind: Literal["linear", "conv1d", "experts"] = "linear"
    experts: Count = 0
    active: Count = 0


class SelectionFields(Written):
    """A named set of modules."""

    name: Text
    targets: Names


class SettingsFields(Written):
    """LoRA's rank, alpha and scaling rule."""

    rank: Rank
    alpha: Alpha
    rslora: bool = False


class RecipeFields(Written):
    """A training recipe, see :class:`advisor.core.recipe.TrainingRecipe`."""

    train_rows: Positive | None = None
    epochs: Positive
    lr: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    batch_size: Positive
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.06
    pull: NotNegative = 0.0
    pull_always: bool = False
