"""What does ``--confirm 4`` add on tasks that the regressor has not seen? Every figure from committed rows alone.

For each group (a model on a task with one recipe) predictions are made from the rows of all other tasks. The finalists are the
selections within a budget; a run of one is its real row of seed 0, looked up. The first run is the pilot of
``benchmarks/pilot.py`` (of seed 2), where there is one; beside it stands what as many runs add without. Before and after up
to four such runs: log loss that the pick loses against the best finalist, judged on seed 1; the same of the one expected best
(the pick is the cheapest as good as that one, so it may lose up to a third of a seed standard deviation by intent); coverage
and width of the 90 % intervals of the finalists that were not run. Where there is no second seed, runs and judge are the same
rows, which flatters "after": those groups stand apart. Beside it: the regret of the lowest loss of as many random finalists,
run for real.

    python benchmarks/confirm.py [--rows profiles/predictors] [--confirm 4]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ranking import by_seed
from scipy.stats import spearmanr
from validity import PILOTS, SHIPPED, distances, pilot_evidence, read, task_of

from advisor.advice.confirm import decide
from advisor.advice.recommend import pick
from advisor.core.selections import ALL_LINEAR, QV
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.groups import Group, grouped
from advisor.prediction.predictions import Predictions
from advisor.prediction.predictor import Predictor

RESULTS = Path(__file__).parent / "results" / "confirm.json"
BUDGETS = (0.18, 0.36, 1.0)  # shares of the LoRA parameters of all modules
FEWEST = 8  # finalists


def report(
    rows: Sequence[CalibrationRow], held: Group, budget: float, asked: int, pilot: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Figures of one group at one budget, predicted from ``rows``, which hold nothing of its task; None: too few runs."""
    losses = by_seed(held, lambda r: math.log(r.val_loss))
    run, judge = losses[min(losses)], losses[max(losses)]
    by_name = {r.selection: r.params for r in held.rows}
    params = np.array([by_name[s] for s in held.selections])
    allowed = [int(i) for i in np.flatnonzero(params <= 1.01 * budget * params.max())]
    if len(allowed) < FEWEST:
        return None
    predictor = Predictor().fit(rows, str(held.context["task"]))
    apart = distances(held)
    everything = held.selections.index(ALL_LINEAR)
    evidence: dict[str, Any] = {}
    before = list[int]()
    if pilot is not None:
        evidence = pilot_evidence(predictor, held, pilot)
        before = [everything]

    def predict(runs: Sequence[int]) -> Predictions:
        """Given runs; the first of them is the pilot, where there is one."""
        if not runs:
            return predictor.predict(held.traits, held.context, apart)
        log_losses = [run[i] for i in runs]
        if pilot is not None:
            log_losses[0] = math.log(pilot["loss"])
        return predictor.given(held.traits, held.context, apart, runs, np.exp(log_losses).tolist(), **evidence)

    first, expected = pick(predict([]), params, allowed)
    next_one, _ = pick(predict(before), params, allowed)
    others = [i for i in allowed if i != next_one]
    baseline = next((i for i in others if held.selections[i] == QV), others[0])
    found = decide(
        predict,
        params,
        [next_one, *others],
        [next_one, baseline],
        asked - len(before),
        lambda chosen: [True] * len(chosen),
        begun=before,
    )
    _, expected_after = pick(predict(found.runs), params, allowed)
    unseen = [i for i in allowed if i not in found.runs]
    best = judge[allowed].min()
    rng = np.random.default_rng(0)
    draws = [rng.choice(allowed, size=min(asked, len(allowed)), replace=False) for _ in range(500)]
    result: dict[str, Any] = {
        "group": held.name,
        "budget": budget,
        "seeds": len(losses),
        "pilot": pilot is not None,
        "finalists": len(allowed),
        "runs": len(found.runs),
        "settled": found.sure,
        "changed": found.picked != first,
        "range": float(np.ptp(judge[allowed])),
        "regret_before": float(judge[first] - best),
        "regret_after": float(judge[found.picked] - best),
        "regret_best_before": float(judge[expected] - best),
        "regret_best_after": float(judge[expected_after] - best),
        "regret_random": float(np.mean([judge[d[np.argmin(run[d])]] for d in draws]) - best),
    }
    for name, p in (("before", predict([])), ("after", predict(found.runs))):
        low, high = np.log(p.loss.low), np.log(p.loss.high)
        inside = (low <= judge) & (judge <= high)
        result[f"coverage_{name}"] = float(inside[unseen].mean())
        result[f"coverage_all_{name}"] = float(inside[allowed].mean())
        result[f"width_{name}"] = float(np.median((high - low)[unseen]))
        result[f"rank_{name}"] = float(spearmanr(p.deviation[allowed], judge[allowed]).statistic)
    return result


