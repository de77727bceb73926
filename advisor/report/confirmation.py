"""What a person and a program read of real runs: sentences, a table, the part ``confirm`` of ``recommendation.json``."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.advice.confirm import SWEEP_SEEDS, Confirmation, Confirmed
from advisor.advice.effort import measuring_steps, run_steps
from advisor.advice.recommend import Recommendation
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import Selection
from advisor.prediction.payload import Interval
from advisor.prediction.probe_view import training_rows
from advisor.prediction.scorer import Scorer
from advisor.report.tables import TextTable
from advisor.report.words import duration

CAVEAT = (
    "On 8 groups of data kept back from this project, of models that runs were of, such a run took the rank correlation from "
    "+0.53 to +0.67, and among sets of one size from +0.58 to +0.73. Its 90% intervals held 92% of losses, those before it 86%. "
    "Of three models that no run was of the correlation went from +0.64 to +0.62, and intervals held 68% and 51%. Over all ten "
    "such tests, each with the version of its time, it went from +0.48 to +0.55."
)


def cost_of_runs(scorer: Scorer, rec: Recommendation, recipe: TrainingRecipe, runs: int, step_s: float | None = None) -> str:
    """What so many real runs take at most, in steps and, where the seconds of a step are known, in time."""
    steps, finalists = run_steps(scorer, recipe), len(rec.finalists)
    total = steps * runs + measuring_steps(scorer, finalists, recipe)
    many, rows = runs > 1, training_rows(scorer.probe, recipe)
    return (
        f"{f'Up to {runs} real LoRA runs' if many else 'A real LoRA run'} of {steps} steps on {rows} training rows. "
        f"{'The first' if many else 'It'} trains all modules and measures {finalists} candidates. This takes as long as {total} "
        f"steps of training all modules at most{'' if step_s is None else f', roughly {duration(total * step_s)}'}."
    )


def confirmed(found: Confirmation, scorer: Scorer) -> list[str]:
    """What real runs said, what that cost, and what became of the pick."""
    rows = training_rows(scorer.probe, found.recipe)
    lines = [f"Left out: the real run of {name} failed ({reason.rstrip('.')})." for name, reason in found.failed]
    if not found.runs:
        return ["All real runs failed, so the pick is as predicted.", *lines]
    mean, times = found.cost_s / len(found.runs), found.sweep_s / max(found.cost_s, 1e-9)
    many = f"{len(found.runs)} real run" + ("s" if len(found.runs) > 1 else "")
    lines.insert(
        0,
        f"{many} of {mean:.0f} s on {rows} training rows: with probability {found.sure:.0%} the pick lies within two seed "
        f"standard deviations of the best of {len(found.finalists)} finalists"
        + (", so it is settled. " if found.settled else "; more runs may still change it. ")
        + f"A sweep over all finalists with {SWEEP_SEEDS} seeds each would cost {times:.0f} times that "
        f"({duration(found.sweep_s)} instead of {duration(found.cost_s)}).",
    )
    if (pilot := next((c.run for c in found.runs if c.run.switched), None)) is not None:
        lines.append(
            "The first run is a pilot: it trained all modules. Then it measured on held-out rows what each finalist is worth, by "
            f"switching the adapters of all other modules off; this took {duration(pilot.switched_s)}."
        )
    if not found.same_recipe:
        lines.append(
            f"The prediction is for {training_rows(scorer.probe, scorer.recipe)} training rows, and the runs are on {rows}. They "
            "decide the pick at their own recipe. The numbers shown stay as predicted for the longer one."
        )
    if (old := found.pick_before).selection.targets != found.picked.selection.targets:
        lines.append(_changed(found, old.selection))
    if found.picked not in [c.run.candidate for c in found.runs]:
        lines.append("The pick itself was not run. What is expected of it rests on the runs of others: raise --confirm.")
    return [*lines, CAVEAT]


def _changed(found: Confirmation, old: Selection) -> str:
    """From which pick to which, and why."""
    first = found.finalists[0]
    new = first.candidate.selection
    dropped, added = (len(set(one.targets) - set(other.targets)) for one, other in ((old, new), (new, old)))
    lost = next((reason for name, reason in found.failed if name == old.name), None)
    if lost is not None:
        why = "the real run of the first failed"
    else:
        before, after = next((f.before[0], f.after[0]) for f in found.finalists if f.candidate.selection.name == old.name)
        why = (
            f"the real runs move the expected loss of the first from {before:.3g} to {after:.3g} and that of the second from "
            f"{first.before[0]:.3g} to {first.after[0]:.3g}, and it is now the cheapest as good as the best"
        )
    return f"The pick changed from {old.called} to {new.called} ({dropped} dropped, {added} added): {why}."


def confirm_table(found: Confirmation, scorer: Scorer) -> TextTable:
    """One row a real run: predicted loss before, real loss and metric, predicted loss after."""
    rows, metric = training_rows(scorer.probe, found.recipe), str(scorer.probe.info["metric"]).replace("_", " ")
    return TextTable(
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


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A real run: what was trained, what it reached, and the loss predicted of a run without and with all real ones.

    Attributes:
        rank_pattern, alpha_pattern: None where all modules have the common ones. wall_s: seconds of training.
        measured: selections whose worth was measured in this run; measured_s: seconds of that.
    """

    name: str
    role: str
    targets: tuple[str, ...]
    rank: int
    alpha: float
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    loss: float
    metric: float
    wall_s: float
    measured: int
    measured_s: float
    before: Interval
    after: Interval


