"""The answer in a few lines over the map: what to adapt, what it costs or wins, how sure that is (no state, no engine)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from textual.content import Content

from tui.engine import MOSTLY, OPEN, SETTLED, UNLIKE, Against, Headline
from tui.intervals import LEAST, axis, interval, reach

SIGNS = {
    SETTLED: ("✓", "$text-success"),
    MOSTLY: ("≈", "$text-success"),
    OPEN: ("?", "$text-warning"),
    UNLIKE: ("⚠", "$text-error"),
}
LABELS = 26  # columns of what a bar is against, where there is room
USUAL = len("+11% (+1 to +43%)")  # columns of a difference: what is not computed yet takes as many, so that nothing moves


def bars(rows: Sequence[Against], width: int, with_axis: bool = True) -> list[Content]:
    """Each difference in words and as a bar on one axis; below the words where both do not fit on a line."""
    from advisor.report.words import change_span

    if not rows:
        return []
    half = reach(row.change for row in rows if row.change is not None)
    texts = [(f"loss vs {row.other}", "…" if row.change is None else change_span(row.change)) for row in rows]
    name = min(max(len(label) for label, _ in texts), LABELS)
    said = min(max(USUAL if row.change is None else len(words) for row, (_, words) in zip(rows, texts, strict=True)), LABELS)
    left = width - name - said - 4
    lines = []
    for row, (label, words) in zip(rows, texts, strict=True):
        if left >= 2 * LEAST:
            head = f"{_cut(label, name):<{name}}  {words:<{said}}  "
            lines.append(Content.assemble(head, _bar(row, left, half)))
        else:
            lines += [Content(f"{_cut(label, max(width - len(words) - 1, 8))} {words}"), _bar(row, width, half)]
    if with_axis:
        lines.append(Content.assemble(" " * (name + said + 4), axis(left, half)) if left >= 2 * LEAST else axis(width, half))
    return lines


def _bar(row: Against, width: int, half: float) -> Content:
    return Content("") if row.change is None else interval(row.change, width, half)


def headline(found: Headline, width: int, is_low: bool) -> Content:
    """Everything; where the screen is low, the first sentence of each."""
    sign, style = SIGNS[found.sureness]
    adapt = wrapped(found.adapt, width)
    if is_low:
        adapt = fitted(found.adapt, width, 1)
    lines = [Content.styled(line, "bold") for line in adapt]
    if not is_low:
        lines += [Content(line) for line in wrapped(found.level, width)]
    drawn = bars(found.against, width, with_axis=not is_low)
    lines += drawn[::2] if is_low and len(drawn) == 2 * len(found.against) else drawn  # the words alone where there is no room
    verdict, following = f"{sign} {found.sureness}. {found.why}", f"→ {found.next}"
    if is_low:
        verdict, following = _cut(verdict, width), _cut(following.split(". ")[0].rstrip(".") + ".", width)
    lines += [Content.styled(line, f"bold {style}") for line in wrapped(verdict, width)]
    lines += [Content(line) for line in wrapped(following, width)]
    return Content("\n").join(lines)


def fitted(text: str, width: int, most: int) -> list[str]:
    """Wrapped to at most so many lines; the last one ends in … where something is missing."""
    lines = wrapped(text, width)
    return lines if len(lines) <= most else [*lines[: most - 1], _cut(f"{lines[most - 1]} …", width)]


def wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 8), break_on_hyphens=False) or [""]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"
