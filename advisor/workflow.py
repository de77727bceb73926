"""What the commands and the terminal interface do with the engine: cache, files, calibration folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from advisor.advice.budget import Budget
from advisor.advice.confirm import Confirmation
from advisor.advice.peer_picks import peer_picks
from advisor.advice.ranks import auto_ranks, serving_note
from advisor.advice.recommend import Recommendation, recommend, reconsider
from advisor.core.candidate import Candidate
from advisor.core.checked import check
from advisor.core.choices import PREDICTED
from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.folders import require_ours, write_files
from advisor.core.probe import Probe
from advisor.core.reading import check_seal, refuse_newer, sealed
from advisor.core.recipe import TrainingRecipe
from advisor.core.store import json_text, read_json
from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.alternatives import Alternative, alternatives, cost_of_file, sayable, with_alternatives
from advisor.export.baseline import empty_model
from advisor.export.peft import YAML_FILE, arguments_of
from advisor.export.plan import Plan, Rendered, plan_of
from advisor.export.plan_schema import RecommendationFields
from advisor.export.proof import prove_file
from advisor.models.peft import CONFIG_FILE, Resolved
from advisor.models.prepare import Prepared
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.probe_cache import made_from, prepare_again
from advisor.probing.run import measure_selections
from advisor.probing.settings import ProbeSettings
from advisor.report.confirmation import confirm_entry, confirm_table, confirmed
from advisor.report.html import report_html
from advisor.report.payload import RECOMMENDATION_SCHEMA, RecommendationFile, ResolvedEntry, format_entry, recommendation_file
from advisor.report.tables import PICK, TextTable, report_markdown, tables
from advisor.report.verdict import answer, kept, short_verdict, verdict
from advisor.results import Recommended
from advisor.theory.linearity import Linearity

JSON_FILE = "recommendation.json"
REPORT_FILE, HTML_FILE = "report.md", "report.html"
FILES = (YAML_FILE, CONFIG_FILE, REPORT_FILE, HTML_FILE, JSON_FILE)  # of a recommendation's folder, in whatever formats


def measure_pick(
    prepared: Prepared, settings: ProbeSettings, lora: LoraSettings, session: Session
) -> Callable[[Selection], Linearity | None]:
    """For :func:`recommend_folder`: the linearity of one selection, measured on the loaded model.

    Raises:
        BadInput, OutOfMemory, Interrupted: the function that is returned: as :func:`advisor.probing.run.measure_selections`.
    """
    return lambda selection: next(iter(measure_selections(prepared, settings, lora, [selection], session)), None)


def measure_candidates(
    probe: Probe, model: str, candidates: Sequence[Candidate], session: Session, trust_remote_code: bool = False
) -> list[Linearity | None]:
    """The linearity of each candidate on the probe's model and data, at its common rank and alpha; None where nothing
    is trained or the model is too large.

    Raises:
        BadInput: ``model`` or the data is not the one that was probed, or the probe does not say how it was made.
        OutOfMemory: not even one row fits.
        Interrupted: cancelled.
    """
    made_of, settings = made_from(probe, trust_remote_code)
    source, identity = replace(made_of, model=model), probe.info["identity"]
    prepared = prepare_again(source, session, settings.samples)
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


@dataclass(frozen=True)
class Question:
    """What is asked of a probe, at LoRA settings and a training recipe.

    Attributes:
        baseline: the user's own config. kernel, sigma: of bounds and shares.
        formats: keys of ``FORMATS`` to write besides ``peft``.
        own_ranks: give each module a rank of its own, at the parameters of the settings' rank (``--rank auto``).
        max_forgetting: the most by which the pick may disturb the probe's rows to keep.
    """

    settings: LoraSettings
    recipe: TrainingRecipe
    budget: Budget
    granularity: str = "module"
    strategy: str = PREDICTED
    baseline: Candidate | None = None
    kernel: str = "adam"
    sigma: float | None = None
    seed: int = 0
    trust_remote_code: bool = False
    formats: tuple[str, ...] = ()
    own_ranks: bool = False
    max_forgetting: float | None = None


@dataclass(frozen=True)
class Decision:
    """What is recommended, and by which scorer; ``confirmation``: None without real runs."""

    scorer: Scorer
    advice: Recommendation
    confirmation: Confirmation | None


@dataclass(frozen=True)
class Proven:
    """The plan in each format, every file resolved by PEFT on the model.

    Attributes:
        resolved: by format and file name, None where a file says nothing. instead: alternatives by format.
    """

    plan: Plan
    rendered: Mapping[str, Rendered]
    resolved: Mapping[str, Mapping[str, Resolved | None]]
    instead: Mapping[str, Sequence[Alternative]]

    @property
    def whole(self) -> dict[str, Rendered]:
        """All files by format, alternatives behind the others."""
        return {name: with_alternatives(found, FORMATS[name], self.instead[name]) for name, found in self.rendered.items()}

    @property
    def pick(self) -> Resolved:
        """What PEFT makes of ``lora.yaml``."""
        found = self.resolved["peft"][YAML_FILE]
        assert found is not None
        return found


def recommend_folder(
    probe: Probe,
    asked: Question,
    session: Session,
    out: Path,
    *,
    linearity_of: Callable[[Selection], Linearity | None] | None = None,
    confirmation_of: Callable[[Scorer, Recommendation], Confirmation] | None = None,
) -> Recommended:
    """Recommend, prove the config by letting PEFT resolve it, and write the recommendation folder.

    Args:
        linearity_of: measures the pick on the model, and gives None where it cannot be; None: it is not measured.
        confirmation_of: confirms the pick by real runs, see :func:`advisor.real_runs.confirm_in`; None: none are made.

    Raises:
        BudgetTooSmall: nothing fits.
        Interrupted: cancelled; finished runs are kept.
        BadInput: unknown kernel, bad σ, or ``out`` cannot be written.
        NotFinite: a number to write is NaN or infinite.
        OutOfMemory: there is not enough memory for the model's architecture.
    """
    return write_decision(decide(probe, asked, session, confirmation_of), asked, session, out, linearity_of=linearity_of)


def write_decision(
    decision: Decision,
    asked: Question,
    session: Session,
    out: Path,
    *,
    linearity_of: Callable[[Selection], Linearity | None] | None = None,
    overwrite: bool = False,
) -> Recommended:
    """What :func:`recommend_folder` does once the pick is known.

    Args:
        overwrite: replace files that we did not write, or that were changed since, too.

    Raises:
        BadInput, NotFinite, OutOfMemory, Interrupted: as :func:`recommend_folder`.
    """
    proven = prove(decision, asked, session)
    chosen = len(proven.pick.adapted)
    session.note(f"PEFT applies the config to exactly the {f'{chosen} chosen modules' if chosen != 1 else 'one chosen module'}.")
    warnings, notes = said_of_files(decision, proven)
    for text in notes:
        session.note(text)
    for text in warnings:
        session.warn(text)
    said = decision.scorer.probe.info.get("said", ())  # on the screen already
    loaded = [line["text"] for line in said if line["warning"] or line.get("left_out")]
    shown, sentences, shown_tables = describe(decision, proven, asked, linearity_of, [*loaded, *warnings])
    files = write(shown, sentences, shown_tables, decision.scorer, proven, out, session, overwrite)
    short = answer(decision.scorer, decision.advice, decision.confirmation, str(out), files)
    return Recommended(shown.json(), sentences, shown_tables, out, files, decision.scorer, decision.advice, shown, short)


def decide(
    probe: Probe,
    asked: Question,
    session: Session,
    confirmation_of: Callable[[Scorer, Recommendation], Confirmation] | None,
) -> Decision:
    """The pick, by prediction and, where asked for, by real runs.

    Raises:
        BadInput: unknown kernel, bad σ or ranks, or the scores of other methods in the probe are damaged.
        BudgetTooSmall: nothing fits.
        Interrupted: cancelled; finished runs are kept.
    """
    predictor = Predictor().fit(load_rows(), probe.task)
    scorer = Scorer(probe, asked.settings, asked.recipe, predictor, kernel=asked.kernel, sigma=asked.sigma)
    advice = recommend(
        scorer,
        asked.budget,
        session,
        granularity=asked.granularity,
        strategy=asked.strategy,
        baseline=asked.baseline,
        seed=asked.seed,
        spread=auto_ranks(probe) if asked.own_ranks else None,
        max_forgetting=asked.max_forgetting,
    )
    if confirmation_of is None:
        return Decision(scorer, advice, None)
    found = confirmation_of(scorer, advice)
    scorer = found.scorer if found.same_recipe else scorer
    return Decision(scorer, reconsider(advice, scorer, found.scorer, found.order, asked.seed, session), found)


def prove(decision: Decision, asked: Question, session: Session) -> Proven:
    """The pick in each format, proven on the model without weights, and alternatives for files that cannot say it.

    Raises:
        AdvisorError: a file does not do what was selected, which is a fault of the advisor's.
    """
    scorer, advice = decision.scorer, decision.advice
    plan = plan_of(advice.picked.candidate, scorer.probe, [*short_verdict(scorer, advice)[:2], *kept(advice)])
    model = empty_model(scorer.probe, asked.trust_remote_code)
    rendered = render_all(plan, ("peft", *asked.formats))
    resolved = {name: resolve_files(name, found, plan, model) for name, found in rendered.items()}
    instead = alternatives(rendered, plan, model, scorer, advice, lambda: sayable(scorer, advice, asked.seed, session))
    return Proven(plan, rendered, resolved, instead)


def said_of_files(decision: Decision, proven: Proven) -> tuple[list[str], list[str]]:
    """Warnings and notes: large ranks when serving, and what a tool's file cannot say and costs."""
    scorer, pick = decision.scorer, decision.advice.picked.candidate
    serving = serving_note(max(proven.pick.ranks.values()), scorer.probe.task)
    warnings, notes = [serving] if serving else [], []
    for name, whole in proven.whole.items():
        said = [f"{FORMATS[name].label}: {whole.fidelity}."]
        for file_name, file in whole.files.items():
            said += [f"{file_name}: {reason}" if len(whole.files) > 1 else reason for reason in file.reasons]
            if file.fidelity == "lossy":
                trained = proven.resolved[name][file_name]
                assert trained is not None
                said.append(cost_of_file(scorer, pick, trained))
        if whole.fidelity != "exact":
            warnings.append(" ".join(said))
        elif len(said) > 1:  # another file of the format is exact
            notes.append(" ".join(said))
    return warnings, notes


