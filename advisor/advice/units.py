"""What a search adds and drops as one: modules, roles or layers, with their sizes in a budget's own unit (no torch)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advisor.advice.budget import Budget
from advisor.core.targets import Selection, Target
from advisor.prediction.scorer import Scorer
from advisor.theory.surrogate import Mask, unit_matrix

Units = NDArray[np.bool_]


def units_of(scorer: Scorer, budget: Budget, granularity: str) -> tuple[Units, NDArray[np.int64], int]:
    """Units [U, M] of the modules that learn, their sizes [U] and the budget's ceiling in the same unit."""
    probe, rank = scorer.probe, scorer.settings.rank
    units = unit_matrix([_unit_label(t, granularity) for t in probe.targets]) & probe.learns
    units = units[units.any(1)]
    return units, units.astype(np.int64) @ budget.sizes(probe.targets, rank), budget.ceiling(probe.targets, rank)


def _unit_label(target: Target, granularity: str) -> str:
    if granularity == "role":
        return str(target.role)
    if granularity == "layer":
        return f"layer {target.layer}"
    return str(target.name)


def selection_of(scorer: Scorer, units: Units, mask: Mask, name: str = "") -> Selection:
    """The modules of the units that are in the mask."""
    members: Mask = np.asarray(units[mask].any(0))
    return Selection(name, tuple(t.name for t, member in zip(scorer.probe.targets, members, strict=True) if member))


def mask_of(scorer: Scorer, units: Units, selection: Selection) -> Mask | None:
    """Which units a selection takes, as far as its modules learn; None where it takes one in part."""
    taken = np.isin([t.name for t in scorer.probe.targets], selection.targets)
    mask: Mask = np.asarray((units <= taken).all(1))
    return mask if not (units & taken)[~mask].any() else None
