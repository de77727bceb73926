"""Do the intervals of differences hold? Real differences in log loss to all-linear and q,v, each group predicted from other data.

Printed by reference, as means over groups: how often 90 % intervals hold the real difference, and their width, once as if the
group's gain of LoRA were known and once as it is known. The intervals are of means over seeds; real differences are of one or
two, so to see whether an interval holds them it is widened by the noise between seeds.

    python benchmarks/differences.py [--exam]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
from scipy.stats import norm
from validity import SHIPPED, distances, judged, read, read_exam, task_of

from advisor.core.choices import LEVEL
from advisor.core.selections import ALL_LINEAR, QV
from advisor.prediction.groups import Group
from advisor.prediction.predictor import Predictions, Predictor

QUANTILE = float(norm.ppf(0.5 + LEVEL / 2))


def measure(group: Group, predictions: Predictions, seed_sd: float, reference: str) -> tuple[float, float] | None:
    """Coverage and mean width over the group's other selections; None where the reference was not run."""
    if reference not in group.selections or len(group.selections) < 2:
        return None
    j = group.selections.index(reference)
    held, widths = [], []
    for i in range(len(group.selections)):
        if i != j:
            value, low, high = predictions.difference(i, j)
            real = group.log_loss[i] - group.log_loss[j]
            noise = QUANTILE * seed_sd * math.sqrt(1 / group.seeds[i] + 1 / group.seeds[j])
            held.append(value - math.hypot(value - low, noise) <= real <= value + math.hypot(high - value, noise))
            widths.append(high - low)
    return float(np.mean(held)), float(np.mean(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", action="store_true", help="of exam data, from all development data")
    rows = read(SHIPPED)
    found = []
    for group in judged(read_exam() if parser.parse_args().exam else rows):
        others = [row for row in rows if task_of(row) != task_of(group.rows[0])]
        predictor = Predictor().fit(others, str(group.context["task"]))
        predictions = predictor.predict(group.traits, group.context, distances(group))
        found.append((group, predictions, predictions.seed_sd))
    for reference in (ALL_LINEAR, QV):
        for how, as_known in (("gain known", False), ("as shown", True)):
            each = [measure(g, p if as_known else replace(p, log_gain_sd=0.0), sd, reference) for g, p, sd in found]
            kept = np.array([pair for pair in each if pair is not None])
            cover, width = kept.mean(0)
            print(f"{reference}, {how}: {len(kept)} groups, covers {cover:.0%}, width {width:.2f}")


if __name__ == "__main__":
    main()
