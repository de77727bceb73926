"""What figures are made of, in pixels from the top left, and the two ways they are shown: as an SVG element of a page, in the
page's own colours, and by matplotlib on white, for notebooks and ``savefig``.

A colour is the name of one of ``COLOURS``, which are the page's variables; ``none`` is no colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of text, axes, grid, the pick, and what lies behind, on white.
COLOURS = {"ink": "#1b1f24", "muted": "#6a737d", "line": "#d8dee4", "pick": "#0757b0", "paper": "#ffffff", "none": "none"}
TEXT = 11.5  # height of a text in pixels
RAISED = 0.36  # of it lie between its middle and its baseline
SHAPES = {"pick": "D", "all": "o", "baseline": "v", "common": "s", "peer": "^", "dot": "o"}  # matplotlib's names of them
# The same, one pixel across.
PATHS = {
    "D": "M0 -.707L.707 0 0 .707 -.707 0z",
    "o": "M-.5 0A.5 .5 0 1 1 .5 0 .5 .5 0 1 1 -.5 0z",
    "v": "M-.5 -.5H.5L0 .5z",
    "s": "M-.5 -.5H.5V.5H-.5z",
    "^": "M0 -.5L.5 .5H-.5z",
}


@dataclass(frozen=True)
class Line:
    """Through ``points``; ``dashes``: lengths of dash and gap in pixels."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.0
    dashes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Box:
    """With a filling of some ``opacity``, and a frame."""

    x: float
    y: float
    width: float
    height: float
    fill: str = "none"
    opacity: float = 1.0
    edge: str = "none"
    edge_width: float = 0.0


