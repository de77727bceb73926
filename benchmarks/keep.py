"""Does the probe predict what real runs forget? Judged by the runs of ``benchmarks/keep_runs.py``; figures of docs/keep.md.

Of each pair the training rows and the first reference rows are probed together, as ``--keep`` does. Real forgetting is measured
on other reference rows, of the random selections; that of all modules stands apart. Intervals are judged with the pair left
out, and of the exam's pairs by those of all others. Results go to ``results/keep.json``; its ``spread`` is what
:mod:`advisor.prediction.kept_spread` has as ``MEASURED``.

    python benchmarks/keep.py WORK [--pairs TEXT …]
    python benchmarks/keep.py --page               # the tables of docs/keep.md anew, nothing measured
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keep_runs import EXAM, EXAM_2, EXAM_3, FILLED, PAIRS, PROBED, Pair, prepared_pair, recipe, selections_of
from scipy.stats import rankdata, spearmanr

from advisor.advice.peer_picks import GRADIENT_NORM, KAPPATUNE, gradient_norms, selection_scores
from advisor.core.events import Session
from advisor.core.probe import KeepBlocks, Probe
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Kept
from advisor.prediction.disturbance import disturbances, is_surprised
from advisor.prediction.kept_spread import PairFit, Spread, fit_pair
from advisor.prediction.probe_view import probe_view
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.features import ProbeView, recipe_loss
from advisor.theory.forgetting import fisher_traces
from advisor.theory.kernels import Array, lora_constant

RESULTS = Path(__file__).parent / "results" / "keep.json"
PAGE = Path(__file__).parents[1] / "docs" / "keep.md"
BEGIN, END = "<!-- made by benchmarks/keep.py -->", "<!-- end of what benchmarks/keep.py makes -->"
COLUMNS = {
    "`loss`": "loss",
    "first order": "loss, first order",
    "both orders": "loss, second order",
    "parameters": "parameters",
    "KappaTune": "kappatune",
    "gradient norm": "gradient norm",
    "kernel trace": "kernel trace",
}
TITLES = {
    "pairs": "Pairs that the method was made on, or that were run after it",
    "exam": "First exam",
    "exam_2": "Second exam",
    "exam_3": "Third exam",
}
PREDICTED, REAL = ("loss, first order", "kl"), ("loss", "kl")


def probed(pair: Pair, work: Path) -> Probe:
    """The pair's probe, with the first of the reference rows as rows to keep."""
    prepared, reference = prepared_pair(pair)
    kept = Kept(replace(reference, examples=reference.examples[:PROBED]), pair.keep)
    return run_probe(replace(prepared, kept=kept), ProbeSettings(), work / f"{pair.name}-probe", Session())


def rivals(probe: Probe, view: ProbeView, masks: Array) -> dict[str, Array]:
    """What says how much a selection forgets [S] without a look at the rows to keep; masks [S, M] are 1 where it adapts."""
    settings = LoraSettings()
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    peers = selection_scores(probe, masks)
    return {
        "parameters": masks @ np.array([t.lora_params(settings.rank) for t in probe.targets], dtype=np.float64),
        "kappatune": -peers[KAPPATUNE],
        "gradient norm (peer)": peers[GRADIENT_NORM],
        "gradient norm": np.sqrt(masks @ (constants * gradient_norms(probe) ** 2)),
        "kernel trace": np.einsum("sii->s", view.kernels["adam"].of(masks)),
        "simulated gain": -recipe_loss(view, masks),
    }


def predictions(pair: Pair, probe: Probe, selections: Sequence[Selection]) -> dict[str, Array]:
    """Every quantity [S] that may say how much a selection forgets: the larger, the more."""
    settings, keep, how = LoraSettings(), probe.keep, recipe(pair, probe.task)
    assert isinstance(keep, KeepBlocks)
    view = probe_view(probe, settings, how)
    masks = np.array([[t.name in s.targets for t in probe.targets] for s in selections], dtype=np.float64)
    known = replace(probe, info={**probe.info, "keep": {}})  # as if they were no surprise
    found = disturbances(known, keep, view, settings, dict.fromkeys(("adam", "lora-expected"), masks))
    kl, loss = (np.array([getattr(d, name) for d in found]) for name in ("kl", "loss"))
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    return {
        "loss, first order": loss - kl,
        "kl": kl,
        "loss, second order": loss,
        "loss": loss - kl if is_surprised(probe) else loss,
        "fisher trace": masks @ (constants * fisher_traces(keep.energies.astype(np.float64), keep.tokens)),
        **rivals(probe, view, masks),
    }


