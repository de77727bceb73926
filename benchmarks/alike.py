"""How often do two selections end alike that are predicted to? Pairs by predicted probability, each group from other data.

Two end alike if their losses, means over seeds, lie within 5 % of each other. Printed by class of the predicted probability:
pairs, and the share of them that really do, before a run and after a pilot, with rows of the same model among the others and
without. Then, for lines that might be drawn: the share of all pairs above it, how many of these end alike, and both as means over
data sets. Writes the classes into docs/real-runs.md.

    python benchmarks/alike.py [--exam]
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field

import numpy as np
from validity import PILOTS, SHIPPED, given_pilot, judged, model_of, predict, read, read_exam, task_of
from validity_page import put_table

from advisor.core.choices import ALIKE_WITHIN
from advisor.prediction.groups import Group
from advisor.prediction.predictions import Predictions

CLASSES = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))
STAGES = ("before a run, pairs: really", "after a pilot", "a new model, before", "a new model, after")
LINES = (0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass
class Pairs:
    """Of one stage, a value a pair: its data set, the predicted probability that it ends alike, and whether it did."""

    data: list[str] = field(default_factory=list)
    sure: list[float] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def add(self, group: Group, found: Predictions) -> None:
        for i in range(len(group.selections)):
            for j in range(i):
                self.data.append(group.data)
                self.sure.append(found.end_alike(i, j))
                self.ended.append(abs(group.log_loss[i] - group.log_loss[j]) < math.log1p(ALIKE_WITHIN))

    def within(self, low: float, high: float) -> str:
        """Pairs of a class, and the share that ended alike."""
        at = (np.array(self.sure) >= low) & (np.array(self.sure) < (high if high < 1 else math.inf))
        return f"{at.sum():,}: {np.array(self.ended)[at].mean():.0%}" if at.any() else "–"

    def beyond(self, line: float) -> str:
        """Share of pairs called alike, and rightly; both as means over data sets in brackets."""
        called, ended, data = np.array(self.sure) >= line, np.array(self.ended), np.array(self.data)
        each = [called[data == name].mean() for name in set(self.data)]
        right = [ended[called & (data == name)].mean() for name in set(data[called])]
        return f"{called.mean():.1%} ({np.mean(each):.1%}), right {ended[called].mean():.1%} ({np.mean(right or [math.nan]):.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", action="store_true", help="of exam data, from all development data; writes nothing")
    options = parser.parse_args()
    rows, pilots = read(SHIPPED), json.loads(PILOTS.read_text(encoding="utf-8"))
    stages = [Pairs() for _ in STAGES]
    for group in judged(read_exam() if options.exam else rows):
        others = [row for row in rows if task_of(row) != task_of(group.rows[0])]
        new = [row for row in others if model_of(row) != model_of(group.rows[0])]
        for known, (before, after) in ((others, stages[:2]), (new, stages[2:])):
            before.add(group, predict(known, group))
            if group.name in pilots:
                after.add(group, given_pilot(known, group, pilots[group.name]))
    lines = [[f"{low:.0%} to {high:.0%}", *(stage.within(low, high) for stage in stages)] for low, high in CLASSES]
    head = ("predicted to end alike with", *STAGES)
    print(*head, *(" | ".join(line) for line in lines), sep="\n")
    for line in LINES:
        print(f"from {line:.0%} on: " + "; ".join(stage.beyond(line) for stage in stages))
    if not options.exam:
        put_table("alike", head, lines)


if __name__ == "__main__":
    main()
