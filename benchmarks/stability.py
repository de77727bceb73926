"""Does stability say how much of a pick another sample of the data would pick again? Probes of MiniLM, split in parts.

Each probe of up to 384 examples that ``samples.py`` left is split into two or three parts of 128. Each part gets its own
recommendation. Kept are: stability by halves of the part, as the advisor gives it, and by four fifths of it; and the share of
the pick's modules that another part picks, among the same finalists and by a search of its own.

    python benchmarks/stability.py WORK     what samples.py was given; measures and prints
    python benchmarks/stability.py          prints the committed results
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from by_group import kept, measure_missing

from advisor.advice.budget import parse_budget
from advisor.advice.recommend import Recommendation, pick, recommend
from advisor.core.events import Session
from advisor.core.probe import load_probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.prediction.probe_view import subsample
from advisor.prediction.scorer import Scorer
from advisor.probing.settings import DEFAULT_SAMPLES

RESULTS = Path(__file__).parent / "results" / "stability.json"
BUDGETS = ("10%", "30%")
DRAWS = 20


def picked_again(scorer: Scorer, rec: Recommendation, other: Scorer) -> float:
    """Share of the pick's modules that the other scorer picks among the same finalists."""
    finalists = [rec.pool[i] for i in rec.finalists]
    again, _ = pick(other.predict(finalists), np.array([rec.costs[i].params for i in rec.finalists]), range(len(finalists)))
    return shared(rec.picked.candidate.selection.targets, finalists[again].selection.targets)


def shared(mine: tuple[str, ...], others: tuple[str, ...]) -> float:
    return float(np.mean(np.isin(mine, others)))


def measure(folder: Path) -> list[dict[str, float]]:
    """One entry a budget, means over parts and pairs of parts."""
    probe = load_probe(folder)
    order = np.random.default_rng(0).permutation(probe.samples)
    parts = [np.sort(order[i : i + DEFAULT_SAMPLES]) for i in range(0, probe.samples - DEFAULT_SAMPLES + 1, DEFAULT_SAMPLES)]
    predictor = Predictor().fit(load_rows(), probe.task)
    scorers = [Scorer(subsample(probe, part), LoraSettings(), TrainingRecipe(lr=2e-3), predictor) for part in parts]
    found = []
    for budget in BUDGETS:
        recs = [recommend(scorer, parse_budget(budget), Session()) for scorer in scorers]
        rng = np.random.default_rng(0)
        fifths = [
            picked_again(scorer, rec, scorer.on(subsample(scorer.probe, np.sort(rng.permutation(DEFAULT_SAMPLES)[:102]))))
            for scorer, rec in zip(scorers, recs, strict=True)
            for _ in range(DRAWS)
        ]
        pairs = list(itertools.permutations(range(len(parts)), 2))
        targets = [rec.picked.candidate.selection.targets for rec in recs]
        each = {
            "halves": [rec.stability.mean for rec in recs],
            "four fifths": fifths,
            "another sample, same finalists": [picked_again(scorers[i], recs[i], scorers[j]) for i, j in pairs],
            "another sample, own search": [shared(targets[i], targets[j]) for i, j in pairs],
        }
        found.append({name: float(np.mean(values)) for name, values in each.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder of probes; without it nothing is measured")
    options = parser.parse_args()
    results: dict[str, Any] = kept(RESULTS)
    if options.work is not None:
        folders = [f for f in sorted(options.work.iterdir()) if (f / "probe.json").exists()]
        results = measure_missing(folders, [""], RESULTS, measure)
    cells = [cell for found in results.values() for cell in found]
    for name in cells[0]:
        print(f"{name}: {np.mean([cell[name] for cell in cells]):.2f} over {len(cells)} cells of {len(results)} data sets")


if __name__ == "__main__":
    main()
