"""Which modules of a model LoRA can adapt, and where they stand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from advisor.core.choices import CONNECTOR, LANGUAGE, VISION
from advisor.core.errors import BadInput
from advisor.core.profiles import load_profiles
from advisor.core.targets import Target, block_of
from advisor.models.adaptable import (
    EXPERTS,
    NOT_CALLED,
    NOT_LINEAR,
    ROUTERS,
    attention_parts,
    linear_modules,
    not_taken,
    recurrent_parts,
    refused,
    taken_for_experts,
)
from advisor.models.experts import called_module, stack_shapes
from advisor.models.tables import input_table
from advisor.models.vision import part_of

# What modules that stand for "q,v" are called in families without a profile; where all three are one, that one.
QV_NAMES = (
    *("query", "value", "q_proj", "v_proj", "query_proj", "value_proj", "q_lin", "v_lin", "q", "v"),
    *("query_key_value", "qkv_proj", "qkv", "Wqkv", "c_attn"),
)


def block_names(targets: Sequence[Target]) -> tuple[str, ...]:
    """The modules that hold each layer's targets, such as ``model.layers.0``."""
    places = (block_of(t.name) for t in targets if t.layer is not None)
    return tuple(dict.fromkeys(f"{place[0]}.{place[1]}" for place in places if place))


def find_head(model: nn.Module) -> tuple[str, ...]:
    """The modules beside the base model that hold parameters: what a classifier trains in full."""
    base = model.base_model
    return tuple(name for name, child in model.named_children() if child is not base and any(True for _ in child.parameters()))


def input_embeddings(model: Any) -> list[nn.Module]:
    """The modules that embed the input, each of which gives one tensor: an encoder-decoder's stacks each have their own, with one
    weight. Of a module that consists of others the first one with weights (a projection of patches). Where the family does not
    say all that embed something, else the first one of the model (a convolution)."""
    given = input_table(model)
    tables: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if given is None and tables:
        return tables
    same = [m for m in tables if m.weight is getattr(given, "weight", None)]
    parts = (model if given is None else given).modules()
    return same or [next(m for m in parts if not any(m.children()) and any(True for _ in m.parameters()))]


def experts_notes(model: Any, targets: Sequence[Target]) -> tuple[list[str], list[str]]:
    """A sentence on the stacks of experts among the targets, and one on experts that get no LoRA; none where there are none."""
    weights = dict(model.named_parameters())
    total = sum(p.numel() for p in weights.values())
    stacks = [t for t in targets if t.experts]
    found, unseen = [], []
    if stacks:
        share = sum(weights[t.name].numel() for t in stacks) / total
        found.append(
            f"Mixture of experts: {len(stacks)} stacks of {stacks[0].experts} experts ({share:.0%} of the parameters), "
            f"{stacks[0].active} of which a token goes through. LoRA adapts a stack as a whole (PEFT's target_parameters)."
        )
    names = {t.name for t in stacks}
    left = {name: p for name, p in _expert_weights(model).items() if name not in names}
    if left:
        share = sum(p.numel() for p in left.values()) / total
        kinds = dict.fromkeys(".".join(name.split(".")[-3:]) for name, p in left.items() if p.ndim == 3)
        way = f" PEFT trains them beside it with target_parameters={list(kinds)}." if kinds else ""
        unseen.append(
            f"Mixture of experts: {len(left)} expert weights ({share:.0%} of the parameters; first: {next(iter(left))}) are "
            f"not probed and get no LoRA. What is said is about the others only.{way}"
        )
    return found, unseen


def _expert_weights(model: Any) -> dict[str, nn.Parameter]:
    """The matrices of experts, stacked or one by one, without biases and routers.

    Not all families call what holds them ``experts``: a 3-D weight also counts where the config has as many experts as it has
    matrices. Kernels of convolutions have three dimensions too.
    """
    counts = set(_expert_counts(model.config.to_dict()))
    kernels = {id(p) for m in model.modules() if isinstance(m, nn.Conv1d) for p in m.parameters(recurse=False)}
    found = {}
    for name, weight in model.named_parameters():
        parts = name.split(".")
        if weight.ndim < 2 or parts[-1].endswith("bias") or id(weight) in kernels:
            continue
        stacked = weight.ndim == 3 and len(weight) in counts
        if stacked or (EXPERTS in parts and (weight.ndim == 3 or not set(ROUTERS) & set(parts))):
            found[name] = weight
    return found


