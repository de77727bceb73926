"""Rivals that read a module's worth from gradients or from a short real run, beside the advisor's own order.

For each group: one real run of all modules, of which are kept, by module: LoRA-drop's importance (mean squared output of the
adapter over evaluation rows, arXiv 2402.07721) and its loss-change allocation (−Σ over steps of gradient · step of its A and B,
Lan et al., NeurIPS 2019); and before it, in the manner of Aletheia (arXiv 2604.15351), the gradient norm of a whole layer, from
five batches at the pretrained weights. Where ``benchmarks/healed.py`` made short runs of each selection from scratch, their
losses stand for what TuneAhead (arXiv 2606.17660) reads: the start of the run itself. All without the authors' code.

A selection's score is the mean over its modules, or the sum. Resumable by group.

    python benchmarks/rivals.py [--groups TEXT …]     measure what is missing, then write the table into docs/real-runs.md
    python benchmarks/rivals.py --table               write the table from the committed results
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from by_group import kept, measure_missing, rank_table
from healed import FEWEST, MOST_ROWS, SEED
from healed import RESULTS as HEALED
from linearity import source_of
from peft.tuners.lora import LoraLayer
from torch import nn
from validity import SHIPPED, predict, read, task_of
from validity_page import put_table

from advisor.core.events import Session
from advisor.core.recipe import PILOT_EVAL_ROWS, TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings
from advisor.models.descent import CLIP_NORM, linear_schedule
from advisor.models.encode import collate, length_bucketed
from advisor.models.forward import batch_loss, label_scale
from advisor.models.prepare import prepare
from advisor.prediction.groups import Group, grouped
from advisor.training import finetune as training

RESULTS = Path(__file__).parent / "results" / "rivals.json"
GRADIENT_BATCHES = 5


def measure(group: Group) -> dict[str, dict[str, float]] | None:
    """By rival and module; None: model or data are not here."""
    source, row = source_of(group), group.rows[0]
    if source is None or row.provenance["train_rows"] > MOST_ROWS or len(group.selections) < FEWEST:
        return None
    recipe, settings = TrainingRecipe(**row.recipe), LoraSettings(**row.settings)
    prepared = prepare(source, Session(), train_limit=recipe.train_rows, eval_limit=row.provenance["eval_rows"])
    loaded, targets, train = prepared.loaded, prepared.loaded.targets, prepared.train_rows
    scale = label_scale(train) if loaded.task == "regression" else (0.0, 1.0)
    torch.manual_seed(SEED)
    model = training._adapted_copy(loaded, all_linear(targets), settings)
    layers: dict[str, Any] = {
        name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)
    }
    rng = np.random.default_rng(SEED)
    lengths = [r.length for r in train]

    model.train()
    bases: dict[str, nn.Parameter] = {name: layer.get_base_layer().weight for name, layer in layers.items()}
    for weight in bases.values():
        weight.requires_grad_(True)
    for indices in list(length_bucketed(lengths, recipe.batch_size, np.random.default_rng(SEED)))[:GRADIENT_BATCHES]:
        batch_loss(model, loaded, collate([train[i] for i in indices], loaded, *scale))[0].backward()  # type: ignore[no-untyped-call]
    squared = {name: float(weight.grad.double().square().sum()) for name, weight in bases.items() if weight.grad is not None}
    for weight in bases.values():
        weight.requires_grad_(False)
        weight.grad = None
    model.zero_grad(set_to_none=True)
    layer_of = {t.name: t.layer for t in targets}
    whole = {layer: math.sqrt(sum(s for n, s in squared.items() if layer_of[n] == layer)) for layer in set(layer_of.values())}

    trainable = [p for p in model.parameters() if p.requires_grad]
    adapters = {n: [p for m in (layer.lora_A, layer.lora_B) for p in m.parameters()] for n, layer in layers.items()}
    allocated = dict.fromkeys(layers, 0.0)
    total = math.ceil(len(train) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(trainable, lr=recipe.lr, weight_decay=0.0)
    schedule = linear_schedule(optimizer, total, recipe)
    for _ in range(recipe.epochs):
        for indices in length_bucketed(lengths, recipe.batch_size, rng):
            loss, _ = batch_loss(model, loaded, collate([train[i] for i in indices], loaded, *scale))
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = {
                n: [(p, p.grad.clone(), p.detach().clone()) for p in ps if p.grad is not None] for n, ps in adapters.items()
            }
            nn.utils.clip_grad_norm_(trainable, CLIP_NORM)
            optimizer.step()
            schedule.step()
            for name, parts in gradients.items():
                allocated[name] -= sum(float((g * (p.detach() - old)).sum()) for p, g, old in parts)
            optimizer.zero_grad(set_to_none=True)

    outputs = dict.fromkeys(layers, 0.0)

    def measuring(name: str, layer: LoraLayer) -> Any:
        def hook(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            x = arguments[0].float()
            adapter = layer.active_adapters[0]
            out = layer.lora_B[adapter](layer.lora_A[adapter](x)) * layer.scaling[adapter]
            outputs[name] += float(out.double().square().sum())

        return hook

    hooks = [layer.register_forward_pre_hook(measuring(name, layer)) for name, layer in layers.items()]
    count = min(PILOT_EVAL_ROWS, len(prepared.eval_rows))
    shown = [prepared.eval_rows[i * len(prepared.eval_rows) // count] for i in range(count)]
    training.evaluate(model, loaded, shown, row.metric, lambda some: collate(some, loaded, *scale))
    for hook in hooks:
        hook.remove()
    return {  # in the order of the rows' masks
        "Aletheia-like": {t.name: whole[t.layer] for t in targets},
        "LoRA-drop": {t.name: outputs[t.name] for t in targets},
        "loss-change allocation": {t.name: allocated[t.name] for t in targets},
    }


def scores(group: Group, by_module: dict[str, dict[str, float]], healed: dict[str, Any] | None) -> dict[str, np.ndarray]:
    """[S] by name; lower is better."""
    masks = {r.selection: np.array([c == "1" for c in r.mask]) for r in group.rows}
    params = {r.selection: float(r.params) for r in group.rows}
    found = {"the probe": group.simulated, "parameter count": -np.array([params[s] for s in group.selections])}
    for rival, modules in by_module.items():
        values = np.array(list(modules.values()))
        found[f"{rival}, sum"] = -np.array([values[masks[s]].sum() for s in group.selections])
        found[f"{rival}, mean"] = -np.array([values[masks[s]].mean() for s in group.selections])
    if healed is not None and "0" in healed["epochs"]:
        found["short runs of each (16 steps)"] = np.array([healed["epochs"]["0"][s][-1] for s in group.selections])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="*", default=[""], help="parts of group names; all by default")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    healed, rows = kept(HEALED), read(SHIPPED)
    groups = grouped(rows)
    results = measure_missing(() if options.table else groups, options.groups, RESULTS, measure)

    def ranked(group: Group) -> dict[str, np.ndarray]:
        predicted = predict([r for r in rows if task_of(r) != task_of(group.rows[0])], group).deviation
        return {**scores(group, results[group.name], healed.get(group.name)), "predicted": predicted}

    lines = rank_table([g for g in groups if g.name in results], ranked)
    put_table("rivals", ("ranked by", "groups", "all budgets", "within one"), lines)


if __name__ == "__main__":
    main()
