"""``report.html``: one self-contained page, made of what ``recommendation.json`` holds and the text of ``lora.yaml``.

The words stand in ``templates/report.html``; here is what they are filled with. Names of modules, files and classes come from
outside: Jinja escapes them, what is not printable is escaped first, and the page's policy lets no other script run and asks
nothing of any server.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advisor.advice.recommend import STABLE
from advisor.core.choices import PREDICTED, STRATEGIES
from advisor.core.text import printable
from advisor.export import FORMATS
from advisor.report import drawings as figures
from advisor.report.confirmation import duration
from advisor.report.drawings import Cell, Drawing, Mark, Triple
from advisor.report.tables import count, gigabytes, span
from advisor.theory.linearity import NOT, Linearity

PICK, ALL = "the pick", "all modules"
METRICS = {"spearman": "Spearman correlation", "matthews": "Matthews correlation", "f1": "F1"}  # others by their name


def report_html(shown: Mapping[str, Any], yaml_text: str) -> str:
    """The page. ``shown``: the content of ``recommendation.json``; ``yaml_text``: of ``lora.yaml``."""
    environment = Environment(
        loader=PackageLoader("advisor.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(count=count, gigabytes=gigabytes, span=span, duration=duration, triple=_triple)
    script = environment.get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        **_content(_printable(shown)), yaml_text=yaml_text, script=Markup(script), script_hash=digest
    )


def _printable(value: Any) -> Any:
    """The same JSON value with everything that is not printable escaped in every text."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list | tuple) else value