def _expert_counts(config: Mapping[Any, Any]) -> Iterator[int]:
    """What a config, and configs within it, say of how many experts there are; of how many a token goes through too."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _expert_counts(value)
        elif isinstance(value, int) and value > 1 and "expert" in str(key):
            yield value


def find_targets(model: Any, head: tuple[str, ...], profile: dict[str, Any] | None = None) -> tuple[Target, ...]:
    """What PEFT's ``all-linear`` means to wrap, less poolers, routers, single experts, the head and what PEFT cannot be given by
    name, and the stacks of experts that its ``target_parameters`` take; in model order.

    ``profile`` stands in for the one of the model's family.

    Raises:
        BadInput: the model has none.
    """
    profile = profile or profile_of(model.config)
    linears = _taken(model, head, profile["never"] if profile else ())
    stacks = {name: shape for name, *shape in stack_shapes(model)}
    part = part_of(model)
    first_layers = _first_layers(model, [name for name in [*linears, *stacks] if part(name) != CONNECTOR])
    targets, groups = [], {"recurrent": recurrent_parts(model), "attention": attention_parts(model)}
    for name, module in linears.items():
        if part(name) == LANGUAGE:
            layer, role, group = _place(name, first_layers, profile, groups)
        else:
            layer, role, group = _place_outside(name, first_layers, part(name))
        if isinstance(module, Conv1D):
            in_features, out_features, kind = module.weight.shape[0], module.weight.shape[1], "conv1d"
        else:
            in_features, out_features, kind = module.in_features, module.out_features, "linear"
        targets.append(Target(name, layer, role, group, in_features, out_features, kind))
    for name, (experts, in_features, out_features) in stacks.items():
        layer, last = _place(name, first_layers, None, {})[0], name.rsplit(".", 1)[-1]
        role = f"{EXPERTS}.{last.removesuffix('_proj')}"
        targets.append(Target(name, layer, role, "mlp", in_features, out_features, EXPERTS, experts))
    if not targets:
        raise _none_left(
            f"{type(model).__name__} has no linear module that LoRA could adapt", "Use another model.", model, head, profile
        )
    order = {name: index for index, name in enumerate(n for n, _ in model.named_modules())}
    return tuple(sorted(targets, key=lambda t: order[t.name.rpartition(".")[0] if t.experts else t.name]))


def _taken(model: Any, head: tuple[str, ...], never: Iterable[str]) -> dict[str, Any]:
    """The linear modules that PEFT takes by name."""
    linears = linear_modules(model, head, never)
    for name in {*refused(model, linears), *taken_for_experts(model, linears)}:
        del linears[name]
    return linears


def _none_left(
    what: str,
    hint: str,
    model: Any,
    head: tuple[str, ...],
    profile: dict[str, Any] | None,
    parts: Sequence[str] = (LANGUAGE, VISION, CONNECTOR),
) -> BadInput:
    """That there are no targets in these parts of the model; where there would be, that the profile's ``never`` is why."""
    part = part_of(model)
    there = [name.split(".") for name in _taken(model, head, ()) if part(name) in parts]
    entries = [entry for entry in (profile["never"] if profile else ()) if any(entry in name for name in there)]
    if profile is None or not entries:
        return BadInput(f"{what}.", hint)
    why = f"never: {', '.join(entries)} of the profile for {profile['family']} leaves none"
    return BadInput(f"{what}: {why}.", "Let never name less; `advisor profiles list` says where your own profiles are.")


