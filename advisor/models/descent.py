"""The optimizer of a recipe's runs: AdamW, gradients clipped, the recipe's pull and learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from advisor.core.recipe import TrainingRecipe

CLIP_NORM = 1.0  # transformers' Trainer clips at 1.0 by default


def descent(
    named: Mapping[str, nn.Parameter], initial: Mapping[str, torch.Tensor], recipe: TrainingRecipe, total: int
) -> Callable[[torch.Tensor], None]:
    """What makes one of ``total`` steps down a loss: AdamW, gradients clipped, the recipe's pull and learning rate."""
    optimizer = torch.optim.AdamW(list(named.values()), lr=recipe.lr, weight_decay=0.0)
    schedule = linear_schedule(optimizer, total, recipe)

    def descend(loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(named.values(), CLIP_NORM)
        optimizer.step()
        if recipe.pull:
            share = min(1.0, recipe.pull * optimizer.param_groups[0]["lr"])
            for name, parameter in named.items():
                pull(parameter, initial[name], share, recipe.pull_always)
        schedule.step()
        optimizer.zero_grad(set_to_none=True)

    return descend


def linear_schedule(optimizer: torch.optim.Optimizer, total: int, recipe: TrainingRecipe) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's learning rate over ``total`` steps: up to the peak over its warm-up, then down to zero."""
    warmup = max(1, round(recipe.warmup * total))
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (total - step) / max(1, total - warmup)))
    )


@torch.no_grad()
def pull(parameter: nn.Parameter, start: torch.Tensor, share: float, always: bool) -> None:
    """θ ← θ − share·(θ−θ0) for one tensor, where ⟨∇R̃, θ−θ0⟩ ≥ 0 or ``always`` (arXiv 2602.08239, Eq. 8).

    θ is the parameter after the optimizer's step, ∇R̃ the gradient that the step was made with (None counts as zero).
    """
    gradient = parameter.grad
    if always or gradient is None or torch.sum(gradient * (parameter - start)) >= 0:
        parameter.lerp_(start, share)
