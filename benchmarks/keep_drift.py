"""Does the probe predict what a classifier forgets of an old task? Figures of docs/keep.md.

An encoder is trained on an old task, all modules and the head, and merged: it knows the task. Then it is trained for real on a
new one, with a new head. Before and after, what its head reads of rows of the old task is taken: its drift, and the loss of the
old head there. These rows are not the probed ones. Results go to ``results/keep_drift.json``; runs that are there are not
repeated.

    python benchmarks/keep_drift.py WORK [--e5 FOLDER] [--pairs TEXT …] [--selections 20] [--lr 1e-3]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from keep import rivals
from keep_runs import MAX_LENGTH, SHARED, selections_of
from scipy.special import log_softmax
from scipy.stats import spearmanr
from torch import nn
from transformers import AutoModelForSequenceClassification

from advisor.core.events import Session
from advisor.core.probe import DriftBlocks, Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings, Selection
from advisor.data.dataset import Dataset, load_dataset, only_read, sample_rows
from advisor.data.demo import demo_model_folder
from advisor.models.encode import EncodedRow, encode
from advisor.models.load import LoadedModel
from advisor.models.prepare import Kept, Prepared, Source, prepare
from advisor.prediction.disturbance import disturbances
from advisor.prediction.probe_view import probe_view
from advisor.probing.head import head_features, layer_inputs
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.forgetting import fisher_traces
from advisor.theory.kernels import Array, lora_constant
from advisor.training.finetune import finetune
from advisor.training.frozen_prefix import PrefixStates

RESULTS = Path(__file__).parent / "results" / "keep_drift.json"
OLD_ROWS, OLD_EPOCHS = 512, 4
ROWS, EVAL_ROWS = 256, 64
PROBED, HELD = 64, 96  # reference rows: probed, measured
FILLED = 0.97


@dataclass(frozen=True)
class Pair:
    """A model, the task that it is trained on, and the old one."""

    model: str
    data: str
    keep: str

    @property
    def name(self) -> str:
        return f"{self.model}-{self.data}-after-{self.keep}"


PAIRS = (Pair("minilm", "trec", "sst2"), Pair("e5", "trec", "sst2"), Pair("minilm", "sst2", "trec"), Pair("e5", "sst2", "trec"))


def rows_of(data: str) -> str:
    return str(SHARED / "data" / data / "train.jsonl")


def checkpoint(pair: Pair, model: str, work: Path) -> Path:
    """The folder of the model that was trained on the old task; made if it is not there."""
    folder = work / f"{pair.model}-knows-{pair.keep}"
    if not (folder / "config.json").exists():
        source = Source(model, rows_of(pair.keep), max_length=MAX_LENGTH, device="cpu")
        prepared = prepare(source, Session(), train_limit=OLD_ROWS, eval_limit=EVAL_ROWS)
        recipe = TrainingRecipe(train_rows=OLD_ROWS, epochs=OLD_EPOCHS, lr=1e-3)
        kept: list[Any] = []
        run = finetune(
            prepared.loaded, all_linear(prepared.loaded.targets), LoraSettings(), recipe, prepared.train_rows,
            prepared.eval_rows, prepared.train.schema.metric, 0, inspect=lambda trained, _: kept.append(trained),
        )  # fmt: skip
        print(folder.name, [(round(epoch.val_loss, 3), round(epoch.metric, 3)) for epoch in run.epochs], flush=True)
        merged = kept[0].merge_and_unload()
        merged.base_model.save_pretrained(folder / "encoder")
        prepared.loaded.tokenizer.save_pretrained(folder / "encoder")
        merged.save_pretrained(folder)
    return folder


def prepared_pair(pair: Pair, folder: Path) -> tuple[Prepared, Dataset]:
    """The model with its training rows; of the old task the rows to probe, and labelled ones to measure by."""
    prepared = prepare(
        Source(str(folder / "encoder"), rows_of(pair.data), max_length=MAX_LENGTH, device="cpu"),
        Session(), train_limit=ROWS, eval_limit=EVAL_ROWS,
    )  # fmt: skip
    old = sample_rows(load_dataset(str(SHARED / "data" / pair.keep / "test.jsonl")), PROBED + HELD, 0)
    kept = Kept(only_read(replace(old, examples=old.examples[:PROBED])), pair.keep)
    return replace(prepared, kept=kept), replace(old, examples=old.examples[PROBED:])


def runs_of(pair: Pair, work: Path, recipe: TrainingRecipe) -> Path:
    return work / f"{pair.name}-{recipe.lr:g}.jsonl"


def old_outputs(folder: Path, features: Array) -> Array:
    """[rows, classes] log-probabilities of the old head, from what it reads."""
    head = AutoModelForSequenceClassification.from_pretrained(folder).classifier
    layer = getattr(head, "out_proj", head)
    weight, bias = (np.asarray(p.detach().double().numpy()) for p in (layer.weight, layer.bias))
    return np.asarray(log_softmax(features @ weight.T + bias, axis=1))


def run_pair(pair: Pair, folder: Path, work: Path, count: int, recipe: TrainingRecipe) -> None:
    """The pair's missing runs."""
    path = runs_of(pair, work, recipe)
    done = {json.loads(line)["selection"] for line in path.read_text().splitlines()} if path.exists() else set()
    prepared, measured = prepared_pair(pair, folder)
    loaded, settings = prepared.loaded, LoraSettings()
    rows, _ = encode(only_read(measured), loaded, MAX_LENGTH)
    answers = (np.arange(HELD), np.array([example.label for example in measured.examples]))
    before = head_features(loaded, rows, Session())
    old = old_outputs(folder, before)
    variance = before.var(0).sum()
    prefix = PrefixStates(loaded)
    for selection in selections_of(loaded.targets, FILLED, count):
        if selection.name in done:
            continue
        start = time.monotonic()
        after: list[Array] = []

        def inspect(model: nn.Module, initial: Mapping[str, torch.Tensor], into: list[Array] = after) -> None:
            into.append(features_of(model, loaded, rows))

        run = finetune(
            loaded, selection, settings, recipe, prepared.train_rows, prepared.eval_rows, prepared.train.schema.metric, 0,
            inspect=inspect, prefix=prefix,
        )  # fmt: skip
        new = old_outputs(folder, after[0])
        line = {
            "selection": selection.name,
            "targets": list(selection.targets),
            "drift": float(((after[0] - before) ** 2).sum(1).mean() / variance),
            "old_loss": [-float(old[answers].mean()), -float(new[answers].mean())],
            "old_accuracy": [float((outputs.argmax(1) == answers[1]).mean()) for outputs in (old, new)],
            "old_kl": float((np.exp(old) * (old - new)).sum(1).mean()),
            "task_loss": [epoch.val_loss for epoch in run.epochs],
            "seconds": round(time.monotonic() - start, 1),
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {pair.name} {selection.name} {line['drift']:.3f} {line['old_kl']:.3f}", flush=True)


def features_of(model: nn.Module, loaded: LoadedModel, rows: list[EncodedRow]) -> Array:
    """What the head of a trained copy reads of the rows; PEFT trains a copy of the head."""
    name = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(".modules_to_save.default"))
    return layer_inputs(replace(loaded, model=model), rows, Session(), (model.get_submodule(name),))[0]  # type: ignore[arg-type]


