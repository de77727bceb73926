"""What Explore says in words and small plots: pure functions of the state to text (no Textual)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from advisor.core.choices import ALIKE, ALIKE_WITHIN, APART
from advisor.core.targets import block_of
from tui.answer import fitted
from tui.cells import ADDED, CHOSEN, DISTURBS, DROPPED, GLYPHS, LEFT_OUT, MEASURES, short_name
from tui.engine import Against
from tui.state import State

if TYPE_CHECKING:
    from advisor.advice.budget import Budget
    from advisor.core.targets import Target

OF_THE_SELECTION = ("worth", "gain", "bound", DISTURBS)  # measures that change with it
WIDE = 70  # columns, from which on a mark is explained
LEAST_SHARE = 0.0005  # of the loss: shown as none


def legend(state: State, values: Sequence[float], width: int) -> str:
    """The measure, its glyphs from the least to the most there is, the marks."""
    measure = MEASURES[state.measure]
    finite = [v * measure.scale for v in values if math.isfinite(v)]
    if not finite:
        return f"{measure.short}: being computed…"
    low, high = (f"{round(v, measure.digits) or 0.0:.{measure.digits}f}" for v in (min(0.0, *finite), max(finite)))
    late = " …" if measure_is_stale(state) else ""
    unlike = "" if state.pick is None else f" {ADDED}{DROPPED} unlike the pick"
    marks = f"{CHOSEN} adapted {LEFT_OUT} not"
    said, short = f"{measure.label}{late}", f"{measure.short}{late}"
    texts = (
        f"{said}  {low} {' '.join(GLYPHS)} {high} {measure.unit}   {marks}{unlike}",
        f"{said}  {low}{GLYPHS}{high} {measure.unit} {marks}{unlike}",
        f"{short}  {low}{GLYPHS}{high} {measure.unit} {CHOSEN}in{unlike and f' {ADDED}{DROPPED} not as picked'}",
        f"{short}  {low}{GLYPHS}{high} {measure.unit} {CHOSEN}in",
    )
    return next((text for text in texts if len(text) <= width), texts[-1])


def budget_use(state: State, budget: Budget) -> str:
    """How much of the budget the selection takes, in the budget's own unit; empty while that is not known."""
    if state.current is None or state.opened is None:
        return ""
    settings = state.opened.scorer.settings
    if budget.kind == "memory":
        if not state.is_fresh or state.figures is None:
            return ""
        used, ceiling = float(state.figures.cost.memory_bytes), budget.amount
    else:
        ceiling = budget.ceiling(state.targets, settings.rank)
        used = len(state.chosen) if budget.kind == "modules" else state.params
    share = used / ceiling if ceiling else math.inf
    return f"{share:.0%} used" + (" ▲ over" if share > 1 else "")


def selection_text(state: State, budget: Budget | None) -> str:
    """What is said of the selection at hand. Numbers that are still being computed are …, never those of the one before."""
    from advisor.report.words import count, disturbs_words, gigabytes, loss_span, metric_span

    if state.current is None or state.opened is None:
        return ""
    many, metric = len(state.chosen), state.opened.metric
    late = "" if state.is_fresh else " …"
    use = budget_use(state, budget) if budget else ""
    lines = [
        f"{state.title} · {many} of {len(state.targets)} modules{late}",
        f"params   {count(state.params)} at rank {state.current.settings.rank}",
        f"budget   {use or '…'}",
    ]
    if (figures := state.figures) is not None:
        numbers = {
            f"{short_name(metric):<8} ": metric_span(figures.metric, metric, 2),
            "loss     ": loss_span(figures.loss, 2),
            "memory   ": f"{gigabytes(figures.cost.memory_bytes)}, step {figures.cost.time_vs_all_linear:.0%} of all",
        }
        lines += [label + (text if state.is_fresh else "…") for label, text in numbers.items()]
        if figures.disturbs is not None:
            lines.append(f"disturbs {disturbs_words(figures.disturbs, with_kl=False) if state.is_fresh else '…'}")
        lines.append(_against_pick(state))
        if figures.far:
            lines.append("⚠ far from all calibration runs")
    return "\n".join(lines)


def against(state: State) -> list[Against]:
    """The selection beside all modules and beside the pick, which is what the headline is about."""
    figures, effects = state.figures, state.effects
    if state.is_pick or state.current is None:
        return []
    found = [Against("all", figures.vs_all if figures is not None and state.is_fresh else None)]
    if state.pick is not None:
        found.append(Against("pick", effects.vs_pick if effects is not None and state.effects_are_fresh else None))
    return found


def _against_pick(state: State) -> str:
    """Whether it can be told from the recommended selection; a line of its own whatever is known, so that what stands below
    stays where it is."""
    if state.pick is None:
        return "no pick yet"
    if state.is_pick:
        return f"{CHOSEN} these are the pick's modules"
    if state.effects is None or not state.effects_are_fresh:
        return "… comparing with the pick"
    if state.effects.beside == ALIKE:
        return f"≈ within {ALIKE_WITHIN:.0%} of the pick's loss"
    return "≠ differs from the pick" if state.effects.beside == APART else "≈ cannot be told from the pick"


