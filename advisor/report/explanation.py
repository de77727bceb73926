"""What ``advisor explain`` prints: sentences, tables and plots of plain characters, at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from advisor.advice.explain import PAPER_KERNEL, PAPER_SIGMA, Explanation, ModuleRow
from advisor.core.choices import LEVEL
from advisor.core.recipe import BY_ODDS
from advisor.core.selections import ALL_LINEAR
from advisor.core.text import printable
from advisor.prediction.scorer import Scorer
from advisor.report.tables import TextTable, score_table
from advisor.report.text_plots import BOTH, bar, spectrum_lines
from advisor.report.words import count
from advisor.theory.bounds import DOES_NOT_APPLY, Bound
from advisor.theory.linearity import LINEAR_UP_TO

ADAPTED_ROWS, OTHER_ROWS, LAYER_ROWS = 20, 10, 24  # most rows shown; all modules are in the JSON
BAR, LAYER_BAR = 6, 40  # columns
THIS, ALL = "●", "○"

Part = str | TextTable


def blocks(explanations: Sequence[Explanation], scorer: Scorer) -> list[Part]:
    """All that is shown, top to bottom: the scores, then each selection; texts may hold line breaks."""
    scores = [e.score for e in explanations]
    shown: list[Part] = [
        score_table("Scores", scores, str(scorer.probe.info["metric"])),
        f"In brackets: {LEVEL:.0%} intervals. loss vs all: expected validation loss against that of {ALL_LINEAR}; a positive "
        "number means a higher loss. Metric and loss are of one run. time: of a training step against all modules.",
        *sorted({warning for score in scores for warning in score.warnings}),
    ]
    for explanation in explanations:
        shown += _selection_parts(explanation, scorer)
    return shown


def show(shown: Sequence[Part], console: Console | None = None) -> None:
    """Print to the terminal, on stdout unless given; texts are literal, never markup."""
    console = console or Console(highlight=False)
    for part in shown:
        if isinstance(part, TextTable):
            console.print(part.rich(console.width))
        else:
            console.print(Text("\n".join(map(printable, part.split("\n")))))
            console.print()


def _selection_parts(explanation: Explanation, scorer: Scorer) -> list[Part]:
    shown: list[Part] = [f"═══ {explanation.score.name} ═══\n{_summary(explanation, scorer)}"]
    adapted = [row for row in explanation.modules if row.adapted]
    others = [row for row in explanation.modules if not row.adapted]
    if adapted:
        shown += [_module_table("Adapted modules", adapted, ADAPTED_ROWS, "drop"), _module_note(True)]
    left_out = f"Left out, added at rank {scorer.settings.rank}"
    if others:
        shown += [_module_table(left_out, others, OTHER_ROWS, "add"), _module_note(False)]
    shown += [_layer_plot(explanation.modules)]
    shown += [_spectrum_plot(explanation, scorer), *_figures_table(explanation, scorer)]
    return [*shown, *_bounds_table(explanation), _linearity_text(explanation)]


def _summary(explanation: Explanation, scorer: Scorer) -> str:
    settings, cost = explanation.candidate.settings, explanation.score.cost
    adapted = [row for row in explanation.modules if row.adapted]
    own = " (some modules at their own rank or alpha)" if explanation.candidate.ranks or explanation.candidate.alphas else ""
    lines = [
        f"{len(adapted)} of {len(explanation.modules)} modules, {count(cost.params)} LoRA parameters, rank {settings.rank}, "
        f"alpha {settings.alpha:g}{own}: {sum(r.share for r in adapted):.1%} of the kernel of all modules and "
        f"{sum(r.energy for r in adapted):.1%} of their gradient energy.",
        f"Kernel: {scorer.kernels.kind}, σ = {scorer.sigma:.3g}, {scorer.probe.samples} probe examples. The kernel K says "
        "how strongly training on one example moves the model's output on another, through the adapted modules.",
    ]
    if explanation.head_ratio is not None:
        lines.append(
            f"The head is trained with every selection; its kernel is {explanation.head_ratio:.1%} of that of all modules."
        )
    return "\n".join(lines)


# --- modules -------------------------------------------------------------------------------------------------------


def change(ratio: float | None, missing: str = "–") -> str:
    """1.034 → +3.4%; 25 → ×25."""
    if ratio is None:
        return missing
    return f"×{ratio:.3g}" if ratio >= 10 else f"{ratio - 1:+.1%}"


def number(value: float | None) -> str:
    """Three digits in at most seven columns, up to 10¹⁵: 0.0125, 1.8e-04, 5.64k; None → –."""
    if value is None:
        return "–"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return count(float(f"{value:.3g}"))


def common_prefix(names: Sequence[str]) -> str:
    """The longest dotted beginning that all names share and that leaves something of each: ``model.layers.``."""
    split = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)


def _module_table(title: str, rows: Sequence[ModuleRow], most: int, verb: str) -> TextTable:
    order = sorted(rows, key=lambda row: -row.share)
    prefix = common_prefix([row.target.name for row in rows])
    largest = order[0].share or 1.0

    def cells(row: ModuleRow) -> tuple[str, ...]:
        return (
            row.target.name.removeprefix(prefix),
            f"{bar(row.share / largest, BAR)} {row.share:6.1%}",
            f"{row.energy:.1%}",
            "–" if row.agreement is None else f"{row.agreement:z.3f}",
            change(row.effect.ratio),
            change(row.effect.limit, "no limit"),
        )

    body = [cells(row) for row in order[:most]]
    if len(order) > most:
        left = order[most:]
        share, energy = (sum(getattr(row, name) for row in left) for name in ("share", "energy"))
        body.append((f"… and {len(left)} more", f"{'':{BAR}} {share:6.1%}", f"{energy:.1%}", "", "", ""))
    return TextTable(
        f"{title} (names after {prefix})" if prefix else title,
        ("module", "share", "energy", "agree", verb, "ceiling" if verb == "drop" else "floor"),
        tuple(body),
        text_columns=2,
    )


def _module_note(adapted: bool) -> str:
    """What the columns mean."""
    columns = (
        "share: of the kernel's trace over all modules. energy: of their squared loss gradients. agree: how alike the examples' "
        "gradients point, 1 all the same way, 0 unrelated. "
    )
    if adapted:
        return columns + (
            "drop: how V, the loss that the linearised, regularised model is left with, changes if this module alone goes, "
            "exactly; ceiling: the most it can rise by bound B, 1/(1−η)."
        )
    return columns + (
        "add: how V, the loss that the linearised, regularised model is left with, changes if this module alone comes in, "
        "exactly; floor: the lowest it can fall by bound B, 1/(1+η)."
    )


def _layer_plot(rows: Sequence[ModuleRow]) -> str:
    """A bar a layer, or a stretch of layers: adapted share of the kernel in full, the rest of the layer in light."""
    layers = sorted({row.target.layer for row in rows if row.target.layer is not None})
    step = -(-len(layers) // LAYER_ROWS) if layers else 1
    groups = {
        (f"{g[0]}–{g[-1]}" if len(g) > 1 else f"{g[0]}"): set(g)
        for g in (layers[i : i + step] for i in range(0, len(layers), step))
    }
    placed = {name: [r for r in rows if r.target.layer in members] for name, members in groups.items()}
    if outside := [r for r in rows if r.target.layer is None]:
        placed["other"] = outside
    sums = {name: (sum(r.share for r in g if r.adapted), sum(r.share for r in g)) for name, g in placed.items()}
    largest = max(whole for _, whole in sums.values()) or 1.0
    lines = [f"Share of the kernel by layer (█ adapted, ░ left out; full width {largest:.1%})"]
    for name, (adapted, whole) in sums.items():
        full = round(LAYER_BAR * whole / largest)
        drawn = bar(adapted / largest, LAYER_BAR).rstrip()
        lines.append(f"{name:>7} {(drawn + '░' * (full - len(drawn))).ljust(LAYER_BAR)} {adapted:6.1%} of {whole:6.1%}")
    return "\n".join(lines)


# --- spectrum ------------------------------------------------------------------------------------------------------


def _spectrum_plot(explanation: Explanation, scorer: Scorer) -> str:
    """Eigenvalues without the head, where something is adapted; else the head's."""
    figures = explanation.figures[-1] if explanation.figures[-1].trace > 0 else explanation.figures[0]
    head = "" if scorer.probe.head is None else ", with the head" if figures.head else ", without the head"
    series = [(figures.values, THIS)]
    legend = f"{THIS} {explanation.score.name}"
    if len(explanation.candidate.selection.targets) < len(explanation.modules):
        series.append((figures.all_linear, ALL))
        legend += f"   {ALL} {ALL_LINEAR}   {BOTH} both"
    title = f"Eigenvalues of K{head}, largest first (log scale)"
    above = all(values[0] < scorer.sigma for values, _ in series)
    ridge = f"σ = {scorer.sigma:.3g} is above them" if above else f"┄ σ = {scorer.sigma:.3g}"
    note = "Directions above σ are learned from these examples, those far below it are held back by the ridge."
    return "\n".join([title, *spectrum_lines(series, scorer.sigma), f"{legend}   {ridge}", note])


