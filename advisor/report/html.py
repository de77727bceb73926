"""``report.html``: one self-contained page, made of what ``recommendation.json`` holds and the text of ``lora.yaml``.

The words stand in ``templates/report.html``; here is what they are filled with. Names of modules, files and classes come from
outside: Jinja escapes them, what is not printable is escaped first, and the page's policy lets no other script run and asks
nothing of any server.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advisor.advice.recommend import STABLE
from advisor.core.candidate import Candidate
from advisor.core.choices import ALIKE, ALIKE_WITHIN, APART, PREDICTED, STRATEGIES
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.text import printable
from advisor.export import FORMATS
from advisor.prediction.payload import ScoreEntry
from advisor.report import drawings as figures
from advisor.report.confirmation import CAVEAT
from advisor.report.drawings import Cell, Drawing, Mark
from advisor.report.payload import ComparedEntry, RecommendationFile
from advisor.report.tables import ALL, PICK
from advisor.report.words import (
    change_span,
    count,
    disturbs_means,
    disturbs_words,
    duration,
    gigabytes,
    loss_span,
    metric_name,
    metric_span,
    ranges,
    span,
)
from advisor.theory.linearity import NOT, Linearity

T = TypeVar("T")
MOST_CHANGE = 300  # per cent of a difference that is drawn


def report_html(shown: RecommendationFile, yaml_text: str) -> str:
    """The page. ``yaml_text``: the content of ``lora.yaml``."""
    environment = Environment(
        loader=PackageLoader("advisor.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=count,
        gigabytes=gigabytes,
        span=span,
        duration=duration,
        change=lambda interval: change_span(interval.triple),
        loss=lambda interval: loss_span(interval.triple),
        metric=lambda interval: metric_span(interval.triple, shown.metric),
        disturbs=disturbs_words,
    )
    script = environment.get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        **_content(_printable(shown)), yaml_text=yaml_text, script=Markup(script), script_hash=digest
    )


def _printable(value: T) -> T:
    """The same value with everything that is not printable escaped in every text."""
    if isinstance(value, str):
        return printable(value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _printable(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, Mapping):
        return {_printable(key): _printable(item) for key, item in value.items()}  # type: ignore[return-value]
    return type(value)(map(_printable, value)) if isinstance(value, list | tuple) else value


def _content(shown: RecommendationFile) -> dict[str, object]:
    """Everything the template names."""
    pick, plan = shown.pick, shown.plan
    return {
        "shown": shown,
        "model": _short(shown.provenance.model),
        "data": _short(shown.provenance.data),
        "recipe": _recipe(shown),
        "metric": metric_name(shown.metric),
        "modules": len(plan.targets),
        "places": _places(shown, set(pick.targets)),
        "ranks": _ranks(shown),
        "share": sum(shown.kernel.shares[name] for name in pick.targets),
        "groups": _told_apart(shown.equal_budget),
        "alike_within": f"{ALIKE_WITHIN:.0%}",
        "disturbs_means": disturbs_means(shown.task in LANGUAGE_TASKS),
        "rows": [(PICK, pick), *((entry.name, entry) for entry in shown.equal_budget[1:]), (ALL, shown.all_linear)],
        "certificates": [bound for bound in pick.bounds if bound.id == "C" and bound.low is not None],
        "linearity": shown.linearity,
        "linearity_sentence": None if shown.linearity is None else shown.linearity.sentence(PICK),
        "warnings": _warnings(shown, shown.linearity),
        "stable": STABLE,
        "most_change": MOST_CHANGE,
        "caveat": CAVEAT,
        "picked_modules": _picked_modules(shown),
        "formats": [(FORMATS[name].label, found) for name, found in shown.formats.items()],
        "facts": _facts(shown),
        **{name.replace("-", "_"): Markup(drawing.svg()) for name, drawing in drawings(shown).items()},
    }


def drawings(shown: RecommendationFile) -> dict[str, Drawing]:
    """The figures of a recommendation by name."""
    kernel, metric = shown.kernel, metric_name(shown.metric)
    others = [
        _mark(entry, "baseline" if entry.name == shown.baseline else "common", entry.name, entry.beside_pick != APART)
        for entry in shown.equal_budget[1:]
    ]
    marks = [_mark(shown.pick, "pick", PICK), *others, _mark(shown.all_linear, "all", ALL, shown.all_linear.beside_pick != APART)]
    peers = [_mark(entry, "peer", peer) for peer, entry in shown.peers.items() if isinstance(entry, ScoreEntry)]
    front = [(entry.params, entry.predicted.metric.value) for entry in shown.front]
    spectra = [(PICK, kernel.eigenvalues.pick), (ALL, kernel.eigenvalues.all)]
    found = (
        figures.heat_map(_cells(shown)),
        figures.pareto(front, [*marks, *peers], metric),
        figures.spectra(spectra, kernel.sigma),
        figures.intervals(marks, "validation loss against all modules, per cent", "difference"),
        figures.intervals(marks, metric, "metric"),
    )
    return {drawing.name: drawing for drawing in found}


def _short(path: str) -> str:
    """The last two parts of a path; a hub id stays as it is."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def _recipe(shown: RecommendationFile) -> str:
    recipe, available = shown.recipe, shown.provenance.train_rows
    rows = min(available, recipe.train_rows or available)
    return f"{recipe.epochs} epochs over {rows:,} rows, learning rate {recipe.lr:g}, batch size {recipe.batch_size}"


