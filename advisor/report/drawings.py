"""The figures of a recommendation, laid out in pixels. What a figure says is never said by colour alone: marks differ in shape,
lines in dashes. The same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.report.shapes import (
    SHAPES,
    TEXT,
    Box,
    Dot,
    Line,
    Scale,
    Shape,
    Text,
    figure_of,
    linear_labels,
    svg_of,
)
from advisor.report.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Triple = tuple[float, float, float]
CHARACTER = 6.4  # mean width of a character in pixels
HEAT = 0.55  # opacity of the largest share; text stays readable on it in light and dark
WIDTH = 520  # pixels of the figures that stand in pairs
TICK = 3.5  # length in pixels


@dataclass(frozen=True)
class Cell:
    """A module of the heat-map; ``rank`` is written where ranks differ."""

    layer: int | None
    role: str
    share: float
    picked: bool
    rank: int | None = None


@dataclass(frozen=True)
class Mark:
    """A selection in a plot; ``kind`` is a key of ``SHAPES``, ``untold``: it cannot be told from the pick.

    ``difference``: by how many per cent its loss is higher than that of all modules.
    """

    label: str
    kind: str
    params: int
    metric: Triple
    difference: Triple
    untold: bool = False


@dataclass(frozen=True)
class Drawing:
    """A figure, to be shown on the page or on white; ``name`` makes its ids unique in the page."""

    name: str
    title: str
    description: str
    size: tuple[float, float]
    shapes: Sequence[Shape]

    def svg(self) -> str:
        """An ``<svg>`` element in the page's colours."""
        return svg_of(self.shapes, self.name, self.title, self.description, *map(math.ceil, self.size))

    def figure(self) -> Figure:
        """By matplotlib, on white, for ``savefig``; a notebook shows it."""
        return figure_of(self.shapes, *map(math.ceil, self.size))


def heat_map(cells: Sequence[Cell]) -> Drawing:
    """Layers down, roles across; of several modules at one place the shares are added and the picked ones counted."""
    layers = list(dict.fromkeys(cell.layer for cell in cells))
    roles = list(dict.fromkeys(cell.role for cell in cells))
    places: dict[tuple[int | None, str], list[Cell]] = {}
    for cell in cells:
        places.setdefault((cell.layer, cell.role), []).append(cell)
    texts = {place: _cell_text(here) for place, here in places.items()}
    width = max(62.0, 26 + CHARACTER * max(map(len, texts.values())))
    height, left = 28.0, 44.0
    heads = [_cut(role, 24) for role in roles]
    slanted = max(map(len, heads)) * CHARACTER > width - 4
    top = 24 + (0.64 * CHARACTER * max(map(len, heads)) if slanted else 0)
    right = 0.77 * CHARACTER * len(heads[-1]) if slanted else 4
    largest = max(sum(cell.share for cell in here) for here in places.values()) or 1.0
    shapes: list[Shape] = [Text(0, top - 8, "layer", colour="muted")]
    for column, head in enumerate(heads):
        anchor, turned = ("start", 40.0) if slanted else ("middle", 0.0)
        shapes.append(Text(left + (column + 0.5) * width, top - 8, head, anchor, turned=turned))
    for row, layer in enumerate(layers):
        y = top + row * height
        shapes.append(Text(left - 12, y + height / 2, "–" if layer is None else str(layer), "end", middle=True))
        for column, role in enumerate(roles):
            if (layer, role) in places:
                x, here = left + column * width, places[layer, role]
                shapes += _cell(x, y, width, height, here, texts[layer, role], largest)

    picked = sum(cell.picked for cell in cells)
    best = max(cells, key=lambda cell: cell.share)
    return Drawing(
        "heat-map",
        "Each module's share of the kernel, and which modules are picked",
        f"Layers down, roles across. {picked} of {len(cells)} modules are picked, marked by a dot and a frame. The largest "
        f"share, {best.share:.1%}, has {best.role}{'' if best.layer is None else f' of layer {best.layer}'}.",
        (left + len(roles) * width + right, top + len(layers) * height + 4),
        shapes,
    )


def _cell_text(here: Sequence[Cell]) -> str:
    share = f"{100 * sum(cell.share for cell in here):.1f}"
    picked = [cell for cell in here if cell.picked]
    some = f" {len(picked)}/{len(here)}" if picked and len(here) > 1 else ""
    ranks = "".join(f" r{cell.rank}" for cell in picked if cell.rank is not None)
    return share + some + ranks


def _cell(x: float, y: float, width: float, height: float, here: Sequence[Cell], text: str, largest: float) -> list[Shape]:
    opacity = HEAT * sum(cell.share for cell in here) / largest
    picked = any(cell.picked for cell in here)
    edge, edge_width = ("ink", 1.8) if picked else ("line", 0.8)
    shapes: list[Shape] = [Box(x + 1.5, y + 1.5, width - 3, height - 3, "pick", opacity, edge, edge_width)]
    if picked:
        shapes.append(Dot(x + 11, y + height / 2, "dot", 6, "ink", "ink", 0.0))
    shapes.append(Text(x + width - 7, y + height / 2, text, "end", bold=picked, middle=True))
    return shapes


