"""Adaptable modules and stacks of experts, and selections of them, as plain data (no torch)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from advisor.core.errors import BadInput

SEARCHED = "searched"  # what names begin with that the search gave


@dataclass(frozen=True)
class Target:
    """One adaptable module, or the stacked weights of all experts of a layer.

    Attributes:
        name: full name, as in ``model.named_modules()``; of a stack as in ``model.named_parameters()``.
        layer: number of the block it sits in, None outside any block; a decoder's blocks follow its encoder's.
        role: friendly name shared by all layers, e.g. ``query`` or ``mlp.up``.
        group: ``attention``, ``mlp``, ``recurrent`` (state spaces, linear attention, short convolutions) or ``other``.
        in_features: input width a.
        out_features: output width b.
        kind: ``linear`` (weight b×a), ``conv1d`` (GPT-2's, weight a×b) or ``experts`` (a stack of such weights).
        experts: how many weights a stack holds, 0 for a module. active: how many of them a token goes through, 0 where
            no pass has told.
    """

    name: str
    layer: int | None
    role: str
    group: str
    in_features: int
    out_features: int
    kind: str = "linear"
    experts: int = 0
    active: int = 0

    @property
    def weights(self) -> int:
        """How many matrices it stands for: those of a stack, else one."""
        return max(1, self.experts)

    @property
    def slots(self) -> int:
        """How many of its matrices a token goes through."""
        return max(1, self.active)

    def lora_params(self, rank: int) -> int:
        """Trainable LoRA parameters at ``rank``: rank·(a + b) for each matrix, as PEFT counts them."""
        return rank * (self.in_features + self.out_features) * self.weights

    def b_params(self, rank: int) -> int:
        """Those of LoRA's B alone, which move first."""
        return rank * self.out_features * self.weights


@dataclass(frozen=True)
class LoraSettings:
    """LoRA's rank, alpha and scaling rule, the same for every adapted module."""

    rank: int = 8
    alpha: float = 16
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInput(f"--rank must be at least 1, got {self.rank}.")
        if not 0 < self.alpha < math.inf:
            raise BadInput(f"--alpha must be positive and finite, got {self.alpha}.")

    @property
    def scale(self) -> float:
        """PEFT's scaling: alpha/rank, with rsLoRA alpha/√rank."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def at_rank(self, rank: int) -> LoraSettings:
        """The same at another rank, alpha following so that the scale stays."""
        return replace(self, rank=rank, alpha=self.alpha * (rank / self.rank) ** (0.5 if self.rslora else 1.0))


@dataclass(frozen=True)
class Selection:
    """A named set of target modules (full names, in model order)."""

    name: str
    targets: tuple[str, ...]

    @property
    def is_searched(self) -> bool:
        """Only the search has named it."""
        return self.name.startswith(SEARCHED)

    @property
    def called(self) -> str:
        """Its name for people; where only the search has named it, how many modules it has."""
        return f"{len(self.targets)} modules" if self.is_searched else self.name

    def params(self, targets: Sequence[Target], rank: int, ranks: Mapping[str, int] | None = None) -> int:
        """LoRA parameters of this selection at ``rank``, single modules at their own in ``ranks`` (head excluded)."""
        chosen, own = set(self.targets), ranks or {}
        return sum(t.lora_params(own.get(t.name, rank)) for t in targets if t.name in chosen)

    def active_params(self, targets: Sequence[Target], rank: int, ranks: Mapping[str, int] | None = None) -> int:
        """Those among them that one token goes through: of a stack of experts only the experts that it is sent to."""
        chosen, own = set(self.targets), ranks or {}
        return sum(t.lora_params(own.get(t.name, rank)) * t.slots // t.weights for t in targets if t.name in chosen)


def block_of(name: str) -> tuple[str, int, str] | None:
    """Of a module's full name: the list of blocks it sits in, its block's index there, and what follows; None outside."""
    match = re.search(r"\.(\d+)\.", name)
    return (name[: match.start()], int(match[1]), name[match.end() :]) if match else None


def left_out_notes(names_by_reason: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence on the modules of each reason that has any."""
    left = [(why, names) for why, names in names_by_reason.items() if names]
    return [
        f"Left out: {len(names)} module{'s' * (len(names) != 1)} {why}: {kinds(names)} (first: {names[0]})."
        for why, names in left
    ]


def kinds(names: Iterable[str]) -> str:
    """What the modules are called within their blocks, each name once."""
    return ", ".join(dict.fromkeys(place[2] if (place := block_of(name)) else name for name in names))


def in_model_order(names: Iterable[str], targets: Sequence[Target], where: str = "selection") -> tuple[str, ...]:
    """``names`` sorted as in the model.

    Raises:
        BadInput: a name is not an adaptable module, or stands there twice.
    """
    names = list(names)
    known = {t.name for t in targets}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise BadInput(
            f"{where}: {unknown[0]!r} is not an adaptable module of this model"
            + (f" ({len(unknown)} such names)." if len(unknown) > 1 else "."),
            "Full module names are needed, as `advisor probe` lists them in probe.json.",
        )
    if len(set(names)) != len(names):
        raise BadInput(f"{where}: a module is named twice.", "Name each module once.")
    chosen = set(names)
    return tuple(t.name for t in targets if t.name in chosen)
