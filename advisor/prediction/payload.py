"""Scores as JSON: what ``advisor score --json`` prints."""

from __future__ import annotations

from typing import Any

from advisor.prediction.predictor import LEVEL
from advisor.prediction.scorer import Score, Scorer, Scores


def scores_json(scores: Scores, scorer: Scorer) -> dict[str, Any]:
    """What ``advisor score --json`` prints (docs/design.md 4)."""
    return {
        "schema": 1,
        "metric": scorer.probe.info["metric"],
        "higher_is_better": True,
        "level": LEVEL,
        "selections": [score_json(score, scorer) for score in scores],
    }


def score_json(score: Score, scorer: Scorer) -> dict[str, Any]:
    """One entry of :func:`scores_json`."""
    settings = score.candidate.settings
    return {
        "name": score.name,
        "params": score.cost.params,
        "params_with_head": score.cost.params_with_head,
        "rank": settings.rank,
        "alpha": settings.alpha,
        **score.candidate.patterns,
        "predicted": {"loss": interval(score.loss), "metric": interval(score.metric)},
        "relative": interval(score.relative),
        "kernel": scorer.kernels.kind,
        "bounds": [bound.as_dict() for bound in score.bounds],
        "cost": {"memory_bytes": score.cost.memory_bytes, "time_vs_all_linear": score.cost.time_vs_all_linear},
        "warnings": list(score.warnings),
    }


def interval(triple: tuple[float, float, float]) -> dict[str, float]:
    """As JSON."""
    return dict(zip(("value", "low", "high"), triple, strict=True))