@dataclass(frozen=True)
class Text:
    """At (x, y), which is the ``anchor`` (``start``, ``middle``, ``end``) of its baseline, or of its ``middle``; ``turned`` up
    by so many degrees."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = "ink"
    bold: bool = False
    middle: bool = False
    turned: float = 0.0


@dataclass(frozen=True)
class Dot:
    """A mark of a shape (key of ``SHAPES``) around (x, y), ``size`` across."""

    x: float
    y: float
    shape: str
    size: float
    fill: str
    edge: str
    edge_width: float = 1.0


Shape = Line | Box | Text | Dot


# --- SVG -----------------------------------------------------------------------------------------------------------


def svg_of(shapes: Sequence[Shape], name: str, title: str, description: str, width: int, height: int) -> str:
    """An ``<svg>`` element; ``name`` makes its ids unique in the page."""
    dots = dict.fromkeys(SHAPES[shape.shape] for shape in shapes if isinstance(shape, Dot))
    outlines = [f'<path id="{name}-{i}" d="{PATHS[dot]}"/>' for i, dot in enumerate(dots)]
    ids = {dot: f"{name}-{i}" for i, dot in enumerate(dots)}
    lines = [
        f'<svg class="figure" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'style="width: {width}px; min-width: {round(0.68 * width)}px">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-desc">{escape(description)}</desc>',
        f"<defs>{''.join(outlines)}</defs>",
        *(_element(shape, ids) for shape in shapes),
        "</svg>",
    ]
    return "\n".join(lines)


def _element(shape: Shape, ids: dict[str, str]) -> str:
    if isinstance(shape, Line):
        path = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in shape.points)
        dashes = f"; stroke-dasharray: {' '.join(map(_n, shape.dashes))}" if shape.dashes else ""
        return f'<path d="{path}" style="fill: none; stroke: {_of_page(shape.colour)}; stroke-width: {_n(shape.width)}{dashes}"/>'
    if isinstance(shape, Box):
        path = f"M{_n(shape.x)} {_n(shape.y)}h{_n(shape.width)}v{_n(shape.height)}h{_n(-shape.width)}z"
        filling = f"fill: {_of_page(shape.fill)}" + (f"; fill-opacity: {_n(shape.opacity)}" if shape.opacity < 1 else "")
        return f'<path d="{path}" style="{filling}; stroke: {_of_page(shape.edge)}; stroke-width: {_n(shape.edge_width)}"/>'
    if isinstance(shape, Dot):
        place = f"translate({_n(shape.x)} {_n(shape.y)}) scale({_n(shape.size)})"
        edge = f"stroke: {_of_page(shape.edge)}; stroke-width: {_n(shape.edge_width / shape.size)}"
        return f'<use href="#{ids[SHAPES[shape.shape]]}" transform="{place}" style="fill: {_of_page(shape.fill)}; {edge}"/>'
    y = shape.y + (RAISED * TEXT if shape.middle else 0)
    weight = "; font-weight: 700" if shape.bold else ""
    turned = f' transform="rotate({_n(-shape.turned)} {_n(shape.x)} {_n(y)})"' if shape.turned else ""
    return (
        f'<text x="{_n(shape.x)}" y="{_n(y)}"{turned} style="font-size: {TEXT}px; text-anchor: {shape.anchor}; '
        f'fill: {_of_page(shape.colour)}{weight}">{escape(shape.text)}</text>'
    )


def _n(number: float) -> str:
    """With three decimals at most."""
    return f"{round(number, 3) + 0.0:.3f}".rstrip("0").rstrip(".")


def _of_page(colour: str) -> str:
    return colour if colour == "none" else f"var(--{colour})"


# --- matplotlib ----------------------------------------------------------------------------------------------------


def figure_of(shapes: Sequence[Shape], width: int, height: int) -> Figure:
    """On white, for ``savefig``; a notebook shows it."""
    from matplotlib import style
    from matplotlib.patches import Rectangle

    with style.context(["default", {"text.parse_math": False, "font.family": ["DejaVu Sans"], "font.size": TEXT}]):
        figure: Figure = _notebook_figure()(figsize=(width / 72, height / 72), dpi=72, facecolor=COLOURS["paper"])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        for order, shape in enumerate(shapes):
            if isinstance(shape, Line):
                (line,) = axes.plot(*zip(*shape.points, strict=True), color=COLOURS[shape.colour], linewidth=shape.width)
                line.set(zorder=order, solid_capstyle="butt")
                if shape.dashes:
                    line.set_dashes([length / shape.width for length in shape.dashes])
            elif isinstance(shape, Box):
                for filled in (True, False):
                    colours = (shape.fill, "none") if filled else ("none", shape.edge)
                    box = Rectangle((shape.x, shape.y), shape.width, shape.height, linewidth=0 if filled else shape.edge_width)
                    box.set(facecolor=COLOURS[colours[0]], edgecolor=COLOURS[colours[1]], zorder=order)
                    box.set_alpha(shape.opacity if filled else None)
                    axes.add_patch(box)
            elif isinstance(shape, Dot):
                (dot,) = axes.plot(shape.x, shape.y, SHAPES[shape.shape], markersize=shape.size, zorder=order)
                dot.set(markerfacecolor=COLOURS[shape.fill], markeredgecolor=COLOURS[shape.edge])
                dot.set_markeredgewidth(shape.edge_width)
            else:
                text = axes.text(shape.x, shape.y, shape.text, color=COLOURS[shape.colour], zorder=order)
                text.set(ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor])
                text.set(va="center_baseline" if shape.middle else "baseline", weight="bold" if shape.bold else "normal")
                text.set(rotation=shape.turned, rotation_mode="anchor")
    return figure


def _notebook_figure() -> type[Any]:
    import io

    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook shows whether or not pyplot was set up there."""

        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=110)
            return out.getvalue()

    return NotebookFigure


# --- axes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` along pixels ``start`` to ``end``, by their logarithm if ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel."""
        low, high, value = (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, at most seven or so."""
        if not self.log:
            return linear_ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        narrow = self.high < 125 * self.low
        factors, stride = ((1, 2, 5), 1) if narrow else ((1,), max(1, math.ceil((last - first) / 8)))
        found = [factor * 10.0**power for power in range(first, last + 1) if power % stride == 0 for factor in factors]
        return [value for value in found if self.low <= value <= self.high]


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of a step of 1, 2, 3 or 5 times a power of ten, with at most ``most`` steps between ``low`` and ``high``."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s for s in (power * factor for factor in (1, 2, 3, 5, 10, 20)) if (high - low) / s <= most)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def linear_labels(ticks: Sequence[float]) -> list[str]:
    """With as many decimals as tell them apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = next((d for d in range(12) if abs(round(step, d) - step) < 1e-6 * step), 12)
    return [f"{tick + 0.0:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