def pareto(front: Sequence[tuple[int, float]], marks: Sequence[Mark], metric: str) -> Drawing:
    """Predicted metric against LoRA parameters (log scale): the front as steps, ``marks`` named in a column beside it."""
    named: dict[tuple[int, float], list[Mark]] = {}
    for mark in marks:
        named.setdefault((mark.params, mark.metric[0]), []).append(mark)
    line, labels = 15.0, 175.0  # height of a name, width of their column
    height = max(400.0, 70 + line * len(named))
    values = [value for _, value in front] + [value for _, value in named]
    sizes = [params for params, _ in front] + [params for params, _ in named]
    margin = 0.06 * (max(values) - min(values)) or 0.01
    across = Scale(min(sizes) / 1.25, max(sizes) * 1.25, 46, WIDTH - labels, log=True)
    up = Scale(min(values) - margin, max(values) + margin, height - 42, 14)
    shapes = _axes(across, up, [count(float(f"{x:.3g}")) for x in across.ticks()], linear_labels(up.ticks()))
    shapes.append(Text((across.start + across.end) / 2, height - 10, "LoRA parameters (log scale)", "middle"))
    at = [(across.at(params), up.at(value)) for params, value in front]
    steps = [at[0]]
    for x, y in at[1:]:
        steps += [(x, steps[-1][1]), (x, y)]
    shapes += [Line(steps, "muted", 1.2), *(Dot(x, y, "dot", 4, "muted", "muted", 0.0) for x, y in at)]
    order = sorted(named, key=lambda place: -place[1])
    spread = _spread([up.at(value) for _, value in order], line, up.end, up.start)
    column = across.end + 16
    front_most: list[Shape] = []
    for place, y in zip(order, spread, strict=True):
        kind = min((mark.kind for mark in named[place]), key=list(SHAPES).index)
        is_pick = kind == "pick"
        colour = "pick" if is_pick else "ink"
        x, middle = across.at(place[0]), up.at(place[1])
        shapes.append(Line(((x, middle), (column - 3, y)), "pick" if is_pick else "line", 0.9))
        edge = "paper" if is_pick else "ink"
        front_most.insert(
            0 if not is_pick else len(front_most),
            Dot(x, middle, kind, 10 if is_pick else 5.5, "pick" if is_pick else "none", edge, 1.3),
        )
        label = _cut(" = ".join(dict.fromkeys(mark.label for mark in named[place])), 24)
        shapes.append(Text(column, y, label, colour=colour, bold=is_pick, middle=True))

    pick = next(mark for mark in marks if mark.kind == "pick")
    return Drawing(
        "pareto",
        f"Predicted {metric} against LoRA parameters",
        f"The Pareto front runs from {count(front[0][0])} parameters at {front[0][1]:.3f} to {count(front[-1][0])} at "
        f"{front[-1][1]:.3f}. The pick has {count(pick.params)} parameters and {pick.metric[0]:.3f}. Common target sets and the "
        "picks of other methods are marked.",
        (WIDTH, height),
        [*shapes, *front_most],
    )


def spectra(lines: Sequence[tuple[str, Sequence[float]]], sigma: float) -> Drawing:
    """Descending eigenvalues on a log scale, and σ; the first line is the pick's. Below σ/100 nothing is drawn."""
    top = max(max(values) for _, values in lines)
    floor = min(sigma, top) / 100
    (_, pick), (_, full) = lines
    return Drawing(
        "spectra",
        "Eigenvalues of the kernel: of the pick, and of all modules",
        f"{len(pick)} eigenvalues each. The largest is {pick[0]:.3g} of the pick and {full[0]:.3g} of all modules; above the "
        f"ridge σ = {sigma:.3g} lie {sum(v > sigma for v in pick)} and {sum(v > sigma for v in full)}.",
        (WIDTH, 400),
        _spectra(lines, sigma, floor, top) if top > 0 else [Text(WIDTH / 2, 200, "All eigenvalues are zero.", "middle")],
    )


def _spectra(lines: Sequence[tuple[str, Sequence[float]]], sigma: float, floor: float, top: float) -> list[Shape]:
    drawn = [[(i, value) for i, value in enumerate(values, 1) if value >= floor] for _, values in lines]
    longest = max(len(points) for points in drawn)
    margin = 0.05 * (longest - 1) or 0.5
    across, up = Scale(1 - margin, longest + margin, 52, WIDTH - 10), Scale(floor * 0.8, max(top, sigma) * 1.6, 358, 14, log=True)
    whole = [x for x in across.ticks() if x == round(x) and x >= 1]
    labels = [f"{y:g}" if 1e-4 < y < 1e6 else f"{y:.0e}" for y in up.ticks()]
    shapes = _axes(across, up, [f"{x:.0f}" for x in whole], labels, at=whole)
    shapes.append(Text((across.start + across.end) / 2, 390, "number of the eigenvalue, largest first", "middle"))
    level = up.at(sigma)
    shown: list[tuple[str, str, float, tuple[float, ...]]] = []
    for (label, _), points, colour, width, dashes in zip(
        lines, drawn, ("pick", "ink"), (2.2, 1.5), ((), (5.5, 2.4)), strict=True
    ):
        if points:
            shapes.append(Line([(across.at(i), up.at(value)) for i, value in points], colour, width, dashes))
            shown.append((label, colour, width, dashes))
    shapes.append(Line(((across.start, level), (across.end, level)), "muted", 1.2, (1.2, 2)))
    shown.append((f"σ = {sigma:.3g}", "muted", 1.2, (1.2, 2)))
    start = across.end - 40 - CHARACTER * max(len(label) for label, *_ in shown)
    for row, (label, colour, width, dashes) in enumerate(shown):
        y = up.end + 14 + 17 * row
        shapes += [Line(((start, y), (start + 23, y)), colour, width, dashes), Text(start + 32, y, label, middle=True)]
    return shapes


