"""Figures of a recommendation as SVG elements for an HTML page: text stays text, colours are the page's CSS variables.

Drawn by matplotlib without pyplot, in CSS pixels. The same numbers give the same bytes. What a figure says is never said by
colour alone: marks differ in shape, lines in dashes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from advisor.report.words import count

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Palette:
    """Colours of a figure: of text, axes, grid, the pick, and what lies behind."""

    ink: str
    muted: str
    line: str
    pick: str
    paper: str

    def style(self, background: str) -> dict[str, Any]:
        """For matplotlib."""
        return {
            "svg.fonttype": "none",
            "text.parse_math": False,
            "font.family": ["DejaVu Sans"],
            "font.size": TEXT,
            "text.color": self.ink,
            "axes.labelcolor": self.ink,
            "axes.edgecolor": self.muted,
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": self.line,
            "grid.linewidth": 0.8,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "figure.facecolor": background,
            "savefig.facecolor": background,
        }


PAGE = Palette("#000001", "#000002", "#000003", "#000004", "#000005")  # stand for the page's variables
VARIABLES = {getattr(PAGE, field.name): field.name for field in fields(Palette)}
WHITE = Palette("#1b1f24", "#6a737d", "#d8dee4", "#0757b0", "#ffffff")
TEXT = 11.5  # pixels
CHARACTER = 6.4  # mean width of one
HEAT = 0.55  # opacity of the largest share; text stays readable on it in light and dark
WIDTH = 520  # pixels of the figures that stand in pairs
SHAPES = {"pick": "D", "all": "o", "baseline": "v", "common": "s", "peer": "^"}  # as the captions of the page say


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
    """A selection in a plot; ``kind`` is a key of ``SHAPES``, ``alike``: it cannot be told from the pick."""

    label: str
    kind: str
    params: int
    metric: Triple
    loss: Triple
    alike: bool = False


@dataclass(frozen=True)
class Drawing:
    """What a figure shows, to be drawn for the page or on white.

    Attributes:
        name: makes its ids unique in the page. size: width, height. margins: left, right, top, bottom of the axes.
        pixels: the axes' units are pixels, y downwards.
    """

    name: str
    title: str
    description: str
    size: tuple[float, float]
    margins: tuple[float, float, float, float]
    draw: Callable[[Axes, Palette], None]
    pixels: bool = False

    def svg(self) -> str:
        """An ``<svg>`` element in the page's colours."""
        out = io.BytesIO()
        with style.context(["default", {**PAGE.style("none"), "svg.hashsalt": self.name}]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font, not ours, is seen
            figure = self._drawn(PAGE)
            FigureCanvasSVG(figure)
            figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return _embedded(ElementTree.fromstring(out.getvalue()), self.name, self.title, self.description, math.ceil(self.size[0]))

    def figure(self) -> Figure:
        """On white, for ``savefig``; a notebook shows it."""
        with style.context(["default", WHITE.style(WHITE.paper)]):
            return self._drawn(WHITE)

    def _drawn(self, paint: Palette) -> Figure:
        width, height = math.ceil(self.size[0]), math.ceil(self.size[1])
        left, right, top, bottom = self.margins
        figure = NotebookFigure(figsize=(width / 72, height / 72), dpi=72)
        axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))
        if self.pixels:
            axes.set(xlim=(0, width), ylim=(height, 0))
        self.draw(axes, paint)
        return figure


