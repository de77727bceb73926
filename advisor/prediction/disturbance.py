"""What selections are predicted to do to the rows that the model should keep doing well (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from advisor.core.probe import KeepBlocks, Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.theory.features import ProbeView, adam_scales
from advisor.theory.forgetting import fisher_traces, kl_drift, moves, pulls, random_drift
from advisor.theory.kernels import Array, lora_constant


@dataclass(frozen=True)
class Disturbance:
    """Of one selection at the end of the recipe, means over the reference rows, nats per target token.

    Attributes:
        kl: KL divergence of the model's predictions from those before. loss: change of the loss, below 0 where it falls.
    """

    kl: float
    loss: float


def disturbances(
    probe: Probe, keep: KeepBlocks, view: ProbeView, settings: LoraSettings, recipe: TrainingRecipe, blocks: Mapping[str, Array]
) -> list[Disturbance]:
    """One for each selection.

    Args:
        blocks: by kind of kernel, ``adam`` and ``lora-expected``, [S, M] multiples of the modules' blocks.
    """
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    parameters = np.array([settings.rank * t.out_features for t in probe.targets], dtype=np.float64)
    steps = adam_scales(view.gradient_sums, view.gradient_traces, parameters, probe.samples, recipe.batch_size)
    scales = (constants * steps)[:, None, None]
    adam = blocks["adam"]
    pulled = pulls(view.recipe.of(adam, with_head=False), probe.losses, view.schedule)
    kl = kl_drift(moves(adam, scales * keep.score, pulled), keep.tokens)
    kl += random_drift(blocks["lora-expected"], constants * fisher_traces(keep.energies, keep.tokens), view.schedule)
    loss = moves(adam, scales * keep.loss, pulled).mean(1) + kl  # the Fisher matrix stands for the Hessian
    return [Disturbance(float(k), float(change)) for k, change in zip(kl, loss, strict=True)]
