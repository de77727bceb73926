"""What rows to keep say in the choice: a ceiling on what is disturbed, and its front against the task (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput, BudgetTooSmall
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.prediction.predictions import Predictions
from advisor.prediction.scorer import Scorer, Scores
from advisor.theory.surrogate import pareto

TRADE_OFFS = 12  # selections of the front that are shown


def gentle(scorer: Scorer, pool: Sequence[Candidate], allowed: Sequence[int], most: float) -> list[int]:
    """Those of ``allowed`` that are predicted to disturb the rows to keep by at most ``most``, where that is known.

    Raises:
        BadInput: there are no rows to keep, or what is predicted of them is not known to rank real runs.
        BudgetTooSmall: there are no such selections.
    """
    if scorer.probe.keep is None:
        raise BadInput("--max-forgetting needs rows to keep.", "Add --keep, or name a probe that was made with it.")
    require_ranks(scorer.probe.task)
    found = scorer.disturbances([pool[i] for i in allowed])
    kept = [i for i, each in zip(allowed, found, strict=True) if each.is_known and each.size <= most]
    if not kept:
        known = [each.size for each in found if each.is_known]
        least = f"the least is {min(known):.2g}" if known else "the steps are so large that it is known of none"
        raise BudgetTooSmall(
            f"No selection is predicted to raise the loss of the rows to keep by at most {most:g}; {least}.",
            "Raise --max-forgetting, or lower --lr or --epochs.",
        )
    return kept


def require_ranks(task: str) -> None:
    """Raises:
    BadInput: what is predicted of rows to keep is not known to rank real runs of the task.
    """
    if task not in LANGUAGE_TASKS:
        raise BadInput(
            f"--max-forgetting: the task is {task}, and predicted drift ranked real runs too unevenly to choose by it.",
            "Leave it out; --keep alone shows the drift.",
        )


def trade_off(scorer: Scorer, pool: Sequence[Candidate], allowed: Sequence[int], predictions: Predictions) -> Scores | None:
    """The front of what is disturbed against the predicted loss among ``allowed``, gentlest first; None without rows to keep,
    where what is predicted of them is not known to rank real runs, and where it is known of none.

    At most ``TRADE_OFFS`` of it, evenly, its ends among them.
    """
    if not scorer.ranks_forgetting:
        return None
    found = scorer.disturbances([pool[i] for i in allowed])
    allowed = [i for i, each in zip(allowed, found, strict=True) if each.is_known]
    sizes = np.array([each.size for each in found if each.is_known])
    if not allowed:
        return None
    front = pareto(sizes, -predictions.deviation[allowed])
    shown = np.linspace(0, len(front) - 1, min(TRADE_OFFS, len(front))).round().astype(int)
    return scorer.score([pool[allowed[front[k]]] for k in shown])
