"""Losses against the progress of training, as lines of characters with the name of their style: pure functions (no Textual)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tui.plot import BELOW, BRAILLE, GUTTER, Run, Scale, framed

SMALLEST = (12, 3)  # columns and lines of the plot itself
LOWEST = SMALLEST[1] + BELOW


@dataclass(frozen=True)
class Curve:
    """Values at places 0 … 1 of a run, and the name of a style."""

    points: tuple[tuple[float, float], ...]
    style: str


def curves(found: Sequence[Curve], width: int, height: int) -> list[list[Run]]:
    """``height`` lines of ``width`` characters; none where there is nothing to draw or too little room. The last curve is on
    top."""
    columns, rows = width - GUTTER, height - BELOW
    values = [value for curve in found for _, value in curve.points if math.isfinite(value)]
    if columns < SMALLEST[0] or rows < SMALLEST[1] or not values:
        return []
    up = Scale.of(values, margin=0.05, limits=(0.0, math.inf))
    cells: dict[tuple[int, int], Run] = {}
    for curve in found:
        dots: dict[tuple[int, int], int] = {}
        places = [
            (round(x * (2 * columns - 1)), round((1 - up.place(value)) * (4 * rows - 1)))
            for x, value in curve.points
            if math.isfinite(value)
        ]
        for (x0, y0), (x1, y1) in pairwise(places if len(places) > 1 else places * 2):
            steps = max(abs(x1 - x0), abs(y1 - y0), 1)
            for step in range(steps + 1):
                x, y = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
                cell = (y // 4, x // 2)
                dots[cell] = dots.get(cell, 0) | BRAILLE[x % 2][y % 4]
        cells |= {cell: (chr(0x2800 + bits), curve.style) for cell, bits in dots.items()}
    ticks = "start" + "training".center(max(columns - 8, 0)) + "end"
    return framed(cells, columns, rows, up, ticks[:columns])