def random_parts(missing: Sequence[str], head: Sequence[str]) -> list[str]:
    """Sentences on weights outside the head that the checkpoint lacks; the way out of a pooler's, which the head reads.

    Args:
        missing: names of the weights. head: modules that are trained in full.
    """
    pooler = [key for key in missing if "pooler" in key.split(".")]
    others = [key for key in missing if key not in set(pooler)]
    said = []
    if pooler and head:
        place = pooler[0].split(".")
        name = ".".join(place[: place.index("pooler") + 1])
        said.append(
            f"{name} is not in the checkpoint, as in most sentence encoders. The head reads its output, and PEFT leaves it "
            f"random and frozen. Train it in full too: add 'pooler' to modules_to_save, beside {', '.join(head)}. Or use a "
            "model whose classifier averages the tokens or reads the first one. What is predicted here is for the random, "
            "frozen pooler."
        )
    if others:
        said.append(
            f"{len(others)} tensors outside the head are not in the checkpoint and stay at random values (first: {others[0]})."
        )
    return said


def not_taken_notes(model: Any, head: tuple[str, ...]) -> list[str]:
    """Sentences on the linear modules that PEFT does not take."""
    profile = profile_of(model.config)
    return not_taken(model, linear_modules(model, head, profile["never"] if profile else ()))