class NotebookFigure(Figure):
    """A figure that a notebook shows whether or not pyplot was set up there."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=110)
        return out.getvalue()


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

    def draw(axes: Axes, paint: Palette) -> None:
        axes.axis("off")
        axes.text(0, top - 8, "layer", color=paint.muted, va="baseline")
        for column, head in enumerate(heads):
            middle = left + (column + 0.5) * width
            turned = {"rotation": 40, "rotation_mode": "anchor", "ha": "left"} if slanted else {"ha": "center"}
            axes.text(middle, top - 8, head, va="baseline", **turned)
        for row, layer in enumerate(layers):
            y = top + row * height
            axes.text(left - 12, y + height / 2, "–" if layer is None else str(layer), ha="right", va="center_baseline")
            for column, role in enumerate(roles):
                if (layer, role) in places:
                    here = places[layer, role]
                    _draw_cell(axes, paint, left + column * width, y, width, height, here, texts[layer, role], largest)

    picked = sum(cell.picked for cell in cells)
    best = max(cells, key=lambda cell: cell.share)
    return Drawing(
        "heat-map",
        "Each module's share of the kernel, and which modules are picked",
        f"Layers down, roles across. {picked} of {len(cells)} modules are picked, marked by a dot and a frame. The largest "
        f"share, {best.share:.1%}, has {best.role}{'' if best.layer is None else f' of layer {best.layer}'}.",
        (left + len(roles) * width + right, top + len(layers) * height + 4),
        (0, 0, 0, 0),
        draw,
        pixels=True,
    )


def _cell_text(here: Sequence[Cell]) -> str:
    share = f"{100 * sum(cell.share for cell in here):.1f}"
    picked = [cell for cell in here if cell.picked]
    some = f" {len(picked)}/{len(here)}" if picked and len(here) > 1 else ""
    ranks = "".join(f" r{cell.rank}" for cell in picked if cell.rank is not None)
    return share + some + ranks


def _draw_cell(
    axes: Axes, paint: Palette, x: float, y: float, width: float, height: float, here: Sequence[Cell], text: str, largest: float
) -> None:
    opacity = HEAT * sum(cell.share for cell in here) / largest
    picked = any(cell.picked for cell in here)
    field, frame = (Rectangle((x + 1.5, y + 1.5), width - 3, height - 3, clip_on=False) for _ in range(2))
    field.set(facecolor=paint.pick, alpha=opacity, linewidth=0)
    frame.set(facecolor="none", edgecolor=paint.ink if picked else paint.line, linewidth=1.8 if picked else 0.8)
    axes.add_patch(field)
    axes.add_patch(frame)
    if picked:
        axes.plot(x + 11, y + height / 2, "o", color=paint.ink, markersize=6, clip_on=False)
    axes.text(x + width - 7, y + height / 2, text, ha="right", va="center_baseline", weight="bold" if picked else "normal")


def pareto(front: Sequence[tuple[int, float]], marks: Sequence[Mark], metric: str) -> Drawing:
    """Predicted metric against LoRA parameters (log scale): the front as steps, ``marks`` named in a column beside it."""
    named: dict[tuple[int, float], list[Mark]] = {}
    for mark in marks:
        named.setdefault((mark.params, mark.metric[0]), []).append(mark)
    line, labels = 15.0, 175.0  # height of a name, width of their column
    height = max(400.0, 70 + line * len(named))
    values = [value for _, value in front] + [value for _, value in named]
    sizes = [params for params, _ in front] + [params for params, _ in named]

    def draw(axes: Axes, paint: Palette) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 100 * min(sizes) else (1,), numticks=20))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(float(f"{x:.3g}"))))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlim(min(sizes) / 1.25, max(sizes) * 1.25)
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.01
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel("LoRA parameters (log scale)")
        axes.step(*zip(*front, strict=True), where="post", color=paint.muted, linewidth=1.2)
        axes.plot(*zip(*front, strict=True), "o", color=paint.muted, markersize=4, linestyle="none")
        order = sorted(named, key=lambda place: place[1])
        to_pixels = axes.transData.transform
        wanted = [float(to_pixels(place)[1]) for place in order]
        bottom, top = (float(v) for v in axes.transAxes.transform([(0, 0), (0, 1)])[:, 1])
        spread = _spread(wanted, line, bottom, top)
        column = float(axes.transAxes.transform((1, 0))[0]) + 16
        back = axes.transData.inverted().transform
        for place, y in zip(order, spread, strict=True):
            here = named[place]
            kind = min((mark.kind for mark in here), key=list(SHAPES).index)
            is_pick = kind == "pick"
            end = back((column - 3, y))
            colour, edge, lead = (paint.pick, paint.paper, paint.pick) if is_pick else (paint.ink, paint.ink, paint.line)
            axes.plot((place[0], end[0]), (place[1], end[1]), color=lead, linewidth=0.9, clip_on=False, zorder=1)
            axes.plot(
                *place,
                SHAPES[kind],
                color=colour,
                markersize=10 if is_pick else 5.5,
                markeredgecolor=edge,
                fillstyle="full" if is_pick else "none",
                markeredgewidth=1.3,
                clip_on=False,
                zorder=5 if is_pick else 4,
            )
            x, middle = back((column, y))
            axes.text(
                x,
                middle,
                _cut(" = ".join(dict.fromkeys(mark.label for mark in here)), 24),
                va="center_baseline",
                weight="bold" if is_pick else "normal",
                color=colour,
            )

    pick = next(mark for mark in marks if mark.kind == "pick")
    return Drawing(
        "pareto",
        f"Predicted {metric} against LoRA parameters",
        f"The Pareto front runs from {count(front[0][0])} parameters at {front[0][1]:.3f} to {count(front[-1][0])} at "
        f"{front[-1][1]:.3f}. The pick has {count(pick.params)} parameters and {pick.metric[0]:.3f}. Common target sets and the "
        "picks of other methods are marked.",
        (WIDTH, height),
        (46, labels, 14, 42),
        draw,
    )


def spectra(lines: Sequence[tuple[str, Sequence[float]]], sigma: float) -> Drawing:
    """Descending eigenvalues on a log scale, and σ; the first line is the pick's. Below σ/100 nothing is drawn."""
    top = max(max(values) for _, values in lines)
    floor = min(sigma, top) / 100

    def draw(axes: Axes, paint: Palette) -> None:
        if top <= 0:
            axes.text(0.5, 0.5, "All eigenvalues are zero.", transform=axes.transAxes, ha="center")
            return
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=9))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if 1e-4 < y < 1e6 else f"{y:.0e}"))
        for (label, values), colour, width, dashes in zip(lines, (paint.pick, paint.ink), (2.2, 1.5), ("-", "--"), strict=True):
            drawn = [(i, value) for i, value in enumerate(values, 1) if value >= floor]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), dashes, color=colour, linewidth=width, label=label)
        axes.axhline(sigma, color=paint.muted, linewidth=1.2, linestyle=":", label=f"σ = {sigma:.3g}")
        axes.set_ylim(floor * 0.8, max(top, sigma) * 1.6)
        axes.set_xlabel("number of the eigenvalue, largest first")
        axes.legend(frameon=False, loc="upper right")

    (_, pick), (_, full) = lines
    return Drawing(
        "spectra",
        "Eigenvalues of the kernel: of the pick, and of all modules",
        f"{len(pick)} eigenvalues each. The largest is {pick[0]:.3g} of the pick and {full[0]:.3g} of all modules; above the "
        f"ridge σ = {sigma:.3g} lie {sum(v > sigma for v in pick)} and {sum(v > sigma for v in full)}.",
        (WIDTH, 400),
        (52, 10, 14, 42),
        draw,
    )


