"""Pareto: predicted result against LoRA parameters, every selection a mark, one of them taken."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from tui.answer import wrapped
from tui.cells import DISTURBS, short_name
from tui.lineup import FRONT, MARKS, TRADE_OFF, Column, legend
from tui.lineup_screen import LineupScreen, SelectionTable
from tui.plot import AXIS, CURSOR, INTERVAL, LINE, UNLIMITED, Limits, Point, places, plot

STYLES = {
    "": "",
    AXIS: "$text-muted",
    LINE: "$text-primary",
    INTERVAL: "$text-muted",
    CURSOR: "bold reverse",
    "current": "bold $text-warning",
    "pick": "bold $text-success",
    "kept": "$text-secondary",
    "all": "$text",
    "target-set": "$text-accent",
    "peer": "$text-secondary",
    "front": "$text-primary",
    "trade-off": "$text-primary",
}


SHARE: Limits = (0.0, 1.0)
LIMITS: dict[str, Limits] = {"loss": (0.0, UNLIMITED[1]), "matthews": (-1.0, 1.0), "spearman": (-1.0, 1.0)}  # others: a share


ALL_COLUMNS_FIT = 140  # characters across the screen


class Plot(Static):
    """Draws what :func:`tui.plot.plot` says; a click goes to the nearest mark."""

    class Clicked(Message):
        """The mark with this index is the nearest to a click."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self) -> None:
        super().__init__("", id="plot", markup=False)
        self.points: list[Point] = []
        self.front: list[int] = []
        self.cursor: int | None = None
        self.limits: Limits = UNLIMITED
        self.is_log = True

    def show(self, points: list[Point], front: list[int], cursor: int | None, limits: Limits, log: bool) -> None:
        self.points, self.front, self.cursor, self.limits, self.is_log = points, front, cursor, limits, log
        self.on_resize()

    def on_resize(self) -> None:
        """Drawn to its size, also where that changed while another screen was in view."""
        lines = plot(self.points, self.front, self.size.width, self.size.height, self.cursor, self.limits, self.is_log)
        drawn = [Content.assemble(*((text, STYLES[style]) for text, style in line)) for line in lines]
        self.update(Content("\n").join(drawn))

    def on_click(self, event: Click) -> None:
        where = places(self.points, self.size.width, self.size.height, self.limits, self.is_log)
        if where:
            # a line is about twice as high as a column is wide
            distances = [(2 * (row - event.y)) ** 2 + (column - event.x) ** 2 for row, column in where]
            self.post_message(self.Clicked(distances.index(min(distances))))


