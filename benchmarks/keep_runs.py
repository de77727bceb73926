"""Real LoRA runs that are asked what they forget: loss and KL on reference rows that are not trained on, before and after.

A pair is a model, a task, a reference and a learning rate. Of each pair: all modules, and random selections of one size, 128 rows
(64 for the larger model), 3 epochs, and as many seeds as asked for. Resumable: one line a run in ``WORK/<pair>.jsonl``.
``benchmarks/keep.py`` judges by them.

    python benchmarks/keep_runs.py WORK [--pairs TEXT …] [--seeds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe, recipe_for
from advisor.core.selections import all_linear, distinct, structured_random
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.data.dataset import Dataset, load_dataset, sample_rows
from advisor.models.encode import IGNORED, EncodedRow, collate, encode, length_bucketed
from advisor.models.forward import aligned
from advisor.models.load import LoadedModel
from advisor.models.prepare import Prepared, Source, prepare
from advisor.training.finetune import finetune
from advisor.training.frozen_prefix import PrefixStates

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODELS = {"stories": "stories260K", "tiny": "tinytalk3m"}
ROWS, EVAL_ROWS = {"stories": 128, "tiny": 64}, 64
REFERENCE_ROWS, PROBED = 160, 64  # the first PROBED of them are probed, the others are held out
SHARE, SELECTIONS = 0.18, 20
FILLED = {"stories": 0.97, "tiny": 0.92}  # least share of the budget: what modules of few widths can fill
SELECTION_SEED, MAX_LENGTH = 11, 64


@dataclass(frozen=True)
class Pair:
    """A model of ``MODELS``, the folder it is trained on, the one it should keep, and the learning rate."""

    model: str
    data: str
    keep: str
    rate: float = 1e-3

    @property
    def name(self) -> str:
        return f"{self.model}-{self.data}-keeps-{self.keep}" + (f"-{self.rate:g}" if self.rate != Pair.rate else "")


PAIRS = (
    Pair("stories", "nl2bash", "tiny_chat"),
    Pair("stories", "bbh_short", "tiny_chat"),
    Pair("tiny", "nl2bash", "tiny_chat"),
    Pair("tiny", "gsm8k", "tiny_chat"),
    Pair("tiny", "bbh_short", "tiny_chat"),
    Pair("stories", "tiny_chat", "bbh_short"),
    Pair("tiny", "nl2bash", "tiny_chat", 3e-4),
    Pair("tiny", "text2sql_geo", "tiny_chat"),
    Pair("tiny", "alpaca_seed", "tiny_chat"),
    Pair("stories", "gsm8k", "tiny_chat"),
    Pair("stories", "text2sql_geo", "bbh_short"),
)
EXAM = (  # run and looked at once, after intervals had been made from the others
    Pair("tiny", "bbh_short", "alpaca_seed"),
    Pair("tiny", "gsm8k", "nl2bash"),
    Pair("stories", "alpaca_seed", "nl2bash"),
    Pair("stories", "bbh_short", "text2sql_geo"),
)
EXAM_2 = (  # the same, after the first exam had shown that rows which surprise the model need another prediction
    Pair("tiny", "nl2bash", "gsm8k"),
    Pair("tiny", "text2sql_geo", "alpaca_seed"),
    Pair("stories", "nl2bash", "alpaca_seed"),
)
EXAM_3 = (  # for the intervals of loss: rows that do not surprise, tasks of benchmarks/public_data.py laid beside the shared data
    Pair("tiny", "mawps", "tiny_chat"),
    Pair("tiny", "svamp", "tiny_chat"),
    Pair("stories", "mawps", "tiny_chat"),
)


def selections_of(targets: tuple[Target, ...], filled: float, count: int = SELECTIONS) -> list[Selection]:
    """All modules, and ``count`` random selections of ``SHARE`` of the parameters, of at least the share ``filled`` of that."""
    rank, rng = LoraSettings().rank, np.random.default_rng(SELECTION_SEED)
    budget = int(SHARE * sum(t.lora_params(rank) for t in targets))
    found: list[Selection] = []
    for draw in range(50 * count):
        if len(found) == count:
            break
        drawn = structured_random(targets, budget, rank, rng, f"random #{draw}")
        if drawn.params(targets, rank) >= filled * budget:
            found = distinct([*found, drawn])
    return [all_linear(targets), *found]


def prepared_pair(pair: Pair) -> tuple[Prepared, Dataset]:
    """The model with its training rows, and a sample of the reference."""
    source = Source(
        str(SHARED / "models" / MODELS[pair.model]),
        str(SHARED / "data" / pair.data / "train.jsonl"),
        max_length=MAX_LENGTH,
        device="cpu",
    )
    prepared = prepare(source, Session(), train_limit=ROWS[pair.model], eval_limit=EVAL_ROWS)
    reference = load_dataset(str(SHARED / "data" / pair.keep / "train.jsonl"), task=prepared.train.schema.task)
    return prepared, sample_rows(reference, REFERENCE_ROWS, 0)


@torch.no_grad()
def log_probabilities(model: nn.Module, loaded: LoadedModel, rows: list[EncodedRow]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each row, log p over the vocabulary at its target tokens [T, V], and the targets [T]; float32."""
    model.eval()
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for indices in length_bucketed([row.length for row in rows], 32):
        batch = collate([rows[i] for i in indices], loaded)
        logits, labels = aligned(loaded.task, model(**{k: v for k, v in batch.items() if k != "labels"}).logits, batch["labels"])
        for i, row_logits, row_labels in zip(indices, logits, labels, strict=True):
            keep = row_labels != IGNORED
            found[i] = functional.log_softmax(row_logits[keep].float(), -1), row_labels[keep]
    return [found[i] for i in range(len(rows))]


