"""What a person reads: tables that go to the terminal and to ``report.md`` alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from advisor.advice.budget import Budget
from advisor.advice.peer_picks import PeerPick
from advisor.advice.recommend import Recommendation, module_shares
from advisor.core.choices import LEVEL
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.text import markdown, printable
from advisor.prediction.scorer import Score, Scorer
from advisor.report.words import NOT_KNOWN, change_span, count, disturbs_means, disturbs_words, gigabytes, loss_known, metric_span

PICK, ALL = "the pick", "all modules"
DISTURBS = "disturbs"
CHOSEN, LEFT_OUT = "●", "·"
PLAIN_WIDTH = 120
LEAST_NAME = 12  # columns of a name, if it has so long a word; longer words fold in a narrow terminal
GAP, MARGIN = 3, 1  # between two columns; at each end of a line


@dataclass(frozen=True)
class TextTable:
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

    def rich(self, width: int = 80, compact: bool = False) -> RichTable:
        """For a terminal of ``width`` columns; cells are literal, never markup. ``compact``: without empty lines.

        Names wrap first. Where that is not enough all cells wrap, since a number that is cut off is another number.
        """
        first, *others = ([column, *(row[i] for row in self.rows)] for i, column in enumerate(self.columns))
        least = min(max(cell_len(word) for cell in first for word in ("", *cell.split())), LEAST_NAME)
        fits = least + sum(GAP + max(map(cell_len, cells)) for cells in others) + 2 * MARGIN <= width
        table = RichTable(
            title=Text(self.title),
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_edge=not compact,
        )
        for i, column in enumerate(self.columns):
            justify: JustifyMethod = "left" if i < self.text_columns else "right"
            floor = least if fits and i == 0 else None
            table.add_column(column, justify=justify, no_wrap=fits and i > 0, overflow="fold", min_width=floor)
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


def print_report(console: Console, lines: Sequence[str], tables: Sequence[TextTable], after: Sequence[str] = ()) -> None:
    """Sentences, tables, sentences; all of it literal, never markup."""
    for line in lines:
        console.print(printable(line), markup=False, soft_wrap=True)
    for table in tables:
        console.print()
        console.print(table.rich(console.width))
    for line in after:
        console.print()
        console.print(printable(line), markup=False, soft_wrap=True)


def plain_text(lines: Sequence[str], tables: Sequence[TextTable]) -> str:
    """:func:`print_report` as text without colour."""
    console = Console(file=StringIO(), width=PLAIN_WIDTH, highlight=False, force_jupyter=False)
    with console.capture() as captured:
        print_report(console, lines, tables)
    return captured.get().rstrip("\n")


def score_table(
    title: str, scores: Sequence[Score], metric: str, marked: Sequence[int] = (), names: Sequence[str] = ()
) -> TextTable:
    """One row a selection: size, expected loss against all modules, predicted metric and loss, cost; with rows to keep, how much
    it disturbs them."""
    return TextTable(
        title,
        ("target set", "params", "loss vs all", metric, "loss", "memory", "time", *disturbs_column(scores)),
        tuple(
            (
                names[i] if names else s.name,
                count(s.cost.params),
                change_span(s.vs_all),
                metric_span(s.metric, metric, 2),
                f"{s.loss[0]:.3g}" if loss_known(s.loss) else NOT_KNOWN,
                gigabytes(s.cost.memory_bytes),
                f"{s.cost.time_vs_all_linear:.0%}",
                *disturbs_cell(s),
            )
            for i, s in enumerate(scores)
        ),
        frozenset(marked),
    )


def disturbs_column(scores: Sequence[Score]) -> tuple[str, ...]:
    """The heading of :func:`disturbs_cell`, where there are rows to keep."""
    return (DISTURBS,) if any(s.disturbs is not None for s in scores) else ()


def disturbs_cell(score: Score, with_kl: bool = True) -> tuple[str, ...]:
    """What a selection does to the rows to keep."""
    return () if score.disturbs is None else (disturbs_words(score.disturbs, with_kl),)


def answer_table(scorer: Scorer, rec: Recommendation, rows: int) -> TextTable:
    """The pick, all modules, q,v and the user's config, and the best other target sets, at most ``rows`` in all."""
    equal, roles = list(rec.equal_budget), set(scorer.probe.info["qv_roles"])
    qv = tuple(t.name for t in scorer.probe.targets if t.role in roles)
    usual = [i for i, score in enumerate(equal) if i and (i == rec.baseline or score.candidate.selection.targets == qv)]
    others = sorted((i for i in range(1, len(equal)) if i not in usual), key=lambda i: equal[i].vs_all[0])
    shown = [(ALL, rec.all_linear)] if rec.picked.cost.params < rec.all_linear.cost.params else []
    shown = [(PICK, rec.picked), *shown, *((equal[i].name, equal[i]) for i in (*usual, *others))][:rows]
    return TextTable(
        f"Validation loss against all modules ({LEVEL:.0%} interval)",
        ("target set", "params", "loss", "memory", "step time", *disturbs_column([rec.picked])),
        tuple(
            (
                name,
                count(score.cost.params),
                change_span(score.vs_all),
                gigabytes(score.cost.memory_bytes),
                f"{score.cost.time_vs_all_linear:.0%}",
                *disturbs_cell(score, with_kl=False),
            )
            for name, score in shown
        ),
        frozenset({0}),
    )


