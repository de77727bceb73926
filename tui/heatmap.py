"""The heat-map: layers down, roles across, a cursor, toggling by key and mouse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from advisor.core.targets import block_of
from advisor.report.text_plots import bar
from tui.cells import ADDED, CHOSEN, DROPPED, LEFT_OUT, PARTLY, Measure, glyph, headings, levels, number, number_width

if TYPE_CHECKING:
    from advisor.core.targets import Target

LABEL = 6
CURSOR = "▸"
WIDEST, NARROWEST = 16, 3  # cells: marks, and where there is room a number
NUMBER = 5  # characters at most
ADAPTED, NOT_ADAPTED = (0.6, 0.4), (0.0, 0.2)  # where grounds begin between low and high, and how far levels move them
TONES = 32  # of a ground, from the lowest level to the highest
TALLEST = 3  # lines of a cell: marks and number, a bar, a gap


@dataclass(frozen=True)
class Grid:
    """Where each module stands. Row None of ``layers`` holds modules outside any layer.

    Attributes:
        cells: index in model order of the modules at (row, column); more than one where a layer has a role twice.
        labels: of the rows: a layer's number, where there are several stacks that in its own with the stack's name.
    """

    layers: tuple[int | None, ...]
    roles: tuple[str, ...]
    cells: dict[tuple[int, int], tuple[int, ...]]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> Grid:
        layers = sorted({t.layer for t in targets}, key=lambda layer: (layer is None, layer or 0))
        roles = tuple(dict.fromkeys(t.role for t in targets))
        rows, columns = {layer: i for i, layer in enumerate(layers)}, {role: j for j, role in enumerate(roles)}
        cells: dict[tuple[int, int], tuple[int, ...]] = {}
        for index, target in enumerate(targets):
            place = rows[target.layer], columns[target.role]
            cells[place] = (*cells.get(place, ()), index)
        return cls(tuple(layers), roles, cells, _labels(targets, layers))

    def row(self, row: int) -> tuple[int, ...]:
        return tuple(i for (r, _), members in self.cells.items() if r == row for i in members)

    def column(self, column: int) -> tuple[int, ...]:
        return tuple(i for (_, c), members in self.cells.items() if c == column for i in members)


def _labels(targets: Sequence[Target], layers: Sequence[int | None]) -> tuple[str, ...]:
    """``0``, ``1`` … of one stack; ``enc0``, ``dec0`` … where there are more; ``–`` for what is in none."""
    places = {t.layer: place for t in targets if t.layer is not None and (place := block_of(t.name))}
    stacks = list(dict.fromkeys(place[0] for place in places.values()))
    tags = _tags([stack.split(".") for stack in stacks]) if len(stacks) > 1 else [""]
    tag_of = dict(zip(stacks, tags, strict=False))
    labels = []
    for layer in layers:
        place = None if layer is None else places.get(layer)
        number = "–" if layer is None else str(layer if place is None or len(stacks) < 2 else place[1])
        labels.append(tag_of[place[0]][: LABEL - 1 - len(number)] + number if place else number)
    return tuple(labels)


def _tags(stacks: Sequence[Sequence[str]]) -> list[str]:
    """Three letters of the first part of each stack's name that not all share."""
    differing = next(i for i in range(max(map(len, stacks))) if len({tuple(parts[i : i + 1]) for parts in stacks}) > 1)
    tags = ["".join(parts[differing : differing + 1])[:3] for parts in stacks]
    return tags if len(set(tags)) == len(tags) else [f"s{number}." for number in range(1, len(tags) + 1)]


