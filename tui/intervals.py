"""Intervals of differences in loss, drawn as bars around no difference: pure functions to styled text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from textual.content import Content

Triple = tuple[float, float, float]
WIDEST, NARROWEST = math.log(4.0), math.log(1.1)  # of the axis to each side, in log of the ratio of two losses
ZERO, BAR, VALUE, BEYOND_LEFT, BEYOND_RIGHT = "│", "━", "●", "◂", "▸"
LEAST = 12  # columns, below which a bar says nothing


def reach(changes: Iterable[Triple]) -> float:
    """How far an axis goes to each side so that these intervals are on it, within reason."""
    ends = [abs(math.log1p(max(share, -0.99))) for change in changes for share in change if math.isfinite(share)]
    return min(max([NARROWEST, *ends]) * 1.05, WIDEST)


def interval(change: Triple, width: int, half: float) -> Content:
    """One line: a share by which a loss is higher, with its interval; left of the zero line it is lower, which is better."""
    if width < LEAST:
        return Content("")
    middle = width // 2

    def column(share: float) -> int:
        return middle + round(math.log1p(min(max(share, -0.99), 1e9)) / half * middle)

    value, low, high = map(column, change)
    cells = [" "] * width
    for at in range(max(low, 0), min(high, width - 1) + 1):
        cells[at] = BAR
    cells[middle] = "┿" if low <= middle <= high else ZERO
    if low < 0:
        cells[0] = BEYOND_LEFT
    if high > width - 1:
        cells[-1] = BEYOND_RIGHT
    if 0 <= value < width:
        cells[value] = VALUE
    style = "$text-success" if change[2] < 0 else "$text-error" if change[1] > 0 else "$text-warning"
    return Content.styled("".join(cells), style)


def axis(width: int, half: float) -> Content:
    """What the two sides mean, and how far they go."""
    if width < LEAST:
        return Content("")
    ends = f"{math.expm1(-half):.0%}", f"{math.expm1(half):+.0%}"
    words = ("lower", "higher") if width >= 34 else ("", "")
    left, right = f"{ends[0]} {words[0]}".strip(), f"{words[1]} {ends[1]}".strip()
    middle = width // 2
    line = left.ljust(middle) + "0"
    return Content.styled(line + right.rjust(width - len(line)), "$text-muted")
