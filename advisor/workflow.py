"""What the commands (and later the terminal interface) do with the engine: cache, files, calibration folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs
from torch import nn

from advisor.advice import Recommendation, recommend, reconsider
from advisor.alternatives import Alternative, best_for, can_say, cost_of_file, sayable, with_alternatives
from advisor.budget import Budget
from advisor.calibrate import FAILED_FILE, PlannedRun, calibrate, plan_runs, read_failures
from advisor.confirm import Confirmation, RunAll, confirm, short_recipe
from advisor.confirm_report import confirm_table, confirmation_json, confirmed
from advisor.demo import demo_dataset_file, demo_model_folder
from advisor.errors import BadInput
from advisor.events import Session
from advisor.export import FORMATS
from advisor.export.peft import arguments_of, prove, resolve
from advisor.export.plan import Format, Plan, Rendered, RenderedFile, plan_of
from advisor.export.proof import prove_file
from advisor.linearity import Linearity
from advisor.models import meta_model
from advisor.peer_picks import peer_picks
from advisor.predictor import Predictor
from advisor.prepare import Prepared, Source, prepare
from advisor.probe_folder import Probe
from advisor.probing import HEAD_ROWS, ProbeSettings, measure_selections, probe_identity, probe_samples, run_probe
from advisor.ranks import auto_ranks, serving_note
from advisor.recipe import TrainingRecipe
from advisor.report import recommendation_json, report_markdown, tables, verdict
from advisor.results import Recommended
from advisor.rows import load_rows, user_rows_folder
from advisor.schema import Schema
from advisor.scoring import Candidate, RealRun, Scorer, rows_from_runs
from advisor.store import APP, read_json, write_json, write_text
from advisor.targets import LoraSettings, Selection, in_model_order
from advisor.workers import import_ray

YAML_FILE, CONFIG_FILE, JSON_FILE = "lora.yaml", "adapter_config.json", "recommendation.json"
REPORT_FILE, HTML_FILE = "report.md", "report.html"

# What decides which modules a PEFT config adapts, and how strongly.
PLACEMENT = (
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform",
    "layers_pattern", "exclude_modules", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out",
)  # fmt: skip


CONFIRM_FOLDER = "confirm"
CONFIRM_EVAL_ROWS = 500  # as `advisor calibrate`


@dataclass(frozen=True)
class ConfirmSettings:
    """Real runs of ``recommend``: at most ``runs``, on at most ``rows`` training rows (None: 512), in ``workers`` processes."""

    runs: int
    rows: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        for option, value in (("--confirm", self.runs), ("--confirm-rows", self.rows), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise BadInput(f"{option} must be at least 1, got {value}.")


def demo_inputs() -> tuple[str, str]:
    """The embedded model's folder and a freshly made data file, in the user's cache."""
    folder = Path(platformdirs.user_cache_dir(APP)) / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    return str(demo_model_folder()), str(demo_dataset_file(folder))


def prepare_for_probe(source: Source, session: Session, samples: int | None) -> Prepared:
    """Load model and data; as many training rows as the head's linear probe and the sample need."""
    settings = ProbeSettings(samples=samples)

    def rows_needed(schema: Schema) -> int:
        return max(HEAD_ROWS, 2 * probe_samples(settings, len(schema.class_names)))

    return prepare(source, session, train_limit=rows_needed, eval_limit=0)


def cache_folder(prepared: Prepared, settings: ProbeSettings) -> Path:
    """Where the user's cache keeps this probe, keyed by weights, data and settings."""
    identity = json.dumps(probe_identity(prepared, settings), sort_keys=True)
    return Path(platformdirs.user_cache_dir(APP)) / "probes" / hashlib.sha256(identity.encode()).hexdigest()[:24]


def probe_cached(prepared: Prepared, settings: ProbeSettings, session: Session) -> Probe:
    """The probe from the user's cache, or a new one put there."""
    return run_probe(prepared, settings, cache_folder(prepared, settings), session)


