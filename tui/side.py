"""The smaller widgets of Explore: what stands beside the map, its pieces of text, and the filter's line."""

from __future__ import annotations

import math
from typing import ClassVar

from rich.cells import cell_len
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from tui.ranking import Sized
from tui.sift import HELP


class Side(VerticalScroll):
    """What stands beside the map."""

    HELP_TEXT = (
        "What is said of the selection at hand, beside all modules and beside the pick; below it the module under the map's "
        "cursor, and why it is in or out. t shows the theory. w explains every term."
    )


class Panel(Static):
    """A piece of text."""

    def __init__(self, id: str) -> None:
        super().__init__("", id=id, markup=False)
        self._text = Content("")

    def on_resize(self) -> None:
        self.post_message(Sized())

    def show(self, text: str | Content, bold_title: bool = False) -> None:
        """Show another text; the screen is laid out anew only if that takes another number of lines than there are."""
        if isinstance(text, str):
            title, line_end, rest = text.partition("\n") if bold_title else ("", "", text)
            text = Content.assemble((title, "bold"), line_end + rest)
        is_same, self._text = text == self._text, text
        height = self.styles.height
        needs_layout = height is not None and height.is_auto and self.size.height != self.lines
        if not is_same:
            self.update(text, layout=needs_layout)
        elif needs_layout:  # the screen was laid out with what stood here before
            self.refresh(layout=True)

    @property
    def lines(self) -> int:
        """How many it takes."""
        width = max(self.size.width, 1)
        return sum(max(math.ceil(cell_len(line) / width), 1) for line in self._text.plain.split("\n"))


class FilterInput(Input):
    """Which modules of the map are not dim; Enter goes to the map, Escape drops the filter."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "screen.drop_filter", "Drop the filter", show=False)]
    HELP_TEXT = HELP
