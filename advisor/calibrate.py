"""Real LoRA runs over many selections: the ground truth that predictions are fitted to and judged by."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from advisor.errors import BadInput
from advisor.events import Session, Stage
from advisor.prepare import Prepared, Source, prepare
from advisor.recipe import TrainingRecipe
from advisor.selections import HEAD_ONLY, distinct, recipes, structured_random
from advisor.store import read_json, write_json
from advisor.targets import LoraSettings, Selection, Target

RUNS_FILE = "runs.jsonl"
RUN_SCHEMA = 1
DEFAULT_BUDGETS = (0.07, 0.18, 0.36)


@dataclass(frozen=True)
class PlannedRun:
    """One fine-tune to do; ``ranks`` and ``alphas`` are those of single modules, where they differ from the settings'."""

    selection: Selection
    settings: LoraSettings
    seed: int
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @property
    def own(self) -> dict[str, Any]:
        """The patterns as JSON, empty where all modules are alike: as in folders made before there were any."""
        patterns = {"ranks": dict(sorted(self.ranks.items())), "alphas": dict(sorted(self.alphas.items()))}
        return patterns if self.ranks or self.alphas else {}

    @property
    def key(self) -> str:
        """Identifies the run inside one calibration folder."""
        content = [self.selection.targets, asdict(self.settings), self.seed, *self.own.values()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def plan_runs(
    targets: Sequence[Target],
    qv_roles: Sequence[str],
    settings: LoraSettings,
    *,
    runs: int,
    seeds: int = 1,
    budgets: Sequence[float] = DEFAULT_BUDGETS,
    seed: int = 0,
) -> list[PlannedRun]:
    """Head-only, the usual recipes, then structured-random selections at ``budgets`` in turn.

    Args:
        runs: selections × seeds, rounded down to whole selections.
        budgets: shares of the LoRA parameters of all adaptable modules.

    Raises:
        BadInput: fewer runs than one selection needs.
    """
    count = runs // seeds
    if count < 1:
        raise BadInput(f"--runs {runs} is less than one selection at {seeds} seeds.", "Raise --runs.")
    total = sum(t.lora_params(settings.rank) for t in targets)
    rng = np.random.default_rng(seed)
    selections = [Selection(HEAD_ONLY, ()), *recipes(targets, qv_roles)]
    for draw in range(20 * count):  # small models have few distinct selections: stop trying at some point
        if len(selections) >= count:
            break
        share = budgets[draw % len(budgets)]
        name = f"random {share:.0%} #{draw // len(budgets)}"
        selections = distinct([*selections, structured_random(targets, int(share * total), settings.rank, rng, name)])
    return [
        PlannedRun(selection, settings, run_seed)
        for run_seed in range(seeds)
        for selection in selections[:count]
    ]


def calibrate(
    source: Source,
    planned: Sequence[PlannedRun],
    recipe: TrainingRecipe,
    out: Path,
    session: Session,
    *,
    eval_rows: int,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Do the planned runs that ``out/runs.jsonl`` does not hold yet, one JSON line a finished run.

    A run that was cut off is done again; finished lines are never touched. Each worker is one process of one
    torch thread with its own copy of the model.

    Raises:
        BadInput: ``out`` holds runs of another model or other data.
        Interrupted: cancelled; finished runs are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    recipe_given = recipe.as_dict()
    if not recipe.pull:  # folders made before there was a pull hold neither key
        del recipe_given["pull"], recipe_given["pull_always"]
    identity = {"source": source.as_dict(), "recipe": recipe_given, "eval_rows": eval_rows}
    _check_identity(out / "calibration.json", identity)
    done = {row["key"] for row in read_runs(out)}
    todo = [run for run in planned if run.key not in done]
    stage = Stage(session, "Real LoRA runs", len(planned), len(planned) - len(todo))
    with open(out / RUNS_FILE, "a", encoding="utf-8") as file:
        for run, row in _run_all(source, todo, session, recipe, eval_rows, workers):
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            stage.advance(f"{run.selection.name}: validation loss {row['result']['val_loss']:.4f}")
    return read_runs(out)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The finished runs of a calibration folder; a last line cut off by a crash is removed from the file.

    Raises:
        BadInput: a line other than the last is corrupt.
    """
    path = folder / RUNS_FILE
    if not path.exists():
        return []
    text = path.read_bytes()
    complete = text[: text.rfind(b"\n") + 1]
    if len(complete) < len(text):
        with open(path, "r+b") as file:
            file.truncate(len(complete))
    rows = []
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: not JSON.", "Remove that line and rerun.") from error
        if not isinstance(row, dict) or row.get("schema") != RUN_SCHEMA:
            raise BadInput(f"{path}, line {number}: schema is not {RUN_SCHEMA}.", "Use another --out folder.")
        rows.append(row)
    return rows


def _check_identity(path: Path, identity: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, identity)
    elif read_json(path, "calibration") != json.loads(json.dumps(identity)):
        raise BadInput(f"{path}: this folder holds runs of another model, data or setting.", "Use another --out.")


def short_name(path: str) -> str:
    """The last two parts of a path or hub id: enough to recognise it, without the rest of a machine's folders."""
    return "/".join(Path(path).parts[-2:])


_prepared: Prepared | None = None  # one per worker process


def _start_worker(source: Source, train_rows: int | None, eval_rows: int) -> None:
    import torch

    global _prepared
    torch.set_num_threads(1)
    _prepared = prepare(source, Session(), train_limit=train_rows, eval_limit=eval_rows)


def _one_run(run: PlannedRun, recipe: TrainingRecipe) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    from advisor.finetune import bf16_autocast, finetune

    assert _prepared is not None
    loaded, schema = _prepared.loaded, _prepared.train.schema
    result = finetune(
        loaded, run.selection, run.settings, recipe, _prepared.train_rows, _prepared.eval_rows, schema.metric, run.seed,
        ranks=run.ranks, alphas=run.alphas,
    )  # fmt: skip
    best = result.at_best
    epochs = [[e.train_loss if i else None, e.val_loss, e.metric] for i, e in enumerate(result.epochs)]
    return {
        "schema": RUN_SCHEMA,
        "key": run.key,
        "selection": asdict(run.selection),
        "settings": asdict(run.settings),
        **run.own,
        "recipe": recipe.as_dict(),
        "seed": run.seed,
        "result": {
            "train_loss": best.train_loss if result.best else None,
            "val_loss": best.val_loss,
            "metric": best.metric,
            "best_epoch": result.best,
            "epochs": epochs,
            "distances": [e.distance for e in result.epochs],
            "lora_params": result.lora_params,
            "wall_s": round(result.wall_s, 2),
        },
        "provenance": {
            "model": short_name(loaded.name),
            "model_type": loaded.model.config.model_type,
            "model_fingerprint": loaded.fingerprint,
            "data": short_name(_prepared.train.source),
            "data_fingerprint": _prepared.train.fingerprint,
            "eval_fingerprint": _prepared.evaluation.fingerprint,
            "task": schema.task,
            "classes": len(schema.class_names),
            "metric": schema.metric,
            "train_rows": len(_prepared.train_rows),
            "eval_rows": len(_prepared.eval_rows),
            "max_length": _prepared.max_length,
            "autocast": "bfloat16" if bf16_autocast(loaded.device) else "off",
            "device": loaded.device.type,
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
                "python": platform.python_version(),
            },
        },
    }


def _run_all(
    source: Source,
    todo: Sequence[PlannedRun],
    session: Session,
    recipe: TrainingRecipe,
    eval_rows: int,
    workers: int,
) -> Iterator[tuple[PlannedRun, dict[str, Any]]]:
    """Yield each run with its row as it finishes; no more than two runs a worker are queued."""
    if not todo:
        return
    waiting = list(reversed(todo))
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(source, recipe.train_rows, eval_rows),
    )
    running: dict[Future[dict[str, Any]], PlannedRun] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                run = waiting.pop()
                running[pool.submit(_one_run, run, recipe)] = run
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
            session.check()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()