def made_from(probe: Probe, trust_remote_code: bool) -> tuple[Source, ProbeSettings]:
    """Model, data and settings that a probe says it was made with; but whether to run a model's own code is not for a file
    to say, which may come from anybody.

    Raises:
        BadInput: it does not say.
    """
    try:
        source, settings = probe.info["source"], probe.info["identity"]["settings"]
        asked = {"text_columns": tuple(source["text_columns"]), "trust_remote_code": trust_remote_code}
        return Source(**{**source, **asked}), ProbeSettings(**settings)
    except (KeyError, TypeError) as error:
        raise BadInput(f"The probe does not say how it was made ({error}).", "Probe again.") from error


def measure_pick(
    prepared: Prepared, settings: ProbeSettings, lora: LoraSettings, session: Session
) -> Callable[[Selection], Linearity | None]:
    """For :func:`recommend_folder`: the linearity of one selection, measured on the loaded model."""
    return lambda selection: next(iter(measure_selections(prepared, settings, lora, [selection], session)), None)


def measure_candidates(
    probe: Probe, model: str, candidates: Sequence[Candidate], session: Session, trust_remote_code: bool = False
) -> list[Linearity | None]:
    """The linearity of each candidate on the probe's model and data, at its common rank and alpha; None where nothing
    is trained or the model is too large.

    Raises:
        BadInput: ``model`` or the data is not the one that was probed, or the probe does not say how it was made.
    """
    made_of, settings = made_from(probe, trust_remote_code)
    source, identity = replace(made_of, model=model), probe.info["identity"]
    prepared = prepare_for_probe(source, session, settings.samples)
    for key, value, fingerprint in (
        ("model", model, prepared.loaded.fingerprint), ("data", source.data, prepared.train.fingerprint),
    ):  # fmt: skip
        if fingerprint != identity[f"{key}_fingerprint"]:
            raise BadInput(f"{value}: not the {key} that was probed.", f"Give the same {key}, or probe again.")
    found: dict[tuple[LoraSettings, tuple[str, ...]], Linearity] = {}
    trained = [c for c in candidates if c.selection.targets or probe.head is not None]
    for lora in dict.fromkeys(c.settings for c in trained):
        selections = [c.selection for c in trained if c.settings == lora]
        for linearity in measure_selections(prepared, settings, lora, selections, session):
            found[lora, linearity.targets] = linearity
    return [found.get((c.settings, c.selection.targets)) for c in candidates]


def read_baseline(path: Path, probe: Probe, trust_remote_code: bool) -> Candidate:
    """The user's own PEFT config as a candidate: the modules PEFT really wraps with it, at the ranks and alphas it does.

    Raises:
        BadInput: no such file, not a LoRA config, it wraps modules that are not adaptable here, or an alpha is no
            positive number.
    """
    arguments = read_json(path / CONFIG_FILE if path.is_dir() else path, "baseline config")
    if arguments.get("peft_type") != "LORA":
        raise BadInput(f"{path}: peft_type is {arguments.get('peft_type')!r}, not LORA.", "Give a LoRA config.")
    model = empty_model(probe, trust_remote_code)
    try:
        resolved = resolve(model, {key: arguments[key] for key in PLACEMENT if arguments.get(key) is not None})
    except BadInput as error:
        raise BadInput(f"{path}: {error.what}", error.hint) from error
    names = in_model_order(resolved.wrapped, probe.targets, str(path))
    settings = LoraSettings(
        int(arguments.get("r", 8)), float(arguments.get("lora_alpha", 8)), bool(arguments.get("use_rslora", False))
    )
    return Candidate(
        Selection("your config", names),
        settings,
        {name: resolved.ranks[name] for name in names if resolved.ranks[name] != settings.rank},
        {name: resolved.alphas[name] for name in names if resolved.alphas[name] != settings.alpha},
    )


def empty_model(probe: Probe, trust_remote_code: bool) -> nn.Module:
    """The probe's model, in the revision that was probed, on the meta device."""
    return meta_model(
        str(probe.info["model"]), probe.task, num_labels=len(probe.class_names) or 1, revision=probe.info["revision"],
        trust_remote_code=trust_remote_code,
    )  # fmt: skip