def describe(
    decision: Decision,
    proven: Proven,
    asked: Question,
    linearity_of: Callable[[Selection], Linearity | None] | None,
    warnings: Sequence[str],
) -> tuple[RecommendationFile, list[str], list[TextTable]]:
    """The recommendation for programs; in sentences; in tables.

    Raises:
        BadInput: the scores of other methods in the probe are damaged.
    """
    scorer, advice, confirmation = decision.scorer, decision.advice, decision.confirmation
    pick = advice.picked.candidate
    linearity = scorer.linearity(pick)
    if linearity is None and linearity_of is not None:
        linearity = linearity_of(pick.selection)
    named = replace(pick, selection=replace(pick.selection, name=PICK))
    shown_before = [named, *(score.candidate for score in advice.equal_budget)]
    peers = peer_picks(scorer, asked.budget, shown_before, granularity=asked.granularity, seed=asked.seed)
    sentences, shown_tables = verdict(scorer, advice, linearity), tables(scorer, advice, peers)
    if confirmation is not None:
        sentences[2:2] = confirmed(confirmation, scorer)
        shown_tables[:0] = [confirm_table(confirmation, scorer)]
    shown = recommendation_file(
        scorer,
        advice,
        verdict=short_verdict(scorer, advice),
        linearity=linearity,
        peers=peers,
        confirm=None if confirmation is None else confirm_entry(confirmation, scorer),
        plan=proven.plan,
        arguments=arguments_of(proven.plan),
        resolved=ResolvedEntry(len(proven.pick.adapted), proven.pick.lora_params),
        formats={name: format_entry(whole, proven.instead[name]) for name, whole in proven.whole.items()},
        warnings=warnings,
    )
    return shown, sentences, shown_tables


