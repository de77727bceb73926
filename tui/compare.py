"""Compare: the pick, the current selection, kept ones, the common target sets and other methods' picks side by side."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from tui.lineup import differences, legend
from tui.lineup_screen import LineupScreen, SelectionTable


class CompareScreen(LineupScreen):
    """A sortable table at the budget, and what the selection under the cursor adapts that the current one does not."""

    HELP: ClassVar[str] = (
        "Each row is a selection at the budget: the recommended pick, the current one, those you kept, the common target sets "
        "with their rank lowered until they fit, and what other methods would pick. o or a click on a header sorts, i or a "
        "second click inverts, w explains the columns. Enter takes the selection as the current one; u undoes that."
    )
    DEFAULT_CSS = """
    CompareScreen #heading { height: 2; padding: 0 1; color: $text-muted; }
    CompareScreen #main { height: 1fr; layout: vertical; }
    CompareScreen #table { height: 1fr; }
    CompareScreen #side { height: 11; border-top: solid $border; padding: 0 1; scrollbar-size-vertical: 1; }
    CompareScreen #side Horizontal { height: auto; }
    CompareScreen #details { height: auto; width: 46; padding-right: 1; }
    CompareScreen #different { height: auto; width: 1fr; }
    CompareScreen.-wide #heading { height: 1; }
    CompareScreen.-low #side { height: 7; }
    CompareScreen.-narrow #side Horizontal { layout: vertical; }
    CompareScreen.-narrow #side Static { width: 100%; }
    """

    def body(self) -> ComposeResult:
        yield Static("", id="heading", markup=False)
        yield SelectionTable()
        with VerticalScroll(id="side", can_focus=True), Horizontal():
            yield Static("", id="details", markup=False)
            yield Static("", id="different", markup=False)

    def draw_under(self) -> None:
        budget = self.budget()
        title = f"At the budget of {budget.text}" if budget else "Selections"
        self.query_one("#heading", Static).update(f"{title}   {self.waiting or legend(self.entries)}")
        self.show_details(self.query_one("#details", Static), self.details_under())
        different, entry, current = self.query_one("#different", Static), self.under, self.state.current
        if entry is None or current is None:
            different.update("")
        else:
            said = differences(self.state.targets, current, entry.candidate)
            self.show_details(different, ["Against the current selection", *said])
