"""Named selections that people use, and structured-random ones for calibration (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from advisor.core.targets import Selection, Target

ALL_LINEAR = "all-linear"
HEAD_ONLY = "head-only"
QV = "q,v"


def _where(name: str, targets: Sequence[Target], keep: Callable[[Target], bool]) -> Selection:
    return Selection(name, tuple(t.name for t in targets if keep(t)))


def all_linear(targets: Sequence[Target]) -> Selection:
    """Every adaptable module."""
    return _where(ALL_LINEAR, targets, lambda t: True)


def target_sets(targets: Sequence[Target], qv_roles: Sequence[str]) -> list[Selection]:
    """The target sets that people copy: all-linear, q,v, attention, MLP, recurrent parts, experts, all but experts, halves of the
    layers, and q,v on the last layers.

    Target sets that come out empty or equal to an earlier one are left out.
    """
    layers = sorted({t.layer for t in targets if t.layer is not None})
    half, quarter = (len(layers) + 1) // 2, (len(layers) + 3) // 4
    last_half, first_half, last_quarter = set(layers[-half:]), set(layers[:half]), set(layers[-quarter:])
    qv = set(qv_roles)
    candidates = [
        all_linear(targets),
        _where(QV, targets, lambda t: t.role in qv),
        _where("attention", targets, lambda t: t.group == "attention"),
        _where("mlp", targets, lambda t: t.group == "mlp"),
        _where("recurrent", targets, lambda t: t.group == "recurrent"),
        _where("experts", targets, lambda t: t.experts > 0),
        _where("all but experts", targets, lambda t: not t.experts),
        _where(_stretch("last", half), targets, lambda t: t.layer in last_half),
        _where(_stretch("first", half), targets, lambda t: t.layer in first_half),
        _where(_stretch("last", quarter), targets, lambda t: t.layer in last_quarter),
        _where(f"attention, {_stretch('last', half)}", targets, lambda t: t.group == "attention" and t.layer in last_half),
        _where(f"q,v, {_stretch('last', half)}", targets, lambda t: t.role in qv and t.layer in last_half),
    ]
    return distinct([c for c in candidates if c.targets])


def _stretch(which: str, count: int) -> str:
    return f"{which} {count} layers" if count > 1 else f"{which} layer"


def distinct(selections: Sequence[Selection]) -> list[Selection]:
    """``selections`` without those whose modules an earlier one already has."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for selection in selections:
        if selection.targets not in seen:
            seen.add(selection.targets)
            kept.append(selection)
    return kept


def structured_random(targets: Sequence[Target], budget: int, rank: int, rng: np.random.Generator, name: str) -> Selection:
    """A random selection as a person might make one, filling ``budget`` LoRA parameters as closely as it can.

    Draws a few roles and a stretch of layers, takes their modules in random order while they fit, then fills up
    with random modules that still fit.
    """
    roles = sorted({t.role for t in targets})
    layers = sorted({t.layer for t in targets if t.layer is not None})
    drawn_roles = set(rng.choice(roles, size=int(rng.integers(1, len(roles) + 1)), replace=False).tolist())
    low, high = sorted(int(i) for i in rng.integers(0, len(layers), size=2)) if layers else (0, -1)
    stretch = set(layers[low : high + 1])
    preferred = [t for t in targets if t.role in drawn_roles and (t.layer in stretch or t.layer is None)]
    others = [t for t in targets if t not in preferred]
    chosen: set[str] = set()
    left = budget
    for group in (preferred, others):
        for index in rng.permutation(len(group)):
            target = group[int(index)]
            if target.lora_params(rank) <= left:
                chosen.add(target.name)
                left -= target.lora_params(rank)
    return _where(name, targets, lambda t: t.name in chosen)
