"""The modules that have most of the chosen measure, below the heat-map where there is room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from advisor.report.text_plots import bar
from tui.cells import CHOSEN, LEFT_OUT, Measure, levels, number

if TYPE_CHECKING:
    from advisor.core.targets import Target

NUMBER = 6  # columns
LEAST = 4  # lines below which it is not shown


class Sized(Message):
    """A widget that is drawn to its size has another one."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Sized)


class Ranking(Static):
    """One line a module, the highest first; a click moves the heat-map's cursor there."""

    DEFAULT_CSS = """
    Ranking { height: 1fr; padding: 0 1; color: $foreground; }
    """

    class Clicked(Message):
        """The module with this index in model order."""

        def __init__(self, module: int) -> None:
            super().__init__()
            self.module = module

    def __init__(self) -> None:
        super().__init__("", id="ranking", markup=False)
        self.shown: tuple[int, ...] = ()

    def show(
        self,
        targets: Sequence[Target],
        labels: Mapping[int | None, str],
        values: Sequence[float],
        chosen: frozenset[int],
        measure: Measure,
    ) -> None:
        """As many modules as there are lines for; none of those whose value is not known. ``labels``: of the map's rows."""
        width, lines = self.size.width - 2, self.size.height - 2
        known = sorted((i for i, v in enumerate(values) if math.isfinite(v)), key=lambda i: -values[i])
        self.shown = tuple(known[: max(lines, 0)])
        if not self.shown:
            self.update("", layout=False)
            return
        names = {i: _name(targets[i], labels) for i in self.shown}
        longest = min(max(map(cell_len, names.values())), width // 2)
        heights = levels(values)
        title = f"most {measure.label}: {len(self.shown)} of {len(targets)} modules"
        title = title if len(title) <= width else f"most {measure.short}"
        drawn = [Content(""), Content.styled(title, "$text-muted")]
        for i in self.shown:
            mark, style = (CHOSEN, "bold") if i in chosen else (LEFT_OUT, "")
            value = f"{number(values[i], measure, NUMBER)} {measure.unit} "
            text = f"{mark} {set_cell_size(names[i], longest)} {value}"
            length = max(width - cell_len(text), 0)
            drawn.append(Content.assemble((text, style), (bar(heights[i] or 0.0, length), "$primary")))
        self.update(Content("\n").join(drawn), layout=False)  # its height is what the map leaves

    def on_resize(self) -> None:
        self.post_message(Sized())

    def on_click(self, event: Click) -> None:
        line = event.get_content_offset_capture(self).y - 2
        if 0 <= line < len(self.shown):
            self.post_message(self.Clicked(self.shown[line]))


def _name(target: Target, labels: Mapping[int | None, str]) -> str:
    """By its row of the map: ``layer 3 query`` or, where there are several stacks, ``dec3 query``."""
    label = labels.get(target.layer, "")
    return target.role if target.layer is None else f"{'layer ' if label.isdigit() else ''}{label} {target.role}"
