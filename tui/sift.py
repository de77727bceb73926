"""A filter of the map: which modules a few words name (no Textual)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advisor.core.targets import Target

HELP = "A part of a name or role, a layer's number, in, out, or differs (from the pick); all words must hold."


def sifted(
    text: str,
    targets: Sequence[Target],
    labels: Mapping[int | None, str],
    chosen: frozenset[int],
    pick: frozenset[int] | None,
) -> frozenset[int] | None:
    """Indices of the modules that all words of ``text`` name; None where there are no words.

    Args:
        labels: of the layers. chosen, pick: indices of what is adapted, and what is recommended.
    """
    words = text.lower().split()
    if not words:
        return None

    def holds(index: int, word: str) -> bool:
        target = targets[index]
        if word in ("in", "out"):
            return (index in chosen) == (word == "in")
        if word == "differs":
            return pick is not None and (index in pick) != (index in chosen)
        label = labels.get(target.layer, "").lower()
        if word == label:
            return True
        return not word.isdigit() and (word in target.name.lower() or word in target.role.lower())

    return frozenset(i for i in range(len(targets)) if all(holds(i, word) for word in words))
