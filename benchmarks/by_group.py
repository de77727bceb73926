"""What benchmarks that measure one group after another share: resuming, and the mean rank correlation of each score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from ranking import budget_of, by_seed, correlations

from advisor.core.store import write_json
from advisor.prediction.groups import Group

SECOND_SEED = "a second seed"


class Named(Protocol):
    """What results are kept of, a group of real runs above all."""

    @property
    def name(self) -> str: ...


Measured = TypeVar("Measured", bound=Named)


def kept(path: Path) -> dict[str, Any]:
    """What a file of results holds; nothing where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def measure_missing(
    groups: Sequence[Measured], parts: Sequence[str], path: Path, measure: Callable[[Measured], Any]
) -> dict[str, Any]:
    """The file's results by group, with those missing of groups whose name holds one of ``parts``; written after each."""
    results = kept(path)
    for group in groups:
        if group.name not in results and any(part in group.name for part in parts):
            found = measure(group)
            if found is not None:
                results[group.name] = found
                write_json(path, results)
                print(f"{group.name}: measured", flush=True)
    return results


def rank_table(groups: Sequence[Group], scores: Callable[[Group], Mapping[str, np.ndarray]]) -> list[list[str]]:
    """Of each score its name, number of groups, and mean Spearman with the real losses over all budgets and within one.

    Where a group has two seeds, the first is ranked against the second beside the scores.

    Args:
        scores: [S] by name of a group's selections; lower is better.
    """
    table: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        budgets = np.array([budget_of(s) for s in group.selections])
        seeds = [*by_seed(group, lambda r: math.log(r.val_loss)).values()]
        named = dict(scores(group)) | ({SECOND_SEED: seeds[0]} if len(seeds) > 1 else {})
        for name, score in named.items():
            at = correlations(score, seeds[1] if name == SECOND_SEED else group.log_loss, budgets)
            table.setdefault(name, []).append((at["all"] or 0.0, math.nan if at["within"] is None else at["within"]))
    lines = []
    for name, pairs in table.items():
        over_all, within = np.array(pairs).T
        lines.append([name, str(len(pairs)), f"{over_all.mean():+.2f}", f"{np.nanmean(within):+.2f}"])
    return lines
