"""What does a pilot run say of the error that all small sets of a group have in common? From committed rows alone.

For each group with a pilot run (``benchmarks/pilot.py``) and a clear gain, shares are predicted from the rows of other data. The
error is the mean over the group's random selections of the real share less the predicted one. Two things that the pilot shows
are regressed on it, each data set left out: the surprise, log of the gain over the expected one, and the level, the mean share
that these selections lose with all other adapters switched off (:mod:`advisor.prediction.pilot_level`). For language models the
level also with each model left out. Writes its table into docs/real-runs.md.

    python benchmarks/pilot_level.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ranking import budget_of
from validity import PILOTS, SHIPPED, read, task_of
from validity_page import put_table

from advisor.core.recipe import HEADLESS
from advisor.prediction.forgone import LEAST_GAIN, real_shares
from advisor.prediction.groups import grouped
from advisor.prediction.pilot_level import level_of
from advisor.prediction.predictor import Predictor


@dataclass(frozen=True)
class Case:
    """One group: its mean error, and what its pilot showed."""

    data: str
    model: str
    headless: bool
    error: float
    surprise: float
    level: float


def cases() -> list[Case]:
    rows, pilots, found = read(SHIPPED), json.loads(PILOTS.read_text(encoding="utf-8")), []
    for group in grouped(rows):
        drawn = [i for i, name in enumerate(group.selections) if budget_of(name)]
        pilot = pilots.get(group.name)
        if pilot is None or not drawn:
            continue
        gain = group.log_base - math.log(pilot["loss"])
        if gain < LEAST_GAIN:
            continue
        others = [row for row in rows if task_of(row) != task_of(group.rows[0])]
        predictor = Predictor().fit(others, str(group.context["task"]))
        error = (real_shares(group) - predictor.forgone_.of(group.traits, group.context))[drawn].mean()
        losses = np.log([pilot["switched"][group.selections[i]] for i in drawn])
        found.append(
            Case(
                group.data,
                str(group.rows[0].provenance["model"]),
                group.context["task"] in HEADLESS,
                float(error),
                math.log(gain) - predictor.gain_level_.of(group.context)[0],
                level_of(group.context, losses, math.log(pilot["switched"]["all-linear"])),
            )
        )
    return found


def left(some: Sequence[Case], known: Callable[[Case], float] | None, apart: Callable[[Case], str]) -> float:
    """Root mean square error, over data sets, that is left when ``known`` is regressed on; what ``apart`` names is left out."""
    errors: dict[str, list[float]] = {}
    for case in some:
        rest = [other for other in some if apart(other) != apart(case)]
        expected = 0.0
        if known is not None:
            weights = np.array([1 / sum(one.data == other.data for one in rest) for other in rest])
            x, y = np.array([known(other) for other in rest]), np.array([other.error for other in rest])
            centre = weights @ x / weights.sum()
            slope = (weights * (x - centre)) @ y / ((weights * (x - centre)) @ (x - centre))
            expected = slope * (known(case) - centre)
        errors.setdefault(case.data, []).append((case.error - expected) ** 2)
    return math.sqrt(float(np.mean([np.mean(each) for each in errors.values()])))


def main() -> None:
    found = cases()
    lines = []
    for label, headless in (("language models", True), ("classifiers and regressors", False)):
        some = [case for case in found if case.headless == headless]
        by_data = [left(some, known, lambda case: case.data) for known in (None, surprise, level)]
        by_model = left(some, level, lambda case: case.model) if headless else None
        cells = [f"{value:.2f}" for value in by_data] + ["–" if by_model is None else f"{by_model:.2f}"]
        lines.append([f"{len(some)} groups of {label}", *cells])
    head = ("common error, share of the gain", "as predicted", "given the surprise", "given the level", "level, model left out")
    print(*head, *(" ".join(line) for line in lines), sep="\n")
    put_table("pilot level", head, lines, "pilot_level")


def surprise(case: Case) -> float:
    return case.surprise


def level(case: Case) -> float:
    return case.level


if __name__ == "__main__":
    main()
