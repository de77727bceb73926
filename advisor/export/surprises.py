"""What the author of a LoRA config probably did not mean, one sentence each: an entry counts where it changes what PEFT makes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from advisor.advice.ranks import SERVED, serving_note
from advisor.core.targets import Target, block_of
from advisor.export.applied import Applied, matches
from advisor.models.peft import Resolved
from advisor.models.tables import output_table


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def role(name: str, targets: Mapping[str, Target]) -> str:
    """The role of an adaptable module, else the last part of its name."""
    return targets[name].role if name in targets else name.rsplit(".", 1)[-1]


def converted(it: Applied) -> tuple[str, ...]:
    """The weights of experts that PEFT puts in the place of their old modules' names."""
    own = set(it.arguments.get("target_parameters") or ())
    return tuple(sorted(set(it.config.target_parameters or ()) - own))


def unmatched_entries(it: Applied) -> tuple[str, ...]:
    """Entries of a list of ``target_modules`` without which PEFT makes the same."""
    entries = it.arguments.get("target_modules")
    if not isinstance(entries, list):
        return ()
    idle = [entry for entry, names in matches(entries, it.resolved.wrapped).items() if not names]
    if converted(it):  # an old name of experts stands for a weight, which has another name
        idle = [entry for entry in idle if not it.changes_without("target_modules", entry)]
    return tuple(idle)


def unmatched_surprises(it: Applied, unmatched: Sequence[str], others: Mapping[str, Sequence[str]]) -> list[str]:
    """Entries without a module that gets LoRA, and whether something took their modules away."""
    surprises = []
    for entry, names in matches(unmatched, it.names).items():
        if names:
            layers = it.arguments.get("layers_to_transform") not in (None, [])
            takers = " or ".join(map(it.called, ("exclude_modules", "modules_to_save", *["layers_to_transform"] * layers)))
            surprises.append(
                f"{it.called('target_modules')}: {entry!r} matches no module that gets LoRA: {takers} takes all it stands for."
            )
        else:
            why = it.why("target_modules", entry, others=others)
            surprises.append(f"{it.called('target_modules')}: {entry!r} matches no module that gets LoRA. {why}".rstrip())
    return surprises


def widened_surprises(it: Applied) -> list[str]:
    """Modules that a regex does not fit and PEFT adapts all the same, as it does when it converts old names of experts."""
    text = it.arguments.get("target_modules")
    if not isinstance(text, str) or text.lower() == "all-linear":
        return []
    beyond = [name for name in it.resolved.wrapped if not re.fullmatch(text, name)]
    return (
        [f"PEFT adapts {some(beyond)}, which the regex does not fit: it reads last parts of names in this family."]
        if beyond
        else []
    )


def suffix_surprises(it: Applied, found: Mapping[str, Sequence[str]], targets: Mapping[str, Target]) -> list[str]:
    """Entries that are one module's full name and another's suffix, or that stand for several roles."""
    surprises = []
    for entry, names in found.items():
        roles = list(dict.fromkeys(role(name, targets) for name in names))
        if entry in names and len(names) > 1:
            others = [name for name in names if name != entry]
            surprises.append(f"{it.called('target_modules')}: {entry!r} is a full name, and also matches {some(others)}.")
        elif len({r.rsplit(".", 1)[-1] for r in roles}) > 1:  # an encoder-decoder's query and cross.query are of one kind
            surprises.append(f"{it.called('target_modules')}: {entry!r} matches several roles: {', '.join(roles)}.")
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


