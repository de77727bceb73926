"""What the stages of effort cost, in training steps of all modules, and what they can win at most (no torch)."""

from __future__ import annotations

import math

from advisor.advice.confirm import draws_of
from advisor.advice.recommend import Recommendation
from advisor.core.recipe import PASSES_A_STEP, PILOT_EVAL_ROWS, PILOT_SCALES, TrainingRecipe
from advisor.prediction.probe_view import training_rows
from advisor.prediction.scorer import Scorer


def run_steps(scorer: Scorer, recipe: TrainingRecipe) -> int:
    """Optimizer steps of one real run."""
    return math.ceil(training_rows(scorer.probe, recipe) / recipe.batch_size) * recipe.epochs


def measuring_steps(scorer: Scorer, finalists: int, recipe: TrainingRecipe) -> int:
    """What measuring the finalists, and random sets beside them, takes in a pilot run at most: forward passes over the same rows
    for each."""
    measured = finalists + len(scorer.level_sets)
    return math.ceil(measured * PILOT_EVAL_ROWS * len(PILOT_SCALES) / (PASSES_A_STEP * recipe.batch_size))


def most_to_win(scorer: Scorer, rec: Recommendation) -> float:
    """Share of the loss that knowing the best finalist would win over the pick, expected: the value of perfect information.

    No real run can be expected to win more.
    """
    predictions = scorer.predict([rec.pool[i] for i in rec.finalists])
    draws = draws_of(predictions, range(len(rec.finalists)))
    return float(1 - math.exp(-float((draws[:, 0] - draws.min(1)).mean())))
