"""What training an encoder's missing pooler wins: the e5 encoder, whose checkpoint has none, on 256 rows of snips.

PEFT leaves the pooler random and frozen. Each run adapts all modules; the pooler is left so, or trained in full beside the head.

    python benchmarks/pooler.py --models FOLDER

``FOLDER/e5`` is made by ``../shared/models/make_e5.py``.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from sweep import EVAL_ROWS, SHARED, Group, source_of

from advisor.core.events import Session
from advisor.core.recipe import recipe_for
from advisor.core.selections import all_linear
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings
from advisor.models.prepare import prepare
from advisor.training.finetune import finetune

RESULTS = Path(__file__).parent / "results" / "pooler.json"
RATES, SEEDS = (1e-3, 3e-3), (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of e5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for lr in RATES:
        group = Group("e5", "snips", 256, lr)
        source = source_of(group, options.models, SHARED / "data")
        prepared = prepare(source, Session(), train_limit=group.rows, eval_limit=EVAL_ROWS)
        loaded = prepared.loaded
        pooler = next(name for name, _ in loaded.model.named_modules() if name.endswith("pooler"))
        recipe = recipe_for(loaded.task, group.rows, None, lr, None)
        for seed in SEEDS:
            for trained, model in ((False, loaded), (True, replace(loaded, head=(*loaded.head, pooler)))):
                best = finetune(
                    model,
                    all_linear(loaded.targets),
                    LoraSettings(),
                    recipe,
                    prepared.train_rows,
                    prepared.eval_rows,
                    "accuracy",
                    seed,
                ).at_best
                found = {"lr": lr, "seed": seed, "pooler trained": trained, "loss": best.val_loss, "accuracy": best.metric}
                results.append(found)
                print(found, flush=True)
                write_json(RESULTS, {"runs": results})


if __name__ == "__main__":
    main()