def _content(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template names."""
    pick, kernel, plan = shown["pick"], shown["kernel"], shown["plan"]
    linearity = None if shown["linearity"] is None else Linearity.from_dict(shown["linearity"])
    return {
        "shown": shown,
        "model": _short(shown["provenance"]["model"]),
        "data": _short(shown["provenance"]["data"]),
        "recipe": _recipe(shown),
        "metric": _metric(shown),
        "metric_of_pick": _triple(pick["predicted"]["metric"]),
        "loss_of_pick": _triple(pick["predicted"]["loss"]),
        "modules": len(plan["targets"]),
        "places": _places(plan["targets"], set(pick["targets"])),
        "ranks": _ranks(pick),
        "share": sum(kernel["shares"][name] for name in pick["targets"]),
        "groups": _told_apart(shown["equal_budget"]),
        "rows": [(PICK, pick), *((entry["name"], entry) for entry in shown["equal_budget"][1:]), (ALL, shown["all_linear"])],
        "certificates": [b for b in pick["bounds"] if b["id"] == "C" and b["low"] is not None],
        "linearity": linearity,
        "linearity_sentence": None if linearity is None else linearity.sentence("the pick"),
        "warnings": _warnings(shown, linearity),
        "stable": STABLE,
        "picked_modules": _picked_modules(shown),
        "formats": [(FORMATS[name].label, found) for name, found in shown["formats"].items()],
        "facts": _facts(shown),
        **{name.replace("-", "_"): Markup(drawing.svg()) for name, drawing in drawings(shown).items()},
    }


def drawings(shown: Mapping[str, Any]) -> dict[str, Drawing]:
    """The figures of a recommendation by name."""
    pick, kernel, metric = shown["pick"], shown["kernel"], _metric(shown)
    others = [_mark(entry, "baseline" if entry["name"] == shown["baseline"] else "recipe") for entry in shown["equal_budget"][1:]]
    everything = _mark(shown["all_linear"], "all", ALL)
    marks = [_mark(pick, "pick", PICK), *others, everything]
    peers = [_mark(entry, "peer", peer) for peer, entry in shown["peers"].items() if "predicted" in entry]
    front = [(entry["params"], entry["predicted"]["metric"]["value"]) for entry in shown["front"]]
    spectra = [(PICK, kernel["eigenvalues"]["pick"]), (ALL, kernel["eigenvalues"]["all"])]
    found = (
        figures.heat_map(_cells(shown)),
        figures.pareto(front, [*marks, *peers], metric),
        figures.spectra(spectra, kernel["sigma"]),
        figures.intervals(marks, metric, "metric"),
        figures.intervals(marks, "validation loss", "loss"),
    )
    return {drawing.name: drawing for drawing in found}


def _metric(shown: Mapping[str, Any]) -> str:
    return METRICS.get(shown["metric"], str(shown["metric"]).replace("_", " "))


def _short(path: str) -> str:
    """The last two parts of a path; a hub id stays as it is."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def _recipe(shown: Mapping[str, Any]) -> str:
    recipe, available = shown["recipe"], shown["provenance"]["train_rows"]
    rows = min(available, recipe["train_rows"] or available)
    return f"{recipe['epochs']} epochs over {rows:,} rows, learning rate {recipe['lr']:g}, batch size {recipe['batch_size']}"


def _triple(interval: Mapping[str, float]) -> Triple:
    return interval["value"], interval["low"], interval["high"]


def _mark(entry: Mapping[str, Any], kind: str, label: str | None = None) -> Mark:
    predicted = entry["predicted"]
    return Mark(
        label or entry["name"],
        kind,
        entry["params"],
        _triple(predicted["metric"]),
        _triple(predicted["loss"]),
        entry.get("alike_pick", False),
    )


def _places(targets: Sequence[Mapping[str, Any]], picked: Set[str]) -> list[tuple[str, str]]:
    """In the model's order, each role that is picked with its layers: ``query``, ``layers 2–5``; ``""`` outside of layers."""
    places = []
    for role in dict.fromkeys(target["role"] for target in targets):
        chosen = [target["layer"] for target in targets if target["role"] == role and target["name"] in picked]
        layers = {layer for layer in chosen if layer is not None}
        if chosen:
            places.append((role, f"layer{'s' * (len(layers) > 1)} {_ranges(layers)}" if layers else ""))
    return places


def _ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 5 → 1–3, 5."""
    runs = [
        [number for _, number in run] for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _ranks(pick: Mapping[str, Any]) -> str:
    found = {pick.get("rank_pattern", {}).get(name, pick["rank"]) for name in pick["targets"]}
    return f"rank {min(found)}" if len(found) == 1 else f"ranks {min(found)}–{max(found)}, by module"


def _told_apart(equal: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the other selections at equal budget: ``alike``, or told from the pick and predicted ``worse`` or ``better``."""
    groups: dict[str, list[str]] = {"alike": [], "worse": [], "better": []}
    pick = equal[0]["relative"]["value"]
    for entry in equal[1:]:
        group = "alike" if entry["alike_pick"] else "better" if entry["relative"]["value"] > pick else "worse"
        groups[group].append(entry["name"])
    return groups


def _cells(shown: Mapping[str, Any]) -> list[Cell]:
    pick = shown["pick"]
    chosen, ranks = set(pick["targets"]), pick.get("rank_pattern", {})
    return [
        Cell(
            target["layer"],
            target["role"],
            shown["kernel"]["shares"][target["name"]],
            target["name"] in chosen,
            ranks.get(target["name"], pick["rank"]) if ranks and target["name"] in chosen else None,
        )
        for target in shown["plan"]["targets"]
    ]


def _picked_modules(shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, share, stability, rank and alpha of each picked module."""
    pick, kept = shown["pick"], shown["stability"]["modules"]
    return [
        {
            "name": name,
            "share": shown["kernel"]["shares"][name],
            "kept": kept[name],
            "rank": pick.get("rank_pattern", {}).get(name, pick["rank"]),
            "alpha": pick.get("alpha_pattern", {}).get(name, pick["alpha"]),
        }
        for name in pick["targets"]
    ]


def _warnings(shown: Mapping[str, Any], linearity: Linearity | None) -> list[str]:
    """What a reader must know before trusting the page."""
    found = [*shown["pick"]["warnings"], *shown["warnings"]]
    stability = shown["stability"]["mean"]
    if shown["strategy"] != PREDICTED:
        found.append(f"Chosen by --strategy {shown['strategy']} ({STRATEGIES[shown['strategy']]}), not by the predicted loss.")
    if stability < STABLE:
        found.append(f"The pick is unstable ({stability:.0%}, below {STABLE:.0%}): raise --samples.")
    if linearity is None:
        found.append("Linearity was not measured: how far the certificate speaks of real training is unknown.")
    elif linearity.verdict == NOT:
        found.append("Linearisation is a poor model here: the certificate says little about real training.")
    confirm = shown["confirm"]
    for failed in confirm["failed"] if confirm else ():
        found.append(f"The real run of {failed['name']} failed: {failed['reason']}")
    return found


def _facts(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance: what was asked of which versions, and of what."""
    made = shown["provenance"]
    identity = made["identity"]
    methods: dict[str, int] = {}
    for method in made["methods"].values():
        methods[method] = methods.get(method, 0) + 1
    error = made["estimate_error"]
    return [
        ("Model", f"{made['model']} ({made['model_type']})"),
        ("Revision", made["revision"] or "–"),
        ("Data", f"{made['data']}, {made['train_rows']:,} training rows"),
        ("Task", f"{shown['task']}, metric {shown['metric']}"),
        ("Classes", ", ".join(made["class_names"]) or "–"),
        ("Head, trained in full", ", ".join(made["head"]) or "–"),
        ("Head of the kernels", made["head_kind"]),
        ("Probe", f"{made['samples']} examples on {made['device']}"),
        ("Blocks", ", ".join(f"{method} ({many})" for method, many in sorted(methods.items())) or "–"),
        ("Error of sketched blocks", "none is sketched" if error is None else f"{error:.1%}"),
        ("Search", f"{shown['candidates_scored']} candidates, strategy {shown['strategy']}, granularity {shown['granularity']}"),
        ("Recipe", f"{_recipe(shown)}; AdamW, linear schedule, best epoch by validation loss"),
        ("Regressor", f"fitted on {made['calibration_rows']} real LoRA runs"),
        ("Versions", f"advisor {made['advisor']}, torch {made['torch']}"),
        ("Fingerprint of the model", str(identity["model_fingerprint"])),
        ("Fingerprint of the data", str(identity["data_fingerprint"])),
    ]
