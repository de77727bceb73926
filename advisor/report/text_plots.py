"""Plots of plain characters, for a terminal without colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.report.words import count
from advisor.theory.kernels import Array

COLUMNS, ROWS = 60, 10
EIGHTHS = " ▏▎▍▌▋▊▉"
RIDGE, BOTH = "┄", "◐"


def bar(share: float, width: int) -> str:
    """``width`` columns, filled from the left to ``share`` of 1 in eighths of a column; a share above 0 leaves a trace."""
    eighths = max(round(8 * width * min(share, 1.0)), int(share > 0))
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(width)


def spectrum_lines(series: Sequence[tuple[Array, str]], sigma: float, columns: int = COLUMNS, rows: int = ROWS) -> list[str]:
    """A plot of descending eigenvalues against their number, log scale, σ as a dashed line, ``columns`` + 12 wide at most.

    What lies below σ/100, where the ridge leaves nothing of it, is not drawn but counted.
    """
    n = len(series[0][0])
    top = max(float(values[0]) for values, _ in series)
    if top <= 0:
        return ["  All eigenvalues are zero: nothing is trained."]
    smallest = min(float(values[values > 0][-1]) for values, _ in series if values[0] > 0)
    floor = float(np.clip(smallest, sigma / 100, sigma / 2)) if sigma <= top else max(smallest, top * 1e-6)
    high, low = np.log10(top), np.log10(min(max(floor, top * 1e-12), top / 10))
    columns = min(columns, n)

    def row_of(value: float) -> int:
        return round(float((high - np.log10(value)) / (high - low) * (rows - 1)))

    grid = [[" "] * columns for _ in range(rows)]
    if top >= sigma and row_of(sigma) < rows:
        grid[row_of(sigma)] = [RIDGE] * columns
    hidden = []
    for values, mark in series:
        drawn = [(i, float(v)) for i, v in enumerate(values) if v > 0 and row_of(float(v)) < rows]
        for i, value in drawn:
            row, column = row_of(value), round(i * (columns - 1) / max(n - 1, 1))
            taken = grid[row][column] not in (" ", RIDGE, mark)
            grid[row][column] = BOTH if taken else mark
        if len(drawn) < n:
            hidden.append(f"{n - len(drawn)} of {mark}")
    lines = []
    for row, cells in enumerate(grid):
        value = float(f"{10 ** (high - row / (rows - 1) * (high - low)):.2g}")
        label = f"{count(value):>9} ┤" if row % 3 == 0 else f"{'':9} │"
        lines.append(label + "".join(cells).rstrip())
    lines.append(f"{'':9} └" + "─" * columns)
    middle = (n + 1) // 2
    axis = list(" " * columns)
    for number in (1, middle, n):
        text, at = str(number), round((number - 1) * (columns - 1) / max(n - 1, 1))
        at = min(at, columns - len(text))
        axis[at : at + len(text)] = text
    lines.append(f"{'':11}" + "".join(axis).rstrip())
    if hidden:
        lines.append(f"{'':11}not drawn, below the plot: {', '.join(hidden)}")
    return lines