def recommend_folder(
    probe: Probe,
    settings: LoraSettings,
    recipe: TrainingRecipe,
    budget: Budget,
    session: Session,
    *,
    out: Path,
    granularity: str,
    strategy: str,
    baseline: Candidate | None,
    kernel: str,
    sigma: float | None,
    seed: int,
    trust_remote_code: bool,
    linearity_of: Callable[[Selection], Linearity | None],
    confirmation_of: Callable[[Scorer, Recommendation], Confirmation] | None = None,
    formats: Sequence[str] = (),
    own_ranks: bool = False,
) -> Recommended:
    """Recommend, prove the config by letting PEFT resolve it, and write the recommendation folder.

    Args:
        linearity_of: measures the pick on the model, None where it cannot be.
        confirmation_of: confirms the pick by real runs, see :func:`confirm_in`; None: none are made.
        formats: keys of ``FORMATS`` to write besides ``peft``.
        own_ranks: give each module a rank of its own, at the parameters of the settings' rank (``--rank auto``).

    Raises:
        BudgetTooSmall: nothing fits.
        Interrupted: cancelled; finished runs are kept.
        BadInput: unknown kernel, bad σ, or ``out`` cannot be written.
    """
    from advisor.html_report import report_html  # loads matplotlib

    scorer = Scorer(probe, settings, recipe, Predictor().fit(load_rows(), probe.task), kernel=kernel, sigma=sigma)
    result = recommend(
        scorer, budget, session, granularity=granularity, strategy=strategy, baseline=baseline, seed=seed,
        spread=auto_ranks(probe) if own_ranks else None,
    )  # fmt: skip
    confirmation = None if confirmation_of is None else confirmation_of(scorer, result)
    if confirmation is not None:
        if confirmation.same_recipe:
            scorer = confirmation.scorer
        result = reconsider(result, scorer, confirmation.scorer, confirmation.order, seed, session)
    pick = result.picked.candidate
    plan = plan_of(pick, probe)
    arguments = arguments_of(plan)
    model = empty_model(probe, trust_remote_code)
    resolved = prove(model, arguments, pick.selection, probe.targets, pick.settings.rank, pick.ranks)
    found = {"modules": len(resolved.wrapped), "lora_params": resolved.lora_params}
    session.note(f"PEFT, asked to apply the config, wraps {len(resolved.wrapped)} modules: exactly the chosen ones.")
    warnings = [note] if (note := serving_note(max(resolved.ranks.values()), probe.task)) else []
    linearity = scorer.linearity(pick) or linearity_of(pick.selection)
    named = replace(pick, selection=replace(pick.selection, name="the pick"))
    shown_before = [named, *(score.candidate for score in result.equal_budget)]
    peers = peer_picks(scorer, budget, shown_before, granularity=granularity, seed=seed)
    sentences, shown_tables = verdict(scorer, result, linearity), tables(scorer, result, peers)
    if confirmation is not None:
        sentences[2:2] = confirmed(confirmation, scorer)
        shown_tables[:0] = [confirm_table(confirmation, scorer)]
    plan = replace(plan, comments=tuple(sentences[:2]))
    rendered = render_all(plan, ("peft", *formats), model)
    yaml_text = rendered["peft"].files[YAML_FILE].text
    shown = recommendation_json(scorer, result, linearity, arguments, found, peers)
    shown["confirm"] = None if confirmation is None else confirmation_json(confirmation, scorer)
    shown["plan"] = plan.as_dict()
    instead = alternatives(rendered, plan, model, scorer, result, lambda: sayable(scorer, result, seed, session))
    rendered = {name: with_alternatives(r, FORMATS[name], instead[name]) for name, r in rendered.items()}
    shown["formats"] = {
        name: {
            "fidelity": r.fidelity, "reasons": list(r.reasons), "files": list(r.files),
            "alternatives": {alternative.file: alternative.as_dict() for alternative in instead[name]},
        }
        for name, r in rendered.items()
    }  # fmt: skip
    for name, r in rendered.items():
        said = [f"{FORMATS[name].label}: {r.fidelity}."]
        for file_name, file in r.files.items():
            said += [f"{file_name}: {reason}" if len(r.files) > 1 else reason for reason in file.reasons]
            if file.fidelity == "lossy":
                said.append(_cost_of_lossy(FORMATS[name], file_name, file, plan, model, scorer, pick))
        if r.fidelity != "exact":
            warnings.append(" ".join(said))
        elif len(said) > 1:  # another file of the format is exact
            session.note(" ".join(said))
    for text in warnings:
        session.warn(text)
    shown["warnings"] = warnings
    out.mkdir(parents=True, exist_ok=True)
    files = [path.name for r in rendered.values() for path in write_rendered(r, out)]
    write_text(out / REPORT_FILE, report_markdown(scorer, sentences, shown_tables, yaml_text))
    write_text(out / HTML_FILE, report_html(shown, yaml_text))
    write_json(out / JSON_FILE, shown)
    return Recommended(shown, sentences, shown_tables, out, (*files, REPORT_FILE, HTML_FILE, JSON_FILE), scorer, result)


