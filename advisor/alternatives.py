"""Where a format cannot say the pick: the best selection that it can say, and what that costs (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from advisor.errors import BudgetTooSmall
from advisor.events import Session
from advisor.export.plan import Format, plan_of
from advisor.predictor import LEVEL
from advisor.recommend import Recommendation, pick, recommend
from advisor.scoring import Candidate, Scorer

COARSER = ("role", "layer")


@dataclass(frozen=True)
class Alternative:
    """A candidate that a format says exactly.

    ``cost`` is (value, low, high) of its predicted loss over the pick's, less 1: 0.02 is a loss 2 % higher.
    """

    candidate: Candidate
    params: int
    cost: tuple[float, float, float]

    def sentence(self, label: str) -> str:
        """What it is and what it costs."""
        value, low, high = self.cost
        many = len(self.candidate.selection.targets)
        return (
            f"The best that {label} can say exactly: {self.candidate.selection.name} ({many} modules, {self.params:,} LoRA "
            f"parameters), predicted loss {value:+.1%} ({low:+.1%} to {high:+.1%}) against the pick."
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``recommendation.json``."""
        settings = self.candidate.settings
        return {
            "name": self.candidate.selection.name,
            "targets": list(self.candidate.selection.targets),
            "rank": settings.rank,
            "alpha": settings.alpha,
            "params": self.params,
            "loss_change": dict(zip(("value", "low", "high"), self.cost, strict=True)),
        }


def alternative(target: Format, scorer: Scorer, rec: Recommendation, session: Session, seed: int) -> Alternative | None:
    """The pick among the finalists, and the picks by role and by layer, that ``target`` says exactly; None: there is none.

    Nothing is sought where not even all modules at the common rank can be said: then it is the task that cannot.
    """
    if not _exact(target, rec.pool[0], scorer):
        return None
    candidates = [rec.pool[i] for i in rec.finalists if not rec.pool[i].ranks]
    for granularity in COARSER:
        if granularity != rec.granularity:
            try:
                coarser = recommend(scorer, rec.budget, session, granularity=granularity, strategy=rec.strategy, seed=seed)
            except BudgetTooSmall:
                continue
            candidates.append(coarser.picked.candidate)
    candidates = [c for c in candidates if _exact(target, c, scorer)]
    if not candidates:
        return None
    predictions = scorer.predict([rec.picked.candidate, *candidates])
    params = np.array([scorer.cost(c).params for c in (rec.picked.candidate, *candidates)])
    best, _ = pick(predictions, params, range(1, len(candidates) + 1))
    difference = float(predictions.deviation[best] - predictions.deviation[0])
    covariance = predictions.covariance
    variance = float(covariance[best, best] + covariance[0, 0] - 2 * covariance[best, 0])
    half = float(norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(max(variance, 0.0))
    value, low, high = (math.expm1(difference + shift) for shift in (0.0, -half, half))
    return Alternative(candidates[best - 1], int(params[best]), (value, low, high))


def _exact(target: Format, candidate: Candidate, scorer: Scorer) -> bool:
    return bool(candidate.selection.targets) and target.render(plan_of(candidate, scorer.probe)).fidelity == "exact"
