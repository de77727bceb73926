"""Was the advice right? The demo's pick and the usual recipes at equal budget, trained for real on the demo's task.

The task's own runs are not among the shipped rows. Prints predicted and real validation loss and metric, mean over seeds.

    python benchmarks/advice.py [--budget 25%] [--seeds 2] [--train-rows 512]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from scipy.stats import spearmanr

from advisor.budget import parse_budget
from advisor.events import Session
from advisor.finetune import finetune
from advisor.predictor import Predictor
from advisor.prepare import Source, prepare
from advisor.probe import ProbeSettings
from advisor.recipe import TrainingRecipe
from advisor.recommend import recommend
from advisor.rows import load_rows
from advisor.scoring import Scorer
from advisor.targets import LoraSettings
from advisor.workflow import demo_inputs, prepare_for_probe, probe_cached

RESULTS = Path(__file__).parent / "results" / "advice.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="25%")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train-rows", type=int, default=512)
    options = parser.parse_args()
    model, data = demo_inputs()
    source, session = Source(model, data), Session()
    recipe = TrainingRecipe(train_rows=options.train_rows)
    probe = probe_cached(prepare_for_probe(source, session, None), ProbeSettings(), session)
    scorer = Scorer(probe, LoraSettings(), recipe, Predictor().fit(load_rows(), probe.task))
    advice = recommend(scorer, parse_budget(options.budget), session)
    ready = prepare(source, session, train_limit=options.train_rows)
    scores = [*advice.equal_budget, advice.all_linear]
    metric = ready.train.schema.metric
    result = []
    for number, score in enumerate(scores):
        candidate = score.candidate
        runs = [
            finetune(
                ready.loaded, candidate.selection, candidate.settings, recipe, ready.train_rows, ready.eval_rows, metric, seed
            ).at_best
            for seed in range(options.seeds)
        ]
        row = {
            "selection": "the pick" if number == 0 else candidate.selection.name,
            "params": score.cost.params,
            "predicted_loss": score.loss[0],
            "loss": [run.val_loss for run in runs],
            metric: [run.metric for run in runs],
        }
        result.append(row)
        print(
            f"{row['selection']:32s} {row['params']:8d}  predicted {score.loss[0]:.3f}  real "
            f"{np.mean(row['loss']):.3f}  {metric} {np.mean(row[metric]):.3f}",
            flush=True,
        )
    equal = result[:-1]
    losses = [float(np.mean(r["loss"])) for r in equal]
    summary = {
        "spearman_at_equal_budget": float(spearmanr([r["predicted_loss"] for r in equal], losses).statistic),
        "pick_rank_by_real_loss": int(np.argsort(np.argsort(losses))[0]) + 1,
        "of": len(equal),
        f"pick_{metric}_minus_best_recipe": float(np.mean(equal[0][metric]) - max(np.mean(r[metric]) for r in equal[1:])),
    }
    print(json.dumps(summary, indent=1))
    report = {"budget": options.budget, "summary": summary, "runs": result}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