@dataclass(frozen=True)
class FailedEntry:
    """A real run that failed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FinalistEntry:
    """A finalist: the loss predicted of a run without and with the real ones, and how probably it is the best."""

    name: str
    before: Interval
    after: Interval
    probability_best: float


@dataclass(frozen=True, kw_only=True)
class ConfirmEntry:
    """Real runs for programs; losses are of one run at ``recipe``, see :class:`advisor.advice.confirm.Confirmation`."""

    asked: int
    recipe: TrainingRecipe
    train_rows: int
    same_recipe: bool
    runs: tuple[RunEntry, ...]
    failed: tuple[FailedEntry, ...]
    finalists: tuple[FinalistEntry, ...]
    pick_before: str
    pick_after: str
    probability: float
    settled: bool
    cost_s: float
    sweep_runs: int
    sweep_cost_s: float | None


def confirm_entry(found: Confirmation, scorer: Scorer) -> ConfirmEntry:
    """The part ``confirm`` of ``recommendation.json``."""
    return ConfirmEntry(
        asked=found.asked,
        recipe=found.recipe,
        train_rows=training_rows(scorer.probe, found.recipe),
        same_recipe=found.same_recipe,
        runs=tuple(_run_entry(confirmed) for confirmed in found.runs),
        failed=tuple(FailedEntry(name, reason) for name, reason in found.failed),
        finalists=tuple(
            FinalistEntry(f.candidate.selection.name, Interval(*f.before), Interval(*f.after), f.best) for f in found.finalists
        ),
        pick_before=found.pick_before.selection.name,
        pick_after=found.picked.selection.name,
        probability=found.sure,
        settled=found.settled,
        cost_s=found.cost_s,
        sweep_runs=found.sweep_runs,
        sweep_cost_s=found.sweep_s if found.runs else None,
    )


def _run_entry(confirmed: Confirmed) -> RunEntry:
    run = confirmed.run
    return RunEntry(
        name=run.candidate.selection.name,
        role=confirmed.role,
        targets=run.candidate.selection.targets,
        rank=run.candidate.settings.rank,
        alpha=run.candidate.settings.alpha,
        **run.candidate.patterns,
        loss=run.loss,
        metric=run.metric,
        wall_s=run.wall_s,
        measured=len(run.switched),
        measured_s=run.switched_s,
        before=Interval(*confirmed.before),
        after=Interval(*confirmed.after),
    )
