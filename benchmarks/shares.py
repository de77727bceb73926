"""What learning from rows adds to the simulation: shares of the gain that selections forgo, each group predicted from other rows.

Ranks and the error of the shares themselves, of the simulation alone and of the regression beside it
(:mod:`advisor.prediction.forgone`), for language models and for the others; data set left out, and model left out.

    python benchmarks/shares.py       writes its tables into docs/real-runs.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ranking import budget_of, by_seed, correlations
from scipy.stats import spearmanr
from validity import RANKED, SHIPPED, judged, model_of, read, task_of
from validity_page import put_table, short

from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.store import write_json
from advisor.prediction.forgone import ALONE, Forgone, fit_forgone, real_shares
from advisor.prediction.groups import Group, group_gain

RESULTS = Path(__file__).parent / "results" / "shares.json"
FEWEST = 4  # selections of one size
LEFT_OUT = {"data set": task_of, "model": model_of}
MANY = 15  # selections of a group that is looked at by itself


def figures(group: Group, fit: Forgone) -> dict[str, float]:
    """Rank correlations with the real losses, NaN where there are too few selections, and the error of the shares."""
    shares = fit.of(group.traits, group.context)
    budgets = np.array([budget_of(s) for s in group.selections])
    sizes = [budgets == b for b in set(budgets) if b and (budgets == b).sum() >= FEWEST]
    within = [float(spearmanr(shares[of], group.log_loss[of]).statistic) for of in sizes if np.ptp(shares[of]) > 0]
    enough = len(group.selections) >= RANKED
    return {
        "all": float(correlations(shares, group.log_loss, budgets)["all"] or 0.0) if enough else math.nan,
        "within": float(np.mean(within)) if within else math.nan,
        "within, many": float(np.mean(within)) if within and len(group.selections) > MANY else math.nan,
        "error": float(np.sqrt(np.mean(np.square(shares - real_shares(group))))) if group_gain(group).is_clear else math.nan,
    }


def means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.nanmean([f[key] for f in found])) for key in found[0]}


def grids(groups: Sequence[Group]) -> list[list[str]]:
    """A line a group of language models with many selections of one size and two seeds: ranks within that size."""
    lines = []
    for group in groups:
        seeds = list(by_seed(group, lambda row: math.log(row.val_loss)).values())
        if group.context["task"] in LANGUAGE_TASKS and len(group.selections) > MANY and len(seeds) > 1:
            others = [g for g in groups if task_of(g.rows[0]) != task_of(group.rows[0]) and group_gain(g).is_clear]
            alike = [g for g in others if g.context["task"] in LANGUAGE_TASKS]
            budgets = np.array([budget_of(s) for s in group.selections])
            ranks = [figures(group, fit)["within"] for fit in (ALONE, fit_forgone(alike).of_all)]
            second = correlations(seeds[0], seeds[1], budgets)["within"] or math.nan
            lines.append([short(group.name), *(f"{rank:+.2f}" for rank in (*ranks, second))])
    return lines


def main() -> None:
    groups = judged(read(SHIPPED))
    results: dict[str, Any] = {}
    lines = []
    for kind, of_kind in (("language models", True), ("classifiers and regressors", False)):
        alike = [g for g in groups if (g.context["task"] in LANGUAGE_TASKS) == of_kind]
        clear = [g for g in alike if group_gain(g).is_clear]
        tried = {"the simulation alone": [figures(g, ALONE) for g in alike]}
        for left, of in LEFT_OUT.items():
            tried[f"learned, {left} left out"] = [
                figures(g, fit_forgone([o for o in clear if of(o.rows[0]) != of(g.rows[0])]).of_all) for g in alike
            ]
        for name, found in tried.items():
            mean = means(found)
            results[f"{kind}: {name}"] = mean
            lines.append(
                [
                    f"{len(alike)} groups of {kind}: {name}",
                    *(f"{mean[k]:+.2f}" for k in ("all", "within", "within, many")),
                    f"{mean['error']:.2f}",
                ]
            )
    write_json(RESULTS, results)
    head = ("shares by", "all budgets", "within one", "within one, groups of over 15", "root mean square error of the share")
    put_table("shares", head, lines)
    of_one_size = ("within one budget", "the simulation alone", "learned, data set left out", "a second seed")
    put_table("shares by rate", of_one_size, grids(groups), "shares")
    for line in lines:
        print(*line, sep=" | ")


if __name__ == "__main__":
    main()