def intervals(marks: Sequence[Mark], quantity: str, which: str) -> Drawing:
    """A row a selection: value and interval of ``which``, ``metric`` or ``difference``; hollow: cannot be told from the pick."""
    row, labels = 25.0, 10 + CHARACTER * min(27, max(len(mark.label) for mark in marks))
    triples: list[Triple] = [getattr(mark, which) for mark in marks]
    low, high = min(t[1] for t in triples), max(t[2] for t in triples)
    margin = 0.05 * (high - low) or 0.01
    across = Scale(low - margin, high + margin, labels, WIDTH - 14)
    bottom = 6 + row * len(marks)
    shapes: list[Shape] = []
    ticks = across.ticks()
    for value, label in zip(ticks, linear_labels(ticks), strict=True):
        x = across.at(value)
        shapes += [Line(((x, 6), (x, bottom)), "line", 0.8), Line(((x, bottom), (x, bottom + TICK)), "muted", 0.8)]
        shapes.append(Text(x, bottom + TICK + TEXT + 1, label, "middle"))
    shapes.append(Line(((across.start, bottom), (across.end, bottom)), "muted", 0.8))
    middle = across.at(triples[0][0])
    shapes.append(Line(((middle, 6), (middle, bottom)), "pick", 1.0, (1, 1.7)))
    for i, (mark, (value, least, most)) in enumerate(zip(marks, triples, strict=True)):
        y, colour = 6 + row * (i + 0.5), "ink" if i else "pick"
        shapes.append(Text(labels - 7, y, _cut(mark.label, 27), "end", colour, bold=i == 0, middle=True))
        ends = across.at(least), across.at(most)
        shapes.append(Line(((ends[0], y), (ends[1], y)), colour, 1.4 if i else 2.6))
        shapes += [Line(((x, y - 0.16 * row), (x, y + 0.16 * row)), colour, 1.4) for x in ends]
        fill = "paper" if mark.untold else colour
        shapes.append(Dot(across.at(value), y, mark.kind, 6.5 if i else 8, fill, colour, 1.5))
    return Drawing(
        f"intervals-{which}",
        f"Predicted {quantity} with intervals, the pick and others",
        "; ".join(
            f"{mark.label}: {value:.3f} ({low:.3f}–{high:.3f})" for mark, (value, low, high) in zip(marks, triples, strict=True)
        )
        + ". Hollow marks cannot be told from the pick.",
        (WIDTH, 14 + row * len(marks) + 30),
        shapes,
    )


def _axes(
    across: Scale, up: Scale, x_labels: Sequence[str], y_labels: Sequence[str], at: Sequence[float] | None = None
) -> list[Shape]:
    """Grid, ticks, their labels, and the two axes; ``at``: the ticks across, if not those of the scale."""
    shapes: list[Shape] = []
    for value, label in zip(across.ticks() if at is None else at, x_labels, strict=True):
        x = across.at(value)
        shapes += [Line(((x, up.start), (x, up.end)), "line", 0.8), Line(((x, up.start), (x, up.start + TICK)), "muted", 0.8)]
        shapes.append(Text(x, up.start + TICK + TEXT + 1, label, "middle"))
    for value, label in zip(up.ticks(), y_labels, strict=True):
        y = up.at(value)
        shapes += [Line(((across.start, y), (across.end, y)), "line", 0.8)]
        shapes += [Line(((across.start - TICK, y), (across.start, y)), "muted", 0.8)]
        shapes.append(Text(across.start - TICK - 3.5, y, label, "end", middle=True))
    shapes.append(Line(((across.start, up.end), (across.start, up.start), (across.end, up.start)), "muted", 0.8))
    return shapes


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places near ``wanted`` (ascending), at least ``gap`` apart and within [low, high] if they fit.

    Neighbours that are too close become a block around the mean of what its members want (isotonic regression).
    """
    blocks: list[list[float]] = []  # of wanted − gap·index: [sum, count]
    for i, value in enumerate(wanted):
        blocks.append([value - gap * i, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, members = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += members
    places = np.repeat([total / members for total, members in blocks], [int(members) for _, members in blocks])
    ceiling = max(low, high - gap * (len(wanted) - 1))
    return [float(place) + gap * i for i, place in enumerate(np.clip(places, low, ceiling))]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