def render_all(plan: Plan, names: Sequence[str], model: nn.Module | None = None) -> dict[str, Rendered]:
    """The plan in each format; with a meta-device ``model`` every file is proven on it, see :func:`prove_file`."""
    rendered = {name: FORMATS[name].render(plan) for name in dict.fromkeys(names)}
    if model is not None:
        for name, result in rendered.items():
            for file_name, file in result.files.items():
                prove_file(FORMATS[name], file_name, file, plan, model)
    return rendered


def alternatives(
    rendered: Mapping[str, Rendered], plan: Plan, model: nn.Module, scorer: Scorer, rec: Recommendation,
    pool_of: Callable[[], list[Candidate]],
) -> dict[str, list[Alternative]]:  # fmt: skip
    """By format, for its files that do not say the plan exactly: the best selection that they can, proven on the model.

    Args:
        rendered: the plan's files by format. model: on the meta device. pool_of: :func:`sayable`, asked once if it is needed.
    """
    everything = Candidate(rec.all_linear.candidate.selection, scorer.settings)
    short = {
        name: [file for file, found in result.files.items()
               if found.fidelity != "exact" and can_say(FORMATS[name], file, plan, everything)]
        for name, result in rendered.items()
    }  # fmt: skip
    pool = pool_of() if any(short.values()) else []
    found: dict[str, list[Alternative]] = {}
    for name, files in short.items():
        offered = (best_for(FORMATS[name], file, plan, pool, scorer, rec) for file in files)
        found[name] = [alternative for alternative in offered if alternative is not None]
        for alternative in found[name]:
            file = FORMATS[name].render(alternative.plan).files[alternative.file]
            prove_file(FORMATS[name], alternative.file, file, alternative.plan, model)
    return found


def _cost_of_lossy(
    target: Format, name: str, file: RenderedFile, plan: Plan, model: nn.Module, scorer: Scorer, pick: Candidate
) -> str:
    """What the lossy file trains in place of the pick, in what is predicted: the file is read as its tool reads it."""
    resolved = prove_file(target, name, file, plan, model)
    assert resolved is not None
    return cost_of_file(scorer, pick, resolved)


