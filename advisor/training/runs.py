"""Real LoRA runs over many selections: the ground truth that predictions are fitted to and judged by."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from advisor.core.checked import check
from advisor.core.errors import AdvisorError, BadInput, NotFinite, OutOfMemory
from advisor.core.events import Session, Stage
from advisor.core.folders import locked
from advisor.core.reading import CHECKSUM, check_seal, parse_json, read_bytes, refuse_newer, sealed
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import HEAD_ONLY, distinct, structured_random, target_sets
from advisor.core.store import read_json, write_json, writing
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.models.prepare import Source
from advisor.training import live
from advisor.training.run_schema import CalibrationFields, FailureFields, PlannedFields, RunFields
from advisor.training.runner import RUN_SCHEMA, PlannedRun, Runner, planned_row
from advisor.training.workers import processes, ray_actors, run_all

RUNS_FILE, FAILED_FILE = live.RUNS_FILE, "failed.jsonl"
PLACES = ("model", "data", "eval_data", "revision", "trust_remote_code")  # of a source: where what it is made of comes from
DEFAULT_BUDGETS = (0.07, 0.18, 0.36)


def plan_runs(
    targets: Sequence[Target],
    learning: Sequence[Target],
    qv_roles: Sequence[str],
    settings: LoraSettings,
    *,
    runs: int,
    seeds: int = 1,
    budgets: Sequence[float] = DEFAULT_BUDGETS,
    seed: int = 0,
) -> list[PlannedRun]:
    """Head-only, the common target sets, then structured-random selections at ``budgets`` in turn.

    Args:
        learning: those of the targets that learn, of which alone random selections are made, as picks are.
        runs: selections × seeds, rounded down to whole selections.
        budgets: shares of the LoRA parameters of all adaptable modules.
    """
    count = runs // seeds
    total = sum(t.lora_params(settings.rank) for t in targets)
    rng = np.random.default_rng(seed)
    selections = [Selection(HEAD_ONLY, ()), *target_sets(targets, qv_roles)]
    for draw in range(20 * count):  # small models have few distinct selections: stop trying at some point
        if len(selections) >= count:
            break
        share = budgets[draw % len(budgets)]
        name = f"random {share:.0%} #{draw // len(budgets)}"
        selections = distinct([*selections, structured_random(learning, int(share * total), settings.rank, rng, name)])
    return [PlannedRun(selection, settings, run_seed) for run_seed in range(seeds) for selection in selections[:count]]


def claim(
    source: Source, recipe: TrainingRecipe, out: Path, session: Session, *, eval_rows: int, made_of: Mapping[str, str]
) -> None:
    """See that ``out`` is for the runs that :func:`calibrate` would do with the same arguments, before the work.

    Raises:
        BadInput, Interrupted: as :func:`calibrate`.
    """
    with locked(out, session):
        _check_identity(out / live.IDENTITY_FILE, _identity(source, recipe, eval_rows, made_of), session)


def calibrate(
    source: Source,
    planned: Sequence[PlannedRun],
    recipe: TrainingRecipe,
    out: Path,
    session: Session,
    *,
    eval_rows: int,
    made_of: Mapping[str, str],
    workers: int = 1,
    ray: str | None = None,
    keep: str | None = None,
) -> list[dict[str, Any]]:
    """Do the planned runs that ``out`` does not hold yet, one JSON line a finished run in ``runs.jsonl``.

    A run that was cut off is done again; finished lines are never touched. A run that diverges, that
    runs out of memory, or whose process dies, stops no other: it is warned of, and a line of ``failed.jsonl`` keeps it
    from being tried again. Each worker is of one torch thread with its own copy of the model: a process, or an actor on
    the cluster at the address ``ray``.

    Args:
        made_of: fingerprints of model, data, evaluation data and of rows to keep, see :class:`advisor.models.prepare.Prepared`.
        keep: where rows lie of which each run says what it forgot, in its result's ``kept``.

    Returns:
        The rows of all finished runs in ``out``; :func:`read_failures` has the others.

    Raises:
        BadInput: ``out`` holds runs of another model or other data, or files that are not ours; the cluster cannot be used.
        Interrupted: cancelled; finished runs are kept.
    """
    with locked(out, session):
        return _calibrate(source, planned, recipe, out, session, eval_rows, made_of, workers, ray, keep)


def _calibrate(
    source: Source,
    planned: Sequence[PlannedRun],
    recipe: TrainingRecipe,
    out: Path,
    session: Session,
    eval_rows: int,
    made_of: Mapping[str, str],
    workers: int,
    ray: str | None,
    keep: str | None,
) -> list[dict[str, Any]]:
    _check_identity(out / live.IDENTITY_FILE, _identity(source, recipe, eval_rows, made_of), session)
    done = {row["key"] for row in read_runs(out)} | set(read_failures(out))
    todo = [run for run in planned if run.key not in done]
    stage = Stage(session, "Real LoRA runs", len(planned), len(planned) - len(todo))
    work = Runner(source, recipe, eval_rows, live.begin(out) if todo else None, keep)
    pool = partial(processes, work) if ray is None else partial(ray_actors, work, address=ray, gpus=source.device != "cpu")
    try:
        for run, outcome in run_all(todo, pool, workers, session):
            name = run.selection.name
            if isinstance(outcome, AdvisorError):
                _append(out / FAILED_FILE, _failure(run, recipe, outcome))
                session.warn(f"The real run of {name} failed and is left out: {outcome}")
                stage.advance(f"{name}: failed")
            else:
                _append(out / RUNS_FILE, outcome)
                stage.advance(f"{name}: validation loss {outcome['result']['val_loss']:.4f}")
    finally:
        live.end(out)
    return read_runs(out)


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a line, in place of a last one that was cut off. The folder is locked.

    Raises:
        BadInput: it cannot be written; the file stays as it was.
    """
    line = (json.dumps(sealed(row), allow_nan=False) + "\n").encode()
    with writing(path, len(line)), open(path, "a+b", buffering=0) as file:
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The finished runs of a calibration folder; a last line that is cut off, or being written, is none.

    Raises:
        BadInput: a line other than the last is damaged, or two differ on one run; names file, line and field.
    """
    return _read_lines(folder / RUNS_FILE, RunFields)


def read_failures(folder: Path) -> dict[str, AdvisorError]:
    """Why runs of a calibration folder failed, by their keys, in the order in which they did; as :func:`read_runs`.

    Raises:
        BadInput: as :func:`read_runs`.
    """
    kinds = {kind.__name__: kind for kind in (NotFinite, OutOfMemory)}
    rows = _read_lines(folder / FAILED_FILE, FailureFields)
    return {row["key"]: kinds.get(row["error"], AdvisorError)(row["what"], row["hint"]) for row in rows}


def _failure(run: PlannedRun, recipe: TrainingRecipe, error: AdvisorError) -> dict[str, Any]:
    return {
        "schema": RUN_SCHEMA,
        **planned_row(run, recipe),
        "error": type(error).__name__,
        "what": error.what,
        "hint": error.hint,
    }


def _read_lines(path: Path, kind: type[PlannedFields]) -> list[dict[str, Any]]:
    """One row a run: a line that is there again, as after files were put together, counts once.

    Raises:
        BadInput: as :func:`read_runs`; two lines say different things of one run.
    """
    if not path.exists():
        return []
    text = read_bytes(path, "file of runs")
    complete = text[: text.rfind(b"\n") + 1]
    rows: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, line in enumerate(complete.splitlines(), 1):
        where, hint = f"{path}, line {number}", "Remove that line; its run is then done again."
        row = parse_json(line, where, "run", hint)
        if isinstance(row, dict):
            refuse_newer(row, RUN_SCHEMA, where)
        if not isinstance(row, dict) or row.get("schema") != RUN_SCHEMA:
            raise BadInput(f"{where}: schema is not {RUN_SCHEMA}.", "Use another --out folder.")
        check(kind, row, where, hint)
        check_seal(row, where, hint)
        plain = {name: value for name, value in row.items() if name != CHECKSUM}
        first, same = rows.setdefault(plain["key"], (number, plain))
        if same != plain:
            raise BadInput(f"{where}: it is of the run of line {first}, and says something else.", "Remove one of the two lines.")
    return [row for _, row in rows.values()]


def _identity(source: Source, recipe: TrainingRecipe, eval_rows: int, made_of: Mapping[str, str]) -> dict[str, Any]:
    """What all runs of a folder share."""
    return {"source": source.as_dict(), "recipe": recipe.as_dict(), "eval_rows": eval_rows, "made_of": dict(made_of)}


def _check_identity(path: Path, identity: Mapping[str, Any], session: Session) -> None:
    """See that the runs of a folder are of what is to be run now; in a new folder, write down what they are of.

    Raises:
        BadInput: they are of something else, or the file is damaged; names what differs.
    """
    if not path.exists():
        for name in (RUNS_FILE, FAILED_FILE):
            if os.path.lexists(path.with_name(name)):
                raise BadInput(f"{path.with_name(name)}: is there already, and belongs to no runs of ours.", "Use another --out.")
        write_json(path, sealed(identity))
        return
    hint = "Use another --out."
    found = read_json(path, "calibration", hint)
    check(CalibrationFields, found, str(path), hint)
    check_seal(found, str(path), hint)
    different = _differing(_named(found), _named(identity))
    made_of = found.get("made_of")
    if made_of is not None:  # then it does not matter where model and data lie
        different = [name for name in different if name not in PLACES]
        different += [name.replace("_", " ") for name in _differing(made_of, identity["made_of"])]
    if different:
        raise BadInput(
            f"{path}: this folder holds runs of another model, data or setting ({', '.join(different)}).", "Use another --out."
        )
    if made_of is None:
        session.warn(f"{path}: an older version wrote it, so only the names of model and data could be compared.")
        write_json(path, sealed(identity))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names whose values differ, or that only one of the two has."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def _named(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a calibration by name, as JSON has them; those that an older version did not know, at their defaults."""
    recipe = {"pull": 0.0, "pull_always": False, **identity["recipe"]}
    source = {"quantised": None, **identity["source"]}
    plain: dict[str, Any] = json.loads(json.dumps({**source, **recipe, "eval_rows": identity["eval_rows"]}))
    return plain
