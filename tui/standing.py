"""What Confirm says of real runs: pure functions to styled text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from advisor.core.selections import ALL_LINEAR
from tui.curves import Curve
from tui.engine import Finalist, Standing

if TYPE_CHECKING:
    from advisor.advice.recommend import Recommendation
    from advisor.core.recipe import TrainingRecipe
    from advisor.prediction.scorer import Scorer
    from advisor.training.live import DoneRun, LiveRun

MOST_FINALISTS = 8
COLOURS = ("$text-accent", "$text-success", "$text-secondary", "$text-warning", "$text")
BEFORE, AFTER = "╌", "━"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def mark(index: int) -> str:
    return str(index + 1)


def drawn(done: Sequence[DoneRun], live: Sequence[LiveRun]) -> list[Curve]:
    """Validation losses of every run from epoch to epoch; of those under way the training loss too, as far as they are."""
    found = []
    for index, run in enumerate(done):
        found.append(Curve(_along(run.epochs, 1.0), colour(index)))
    for index, under_way in enumerate(live, len(done)):
        share = under_way.step / max(under_way.steps, 1)
        found.append(Curve(_along(smoothed(under_way.losses), share), "$text-muted"))
        places = (step / max(under_way.steps, 1) for step in under_way.at)
        found.append(Curve(tuple(zip(places, under_way.epochs, strict=False)), colour(index)))
    return found


def smoothed(losses: Sequence[float], weight: float = 0.8) -> list[float]:
    """Training losses of single batches, each averaged with those before it."""
    found: list[float] = []
    for loss in losses:
        found.append(loss if not found else weight * found[-1] + (1 - weight) * loss)
    return found


def _along(values: Sequence[float], share: float) -> tuple[tuple[float, float], ...]:
    """Evenly from the start to a share of a run."""
    last = max(len(values) - 1, 1)
    return tuple((share * i / last, value) for i, value in enumerate(values))


def runs_text(standing: Standing | None, done: Sequence[DoneRun], live: Sequence[LiveRun], names: dict[str, str]) -> Content:
    """One line a run: its mark in the colour of its curve, its name, what it reached or how far it is."""
    from advisor.report.words import duration

    lines = []
    for index, run in enumerate(done):
        said = f"loss {run.loss:.3f}, metric {run.metric:.3f}, {duration(run.wall_s + run.measured_s)}"
        lines.append(Content.assemble((f"{mark(index)} ", colour(index)), f"{names.get(run.name, run.name)}: {said}"))
    for index, under_way in enumerate(live, len(done)):
        eta = under_way.eta_s
        left = "" if eta is None else f", {duration(eta)} left"
        said = f"{reached(under_way)}{left}"
        name = names.get(under_way.name, under_way.name)
        lines.append(Content.assemble((f"{mark(index)} ", colour(index)), (f"{name}: {said}", "bold")))
    for ended in standing.runs if standing else ():
        if ended.problem:
            lines.append(Content.styled(f"✗ {ended.name}: {ended.problem}", "$text-error"))
    return Content("\n").join(lines)


def reached(run: LiveRun) -> str:
    """How far a run is."""
    if run.to_measure:
        return f"measuring: {run.measured} of {run.to_measure} selections"
    return f"step {run.step} of {run.steps}"


def share(run: LiveRun, measuring: float) -> float:
    """How much of a run is done; measuring takes so much of a run on top."""
    return run.step / max(run.steps, 1) + measuring * run.measured / max(run.to_measure, 1)


def measuring_share(scorer: Scorer, rec: Recommendation, recipe: TrainingRecipe) -> float:
    """What measuring the finalists takes in a pilot at most, as a share of what training it takes."""
    from advisor.advice.effort import measuring_steps, run_steps

    return measuring_steps(scorer, len(rec.finalists), recipe) / run_steps(scorer, recipe)


def finalists_text(standing: Standing, width: int, most: int = MOST_FINALISTS) -> Content:
    """The finalists that are most probably the best, the pick first: the chance, and the predicted loss without the runs and with
    them on one axis."""
    first, *others = standing.finalists
    shown = [first, *sorted(others, key=lambda f: -f.best)[: most - 1]]
    ends = [value for f in shown for triple in (f.before, f.after) for value in triple[1:]]
    low, high = min(ends), max(ends)
    names = [_name(f, standing) for f in shown]
    name = max(map(len, names), default=0)
    left = width - name - 16
    said = f"best   loss  {BEFORE}{BEFORE} before the runs  {AFTER}{AFTER} now"
    lines = [Content.styled(f"{'finalists':<{name}}  {said}", "$text-muted")]
    for finalist, label in zip(shown, names, strict=True):
        style = "bold" if finalist is first else ""
        head = f"{label:<{name}}  {finalist.best:>4.0%}   {finalist.after[0]:.3f} "
        lines.append(Content.assemble((head, style), _bars(finalist, low, high, max(left, 0))))
    return Content("\n").join(lines)


def _name(finalist: Finalist, standing: Standing) -> str:
    name = finalist.candidate.selection.called
    if finalist is standing.finalists[0]:
        return f"the pick ({name})"
    return f"{name} (picked before)" if finalist.was_pick else name


def names_of(standing: Standing | None) -> dict[str, str]:
    """What a person calls runs, by the names that their files have."""
    found = {ALL_LINEAR: "pilot (all modules)"}
    for finalist in standing.finalists if standing else ():
        found.setdefault(finalist.candidate.selection.name, _name(finalist, standing))  # type: ignore[arg-type]
    return found


def _bars(finalist: Finalist, low: float, high: float, width: int) -> Content:
    if width < 10 or high <= low:
        return Content("")
    cells, styles = [" "] * width, [""] * width

    def column(value: float) -> int:
        return round((value - low) / (high - low) * (width - 1))

    for triple, character, style in ((finalist.before, BEFORE, "$text-muted"), (finalist.after, AFTER, "$text-primary")):
        for at in range(column(triple[1]), column(triple[2]) + 1):
            cells[at], styles[at] = character, style
    at = column(finalist.after[0])
    cells[at], styles[at] = "●", "bold $text-primary"
    return Content("").join(Content.styled(cell, style) for cell, style in zip(cells, styles, strict=True))


def left_in_all(ended: int, asked: int, done: Sequence[DoneRun], live: Sequence[LiveRun], measuring: float = 0.0) -> float | None:
    """Seconds until the last run that is allowed has ended, at most, once so many have; None before anything is known of a
    run's time. ``measuring``: what the first does besides, as a share of a run."""
    times = [run.wall_s for run in done]
    under_way = [run.eta_s for run in live if run.eta_s is not None]
    spans = [(run.written - run.started) / run.step * run.steps for run in live if run.step]
    if not times and not spans:
        return None
    mean = sum([*times, *spans]) / len([*times, *spans])
    measures = not ended and not any(run.measured for run in live)  # else that is over, or part of what is known
    return sum(under_way) + (max(asked - ended - len(live), 0) + measuring * measures) * mean
