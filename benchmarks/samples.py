"""Do more probe examples rank selections better? One probe of up to 384 examples, and subsamples of 128 from it.

For each group of development data with two seeds and six selections or more of one size (a model on a data set with one recipe)
this keeps, of the selections of that size: the rank correlation of the simulated recipe with the real losses, on all examples
and on four subsamples, how the subsamples' orders agree, and how two seeds of the real runs agree. Resumable by group.

    python benchmarks/samples.py WORK --public FOLDER [--groups TEXT …]     measure what is missing, then print the table
    python benchmarks/samples.py                                            print the table from the committed results
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import sweep
from by_group import kept, measure_missing
from ranking import FEWEST, budget_of, by_seed
from scipy.stats import spearmanr
from validity import SHIPPED, judged, read, task_of
from validity_page import put_table

from advisor.core.events import Session
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.models.prepare import prepare
from advisor.prediction.groups import Group
from advisor.prediction.probe_view import probe_view, subsample
from advisor.probing.run import run_probe
from advisor.probing.settings import DEFAULT_SAMPLES, ProbeSettings
from advisor.theory.features import recipe_loss

RESULTS = Path(__file__).parent / "results" / "samples.json"
MANY, DRAWS = 384, 4
SIZE = "18%"  # of the selections that are ranked


def counts(group: Group) -> bool:
    """MiniLM's, of two seeds, with enough selections of one size."""
    enough = sum(budget_of(name) == SIZE for name in group.selections) >= FEWEST
    return "minilm" in group.name and enough and len(by_seed(group, lambda r: r.val_loss)) > 1


def simulated(probe: Probe, group: Group) -> np.ndarray:
    """[S] loss of the simulated recipe of the group's selections."""
    row, masks = group.rows[0], {r.selection: r.mask for r in group.rows}
    view = probe_view(probe, LoraSettings(**row.settings), TrainingRecipe(**row.recipe))
    return recipe_loss(view, np.array([[float(c) for c in masks[name]] for name in group.selections]))


def measure(group: Group, work: Path, public: Path) -> dict[str, Any]:
    """Rank correlations within ``SIZE``."""
    row = group.rows[0]
    rows = row.provenance["train_rows"]
    source = sweep.source_of(sweep.Group("minilm", task_of(row), rows, row.recipe["lr"]), Path(), public)
    prepared = prepare(source, Session(), train_limit=rows, eval_limit=0)
    folder = work / f"{row.provenance['data']}-{rows}".replace("/", "-")
    probe = run_probe(prepared, ProbeSettings(samples=min(MANY, rows)), folder, Session())
    at = np.array([budget_of(name) == SIZE for name in group.selections])
    rng = np.random.default_rng(0)
    draws = [np.sort(rng.permutation(probe.samples)[:DEFAULT_SAMPLES]) for _ in range(DRAWS)]
    few = [simulated(subsample(probe, draw), group)[at] for draw in draws]
    seeds = [loss[at] for loss in by_seed(group, lambda r: math.log(r.val_loss)).values()]

    def rank(one: np.ndarray, other: np.ndarray) -> float:
        return float(spearmanr(one, other).statistic)

    return {
        "examples": probe.samples,
        "selections": int(at.sum()),
        "few": float(np.mean([rank(score, group.log_loss[at]) for score in few])),
        "many": rank(simulated(probe, group)[at], group.log_loss[at]),
        "agreement": float(np.mean([rank(a, b) for a, b in itertools.combinations(few, 2)])),
        "second_seed": rank(seeds[0], seeds[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder of probes; without it nothing is measured")
    parser.add_argument("--public", type=Path, default=Path(), help="folder that public_data.py wrote")
    parser.add_argument("--groups", nargs="*", default=[""], help="parts of group names; all by default")
    options = parser.parse_args()
    groups = [group for group in judged(read(SHIPPED)) if counts(group)]
    results = kept(RESULTS)
    if options.work is not None:
        results = measure_missing(groups, options.groups, RESULTS, lambda g: measure(g, options.work, options.public))
    found = [results[group.name] for group in groups if group.name in results]
    mean = {key: float(np.mean([f[key] for f in found])) for key in ("few", "many", "agreement", "second_seed")}
    print(f"{len(found)} groups: " + ", ".join(f"{key} {value:+.2f}" for key, value in mean.items()))
    head = (f"{len(found)} groups, {sum(f['selections'] for f in found)} selections", "Spearman within one size")
    lines = (
        (f"simulated on {DEFAULT_SAMPLES} examples, with the real losses", "few"),
        (f"simulated on {min(f['examples'] for f in found)} to {MANY} examples", "many"),
        (f"two draws of {DEFAULT_SAMPLES} examples, with each other", "agreement"),
        ("two seeds of the real runs, with each other", "second_seed"),
    )
    put_table("samples", head, [(label, f"{mean[key]:+.2f}") for label, key in lines])


if __name__ == "__main__":
    main()
