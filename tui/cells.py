"""How numbers become cells of the heat-map: levels, glyphs, labels, a legend (no Textual, no NumPy).

A level says the same thing three times: as a shade of the theme's colours, as a block glyph, and where there is room as a
number. So it is readable without colour and by anyone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

GLYPHS = "·░▒▓█"
TELLING = 0.03  # of the largest value: what a number may be rounded by and still say something
SHORT = {"query": "q", "key": "k", "value": "v", "output": "o"}
CHOSEN, LEFT_OUT, PARTLY, UNKNOWN = "●", "○", "◐", "?"
ADDED, DROPPED = "⊕", "⊖"  # unlike the pick
DISTURBS = "disturbs"  # the measure that takes rows to keep


@dataclass(frozen=True)
class Measure:
    """What colours the heat-map.

    Attributes:
        short: where there is less room. scale: what a cell's number is multiplied by. digits: after the point.
    """

    key: str
    label: str
    short: str
    unit: str
    scale: float
    digits: int
    help: str


MEASURES = {
    measure.key: measure
    for measure in (
        Measure(
            "worth",
            "loss saved per 1% of parameters",
            "saved per param",
            "%",
            1,
            2,
            "Loss saved per 1% of parameters: predicted loss without the module against that with it, the rest as selected, "
            "in percent, for each percent of all LoRA parameters that it takes. What a budget is best spent on.",
        ),
        Measure(
            "gain",
            "loss saved",
            "loss saved",
            "%",
            100,
            1,
            "Loss saved: predicted loss without the module against that with it, the rest as selected, in percent.",
        ),
        Measure(
            "share",
            "kernel share",
            "kernel share",
            "%",
            100,
            1,
            "Kernel share: the module's part of the trace of the kernel of all modules, in percent. How much adapting it can "
            "move the outputs on your data.",
        ),
        Measure(
            "agreement",
            "gradient agreement",
            "agreement",
            "%",
            100,
            0,
            "Gradient agreement: mean product of two examples' gradients over their mean square, in percent. 100: all examples "
            "pull the module the same way; 0: unrelated.",
        ),
        Measure(
            "bound",
            "bound width",
            "bound width",
            "%",
            100,
            0,
            "Bound width: how far toggling the module can move the kernel objective V at most, in percent of V. Narrow: the "
            "module is certain to change little.",
        ),
        Measure(
            DISTURBS,
            "disturbs rows to keep",
            "disturbs",
            "",
            1,
            3,
            "Disturbs rows to keep: how much less the selection would disturb them without the module, the rest as selected. Of "
            "a language model in nats of their loss, else in squared change of what the head reads, as a share of its variance. "
            "There only with rows to keep (To keep on Setup).",
        ),
    )
}


def levels(values: Sequence[float]) -> list[float | None]:
    """Each value's place between the smallest (0) and the largest (1); None where it is not finite. All equal: 1."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return [None] * len(values)
    low, high = min(0.0, *finite), max(finite)
    size = high - low
    return [None if not math.isfinite(v) else (v - low) / size if size > 0 else 1.0 for v in values]


def glyph(level: float | None) -> str:
    """Darker for higher."""
    return UNKNOWN if level is None else GLYPHS[min(int(level * len(GLYPHS)), len(GLYPHS) - 1)]


def number(value: float, measure: Measure, width: int) -> str:
    """The value in the measure's unit, at most ``width`` characters, right-aligned."""
    if not math.isfinite(value):
        return "–".rjust(width)
    for digits in range(measure.digits, -1, -1):
        text = f"{value * measure.scale:.{digits}f}"
        if float(text) == 0:
            text = text.lstrip("-")
        if len(text) <= width:
            return text.rjust(width)
    return ("+" if value > 0 else "-") * width


def number_width(values: Sequence[float], measure: Measure, most: int) -> int:
    """Characters in which every value says something, at most ``most``; 0 where that takes more."""
    largest = max((abs(v) * measure.scale for v in values if math.isfinite(v)), default=0.0)
    for width in range(1, most + 1):
        texts = [number(v, measure, width).strip() for v in values if math.isfinite(v)]
        if any(text.strip("+-") == "" for text in texts):
            continue  # not even whole numbers fit
        digits = min((len(text.partition(".")[2]) for text in texts), default=measure.digits)
        if digits == measure.digits or 0.5 * 10.0**-digits <= TELLING * largest:
            return width
    return 0


def headings(roles: Sequence[str], width: int) -> tuple[str, ...]:
    """The roles' names in so many characters, all written in the same way, each different from the others."""
    shorter = [".".join(SHORT.get(part, part.removesuffix("_proj")) for part in role.split(".")) for role in roles]
    initials = ["".join(part[:1] for part in name.split(".")) for name in shorter]
    flat = [_last_only(name) for name in shorter]
    cut = [name if len(name) <= width else name[: width - 1] + name[-1:] for name in flat]
    for names in (roles, shorter, flat, initials, cut):
        if len(set(names)) == len(names) and all(len(name) <= width for name in names):
            return tuple(names)
    return tuple(str(i + 1)[-width:] if cut.count(name) > 1 else name for i, name in enumerate(cut))


def _last_only(name: str) -> str:
    """``cross.q`` → ``cq``: of all parts but the last the initial."""
    *before, last = name.split(".")
    return "".join(part[:1] for part in before) + last


def short_name(metric: str) -> str:
    """A metric in at most eight letters: ``accuracy`` of tokens, too."""
    from advisor.report.words import metric_name

    return metric_name(metric.split("_")[-1])[:8]