def judged(pair: Pair, work: Path) -> dict[str, Any]:
    """The figures of one pair so far."""
    lines = [json.loads(line) for line in (work / f"{pair.name}.jsonl").read_text(encoding="utf-8").splitlines()]
    probe = probed(pair, work)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(line["selection"], []).append(line)
    everything, *selections = (s for s in selections_of(probe.targets, FILLED[pair.model]) if s.name in by_name)
    predicted = predictions(pair, probe, selections)

    def real(take: Any, seed: int | None = None) -> Array:
        return np.array(
            [np.mean([take(line) for line in by_name[s.name] if seed is None or line["seed"] == seed]) for s in selections]
        )

    measured = {
        "loss": real(lambda line: line["held"]["after"] - line["held"]["before"]),
        "kl": real(lambda line: line["held"]["kl"]),
        "learned": real(lambda line: line["task_loss"][0] - min(line["task_loss"][1:])),
    }
    return {
        "pair": pair.name,
        "selections": len(selections),
        "seeds": sorted({line["seed"] for line in lines}),
        "loss_before": lines[0]["held"]["before"],
        "surprised": is_surprised(probe),
        "all_modules": all_modules(by_name[everything.name], predictions(pair, probe, [everything])),
        "real": {name: [round(float(v), 6) for v in values] for name, values in measured.items()},
        "predicted": {name: [float(f"{v:.6g}") for v in values] for name, values in predicted.items()},
        "spearman": {kind: {name: rank(values, measured[kind]) for name, values in predicted.items()} for kind in measured},
        "kl_at_equal_learning": {
            name: partial(values, measured["kl"], measured["learned"]) for name, values in predicted.items()
        },
        "size": {
            "kl": round(float(np.median(predicted["kl"] / measured["kl"])), 2),
            "loss_error": round(float(np.mean(np.abs(predicted["loss"] - measured["loss"]))), 3),
        },
        "ceilings": ceilings(predicted, measured),
        "fit": asdict(fit_pair(*(predicted[name] for name in PREDICTED), *(measured[name] for name in REAL))),
    }