def summary(reports: Sequence[dict[str, Any]]) -> dict[str, float]:
    keys = [k for k, v in reports[0].items() if isinstance(v, float) and k != "budget"]
    return {key: float(np.mean([r[key] for r in reports])) for key in (*keys, "runs", "changed")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=SHIPPED, help="folder of row files")
    parser.add_argument("--confirm", type=int, default=4, help="most runs")
    options = parser.parse_args()
    rows, pilots = read(options.rows), json.loads(PILOTS.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    for group in grouped(rows):
        others = [r for r in rows if task_of(r) != task_of(group.rows[0])]
        for budget in BUDGETS:
            for pilot in dict.fromkeys([None, group.name if group.name in pilots else None]):
                one = report(others, group, budget, options.confirm, pilots[pilot] if pilot else None)
                found += [] if one is None else [one]
    print(f"{'before → after':44s} budget seeds pilot  of runs  sure  regret: pick    expected best  random  coverage     width")
    for r in found:
        pairs = "   ".join(f"{r[f'{k}_before']:.3f} → {r[f'{k}_after']:.3f}" for k in ("regret", "regret_best"))
        print(
            f"{r['group'][-44:]:44s}  {r['budget']:4.0%}     {r['seeds']}   {'yes' if r['pilot'] else 'no ':3s} "
            f"{r['finalists']:3d}  {r['runs']:2d}  {r['settled']:4.0%}  {pairs}   {r['regret_random']:.3f}  "
            f"{r['coverage_before']:4.0%} → {r['coverage_after']:4.0%}  {r['width_before']:.2f} → {r['width_after']:.2f}"
        )
    result: dict[str, Any] = {"rows": len(rows), "confirm": options.confirm, "groups": found}
    piloted = {r["group"] for r in found if r["pilot"]}
    for name, members in (
        ("judged on another seed, with a pilot", [r for r in found if r["seeds"] > 1 and r["pilot"]]),
        ("judged on another seed, without", [r for r in found if r["seeds"] > 1 and not r["pilot"] and r["group"] in piloted]),
        ("judged on the same rows, with a pilot", [r for r in found if r["seeds"] == 1 and r["pilot"]]),
        ("judged on the same rows, without", [r for r in found if r["seeds"] == 1 and not r["pilot"] and r["group"] in piloted]),
    ):
        if members:
            result[name] = mean = summary(members)
            print(
                f"\nMean over {len(members)} groups × budgets {name}: regret of the pick {mean['regret_before']:.3f} → "
                f"{mean['regret_after']:.3f} by {mean['runs']:.1f} runs, of the one expected best "
                f"{mean['regret_best_before']:.3f} → {mean['regret_best_after']:.3f}, of the lowest of as many random runs "
                f"{mean['regret_random']:.3f}; range of losses {mean['range']:.3f}; coverage {mean['coverage_before']:.0%} → "
                f"{mean['coverage_after']:.0%} at a width of {mean['width_before']:.2f} → {mean['width_after']:.2f}; rank "
                f"correlation {mean['rank_before']:+.2f} → {mean['rank_after']:+.2f}; pick changed in {mean['changed']:.0%}."
            )
    RESULTS.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
