"""Do ranks of their own (``--rank auto``) beat one rank for all modules at equal parameter count? Real LoRA runs of MiniLM.

For each task the advisor's pick at a budget of 25 %, and all modules at rank 4, with: the same rank everywhere; ``auto``
(alpha follows the rank, so that the scale stays); ``auto, one alpha`` (the scale falls as the rank rises, so that the
first-order kernel under Adam stays, docs/design.md 2.3); EVA's redistribution (scale kept, as PEFT does). Differences in log
validation loss and metric are paired by seed, below 0 and above 0 better than one rank; 95 % t intervals over the pairs, and
over the means of a task and selection, since pairs of one are more alike than pairs of two. Raw runs and probes go to the work
folder; run again to resume, or with more seeds.

    python benchmarks/ranks.py --work FOLDER [--seeds 3] [--tasks sst2 trec]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from scipy import stats

from advisor.advice.budget import parse_budget
from advisor.advice.peer_picks import EVA, eva_ranks, measured
from advisor.advice.ranks import auto_ranks
from advisor.advice.recommend import recommend
from advisor.core.candidate import Candidate
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings
from advisor.data.demo import demo_model_folder
from advisor.models.prepare import Source, prepare
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.runner import PlannedRun
from advisor.training.runs import calibrate, read_runs

RESULTS = Path(__file__).parent / "results" / "ranks.json"
DATA = Path(__file__).parents[2] / "shared" / "data"
RECIPE = TrainingRecipe(train_rows=512)
UNIFORM, AUTO, ONE_ALPHA = "one rank", "auto", "auto, one alpha"
ARMS = (UNIFORM, AUTO, ONE_ALPHA, EVA)


def arms(task: str, work: Path) -> dict[str, dict[str, Candidate]]:
    """The candidates of each selection by arm, all of one selection with at most as many parameters as the first."""
    prepared = prepare(source_of(task), Session(), train_limit=RECIPE.train_rows, eval_limit=0)
    probe = run_probe(prepared, ProbeSettings(linearity=False), work / f"probe-{task}", Session())
    scorer = Scorer(probe, LoraSettings(), RECIPE, Predictor().fit(load_rows(), probe.task))
    pick = recommend(scorer, parse_budget("25%"), Session()).picked.candidate
    everything = Candidate(all_linear(probe.targets), LoraSettings().at_rank(4))
    found = {}
    for name, uniform in (("the pick at 25 %", pick), ("all-linear, r=4", everything)):
        auto = auto_ranks(probe)(uniform)
        modules = np.array([[t.name == chosen for t in probe.targets] for chosen in uniform.selection.targets])
        params = uniform.selection.params(probe.targets, uniform.settings.rank)
        at = Scorer(probe, uniform.settings, RECIPE, scorer.predictor)
        ratios = measured(probe, EVA)
        assert ratios is not None
        eva = eva_ranks(at, parse_budget(str(params)), modules, ratios, params)
        found[name] = {UNIFORM: uniform, AUTO: auto, ONE_ALPHA: replace(auto, alphas={}), EVA: eva}
    return found


def source_of(task: str) -> Source:
    return Source(str(demo_model_folder()), str(DATA / task / "train.jsonl"))


def planned(candidate: Candidate, seed: int) -> PlannedRun:
    return PlannedRun(candidate.selection, candidate.settings, seed, candidate.ranks, candidate.alphas)


def table(task: str, found: dict[str, dict[str, Candidate]], work: Path, seeds: int) -> list[dict[str, Any]]:
    """One row a selection and arm: what was trained, loss and metric of each finished seed."""
    runs = {run["key"]: run["result"] for run in read_runs(work / task)}
    rows = []
    for selection, candidates in found.items():
        for arm, candidate in candidates.items():
            results = [runs.get(planned(candidate, seed).key) for seed in range(seeds)]
            ranks = [candidate.module_settings(name).rank for name in candidate.selection.targets]
            rows.append(
                {
                    "task": task,
                    "selection": selection,
                    "arm": arm,
                    "modules": len(ranks),
                    "ranks": sorted(ranks),
                    "params": next((r["lora_params"] for r in results if r), None),
                    "loss": [r and r["val_loss"] for r in results],
                    "metric": [r and r["metric"] for r in results],
                }
            )
    return rows


def differences(rows: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """Of an arm against one rank, over all pairs of the same task, selection and seed that have been run."""
    base = {(r["task"], r["selection"]): r for r in rows if r["arm"] == UNIFORM}
    losses: list[list[float]] = []  # of each task and selection
    metrics: list[list[float]] = []
    for row in (r for r in rows if r["arm"] == arm):
        loss, metric = [], []
        other = base[row["task"], row["selection"]]
        pairs = zip(row["loss"], other["loss"], row["metric"], other["metric"], strict=True)
        for own_loss, other_loss, own_metric, other_metric in pairs:
            if own_loss is not None and other_loss is not None:
                loss.append(math.log(own_loss / other_loss))
                metric.append(own_metric - other_metric)
        losses.append(loss)
        metrics.append(metric)
    return {
        "pairs": sum(map(len, losses)),
        "log_loss": interval([x for loss in losses for x in loss]),
        "metric": interval([x for metric in metrics for x in metric]),
        "log_loss_between": interval([float(np.mean(loss)) for loss in losses if loss]),
        "metric_between": interval([float(np.mean(metric)) for metric in metrics if metric]),
    }


def interval(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and 95 % t interval; None of fewer than two."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    mean = float(np.mean(values))
    return {"value": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the differences and write the results."""
    summary: dict[str, Any] = {}
    groups = {(r["task"], r["selection"]) for r in rows}
    for name, members in (
        *((f"{task}, {s}", [r for r in rows if (r["task"], r["selection"]) == (task, s)]) for task, s in sorted(groups)),
        ("all", list(rows)),
    ):
        summary[name] = {arm: differences(members, arm) for arm in ARMS[1:]}
        for arm, found in summary[name].items():
            shown = " ".join(
                f"{key} {v['value']:+.4f} ({v['low']:+.4f} to {v['high']:+.4f})"
                for key in ("log_loss", "log_loss_between", "metric", "metric_between")
                if (v := found[key])
            )
            print(f"{name:28s} {arm:16s} {found['pairs']:2d} pairs  {shown}", flush=True)
    result = {"recipe": RECIPE.as_dict(), "against_one_rank": summary, "runs": rows}
    RESULTS.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for probes and raw runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=["sst2", "trec"])
    options = parser.parse_args()
    found = {task: arms(task, options.work) for task in options.tasks}
    for some in (ARMS[:2], ARMS[2:]):  # the question itself first, seed by seed, so that what is finished is balanced
        for seed in range(options.seeds):
            for task, selections in found.items():
                runs = [planned(candidates[arm], seed) for candidates in selections.values() for arm in some]
                made_of = prepare(source_of(task), Session(), train_limit=8, eval_limit=0).made_of
                calibrate(source_of(task), runs, RECIPE, options.work / task, Session(), eval_rows=500, made_of=made_of)
                report([row for t, s in found.items() for row in table(t, s, options.work, options.seeds)])


if __name__ == "__main__":
    main()
