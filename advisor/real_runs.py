"""Real runs that a command asks for: to confirm a recommendation, or to calibrate a task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advisor.advice.confirm import Confirmation, RunAll, confirm, short_recipe
from advisor.advice.recommend import Recommendation
from advisor.core import option_groups
from advisor.core.candidate import Candidate, RealRun
from advisor.core.choices import LEVEL
from advisor.core.events import Session
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.store import write_json, write_text
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Prepared, Source, prepare, with_kept
from advisor.prediction.calibration_rows import user_rows_folder
from advisor.prediction.forgetting import Forgetting, fewest, forgetting_of
from advisor.prediction.learn import rows_from_runs
from advisor.prediction.scorer import Scorer
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.report.confirmation import cost_of_runs
from advisor.training.pace import step_seconds
from advisor.training.runner import PlannedRun
from advisor.training.runs import FAILED_FILE, calibrate, claim, plan_runs, read_failures
from advisor.training.workers import import_ray

FORGETTING_FILE = "forgetting.json"
CONFIRM_FOLDER = "confirm"
CONFIRM_EVAL_ROWS = 500  # as `advisor calibrate`


def confirm_in(
    out: Path, prepared: Prepared, settings: option_groups.Confirm, session: Session
) -> Callable[[Scorer, Recommendation], Confirmation]:
    """For :func:`recommend_folder`: real runs, kept in the folder ``confirm`` of ``out``, so that a rerun resumes.

    What they take is said before they begin: in steps, and in minutes by the pace of one batch.

    Raises:
        BadInput: a row's images cannot be read; the function that is returned: as :func:`real_runs`.
    """
    source, made_of = prepared.source, prepared.made_of

    def run_some(scorer: Scorer, rec: Recommendation) -> Confirmation:
        recipe = short_recipe(scorer, settings.confirm_rows)
        pace = step_seconds(prepared, recipe.batch_size)
        session.note(cost_of_runs(scorer, rec, recipe, settings.real_runs, pace), brief=True)
        run_all = real_runs(source, made_of, recipe, out / CONFIRM_FOLDER, settings.workers, session)
        return confirm(scorer, rec, recipe, settings.real_runs, run_all, settings.workers)

    return run_some


def real_runs(
    source: Source, made_of: Mapping[str, str], recipe: TrainingRecipe, folder: Path, workers: int, session: Session
) -> RunAll:
    """Real runs through :func:`advisor.training.runs.calibrate`, resumable; a run that fails stops no other.

    Raises:
        BadInput, Interrupted: the function that is returned: as :func:`advisor.training.runs.calibrate`.
    """

    def all_of(candidates: Sequence[Candidate], measured: Sequence[Selection] = ()) -> list[RealRun | str]:
        planned = [PlannedRun(c.selection, c.settings, source.seed, c.ranks, c.alphas, tuple(measured)) for c in candidates]
        options: dict[str, Any] = {"eval_rows": CONFIRM_EVAL_ROWS, "made_of": made_of, "workers": workers}
        rows = calibrate(source, planned, recipe, folder, session, **options)
        results, failed = {row["key"]: row["result"] for row in rows}, read_failures(folder)
        return [
            str(failed[run.key]) if run.key not in results else real_run(candidate, run, results[run.key])
            for candidate, run in zip(candidates, planned, strict=True)
        ]

    return all_of


def real_run(candidate: Candidate, planned: PlannedRun, result: Mapping[str, Any]) -> RealRun:
    """A finished run of :func:`advisor.training.runs.calibrate` as evidence on its candidate and on what it measured."""
    switched = {s.targets: loss for s, loss in zip(planned.measured, result.get("switched", ()), strict=True)}
    return RealRun(candidate, result["val_loss"], result["metric"], result["wall_s"], switched, result.get("switched_s", 0.0))


def calibrate_folder(
    source: Source,
    settings: LoraSettings,
    recipe_for: Callable[[str], TrainingRecipe],
    out: Path,
    session: Session,
    *,
    train_rows: int | None,
    runs: int,
    seeds: int,
    workers: int,
    eval_rows: int,
    ray: str | None = None,
    probe: Probe | None = None,
    keep: str | None = None,
) -> tuple[Path | None, int]:
    """A probe into ``out/probe`` unless one is given, real runs into ``out/runs.jsonl``, and rows into the user's data folder.

    With rows to ``keep``, what was predicted and measured of them goes into ``out/forgetting.json``.

    Runs with a pull towards the start become no rows: the predictor simulates none. Runs that failed neither.

    Returns:
        The rows file (None: not written) and its number of rows.

    Raises:
        NotFinite, OutOfMemory: all runs failed, the first of them so.
        BadInput: model or data cannot be used, or ``out`` holds something else.
        Interrupted: cancelled; finished runs and the probe's passes are kept.
    """
    if ray is not None:
        import_ray()  # that it is missing is better said before the model is loaded
    prepared = prepare(source, session, train_limit=train_rows, eval_limit=0)
    made_of = dict(prepared.made_of)
    if keep is not None:
        prepared = with_kept(prepared, keep, session)
        assert prepared.kept is not None
        made_of["keep_fingerprint"] = prepared.kept.fingerprint
    recipe = recipe_for(prepared.loaded.task)
    if recipe.pull:
        session.note("Runs with a pull become no calibration rows: predictions are for training without one.")
    claim(source, recipe, out, session, eval_rows=eval_rows, made_of=made_of)
    if probe is None:
        probe = run_probe(prepared, ProbeSettings(seed=source.seed), out / "probe", session)
    roles = probe.info["qv_roles"]
    planned = plan_runs(probe.targets, probe.learning, roles, settings, runs=runs, seeds=seeds, seed=source.seed)
    if len(planned) < runs:
        session.note(f"{len(planned)} runs, not {runs}: selections × seeds are {len(planned) // seeds} × {seeds}.")
    if not any(run.selection.targets for run in planned):
        session.warn("No run adapts a module: the first selection is the head alone. Raise --runs.")
    options: dict[str, Any] = {"eval_rows": eval_rows, "made_of": made_of, "workers": workers, "ray": ray, "keep": keep}
    runs_done = calibrate(source, planned, recipe, out, session, **options)
    if failed := [error for key, error in read_failures(out).items() if key in {run.key for run in planned}]:
        if not runs_done:
            raise failed[0]
        hints = " ".join(dict.fromkeys(error.hint for error in failed if error.hint))
        again = f"to try them again, delete {out / FAILED_FILE}. {hints}".rstrip()
        session.warn(f"{len(failed)} of {len(planned)} runs failed and are left out; {again}")
    if (found := forgetting_of(runs_done, probe)) is not None and not recipe.pull:
        _write_forgetting(found, out / FORGETTING_FILE, session)
    if recipe.pull:
        return None, 0
    rows = rows_from_runs(runs_done, probe)
    if solved := sum("ranks" not in run for run in runs_done) - len(rows):
        session.warn(f"{solved} of {len(runs_done)} runs reached a loss of 0, which has no logarithm: they become no rows.")
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    folder = user_rows_folder()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.jsonl", "".join(row.as_json() + "\n" for row in rows))
    return folder / f"{name}.jsonl", len(rows)


def _write_forgetting(found: Forgetting, path: Path, session: Session) -> None:
    """Write what was predicted and measured, and say how well the one stands for the other."""
    write_json(path, {"schema": 1, "level": LEVEL, **asdict(found)})
    rank = "cannot be ranked" if found.spearman is None else f"have a rank correlation of {found.spearman:+.2f}"
    if found.errors is None:
        sure = f"No interval: it takes {fewest()} selections."
    else:
        low, high = found.errors
        sure = (
            f"With {LEVEL:.0%} probability the real change by one more selection, drawn like these, is the predicted one "
            f"{low:+.2g} to {high:+.2g}."
        )
    session.note(f"Rows to keep: predicted and real change of {len(found.names)} selections {rank}. {sure}")
