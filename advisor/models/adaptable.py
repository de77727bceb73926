"""The linear modules of a model that LoRA can adapt: PEFT is asked which it takes, and what it does not is said."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from advisor.core.targets import left_out_notes
from advisor.models.experts import stack_shapes
from advisor.models.peft import without_bitsandbytes
from advisor.models.tables import output_table

EXPERTS = "experts"  # what transformers calls the module that holds them, often as 3-D parameters
# Modules never adapted in any family: sentence poolers, the routers of mixtures of experts, and experts that are modules of
# their own, most of which see no token of a given row. Stacks of experts are adapted, each as one.
ROUTERS = ("router", "gate", "shared_expert_gate")
NEVER_ADAPTED = ("pooler", *ROUTERS, EXPERTS)
NOT_CALLED = "that a pass over a short input does not call, so that LoRA on them would change nothing"
NOT_LINEAR = "whose outputs are not their inputs times their weights, as LoRA takes them to be"
STATES = ("A_log", "time_decay")  # parameters that only a recurrence has


def linear_modules(model: Any, head: tuple[str, ...], never: Iterable[str]) -> dict[str, Any]:
    """All by name, in model order, without the head, the output embeddings and what has a part of its name in ``never``."""
    output_embeddings, barred = output_table(model), {*NEVER_ADAPTED, *never}
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or module is output_embeddings:
            continue
        if not barred & set(name.split(".")) and not f"{name}.".startswith(tuple(f"{part}." for part in head)):
            found[name] = module
    return found


def refused(model: Any, names: Iterable[str]) -> list[str]:
    """Those that PEFT lets have no LoRA; in Mamba and its kin some are used without being called."""
    return [name for name in names if not peft_wraps(model, name.rsplit(".", 1)[-1])]


def taken_for_experts(model: Any, names: Iterable[str]) -> list[str]:
    """Those whose names PEFT takes for the old names of experts, and gives the stacks LoRA in their place."""
    with without_bitsandbytes():
        from peft import LoraConfig
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    named = list(names)
    config = LoraConfig(target_modules=list(named))
    convert_peft_config_for_transformers(config, model, None)
    kept = set(config.target_modules or ())
    return [name for name in named if name not in kept]


def not_taken(model: Any, linears: Iterable[str]) -> list[str]:
    """A sentence on each kind of linear module that PEFT does not take."""
    names = list(linears)
    instead = "which would get LoRA instead" if any(stack_shapes(model)) else "of which there are none here, so they get no LoRA"
    return left_out_notes(
        {
            "that PEFT gives no LoRA, because their weights are read without calling them": refused(model, names),
            f"whose names PEFT takes for old names of experts, {instead}": taken_for_experts(model, names),
        }
    )


def peft_wraps(model: Any, name: str) -> bool:
    """Whether PEFT lets modules of this last name have LoRA."""
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


def attention_parts(model: nn.Module) -> tuple[str, ...]:
    """Names, each with a point at its end, of modules whose class is an attention's by its name; Nemotron-H calls every kind of
    layer ``mixer``."""
    return tuple(f"{name}." for name, module in model.named_modules() if type(module).__name__.endswith("Attention"))


def recurrent_parts(model: nn.Module) -> tuple[str, ...]:
    """Names, each with a point at its end, of modules that hold a convolution over tokens or a recurrence's decay."""
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if any(isinstance(child, nn.Conv1d) for child in module.children())
        or any(part in STATES for part, _ in module.named_parameters(recurse=False))
    )
