"""Do the intervals of differences hold? Real differences in log loss to all-linear and q,v, each group predicted from other data.

Printed by reference, as means over groups: how often 90 % intervals hold the real difference, and their width, once as if the
group's gain of LoRA were known and once as it is known. The intervals are of means over seeds; real differences are of one or
two, so to see whether an interval holds them it is widened by the noise between seeds.

Then what real runs leave of the intervals of the difference to all modules, on groups with two seeds: one of all modules, and
one of the selection too. The runs are those of the first seed, the real difference is the second's. Writes its table into
docs/real-runs.md.

    python benchmarks/differences.py [--exam]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ranking import by_seed
from scipy.stats import norm
from validity import SHIPPED, distances, judged, read, read_exam, task_of
from validity_page import put_table

from advisor.core.choices import LEVEL
from advisor.core.selections import ALL_LINEAR, QV
from advisor.prediction.groups import Group
from advisor.prediction.predictions import Predictions
from advisor.prediction.predictor import Predictor

QUANTILE = float(norm.ppf(0.5 + LEVEL / 2))


def measure(group: Group, predictions: Predictions, reference: str) -> tuple[float, float] | None:
    """Coverage and mean width over the group's other selections; None where the reference was not run."""
    if reference not in group.selections or len(group.selections) < 2:
        return None
    j = group.selections.index(reference)
    found = [
        _held(predictions, i, j, float(group.log_loss[i] - group.log_loss[j]), 1 / group.seeds[i] + 1 / group.seeds[j])
        for i in range(len(group.selections))
        if i != j
    ]
    held, width = np.mean(found, 0)
    return float(held), float(width)


def _held(predictions: Predictions, i: int, j: int, real: float, runs: float) -> tuple[bool, float]:
    """Whether the interval of the difference of i and j, widened by the noise of so many runs, holds the real one; its width."""
    value, low, high = predictions.difference(i, j)
    noise = QUANTILE * predictions.seed_sd * math.sqrt(runs)
    return value - math.hypot(value - low, noise) <= real <= value + math.hypot(high - value, noise), high - low


def after_runs(group: Group, predictor: Predictor) -> list[tuple[float, float]] | None:
    """Coverage and mean width over the group's random selections: before a run, after one of all modules, and after one of the
    selection too; None where the group has one seed."""
    seeds = [*by_seed(group, lambda row: math.log(row.val_loss)).values()]
    if len(seeds) < 2:
        return None
    ran, judge = seeds[:2]
    apart, everything = distances(group), group.selections.index(ALL_LINEAR)

    def given(runs: Sequence[int]) -> Predictions:
        return predictor.given(group.traits, group.context, apart, runs, np.exp(ran[runs]).tolist())

    before, after_one = predictor.predict(group.traits, group.context, apart), given([everything])
    found = []
    for i, name in enumerate(group.selections):
        if name.startswith("random"):
            real = judge[i] - judge[everything]
            found.append([_held(p, i, everything, real, 2.0) for p in (before, after_one, given([everything, i]))])
    return [(float(held), float(width)) for held, width in np.mean(found, 0)] if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", action="store_true", help="of exam data, from all development data; writes nothing")
    options = parser.parse_args()
    rows = read(SHIPPED)
    found, ran = [], []
    for group in judged(read_exam() if options.exam else rows):
        others = [row for row in rows if task_of(row) != task_of(group.rows[0])]
        predictor = Predictor().fit(others, str(group.context["task"]))
        predictions = predictor.predict(group.traits, group.context, distances(group))
        found.append((group, predictions))
        ran.append(after_runs(group, predictor))
    for reference in (ALL_LINEAR, QV):
        for how, as_known in (("gain known", False), ("as shown", True)):
            each = [measure(g, p if as_known else replace(p, log_gain_sd=0.0), reference) for g, p in found]
            kept = np.array([pair for pair in each if pair is not None])
            cover, width = kept.mean(0)
            print(f"{reference}, {how}: {len(kept)} groups, covers {cover:.0%}, width {width:.2f}")
    known = np.array([each for each in ran if each is not None])
    names = ("before a run", "after a run of all modules", "after one of the selection too")
    lines = [[name, f"{cover:.0%}", f"{width:.2f}"] for name, (cover, width) in zip(names, known.mean(0), strict=True)]
    head = (f"difference to all modules, {len(known)} groups with two seeds", "90 % intervals cover", "width, log loss")
    print(*head, *(" ".join(line) for line in lines), sep="\n")
    if not options.exam:
        put_table("differences", head, lines)


if __name__ == "__main__":
    main()
