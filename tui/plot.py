"""A plot of marks and one stepped line, as lines of characters with the name of their style: pure functions (no Textual)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

GUTTER = 8  # columns left of the plot, with the axis
BELOW = 2  # lines below it
SMALLEST = (12, 3)  # columns and lines of the plot itself
AXIS, LINE, INTERVAL, CURSOR = "axis", "line", "interval", "cursor"
BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row of the dot, from U+2800 on

Limits = tuple[float, float]
UNLIMITED: Limits = (-math.inf, math.inf)
Run = tuple[str, str]
"""Characters of one style, and its name; "" is plain."""


@dataclass(frozen=True)
class Point:
    """A mark at (x, value), with the interval that is drawn while the cursor is on it; ``style`` names its style.

    Of marks in one cell the first point's is seen, but for the cursor's.
    """

    x: float
    value: float
    low: float
    high: float
    mark: str
    style: str


@dataclass(frozen=True)
class Scale:
    """From numbers to places 0 … 1; logarithmic scales put what is not positive at their lower end."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], log: bool = False, margin: float = 0.0, limits: Limits = UNLIMITED) -> Scale:
        """From the smallest to the largest value and a little beyond, but within ``limits``."""
        used = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(used), max(used)
        if log:
            room = 1.05 if high > 2 * low else 2.0
            return cls(low / room, high * room, True)
        room = (high - low) * margin or abs(high) * 0.1 or 0.1
        return cls(max(low - room, min(low, limits[0])), min(high + room, max(high, limits[1])))

    def place(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def at(self, place: float) -> float:
        """The number at a place."""
        if self.log:
            return self.low * float((self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)


def places(
    points: Sequence[Point], width: int, height: int, limits: Limits = UNLIMITED, log: bool = True
) -> list[tuple[int, int]]:
    """Line and column of every point in what :func:`plot` draws at this size; none where nothing fits."""
    columns, rows = width - GUTTER, height - BELOW
    if columns < SMALLEST[0] or rows < SMALLEST[1]:
        return []
    across, up = _scales(points, limits, log)
    return [(round((1 - up.place(p.value)) * (rows - 1)), GUTTER + round(across.place(p.x) * (columns - 1))) for p in points]


def _scales(points: Sequence[Point], limits: Limits, log: bool) -> tuple[Scale, Scale]:
    return Scale.of([p.x for p in points], log=log, margin=0.05), Scale.of([p.value for p in points], margin=0.08, limits=limits)


def plot(
    points: Sequence[Point],
    line: Sequence[int],
    width: int,
    height: int,
    cursor: int | None = None,
    limits: Limits = UNLIMITED,
    log: bool = True,
) -> list[list[Run]]:
    """``height`` lines of ``width`` characters; none where there are no points or too little room.

    Args:
        points: x on a logarithmic scale where ``log``. line: indices of those that a stepped line joins, in order.
        cursor: index of the point that is shown with its interval. limits: of what is drawn upwards, that the axis keeps to.
    """
    where = places(points, width, height, limits, log)
    if not where:
        return []
    columns, rows = width - GUTTER, height - BELOW
    across, up = _scales(points, limits, log)
    corners = [(across.place(points[i].x), up.place(points[i].value)) for i in line]
    steps = _steps(corners, columns, rows)
    cells: dict[tuple[int, int], Run] = {place: (character, LINE) for place, character in steps.items()}
    if cursor is not None:
        cells |= _bar(points[cursor], up, where[cursor][1] - GUTTER, rows)
    for point, (row, column) in reversed(list(zip(points, where, strict=True))):
        cells[row, column - GUTTER] = (point.mark, point.style)
    if cursor is not None:
        row, column = where[cursor][0], where[cursor][1] - GUTTER
        cells[row, column] = (points[cursor].mark, CURSOR)
        for side, arrow in ((column - 1, "▸"), (column + 1, "◂")):
            if 0 <= side < columns and cells.get((row, side), ("", LINE))[1] in (LINE, INTERVAL):
                cells[row, side] = (arrow, CURSOR)
    return framed(cells, columns, rows, up, _ticks(across, columns))


def framed(cells: Mapping[tuple[int, int], Run], columns: int, rows: int, up: Scale, ticks: str) -> list[list[Run]]:
    """Lines of a plot's cells with its axes: three labels of ``up`` at the left, ``ticks`` below."""
    labelled = {0, rows // 2, rows - 1}
    lines = []
    for row in range(rows):
        text = value_text(up.at(1 - row / (rows - 1)), up.high - up.low) if row in labelled else ""
        axis = text.rjust(GUTTER - 2)[: GUTTER - 2] + (" ┤" if row in labelled else " │")
        lines.append(joined([(axis, AXIS), *(cells.get((row, column), (" ", "")) for column in range(columns))]))
    lines.append([(" " * (GUTTER - 1) + "└" + "─" * columns, AXIS)])
    lines.append([(" " * GUTTER + ticks, AXIS)])
    return lines


def _steps(corners: Sequence[tuple[float, float]], columns: int, rows: int) -> dict[tuple[int, int], str]:
    """Braille characters of a line that goes right, then up or down, from corner to corner (places 0 … 1), by cell."""
    dots: dict[tuple[int, int], int] = {}

    def dot(x: int, y: int) -> None:
        place = (y // 4, x // 2)
        dots[place] = dots.get(place, 0) | BRAILLE[x % 2][y % 4]

    middles = [
        (2 * round(x * (columns - 1)), 4 * round((1 - y) * (rows - 1)) + 2) for x, y in corners
    ]  # where the marks are, in dots
    for (x0, y0), (x1, y1) in pairwise(middles):
        for x in range(min(x0, x1), max(x0, x1) + 1):
            dot(x, y0)
        for y in range(min(y0, y1), max(y0, y1) + 1):
            dot(x1, y)
    return {place: chr(0x2800 + bits) for place, bits in dots.items()}


def _bar(point: Point, up: Scale, column: int, rows: int) -> dict[tuple[int, int], Run]:
    """The interval of one point; arrows where it goes on beyond the plot."""
    if not (math.isfinite(point.low) and math.isfinite(point.high)):
        return {}
    top, bottom = (round((1 - up.place(v)) * (rows - 1)) for v in (point.high, point.low))
    bar = {(row, column): ("│", INTERVAL) for row in range(top, bottom + 1)}
    if point.high > up.high:
        bar[top, column] = ("↑", INTERVAL)
    if point.low < up.low:
        bar[bottom, column] = ("↓", INTERVAL)
    return bar


def joined(runs: Sequence[Run]) -> list[Run]:
    """Neighbours of one style as one."""
    joined: list[Run] = []
    for text, style in runs:
        if joined and joined[-1][1] == style:
            joined[-1] = (joined[-1][0] + text, style)
        else:
            joined.append((text, style))
    return joined


def value_text(value: float, size: float) -> str:
    """With as many digits as tell the ends of an axis of this length apart."""
    digits = max(0, min(4, 2 - math.floor(math.log10(size)) if size > 0 else 2))
    return f"{value:.{digits}f}"


def _ticks(scale: Scale, columns: int) -> str:
    """Numbers below the horizontal axis, each centred on its place."""
    from advisor.report.words import count

    line = [" "] * columns
    for place in (0.0, 0.25, 0.5, 0.75, 1.0) if columns >= 48 else (0.0, 0.5, 1.0):
        value = scale.at(place)
        text = count(float(f"{value:.2g}")) if scale.log else value_text(value, scale.high - scale.low)
        start = min(max(round(place * (columns - 1)) - len(text) // 2, 0), columns - len(text))
        line[start : start + len(text)] = text
    return "".join(line)
