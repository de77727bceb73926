"""Would another pilot rank selections better? Ways to train and to measure it, against the real runs of the committed rows.

Trained: ``plain`` (as the advisor does), or with modules switched off at random in every step, so that each learns without the
others: ``each`` (every module with one probability a step, itself uniform), ``drawn`` (a structured-random selection of 7 to
100 % of the parameters), ``half`` (``each`` in half of the steps). Measured, after every epoch: a selection's loss with only
its adapters on (``alone``); after the last epoch also with these scaled up, and with only the others on (``off``). Resumable.

    python benchmarks/pilot_variants.py [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from linearity import source_of
from peft.tuners.lora import LoraLayer
from ranking import budget_of, correlations
from torch import nn
from validity import SHIPPED, read

from advisor.core.events import Session
from advisor.core.recipe import PILOT_EVAL_ROWS, TrainingRecipe
from advisor.core.selections import all_linear, structured_random
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.models.descent import CLIP_NORM, linear_schedule
from advisor.models.encode import collate, length_bucketed
from advisor.models.forward import batch_loss, label_scale
from advisor.models.prepare import prepare
from advisor.prediction.groups import Group, grouped
from advisor.training import finetune as training
from advisor.training.pilot import at_work

RESULTS = Path(__file__).parent / "results" / "pilot_variants.json"
SEED = 2  # rows have 0 and 1
SCALES = (1.5, 2.0, 3.0)
# Group, how it is trained, how many times the recipe's epochs.
PLANNED = (
    *(("trec/train.jsonl, 512 rows", *how) for how in (("plain", 1), ("each", 1), ("drawn", 1), ("half", 1), ("drawn", 2))),
    ("sst2/train.jsonl, 512 rows", "plain", 1),
    ("stsb/train.jsonl, 512 rows", "plain", 1),
    ("sst2/train.jsonl, 512 rows, lr 0.003", "plain", 1),
    ("tinytalk3m on tiny_chat/train.jsonl, 512 rows", "plain", 1),
)


def drawing(variant: str, targets: Sequence[Target], rank: int) -> Callable[[], Selection]:
    """What is at work in a step."""
    rng, everything = np.random.default_rng(99), all_linear(targets)

    def draw() -> Selection:
        if variant == "plain" or (variant == "half" and rng.uniform() < 0.5):
            return everything
        if variant == "drawn":
            share = float(np.exp(rng.uniform(math.log(0.07), 0)))
            return structured_random(targets, int(share * everything.params(targets, rank)), rank, rng, "drawn")
        probability = rng.uniform()
        return Selection("each", tuple(t.name for t in targets if rng.uniform() < probability))

    return draw


def run(group: Group, variant: str, times: int) -> list[dict[str, Any]] | None:
    """Of each epoch the loss of all modules, and rank correlations of what is measured with the real runs."""
    source, row = source_of(group), group.rows[0]
    if source is None:
        return None
    recipe, settings = TrainingRecipe(**row.recipe), LoraSettings(**row.settings)
    prepared = prepare(source, Session(), train_limit=recipe.train_rows, eval_limit=row.provenance["eval_rows"])
    loaded, targets, train = prepared.loaded, prepared.loaded.targets, prepared.train_rows
    masks = {r.selection: r.mask for r in group.rows}
    selections = [tuple(t.name for t, on in zip(targets, masks[s], strict=True) if on == "1") for s in group.selections]
    budgets = np.array([budget_of(s) for s in group.selections])
    torch.manual_seed(SEED)
    rng, draw = np.random.default_rng(SEED), drawing(variant, targets, settings.rank)
    model = training._adapted_copy(loaded, all_linear(targets), settings)
    layers = {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    scale = label_scale(train) if loaded.task == "regression" else (0.0, 1.0)
    count = min(PILOT_EVAL_ROWS, len(prepared.eval_rows))
    rows = [prepared.eval_rows[i * len(prepared.eval_rows) // count] for i in range(count)]

    def log_loss(names: Sequence[str], factor: float = 1.0) -> float:
        with at_work(layers, Selection("", tuple(names)), factor):
            return math.log(training.evaluate(model, loaded, rows, row.metric, lambda some: collate(some, loaded, *scale))[0])

    steps = math.ceil(len(train) / recipe.batch_size)
    total = steps * recipe.epochs * times
    optimizer = torch.optim.AdamW(trainable, lr=recipe.lr, weight_decay=0.0)
    schedule = linear_schedule(optimizer, total, recipe)
    found: list[dict[str, Any]] = []
    for epoch in range(recipe.epochs * times):
        model.train()
        for indices in length_bucketed([r.length for r in train], recipe.batch_size, rng):
            with at_work(layers, draw()):
                loss, _ = batch_loss(model, loaded, collate([train[i] for i in indices], loaded, *scale))
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([p for p in trainable if p.grad is not None], CLIP_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        measured = {"alone": np.array([log_loss(names) for names in selections])}
        if epoch + 1 == recipe.epochs * times and variant == "plain":
            measured |= {f"scaled {f}": np.array([log_loss(names, f) for names in selections]) for f in SCALES}
            measured["best scale"] = np.min(list(measured.values()), axis=0)
            measured["off"] = -np.array([log_loss([n for n in layers if n not in names]) for names in selections])
        ranks = {kind: correlations(values, group.log_loss, budgets) for kind, values in measured.items()}
        found.append({"epoch": epoch + 1, "loss": math.exp(log_loss(list(layers))), **ranks})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a line's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for group_name, variant, times in PLANNED:
        name = f"{group_name}: {variant}{f', {times} times the epochs' if times > 1 else ''}"
        if options.only not in name or name in result:
            continue
        group = next(g for g in grouped(read(SHIPPED)) if g.name.endswith(group_name))
        found = run(group, variant, times)
        if found is None:
            print(f"{name}: model or data are not here")
            continue
        result[name] = found
        write_json(RESULTS, result)
        print(name, json.dumps(found[-1]), flush=True)


if __name__ == "__main__":
    main()