class HeatMap(ScrollView, can_focus=True):
    """Layers down, roles across. Row −1 of the cursor is the header of the roles, column −1 that of the layers."""

    HELP_TEXT = (
        "Each cell is a module: ● on a strong ground adapted, ○ not; ⊕ adapted and ⊖ not, where the pick does otherwise. "
        "· ░ ▒ ▓ █ and the number say how much of the chosen measure it has (legend above). Move with the arrows or h j k l. "
        "Space toggles the module; on a layer's or a role's name it toggles all of them. A click moves there, a second one "
        "toggles. [ and ] go to the adapted module before and after. / filters: then the others are dim, and Space on a name "
        "and [ ] go by what is left."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space,enter", "toggle_here", "Toggle", key_display="space"),
        Binding("up,k", "move(-1,0)", "Up", show=False),
        Binding("down,j", "move(1,0)", "Down", show=False),
        Binding("left,h", "move(0,-1)", "Left", show=False),
        Binding("right,l", "move(0,1)", "Right", show=False),
        Binding("home", "move(0,-99)", "To the layer's name", show=False),
        Binding("end", "move(0,99)", "Last role", show=False),
        Binding("pageup", "move(-8,0)", "Up 8", show=False),
        Binding("pagedown", "move(8,0)", "Down 8", show=False),
        Binding("ctrl+home", "move(-999,0)", "To the roles", show=False),
        Binding("ctrl+end", "move(999,0)", "Last layer", show=False),
        Binding("right_square_bracket", "next(1)", "Next adapted", show=False, key_display="]"),
        Binding("left_square_bracket", "next(-1)", "Previous adapted", show=False, key_display="["),
    ]
    DEFAULT_CSS = """
    HeatMap { height: 1fr; background: $background; color: $foreground; scrollbar-size: 0 1; }
    HeatMap > .heatmap--low { background: $surface; color: $text-muted; }
    HeatMap > .heatmap--high { background: $primary; color: $text; }
    HeatMap > .heatmap--unlike { color: $warning; }
    HeatMap > .heatmap--header { background: $panel; color: $text; text-style: bold; }
    HeatMap > .heatmap--cursor { text-style: bold reverse; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"heatmap--{name}" for name in ("low", "high", "unlike", "header", "cursor")}

    cursor: reactive[tuple[int, int]] = reactive((0, 0))

    class Toggled(Message):
        """The user toggles these modules, indices in model order."""

        def __init__(self, modules: tuple[int, ...]) -> None:
            super().__init__()
            self.modules = modules

    class Moved(Message):
        """The cursor is on these modules now."""

        def __init__(self, modules: tuple[int, ...]) -> None:
            super().__init__()
            self.modules = modules

    def __init__(self) -> None:
        super().__init__(id="heatmap")
        self.grid = Grid((), (), {}, ())
        self.chosen: frozenset[int] = frozenset()
        self.pick: frozenset[int] | None = None
        self.values: Sequence[float] = ()
        self.measure: Measure | None = None
        self.sieve: frozenset[int] | None = None  # modules that are not dim; None: all
        self.cell_height = 1
        self.is_stale = False  # the values are of an earlier selection
        self._levels: list[float | None] = []
        self._shades: dict[tuple[int, bool, bool, bool], Style] = {}
        self._styles: tuple[Style, Style, Style] | None = None  # of the ground, the header, the cursor
        self._number_widths: dict[int, int] = {}  # by the cells' width

    def show_grid(self, grid: Grid) -> None:
        """Another probe."""
        self.grid, self.chosen, self.pick, self.sieve, self.values, self._levels = grid, frozenset(), None, None, (), []
        self._number_widths.clear()
        self.set_reactive(HeatMap.cursor, (0, 0))
        self._resize()
        self.watch_cursor()

    def show_values(self, values: Sequence[float], measure: Measure, is_stale: bool = False) -> None:
        """Colour by these, in model order; NaN: unknown. What is stale is dimmed."""
        if values != self.values or measure is not self.measure:
            self._levels = levels(values) if any(map(math.isfinite, values)) else []  # marks alone while nothing is known
            self._number_widths.clear()
        self.values, self.measure, self.is_stale = values, measure, is_stale
        self.refresh()

    def show_chosen(self, chosen: frozenset[int], pick: frozenset[int] | None) -> None:
        """Mark these as adapted, and where that is unlike the recommended selection, once there is one."""
        changed = (
            chosen ^ self.chosen if pick == self.pick else frozenset(i for members in self.grid.cells.values() for i in members)
        )
        self.chosen, self.pick = chosen, pick
        for row in {row for (row, _), members in self.grid.cells.items() if changed.intersection(members)}:
            top = row * self.cell_height + 1 - self.scroll_offset.y
            self.refresh(Region(0, top, self.size.width, self.cell_height))

    def show_sieve(self, sieve: frozenset[int] | None) -> None:
        """Dim all but these; None: none."""
        if sieve != self.sieve:
            self.sieve = sieve
            self.refresh()
            self.post_message(self.Moved(self.modules_at(*self.cursor)))

    def notify_style_update(self) -> None:
        """Another theme."""
        self._shades.clear()
        self._styles = None
        super().notify_style_update()

    # --- places -------------------------------------------------------------------------------------------------------

    @property
    def cell_width(self) -> int:
        """As wide as the room for all roles allows."""
        room = (self.size.width - LABEL) // max(len(self.grid.roles), 1)
        return max(min(room, WIDEST), NARROWEST)

    def fit(self, lines: int) -> int:
        """Be as high as all layers need within so many lines, in cells as tall as two thirds of these allow; returns the
        lines that are left."""
        layers = max(len(self.grid.layers), 1)
        self.cell_height = max(1, min(TALLEST, (2 * lines // 3 - 1) // layers))
        height = max(min(lines, 1 + layers * self.cell_height), 1)
        self.styles.height = height
        self._resize()
        return lines - height

    def on_resize(self) -> None:
        self._resize()

    def _resize(self) -> None:
        lines = len(self.grid.layers) * self.cell_height + 1
        self.virtual_size = Size(LABEL + self.cell_width * len(self.grid.roles), lines)
        self.refresh()

    def modules_at(self, row: int, column: int) -> tuple[int, ...]:
        """Indices of the modules at a cell; of a layer at column −1, of a role at row −1 those that are not dim. None where all
        are."""
        if self.sieve is not None and not self.sieve:
            return ()
        if row >= 0 and column >= 0:
            return self.grid.cells.get((row, column), ())
        found = () if row < 0 and column < 0 else self.grid.column(column) if row < 0 else self.grid.row(row)
        return found if self.sieve is None else tuple(i for i in found if i in self.sieve)

    def validate_cursor(self, cursor: tuple[int, int]) -> tuple[int, int]:
        row, column = cursor
        row = max(-1, min(row, len(self.grid.layers) - 1))
        column = max(-1, min(column, len(self.grid.roles) - 1))
        return (0, -1) if (row, column) == (-1, -1) else (row, column)

    def watch_cursor(self) -> None:
        row, column = self.cursor
        if row >= 0:
            left = LABEL + self.cell_width * max(column, 0)
            # one line higher than the row, as the header covers the first one
            region = Region(left if column > 0 else 0, row * self.cell_height, self.cell_width, self.cell_height + 1)
            self.scroll_to_region(region, animate=False, force=True)
        self.refresh()
        self.post_message(self.Moved(self.modules_at(row, column)))

    def action_move(self, down: int, right: int) -> None:
        row, column = self.cursor
        if (row + down, column) == (-1, -1) or (row, column + right) == (-1, -1):
            return
        self.cursor = (row + down, column + right)

    def action_next(self, step: int) -> None:
        """To the next cell with an adapted module, or where there is a filter with one that is not dim."""
        wanted = self.chosen if self.sieve is None else self.sieve
        places = sorted(place for place, members in self.grid.cells.items() if wanted.intersection(members))
        ahead = [place for place in places if (place > self.cursor if step > 0 else place < self.cursor)]
        if places:
            self.cursor = (ahead or places)[0 if step > 0 else -1]

    def action_toggle_here(self) -> None:
        if modules := self.modules_at(*self.cursor):
            self.post_message(self.Toggled(modules))

    def on_click(self, event: Click) -> None:
        x = event.x + (self.scroll_offset.x if event.x >= LABEL else 0)
        row = (event.y - 1 + self.scroll_offset.y) // self.cell_height if event.y else -1
        column = (x - LABEL) // self.cell_width if event.x >= LABEL else -1
        if row < len(self.grid.layers) and column < len(self.grid.roles) and (row, column) != (-1, -1):
            if (row, column) == self.cursor:
                self.action_toggle_here()
            self.cursor = (row, column)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        size, scroll, width = self.size, self.scroll_offset, self.cell_width
        row, part = divmod(y - 1 + scroll.y, self.cell_height) if y else (-1, 0)
        base, header, cursor = self._styles = self._styles or (
            self.rich_style,
            self.get_component_rich_style("heatmap--header"),
            self.get_component_rich_style("heatmap--cursor"),
        )
        if row >= len(self.grid.layers) or not self.grid.roles or part == TALLEST - 1:
            return Strip.blank(size.width, base)
        names = headings(self.grid.roles, width - 1) if row < 0 else ()
        here = self.cursor if self.has_focus else None
        pointer = "" if part else CURSOR  # on the first line of a cell
        label = (self._label(row).rjust(LABEL - 1)[: LABEL - 1] if not part else "").ljust(LABEL)
        at_label = here == (row, -1)
        segments = [Segment(pointer + label[len(pointer) :], cursor) if at_label else Segment(label, header)]
        cells: list[Segment] = []
        digits = self._digits(width)
        for column in range(len(self.grid.roles)):
            text, style = (f" {names[column]}", header) if row < 0 else self._cell(row, column, width, base, part, digits)
            text = set_cell_size(text, width)
            at_cell = here == (row, column)
            cells.append(Segment(pointer + text[len(pointer) :], cursor) if at_cell else Segment(text, style))
        scrolled = Strip(cells).crop(scroll.x, scroll.x + size.width - LABEL)
        return Strip([*segments, *scrolled]).extend_cell_length(size.width, base).crop(0, size.width)

    def _label(self, row: int) -> str:
        return "layer" if row < 0 else self.grid.labels[row]

    def _digits(self, width: int) -> int:
        """Characters of the numbers in cells of this width, the same for all; 0: none."""
        if width not in self._number_widths:
            found = number_width(self.values, self.measure, min(width - 3, NUMBER)) if self.measure else 0
            self._number_widths[width] = found
        return self._number_widths[width]

    def _cell(self, row: int, column: int, width: int, base: Style, part: int, digits: int) -> tuple[str, Style]:
        """One line of a cell: its marks, glyph and number, below them a bar as long as the level is high."""
        members = self.grid.cells.get((row, column), ())
        if not members:
            return "", base
        inside = sum(i in self.chosen for i in members)
        mark = LEFT_OUT if not inside else CHOSEN if inside == len(members) else PARTLY
        unlike = 0 if self.pick is None else inside - sum(i in self.pick for i in members)
        if unlike:
            mark = ADDED if unlike > 0 else DROPPED
        known = bool(self._levels)
        found = [level for i in members if known and (level := self._levels[i]) is not None]
        level = max(found) if found else None
        text = f" {bar(level or 0.0, width - 2)}" if part else f" {mark}{glyph(level) if known else ' '}"
        if not part and digits and known and self.measure:
            text += number(max(self.values[i] for i in members), self.measure, min(width - 3, NUMBER))
        dim = self.is_stale or (self.sieve is not None and not self.sieve.intersection(members))
        key = round((level or 0.0) * TONES), bool(inside), bool(unlike), dim
        if key not in self._shades:
            self._shades[key] = self._shade(*key)
        return text, self._shades[key]

    def _shade(self, tone: int, chosen: bool, unlike: bool, dim: bool) -> Style:
        """The ground says whether the module is adapted, and within that a little of its level; the ink whether that is unlike
        the pick. Terminals' own colours cannot be mixed: there the marks alone speak."""
        low, high, other = (self.get_component_styles(f"heatmap--{name}") for name in ("low", "high", "unlike"))
        if low.background.ansi is not None or high.background.ansi is not None:
            return self.rich_style + Style(bold=(chosen or unlike) and not dim, dim=dim)
        start, span = ADAPTED if chosen else NOT_ADAPTED
        ground: Color = low.background.blend(high.background, start + span * tone / TONES)
        ink = ground.get_contrast_text(1.0 if chosen else 0.75)
        colour = (ground + ink).blend(other.color, 0.6) if unlike else ground + ink
        return Style(color=colour.rich_color, bgcolor=ground.rich_color, bold=(chosen or unlike) and not dim, dim=dim)