def all_modules(lines: Sequence[dict[str, Any]], predicted: dict[str, Array]) -> dict[str, float]:
    """What adapting all modules did to the rows, and was predicted to do."""
    held = [line["held"] for line in lines]
    found = {
        "loss": np.mean([h["after"] - h["before"] for h in held]),
        "kl": np.mean([h["kl"] for h in held]),
        "predicted loss": predicted["loss"][0],
        "predicted kl": predicted["kl"][0],
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def covered(pairs: Sequence[dict[str, Any]], by: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each pair, shares of its selections in the intervals that the other pairs among ``by`` give, and their median widths."""
    found = []
    for pair in pairs:
        spread = Spread.of([PairFit(**other["fit"]) for other in by if other is not pair and not other["surprised"]])
        loss, kl = spread.intervals(*(np.array(pair["predicted"][name]) for name in PREDICTED))
        entry: dict[str, Any] = {"pair": pair["pair"]}
        for name, span in zip(REAL, (loss, kl), strict=True):
            real = np.array(pair["real"][name])
            entry |= {
                name: round(float(np.mean((span[:, 0] <= real) & (real <= span[:, 1]))), 3),
                f"{name} width": round(float(np.median(span[:, 1] - span[:, 0])), 3),
            }
        found.append(entry)
    return found


def ceilings(predicted: dict[str, Array], measured: dict[str, Array]) -> list[dict[str, float]]:
    """What the selection of the largest simulated gain under a ceiling on the predicted change of loss really learned, and by how
    much the loss of the rows to keep changed; ceilings are quantiles of the predictions."""
    found = []
    for share in (1.0, 0.75, 0.5, 0.25):
        ceiling = np.quantile(predicted["loss"], share)
        allowed = predicted["loss"] <= ceiling
        pick = int(np.argmax(np.where(allowed, predicted["simulated gain"], -np.inf)))
        entry = {"share": share, "ceiling": float(ceiling), "learned": measured["learned"][pick], "loss": measured["loss"][pick]}
        found.append({name: round(float(value), 4) for name, value in entry.items()})
    return found


def partial(a: Array, b: Array, given: Array) -> float | None:
    """Rank correlation of a and b with that of ``given`` taken out of both."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (a, b, given)]
    left = [r - (r @ ranks[2]) / (ranks[2] @ ranks[2]) * ranks[2] for r in ranks[:2]]
    size = float(np.linalg.norm(left[0]) * np.linalg.norm(left[1]))
    return round(float(left[0] @ left[1]) / size, 3) if size > 1e-9 else None


def rank(a: Array, b: Array) -> float | None:
    value = float(spearmanr(a, b).statistic)
    return round(value, 3) if np.isfinite(value) else None


def page(results: dict[str, Any]) -> list[str]:
    """The tables of docs/keep.md: ranks of the real change of loss and of KL, and coverage of intervals."""
    by_name = {entry["pair"]: entry for entry in results["covered"]}
    lines: list[str] = []
    for key, title in TITLES.items():
        lines += [
            f"**{title}**",
            "",
            "| pair | loss before | real change of loss | "
            + " | ".join(COLUMNS)
            + " | KL by `kl` | KL by gradient norm | in the interval: loss, KL |",
            "| --- | ---: | ---: |" + " ---: |" * (len(COLUMNS) + 3),
        ]
        for entry in results[key]:
            parts = re.fullmatch(r"(\w+?)-(\w+)-keeps-(\w+)(?:-(.+))?", entry["pair"])
            assert parts is not None
            model, data, kept, rate = parts.groups()
            ranks, drift, cover = entry["spearman"]["loss"], entry["spearman"]["kl"], by_name[entry["pair"]]
            real = entry["real"]["loss"]
            cells = [
                f"{model} on {data}{f' at {rate}' if rate else ''}, keeps {kept}{', surprised' if entry['surprised'] else ''}",
                f"{entry['loss_before']:.1f}",
                f"{min(real):+.2f} to {max(real):+.2f}",
                *(f"{ranks[name]:+.2f}" for name in COLUMNS.values()),
                f"{drift['kl']:+.2f}",
                f"{drift['gradient norm']:+.2f}",
                f"{'–' if entry['surprised'] else format(cover['loss'], '.0%')}, {cover['kl']:.0%}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def write_page(results: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, "", *page(results), END + rest.partition(END)[2]]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder of the runs, and of probes")
    parser.add_argument("--page", action="store_true", help="the tables of the page anew, nothing measured")
    parser.add_argument("--pairs", nargs="*", default=[""], help="parts of pair names; all that have runs by default")
    options = parser.parse_args()
    if options.page:
        return write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"pairs": []}
    found = {entry["pair"]: entry for key in TITLES for entry in before.get(key, ())}
    for pair in (*PAIRS, *EXAM, *EXAM_2, *EXAM_3):
        if (options.work / f"{pair.name}.jsonl").exists() and any(part in pair.name for part in options.pairs):
            found[pair.name] = judged(pair, options.work)
            print(pair.name, json.dumps(found[pair.name]["spearman"], indent=1), flush=True)
    groups = zip(TITLES, (PAIRS, EXAM, EXAM_2, EXAM_3), strict=True)
    exams = {key: [found[p.name] for p in some if p.name in found] for key, some in groups}
    pairs = exams["pairs"]
    spread = Spread.of([PairFit(**entry["fit"]) for entry in pairs if not entry["surprised"]])
    everything = [entry for some in exams.values() for entry in some]
    results = {**exams, "covered": covered(everything, pairs), "spread": asdict(spread)}
    write_json(RESULTS, results)
    write_page(results)
    print(spread)


if __name__ == "__main__":
    main()
