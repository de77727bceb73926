"""Is it placement, or only step size? And can the probe say which learning rate suits? From committed rows alone.

For each model, data set and number of rows with runs of the same selections at two learning rates or more: how alike the orders
of selections are at two rates; what ranks the losses that each selection has at its own best rate; and how much log loss is
lost by one rate for all, by the simulation's rate and by the predictor's, against each selection's best. Predictions come from
the rows of other data sets.

    python benchmarks/rates.py         writes its table into docs/real-runs.md
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from ranking import budget_of, correlations
from validity import HIGH_RATES, HIGHEST_RATE, SHIPPED, judged, predict, read, task_of
from validity_page import put_table, short

from advisor.core.selections import ALL_LINEAR, QV
from advisor.core.store import write_json
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.groups import Group

RESULTS = Path(__file__).parent / "results" / "rates.json"
SIMULATED = "the simulation's"
FEWEST = 6  # selections that two rates share


def families(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups that differ in nothing but the learning rate, lowest first."""
    by_kind: dict[str, list[Group]] = {}
    for group in groups:
        row = group.rows[0]
        kind = {**row.recipe, **row.settings, "lr": None, "model": row.provenance["model"], "data": row.provenance["data"]}
        kept = {k: v for k, v in kind.items() if k not in ("pull", "pull_always")}
        by_kind.setdefault(json.dumps(kept, sort_keys=True), []).append(group)
    for members in by_kind.values():
        if len(members) > 1:
            yield sorted(members, key=lambda g: float(g.rows[0].recipe["lr"]))


def study(members: Sequence[Group], rows: Sequence[CalibrationRow]) -> dict[str, Any] | None:
    """Figures of one family; None where its rates share too few selections."""
    by_mask = [{next(r.mask for r in g.rows if r.selection == s): i for i, s in enumerate(g.selections)} for g in members]
    masks = [m for m in by_mask[0] if all(m in other for other in by_mask[1:])]
    if len(masks) < FEWEST:
        return None
    at = [np.array([index[m] for m in masks]) for index in by_mask]
    names = [members[0].selections[i] for i in at[0]]
    budgets = np.array([budget_of(n) for n in names])
    rates = [float(g.rows[0].recipe["lr"]) for g in members]
    real = np.array([g.log_loss[i] for g, i in zip(members, at, strict=True)])  # [rates, S]
    simulated = np.array([g.context["log_simulated"] + g.simulated[i] for g, i in zip(members, at, strict=True)])
    others = [r for r in rows if task_of(r) != task_of(members[0].rows[0]) and r.recipe["lr"] <= HIGHEST_RATE]
    predicted = np.array([np.log(predict(others, g).loss.value[i]) for g, i in zip(members, at, strict=True)])
    own_best = real.min(0)
    pairs = combinations(range(len(rates)), 2)
    sizes = np.array([float(next(r.params for r in members[0].rows if r.selection == n)) for n in names])
    columns = np.arange(len(names))
    default = min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / 1e-3)))
    lost = {f"{rate:g} for all": float(np.mean(real[i] - own_best)) for i, rate in enumerate(rates)}
    lost[SIMULATED] = float(np.mean(real[simulated.argmin(0), columns] - own_best))
    lost["the predictor's"] = float(np.mean(real[predicted.argmin(0), columns] - own_best))
    return {
        "rates": rates,
        "selections": len(names),
        "seeds": float(np.mean([g.seeds[i].mean() for g, i in zip(members, at, strict=True)])),
        "best at": [int((real.argmin(0) == i).sum()) for i in range(len(rates))],
        "order at two rates": {f"{rates[i]:g} and {rates[j]:g}": correlations(real[i], real[j], budgets) for i, j in pairs},
        "rank of the losses at own best rates": {
            "predicted at the middle rate": correlations(predicted[default], own_best, budgets),
            "predicted at the highest rate": correlations(predicted[-1], own_best, budgets),
            "lowest predicted of all rates": correlations(predicted.min(0), own_best, budgets),
            "parameter count": correlations(-sizes, own_best, budgets),
            "real losses at the middle rate": correlations(real[default], own_best, budgets),
        },
        "log loss lost by rate": lost,
        "log loss above all modules": {
            "at each rate": [_above(row, names) for row in real],
            "at own best rates": _above(own_best, names),
        },
    }


def _above(losses: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Of q,v, and of the random selections in the mean."""
    everything = losses[names.index(ALL_LINEAR)]
    random = [loss - everything for loss, name in zip(losses, names, strict=True) if budget_of(name)]
    return {"q,v": float(losses[names.index(QV)] - everything), "random": float(np.mean(random))}


HEAD = (
    "model on task",
    "rates",
    "selections",
    "best at each",
    "order at the lowest and the highest alike",
    "`q,v` above all modules at each",
    "at own best rates",
    "lost at the lowest",
    "lost at the simulation's",
)


def line(name: str, found: Mapping[str, Any]) -> list[str]:
    """Of the table: log losses, means over selections."""
    rates, above, lost = found["rates"], found["log loss above all modules"], found["log loss lost by rate"]
    return [
        re.sub(r", lr [0-9.e-]+", "", short(name)),
        ", ".join(f"{rate:g}" for rate in rates),
        str(found["selections"]),
        ", ".join(map(str, found["best at"])),
        f"{found['order at two rates'][f'{rates[0]:g} and {rates[-1]:g}']['all']:+.2f}",
        ", ".join(f"{at['q,v']:+.2f}" for at in above["at each rate"]),
        f"{above['at own best rates']['q,v']:+.2f}",
        f"{lost[f'{rates[0]:g} for all']:.2f}",
        f"{lost[SIMULATED]:.2f}",
    ]


def main() -> None:
    rows = [*read(SHIPPED), *read(HIGH_RATES)]
    results: dict[str, Any] = {}
    for members in families(judged(rows)):
        found = study(members, rows)
        if found is not None:
            results[members[0].name] = found
            print(members[0].name, json.dumps(found, indent=1), flush=True)
    write_json(RESULTS, results)
    put_table("rates", HEAD, [line(name, found) for name, found in results.items()])


if __name__ == "__main__":
    main()
