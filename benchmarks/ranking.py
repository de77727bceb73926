"""How well a score orders the selections of a group, and what its pick loses: rank correlations and regret."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from advisor.advice.recommend import pick
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.groups import Group
from advisor.prediction.predictions import Predictions

FEWEST = 6  # runs a budget needs for a rank correlation inside it
DRAWS = 500


def budget_of(selection: str) -> str:
    """``18%`` of ``random 18% #3``; recipes have no common budget."""
    match = re.match(r"random (\d+%)", selection)
    return match[1] if match else ""


def correlations(score: np.ndarray, loss: np.ndarray, budgets: np.ndarray) -> dict[str, float | None]:
    """Spearman over all selections, and the mean within budgets (None: too few runs)."""

    def rank(keep: np.ndarray) -> float:
        return float(spearmanr(score[keep], loss[keep]).statistic) if np.ptp(score[keep]) > 0 else 0.0

    within = [rank(budgets == b) for b in sorted(set(budgets) - {""}) if (budgets == b).sum() >= FEWEST]
    return {"all": rank(np.ones(len(loss), dtype=bool)), "within": float(np.mean(within)) if within else None}


def bootstrap(score: np.ndarray, loss: np.ndarray, budgets: np.ndarray) -> dict[str, list[float] | None]:
    """90 % intervals of :func:`correlations` over selections drawn with replacement."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(loss), len(loss)) for _ in range(DRAWS)]
    found = [correlations(score[d], loss[d], budgets[d]) for d in draws]
    result: dict[str, list[float] | None] = {}
    for key in ("all", "within"):
        values = [value for f in found if (value := f[key]) is not None and math.isfinite(value)]
        result[key] = [float(q) for q in np.percentile(values, [5, 95])] if len(values) > DRAWS / 2 else None
    return result


def by_seed(group: Group, value: Callable[[CalibrationRow], float]) -> dict[int, np.ndarray]:
    """[S] of each seed that ran every selection."""
    found: dict[int, dict[str, float]] = {}
    for row in group.rows:
        found.setdefault(row.seed, {})[row.selection] = value(row)
    complete = {s: v for s, v in found.items() if all(name in v for name in group.selections)}
    return {seed: np.array([values[name] for name in group.selections]) for seed, values in sorted(complete.items())}


def regrets(
    group: Group, scores: dict[str, np.ndarray], found: Predictions, piloted: Predictions | None, with_one_seed: bool = False
) -> list[dict[str, Any]]:
    """Per budget: metric points lost by the selection each score likes best, against the best of one seed, on the other.

    Needs two seeds; each plays both parts. ``with_one_seed``: a group's only seed chooses the best and judges it, which is partly
    luck, so that every regret is too high. "the pick" is the advisor's own rule, which takes the cheapest of those expected to be
    as good; a random pick is the mean over all selections of the budget.
    """
    losses, metrics = by_seed(group, lambda r: math.log(r.val_loss)), by_seed(group, lambda r: r.score)
    if len(losses) < 2 and not with_one_seed:
        return []
    seeds = (sorted(losses) * 2)[:2] if len(losses) < 2 else sorted(losses)[:2]
    budgets = np.array([budget_of(s) for s in group.selections])
    by_name = {r.selection: r.params for r in group.rows}
    params = np.array([by_name[s] for s in group.selections])
    cells = []
    for budget in sorted(set(budgets) - {""}):
        at = np.flatnonzero(budgets == budget)
        if len(at) < FEWEST:
            continue
        entry: dict[str, float] = {}
        for choose, judge in (seeds, seeds[::-1]):
            best = at[np.argmin(losses[choose][at])]
            reference = 100 * metrics[judge][best]
            picks = {name: 100 * metrics[judge][at[np.argmin(score[at])]] for name, score in scores.items()}
            picks["the pick"] = 100 * metrics[judge][pick(found, params, at.tolist())[0]]
            if piloted is not None:
                picks["the pick after a pilot"] = 100 * metrics[judge][pick(piloted, params, at.tolist())[0]]
            picks["random"] = 100 * float(metrics[judge][at].mean())
            for name, got in picks.items():
                entry[name] = entry.get(name, 0.0) + (reference - float(got)) / 2
        cells.append({"group": group.name, "budget": budget, "regret": entry})
    return cells


def lost(group: Group, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Log loss by which the selection that each score likes best ends above the best of its size; means over sizes, empty where
    no size has ``FEWEST`` selections. "random": of a random one."""
    budgets = np.array([budget_of(s) for s in group.selections])
    sizes = [at for b in sorted(set(budgets) - {""}) if len(at := np.flatnonzero(budgets == b)) >= FEWEST]
    if not sizes:
        return {}
    picks = {name: [group.log_loss[at[np.argmin(score[at])]] for at in sizes] for name, score in scores.items()}
    picks["random"] = [group.log_loss[at].mean() for at in sizes]
    best = [group.log_loss[at].min() for at in sizes]
    return {name: float(np.mean(np.subtract(got, best))) for name, got in picks.items()}
