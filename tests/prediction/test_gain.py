"""What adapting all modules is expected to win, how far that is believed, and where it is counted from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import make_rows

from advisor.prediction.gain import LEARNABLE, LEAST_TRUST, PROBED_ROWS, expected_gain, log_base, trust
from advisor.prediction.groups import group_gain, grouped
from advisor.prediction.predictor import Predictor

BALANCED: dict[str, Any] = {
    "log_start": math.log(0.69),
    "log_simulated": math.log(0.4),
    "log_guess": math.log(math.log(2)),
    "head_gain": 0.0,
    "log_train_rows": math.log(PROBED_ROWS),
}
# 7 % of rows are of the second class: guessing has 0.25 nats, a head that began from nothing 0.42 at the end of the recipe.
RARE = {**BALANCED, "log_start": math.log(0.42), "log_simulated": math.log(0.24), "log_guess": math.log(0.25)}


def test_where_a_linear_probe_learns_nothing_little_is_expected() -> None:
    assert trust(BALANCED) == LEAST_TRUST
    assert trust({**BALANCED, "head_gain": LEARNABLE}) == 1.0
    assert expected_gain(BALANCED) == pytest.approx(LEAST_TRUST * math.log(0.69 / 0.4) ** 0.5)


def test_a_rare_class_is_learned_to_be_rare_by_every_set() -> None:
    """As far as the expected gain does not reach that low anyway."""
    assert log_base(RARE) == pytest.approx(math.log(0.25) + expected_gain(RARE))
    assert log_base({**RARE, "head_gain": LEARNABLE}) == RARE["log_start"]
    assert log_base(BALANCED) == pytest.approx(BALANCED["log_start"])


@pytest.mark.parametrize("log_start", [-0.5, 0.8])
def test_without_a_loss_of_guessing_gains_count_from_the_head_alone(log_start: float) -> None:
    """Language models, spans, and standardised values, whose squared error by guessing is 1."""
    assert log_base({**BALANCED, "log_start": log_start, "log_guess": 0.0}) == log_start


def test_gains_and_predictions_of_imbalanced_tasks_count_from_guessing() -> None:
    """Real runs end where guessing does: hardly anything is won beyond, and that is predicted of every set of such a task."""
    context = {**make_rows(1)[0].context, **RARE}
    rows = [replace(row, context=context, val_loss=0.25) for row in make_rows(1, 6)]
    group = grouped(rows)[0]
    assert abs(group_gain(group).value) < 0.1
    predictor = Predictor().fit(make_rows(6), "classification")
    traits = np.array([[0.3, -0.5, 0.0], [0.0, 0.0, 0.0], [1.0, -9.0, 0.0]])  # the last of no module
    distances = np.ones((4, 4)) - np.eye(4)
    some, everything, nothing = predictor.predict(traits, context, distances).loss.value
    assert some == pytest.approx(0.25, rel=0.1)
    assert everything == pytest.approx(0.25, rel=0.1)
    assert nothing == pytest.approx(0.42)
    given = predictor.given(traits, context, distances, [1], [0.25]).loss.value
    assert given[:2] == pytest.approx([0.25, 0.25], rel=0.1)
