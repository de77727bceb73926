"""What the theory says of the selection at hand, each number with a sentence; and what every term means (no Textual)."""

from __future__ import annotations

import math

from tui.cells import CHOSEN, LEFT_OUT, MEASURES
from tui.state import State

TERMS = (
    ("● ○ ◐", "adapted by the selection, not adapted, in part (a cell with several modules)."),
    ("⊕ ⊖", "adapted though the pick leaves it out; not adapted though the pick adapts it."),
    ("accuracy, loss (low–high)", "what one real LoRA run with your recipe is predicted to reach, with a 90 % interval."),
    (
        "loss vs all, loss vs the pick",
        "how much higher (+) or lower (-) the expected loss is than another selection's; the bar is its 90 % interval, and "
        "where it crosses the line at 0 nobody can tell which of the two is better.",
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


def theory_text(state: State, index: int | None) -> str:
    """The theory of the selection, then of the module under the cursor (None: there is none, or several)."""
    from advisor.report.words import count

    opened, figures = state.opened, state.figures
    if opened is None or state.current is None:
        return ""
    lines = ["theory of this selection"]
    if figures is None or not state.is_fresh:
        lines.append("…")
    else:
        certificate = figures.certificate.low
        lines += [
            f"condition number κ {count(round(figures.condition, 1))}",
            "  Large: some directions are learned slowly.",
            f"effective rank {figures.effective_rank:.0f} of {len(figures.spectrum)}",
            "  So many directions of the data it can really fit.",
            "certificate " + ("–" if certificate is None else f"V at most {1 - certificate:.1%} lower"),
            "  All other modules together can lower the objective V of the linearised problem by no more.",
        ]
    if index is None:
        return "\n".join(lines)
    lines += ["", "theory of this module", *_of_module(state, index)]
    return "\n".join(lines)


def _of_module(state: State, index: int) -> list[str]:
    opened, effects = state.opened, state.effects
    assert opened is not None
    share, agreement = float(opened.shares[index]), float(opened.agreements[index])
    lines = [
        f"kernel share {share:.1%}",
        "  How much of all that training can move at first.",
        f"gradient agreement {'–' if math.isnan(agreement) else f'{agreement:.0%}'}",
        "  100%: all examples pull it the same way.",
        f"effective rank {float(opened.ranks[index]):.0f} of {opened.probe.samples}",
    ]
    if effects is not None and state.effects_are_fresh:
        inside = opened.targets[index].name in state.chosen
        effect = effects.rows[index].effect
        moved = "–" if effect.ratio is None else f"{effect.ratio - 1:+.1%}"
        limit = "no bound" if effect.limit is None else f"bound B {'≤' if inside else '≥'} {effect.limit - 1:+.1%}"
        lines += [f"toggling it moves V by {moved}, {limit}", "  The bound is proven, V itself is of the linearised problem."]
    else:
        lines += ["toggling it moves V by …", "  The bound is proven, V itself is of the linearised problem."]
    if places := peer_places(state, index):
        lines.append(f"place of {len(state.targets)}: {', '.join(f'{peer} {place}' for peer, place in places)}")
        lines.append("  1 is the module that the other method likes best.")
    return lines


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