def write_rendered(rendered: Rendered, out: Path) -> list[Path]:
    """Write the files of one format to the folder ``out``.

    Raises:
        BadInput: they cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, file in rendered.files.items():
        write_text(out / name, file.text)
    return [out / name for name in rendered.files]


def confirm_in(
    out: Path, source: Source, settings: ConfirmSettings, session: Session
) -> Callable[[Scorer, Recommendation], Confirmation]:
    """For :func:`recommend_folder`: real runs, kept in the folder ``confirm`` of ``out``, so that a rerun resumes."""

    def run_some(scorer: Scorer, rec: Recommendation) -> Confirmation:
        recipe = short_recipe(scorer, settings.rows)
        session.note(
            f"Confirming by up to {settings.runs} real LoRA runs on "
            f"{'all' if recipe.train_rows is None else recipe.train_rows} training rows."
        )
        run_all = real_runs(source, recipe, out / CONFIRM_FOLDER, settings.workers, session)
        return confirm(scorer, rec, recipe, settings.runs, run_all, settings.workers)

    return run_some


def real_runs(source: Source, recipe: TrainingRecipe, folder: Path, workers: int, session: Session) -> RunAll:
    """Real runs through :func:`advisor.calibrate.calibrate`, resumable; a run that fails stops no other."""

    def all_of(candidates: Sequence[Candidate], measured: Sequence[Selection] = ()) -> list[RealRun | str]:
        planned = [PlannedRun(c.selection, c.settings, source.seed, c.ranks, c.alphas, tuple(measured)) for c in candidates]
        rows = calibrate(source, planned, recipe, folder, session, eval_rows=CONFIRM_EVAL_ROWS, workers=workers)
        results, failed = {row["key"]: row["result"] for row in rows}, read_failures(folder)
        return [
            str(failed[run.key])
            if run.key not in results
            else real_run(candidate, run, results[run.key])
            for candidate, run in zip(candidates, planned, strict=True)
        ]

    return all_of


def real_run(candidate: Candidate, planned: PlannedRun, result: Mapping[str, Any]) -> RealRun:
    """A finished run of :func:`advisor.calibrate.calibrate` as evidence on its candidate and on what it measured."""
    switched = {s.targets: loss for s, loss in zip(planned.measured, result.get("switched", ()), strict=True)}
    return RealRun(candidate, result["val_loss"], result["metric"], result["wall_s"], switched, result.get("switched_s", 0.0))


def export_formats(recommendation: Path, names: Sequence[str], out: Path) -> dict[str, tuple[Rendered, list[Path]]]:
    """Write the plan of a recommendation folder to ``out``, in the formats ``names``.

    Raises:
        BadInput: not a recommendation folder, or an unknown format.
    """
    where = recommendation / JSON_FILE
    shown = read_json(where, "recommendation")
    if "plan" not in shown:
        raise BadInput(f"{where}: no field plan.", "Run `advisor recommend` again.")
    rendered = render_all(Plan.from_dict(shown["plan"], str(where)), names)
    try:
        for name in rendered:
            kept = shown["formats"].get(name, {}).get("alternatives", {})
            found = [
                Alternative(file, Plan.from_dict({**shown["plan"], **each["plan"]}, str(where)), str(each["reason"]))
                for file, each in kept.items()
            ]
            rendered[name] = with_alternatives(rendered[name], FORMATS[name], found)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{where}: its formats are damaged ({error}).", "Run `advisor recommend` again.") from error
    return {name: (result, write_rendered(result, out)) for name, result in rendered.items()}


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
) -> tuple[Path | None, int]:
    """Real runs into ``out/runs.jsonl``, a probe into ``out/probe``, and rows into the user's data folder.

    Runs with a pull towards the start become no rows: the predictor simulates none. Runs that failed neither.

    Returns:
        The rows file (None: not written) and its number of rows.

    Raises:
        NotFinite, OutOfMemory: all runs failed, the first of them so.
    """
    if ray is not None:
        import_ray()  # that it is missing is better said before the model is loaded
    prepared = prepare(source, session, train_limit=train_rows, eval_limit=0)
    loaded = prepared.loaded
    recipe = recipe_for(loaded.task)
    if recipe.pull:
        session.note("Runs with a pull become no calibration rows: predictions are for training without one.")
    planned = plan_runs(loaded.targets, loaded.qv_roles(), settings, runs=runs, seeds=seeds, seed=source.seed)
    runs_done = calibrate(source, planned, recipe, out, session, eval_rows=eval_rows, workers=workers, ray=ray)
    if failed := [error for key, error in read_failures(out).items() if key in {run.key for run in planned}]:
        if not runs_done:
            raise failed[0]
        session.warn(
            f"{len(failed)} of {len(planned)} runs failed and are left out; to try them again, delete {out / FAILED_FILE}."
        )
    probe = run_probe(prepared, ProbeSettings(seed=source.seed), out / "probe", session)
    if recipe.pull:
        return None, 0
    rows = rows_from_runs(runs_done, probe)
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    folder = user_rows_folder()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.jsonl", "".join(row.as_json() + "\n" for row in rows))
    return folder / f"{name}.jsonl", len(rows)

