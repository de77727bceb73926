"""Budgets: a share of all LoRA parameters, a number of them, a number of modules, or training memory (no torch)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.errors import BadInput
from advisor.core.targets import Target
from advisor.theory.training_cost import Cost

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


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
        import numpy as np  # the terminal interface reads budgets before anything heavy is loaded

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
    plain = text.strip().lower().replace(",", "").replace("_", "")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|modules?|gb|gib|mb|[kmb]?)", plain)
    if match is None or float(match[1]) <= 0:
        raise BadInput(f"--budget {text}: not understood.", "Write 25%, 2M (LoRA parameters), 12modules or 24GB.")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        if number > 100:
            raise BadInput(f"--budget {text}: above 100 %.", "100% is every adaptable module at this rank.")
        return Budget(text, "share", number / 100)
    if unit.startswith("module"):
        return Budget(text, "modules", number)
    if unit in ("gb", "gib", "mb"):
        return Budget(text, "memory", number * {"gb": 1e9, "gib": 2**30, "mb": 1e6}[unit])
    return Budget(text, "params", number * UNITS.get(unit, 1.0))
