"""What starting real runs above their frozen blocks saves, as ratios within one process.

Each selection is trained with and without kept states in turn, on one thread; processor time counts, which other work on
the machine disturbs less than wall time, and the minimum over repeats is taken. ``first run``
computes the states, ``later run`` finds them, as runs of one worker at the same depth do.

    python benchmarks/finetune.py [--rows 128] [--eval-rows 125] [--repeats 2]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

from advisor.core.recipe import LANGUAGE_TASKS, default_recipe
from advisor.core.selections import HEAD_ONLY
from advisor.core.targets import LoraSettings, Selection
from advisor.data.demo import demo_model_folder
from advisor.models.encode import EncodedRow
from advisor.models.load import LoadedModel, load_model
from advisor.training.finetune import RunResult, finetune
from advisor.training.frozen_prefix import PrefixStates

RESULTS = Path(__file__).parent / "results" / "finetune.json"
LLAMA = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"


def rows_of(count: int, vocabulary: int, seed: int, language: bool) -> list[EncodedRow]:
    """Random token ids, 8 to 64 a row, two classes or every token learned."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        ids = tuple(int(t) for t in rng.integers(5, vocabulary, rng.integers(8, 65)))
        rows.append(EncodedRow(ids, None, i % 2, ids if language else ()))
    return rows


def selections_of(loaded: LoadedModel) -> list[Selection]:
    blocks = 1 + max(t.layer for t in loaded.targets if t.layer is not None)
    wanted = {"last layer": [blocks - 1], "last half": range(blocks // 2, blocks), "first layer": [0]}
    head = [Selection(HEAD_ONLY, ())] if loaded.head else []
    return head + [Selection(name, tuple(t.name for t in loaded.targets if t.layer in layers)) for name, layers in wanted.items()]


def measure(loaded: LoadedModel, rows: int, eval_rows: int, repeats: int) -> list[dict[str, Any]]:
    language = loaded.task in LANGUAGE_TASKS
    train, evaluation = (
        rows_of(count, loaded.model.config.vocab_size, seed, language) for seed, count in enumerate((rows, eval_rows))
    )
    found = []
    for selection in selections_of(loaded):
        times: dict[str, list[float]] = {"uncached": [], "first run": [], "later run": []}
        difference, kept = 0.0, PrefixStates(loaded)
        for _ in range(repeats):
            kept = PrefixStates(loaded)
            results: dict[str, RunResult] = {}
            for name, prefix in (("uncached", PrefixStates(loaded, limit=0)), ("first run", kept), ("later run", kept)):
                start = time.process_time()
                results[name] = finetune(
                    loaded,
                    selection,
                    LoraSettings(),
                    default_recipe(loaded.task),
                    train,
                    evaluation,
                    "token_accuracy" if language else "accuracy",
                    0,
                    prefix=prefix,
                )
                times[name].append(time.process_time() - start)
            plain = results["uncached"]
            for result in (results["first run"], results["later run"]):
                pairs = zip(result.epochs[1:], plain.epochs[1:], strict=True)
                difference = max(difference, *(abs(a.val_loss / b.val_loss - 1) for a, b in pairs))
        least = {name: min(values) for name, values in times.items()}
        found.append(
            {
                "selection": selection.name,
                "frozen_blocks": kept.depth(selection),
                "states_bytes": kept.bytes,
                "uncached_s": round(least["uncached"], 2),
                "first_run_ratio": round(least["first run"] / least["uncached"], 3),
                "later_run_ratio": round(least["later run"] / least["uncached"], 3),
                "largest_relative_difference_of_a_validation_loss": difference,
            }
        )
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--eval-rows", type=int, default=125)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"train_rows": options.rows, "eval_rows": options.eval_rows, "repeats": options.repeats}
    models = {
        "MiniLM, classification (dropout 0.1: evaluation only)": (str(demo_model_folder()), "classification"),
        "Llama of 5 blocks, classification": (str(LLAMA), "classification"),
        "Llama of 5 blocks, causal-lm": (str(LLAMA), "causal-lm"),
    }
    for name, (folder, task) in models.items():
        loaded = load_model(folder, task, num_labels=2, device="cpu")
        result[name] = measure(loaded, options.rows, options.eval_rows, options.repeats)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
