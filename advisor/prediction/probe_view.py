"""A probe at one LoRA setting and recipe, as the features and the predictor take it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.probe import Probe
from advisor.core.recipe import BY_ODDS, HEADLESS, TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.core.tasks import SPANS
from advisor.prediction.context import context_of
from advisor.prediction.gain import ALIGNMENT, USUALLY_ALIGNED
from advisor.theory.features import ProbeView, Weights, feature_table, recipe_kernels, recipe_loss, recipe_scales
from advisor.theory.kernels import Kernels, lora_constant, make_kernels
from advisor.theory.simulate import Schedule

FEATURE_KERNELS = ("adam", "lora-expected")
# A simulation of more steps than these rows take would only learn the probe's few examples by heart, as training on many rows
# does not: at 2,048 rows it ranked real runs worse than that of 512 (TREC +0.79 and +0.94, STS-B −0.20 and +1.00).
ROWS_PER_EXAMPLE = 4


def training_rows(probe: Probe, recipe: TrainingRecipe) -> int:
    """Rows the recipe trains on, at most those there are."""
    available = int(probe.info["train_rows"])
    return min(available, recipe.train_rows or available)


def probe_view(probe: Probe, settings: LoraSettings, recipe: TrainingRecipe) -> ProbeView:
    """The probe's arrays at the given LoRA settings and recipe, as the features take them."""
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    sums = constants * probe.gradient_blocks.sum((1, 2), dtype=np.float64)
    traces = constants * np.einsum("mii->m", probe.gradient_blocks, dtype=np.float64)
    head = None
    if (block := probe.head) is not None:
        head = (block.weight, block.fresh_gradient_norm, block.fresh_gradient_energy, block.fresh_gradient_params)
    simulated_rows = min(training_rows(probe, recipe), ROWS_PER_EXAMPLE * probe.samples)
    optimizer_steps = recipe.epochs * math.ceil(simulated_rows / recipe.batch_size)
    scaled = constants[:, None, None]
    blocks = (scaled * probe.weight_blocks, scaled * probe.gradient_blocks)
    parameters = np.array([t.b_params(settings.rank) for t in probe.targets], dtype=np.float64)
    how = (*blocks, parameters, probe.task, probe.y, recipe.batch_size)
    return ProbeView(
        targets=probe.targets,
        kernels={kind: kernels_of(probe, settings, kind) for kind in FEATURE_KERNELS},
        recipe=recipe_kernels(*how, head),
        scales=recipe_scales(*how),
        gradient_sums=sums,
        gradient_traces=traces,
        task=probe.task,
        y=probe.y,
        f0=probe.f0,
        losses=probe.losses,
        folds=probe.folds,
        rank=settings.rank,
        schedule=Schedule.of(recipe.lr, optimizer_steps, fresh_head=probe.task not in HEADLESS),
    )


def probe_context(probe: Probe, view: ProbeView, settings: LoraSettings, recipe: TrainingRecipe) -> dict[str, Any]:
    """The predictor's context of a probe at a recipe."""
    nothing_and_all = np.repeat([[0.0], [1.0]], len(probe.targets), axis=1)
    start, simulated = recipe_loss(view, nothing_and_all)
    steps = recipe.epochs * math.ceil(training_rows(probe, recipe) / recipe.batch_size)
    if (measured := _measured_start(probe, recipe.lr * steps)) is not None:
        start, simulated = measured, simulated * measured / start  # the gain of the modules is still the simulated one
    return context_of(
        task=probe.task,
        reads=str(probe.info.get("reads", "text")),
        model=str(probe.info["identity"]["model_fingerprint"]),
        head_layers=int(probe.info.get("head_layers", 1)),
        metric=str(probe.info["metric"]),
        shares=np.bincount(probe.labels.astype(int), minlength=len(probe.class_names)) / probe.samples
        if probe.task == "classification"
        else np.array(probe.info.get("class_shares") or []),
        train_rows=training_rows(probe, recipe),
        steps=steps,
        lr=recipe.lr,
        rank=settings.rank,
        start=float(start),
        simulated=float(simulated),
        aligned=_aligned(view),
        counted=probe.info.get("counted_loss"),
        head_loss=None if probe.task == SPANS else (probe.info["head_cv"] or {}).get("loss"),  # guessing a span is not known
    )


def _measured_start(probe: Probe, travel: float) -> float | None:
    """Loss of training no module where the probe measured it, as real runs are evaluated: of a language model each token counts
    alike; a head with several layers was trained alone, here as far as ``travel``. None where the simulation says it."""
    if runs := probe.info.get("head_alone"):
        travels, losses = np.log([[run["travel"], max(run["loss"], 1e-12)] for run in runs]).T
        return math.exp(np.interp(math.log(travel), travels, losses))
    start: float | None = probe.info.get("start_loss")
    return start or None


def _aligned(view: ProbeView) -> float:
    """How much better the kernel of all modules aligns with the labels than that of the head alone; as usual without labels."""
    if view.task in BY_ODDS:
        return USUALLY_ALIGNED
    nothing = np.zeros((1, len(view.targets)))  # features are differences to all modules
    return -float(feature_table(view, Weights(nothing, dict.fromkeys(FEATURE_KERNELS, nothing)), (ALIGNMENT,))[0, 0])


def subsample(probe: Probe, keep: NDArray[np.int64]) -> Probe:
    """The same probe on some of its examples, from the stored blocks."""
    head = probe.head and replace(probe.head, weight=probe.head.weight[np.ix_(keep, keep)])
    beside = probe.keep and probe.keep.of_training_rows(keep)
    return replace(
        probe,
        weight_blocks=probe.weight_blocks[:, keep][:, :, keep],
        gradient_blocks=probe.gradient_blocks[:, keep][:, :, keep],
        head=head,
        keep=beside,
        **{name: getattr(probe, name)[keep] for name in ("labels", "y", "f0", "z", "losses", "folds")},
    )


def kernels_of(probe: Probe, settings: LoraSettings, kind: str) -> Kernels:
    head = None
    if probe.head is not None:
        head = (probe.head.weight, probe.head.fresh_gradient_norm, probe.head.fresh_gradient_params)
    return make_kernels(probe.targets, probe.weight_blocks, probe.gradient_blocks, settings, kind, head)
