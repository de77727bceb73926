"""What Pareto and Compare share: a table of selections with what is said of each, of which one is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import DataTable, Static

from advisor.core.events import Event, Progress
from tui.base import AdvisorScreen
from tui.lineup import CURRENT, PICK, SELECTION_HELP, Column, Entry, Lineup, columns, details, shortened
from tui.ranking import Sized
from tui.state import Change

if TYPE_CHECKING:
    from advisor.advice.budget import Budget
    from tui.engine import Figures


class SelectionTable(DataTable[Text]):
    """One row a selection; Enter, or a click on the row that the cursor is on, takes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "Take as current")]

    DEFAULT_CSS = """
    SelectionTable { scrollbar-size: 1 1; background: $background; }
    SelectionTable > .datatable--fixed { background: $panel; color: $text; }
    """

    def __init__(self) -> None:
        super().__init__(id="table", cursor_type="row", zebra_stripes=True, fixed_columns=1)

    def on_resize(self) -> None:
        self.post_message(Sized())


class LineupScreen(AdvisorScreen):
    """A table of selections. Subclasses yield it as :attr:`body` likes, and draw what depends on the row under the cursor
    in :meth:`draw_under`."""

    WITH_FRONT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "order(1)", "Sort by"),
        Binding("i", "invert", "Invert", show=False),
        Binding("u,ctrl+z", "undo", "Undo", key_display="u"),
        Binding("ctrl+r,ctrl+y", "redo", "Redo", key_display="^r"),
        Binding("r", "reset", "Pick"),
        Binding("w", "words", "Columns"),
        Binding("y", "copy", "Copy", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.order = "params"
        self.is_inverted = False
        self.searching = ""

    # --- what subclasses say ------------------------------------------------------------------------------------------

    def wanted(self, found: list[Column]) -> list[Column]:
        """The columns to show besides the selection."""
        return found

    def draw_under(self) -> None:
        """Draw what depends on the row under the cursor."""
        raise NotImplementedError

    # --- state --------------------------------------------------------------------------------------------------------

    @property
    def lineup(self) -> Lineup:
        return self.advisor.lineup

    @property
    def table(self) -> SelectionTable:
        return self.query_one(SelectionTable)

    @property
    def under(self) -> Entry | None:
        """The entry that the cursor is on."""
        row = self.table.cursor_row
        return self.entries[row] if 0 <= row < len(self.entries) else None

    @property
    def pick_figures(self) -> Figures | None:
        return next((self.lineup.figures(e) for e in self.entries if PICK in e.kinds), None)

    def on_mount(self) -> None:
        self.table.focus()

    @on(Sized)
    def resized(self) -> None:
        """The columns are as wide as the table lets them, once that has its size."""
        self.redraw()

    def state_changed(self, change: Change | None) -> None:
        if self.state.opened is None or change in (Change.INPUTS, Change.MEASURE, Change.EFFECTS, Change.FIGURES):
            return
        self.lineup.follow(self.state)
        self.redraw()
        self._compute()

    def _compute(self) -> None:
        """Peers' picks once a recommendation says the budget, figures of whatever has none."""
        state, engine, lineup = self.state, self.advisor.engine, self.lineup
        opened, rec, pick, inputs = state.opened, state.recommendation, state.pick, state.inputs
        if opened is None or lineup.gave_up:
            return

        def peers_found(picks: Any) -> None:
            lineup.take_peers(rec, picks)  # type: ignore[arg-type]  # asked for only where there is one
            self.redraw()
            self._compute()

        def figures_found(found: Any) -> None:
            lineup.take(rec, found)
            self.redraw()

        if missing := lineup.missing(self.entries):
            self._ask("compare", lambda: engine.compare(opened, missing, pick), figures_found)
        if rec is not None and lineup.peers is None and not self.advisor.is_busy("peers"):
            self._ask("peers", lambda: engine.peers(opened, rec, inputs), peers_found)

    def _ask(self, topic: str, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """As :meth:`tui.app.AdvisorApp.ask`, but what failed once is not asked again as soon as its dialog is closed."""

        def attempt() -> Any:
            try:
                return job()
            except Exception as error:
                return error

        def attempted(result: Any) -> None:
            if not isinstance(result, Exception):
                done(result)
            elif not self.lineup.gave_up:
                self.lineup.gave_up = True
                self.draw_under()
                self.advisor.show_error(result)

        self.advisor.ask(topic, attempt, attempted)

    def show_event(self, run: str, event: Event) -> None:
        if run == "search" and isinstance(event, Progress):
            self.searching = f"{event.stage.lower()} {event.done} of {event.total}"
            self.draw_under()

    @property
    def waiting(self) -> str:
        """What is still under way, empty if nothing."""
        if self.state.recommendation is None:
            running = "search" in self.advisor.runs
            return f"… searching {self.searching}" if running else "No recommendation: Explore searches for one."
        if self.lineup.gave_up:
            return "✗ not everything could be predicted"
        if self.lineup.peers is None:
            return "… asking other methods"
        return "… predicting" if self.lineup.missing(self.entries) else ""

    def budget(self) -> Budget | None:
        return self.state.recommendation.budget if self.state.recommendation else None

    def details_under(self) -> list[str]:
        """What is said of the entry under the cursor."""
        entry = self.under
        if entry is None or self.state.opened is None:
            return []
        return details(self.state, entry, self.lineup.figures(entry), self.pick_figures, self.budget())

    # --- the table ----------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[Column]:
        opened = self.state.opened
        keeps = opened is not None and opened.probe.keep is not None
        return self.wanted(columns(opened.metric, self.pick_figures, keeps)) if opened else []

    def redraw(self) -> None:
        """The table anew, sorted, the cursor on the selection it was on; at first on the current one."""
        if self.state.opened is None or not self.is_mounted:
            return
        table, before = self.table, self.under
        self.entries = self._sorted(self.lineup.entries(self.state, self.WITH_FRONT))
        with self.app.batch_update():
            self._fill(table)
            rows = {entry.id: row for row, entry in enumerate(self.entries)}
            current = next((row for row, entry in enumerate(self.entries) if CURRENT in entry.kinds), 0)
            table.move_cursor(row=rows.get(before.id, current) if before else current, animate=False)
        self.draw_under()

    def _sorted(self, entries: list[Entry]) -> list[Entry]:
        """By the chosen column; what has no figures yet comes last."""
        known = [(entry, figures) for entry in entries if (figures := self.lineup.figures(entry)) is not None]
        unknown = [entry for entry in entries if self.lineup.figures(entry) is None]
        column = next((c for c in self.columns if c.id == self.order), None)
        if column is not None:
            known.sort(key=lambda pair: column.order(*pair), reverse=self.is_inverted)
        else:
            known.sort(key=lambda pair: pair[0].name.lower(), reverse=self.is_inverted)
        return [*(entry for entry, _ in known), *unknown]

    def _fill(self, table: SelectionTable) -> None:
        """Columns of known widths: a table that measures them itself may keep lines painted before it did."""
        arrow = " ▼" if self.is_inverted else " ▲"
        columns = self.columns
        figures = [self.lineup.figures(entry) for entry in self.entries]
        names = [f"{entry.marks} {entry.name}" for entry in self.entries]
        texts = [[column.cell(e, f) if f else "…" for e, f in zip(self.entries, figures, strict=True)] for column in columns]
        labels = [column.label + (arrow if self.order == column.id else "") for column in columns]
        widths = [max(map(cell_len, [label, *cells])) for label, cells in zip(labels, texts, strict=True)]

        room, padding = table.scrollable_content_region.width, 2 * table.cell_padding
        left = room - sum(width + padding for width in widths) - padding
        label = "selection" + (arrow if self.order == "selection" else "")
        longest = max(map(cell_len, [label, *names]))
        longest = max(min(longest, max(left, min(room // 3, 24))), cell_len(label))
        table.clear(columns=True)
        table.add_column(Text(label), key="selection", width=longest)
        for column, text, width in zip(columns, labels, widths, strict=True):
            table.add_column(Text(text), key=column.id, width=width)
        for row, (entry, name) in enumerate(zip(self.entries, names, strict=True)):
            called = Text(shortened(name, longest), "bold" if CURRENT in entry.kinds else "")
            table.add_row(called, *(Text(cells[row]) for cells in texts), key=entry.id)

    @on(DataTable.RowHighlighted)
    def moved(self, event: DataTable.RowHighlighted) -> None:
        self.draw_under()

    @on(DataTable.RowSelected)
    def taken(self, event: DataTable.RowSelected) -> None:
        if (entry := self.under) is not None:
            self.state.choose(entry.candidate)
            self.notify(f"Current selection: {entry.name}. u undoes it.", markup=False)

    @on(DataTable.HeaderSelected)
    def header_clicked(self, event: DataTable.HeaderSelected) -> None:
        self._sort_by(str(event.column_key.value))

    def _sort_by(self, order: str) -> None:
        """By this column; a second time the other way round."""
        self.is_inverted = not self.is_inverted if order == self.order else False
        self.order = order
        self.redraw()

    # --- what the user does -------------------------------------------------------------------------------------------

    def action_order(self, step: int) -> None:
        orders = ["selection", *(column.id for column in self.columns)]
        self._sort_by(orders[(orders.index(self.order) + step) % len(orders)])

    def action_invert(self) -> None:
        self._sort_by(self.order)

    def action_words(self) -> None:
        """What each column says."""
        from tui.dialogs import TextDialog

        told = [f"selection: {SELECTION_HELP}", *(f"{c.label}: {c.help}" for c in self.columns)]
        self.app.push_screen(TextDialog("What the columns say", "\n\n".join(told)))

    def action_copy(self) -> None:
        """What is said of the selection under the cursor."""
        self.app.copy_to_clipboard("\n".join(self.details_under()))
        self.notify("Copied.", markup=False)

    def show_details(self, panel: Static, lines: Sequence[str]) -> None:
        """Lines into a panel, the first one bold; one after the other where there is more width than height."""
        first, *rest = lines or [""]
        if self.has_class("-low") and not self.has_class("-wide"):
            text = "".join(f" · {' '.join(line.split())}" for line in rest)
        else:
            text = "".join(f"\n{line}" for line in rest)
        panel.update(Content.assemble((first, "bold"), text))