def called(
    model: Any, targets: Sequence[Target], batch: Mapping[str, torch.Tensor]
) -> tuple[tuple[Target, ...], dict[str, list[str]]]:
    """The targets that a pass over ``batch`` calls as linear modules, stacks with the number of experts that a token goes
    through; and the names of the others by why they are left out."""
    rows: dict[str, int] = {}
    unlike: set[str] = set()

    def noting(target: Target) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            *places, width = inputs[0].shape
            rows[target.name] = math.prod(places)
            if (width, getattr(output, "shape", None)) != (target.in_features, (*places, target.out_features)):
                unlike.add(target.name)

        return note

    handles = [called_module(model, t.name).register_forward_hook(noting(t)) for t in targets]
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    tokens = batch.get("input_ids", next(iter(batch.values()))).shape[:2].numel()
    fit = [t for t in targets if t.name in rows and t.name not in unlike]
    left = {
        NOT_CALLED: [t.name for t in targets if t.name not in rows],
        NOT_LINEAR: [t.name for t in targets if t.name in unlike],
    }
    return tuple(replace(t, active=rows[t.name] // tokens) if t.experts else t for t in fit), left


def family_profile(model_type: str) -> dict[str, Any] | None:
    """The profile in ``profiles/models`` for a config's ``model_type``, None for an unlisted family."""
    return next((p for p in load_profiles("models").values() if model_type in p["model_types"]), None)


def profile_of(config: Any) -> dict[str, Any] | None:
    """The profile of a model's family, else that of its language model's; None where neither has one."""
    return family_profile(config.model_type) or family_profile(config.get_text_config().model_type)


def adapted(model: Any, targets: tuple[Target, ...], adapt: str) -> tuple[tuple[Target, ...], list[str]]:
    """The targets in the parts of a model of images and text that ``adapt`` (one of ``choices.PARTS``) names, their layers
    numbered anew, and a sentence on the others; of any other model all.

    Raises:
        BadInput: none are there.
    """
    of = {t.name: t.group if t.group in (VISION, CONNECTOR) else LANGUAGE for t in targets}
    wanted = {LANGUAGE: (LANGUAGE,), VISION: (VISION, CONNECTOR)}.get(adapt, (LANGUAGE, VISION, CONNECTOR))
    kept = [t for t in targets if of[t.name] in wanted]
    others = [part for part in dict.fromkeys(of.values()) if part not in wanted]
    if not kept:
        what = f"--adapt {adapt}: {type(model).__name__} has no linear module there that LoRA could adapt"
        raise _none_left(what, "Leave it out.", model, (), profile_of(model.config), wanted)
    first_layers = _first_layers(model, [t.name for t in kept if t.layer is not None])
    places = {t.name: block_of(t.name) for t in kept}
    numbered = tuple(
        replace(t, layer=first_layers[place[0]] + place[1]) if t.layer is not None and (place := places[t.name]) else t
        for t in kept
    )
    if not others:
        return numbered, []
    named = {VISION: "the vision tower", CONNECTOR: "the connector", LANGUAGE: "the language model"}
    left, are = " and ".join(named[part] for part in others), "are left as they are" if len(others) > 1 else "is left as it is"
    return numbered, [f"{left[0].upper()}{left[1:]} {are}; --adapt all adapts {'them' if len(others) > 1 else 'it'} too."]


def _first_layers(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The number of each list's first block: lists follow one another, as a decoder's does its encoder's. Lists of parts of the
    same blocks start at the same number."""
    sizes: dict[str, int] = {}
    for place in map(block_of, names):
        if place is not None:
            sizes[place[0]] = max(sizes.get(place[0], 0), place[1] + 1)
    first_of = _lists_of_parts(model, names)
    longest: dict[str, int] = {}
    for stack, size in sizes.items():
        first = first_of.get(stack, stack)
        longest[first] = max(longest.get(first, 0), size)
    starts = dict(zip(longest, accumulate([0, *longest.values()]), strict=False))
    return {stack: starts[first_of.get(stack, stack)] for stack in sizes}


def _lists_of_parts(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Lists that hold the parts of the same blocks, each with the first such list: XLM has a list of attentions, and beside it
    one of as many MLPs. A list of whole blocks is not among them.

    Args:
        names: the linear modules, in model order.
    """
    attentions = attention_parts(model)
    has: dict[str, set[bool]] = {}  # of each list: whether its modules belong to an attention
    for name in names:
        if place := block_of(name):
            own = name.removeprefix(place[0].rpartition(".")[0]).lower()
            attends = name.startswith(attentions) or "attn" in own or "attention" in own
            has.setdefault(place[0], set()).add(attends)
    beside: dict[tuple[str, int], list[str]] = defaultdict(list)
    for stack, kinds in has.items():
        if len(kinds) == 1:
            beside[stack.rpartition(".")[0], len(model.get_submodule(stack)._modules)].append(stack)
    together = [stacks for stacks in beside.values() if len(set.union(*(has[stack] for stack in stacks))) == 2]
    return {stack: stacks[0] for stacks in together for stack in stacks}


def stacks_notes(targets: Sequence[Target]) -> list[str]:
    """A sentence on how the layers of several stacks are numbered; empty where there is one. Lists of parts of the same blocks
    are one stack."""
    layers: dict[int, list[int]] = defaultdict(list)
    lists: dict[int, dict[str, None]] = defaultdict(dict)
    for target in targets:
        place = block_of(target.name)
        if place is not None and target.layer is not None:
            start = target.layer - place[1]
            layers[start].append(target.layer)
            lists[start][place[0]] = None
    if len(layers) < 2:
        return []
    stacks = (f"{min(found)} to {max(found)} are {' and '.join(lists[start])}" for start, found in layers.items())
    return [f"Layers {', '.join(stacks)}."]


def _place_outside(name: str, first_layers: Mapping[str, int], part: str) -> tuple[int | None, str, str]:
    """Layer number, role and group of a module of a vision tower or connector."""
    place = None if part == CONNECTOR else block_of(name)
    if place is not None:
        return first_layers[place[0]] + place[1], f"{part}.{place[2]}", part
    tail = name.split(".")
    return None, f"{part}.{'.'.join(tail[-2:] if tail[-1].isdigit() else tail[-1:])}", part


def _place(
    name: str, first_layers: Mapping[str, int], profile: dict[str, Any] | None, groups: Mapping[str, tuple[str, ...]]
) -> tuple[int | None, str, str]:
    """Layer number, role and group of a module from its name; ``groups``: how names of each group's parts begin."""
    place = block_of(name)
    if place is None:
        return None, name.rsplit(".", 1)[-1], "other"
    layer, tail = first_layers[place[0]] + place[1], place[2]
    known = profile["roles"].get(tail) if profile else None
    if known:
        group, role = known.split("/")
        return layer, role, group
    for group, parts in groups.items():
        if name.startswith(parts):
            return layer, tail, group
    if "attn" in tail or "attention" in tail.lower():
        return layer, tail, "attention"
    return layer, tail, "mlp"