def image_surprises(it: Applied, text: Sequence[str]) -> tuple[list[str], list[str]]:
    """Surprises and notes on modules outside the language model of a model that also reads images or sound.

    Args:
        text: the modules that hold the language model.
    """
    output = output_table(it.model)
    heads = [name for name, module in it.model.named_modules() if module is output]
    inside = tuple(f"{name}." for name in text)
    beyond = [name for name in it.resolved.wrapped if not name.startswith(inside) and name not in heads]
    if not text or not beyond:
        return [], []
    entries = it.arguments.get("target_modules")
    said = f"{len(beyond)} of {len(it.resolved.wrapped)} modules with LoRA are outside the language model, in the part that "
    said += f"reads images or sound (vision tower, projector; first: {beyond[0]})"
    regex = isinstance(entries, str) and entries.lower() != "all-linear"
    if regex or len(beyond) == len(it.resolved.wrapped):
        return [], [f"{said}."]
    return [f"{said}: for texts alone, write the regex r'.*{re.escape(text[0])}\\..*' and the names you want."], []


def layer_surprises(it: Applied, targets: Mapping[str, Target]) -> list[str]:
    """Modules outside ``layers_to_transform``, which a full name bypasses, and layers that get no LoRA by it."""
    layers, wrapped = it.arguments.get("layers_to_transform"), it.resolved.wrapped
    if layers is None or layers == []:
        return []
    meant = [layers] if isinstance(layers, int) else list(dict.fromkeys(layers))
    exact = set(it.config.target_modules or ())
    by_layer = {layer: [n for n in it.taken(layers_to_transform=[layer]) if n not in exact] for layer in meant}
    by_any = {name for names in by_layer.values() for name in names}
    surprises = []
    if beyond := [name for name in wrapped if name in targets and name not in by_any and _index(name) not in meant]:
        surprises.append(
            f"{some(beyond)} {'get' if len(beyond) > 1 else 'gets'} LoRA although {it.called('layers_to_transform')} leaves "
            "the layer out: a full name bypasses it."
        )
    known = {_index(name) for name in targets}
    idle = [layer for layer in meant if not by_layer[layer] and not any(_index(name) == layer for name in wrapped)]
    if absent := [str(layer) for layer in sorted(idle) if layer not in known]:
        surprises.append(f"{it.called('layers_to_transform')}: the model has no layer {some(absent)}.")
    if empty := [str(layer) for layer in sorted(idle) if layer in known]:
        surprises.append(f"{it.called('layers_to_transform')}: nothing in layer {some(empty)} gets LoRA.")
    patterns = it.arguments.get("layers_pattern") or []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not set(it.taken(layers_pattern=[pattern])) - exact:
            surprises.append(
                f"{it.called('layers_pattern')}: {pattern!r} is the name of no list of layers with modules that get LoRA."
            )
    return surprises


def _index(name: str) -> int | None:
    place = block_of(name)
    return place and place[1]


def saved_surprises(asked: Sequence[str], it: Applied, head: Sequence[str]) -> list[str]:
    """Parts of the head that stay as they are, entries that match nothing, and modules nobody asked for."""
    saved = it.resolved.saved
    surprises = [f"{name}, a head module, is not trained." for name in head if name not in saved]
    for entry in asked:
        if not any(name.endswith(entry) for name in saved):
            within = next((n for n in it.names if n.endswith(entry) and n.startswith(tuple(f"{s}." for s in saved))), None)
            why = f" It is inside {within.rpartition('.')[0]}, which is trained whole." if within else ""
            why = why or f" {it.why('modules_to_save', entry)}".rstrip()
            surprises.append(f"{it.called('modules_to_save')}: {entry!r} matches no module.{why}")
    for name in saved:
        if name not in (*head, *it.kept_tied) and not any(name == entry or name.endswith(f".{entry}") for entry in asked):
            surprises.append(f"{name} is trained in full, which {it.called('modules_to_save')} does not name.")
    return surprises


def parameter_surprises(it: Applied) -> list[str]:
    """Entries of ``target_parameters`` that stand for no weight with LoRA."""
    weights = [name for name, _ in it.model.named_parameters()]
    surprises = []
    for entry, names in matches(it.arguments.get("target_parameters") or (), it.resolved.parameters).items():
        if not names:
            why = it.why("target_parameters", entry, weights)
            surprises.append(f"{it.called('target_parameters')}: {entry!r} matches no weight that gets LoRA. {why}".rstrip())
    return surprises


