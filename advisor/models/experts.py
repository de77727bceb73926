"""Experts of a mixture that are kept as 3-D weights, one weight for all experts of a layer, each called like a linear module.

transformers computes with such a weight inside the ``forward`` of the module that holds it, so there is nothing to hook.
:func:`open_experts` gives each its own :class:`ExpertStack`, which that ``forward`` then calls: through transformers' own
interface for experts, which also says how a class keeps its weights (``is_transposed``, ``has_bias``, ``has_gate``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

IMPLEMENTATION = "lora-layer-advisor"  # its name in transformers' interface
STACKS = "expert_stacks"  # attribute of a module of experts: its stacks by the weight's name
SINGLE, PAIR = ("up_proj", "down_proj"), ("gate_up_proj", "down_proj")


class ExpertStack(nn.Module):
    """One 3-D weight, called with the inputs of all experts at once.

    A *slot* is a token at one of the experts it goes through. ``forward`` takes x [slots, a] and the expert of each slot
    [slots], and returns [slots, b]. The weight stays where it is, so that what PEFT makes of it there counts here too.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.weight_name = name
        self.__dict__["owner"] = owner  # no submodule: the owner holds this stack

    def forward(self, x: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        owner: Any = self.owner
        weight = getattr(owner, self.weight_name)
        bias = getattr(owner, f"{self.weight_name}_bias") if owner.has_bias else None
        order = torch.argsort(experts, stable=True)
        numbers = torch.arange(len(weight), device=experts.device)
        counts = (experts == numbers[:, None]).sum(1).tolist()
        parts = []
        for expert, part in enumerate(torch.split(x[order], counts)):
            if len(part):
                product = part @ (weight[expert] if owner.is_transposed else weight[expert].T)
                parts.append(product if bias is None else product + bias[expert])
        return torch.cat(parts)[torch.argsort(order)]


def stacked_weights(module: Any) -> tuple[str, ...]:
    """Names of the 3-D weights of a module of experts that goes by transformers' interface; of other modules none."""
    if not (hasattr(module, "has_gate") and hasattr(module, "is_transposed") and hasattr(module, "_apply_gate")):
        return ()
    names = PAIR if module.has_gate else SINGLE
    return names if all(getattr(getattr(module, name, None), "ndim", 0) == 3 for name in names) else ()


def stack_shapes(model: nn.Module) -> Iterator[tuple[str, int, int, int]]:
    """Full name, experts, input and output width of every stack, in model order."""
    for prefix, module in model.named_modules():
        for name in stacked_weights(module):
            experts, rows, columns = getattr(module, name).shape
            widths = (rows, columns) if module.is_transposed else (columns, rows)
            yield (f"{prefix}.{name}", int(experts), int(widths[0]), int(widths[1]))


def open_experts(model: nn.Module) -> bool:
    """Let every stack be called by itself from now on; copies of the model have theirs. Whether there are any."""
    found = False
    for module in model.modules():
        if names := stacked_weights(module):
            opened: Any = module
            opened.__dict__[STACKS] = {name: ExpertStack(module, name) for name in names}
            opened.config._experts_implementation = IMPLEMENTATION
            found = True
    return found


def called_module(model: nn.Module, name: str) -> nn.Module:
    """What is called with the inputs of a target: the module of that name, or the stack, also where PEFT has wrapped its owner.

    Raises:
        AttributeError: there is none.
    """
    parent, _, last = name.rpartition(".")
    owner: Any = model.get_submodule(parent)
    while hasattr(owner, "parameter_name"):  # PEFT's wrappers, one in the other
        owner = owner.base_layer
    stacks: Mapping[str, nn.Module] = vars(owner).get(STACKS, {})
    return stacks[last] if last in stacks else model.get_submodule(name)


def lora_layer(model: nn.Module, name: str) -> Any:
    """PEFT's layer of a target: what holds ``lora_A`` and ``lora_B``."""
    parent, _, last = name.rpartition(".")
    owner: Any = model.get_submodule(parent)
    while hasattr(owner, "parameter_name"):
        if owner.parameter_name == last:
            return owner
        owner = owner.base_layer
    return model.get_submodule(name)


def _forward(module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    """The experts' ``forward`` by their stacks: hidden_states [tokens, a], top_k_index and top_k_weights [tokens, k]."""
    stacks, k = module.__dict__[STACKS], top_k_index.shape[-1]
    experts = top_k_index.reshape(-1)
    x = hidden_states[:, None].expand(-1, k, -1).reshape(-1, hidden_states.shape[-1])
    first, last = stacks.values()
    inner = first(x, experts)
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    output = last(inner, experts)
    if module.has_post_expert_norm:
        output = module.post_expert_norm(output)
    weighted: torch.Tensor = output * top_k_weights.reshape(-1, 1)
    return weighted.view(len(hidden_states), k, -1).sum(1).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)