def inspected(state: State, modules: Sequence[int], width: int, lines: int, budget: Budget | None = None) -> str:
    """The module under the cursor in so many lines: what it is in one, why it is in or out; of several (a layer, a role) the sum.
    Long names lose their beginning."""
    from advisor.report.words import count

    opened = state.opened
    if opened is None or not modules:
        return ""
    targets = [state.targets[i] for i in modules]
    rank = state.current.settings.rank if state.current else opened.scorer.settings.rank
    params = sum(t.lora_params(rank) for t in targets)
    inside = sum(t.name in state.chosen for t in targets)
    if len(targets) > 1:
        about = f"{len(targets)} modules, {inside} adapted, {count(params)} params at rank {rank}"
        return f"{_end(_common(targets), max(width - len(about) - 3, 12))} · {about}\nSpace toggles all of them."
    index, target = modules[0], targets[0]
    active = f" ({target.active} a token)" if target.active else ""
    stack = f"{target.experts} experts{active}, " if target.experts else ""
    about = f"{stack}{target.in_features}→{target.out_features}, {count(params)} params at rank {rank}"
    pick = ""
    if state.pick is not None and (target.name in state.pick.selection.targets) != bool(inside):
        pick = f" {ADDED} The pick leaves it out." if inside else f" {DROPPED} The pick adapts it."
        pick = pick if width >= WIDE else pick[:2]
    name = _end(target.name, max(width - len(about) - len(pick) - 5, 12))
    reason = fitted(why(state, index, budget), width, max(lines - 1, 1))
    return "\n".join([f"{CHOSEN if inside else LEFT_OUT} {name} · {about}{pick}", *reason])


def why(state: State, index: int, budget: Budget | None) -> str:
    """Why a module is in the selection, or out."""
    target, effects = state.targets[index], state.effects
    inside = target.name in state.chosen
    state_of = "In" if inside else "Out"
    if effects is None or not state.effects_are_fresh:
        return f"{state_of}: …"
    gain, noise = float(effects.gains[index]), effects.noise
    share = math.expm1(gain) if inside else math.expm1(-gain)  # of the loss, after toggling
    moved = "no different" if abs(share) < LEAST_SHARE else f"{abs(share):.1%} {'higher' if share > 0 else 'lower'}"
    said = f"{state_of}: {'without' if inside else 'with'} it the loss is predicted {moved}"
    if abs(gain) < noise:
        return f"{said}; seeds differ by {math.expm1(noise):.1%}."
    lines = [f"{said}."]
    if inside:
        lines.append("It helps: keep it." if gain > 0 else "No help: Space drops it.")
    elif gain <= 0:
        lines.append("It does not help.")
    else:
        left = room_left(state, budget)
        needed = 1 if budget is not None and budget.kind == "modules" else target.lora_params(_rank(state))
        fits = left is None or needed <= left
        lines.append("It fits the budget: Space adds it." if fits else "The budget has no room for it.")
    return " ".join(lines)


def _rank(state: State) -> int:
    assert state.current is not None
    return state.current.settings.rank


def room_left(state: State, budget: Budget | None) -> float | None:
    """What the budget leaves, in parameters or modules; None where it is counted in memory, or not known."""
    if budget is None or budget.kind == "memory" or state.opened is None:
        return None
    used = len(state.chosen) if budget.kind == "modules" else state.params
    return budget.ceiling(state.targets, state.opened.scorer.settings.rank) - used


def _common(targets: Sequence[Target]) -> str:
    """What a layer's modules, or a role's, are all in: ``decoder.block.3``, ``cross.query``."""
    blocks = {place[:2] for t in targets if (place := block_of(t.name))}
    roles = {t.role for t in targets}
    if len(roles) == 1:
        return f"role {roles.pop()}"
    return ".".join(map(str, blocks.pop())) if len(blocks) == 1 else "modules outside any layer"


def _end(text: str, most: int) -> str:
    """The last ``most`` characters."""
    return text if len(text) <= most or most < 2 else "…" + text[1 - most :]


def measure_values(state: State) -> Sequence[float]:
    """The chosen measure of every module in model order; NaN where it is not known (yet)."""
    opened, effects = state.opened, state.effects
    if opened is None:
        return ()
    if state.measure == "share":
        return [float(v) for v in opened.shares]
    if state.measure == "agreement":
        return [float(v) for v in opened.agreements]
    if effects is None:
        return [math.nan] * len(opened.targets)
    if state.measure == "gain":
        return [float(v) for v in effects.gains]
    if state.measure == DISTURBS:
        return [math.nan] * len(opened.targets) if effects.disturbs is None else [float(v) for v in effects.disturbs]
    if state.measure == "worth":
        rank = effects.candidate.settings.rank
        sizes = [t.lora_params(rank) for t in opened.targets]
        total = sum(sizes) or 1
        return [float(v) * total / size for v, size in zip(effects.gains, sizes, strict=True)]
    return [math.inf if row.effect.limit is None else abs(row.effect.limit - 1) for row in effects.rows]


def measure_is_stale(state: State) -> bool:
    """Whether the values of the chosen measure are of an earlier selection."""
    return state.measure in OF_THE_SELECTION and state.effects is not None and not state.effects_are_fresh
