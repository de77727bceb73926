"""What the commands (and later the terminal interface) do with the engine: cache, files, calibration folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from advisor.advice.budget import Budget
from advisor.advice.confirm import Confirmation
from advisor.advice.peer_picks import peer_picks
from advisor.advice.ranks import auto_ranks, serving_note
from advisor.advice.recommend import Recommendation, recommend, reconsider
from advisor.core.candidate import Candidate
from advisor.core.checked import check
from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.folders import require_ours, write_files
from advisor.core.probe import Probe
from advisor.core.reading import check_seal, sealed
from advisor.core.recipe import TrainingRecipe
from advisor.core.store import json_text, read_json
from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.alternatives import Alternative, best_for, can_say, cost_of_file, sayable, with_alternatives
from advisor.export.baseline import empty_model
from advisor.export.peft import YAML_FILE, arguments_of
from advisor.export.plan import Format, Plan, Rendered, RenderedFile, plan_of
from advisor.export.plan_schema import RecommendationFile
from advisor.export.proof import prove_file
from advisor.models.peft import CONFIG_FILE, prove
from advisor.models.prepare import Prepared
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.probe_cache import made_from, prepare_for_probe
from advisor.probing.run import ProbeSettings, measure_selections
from advisor.report.confirmation import confirm_table, confirmation_json, confirmed
from advisor.report.tables import recommendation_json, report_markdown, tables, verdict
from advisor.results import Recommended
from advisor.theory.linearity import Linearity

JSON_FILE = "recommendation.json"
REPORT_FILE, HTML_FILE = "report.md", "report.html"


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
    for key, value in (("model", model), ("data", source.data)):
        if prepared.made_of[f"{key}_fingerprint"] != identity[f"{key}_fingerprint"]:
            raise BadInput(f"{value}: not the {key} that was probed.", f"Give the same {key}, or probe again.")
    found: dict[tuple[LoraSettings, tuple[str, ...]], Linearity] = {}
    trained = [c for c in candidates if c.selection.targets or probe.head is not None]
    for lora in dict.fromkeys(c.settings for c in trained):
        selections = [c.selection for c in trained if c.settings == lora]
        for linearity in measure_selections(prepared, settings, lora, selections, session):
            found[lora, linearity.targets] = linearity
    return [found.get((c.settings, c.selection.targets)) for c in candidates]


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
    from advisor.report.html import report_html  # loads matplotlib

    scorer = Scorer(probe, settings, recipe, Predictor().fit(load_rows(), probe.task), kernel=kernel, sigma=sigma)
    result = recommend(
        scorer,
        budget,
        session,
        granularity=granularity,
        strategy=strategy,
        baseline=baseline,
        seed=seed,
        spread=auto_ranks(probe) if own_ranks else None,
    )
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
            "fidelity": r.fidelity,
            "reasons": list(r.reasons),
            "files": list(r.files),
            "alternatives": {alternative.file: alternative.as_dict() for alternative in instead[name]},
        }
        for name, r in rendered.items()
    }
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
    files = {name: file.text for r in rendered.values() for name, file in r.files.items()}
    files[REPORT_FILE] = report_markdown(scorer, sentences, shown_tables, yaml_text)
    files[HTML_FILE] = report_html(shown, yaml_text)
    files[JSON_FILE] = json_text(sealed(shown), out / JSON_FILE)
    write_files(out, files, session, only=True, last=JSON_FILE)
    return Recommended(shown, sentences, shown_tables, out, tuple(files), scorer, result)


def require_place(out: Path) -> None:
    """Check before the work that a recommendation can be written to ``out``.

    Raises:
        BadInput: a file of the user's is in its place.
    """
    require_ours(out, (YAML_FILE, CONFIG_FILE, REPORT_FILE, HTML_FILE, JSON_FILE))


def render_all(plan: Plan, names: Sequence[str], model: nn.Module | None = None) -> dict[str, Rendered]:
    """The plan in each format; with a meta-device ``model`` every file is proven on it, see :func:`prove_file`."""
    rendered = {name: FORMATS[name].render(plan) for name in dict.fromkeys(names)}
    if model is not None:
        for name, result in rendered.items():
            for file_name, file in result.files.items():
                prove_file(FORMATS[name], file_name, file, plan, model)
    return rendered


def alternatives(
    rendered: Mapping[str, Rendered],
    plan: Plan,
    model: nn.Module,
    scorer: Scorer,
    rec: Recommendation,
    pool_of: Callable[[], list[Candidate]],
) -> dict[str, list[Alternative]]:
    """By format, for its files that do not say the plan exactly: the best selection that they can, proven on the model.

    Args:
        rendered: the plan's files by format. model: on the meta device. pool_of: :func:`sayable`, asked once if it is needed.
    """
    everything = Candidate(rec.all_linear.candidate.selection, scorer.settings)
    short = {
        name: [
            file
            for file, found in result.files.items()
            if found.fidelity != "exact" and can_say(FORMATS[name], file, plan, everything)
        ]
        for name, result in rendered.items()
    }
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


def write_rendered(formats: Sequence[Rendered], out: Path, session: Session, overwrite: bool = False) -> list[Path]:
    """Write the files of some formats to the folder ``out``.

    Args:
        overwrite: replace files that we did not write, or that were changed since, too.

    Raises:
        BadInput: they cannot be written, or would replace such a file.
    """
    return write_files(out, {name: file.text for r in formats for name, file in r.files.items()}, session, overwrite=overwrite)


def export_formats(
    recommendation: Path, names: Sequence[str], out: Path, session: Session | None = None
) -> dict[str, tuple[Rendered, list[Path]]]:
    """Write the plan of a recommendation folder to ``out``, in the formats ``names``.

    Raises:
        BadInput: not a recommendation folder, or an unknown format.
    """
    where = recommendation / JSON_FILE
    shown = read_json(where, "recommendation")
    hint = "Run `advisor recommend` again."
    check(RecommendationFile, shown, str(where), hint)
    check_seal(shown, str(where), hint)
    rendered = render_all(Plan.from_dict(shown["plan"], str(where)), names)
    for name in rendered:
        found = []
        for file, each in shown["formats"].get(name, {}).get("alternatives", {}).items():
            if file not in rendered[name].files:
                raise BadInput(f"{where}: formats.{name}.alternatives: {file[:100]!r} is no file of this format.", hint)
            plan = Plan.from_dict({**shown["plan"], **each["plan"]}, f"{where}: formats.{name}.alternatives.{file}")
            found.append(Alternative(file, plan, each["reason"]))
        rendered[name] = with_alternatives(rendered[name], FORMATS[name], found)
    write_rendered(list(rendered.values()), out, session or Session())
    return {name: (result, [out / file for file in result.files]) for name, result in rendered.items()}
