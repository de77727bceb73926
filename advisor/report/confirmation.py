"""What a person and a program read of real runs: sentences, a table, the part ``confirm`` of ``recommendation.json``."""

from __future__ import annotations

from typing import Any

from advisor.advice.confirm import SWEEP_SEEDS, Confirmation
from advisor.prediction.payload import interval
from advisor.prediction.probe_view import training_rows
from advisor.prediction.scorer import Scorer
from advisor.report.tables import Table


def confirmed(found: Confirmation, scorer: Scorer) -> list[str]:
    """What real runs said, what that cost, and what became of the pick."""
    rows = training_rows(scorer.probe, found.recipe)
    lines = [f"Left out: the real run of {name} failed ({reason.rstrip('.')})." for name, reason in found.failed]
    if not found.runs:
        return ["Confirmed by no real run: all failed, so the pick is as predicted.", *lines]
    mean, times = found.cost_s / len(found.runs), found.sweep_s / max(found.cost_s, 1e-9)
    many = f"{len(found.runs)} real run" + ("s" if len(found.runs) > 1 else "")
    lines.insert(
        0,
        f"Confirmed by {many} of {mean:.0f} s on {rows} training rows: with probability {found.sure:.0%} the pick lies within "
        f"two seed standard deviations of the best of {len(found.finalists)} finalists"
        + (", so it is settled. " if found.settled else "; more runs may still change it. ")
        + f"A sweep over all {len(found.finalists)} × {SWEEP_SEEDS} seeds would cost {times:.0f} times that "
        f"({duration(found.sweep_s)} instead of {duration(found.cost_s)}).",
    )
    if (pilot := next((c.run for c in found.runs if c.run.switched), None)) is not None:
        lines.append(
            f"The first run is a pilot: it trained all modules, then showed on held-out rows, in {duration(pilot.switched_s)}, "
            "what each finalist is worth by switching the adapters of all other modules off."
        )
    if not found.same_recipe:
        lines.append(
            f"The prediction is for {training_rows(scorer.probe, scorer.recipe)} training rows, the runs are of {rows}: they "
            "decided the pick at their own recipe and leave the numbers of the longer one as predicted."
        )
    if (old := found.pick_before).selection.targets != found.picked.selection.targets:
        lines.append(_changed(found, old.selection.name))
    if found.picked not in [c.run.candidate for c in found.runs]:
        lines.append("The pick itself was not run: what is expected of it rests on the runs of others; raise --confirm.")
    return lines


def _changed(found: Confirmation, old: str) -> str:
    """From which pick to which, and why."""
    new = found.finalists[0]
    lost = next((reason for name, reason in found.failed if name == old), None)
    if lost is not None:
        why = f"the real run of {old} failed"
    else:
        before, after = next((f.before[0], f.after[0]) for f in found.finalists if f.candidate.selection.name == old)
        why = (
            f"the runs move the expected loss of {old} from {before:.3g} to {after:.3g} and that of "
            f"{new.candidate.selection.name} from {new.before[0]:.3g} to {new.after[0]:.3g}, and it is now the cheapest as good "
            "as the best"
        )
    return f"The pick changed from {old} to {new.candidate.selection.name}: {why}."


def duration(seconds: float) -> str:
    """95 → 1.6 min."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def confirm_table(found: Confirmation, scorer: Scorer) -> Table:
    """One row a real run: predicted loss before, real loss and metric, predicted loss after."""
    rows, metric = training_rows(scorer.probe, found.recipe), str(scorer.probe.info["metric"]).replace("_", " ")
    return Table(
        f"Real runs on {rows} training rows: their loss and {metric}, and the loss predicted of a run before and after them",
        ("run", "before", "real", "metric", "after", "time"),
        tuple(
            (
                f"{c.run.candidate.selection.name} ({c.role})",
                _short(c.before),
                f"{c.run.loss:.3f}",
                f"{c.run.metric:.3f}",
                _short(c.after),
                duration(c.run.wall_s + c.run.switched_s),
            )
            for c in found.runs
        ),
        frozenset(i for i, c in enumerate(found.runs) if c.run.candidate == found.picked),
    )


def _short(interval: tuple[float, float, float]) -> str:
    """Two of these, a loss, a metric and a time leave room for a name in 80 columns."""
    value, low, high = interval
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def confirmation_json(found: Confirmation, scorer: Scorer) -> dict[str, Any]:
    """For programs; losses are of one run at ``recipe``."""
    return {
        "asked": found.asked,
        "recipe": found.recipe.as_dict(),
        "train_rows": training_rows(scorer.probe, found.recipe),
        "same_recipe": found.same_recipe,
        "runs": [
            {
                "name": c.run.candidate.selection.name,
                "role": c.role,
                "targets": list(c.run.candidate.selection.targets),
                "rank": c.run.candidate.settings.rank,
                "alpha": c.run.candidate.settings.alpha,
                **c.run.candidate.patterns,
                "loss": c.run.loss,
                "metric": c.run.metric,
                "wall_s": c.run.wall_s,
                "measured": len(c.run.switched),
                "measured_s": c.run.switched_s,
                "before": interval(c.before),
                "after": interval(c.after),
            }
            for c in found.runs
        ],
        "failed": [{"name": name, "reason": reason} for name, reason in found.failed],
        "finalists": [
            {
                "name": f.candidate.selection.name,
                "before": interval(f.before),
                "after": interval(f.after),
                "probability_best": f.best,
            }
            for f in found.finalists
        ],
        "pick_before": found.pick_before.selection.name,
        "pick_after": found.picked.selection.name,
        "probability": found.sure,
        "settled": found.settled,
        "cost_s": found.cost_s,
        "sweep_runs": found.sweep_runs,
        "sweep_cost_s": found.sweep_s if found.runs else None,
    }
