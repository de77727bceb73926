"""How many times the standard deviations after a pilot run are to be taken: the constant ``AFTER_RUNS`` of the predictor.

For each development data set predictions after the pilot run are made from the rows of all others, with each factor of a grid.
The rule: the least factor at which 90 % intervals of a single run's loss hold 90 % of the real losses, in the mean over data
sets. To see what the rule is worth, it is also applied with each data set left out, and judged on that one.

    python benchmarks/widening.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from data_split import DEVELOPMENT
from validity import DEVELOPMENT_ROWS, PILOTS, SHIPPED, distances, pilot_shares, read, task_of

from advisor.core.selections import ALL_LINEAR
from advisor.prediction import predictor
from advisor.prediction.groups import Group, grouped
from advisor.prediction.predictor import LEVEL, Predictions, Predictor

FACTORS = tuple(round(0.5 + 0.1 * k, 1) for k in range(16))


def held(group: Group, found: Predictions) -> tuple[float, float]:
    """Share of the group's real losses inside their interval, and its mean width relative to the prediction."""
    at = {name: i for i, name in enumerate(group.selections)}
    loss = found.loss
    runs = [(at[r.selection], r.val_loss) for r in group.rows if r.selection in at]
    inside = [loss.low[i] <= real <= loss.high[i] for i, real in runs]
    widths = [(loss.high[i] - loss.low[i]) / loss.value[i] for i, _ in runs]
    return float(np.mean(inside)), float(np.mean(widths))


def least(cover: np.ndarray) -> int:
    """Index of the least factor at which ``cover`` [F, D] holds ``LEVEL`` in the mean over data sets; the last, if none."""
    enough = np.flatnonzero(cover.mean(1) >= LEVEL)
    return int(enough[0]) if len(enough) else len(cover) - 1


def main() -> None:
    rows = [r for folder in (SHIPPED, DEVELOPMENT_ROWS) for r in read(folder)]
    pilots = json.loads(PILOTS.read_text(encoding="utf-8"))
    by_data: dict[str, list[list[tuple[float, float]]]] = {}
    for group in grouped(rows):
        data = task_of(group.rows[0])
        if group.name not in pilots or data not in DEVELOPMENT:
            continue
        fitted = Predictor().fit([r for r in rows if task_of(r) != data], str(group.context["task"]))
        pilot, ran = pilots[group.name], [group.selections.index(ALL_LINEAR)]

        def after(
            factor: float,
            group: Group = group,
            fitted: Predictor = fitted,
            pilot: dict[str, Any] = pilot,
            ran: Sequence[int] = ran,
        ) -> Predictions:
            predictor.AFTER_RUNS = factor
            shares = pilot_shares(group, pilot)
            return fitted.given(group.simulated, group.context, distances(group), ran, [pilot["loss"]], shares)

        by_data.setdefault(data, []).append([held(group, after(factor)) for factor in FACTORS])
    names = sorted(by_data)
    means = np.array([np.mean(by_data[name], axis=0) for name in names])  # [D, F, 2]
    cover, width = means[:, :, 0].T, means[:, :, 1].T
    print(f"{sum(map(len, by_data.values()))} groups of {len(names)} data sets")
    print("factor  covers  least  width")
    for k, factor in enumerate(FACTORS):
        print(f"{factor:6.1f}  {cover[k].mean():6.1%} {cover[k].min():6.0%} {width[k].mean():6.2f}")
    chosen = [least(np.delete(cover, d, 1)) for d in range(len(names))]
    judged = [cover[k, d] for d, k in enumerate(chosen)]
    print(f"the rule takes {FACTORS[least(cover)]}; with each data set left out {[FACTORS[k] for k in chosen]}")
    wide = np.mean([width[k, d] for d, k in enumerate(chosen)])
    print(f"judged on the one left out: covers {np.mean(judged):.1%}, width {wide:.2f}")
    print({name: round(float(value), 2) for name, value in zip(names, judged, strict=True)})


if __name__ == "__main__":
    main()
