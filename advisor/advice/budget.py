"""Budgets: a share of all LoRA parameters, a number of them, a number of modules, or training memory (no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.core.amounts import read_budget
from advisor.core.targets import Target
from advisor.theory.training_cost import Cost


@dataclass(frozen=True)
class Budget:
    """A ceiling.

    Attributes:
        text: as the user wrote it. kind: ``share``, ``params``, ``modules`` or ``memory``. amount: in LoRA
            parameters' share, LoRA parameters, modules, or bytes.
    """

    text: str
    kind: str
    amount: float

    def sizes(self, targets: Sequence[Target], rank: int) -> NDArray[np.int64]:
        """What each module counts against the ceiling: 1 for a number of modules, else its LoRA parameters."""
        return np.array([1 if self.kind == "modules" else t.lora_params(rank) for t in targets], dtype=np.int64)

    def ceiling(self, targets: Sequence[Target], rank: int) -> int:
        """The most that ``sizes`` may sum to; memory does not limit it (see :meth:`allows`)."""
        total = int(self.sizes(targets, rank).sum())
        if self.kind == "share":
            return _whole(self.amount * total)
        return total if self.kind == "memory" else _whole(self.amount)

    def params(self, targets: Sequence[Target], rank: int) -> int:
        """The ceiling in LoRA parameters, for setting another recipe at equal budget."""
        if self.kind == "modules":
            largest = sorted((t.lora_params(rank) for t in targets), reverse=True)
            return sum(largest[: _whole(self.amount)])
        return self.ceiling(targets, rank)

    def allows(self, cost: Cost, modules: int, targets: Sequence[Target], rank: int) -> bool:
        """Whether a selection of ``modules`` modules at this cost is within the ceiling."""
        if self.kind == "memory":
            return cost.memory_bytes <= self.amount
        return (modules if self.kind == "modules" else cost.params) <= self.ceiling(targets, rank)


def _whole(amount: float) -> int:
    """Rounded down, but 29 % of 100 is 29 although 0.29 · 100 is 28.999…"""
    return math.floor(amount + 1e-6)


def parse_budget(text: str) -> Budget:
    """``25%`` of the LoRA parameters of all adaptable modules, ``2M`` of them, ``12modules``, or ``24GB`` at training.

    Raises:
        BadInput: none of these, or not positive.
    """
    return Budget(text, *read_budget(text))
