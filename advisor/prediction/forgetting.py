"""Predicted beside real forgetting of calibration runs, and what may be said of further ones (docs/keep.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor.core.choices import LEVEL
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.prediction.disturbance import disturbances
from advisor.prediction.probe_view import FEATURE_KERNELS, probe_view


@dataclass(frozen=True)
class Forgetting:
    """Of the selections of real runs, means over their seeds.

    Attributes:
        names: of the selections. predicted, real: what :attr:`advisor.prediction.disturbance.Disturbance.size` is of, and was.
        spearman: of the two; None where one of them does not vary.
        errors: central interval of real − predicted for one more selection drawn as these were, at ``LEVEL``; None where there
            are too few.
    """

    names: tuple[str, ...]
    predicted: tuple[float, ...]
    real: tuple[float, ...]
    spearman: float | None
    errors: tuple[float, float] | None


def fewest(level: float = LEVEL) -> int:
    """How many selections an interval at ``level`` takes: the extremes of fewer would be too narrow."""
    return math.ceil(round(2 / (1 - level), 9)) - 1


def central_errors(errors: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Order statistics that one more error, exchangeable with these, lies between with a probability of at least ``level``."""
    n = len(errors)
    outside = math.floor(round((n + 1) * (1 - level) / 2, 9))
    if outside < 1:
        return None
    ordered = sorted(errors)
    return ordered[outside - 1], ordered[n - outside]


def forgetting_of(runs: Sequence[Mapping[str, Any]], probe: Probe) -> Forgetting | None:
    """Of runs of the probe's model, data and rows to keep that measured what they forgot; None where there are none. Those that
    adapt nothing, or have ranks of single modules, are left out."""
    from scipy.stats import spearmanr  # here, since it takes long to load

    keep = probe.keep
    measured = [run for run in runs if run["result"].get("kept") and run["selection"]["targets"] and "ranks" not in run]
    if keep is None or not measured:
        return None
    predicted: dict[tuple[str, ...], float] = {}
    real: dict[tuple[str, ...], list[float]] = {}
    names: dict[tuple[str, ...], str] = {}
    for run in measured:
        targets, settings = tuple(run["selection"]["targets"]), LoraSettings(**run["settings"])
        if targets not in predicted:
            view = probe_view(probe, settings, TrainingRecipe(**run["recipe"]))
            mask = np.array([[float(t.name in targets) for t in probe.targets]])
            predicted[targets] = disturbances(probe, keep, view, settings, dict.fromkeys(FEATURE_KERNELS, mask))[0].size
            names[targets] = run["selection"]["name"]
        kept = run["result"]["kept"]
        real.setdefault(targets, []).append(kept["drift"] if "drift" in kept else kept["after"] - kept["before"])
    values = {targets: float(np.mean(found)) for targets, found in real.items()}
    rank = float(spearmanr([*predicted.values()], [values[t] for t in predicted]).statistic) if len(predicted) > 1 else math.nan
    return Forgetting(
        tuple(names.values()),
        tuple(predicted.values()),
        tuple(values[t] for t in predicted),
        rank if math.isfinite(rank) else None,
        central_errors([values[t] - predicted[t] for t in predicted]),
    )
