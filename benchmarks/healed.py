"""Does a pilot rank selections better when what is left on is trained on for a few steps, "healed", before it is measured?

For each group: all modules are trained as a pilot. After ``POINTS`` epochs each selection starts from the pilot's weights with
all other modules off; its adapters and the head train on for up to 16 steps, every selection on the same batches. After
``STEPS`` of them its validation loss is measured. Zero epochs is a short run from scratch at the same cost. Losses are ranked
against the rows' real ones. Resumable by group.

    python benchmarks/healed.py [--groups TEXT …]     measure what is missing, then print the table
    python benchmarks/healed.py --table               print the table from the committed results
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from by_group import measure_missing, rank_table
from linearity import source_of
from peft.tuners.lora import LoraLayer
from scipy.stats import rankdata
from torch import nn
from validity import SHIPPED, read

from advisor.core.events import Session
from advisor.core.recipe import PILOT_EVAL_ROWS, TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models.descent import CLIP_NORM, linear_schedule
from advisor.models.encode import EncodedRow, collate, length_bucketed
from advisor.models.forward import batch_loss, label_scale
from advisor.models.prepare import prepare
from advisor.prediction.groups import Group, grouped
from advisor.training import finetune as training
from advisor.training.pilot import at_work

RESULTS = Path(__file__).parent / "results" / "healed.json"
SEED = 2  # rows have 0 and 1
POINTS = (0, 3, 6)  # epochs of the pilot
STEPS = (0, 4, 8, 16)
FEWEST = 8  # selections of a group that counts
MOST_ROWS = 600


def measure(group: Group) -> dict[str, Any] | None:
    """Of each point and number of steps, the log loss of each selection; None: model or data are not here."""
    source, row = source_of(group), group.rows[0]
    if source is None or row.provenance["train_rows"] > MOST_ROWS or len(group.selections) < FEWEST:
        return None
    recipe, settings = TrainingRecipe(**row.recipe), LoraSettings(**row.settings)
    prepared = prepare(source, Session(), train_limit=recipe.train_rows, eval_limit=row.provenance["eval_rows"])
    loaded, targets, train = prepared.loaded, prepared.loaded.targets, prepared.train_rows
    masks = {r.selection: r.mask for r in group.rows}
    selections = [
        Selection(s, tuple(t.name for t, on in zip(targets, masks[s], strict=True) if on == "1")) for s in group.selections
    ]
    torch.manual_seed(SEED)
    model = training._adapted_copy(loaded, all_linear(targets), settings)
    layers = {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    scale = label_scale(train) if loaded.task == "regression" else (0.0, 1.0)
    count = min(PILOT_EVAL_ROWS, len(prepared.eval_rows))
    shown = [prepared.eval_rows[i * len(prepared.eval_rows) // count] for i in range(count)]
    lengths = [r.length for r in train]
    healing = list(length_bucketed(lengths, recipe.batch_size, np.random.default_rng(SEED + 1)))

    def log_loss(selection: Selection) -> float:
        with at_work(layers, selection):
            return math.log(training.evaluate(model, loaded, shown, row.metric, lambda some: collate(some, loaded, *scale))[0])

    def step(optimizer: torch.optim.Optimizer, rows: Sequence[EncodedRow]) -> None:
        model.train()
        loss, _ = batch_loss(model, loaded, collate(rows, loaded, *scale))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for p in trainable if p.grad is not None], CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def heal(selection: Selection) -> list[float]:
        """Log loss after each of ``STEPS``; the model is as before afterwards."""
        before = [p.detach().clone() for p in trainable]
        found = [log_loss(selection)]
        optimizer = torch.optim.AdamW(trainable, lr=recipe.lr, weight_decay=0.0)  # what is off gets no gradient
        with at_work(layers, selection):
            for i in range(max(STEPS)):
                step(optimizer, [train[j] for j in healing[i % len(healing)]])
                if i + 1 in STEPS:
                    found.append(log_loss(selection))
        with torch.no_grad():
            for parameter, old in zip(trainable, before, strict=True):
                parameter.copy_(old)
        return found

    rng = np.random.default_rng(SEED)
    total = math.ceil(len(train) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(trainable, lr=recipe.lr, weight_decay=0.0)
    schedule = linear_schedule(optimizer, total, recipe)
    kept: dict[str, Any] = {}
    trained_s = healed_s = 0.0
    for epoch in range(recipe.epochs + 1):
        start = time.process_time()
        if epoch:
            for indices in length_bucketed(lengths, recipe.batch_size, rng):
                step(optimizer, [train[i] for i in indices])
                schedule.step()
        trained_s += time.process_time() - start
        start = time.process_time()
        if epoch in POINTS:
            kept[str(epoch)] = {s.name: heal(s) for s in selections}
        healed_s += time.process_time() - start
    return {"epochs": kept, "trained_cpu_s": round(trained_s, 1), "healed_cpu_s": round(healed_s, 1)}


def scores(group: Group, found: dict[str, Any]) -> dict[str, np.ndarray]:
    """[S] by name; lower is better."""
    names, first = group.selections, rankdata(group.simulated)
    alone = {"the probe": group.simulated}
    for epoch, of in found["epochs"].items():
        for i, steps in enumerate(STEPS):
            loss = np.array([of[s][i] for s in names])
            alone[f"{epoch} epochs, {steps} steps"] = loss
            alone[f"{epoch} epochs, {steps} steps, ranks added to the probe's"] = rankdata(loss) + first
    return alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="*", default=[""], help="parts of group names; all by default")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    groups = grouped(read(SHIPPED))
    results = measure_missing(() if options.table else groups, options.groups, RESULTS, measure)
    for line in rank_table([g for g in groups if g.name in results], lambda group: scores(group, results[group.name])):
        print(*line, sep="  ")


if __name__ == "__main__":
    main()
