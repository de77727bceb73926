"""How much adapting all modules is expected to win, from what the probe simulated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEATURE = "recipe_loss"  # the feature that holds the simulated recipe's log loss
TRAITS = (FEATURE, "params", "depth")  # features of a selection that predictions are made from

CURVE = 1.5  # real runs forgo less than simulated ones where little is forgone
LEAST_GAIN = 0.03  # simulated gains below count as this: smaller ones are noise of the probe's sample
GAIN_POWER = 0.5  # real gains differ less than simulated ones
PROBED_ROWS = 512  # rows of most runs; a probe's 128 examples do not show what more rows teach …
ROWS_POWER = 0.35  # … so real gains grow by this power of them,
LEARNABLE = 0.06  # log loss a linear probe must win for gains to be believed in full; below, in proportion
LEAST_TRUST = 0.05
ALIGNMENT = "adam.alignment"  # the feature that holds a kernel's alignment with the labels
USUALLY_ALIGNED = 0.1  # by so much the kernel of all modules is usually better aligned than that of the head


def simulated_gain(context: Mapping[str, Any]) -> float:
    """Log loss that adapting all modules wins in the simulated recipe."""
    return max(float(context["log_start"]) - float(context["log_simulated"]), LEAST_GAIN)


def counted_gain(context: Mapping[str, Any]) -> float:
    """Log loss by which a count of word pairs does better than the model before training; 0 where it does worse."""
    return max(float(context["log_start"]) - float(context["log_counted"]), 0.0)


def trust(context: Mapping[str, Any]) -> float:
    """How far a simulated gain is believed, ``LEAST_TRUST`` to 1: where a linear probe on frozen features learns nothing
    of the task, real runs of adapters mostly gained nothing either, and differences between selections were noise."""
    return min(max(float(context["head_gain"]) / LEARNABLE, LEAST_TRUST), 1.0)


def expected_gain(context: Mapping[str, Any]) -> float:
    """What real gains lie around, :mod:`advisor.prediction.gain_level`: the root of the simulated gain, as far as it is believed,
    times what more rows than the usual ones teach."""
    return float(simulated_gain(context) ** GAIN_POWER) * trust(context) * math.exp(ROWS_POWER * log_rows(context))


def log_base(context: Mapping[str, Any], start: float | None = None) -> float:
    """Log loss that gains are counted from: of training the head alone, or of guessing where even the expected gain ends above.

    Args:
        start: log loss of really training the head alone; None: as simulated.

    When a recipe ends, a head alone may not have learned yet that a class is rare; real runs of any set of modules had, so all of
    them reach the loss of guessing by the shares of the classes. That is not known of language models and spans, and 1 of
    standardised values, which a head alone always reaches.
    """
    start, guess = float(context["log_start"]) if start is None else start, float(context["log_guess"])
    return start - max(start - guess - expected_gain(context), 0.0) if guess else start


def log_rows(context: Mapping[str, Any]) -> float:
    """Log of the training rows over the usual ones."""
    return float(context["log_train_rows"]) - math.log(PROBED_ROWS)


def curve(forgone: Array, power: float = CURVE) -> Array:
    """Share of the real gain that is forgone, from the simulated share: sign(x)·|x|^1.5; or with another power."""
    return np.asarray(np.sign(forgone) * np.abs(forgone) ** power)
