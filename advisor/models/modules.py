"""Which modules of a model LoRA can adapt, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from advisor.core.errors import BadInput
from advisor.core.profiles import load_profiles
from advisor.core.targets import Target, block_of
from advisor.models.peft import without_bitsandbytes

# What modules that stand for "q,v" are called in families without a profile; where all three are one, that one.
QV_NAMES = (
    *("query", "value", "q_proj", "v_proj", "query_proj", "value_proj", "q_lin", "v_lin", "q", "v"),
    *("query_key_value", "qkv_proj", "qkv", "Wqkv", "c_attn"),
)
EXPERTS = "experts"  # what transformers calls the module that holds them, often as 3-D parameters
# Never adapted in any family: sentence poolers, the routers of mixtures of experts, and the experts, most of which see no
# token of a given row.
NEVER_ADAPTED = ("pooler", "router", "gate", "shared_expert_gate", EXPERTS)


def block_names(targets: Sequence[Target]) -> tuple[str, ...]:
    """The modules that hold each layer's targets, such as ``model.layers.0``."""
    places = (block_of(t.name) for t in targets if t.layer is not None)
    return tuple(dict.fromkeys(f"{place[0]}.{place[1]}" for place in places if place))


def find_head(model: nn.Module) -> tuple[str, ...]:
    """The modules beside the base model that hold parameters: what a classifier trains in full."""
    base = model.base_model
    return tuple(name for name, child in model.named_children() if child is not base and any(True for _ in child.parameters()))


def input_embeddings(model: Any) -> list[nn.Module]:
    """The modules that embed the input: an encoder-decoder's stacks each have their own, with one weight."""
    given = model.get_input_embeddings()
    weight = getattr(given, "weight", None)
    tied: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is weight]
    return tied or [given]


def experts_left_out(model: nn.Module) -> tuple[str, ...]:
    """A sentence on the experts of a mixture, which get no LoRA, and how PEFT gives them some; empty where there are none."""
    weights = dict(model.named_parameters())
    experts = {name: p for name, p in weights.items() if EXPERTS in name.split(".")}
    if not experts:
        return ()
    share = sum(p.numel() for p in experts.values()) / sum(p.numel() for p in weights.values())
    stacks = dict.fromkeys(".".join(name.split(".")[-3:]) for name, p in experts.items() if p.ndim == 3)  # experts, out, in
    way = f" PEFT trains them beside it with target_parameters={list(stacks)}." if stacks else ""
    return (
        f"Mixture of experts: {len(experts)} expert weights ({share:.0%} of the parameters; first: {next(iter(experts))}) are "
        f"not probed and get no LoRA. What is said is about the other modules only.{way}",
    )


def find_targets(model: Any, head: tuple[str, ...], profile: dict[str, Any] | None = None) -> tuple[Target, ...]:
    """What PEFT's ``all-linear`` wraps, less poolers, routers, experts and the head, in model order.

    ``profile`` stands in for the one of the model's family.

    Raises:
        BadInput: the model has none.
    """
    profile = profile or family_profile(model.config.model_type)
    never = NEVER_ADAPTED + tuple(profile["never"] if profile else ())
    output_embeddings = model.get_output_embeddings()
    linears: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or module is output_embeddings:
            continue
        parts = name.split(".")
        if any(name == h or name.startswith(h + ".") for h in head) or any(p in never for p in parts):
            continue
        if not peft_wraps(model, parts[-1]):
            continue
        linears[name] = module
    first_layers = _first_layers(linears)
    targets = []
    for name, module in linears.items():
        layer, role, group = _place(name, first_layers, profile)
        if isinstance(module, Conv1D):
            in_features, out_features, kind = module.weight.shape[0], module.weight.shape[1], "conv1d"
        else:
            in_features, out_features, kind = module.in_features, module.out_features, "linear"
        targets.append(Target(name, layer, role, group, in_features, out_features, kind))
    if not targets:
        raise BadInput(f"{type(model).__name__} has no linear module that LoRA could adapt.", "Use another model.")
    return tuple(targets)


def peft_wraps(model: Any, name: str) -> bool:
    """Whether PEFT lets modules of this last name have LoRA; in Mamba and its kin some are used without being called."""
    lora_model, config = _plain_lora()
    try:
        lora_model._check_target_module_compatiblity(None, config, model, name)
    except ValueError:
        return False
    return True


@cache
def _plain_lora() -> tuple[Any, Any]:
    """PEFT's class of LoRA models, and a config without anything set."""
    with without_bitsandbytes():
        from peft import LoraConfig, LoraModel

    return LoraModel, LoraConfig()


def uncalled(model: Any, targets: Sequence[Target], batch: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Names of the targets that a pass over ``batch`` does not call: faster code reads their weights, so LoRA's part of
    their forward pass would never run."""
    called: set[str] = set()

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: called.add(name)

    handles = [model.get_submodule(t.name).register_forward_hook(noting(t.name)) for t in targets]
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return frozenset(t.name for t in targets if t.name not in called)


def family_profile(model_type: str) -> dict[str, Any] | None:
    """The profile in ``profiles/models`` for a config's ``model_type``, None for an unlisted family."""
    return next((p for p in load_profiles("models").values() if model_type in p["model_types"]), None)


def _first_layers(names: Iterable[str]) -> dict[str, int]:
    """The number of each list's first block: lists follow one another, as a decoder's does its encoder's."""
    sizes: dict[str, int] = {}
    for place in map(block_of, names):
        if place is not None:
            sizes[place[0]] = max(sizes.get(place[0], 0), place[1] + 1)
    return dict(zip(sizes, accumulate([0, *sizes.values()]), strict=False))


def _stacks(targets: Sequence[Target]) -> list[str]:
    """A sentence on how the layers of several stacks are numbered; empty where there is one."""
    layers: dict[str, list[int]] = {}
    for target in targets:
        place = block_of(target.name)
        if place is not None and target.layer is not None:
            layers.setdefault(place[0], []).append(target.layer)
    if len(layers) < 2:
        return []
    return ["Layers " + ", ".join(f"{min(found)} to {max(found)} are {stack}" for stack, found in layers.items()) + "."]


def _place(name: str, first_layers: Mapping[str, int], profile: dict[str, Any] | None) -> tuple[int | None, str, str]:
    """Layer number, role and group of a module from its name."""
    place = block_of(name)
    if place is None:
        return None, name.rsplit(".", 1)[-1], "other"
    layer, tail = first_layers[place[0]] + place[1], place[2]
    known = profile["roles"].get(tail) if profile else None
    if known:
        group, role = known.split("/")
        return layer, role, group
    if "attn" in tail or "attention" in tail.lower():
        return layer, tail, "attention"
    return layer, tail, "mlp"
