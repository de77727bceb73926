"""What the author of a LoRA config probably did not mean, one sentence each (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from advisor.advice.ranks import SERVED, serving_note
from advisor.core.targets import Target, block_of
from advisor.models.peft import Resolved


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def matches(entries: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """The names that each entry stands for: exactly, or as a ``.``-suffix."""
    return {entry: [n for n in names if n == entry or n.endswith(f".{entry}")] for entry in entries}


def role(name: str, targets: Mapping[str, Target]) -> str:
    """The role of an adaptable module, else the last part of its name."""
    return targets[name].role if name in targets else name.rsplit(".", 1)[-1]


def unmatched_surprises(unmatched: Sequence[str], every: Sequence[str], layers: Any) -> list[str]:
    """Entries without a module that gets LoRA, and whether something took their modules away."""
    surprises = []
    for entry, names in matches(unmatched, every).items():
        if names:
            why = "exclude_modules or modules_to_save" + (" or layers_to_transform" if layers not in (None, []) else "")
            surprises.append(f"target_modules: {entry!r} matches no module that gets LoRA: {why} takes all it stands for.")
        else:
            surprises.append(f"target_modules: {entry!r} matches no module that gets LoRA.")
    return surprises


def suffix_surprises(found: Mapping[str, Sequence[str]], targets: Mapping[str, Target]) -> list[str]:
    """Entries that are one module's full name and another's suffix, or that stand for several roles."""
    surprises = []
    for entry, names in found.items():
        roles = list(dict.fromkeys(role(name, targets) for name in names))
        if entry in names and len(names) > 1:
            others = [name for name in names if name != entry]
            surprises.append(f"target_modules: {entry!r} is a full name, and also matches {some(others)}.")
        elif len(roles) > 1:
            surprises.append(f"target_modules: {entry!r} matches several roles: {', '.join(roles)}.")
    return surprises


def outside_surprises(outside: Sequence[str]) -> list[str]:
    """Modules with LoRA that are poolers, heads, embeddings or routers, one sentence a kind."""
    kinds: dict[str, list[str]] = {}
    for name in outside:
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    return [
        f"{some(names)} {'get' if len(names) > 1 else 'gets'} LoRA but {'are' if len(names) > 1 else 'is'} not one of the "
        "adaptable modules (pooler, router, head or embedding)."
        for names in kinds.values()
    ]


def layer_surprises(layers: Any, resolved: Resolved, targets: Mapping[str, Target]) -> list[str]:
    """Modules outside ``layers_to_transform``, which a full name bypasses, and layers that there are none of."""
    if layers is None or layers == []:
        return []
    meant = {layers} if isinstance(layers, int) else set(layers)
    surprises = []

    def index_of(name: str) -> int | None:
        place = block_of(name)
        return place and place[1]

    if beyond := [name for name in resolved.wrapped if name in targets and index_of(name) not in meant]:
        surprises.append(
            f"{some(beyond)} {'get' if len(beyond) > 1 else 'gets'} LoRA although layers_to_transform leaves "
            "the layer out: a full name bypasses it."
        )
    known = {index_of(name) for name in targets}
    if absent := sorted(layer for layer in meant if layer not in known):
        surprises.append(f"layers_to_transform: the model has no layer {some([str(layer) for layer in absent])}.")
    return surprises


def saved_surprises(asked: Sequence[str], resolved: Resolved, head: Sequence[str]) -> list[str]:
    """Parts of the head that stay as they are, entries that match nothing, and modules nobody asked for."""
    surprises = [f"{name}, a head module, is not trained." for name in head if name not in resolved.saved]
    for entry in asked:
        if not any(name.endswith(entry) for name in resolved.saved):
            surprises.append(f"modules_to_save: {entry!r} matches no module.")
    for name in resolved.saved:
        if name not in head and not any(name == entry or name.endswith(f".{entry}") for entry in asked):
            surprises.append(f"{name} is trained in full, which modules_to_save does not name.")
    return surprises


def pattern_surprises(arguments: Mapping[str, Any], resolved: Resolved) -> list[str]:
    """Pattern keys that match nothing, and ranks of their own that change the scale."""
    surprises = []
    for pattern in ("rank_pattern", "alpha_pattern"):
        keys = list(arguments.get(pattern) or {})
        taken = {name: next((k for k in keys if _answers(k, name)), None) for name in resolved.wrapped}
        for key in keys:
            if key not in taken.values():
                behind = any(_answers(key, name) for name in resolved.wrapped)
                why = "another key that comes first takes all it matches" if behind else "it matches no module with LoRA"
                surprises.append(f"{pattern}: {key!r} does nothing: {why}.")
    common = {scale for name, scale in resolved.scales.items() if resolved.ranks[name] == arguments.get("r", 8)}
    if arguments.get("rank_pattern") and len(set(resolved.scales.values())) > 1:
        alone = [n for n in resolved.wrapped if resolved.scales[n] not in common]
        own = {k for n in alone for k in (arguments.get("alpha_pattern") or {}) if _answers(k, n)}
        if alone and not own:
            low, high = min(resolved.scales.values()), max(resolved.scales.values())
            surprises.append(
                f"rank_pattern changes the scale of {len(alone)} modules ({low:.3g} to {high:.3g}), as alpha stays: "
                "add an alpha_pattern."
            )
    return surprises


def exclude_surprises(exclude: Any, every: Sequence[str]) -> list[str]:
    """Entries of ``exclude_modules`` that match no module of the model."""
    if isinstance(exclude, str):
        found = any(re.fullmatch(exclude, name) for name in every)
        return [] if found else [f"exclude_modules: the regex {exclude!r} matches no module."]
    return [f"exclude_modules: {e!r} matches no module." for e, names in matches(exclude or (), every).items() if not names]


def tied_surprises(tied: Sequence[str], resolved: Resolved) -> list[str]:
    """LoRA on, or full training of, one of two modules that share a weight."""
    touched = [n for n in (*resolved.wrapped, *resolved.saved) if n in tied]
    if not touched or set(tied) <= set(touched):
        return []
    return [
        f"{some(touched)} shares its weight with {some([n for n in tied if n not in touched])}, which stays as it is: "
        "the two come apart."
    ]


def rank_surprises(resolved: Resolved, task: str) -> tuple[list[str], list[str]]:
    """Surprises and notes on what vLLM serves."""
    note = serving_note(max(resolved.ranks.values(), default=1), task)
    if note is None:
        return [], []
    return ([note], []) if max(resolved.ranks.values()) > SERVED[-1] else ([], [note])


def _answers(key: str, name: str) -> bool:
    """As PEFT's ``get_pattern_key``."""
    return re.match(rf"(.*\.)?({key})$", name) is not None