def _figures_table(explanation: Explanation, scorer: Scorer) -> list[Part]:
    figures, energy = explanation.figures, explanation.target_energy or 1.0

    def line(label: str, pick: str) -> tuple[str, ...]:
        return (label, *(number(getattr(f, pick)) for f in figures))

    def share(label: str, pick: str, of: float) -> tuple[str, ...]:
        found = [getattr(f, pick) for f in figures]
        return (label, *("–" if v is None else f"{v / of:.2%}" for v in found))

    def eigenvalue(label: str, index: int) -> tuple[str, ...]:
        return (label, *(number(float(f.values[index])) for f in figures))

    target = float((scorer.probe.y**2).sum()) or 1.0
    rows = [
        line("trace", "trace"),
        eigenvalue("λmax, largest eigenvalue", 0),
        eigenvalue("λmin, smallest", -1),
        line(f"κ(K+σI), spread at σ = {scorer.sigma:.3g}", "condition"),
        line("effective rank", "effective_rank"),
        line("centred alignment with the targets", "alignment"),
        share("R, training risk, of ‖z‖²", "risk", energy),
        share("V, objective, of ‖z‖²", "objective", energy),
        line("leave-one-out error, best ridge", "leave_one_out"),
        line(f"paper: κ of {PAPER_KERNEL}, σ = {PAPER_SIGMA:g}", "paper_condition"),
        share("paper: R with z = Y, of ‖Y‖²", "paper_risk", target),
        share("paper: V with z = Y, of ‖Y‖²", "paper_objective", target),
    ]
    columns = tuple("with head" if f.head else "without head" for f in figures) if len(figures) > 1 else ("value",)
    note = (
        "K+σI: the kernel with the ridge. κ: largest over smallest eigenvalue, 1 is even. effective rank: how many directions "
        "really count. alignment: 0 to 1, how well K groups examples as the targets do. z: what the model still has to learn. "
        "R, V: what kernel ridge leaves of it, without and with its penalty. paper: as arXiv 2602.08239 writes them."
    )
    if scorer.probe.task in BY_ODDS:
        note += f" –: not defined for {scorer.probe.task}, where the targets of all rows are alike."
    return [TextTable(f"Spectrum of K ({scorer.kernels.kind})", ("quantity", *columns), tuple(rows)), note]


