"""A selection with the LoRA settings it would be trained with, and a real run of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from advisor.core.targets import LoraSettings, Selection


@dataclass(frozen=True)
class Candidate:
    """A selection with the LoRA settings it would be trained with.

    ``ranks`` and ``alphas`` override single modules, as PEFT's ``rank_pattern`` and ``alpha_pattern`` do.
    """

    selection: Selection
    settings: LoraSettings
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @property
    def patterns(self) -> dict[str, Any]:
        """``rank_pattern`` and ``alpha_pattern`` by full module name, as in a selection file; empty where there are none."""
        return {"rank_pattern": dict(self.ranks), "alpha_pattern": dict(self.alphas)} if self.ranks or self.alphas else {}

    def trained_like(self, other: Candidate) -> bool:
        """Whether both train the same modules in the same way; names do not count."""
        return self == replace(other, selection=replace(other.selection, name=self.selection.name))

    @property
    def ranks_text(self) -> str:
        """rank 8, or ranks 2–24 by module."""
        found = {self.module_settings(name).rank for name in self.selection.targets} or {self.settings.rank}
        return f"rank {min(found)}" if len(found) == 1 else f"ranks {min(found)}–{max(found)} by module"

    def module_settings(self, name: str) -> LoraSettings:
        if name not in self.ranks and name not in self.alphas:  # as most are
            return self.settings
        return replace(
            self.settings,
            rank=self.ranks.get(name, self.settings.rank),
            alpha=self.alphas.get(name, self.settings.alpha),
        )


@dataclass(frozen=True)
class RealRun:
    """A finished LoRA run of a candidate at a scorer's own recipe.

    ``switched``, of a pilot run of all modules: the trained model's validation loss with the adapters of some modules alone at
    work, by their names; of all and of none among them. ``switched_s``: what measuring them took.
    """

    candidate: Candidate
    loss: float
    metric: float
    wall_s: float
    switched: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    switched_s: float = 0.0
