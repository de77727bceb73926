"""What one real run of all-linear says of every selection in the rows: the measurements that ``benchmarks/validity.py`` reads.

For each group (a model on a task with one recipe) all-linear is trained once more, by a seed that no row has, and the loss of
every selection is measured by switching the other modules' adapters off (:mod:`advisor.training.pilot`). Resumable by group.

    python benchmarks/pilot.py [--groups TEXT …]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from linearity import source_of
from torch import nn
from validity import PILOT_SEED, PILOTS, SHIPPED, read

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import prepare
from advisor.prediction.groups import Group, grouped
from advisor.training.finetune import finetune
from advisor.training.pilot import switched_losses

HERE = Path(__file__).parent


def pilot(group: Group) -> dict[str, Any] | None:
    """The run's own loss, that of each selection by name, and the seconds both took; None: model or data are not here."""
    source, row = source_of(group), group.rows[0]
    if source is None:
        return None
    recipe, settings = TrainingRecipe(**row.recipe), LoraSettings(**row.settings)
    prepared = prepare(source, Session(), train_limit=recipe.train_rows, eval_limit=row.provenance["eval_rows"])
    loaded, targets = prepared.loaded, prepared.loaded.targets
    masks = {r.selection: r.mask for r in group.rows}
    selections = [
        Selection(name, tuple(t.name for t, on in zip(targets, masks[name], strict=True) if on == "1"))
        for name in group.selections
    ]
    found: dict[str, Any] = {}

    def measure(model: nn.Module, _: Mapping[str, torch.Tensor]) -> None:
        start = time.monotonic()
        losses = switched_losses(
            model, loaded, [*selections, Selection("none", ())], prepared.train_rows, prepared.eval_rows, row.metric, Session()
        )
        found["switched"] = dict(zip([*group.selections, "none"], losses, strict=True))
        found["switched_s"] = round(time.monotonic() - start, 1)

    run = finetune(
        loaded,
        all_linear(targets),
        settings,
        recipe,
        prepared.train_rows,
        prepared.eval_rows,
        row.metric,
        PILOT_SEED,
        inspect=measure,
    )
    return {
        "seed": PILOT_SEED,
        "loss": run.at_best.val_loss,
        "metric": run.at_best.metric,
        "run_s": round(run.wall_s, 1),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="*", default=[""], help="parts of group names; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(PILOTS.read_text(encoding="utf-8")) if PILOTS.exists() else {}
    groups = grouped([*read(SHIPPED), *read(HERE / "rows")])
    for part in options.groups:
        for group in groups:
            if part in group.name and group.name not in result:
                found = pilot(group)
                print(group.name, "left out: model or data are not here" if found is None else found["loss"], flush=True)
                if found is not None:
                    result[group.name] = found
                    write_json(PILOTS, result)


if __name__ == "__main__":
    main()