# --- bounds and linearity ------------------------------------------------------------------------------------------


def _bounds_table(explanation: Explanation) -> list[Part]:
    complete, has_head = all(row.adapted for row in explanation.modules), len(explanation.figures) > 1
    bounds = [b for b in explanation.score.bounds if not (complete and b.added)]  # nothing to add: all of them are 1
    reasons: dict[str, list[Bound]] = {}
    for bound in bounds:
        if bound.reason:
            reasons.setdefault(bound.reason, []).append(bound)
    rows = tuple(
        (
            b.id,
            b.quantity.replace(", every i", ""),
            b.added or "–",
            *((("yes" if b.head else "no"),) if has_head else ()),
            number(b.low),
            number(b.high),
            _status(b),
        )
        for b in bounds
    )
    columns = ("bound", "quantity", "added", *(("head",) if has_head else ()), "low", "high", "status")
    notes = [
        "rest: all modules that are left out, at once; budget: whatever of them fits what is left of it."
        + (" head: whether its block is in K." if has_head else ""),
        "A, B, C and Weyl are proven for the linearised, regularised problem; Thm: theorems of arXiv 2602.08239.",
        *(
            f"{', '.join(dict.fromkeys(b.id for b in alike))} ({_status(alike[0])}{_heads(alike) if has_head else ''}): {reason}"
            for reason, alike in reasons.items()
        ),
    ]
    certificate = next(b for b in explanation.score.bounds if b.id == "C")
    if complete:
        notes[0] = "Nothing is left out, so nothing can be gained by adding."
    elif certificate.low is not None:
        notes.insert(0, f"C, the certificate: whatever is added, V falls by at most {1 - certificate.low:.1%}.")
    return [TextTable("Bounds: low ≤ quantity ≤ high", columns, rows, text_columns=len(columns) - 3), "\n".join(notes)]


def _status(bound: Bound) -> str:
    return "does not apply" if bound.status == DOES_NOT_APPLY else bound.status


def _heads(bounds: Sequence[Bound]) -> str:
    heads = {b.head for b in bounds}
    return "" if len(heads) > 1 else ", with the head" if True in heads else ", without the head"


def _linearity_text(explanation: Explanation) -> str:
    found, settings = explanation.linearity, explanation.candidate.settings
    if not explanation.candidate.selection.targets and explanation.head_ratio is None:
        return "Linearity: nothing is trained."
    if found is None:
        return "Linearity: not measured (give --model)."
    lines = [
        found.sentence(explanation.score.name),
        f"Measured at rank {settings.rank}, alpha {settings.alpha:g}. Gap between model and tangent at shares of that step:",
    ]
    largest = max(*found.gaps, LINEAR_UP_TO)
    lines += [
        f"  {step:4.0%} of the step  {bar(gap / largest, 24)} {gap:.1%}"
        for step, gap in zip(found.steps, found.gaps, strict=True)
    ]
    return "\n".join(lines)