class ParetoScreen(LineupScreen):
    """The plot, the table of its points, what is said of the one under the cursor."""

    WITH_FRONT = True
    HELP: ClassVar[str] = (
        "Every selection by its LoRA parameters and its predicted result; the line joins the front: nothing smaller is predicted "
        "better. Move through the points with the arrows, or click on one; m changes between the metric and the loss. The bar "
        "is the 90 % interval of one run. Enter takes the point as the current selection; u undoes that. With rows to keep x "
        "shows what is disturbed of them in the place of the parameters: nothing gentler is predicted better than the line."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("m", "measure", "Metric/loss"), Binding("x", "across", "Size/disturbs")]
    DEFAULT_CSS = """
    ParetoScreen #heading, ParetoScreen #legend { height: 1; padding: 0 1; color: $text-muted; }
    ParetoScreen #legend { height: auto; }
    ParetoScreen #main { height: 1fr; }
    ParetoScreen #left { width: 1fr; height: 1fr; }
    ParetoScreen #plot { height: 1fr; min-height: 9; }
    ParetoScreen #table { height: 1fr; }
    ParetoScreen #side { width: 40; height: 1fr; padding: 0 1; border-left: solid $border; scrollbar-size-vertical: 1; }
    ParetoScreen #details { height: auto; }
    ParetoScreen.-normal #main { layout: vertical; }
    ParetoScreen.-normal #side { width: 100%; height: 10; border-left: none; border-top: solid $border; }
    ParetoScreen.-normal.-low #side { height: 5; }
    ParetoScreen.-normal.-low #plot { height: 9; }
    ParetoScreen.-narrow #main { layout: vertical; }
    ParetoScreen.-narrow #side { width: 100%; height: 8; border-left: none; border-top: solid $border; }
    ParetoScreen.-narrow.-low #side { height: 4; }
    ParetoScreen.-narrow.-low #plot { height: 7; min-height: 7; }
    ParetoScreen.-narrow.-low #legend { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.shows_loss = False
        self.shows_disturbs = False  # across, in the place of the size
        self.drawn: list[str] = []  # ids of the entries in the plot, in its order

    def body(self) -> ComposeResult:
        yield Static("", id="heading", markup=False)
        with Horizontal(id="main"):
            with Vertical(id="left"):
                yield Plot()
                yield Static("", id="legend", markup=False)
                yield SelectionTable()
            with VerticalScroll(id="side", can_focus=True):
                yield Static("", id="details", markup=False)

    def wanted(self, found: list[Column]) -> list[Column]:
        by_id = {column.id: column for column in found}
        keys = ["params", "vs_all", "loss" if self.shows_loss else "metric", "apart"]
        if self.across_is_disturbs:
            keys[0] = DISTURBS
        return [by_id[key] for key in (keys if self.size.width >= ALL_COLUMNS_FIT else keys[:-1])]

    def draw_under(self) -> None:
        opened = self.state.opened
        if opened is None:
            return
        self.refresh_bindings()
        what = "loss" if self.shows_loss else short_name(opened.metric)
        order = "lower is better" if self.shows_loss else "higher is better"
        if not self._knows_level():
            order = f"{order}; the level is not known, only the order"
        across = "what it disturbs of the rows to keep" if self.across_is_disturbs else "LoRA parameters"
        self.query_one("#heading", Static).update(f"Predicted {what} ({order}) against {across}   {self.waiting}")
        said = self.query_one("#legend", Static)
        said.update("\n".join(wrapped(legend(self.entries), said.size.width)))
        self.show_details(self.query_one("#details", Static), self.details_under())
        self._draw_plot()

    def _knows_level(self) -> bool:
        """Whether the interval of any selection's loss, or metric, says something."""
        from advisor.report.words import loss_known, metric_known

        opened, figures = self.state.opened, [f for entry in self.entries if (f := self.lineup.figures(entry)) is not None]
        if opened is None or not figures:
            return True
        if self.shows_loss:
            return any(loss_known(f.loss) for f in figures)
        return any(metric_known(f.metric, opened.metric) for f in figures)

    def _draw_plot(self) -> None:
        """Of several in one cell the first is seen, so the entries go in the order of their marks."""
        order = list(MARKS)
        known = [(entry, figures) for entry in self.entries if (figures := self.lineup.figures(entry)) is not None]
        known.sort(key=lambda pair: order.index(pair[0].kinds[0]))
        points = []
        for entry, figures in known:
            value, low, high = figures.loss if self.shows_loss else figures.metric
            x = figures.disturbs.size if self.across_is_disturbs and figures.disturbs is not None else figures.cost.params
            points.append(Point(x, value, low, high, MARKS[entry.kinds[0]], entry.kinds[0]))
        joined = TRADE_OFF if self.across_is_disturbs else FRONT
        front = sorted((i for i, (entry, _) in enumerate(known) if joined in entry.kinds), key=lambda i: points[i].x)
        under = self.under
        cursor = next((i for i, (entry, _) in enumerate(known) if under is not None and entry.id == under.id), None)
        self.drawn = [entry.id for entry, _ in known]
        opened = self.state.opened
        drawn = "loss" if self.shows_loss or opened is None else opened.metric
        self.query_one(Plot).show(points, front, cursor, LIMITS.get(drawn, SHARE), not self.across_is_disturbs)

    def on_plot_clicked(self, message: Plot.Clicked) -> None:
        rows = {entry.id: row for row, entry in enumerate(self.entries)}
        self.table.move_cursor(row=rows[self.drawn[message.index]])

    @property
    def across_is_disturbs(self) -> bool:
        """Whether what is disturbed takes the place of the size; never where it is not known to rank real runs."""
        return self.shows_disturbs and self._ranks

    @property
    def _ranks(self) -> bool:
        return self.state.opened is not None and self.state.opened.scorer.ranks_forgetting

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is disturbed is an axis where it is known to rank real runs."""
        return self._ranks if action == "across" else super().check_action(action, parameters)

    def action_across(self) -> None:
        """The size, or what is disturbed."""
        self.shows_disturbs = not self.shows_disturbs
        if self.order in ("params", DISTURBS):
            self.order = DISTURBS if self.shows_disturbs else "params"
        self.redraw()

    def action_measure(self) -> None:
        """The metric or the loss."""
        self.shows_loss = not self.shows_loss
        if self.order in ("metric", "loss"):
            self.order = "loss" if self.shows_loss else "metric"
        self.redraw()
