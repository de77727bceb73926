"""Are the predictor's intervals as wide as they should be, or should its standard deviations be taken some factor times?

For each development data set predictions before any real run, and after the pilot run, are made from the rows of all others,
with each factor of a grid. The predictor has none: that is 1. A rule to choose one: the least factor at which 90 % intervals
hold 90 % of the real losses, and 90 % of the real differences to all modules, in the mean over data sets. To see what the rule
is worth, it is also applied with each data set left out and judged on that one.

    python benchmarks/widening.py
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from data_split import DEVELOPMENT
from scipy.stats import norm
from validity import PILOTS, RESULTS, SHIPPED, distances, judged, pilot_evidence, read, task_of

from advisor.core.choices import LEVEL
from advisor.core.selections import ALL_LINEAR
from advisor.core.store import write_json
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.groups import Group
from advisor.prediction.predictions import Predictions
from advisor.prediction.predictor import Predictor

QUANTILE = float(norm.ppf(0.5 + LEVEL / 2))
FACTORS = tuple(round(0.4 + 0.1 * k, 1) for k in range(15))
STAGES = ("before", "after")


@dataclass(frozen=True)
class Case:
    """A group, a predictor that knows nothing of its data, and its pilot run."""

    data: str
    group: Group
    fitted: Predictor
    pilot: dict[str, Any]

    def predictions(self, stage: str, factor: float) -> Predictions:
        group, fitted = self.group, copy.copy(self.fitted)
        for name in ("misfit_", "noise_", "start_sd_"):
            setattr(fitted, name, factor * getattr(fitted, name))
        level = fitted.gain_level_
        fitted.gain_level_ = replace(level, sd=factor * level.sd, covariance=factor**2 * level.covariance)
        if stage == "before":
            return fitted.predict(group.traits, group.context, distances(group))
        ran = [group.selections.index(ALL_LINEAR)]
        evidence = pilot_evidence(fitted, group, self.pilot)
        return fitted.given(group.traits, group.context, distances(group), ran, [self.pilot["loss"]], **evidence)

    def held(self, stage: str, factor: float) -> tuple[float, float, float]:
        """Of the group's runs: share of losses inside their interval, its mean width relative to the prediction, and the
        share of differences to all-linear inside theirs, widened by the noise between seeds that the real ones have."""
        group, found = self.group, self.predictions(stage, factor)
        at = {name: i for i, name in enumerate(group.selections)}
        runs = [(at[r.selection], r.val_loss) for r in group.rows if r.selection in at]
        loss, other = found.loss, found.against_all()
        inside = np.mean([loss.low[i] <= real <= loss.high[i] for i, real in runs])
        width = np.mean([(loss.high[i] - loss.low[i]) / loss.value[i] for i, _ in runs])
        everything = at[ALL_LINEAR]
        real = group.log_loss - group.log_loss[everything]
        noise = QUANTILE * factor * found.seed_sd * np.sqrt(1 / group.seeds + 1 / group.seeds[everything])
        low = other.value - np.hypot(other.value - other.low, noise)
        high = other.value + np.hypot(other.high - other.value, noise)
        apart = np.mean([low[i] <= real[i] <= high[i] for i in range(len(real)) if i != everything])
        return float(inside), float(width), float(apart)


def cases(rows: list[CalibrationRow], pilots: dict[str, Any]) -> Iterator[Case]:
    for group in judged(rows):
        data = task_of(group.rows[0])
        if group.name in pilots and data in DEVELOPMENT:
            fitted = Predictor().fit([r for r in rows if task_of(r) != data], str(group.context["task"]))
            yield Case(data, group, fitted, pilots[group.name])


def least(table: np.ndarray) -> int:
    """Index of the factor that the rule takes; the last, if none holds enough. ``table``: [F, D, 3] of :meth:`Case.held`."""
    means = table.mean(1)
    enough = np.flatnonzero(np.minimum(means[:, 0], means[:, 2]) >= LEVEL)
    return int(enough[0]) if len(enough) else len(table) - 1


def main() -> None:
    rows = read(SHIPPED)
    found = list(cases(rows, json.loads(PILOTS.read_text(encoding="utf-8"))))
    names = sorted({case.data for case in found})
    print(f"{len(found)} groups of {len(names)} data sets")
    results: dict[str, Any] = {"groups": len(found), "data_sets": len(names), "factors": FACTORS}
    for stage in STAGES:
        table = np.empty((len(FACTORS), len(names), 3))
        for k, factor in enumerate(FACTORS):
            held = [case.held(stage, factor) for case in found]
            table[k] = [np.mean([h for h, case in zip(held, found, strict=True) if case.data == name], 0) for name in names]
        print(f"\n{stage}\nfactor  covers  least  width  differences to all covered")
        for factor, row in zip(FACTORS, table, strict=True):
            print(
                f"{factor:6.1f}  {row[:, 0].mean():6.1%} {row[:, 0].min():6.0%} {row[:, 1].mean():6.2f}  {row[:, 2].mean():6.1%}"
            )
        chosen = [least(np.delete(table, d, 1)) for d in range(len(names))]
        judged = np.array([table[k, d] for d, k in enumerate(chosen)])
        results[stage] = {
            "rule": FACTORS[least(table)],
            "table": table.mean(1).tolist(),
            "left_out": {
                "factors": [FACTORS[k] for k in chosen],
                **dict(zip(("covers", "width", "differences_covered"), judged.mean(0).tolist(), strict=True)),
            },
            "by_data": dict(zip(names, judged[:, 0].tolist(), strict=True)),
        }
        print(f"the rule takes {FACTORS[least(table)]}; with each data set left out {[FACTORS[k] for k in chosen]}")
        covers, width, apart = judged.mean(0)
        print(f"judged on the one left out: covers {covers:.1%} at width {width:.2f}, differences {apart:.1%}")
    write_json(RESULTS.with_name("widening.json"), results)


if __name__ == "__main__":
    main()
