"""Was the advice right, and did it cost less than trying? The demo's pick and the common target sets at equal budget, trained for
real on the demo's task.

The task's own runs are not among the shipped rows. Prints predicted and real validation loss and metric, mean over seeds; and
what the advice took (loading, a fresh probe with linearity and peers, search), in training steps of all-linear and as a
share of one such fine-tune on these rows.

    python benchmarks/advice.py [--budget 25%] [--seeds 2] [--train-rows 512]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from scipy.stats import spearmanr

from advisor.advice.budget import parse_budget
from advisor.advice.recommend import recommend
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.models.prepare import Source, prepare
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.probe_cache import demo_inputs, prepare_for_probe
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.finetune import finetune

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
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        probe = run_probe(prepare_for_probe(source, session, None), ProbeSettings(), Path(folder) / "probe", session)
    probed = time.monotonic()
    scorer = Scorer(probe, LoraSettings(), recipe, Predictor().fit(load_rows(), probe.task))
    advice = recommend(scorer, parse_budget(options.budget), session)
    probe_s, advice_s = probed - start, time.monotonic() - start
    ready = prepare(source, session, train_limit=options.train_rows)
    scores = [*advice.equal_budget, advice.all_linear]
    metric = ready.train.schema.metric
    steps = recipe.epochs * math.ceil(len(ready.train_rows) / recipe.batch_size)
    result = []
    for number, score in enumerate(scores):
        candidate = score.candidate
        runs = [
            finetune(
                ready.loaded, candidate.selection, candidate.settings, recipe, ready.train_rows, ready.eval_rows, metric, seed
            )
            for seed in range(options.seeds)
        ]
        best = [run.at_best for run in runs]
        row = {
            "selection": "the pick" if number == 0 else candidate.selection.name,
            "params": score.cost.params,
            "predicted_loss": score.loss[0],
            "loss": [epoch.val_loss for epoch in best],
            metric: [epoch.metric for epoch in best],
            "wall_s": [run.wall_s for run in runs],
        }
        result.append(row)
        print(
            f"{row['selection']:32s} {row['params']:8d}  predicted {score.loss[0]:.3f}  real "
            f"{np.mean(row['loss']):.3f}  {metric} {np.mean(row[metric]):.3f}",
            flush=True,
        )
    equal = result[:-1]
    losses = [float(np.mean(r["loss"])) for r in equal]
    one_run = float(np.mean(result[-1]["wall_s"]))
    summary = {
        "spearman_at_equal_budget": float(spearmanr([r["predicted_loss"] for r in equal], losses).statistic),
        "pick_rank_by_real_loss": int(np.argsort(np.argsort(losses))[0]) + 1,
        "of": len(equal),
        f"pick_{metric}_minus_best_recipe": float(np.mean(equal[0][metric]) - max(np.mean(r[metric]) for r in equal[1:])),
        "steps_of_one_run": steps,
        "advice_over_one_all_linear_run": advice_s / one_run,
        "advice_in_all_linear_steps": advice_s / one_run * steps,
        "probe_share_of_advice": probe_s / advice_s,
        "advice_over_trying_all": advice_s / float(np.sum([np.mean(r["wall_s"]) for r in result])),
    }
    print(json.dumps(summary, indent=1))
    report = {"budget": options.budget, "summary": summary, "runs": result}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