def intervals(marks: Sequence[Mark], quantity: str, which: str) -> Drawing:
    """One row a selection: value and interval of ``which``, ``metric`` or ``loss``; hollow: cannot be told from the pick."""
    row, labels = 25.0, 10 + CHARACTER * min(27, max(len(mark.label) for mark in marks))
    triples: list[Triple] = [getattr(mark, which) for mark in marks]
    pick = triples[0]

    def draw(axes: Axes, paint: Palette) -> None:
        axes.set_ylim(len(marks) - 0.5, -0.5)
        axes.set_yticks(range(len(marks)), [_cut(mark.label, 27) for mark in marks])
        axes.tick_params(axis="y", length=0)
        axes.get_yticklabels()[0].set(weight="bold", color=paint.pick)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.axvline(pick[0], color=paint.pick, linewidth=1, linestyle=":")
        for y, (mark, (value, low, high)) in enumerate(zip(marks, triples, strict=True)):
            colour = paint.pick if y == 0 else paint.ink
            axes.plot((low, high), (y, y), color=colour, linewidth=2.6 if y == 0 else 1.4, solid_capstyle="butt", zorder=2)
            for end in (low, high):
                axes.plot((end, end), (y - 0.16, y + 0.16), color=colour, linewidth=1.4, zorder=2)
            axes.plot(
                value,
                y,
                SHAPES[mark.kind],
                markersize=8 if y == 0 else 6.5,
                markeredgecolor=colour,
                zorder=3,
                markerfacecolor=paint.paper if mark.alike else colour,
                markeredgewidth=1.5,
            )

    return Drawing(
        f"intervals-{which}",
        f"Predicted {quantity} with intervals, the pick and others",
        "; ".join(
            f"{mark.label}: {value:.3f} ({low:.3f}–{high:.3f})" for mark, (value, low, high) in zip(marks, triples, strict=True)
        )
        + ". Hollow marks cannot be told from the pick.",
        (WIDTH, 14 + row * len(marks) + 30),
        (labels, 14, 6, 28),
        draw,
    )


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


def _embedded(root: ElementTree.Element, name: str, title: str, description: str, width: int) -> str:
    """A stand-alone SVG as an element of a page: no namespaces, style sheet or idle ids; the page's colours; a title."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
    text = " ".join(value for element in root.iter() for value in element.attrib.values())
    used = set(re.findall(r"#([\w-]+)", text))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        plain = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        if plain.get("id") not in used:
            plain.pop("id", None)
        element.attrib = {key: _of_the_page(value, name) for key, value in plain.items()}
        if "id" in plain:
            element.set("id", f"{name}-{plain['id']}")
    box = root.get("viewBox", "")
    root.attrib = {
        "class": "figure",
        "viewBox": box,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "style": f"width: {width}px; min-width: {round(0.68 * width)}px",
    }
    for position, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = words
        root.insert(position, element)
    return ElementTree.tostring(root, encoding="unicode")


def _of_the_page(value: str, name: str) -> str:
    """An attribute with the page's colours, and references to this figure's ids."""
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var(--{variable})")
    return re.sub(r"#(?=[\w-])", f"#{name}-", value)