def peer_table(picks: Sequence[PeerPick], budget: Budget, metric: str) -> TextTable:
    """What other methods would pick; the title says which have no pick, and why."""
    made = [(pick.label, pick.score) for pick in picks if pick.score is not None]
    without = [f"{pick.peer}: {pick.reason}" for pick in picks if pick.score is None]
    title = f"What other methods would pick at the budget of {budget.text}" + (f" ({'; '.join(without)})" if without else "")
    return score_table(title, [score for _, score in made], metric, names=[label for label, _ in made])


def module_map(scorer: Scorer, rec: Recommendation) -> TextTable:
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
    return TextTable(
        f"Chosen modules ({CHOSEN}) and each module's share of the kernel in % ({scorer.kernels.kind})",
        ("layer", *roles),
        tuple(("-" if layer is None else str(layer), *(cells.get((layer, role), "") for role in roles)) for layer in layers),
    )


def tables(scorer: Scorer, rec: Recommendation, peers: Sequence[PeerPick] = ()) -> list[TextTable]:
    """Common target sets at equal budget, other methods' picks, the Pareto fronts, the module map."""
    metric = str(scorer.probe.info["metric"])
    equal = list(rec.equal_budget)
    names = [s.name for s in equal]
    names[0] = PICK if equal[0].candidate.selection.is_searched else f"{PICK}: {names[0]}"
    marked = [0] if rec.baseline is None else [0, rec.baseline]
    front = list(rec.front)
    on_front = [i for i, s in enumerate(front) if s.name == rec.picked.name]
    return [
        score_table(
            f"Common target sets at the budget of {rec.budget.text}, rank lowered where needed", equal, metric, marked, names
        ),
        *([peer_table(peers, rec.budget, metric)] if peers else []),
        score_table("Pareto front: nothing smaller is predicted better", front, metric, on_front),
        *([trade_off_table(list(rec.trade_off), metric, rec.picked.name)] if rec.trade_off else []),
        module_map(scorer, rec),
    ]


def trade_off_table(front: Sequence[Score], metric: str, picked: str) -> TextTable:
    """Selections within the budget from the one that disturbs least to the one predicted best."""
    title = "Task against rows to keep: nothing within the budget that disturbs less is predicted better"
    return score_table(title, front, metric, [i for i, s in enumerate(front) if s.name == picked])


def report_markdown(scorer: Scorer, sentences: Sequence[str], shown: Sequence[TextTable], yaml_text: str) -> str:
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
        f"- Training recipe that the prediction is for: {recipe.epochs} epochs, learning rate {recipe.lr:g}, batch size "
        f"{recipe.batch_size}, rank {scorer.settings.rank}, alpha {scorer.settings.alpha:g} (where the "
        "config has no pattern); best epoch by validation loss.\n"
        f"- Regressor: fitted on {sum(len(g.rows) for g in scorer.predictor.groups_)} real LoRA runs of "
        f"{len({g.data for g in scorer.predictor.groups_})} data sets; intervals from leaving whole data sets out.\n"
        "- `loss vs all`: expected validation loss against that of all modules; a positive number means a higher loss.\n"
        "- Metric and loss are of one run. `time`: of a training step against all modules. Intervals are 90 %.\n"
        "- `not known`: the interval is so wide that it says nothing.\n"
        + ("" if scorer.probe.keep is None else f"- `{DISTURBS}`: {disturbs_means(scorer.probe.task in LANGUAGE_TASKS)}\n")
        + "- Memory and time are estimates; docs/method.md gives their measured error.",
    ]
    return "\n\n".join(sections) + "\n"