def predictions(probe: Probe, selections: list[Selection], recipe: TrainingRecipe) -> dict[str, Array]:
    """Every quantity [S] that may say how much a selection drifts: the larger, the more."""
    settings, keep = LoraSettings(), probe.keep
    assert isinstance(keep, DriftBlocks)
    view = probe_view(probe, settings, recipe)
    masks = np.array([[t.name in s.targets for t in probe.targets] for s in selections], dtype=np.float64)
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    kinds = dict.fromkeys(("adam", "lora-expected"), masks)
    still = replace(keep, energies=0 * keep.energies)

    def drifts(blocks: DriftBlocks) -> Array:
        return np.array([d.size for d in disturbances(probe, blocks, view, settings, kinds)])

    return {
        "drift": drifts(keep),
        "drift, along gradients": drifts(still),
        "trace": masks @ (constants * fisher_traces(keep.energies.astype(np.float64), np.full(keep.energies.shape[1], 2.0))),
        **rivals(probe, view, masks),
    }


def judged(pair: Pair, folder: Path, work: Path, count: int, recipe: TrainingRecipe) -> dict[str, Any]:
    """The figures of one pair."""
    by_name = {line["selection"]: line for line in map(json.loads, runs_of(pair, work, recipe).read_text().splitlines())}
    prepared, _ = prepared_pair(pair, folder)
    probe = run_probe(prepared, ProbeSettings(linearity=False), work / f"{pair.name}-probe", Session())
    everything, *selections = (s for s in selections_of(probe.targets, FILLED, count) if s.name in by_name)
    lines = [by_name[s.name] for s in selections]
    predicted = predictions(probe, selections, recipe)
    measured = {
        "drift": np.array([line["drift"] for line in lines]),
        "old loss": np.array([line["old_loss"][1] - line["old_loss"][0] for line in lines]),
        "old kl": np.array([line["old_kl"] for line in lines]),
        "learned": np.array([line["task_loss"][0] - min(line["task_loss"][1:]) for line in lines]),
    }

    def rank(a: Array, b: Array) -> float | None:
        return None if min(np.ptp(a), np.ptp(b)) == 0 else round(float(spearmanr(a, b).statistic), 3)

    return {
        "pair": pair.name,
        "lr": recipe.lr,
        "selections": len(selections),
        "old_loss_before": lines[0]["old_loss"][0],
        "all_modules": {name: by_name[everything.name][name] for name in ("drift", "old_loss", "old_kl")},
        "real": {name: [round(float(v), 6) for v in values] for name, values in measured.items()},
        "predicted": {name: [float(f"{v:.6g}") for v in values] for name, values in predicted.items()},
        "spearman": {kind: {name: rank(values, measured[kind]) for name, values in predicted.items()} for kind in measured},
        "drift_with_old_kl": rank(measured["drift"], measured["old kl"]),
        "size": round(float(np.median(predicted["drift"] / measured["drift"])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of finished runs, and of probes")
    parser.add_argument("--pairs", nargs="*", default=[""], help="parts of pair names; all by default")
    parser.add_argument("--e5", help="folder of the 12-layer encoder")
    parser.add_argument("--selections", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    recipe = TrainingRecipe(train_rows=ROWS, epochs=3, lr=options.lr)
    for pair in PAIRS:
        model = options.e5 if pair.model == "e5" else str(demo_model_folder())
        if model and any(part in pair.name for part in options.pairs):
            folder = checkpoint(pair, model, options.work)
            run_pair(pair, folder, options.work, options.selections, recipe)
            entry = judged(pair, folder, options.work, options.selections, recipe)
            before = json.loads(RESULTS.read_text())["pairs"] if RESULTS.exists() else []
            others = [e for e in before if (e["pair"], e["lr"]) != (pair.name, options.lr)]
            write_json(RESULTS, {"pairs": sorted([*others, entry], key=lambda e: (e["pair"], -e["lr"]))})
            print(pair.name, json.dumps(entry["spearman"]), flush=True)


if __name__ == "__main__":
    main()
