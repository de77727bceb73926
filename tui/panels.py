"""What Explore says in words and small plots: pure functions of the state to text (no Textual)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from advisor.core.targets import block_of
from tui.cells import ADDED, CHOSEN, DROPPED, GLYPHS, LEFT_OUT, MEASURES
from tui.state import State

if TYPE_CHECKING:
    from advisor.advice.budget import Budget
    from advisor.core.targets import Target

OF_THE_SELECTION = ("gain", "bound")  # measures that change with it

TERMS = (
    ("● ○ ◐", "adapted by the selection, not adapted, in part (a cell with several modules)."),
    ("⊕ ⊖", "adapted though the pick leaves it out; not adapted though the pick adapts it."),
    ("accuracy, loss (low–high)", "what one real LoRA run with your recipe is predicted to reach, with a 90 % interval."),
    (
        "vs all",
        "expected loss against adapting every module, in standard deviations between seeds; higher is better, "
        "within ±2 nobody would see it.",
    ),
    ("params", "trainable LoRA parameters, the head not counted; the budget's share beside it."),
    ("memory, time", "estimated peak memory of training, and of a step's time the share that adapting every module takes."),
    ("κ", "condition number of the selection's kernel K+σI: largest over smallest eigenvalue; large means slow directions."),
    ("place of N", "where other methods' scores put this module among all: 1 is the one they like best."),
    ("effective rank", "how many directions the kernel really uses, between 1 and the number of probe examples."),
    ("certificate", "bound C: adding all other modules can lower the objective V of the linearised problem by at most this."),
    ("V", "what kernel ridge regression with this kernel leaves of the targets; never rises when modules are added."),
    ("bound B", "proven limit on how far toggling the module can move V; the number before it is what it does move."),
    ("spectrum, σ", "eigenvalues of the kernel, largest first; what lies below the ridge σ is hardly learned."),
    ("pick", "the recommended selection: the cheapest that is not predicted worse than the best within the budget."),
    (
        "pilot run",
        "one real run of all modules, after which each finalist is measured by switching the other modules' adapters "
        "off: the first run of `advisor recommend --confirm N`.",
    ),
    *((measure.label, measure.help.split(": ", 1)[1]) for measure in MEASURES.values()),
)


def terms() -> str:
    """One line on each term."""
    return "\n".join(f"{name}: {text}" for name, text in TERMS)


def legend(state: State, values: Sequence[float], width: int) -> str:
    """The measure, its glyphs from the least to the most there is, the marks."""
    measure = MEASURES[state.measure]
    finite = [v * measure.scale for v in values if math.isfinite(v)]
    if not finite:
        return f"{measure.label}: being computed…"
    low, high = (f"{v:.{measure.digits}f}" for v in (min(0.0, *finite), max(finite)))
    late = " …" if measure_is_stale(state) else ""
    unlike = "" if state.pick is None else f" {ADDED}{DROPPED} unlike the pick"
    marks = f"{CHOSEN} adapted {LEFT_OUT} not"
    said = f"{measure.label}{late}"
    texts = (
        f"{said}  {low} {' '.join(GLYPHS)} {high} {measure.unit}   {marks}{unlike}",
        f"{said}  {low}{GLYPHS}{high} {measure.unit} {marks}{unlike}",
        f"{said}  {low}{GLYPHS}{high} {measure.unit} {CHOSEN}in{unlike and f' {ADDED}{DROPPED} not as picked'}",
        f"{said}  {low}{GLYPHS}{high} {measure.unit} {CHOSEN}in",
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
    return f"{share:.0%} of budget" + (" ▲ over" if share > 1 else "")


def selection_text(state: State, budget: Budget | None, searching: str = "") -> str:
    """What is said of the selection at hand. Numbers that are still being computed are …, never those of the one before."""
    from advisor.report.words import count, gigabytes, span

    if state.current is None or state.opened is None:
        return ""
    many = len(state.chosen)
    settings = state.current.settings
    late = "" if state.is_fresh else " …"
    lines = [state.title, f"{many} of {len(state.targets)} modules, rank {settings.rank}{late}"]
    use = budget_use(state, budget) if budget else ""
    lines.append(f"params   {count(state.params)}{f', {use}' if use else ''}")
    figures = state.figures
    if figures is not None:
        certificate, low, high = figures.certificate.low, *figures.relative[1:]
        numbers = {
            f"{state.opened.metric[:8]:<8} ": span(figures.metric, 2),
            "loss     ": span(figures.loss, 2),
            "vs all   ": f"{figures.relative[0]:+.1f} sd ({low:+.1f} to {high:+.1f})",
            "memory   ": f"{gigabytes(figures.cost.memory_bytes)}, step {figures.cost.time_vs_all_linear:.0%} of all",
            "κ        ": f"{count(round(figures.condition, 1))}, effective rank {figures.effective_rank:.0f}",
            **({} if certificate is None else {"certificate: ": f"V at most {1 - certificate:.1%} lower"}),
        }
        lines += [label + (text if state.is_fresh else "…") for label, text in numbers.items()]
        if state.pick is not None and not state.is_pick:
            lines.append(_against_pick(state))
        if figures.far:
            lines.append("⚠ far from all calibration runs")
    if searching:
        lines.append(f"… {searching}")
    return "\n".join(lines)


def _against_pick(state: State) -> str:
    """Whether it can be told from the recommended selection; a line of its own also while that is being computed, so that
    what stands below stays where it is."""
    if state.effects is None or not state.effects_are_fresh:
        return "… comparing with the pick"
    return "≈ cannot be told from the pick" if state.effects.alike else "≠ differs from the pick"


def inspected(state: State, modules: Sequence[int], width: int) -> str:
    """The module under the cursor; of several (a layer, a role) the sum. Long names lose their beginning."""
    from advisor.report.words import count

    opened = state.opened
    if opened is None or not modules:
        return ""
    targets = [state.targets[i] for i in modules]
    rank = state.current.settings.rank if state.current else opened.scorer.settings.rank
    params, share = sum(t.lora_params(rank) for t in targets), float(sum(opened.shares[i] for i in modules))
    inside = sum(t.name in state.chosen for t in targets)
    if len(targets) > 1:
        return "\n".join(
            [
                _end(_common(targets), width),
                f"{len(targets)} modules, {inside} adapted",
                f"{count(params)} params at rank {rank}, kernel share {share:.1%}",
                "Space toggles all of them.",
            ]
        )
    index, target = modules[0], targets[0]
    agreement = float(opened.agreements[index])
    lines = [
        f"{CHOSEN if inside else LEFT_OUT} {_end(target.name, width - 2)}",
        f"{target.in_features}→{target.out_features}, {count(params)} params at rank {rank}",
        f"share {share:.1%}, agreement {'–' if math.isnan(agreement) else f'{agreement:.0%}'}",
        f"effective rank {float(opened.ranks[index]):.0f} of {opened.probe.samples}",
        *_effect_lines(state, index, bool(inside)),
    ]
    if places := peer_places(state, index):
        lines.append(f"place of {len(state.targets)}: {', '.join(f'{peer} {place}' for peer, place in places)}")
    return "\n".join(lines)


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


def _effect_lines(state: State, index: int, inside: bool) -> list[str]:
    """Two lines, also of what is not known (yet)."""
    verb = "dropping" if inside else "adding"
    effects = state.effects
    if effects is None or not state.effects_are_fresh:
        return [f"{verb} it: …", "V …"]
    effect, gain = effects.rows[index].effect, float(effects.gains[index])
    moved = "V –" if effect.ratio is None else f"V {effect.ratio - 1:+.1%}"
    limit = "no bound" if effect.limit is None else f"bound B {'≤' if inside else '≥'} {effect.limit - 1:+.1%}"
    return [f"{verb} it: predicted {-gain if inside else gain:+.2f} sd", f"{moved}, {limit}"]


def peer_places(state: State, index: int) -> list[tuple[str, int]]:
    """The module's place in the order of each peer that was measured, 1 is what it likes best."""
    if state.opened is None:
        return []
    places = []
    for peer, scores in state.opened.peers.items():
        own = float(scores[index])
        if not math.isnan(own):
            places.append((peer, 1 + sum(float(score) > own for score in scores)))
    return places


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
    return [math.inf if row.effect.limit is None else abs(row.effect.limit - 1) for row in effects.rows]


def measure_is_stale(state: State) -> bool:
    """Whether the values of the chosen measure are of an earlier selection."""
    return state.measure in OF_THE_SELECTION and state.effects is not None and not state.effects_are_fresh


def spectrum_text(state: State, width: int, rows: int) -> str:
    """Eigenvalues of this selection's kernel and of the recommended one's, ``rows`` lines high."""
    from advisor.report.text_plots import BOTH, spectrum_lines

    figures, opened, pick = state.figures, state.opened, state.pick_figures
    if figures is None or opened is None or width < 24 or rows < 3:
        return ""
    this = "this" if state.is_fresh else "before the change"
    series, marks = [(figures.spectrum, CHOSEN)], f"{CHOSEN} {this}"
    if pick is not None and pick.candidate != figures.candidate:
        series, marks = [*series, (pick.spectrum, LEFT_OUT)], f"{CHOSEN} {this}  {LEFT_OUT} the pick  {BOTH} both"
    lines = spectrum_lines(series, opened.scorer.sigma, min(width - 12, 100), rows)
    above = int((figures.spectrum > opened.scorer.sigma).sum())
    head = f"spectrum  {marks}"
    return "\n".join([head, *lines, f"{above} of {len(figures.spectrum)} eigenvalues above σ (┄)"])