def _mark(entry: ScoreEntry, kind: str, label: str, untold: bool = False) -> Mark:
    value, low, high = (min(100 * share, MOST_CHANGE) for share in entry.vs_all_linear.triple)
    return Mark(label, kind, entry.params, entry.predicted.metric.triple, (value, low, high), untold)


def _places(shown: RecommendationFile, picked: Set[str]) -> list[tuple[str, str]]:
    """In the model's order, each role that is picked with its layers: ``query``, ``layers 2–5``; ``""`` outside of layers."""
    places = []
    for role in dict.fromkeys(target.role for target in shown.plan.targets):
        chosen = [target.layer for target in shown.plan.targets if target.role == role and target.name in picked]
        layers = {layer for layer in chosen if layer is not None}
        if chosen:
            places.append((role, f"layer{'s' * (len(layers) > 1)} {ranges(layers)}" if layers else ""))
    return places


def _ranks(shown: RecommendationFile) -> str:
    return Candidate(shown.plan.selection, shown.plan.settings, shown.plan.ranks, shown.plan.alphas).ranks_text


def _told_apart(equal: Sequence[ComparedEntry]) -> dict[str, list[str]]:
    """Names of the other selections at equal budget: told from the pick and predicted ``worse`` or ``better``, or ``untold``; of
    the last some are ``alike``."""
    groups: dict[str, list[str]] = {"untold": [], "alike": [], "worse": [], "better": []}
    for entry in equal[1:]:
        if entry.beside_pick == APART:
            groups["worse" if entry.vs_pick.value > 0 else "better"].append(entry.name)
        else:
            groups["untold"].append(entry.name)
        if entry.beside_pick == ALIKE:
            groups["alike"].append(entry.name)
    return groups


def _cells(shown: RecommendationFile) -> list[Cell]:
    pick = shown.pick
    chosen = set(pick.targets)
    return [
        Cell(
            target.layer,
            target.role,
            shown.kernel.shares[target.name],
            target.name in chosen,
            pick.rank_of(target.name) if pick.rank_pattern and target.name in chosen else None,
        )
        for target in shown.plan.targets
    ]


def _picked_modules(shown: RecommendationFile) -> list[dict[str, object]]:
    """Name, share, stability, rank and alpha of each picked module."""
    return [
        {
            "name": name,
            "share": shown.kernel.shares[name],
            "kept": shown.stability.modules[name],
            "rank": shown.pick.rank_of(name),
            "alpha": shown.pick.alpha_of(name),
        }
        for name in shown.pick.targets
    ]


def _warnings(shown: RecommendationFile, linearity: Linearity | None) -> list[str]:
    """What a reader must know before trusting the page."""
    found = [*shown.pick.warnings, *shown.warnings]
    stability = shown.stability.mean
    if shown.strategy != PREDICTED:
        found.append(f"Chosen by --strategy {shown.strategy} ({STRATEGIES[shown.strategy]}), not by the predicted loss.")
    if stability < STABLE:
        found.append(f"The pick is unstable ({stability:.0%}, below {STABLE:.0%}): raise --samples.")
    if linearity is None:
        found.append("Linearity was not measured, see --linearity: how far the certificate speaks of real training is unknown.")
    elif linearity.verdict == NOT:
        found.append("Linearisation is a poor model here: the certificate says little about real training.")
    failed_runs = shown.confirm.failed if shown.confirm is not None else ()
    found += [f"The real run of {failed.name} failed: {failed.reason}" for failed in failed_runs]
    return found


def _facts(shown: RecommendationFile) -> list[tuple[str, str]]:
    """Provenance: what was asked of which versions, and of what."""
    made = shown.provenance
    methods: dict[str, int] = {}
    for method in made.methods.values():
        methods[method] = methods.get(method, 0) + 1
    error = made.estimate_error
    return [
        ("Model", f"{made.model} ({made.model_type})"),
        ("Revision", made.revision or "–"),
        ("Data", f"{made.data}, {made.train_rows:,} training rows"),
        ("Task", f"{shown.task}, metric {shown.metric}"),
        ("Classes", ", ".join(made.class_names) or "–"),
        ("Head, trained in full", ", ".join(made.head) or "–"),
        ("Head of the kernels", made.head_kind),
        ("Probe", f"{made.samples} examples on {made.device}"),
        ("Kernel blocks", ", ".join(f"{method} ({many})" for method, many in sorted(methods.items())) or "–"),
        ("Error of sketched blocks", "none is sketched" if error is None else f"{error:.1%}"),
        ("Search", f"{shown.candidates_scored} candidates, strategy {shown.strategy}, granularity {shown.granularity}"),
        ("Training recipe", f"{_recipe(shown)}; AdamW, linear schedule, best epoch by validation loss"),
        ("Regressor", f"fitted on {made.calibration_rows} real LoRA runs"),
        ("Versions", f"advisor {made.advisor}, torch {made.torch}"),
        ("Fingerprint of the model", str(made.identity["model_fingerprint"])),
        ("Fingerprint of the data", str(made.identity["data_fingerprint"])),
    ]
