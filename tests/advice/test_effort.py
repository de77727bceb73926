"""What the next stage of effort costs and can win."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import make_probe, make_scorer

from advisor.advice import effort
from advisor.advice.budget import parse_budget
from advisor.advice.confirm import draws_of
from advisor.advice.recommend import recommend
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.prediction.predictions import Estimate, Predictions
from advisor.report.verdict import CONFIRM_CAVEAT, UNLIKE_CAVEAT, next_step

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.mark.parametrize(("rows", "epochs", "batch", "steps"), [(512, 6, 32, 96), (100, 2, 32, 8), (3, 5, 32, 5)])
def test_steps_of_a_run_are_those_of_the_loop(rows: int, epochs: int, batch: int, steps: int) -> None:
    scorer = make_scorer(make_probe(n=24, layers=1, train_rows=rows), recipe=TrainingRecipe(epochs=epochs, batch_size=batch))
    assert effort.run_steps(scorer, scorer.recipe) == steps == sum(1 for _ in range(epochs) for _ in range(0, rows, batch))


def test_measuring_counts_forward_passes() -> None:
    # 48 candidates, 160 rows, as they are and at twice the size: 15,360 rows forward; a step of 32 rows is worth 96
    classifier = make_scorer(make_probe(n=24, layers=1))
    assert effort.measuring_steps(classifier, 48, TrainingRecipe(batch_size=32)) == 160
    language = make_scorer(make_probe(n=24, layers=4, task="causal-lm"))  # measures six random sets beside them
    assert effort.measuring_steps(language, 42, TrainingRecipe(batch_size=32)) == 160


def test_what_knowing_the_best_wins_is_the_expected_maximum_of_gaussians() -> None:
    # of two that are independent and alike: E[x0 − min(x0, x1)] = sd/√π
    none = Estimate(*(np.zeros(2),) * 3)
    alike = Predictions(none, none, none, np.zeros(2), np.eye(2) * 0.04, 0.01, ())
    draws = draws_of(alike, [0, 1])
    assert (draws[:, 0] - draws.min(1)).mean() == pytest.approx(0.2 / math.sqrt(math.pi), rel=0.05)


def test_the_next_stage_is_named_with_its_cost_and_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make_scorer(make_probe(n=24, layers=3, train_rows=512))
    rec = recommend(scorer, parse_budget("50%"), Session())
    assert 0 <= effort.most_to_win(scorer, rec) < 1
    monkeypatch.setattr("advisor.report.verdict.STABLE", 0.0)
    monkeypatch.setattr("advisor.report.verdict.most_to_win", lambda *_: 0.034)
    text = next_step(scorer, rec, None)
    assert "--effort pilot" in text
    assert f"({effort.run_steps(scorer, scorer.recipe)} steps)" in text
    assert "at most 3%" in text
    assert text.endswith(CONFIRM_CAVEAT)
    far = replace(rec, picked=replace(rec.picked, warnings=("Far from the calibration rows.",)))
    assert next_step(scorer, far, None).endswith(UNLIKE_CAVEAT)
    monkeypatch.setattr("advisor.report.verdict.most_to_win", lambda *_: 0.001)
    assert next_step(scorer, rec, None).startswith("Next: train with lora.yaml.")
    scorer.context = {**scorer.context, "head_gain": 0.0}
    assert "--effort pilot" in (text := next_step(scorer, rec, None))
    assert "whether anything can be won" in text
    monkeypatch.setattr("advisor.report.verdict.STABLE", 1.1)
    assert next_step(scorer, rec, None) == text  # sets that change with the sample matter less
