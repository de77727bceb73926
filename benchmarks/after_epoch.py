"""Does a probe after one epoch rank selections better? All modules are trained for one epoch, merged, and probed again.

For each group of development data (a model on a data set with one recipe) this keeps, by selection: the recipe simulated on the
second probe, and the validation loss with only its adapters at work after that epoch. Beside the first probe's simulation they
are ranked against the rows' real losses; "ranks of" adds ranks, so that nothing is tuned. Resumable by group.

    python benchmarks/after_epoch.py WORK --e5 FOLDER [--groups TEXT …]     measure what is missing, then print the table
    python benchmarks/after_epoch.py                                        print the table from the committed results
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from by_group import measure_missing, rank_table
from linearity import source_of
from scipy.stats import rankdata
from torch import nn
from validity import PILOTS, SHIPPED, read

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Source, prepare
from advisor.prediction.gain import FEATURE
from advisor.prediction.groups import Group, grouped
from advisor.prediction.probe_view import FEATURE_KERNELS, probe_view
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.features import Weights, feature_table
from advisor.training.finetune import finetune
from advisor.training.pilot import switched_losses

RESULTS = Path(__file__).parent / "results" / "after_epoch.json"
SEED = 2  # rows have 0 and 1
FEWEST = 8  # selections of a group that counts
MOST_ROWS = 600  # larger groups take too long here


def measure(group: Group, work: Path, e5: Path | None) -> dict[str, Any] | None:
    """What the second probe and the switched-off adapters say of the group's selections; None: model or data are not here."""
    row = group.rows[0]
    source = source_of(group)
    if source is None and e5 is not None and row.provenance["model"].endswith("e5"):
        data = Path(__file__).resolve().parents[2] / "shared" / "data" / row.provenance["data"]
        source = Source(str(e5), str(data), max_length=row.provenance["max_length"])
    if source is None or row.provenance["train_rows"] > MOST_ROWS:
        return None
    recipe, settings = TrainingRecipe(**row.recipe), LoraSettings(**row.settings)
    prepared = prepare(source, Session(), train_limit=recipe.train_rows, eval_limit=row.provenance["eval_rows"])
    loaded, targets = prepared.loaded, prepared.loaded.targets
    masks = np.array([[float(c) for c in next(r.mask for r in group.rows if r.selection == s)] for s in group.selections])
    selections = [
        Selection(name, tuple(t.name for t, on in zip(targets, mask, strict=True) if on))
        for name, mask in zip(group.selections, masks, strict=True)
    ]
    kept: dict[str, Any] = {}

    def keep(model: nn.Module, _: Mapping[str, torch.Tensor]) -> None:
        shown = [*selections, Selection("none", ())]
        kept["switched"] = switched_losses(model, loaded, shown, prepared.train_rows, prepared.eval_rows, row.metric, Session())
        kept["model"] = model

    run = finetune(
        loaded,
        all_linear(targets),
        settings,
        replace(recipe, epochs=1),
        prepared.train_rows,
        prepared.eval_rows,
        row.metric,
        SEED,
        inspect=keep,
    )
    merged = kept["model"].merge_and_unload().requires_grad_(False).eval()
    trained = replace(prepared.with_model, loaded=replace(loaded, model=merged))
    after = replace(prepared, load=lambda: trained, made_of={**prepared.made_of, "model_fingerprint": "after one epoch"})
    folder = work / re.sub(r"\W", "_", group.name)
    probe = run_probe(after, ProbeSettings(), folder, Session())
    view = probe_view(probe, settings, recipe)
    params = masks * np.array([t.lora_params(settings.rank) for t in targets])
    simulated = feature_table(view, Weights(params, dict.fromkeys(FEATURE_KERNELS, masks)), (FEATURE,))[:, 0]
    return {
        "loss": run.at_best.val_loss,
        "simulated": dict(zip(group.selections, map(float, simulated), strict=True)),
        "switched": dict(zip([*group.selections, "none"], kept["switched"], strict=True)),
    }


def scores(group: Group, found: Mapping[str, Any], pilot: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """[S] by name; lower is better."""
    names = group.selections
    alone = {
        "the probe": group.simulated,
        "after one epoch": np.array([found["simulated"][s] for s in names]),
        "switched off after one epoch": np.array([found["switched"][s] for s in names]),
    }
    if pilot is not None:
        alone["switched off after a whole run"] = np.array([pilot["switched"][s] for s in names])
    ranks = {name: rankdata(score) for name, score in alone.items()}
    first, second, third = ("the probe", "after one epoch", "switched off after one epoch")
    return alone | {
        "ranks of both probes": ranks[first] + ranks[second],
        "ranks of both probes and switched off": ranks[first] + ranks[second] + ranks[third],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder of the second probes; without it nothing is measured")
    parser.add_argument("--e5", type=Path, help="folder that make_e5.py wrote")
    parser.add_argument("--groups", nargs="*", default=[""], help="parts of group names; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pilots = json.loads(PILOTS.read_text(encoding="utf-8"))
    groups = grouped(read(SHIPPED))
    missing = groups if options.work else ()
    results = measure_missing(missing, options.groups, RESULTS, lambda group: measure(group, options.work, options.e5))
    counted = [g for g in groups if g.name in results and len(g.selections) >= FEWEST]
    for line in rank_table(counted, lambda group: scores(group, results[group.name], pilots.get(group.name))):
        print(*line, sep="  ")


if __name__ == "__main__":
    main()