def write(
    shown: RecommendationFile,
    sentences: Sequence[str],
    shown_tables: Sequence[TextTable],
    scorer: Scorer,
    proven: Proven,
    out: Path,
    session: Session,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """The files of the folder ``out``, swapped in together; their names are returned.

    Raises:
        BadInput: ``out`` cannot be written, or holds a file that is not ours.
        NotFinite: a number to write is NaN or infinite.
        Interrupted: cancelled while another process had the folder.
    """
    files = {name: file.text for whole in proven.whole.values() for name, file in whole.files.items()}
    yaml_text = proven.rendered["peft"].files[YAML_FILE].text
    lines = [*sentences, *(f"Warning: {text}" for text in shown.warnings)]
    files[REPORT_FILE] = report_markdown(scorer, lines, shown_tables, yaml_text)
    files[HTML_FILE] = report_html(shown, yaml_text)
    files[JSON_FILE] = json_text(sealed(shown.json()), out / JSON_FILE)
    write_files(out, files, session, only=True, last=JSON_FILE, overwrite=overwrite)
    return tuple(files)


def require_place(out: Path) -> None:
    """Check before the work that a recommendation can be written to ``out``.

    Raises:
        BadInput: a file of the user's is in its place.
    """
    require_ours(out, FILES)


def render_all(plan: Plan, names: Sequence[str]) -> dict[str, Rendered]:
    """The plan in each format."""
    return {name: FORMATS[name].render(plan) for name in dict.fromkeys(names)}


def resolve_files(name: str, rendered: Rendered, plan: Plan, model: nn.Module) -> dict[str, Resolved | None]:
    """What each file of a format trains of a meta-device ``model``, see :func:`prove_file`."""
    return {file: prove_file(FORMATS[name], file, found, plan, model) for file, found in rendered.files.items()}


def write_rendered(formats: Sequence[Rendered], out: Path, session: Session, overwrite: bool = False) -> list[Path]:
    """Write the files of some formats to the folder ``out``.

    Args:
        overwrite: replace files that we did not write, or that were changed since, too.

    Raises:
        BadInput: they cannot be written, or would replace such a file.
        Interrupted: cancelled while another process had the folder.
    """
    return write_files(out, {name: file.text for r in formats for name, file in r.files.items()}, session, overwrite=overwrite)


def export_formats(
    recommendation: Path, names: Sequence[str], out: Path, session: Session | None = None
) -> dict[str, tuple[Rendered, list[Path]]]:
    """Write the plan of a recommendation folder to ``out``, in the formats ``names``.

    Raises:
        BadInput: not a recommendation folder, or an unknown format.
        Interrupted: cancelled while another process had the folder.
    """
    where = recommendation / JSON_FILE
    shown = read_json(where, "recommendation")
    refuse_newer(shown, RECOMMENDATION_SCHEMA, str(where))
    hint = "Delete it and run `advisor recommend` again."
    check(RecommendationFields, shown, str(where), hint)
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
