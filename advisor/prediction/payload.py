"""Scores for programs: typed entries, and what ``advisor score --json`` prints of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from advisor.core.choices import LEVEL
from advisor.prediction.disturbance import Disturbance
from advisor.prediction.scorer import Score, Scorer, Scores
from advisor.theory.bounds import Bound

SCORES_SCHEMA = 1


@dataclass(frozen=True)
class Interval:
    """A value with its central interval at ``LEVEL``."""

    value: float
    low: float
    high: float

    @property
    def triple(self) -> tuple[float, float, float]:
        return self.value, self.low, self.high


@dataclass(frozen=True)
class Predicted:
    """Of a single run: validation loss and metric."""

    loss: Interval
    metric: Interval


@dataclass(frozen=True)
class CostEntry:
    """Estimates: bytes that training needs, and the time of a step against all-linear."""

    memory_bytes: float
    time_vs_all_linear: float


@dataclass(frozen=True, kw_only=True)
class ScoreEntry:
    """What is predicted of one selection.

    Attributes:
        params: LoRA parameters. active_params: those that one token goes through; None where that is all of them.
        rank_pattern, alpha_pattern: by full module name; None where all modules have the common ones.
        relative: expected loss against all-linear in seed standard deviations, higher is better.
        vs_all_linear: the same as the share by which the loss is higher (0.1: 10 % higher), whatever the gain of LoRA.
        disturbs: what it does to the rows of ``--keep``; None where there are none.
    """

    name: str
    params: int
    active_params: int | None = None
    params_with_head: int
    rank: int
    alpha: float
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    predicted: Predicted
    relative: Interval
    vs_all_linear: Interval
    kernel: str
    bounds: tuple[Bound, ...]
    cost: CostEntry
    warnings: tuple[str, ...]
    disturbs: Disturbance | None = None

    def rank_of(self, module: str) -> int:
        return (self.rank_pattern or {}).get(module, self.rank)

    def alpha_of(self, module: str) -> float:
        return (self.alpha_pattern or {}).get(module, self.alpha)


def plain(value: Any) -> Any:
    """``value`` as JSON holds it. A dataclass becomes an object of its fields, or what its own ``as_dict`` gives; a field whose
    default is None is left out where it is None."""
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if is_dataclass(value) and not isinstance(value, type):
        found = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: plain(item) for field, item in found if not (item is None and field.default is None)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def score_fields(score: Score, scorer: Scorer) -> dict[str, Any]:
    """The arguments of a :class:`ScoreEntry`, for those who add to it."""
    candidate = score.candidate
    return {
        "name": score.name,
        "params": score.cost.params,
        "active_params": score.cost.active_params if score.cost.active_params < score.cost.params else None,
        "params_with_head": score.cost.params_with_head,
        "rank": candidate.settings.rank,
        "alpha": candidate.settings.alpha,
        **candidate.patterns,
        "predicted": Predicted(Interval(*score.loss), Interval(*score.metric)),
        "relative": Interval(*score.relative),
        "vs_all_linear": Interval(*score.vs_all),
        "kernel": scorer.kernels.kind,
        "bounds": score.bounds,
        "cost": CostEntry(score.cost.memory_bytes, score.cost.time_vs_all_linear),
        "warnings": score.warnings,
        "disturbs": score.disturbs,
    }


def score_entry(score: Score, scorer: Scorer) -> ScoreEntry:
    return ScoreEntry(**score_fields(score, scorer))


def score_json(score: Score, scorer: Scorer) -> dict[str, Any]:
    """One entry of :func:`scores_json`."""
    found: dict[str, Any] = plain(score_entry(score, scorer))
    return found


def scores_json(scores: Scores, scorer: Scorer) -> dict[str, Any]:
    """What ``advisor score --json`` prints (docs/design.md 4)."""
    return {
        "schema": SCORES_SCHEMA,
        "metric": scorer.probe.info["metric"],
        "higher_is_better": True,
        "level": LEVEL,
        "selections": [score_json(score, scorer) for score in scores],
    }