def compared(
    before: list[tuple[torch.Tensor, torch.Tensor]], after: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[tuple[float, float, float]]:
    """Of each row, means over its target tokens: loss before, loss after, KL(before ‖ after)."""
    found = []
    for (p, labels), (q, _) in zip(before, after, strict=True):
        index = labels[:, None]
        kl = (p.exp() * (p - q)).sum(-1)
        found.append((-float(p.gather(1, index).mean()), -float(q.gather(1, index).mean()), float(kl.mean())))
    return found


def recipe(pair: Pair, task: str) -> TrainingRecipe:
    return recipe_for(task, ROWS[pair.model], None, pair.rate, None)


def run_pair(pair: Pair, work: Path, seed: int) -> None:
    """The pair's missing runs of one seed."""
    path = work / f"{pair.name}.jsonl"
    done = {(row["selection"], row["seed"]) for row in map(json.loads, path.read_text().splitlines())} if path.exists() else set()
    prepared, reference = prepared_pair(pair)
    loaded, settings = prepared.loaded, LoraSettings()
    rows, _ = encode(reference, loaded, MAX_LENGTH)
    before = log_probabilities(loaded.model, loaded, rows)
    prefix = PrefixStates(loaded)
    for selection in selections_of(loaded.targets, FILLED[pair.model]):
        if (selection.name, seed) in done:
            continue
        start = time.monotonic()
        measured: dict[str, Any] = {}

        def inspect(model: nn.Module, initial: Mapping[str, torch.Tensor], into: dict[str, Any] = measured) -> None:
            into["rows"] = compared(before, log_probabilities(model, loaded, rows))

        result = finetune(
            loaded,
            selection,
            settings,
            recipe(pair, loaded.task),
            prepared.train_rows,
            prepared.eval_rows,
            prepared.train.schema.metric,
            seed,
            inspect=inspect,
            prefix=prefix,
        )
        probed, held = (np.mean(part, 0) for part in (measured["rows"][:PROBED], measured["rows"][PROBED:]))
        line = {
            "selection": selection.name,
            "targets": list(selection.targets),
            "params": result.lora_params,
            "seed": seed,
            "task_loss": [epoch.val_loss for epoch in result.epochs],
            "distance": result.epochs[-1].distance,
            "probed": dict(zip(("before", "after", "kl"), map(float, probed), strict=True)),
            "held": dict(zip(("before", "after", "kl"), map(float, held), strict=True)),
            "seconds": round(time.monotonic() - start, 1),
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {pair.name} {selection.name} {line['held']} {line['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of finished runs")
    parser.add_argument("--pairs", nargs="*", default=[""], help="parts of pair names; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for pair in (*PAIRS, *EXAM, *EXAM_2, *EXAM_3):
            if any(part in pair.name for part in options.pairs):
                run_pair(pair, options.work, seed)


if __name__ == "__main__":
    main()