def pattern_surprises(it: Applied) -> list[str]:
    """Pattern keys that PEFT takes for nothing, and ranks of their own that change the scale."""
    from peft.utils.other import get_pattern_key

    resolved, surprises = it.resolved, []
    adapted = [*resolved.wrapped, *resolved.parameters]
    for pattern in ("rank_pattern", "alpha_pattern"):
        all_keys = list(getattr(it.config, pattern) or {})
        taken = {get_pattern_key(all_keys, name) for name in adapted}
        for key in it.arguments.get(pattern) or {}:
            if key not in taken:
                behind = any(_answers(key, name) for name in adapted)
                why = "another key that comes first takes all it matches" if behind else "it matches no module with LoRA"
                hint = "" if behind else f" {it.why(pattern, key)}".rstrip()
                surprises.append(f"{it.called(pattern)}: {key!r} does nothing: {why}.{hint}")
    return surprises + _scale_surprises(it)


def _scale_surprises(it: Applied) -> list[str]:
    """Ranks of single modules without alphas of their own."""
    resolved, arguments = it.resolved, it.arguments
    scales = {name: resolved.scales[name] for name in resolved.wrapped}
    common = {scale for name, scale in scales.items() if resolved.ranks[name] == arguments.get("r", 8)}
    if not arguments.get("rank_pattern") or len(set(scales.values())) < 2:
        return []
    alone = [name for name in scales if scales[name] not in common]
    if not alone or {k for n in alone for k in (arguments.get("alpha_pattern") or {}) if _answers(k, n)}:
        return []
    low, high = min(scales.values()), max(scales.values())
    return [
        f"{it.called('rank_pattern')} changes the scale of {len(alone)} modules ({low:.3g} to {high:.3g}), as alpha stays: "
        f"add an {it.called('alpha_pattern')}."
    ]


def exclude_surprises(it: Applied) -> list[str]:
    """Entries of ``exclude_modules`` that take no LoRA away."""
    exclude = it.arguments.get("exclude_modules")
    if not exclude:
        return []
    without = it.taken(exclude_modules=None)
    if isinstance(exclude, str):
        if any(re.fullmatch(exclude, name) for name in without):
            return []
        found = any(re.fullmatch(exclude, name) for name in it.names)
        why = "fits no module that would get LoRA" if found else "matches no module"
        return [f"{it.called('exclude_modules')}: the regex {exclude!r} {why}."]
    surprises = []
    for entry, names in matches(exclude, without).items():
        if names:
            continue
        exists = matches([entry], it.names)[entry]
        inside = [name for name in without if name.startswith(tuple(f"{part}." for part in exists))]
        if inside:
            text = f".*{re.escape(entry)}\\..*"
            why = f"names what only holds modules: write the regex {text!r} as a text."
        elif exists:
            why = "takes no LoRA away: target_modules does not take what it names."
        else:
            why = f"matches no module. {it.why('exclude_modules', entry)}".rstrip()
        surprises.append(f"{it.called('exclude_modules')}: {entry!r} {why}")
    return surprises


def token_surprises(it: Applied) -> list[str]:
    """Trained tokens below 0, which PEFT counts from the vocabulary's end."""
    surprises = []
    for name in it.resolved.tokens:
        layer = it.peft_model.base_model.model.get_submodule(name)
        if below := [str(index) for index in layer.token_adapter.token_indices["default"] if index < 0]:
            surprises.append(f"{it.called('trainable_token_indices')}: {name} has no token {some(below)}.")
    return surprises


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
    most = max(resolved.ranks.values(), default=1)
    note = serving_note(most, task)
    if note is None:
        return [], []
    return ([note], []) if most > SERVED[-1] else ([], [note])


def _answers(key: str, name: str) -> bool:
    """As PEFT's ``get_pattern_key``."""
    return re.match(rf"(.*\.)?({key})$", name) is not None
