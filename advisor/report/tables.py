"""What a person reads: tables that go to the terminal and to ``report.md`` alike, and ``recommendation.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from advisor.advice.budget import Budget
from advisor.advice.peer_picks import PeerPick
from advisor.advice.recommend import STABLE, Recommendation, module_shares
from advisor.core.candidate import Candidate
from advisor.core.choices import PREDICTED, STRATEGIES
from advisor.core.text import markdown, printable
from advisor.prediction.payload import score_json
from advisor.prediction.predictor import LEVEL
from advisor.prediction.scorer import Score, Scorer
from advisor.theory.linearity import Linearity
from advisor.theory.spectrum import Spectrum

RECOMMENDATION_SCHEMA = 1
CHOSEN, LEFT_OUT = "●", "·"
PLAIN_WIDTH = 120


@dataclass(frozen=True)
class Table:
    """A titled table of plain text cells; ``marked`` rows stand out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    text_columns: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", printable(self.title))
        object.__setattr__(self, "columns", tuple(map(printable, self.columns)))
        object.__setattr__(self, "rows", tuple(tuple(map(printable, row)) for row in self.rows))

    def rich(self) -> RichTable:
        """For a terminal; cells are literal, never markup."""
        table = RichTable(title=Text(self.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(self.columns):
            justify: JustifyMethod = "left" if i < self.text_columns else "right"
            table.add_column(column, justify=justify, no_wrap=i > 0, overflow="fold")
        for i, row in enumerate(self.rows):
            table.add_row(*(Text(cell) for cell in row), style="bold" if i in self.marked else None)
        return table

    def markdown(self) -> str:
        rule = ["---" if i < self.text_columns else "---:" for i in range(len(self.columns))]
        lines = [self.columns, tuple(rule), *self.rows]
        body = "\n".join("| " + " | ".join(markdown(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"**{markdown(self.title)}**\n\n{body}"

    def html(self) -> str:
        """For a notebook, in its own colours."""
        side = ["left" if i < self.text_columns else "right" for i in range(len(self.columns))]
        lines = [("th", False, self.columns), *(("td", i in self.marked, row) for i, row in enumerate(self.rows))]
        body = "".join(
            f"<tr{' style=font-weight:bold' if marked else ''}>"
            + "".join(f'<{tag} style="text-align:{s}">{escape(c)}</{tag}>' for c, s in zip(cells, side, strict=True))
            + "</tr>"
            for tag, marked, cells in lines
        )
        return f"<table>{body}</table>"


def print_report(console: Console, lines: Sequence[str], tables: Sequence[Table], after: Sequence[str] = ()) -> None:
    """Sentences, tables, sentences; all of it literal, never markup."""
    for line in lines:
        console.print(printable(line), markup=False, soft_wrap=True)
    for table in tables:
        console.print()
        console.print(table.rich())
    for line in after:
        console.print()
        console.print(printable(line), markup=False, soft_wrap=True)


def plain_text(lines: Sequence[str], tables: Sequence[Table]) -> str:
    """:func:`print_report` as text without colour."""
    console = Console(file=StringIO(), width=PLAIN_WIDTH, highlight=False, force_jupyter=False)
    with console.capture() as captured:
        print_report(console, lines, tables)
    return captured.get().rstrip("\n")


def count(number: float) -> str:
    """1234567 → 1.23M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def span(triple: tuple[float, float, float], digits: int = 3) -> str:
    """value (low–high)."""
    value, low, high = (f"{x:.{digits}f}" for x in triple)
    return f"{value} ({low}–{high})"


def score_table(title: str, scores: Sequence[Score], metric: str, marked: Sequence[int] = (), names: Sequence[str] = ()) -> Table:
    """One row a selection: size, predicted metric and loss, difference to all-linear in seed standard deviations, cost."""
    return Table(
        title,
        ("selection", "params", metric, "loss", "vs all", "memory", "time"),
        tuple(
            (
                names[i] if names else s.name,
                count(s.cost.params),
                span(s.metric, 2),
                f"{s.loss[0]:.3g}",
                f"{s.relative[0]:+.1f}",
                gigabytes(s.cost.memory_bytes),
                f"{s.cost.time_vs_all_linear:.0%}",
            )
            for i, s in enumerate(scores)
        ),
        frozenset(marked),
    )


def peer_table(picks: Sequence[PeerPick], budget: Budget, metric: str) -> Table:
    """What other methods would pick; the title says which have no pick, and why."""
    made = [(pick.label, pick.score) for pick in picks if pick.score is not None]
    without = [f"{pick.peer}: {pick.reason}" for pick in picks if pick.score is None]
    title = f"What other methods would pick at the budget of {budget.text}" + (f" ({'; '.join(without)})" if without else "")
    return score_table(title, [score for _, score in made], metric, names=[label for label, _ in made])


def module_map(scorer: Scorer, rec: Recommendation) -> Table:
    """Layers down, roles across: chosen modules and each module's share of the kernel."""
    targets = scorer.probe.targets
    roles = list(dict.fromkeys(t.role for t in targets))
    shares = module_shares(scorer, [t.name for t in targets])
    ranked = rec.picked.candidate
    chosen = set(ranked.selection.targets)
    cells: dict[tuple[int | None, str], str] = {}
    for t in targets:
        mark = CHOSEN if t.name in chosen else LEFT_OUT
        rank = f" r{ranked.module_settings(t.name).rank}" if ranked.ranks and t.name in chosen else ""
        cells[t.layer, t.role] = f"{mark} {100 * shares[t.name]:4.1f}{rank}"
    layers = list(dict.fromkeys(t.layer for t in targets))
    return Table(
        f"Chosen modules ({CHOSEN}) and each module's share of the kernel in % ({scorer.kernels.kind})",
        ("layer", *roles),
        tuple(("-" if layer is None else str(layer), *(cells.get((layer, role), "") for role in roles)) for layer in layers),
    )


def verdict(scorer: Scorer, rec: Recommendation, linearity: Linearity | None) -> list[str]:
    """The recommendation in sentences, the most important first."""
    pick, full, metric = rec.picked, rec.all_linear, str(scorer.probe.info["metric"])
    many = len(pick.candidate.selection.targets)
    lines = [
        f"Adapt {many} of {len(scorer.probe.targets)} modules ({count(pick.cost.params)} LoRA parameters, "
        f"{_ranks(pick.candidate)}, budget {rec.budget.text}).",
        f"Expected {metric} {span(pick.metric)}, validation loss {span(pick.loss)}, {LEVEL:.0%} intervals for one run.",
    ]
    if pick.cost.params < full.cost.params:
        lines.append(
            f"All modules would give {metric} {span(full.metric)} with {full.cost.params / pick.cost.params:.1f}× the "
            f"parameters and {1 / pick.cost.time_vs_all_linear:.2f}× the time a step."
        )
    if rec.strategy != PREDICTED:
        lines.append(f"Chosen by --strategy {rec.strategy} ({STRATEGIES[rec.strategy]}), not by the predicted loss.")
    others = len(rec.equal_budget) - 1
    if others and rec.alike == others:
        lines.append(
            "No detectable difference: none of the usual recipes at this budget can be told from this pick"
            + (", so it is the cheapest that counts." if rec.strategy == PREDICTED else ".")
        )
    elif others:
        lines.append(f"{rec.alike} of {others} usual recipes at this budget cannot be told from it.")
    for bound in pick.bounds:
        if bound.id != "C" or bound.low is None:
            continue
        with_head = "with the head" if bound.head else "without the head"
        lines.append(
            f"Certificate C ({with_head}, {bound.kernel} kernel, σ = {bound.sigma:.3g}): adding anything else can lower "
            f"the objective of the linearised, regularised problem by at most {1 - bound.low:.1%}."
        )
    lines.append("Linearisation: not measured." if linearity is None else linearity.sentence("the pick"))
    stable = rec.stability.mean
    lines.append(
        f"Stability: its modules stay picked in {stable:.0%} of {rec.stability.draws} subsamples of the probe examples."
        + ("" if stable >= STABLE else f" That is below {STABLE:.0%}: raise --samples.")
    )
    far = rec.front.predictions.far
    if far:
        lines.append(f"Far from all calibration runs ({'; '.join(far)}): intervals are widened, trust the ranking less.")
    return lines


def _ranks(candidate: Candidate) -> str:
    """rank 8, or ranks 2–24 by module."""
    found = {candidate.module_settings(name).rank for name in candidate.selection.targets}
    return f"rank {min(found)}" if len(found) == 1 else f"ranks {min(found)}–{max(found)} by module"


def tables(scorer: Scorer, rec: Recommendation, peers: Sequence[PeerPick] = ()) -> list[Table]:
    """Recipes at equal budget, other methods' picks, the Pareto front, the module map."""
    metric = str(scorer.probe.info["metric"])
    equal = list(rec.equal_budget)
    names = [s.name for s in equal]
    names[0] = "the pick" if names[0].startswith("searched") else f"the pick: {names[0]}"
    marked = [0] if rec.baseline is None else [0, rec.baseline]
    front = list(rec.front)
    on_front = [i for i, s in enumerate(front) if s.name == rec.picked.name]
    return [
        score_table(f"At the budget of {rec.budget.text}, rank lowered where needed", equal, metric, marked, names),
        *([peer_table(peers, rec.budget, metric)] if peers else []),
        score_table("Pareto front: nothing smaller is predicted better", front, metric, on_front),
        module_map(scorer, rec),
    ]


def report_markdown(scorer: Scorer, sentences: Sequence[str], shown: Sequence[Table], yaml_text: str) -> str:
    """A report a colleague can read, of a verdict and tables."""
    info, recipe = scorer.probe.info, scorer.recipe
    sections = [
        f"# LoRA target modules for {markdown(info['model'])}",
        "\n".join(f"- {markdown(line)}" for line in sentences),
        "## What to do\n\nTrain with this config (`lora.yaml`; the same as `adapter_config.json` for PEFT):\n\n"
        f"```yaml\n{yaml_text.rstrip()}\n```",
        "## Compared\n\n" + "\n\n".join(t.markdown() for t in shown),
        "## What this rests on\n\n"
        f"- Data: {markdown(info['data'])}, {info['train_rows']} training rows, task {info['task']}; "
        f"{scorer.probe.samples} probe examples, head: {info['head_kind']}.\n"
        f"- Recipe the prediction is for: {recipe.epochs} epochs, learning rate {recipe.lr:g}, batch size "
        f"{recipe.batch_size}, rank {scorer.settings.rank}, alpha {scorer.settings.alpha:g} (where the "
        "config has no pattern); best epoch by validation loss.\n"
        f"- Regressor: fitted on {sum(len(g.rows) for g in scorer.predictor.groups_)} real LoRA runs over "
        f"{len(scorer.predictor.groups_)} tasks; intervals from leaving whole tasks out.\n"
        "- `vs all`: expected loss against all-linear in standard deviations between seeds, higher is better; `time`: of a "
        "training step against all-linear; intervals are 90 %, for one run.\n"
        "- Memory and time are estimates (see the README for their measured error).",
    ]
    return "\n\n".join(sections) + "\n"


def recommendation_json(
    scorer: Scorer,
    rec: Recommendation,
    linearity: Linearity | None,
    arguments: dict[str, Any],
    resolved: dict[str, Any],
    peers: Sequence[PeerPick] = (),
) -> dict[str, Any]:
    """Everything shown, for programs."""
    info = scorer.probe.info
    return {
        "schema": RECOMMENDATION_SCHEMA,
        "task": info["task"],
        "metric": info["metric"],
        "higher_is_better": True,
        "level": LEVEL,
        "pick": {**score_json(rec.picked, scorer), "targets": list(rec.picked.candidate.selection.targets)},
        "predicted_best": rec.best.name,
        "all_linear": score_json(rec.all_linear, scorer)
        | {"alike_pick": not scorer.predict([rec.picked.candidate, rec.all_linear.candidate]).distinguishable(1, 0)},
        "equal_budget": [
            score_json(s, scorer) | {"alike_pick": not rec.equal_budget.predictions.distinguishable(i, 0)}
            for i, s in enumerate(rec.equal_budget)
        ],
        "baseline": None if rec.baseline is None else rec.equal_budget[rec.baseline].name,
        "alike_at_equal_budget": rec.alike,
        "peers": {pick.peer: pick.as_json(scorer) for pick in peers},
        "front": [score_json(s, scorer) for s in rec.front],
        "stability": {
            "mean": rec.stability.mean,
            "draws": rec.stability.draws,
            "modules": dict(zip(rec.picked.candidate.selection.targets, rec.stability.kept, strict=True)),
        },
        "linearity": None if linearity is None else linearity.as_dict(),
        "kernel": _kernel_json(scorer, rec),
        "budget": rec.budget.text,
        "granularity": rec.granularity,
        "strategy": rec.strategy,
        "recipe": scorer.recipe.as_dict(),
        "far": list(rec.front.predictions.far),
        "candidates_scored": rec.considered,
        "peft": arguments,
        "resolved": resolved,
        "provenance": {
            key: info[key]
            for key in (
                "advisor",
                "torch",
                "model",
                "model_type",
                "revision",
                "data",
                "train_rows",
                "class_names",
                "head",
                "head_kind",
                "identity",
                "device",
                "methods",
                "estimate_error",
            )
        }
        | {"samples": scorer.probe.samples, "calibration_rows": sum(len(g.rows) for g in scorer.predictor.groups_)},
    }


def _kernel_json(scorer: Scorer, rec: Recommendation) -> dict[str, Any]:
    """Every module's share of the kernel, and the eigenvalues of the pick's and of all modules', the head's block included."""
    weights = scorer.block_weights([rec.picked.candidate, rec.all_linear.candidate], scorer.kernels.kind)
    pick, everything = (Spectrum.of(kernel).values[::-1].tolist() for kernel in scorer.kernels.of(weights))
    return {
        "kind": scorer.kernels.kind,
        "sigma": scorer.sigma,
        "shares": module_shares(scorer, [t.name for t in scorer.probe.targets]),
        "eigenvalues": {"pick": pick, "all": everything},
    }
