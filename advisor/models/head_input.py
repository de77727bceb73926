"""What a classifier's or regressor's head reads: its layers, and the position of a text that counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from advisor.models.load import LoadedModel


def first_linear(loaded: LoadedModel) -> nn.Linear:
    """The head's input layer, whose input is the representation that the model below made."""
    layer: nn.Linear = loaded.model.get_submodule(head_linears(loaded)[0])
    return layer


def at_read_token(x: torch.Tensor, batch: Mapping[str, torch.Tensor], model: Any) -> torch.Tensor:
    """A head's input [rows, h] at the position whose logits the model returns: decoders score every token and return the last
    one that is not the padding token. EuroBERT returns the mean of all tokens' logits: the mean input."""
    if x.dim() == 2:
        return x
    if getattr(model.config, "classifier_pooling", None) == "late":
        own = batch["attention_mask"][..., None].to(x)
        return (x * own).sum(1) / own.sum(1)
    solid = batch["input_ids"] != model.config.pad_token_id
    last = (solid * torch.arange(solid.shape[1], device=solid.device)).argmax(1).to(x.device)
    return x[torch.arange(len(x), device=x.device), last]


def head_linears(loaded: LoadedModel) -> tuple[str, ...]:
    """Full names of all linear modules of the head."""
    return tuple(
        f"{name}.{sub}" if sub else name
        for name in loaded.head
        for sub, module in loaded.model.get_submodule(name).named_modules()
        if isinstance(module, nn.Linear)
    )


def trained_first_linear(loaded: LoadedModel, model: nn.Module) -> nn.Module:
    """:func:`first_linear` of the head that is trained in ``model``, a copy of ``loaded`` that PEFT has adapted or not."""
    name = head_linears(loaded)[0]
    if not hasattr(model, "peft_config"):
        return model.get_submodule(name)
    head = next(head for head in loaded.head if name == head or name.startswith(f"{head}."))
    return model.get_submodule(f"base_model.model.{head}.modules_to_save.default{name.removeprefix(head)}")
