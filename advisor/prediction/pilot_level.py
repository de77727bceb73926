"""What a pilot run says of selections that it measured with all other adapters switched off: their order, and how much small sets
forgo of a language model's gain.

Sets of one size forgo more or less than predicted together, and before a run nothing tells how much. In real runs of two
language models on 22 data sets the mean share that random sets lose when switched off said how much: the common error fell from
0.16 to 0.08 of the gain, each data set predicted from the others (docs/real-runs.md). Of classifiers it said nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import HEADLESS
from advisor.core.selections import distinct, structured_random
from advisor.core.targets import Selection, Target
from advisor.prediction.forgone import shares_of
from advisor.prediction.gain import log_base

Array = NDArray[np.float64]
SETS, SHARE = 6, 0.18  # random sets, and their share of the LoRA parameters of all modules
USUAL, SLOPE = 0.6, 0.6  # share that such sets usually lose, and what the forgone share rises by with it
LEFT = 0.5  # of the variance of the common error


def level_sets(targets: Sequence[Target], task: str, rank: int) -> list[Selection]:
    """The random sets, the same at every call; none where the task has a new head."""
    if task not in HEADLESS:
        return []
    rng, budget = np.random.default_rng(0), int(SHARE * sum(target.lora_params(rank) for target in targets))
    return distinct([structured_random(targets, budget, rank, rng, f"random {SHARE:.0%} #{i}") for i in range(SETS)])


def level_of(context: Mapping[str, Any], log_losses: Array, everything: float) -> float:
    """Mean share of the gain that sets lose, from their log losses and that of all modules in the same measurement."""
    return float(shares_of(log_base(context), log_losses, everything).mean())


def shift(level: float) -> float:
    """By how much more is forgone than predicted, times the root of the share of modules that a set leaves out."""
    return SLOPE * (level - USUAL)


def narrowed(misfit: float, common: float) -> tuple[float, float]:
    """The misfit and its common share of the variance once the level is known."""
    left = 1.0 - common + LEFT * common
    return misfit * left**0.5, LEFT * common / left


def on_scale_of(shares: Array, measured: Array, values: Array) -> Array:
    """Measured values as shares of the gain: the k-th lowest of those ``measured`` of some selections stands for the k-th lowest
    of the same selections' predicted ``shares``, and what lies between is interpolated.

    Only the order of a measurement counts so: modules trained alone take over what the others did beside them, to an extent
    that differs between tasks.

    Args:
        shares, measured: [K] of the same selections. values: [S], of any.
    """
    return np.asarray(np.interp(values, np.sort(measured), np.sort(shares)))
