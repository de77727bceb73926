"""What the regressor sees of a selection: dimensionless, relative to ``all-linear`` on the same probe (no torch).

Every feature is a difference to the same quantity of the selection of all modules, mostly a log-ratio, so that it
carries over between tasks, sizes and models; ``all-linear`` itself is the zero vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import BY_ODDS
from advisor.core.targets import Target
from advisor.theory.kernels import Kernels
from advisor.theory.simulate import Schedule, simulate, simulate_losses, simulate_recipe, slopes_at_zero
from advisor.theory.spectrum import Spectrum, alignment

Array = NDArray[np.float64]
FEATURE_VERSION = 2
RELATIVE_SIGMA = 1e-2  # σ of κ as a feature, times the mean eigenvalue
HEAD_ONLY_SHARE = 1e-3  # stands in for log 0 where no module is adapted
KERNEL_FEATURES = ("simulated", "simulated_train", "leave_one_out", "alignment", "condition", "effective_rank", "trace")
PLAIN_FEATURES = ("recipe_loss", "params", "agreement", "depth", "attention")
LATER_FEATURES: tuple[str, ...] = ()  # newer than some rows on file, which may lack them; nothing that is fitted reads these


@dataclass(frozen=True)
class ProbeView:
    """The arrays of a probe that features need.

    Attributes:
        targets: M modules. kernels: by kind, ``adam`` and ``lora-expected``.
        recipe: the kernel of the recipe's own steps, see :func:`recipe_kernels`.
        scales: [M], what the recipe's Adam steps multiply LoRA-scaled blocks by.
        gradient_sums, gradient_traces: [M] sums and traces of LoRA-scaled G_m.
        task, y, f0, losses, folds: as in :class:`advisor.core.probe.Probe`.
        rank: LoRA rank. schedule: of the recipe.
    """

    targets: Sequence[Target]
    kernels: Mapping[str, Kernels]
    recipe: Kernels
    scales: Array
    gradient_sums: Array
    gradient_traces: Array
    task: str
    y: Array
    f0: Array
    losses: Array
    folds: NDArray[np.int64]
    rank: int
    schedule: Schedule


def adam_scales(norms_squared: Array, energies: Array, parameters: Array, samples: int, batch_size: int) -> Array:
    """√p/(n·√E‖g_batch‖²): what one Adam step multiplies a block by, for gradients summed over n examples.

    Adam divides by the root mean square of *mini-batch* gradients, E‖g_batch‖² = ‖ḡ‖² + (mean‖g_i‖² − ‖ḡ‖²)/batch,
    where the Adam-aware kernel of docs/design.md 2.3 divides by the whole sample's ‖ḡ‖. 0 where there is no gradient.

    Args:
        norms_squared: ‖Σ_i g_i‖² over the sample. energies: Σ_i ‖g_i‖². parameters: p.
    """
    mean, each = np.clip(norms_squared, 0.0, None) / samples**2, energies / samples
    size = samples * np.sqrt(mean + np.clip(each - mean, 0.0, None) / batch_size)
    return np.asarray(np.divide(np.sqrt(parameters), size, out=np.zeros_like(size), where=size > 0))


def recipe_kernels(
    weight_blocks: Array,
    gradient_blocks: Array,
    parameters: Array,
    task: str,
    y: Array,
    batch_size: int,
    head: tuple[Array, float, float, int] | None = None,
) -> Kernels:
    """Blocks as the recipe's Adam steps scale them at the start of a real run, where the head is fresh: F = 0.

    There the slopes s = ∂ℓ/∂F are those of guessing, so ‖Σ_i g_i‖² = sᵀW_m s and Σ_i ‖g_i‖² = Σ_i W_m,ii s_i². With C
    classes W_m is the mean over them, and their gradients are taken as parallel: both are C times Σ_c s_cᵀW_m s_c, the
    most they can be. A causal LM has no fresh head: its blocks are G_m themselves, which
    :func:`advisor.theory.simulate.simulate_losses` takes.

    Args:
        weight_blocks, gradient_blocks: LoRA-scaled W_m, G_m [M, n, n]. parameters: [M], those that move at first.
        head: its block, norm and energy of the fresh gradient, parameters.
    """
    scales = recipe_scales(weight_blocks, gradient_blocks, parameters, task, y, batch_size)
    head_block = np.zeros((len(y), len(y)))
    if head is not None:
        block, norm, energy, count = head
        fresh = adam_scales(np.array([norm**2]), np.array([energy]), np.array([count]), len(y), batch_size)
        head_block = block * fresh
    blocks = gradient_blocks if task in BY_ODDS else weight_blocks
    return Kernels("recipe", scales[:, None, None] * blocks, head_block)


def recipe_scales(weight_blocks: Array, gradient_blocks: Array, parameters: Array, task: str, y: Array, batch_size: int) -> Array:
    """What the recipe's Adam steps multiply each module's block by, [M]; see :func:`recipe_kernels`."""
    n, outputs = y.shape
    if task in BY_ODDS:
        blocks = gradient_blocks
        sums, energies = blocks.sum((1, 2)), np.einsum("mii->m", blocks)
    else:
        blocks, slopes = weight_blocks, slopes_at_zero(task, y)
        sums = outputs * np.einsum("ic,mij,jc->m", slopes, blocks, slopes, optimize=True)
        energies = outputs * np.einsum("mii,i->m", blocks, (slopes**2).sum(1))
    return adam_scales(sums, energies, parameters, n, batch_size)


@dataclass(frozen=True)
class Weights:
    """S selections as numbers: ``params`` [S, M] LoRA parameters of each module (0: not adapted), and for each kind
    of kernel ``blocks[kind]`` [S, M], what a module's block is multiplied by (1 at the view's own rank and alpha)."""

    params: Array
    blocks: Mapping[str, Array]


def raw_kernel_features(view: ProbeView, kind: str, weights: Array, names: Sequence[str]) -> dict[str, Array]:
    """The ``names`` among ``KERNEL_FEATURES`` of the selections' kernels of one kind, head included; weights [S, M]."""
    kernels = view.kernels[kind].of(weights)
    found: dict[str, Array] = {}
    if "simulated" in names or "simulated_train" in names:
        simulated = simulate(kernels, view.task, view.y, view.f0, view.folds)
        found["simulated"] = np.log(simulated.loss)
        found["simulated_train"] = np.log(simulated.train_loss + 1e-4)
    if {"leave_one_out", "condition", "effective_rank"} & set(names):
        spectra = [Spectrum.of(k) for k in kernels]
        z = view.y if view.task in BY_ODDS else view.y - view.y.mean(0)
        found["leave_one_out"] = np.log([s.best_leave_one_out(z) + 1e-12 for s in spectra])
        found["condition"] = np.log([s.condition_number(RELATIVE_SIGMA * (s.mean or 1.0)) for s in spectra])
        found["effective_rank"] = np.log([max(s.effective_rank(), 1.0) for s in spectra])
    if "alignment" in names:
        found["alignment"] = np.array([alignment(k, view.y) for k in kernels])
    if "trace" in names:
        found["trace"] = np.log(np.einsum("sii->s", kernels) + 1e-300)
    return found


def recipe_loss(view: ProbeView, weights: Array) -> Array:
    """Held-out loss [S] of the recipe simulated in kernel space, in nats or squared errors of standardised values.

    Args:
        weights: [S, M] multiples of the Adam-aware blocks.
    """
    kernels = view.recipe.of(weights, with_head=False)
    if view.task in BY_ODDS:
        return simulate_losses(kernels, view.losses, view.folds, view.schedule)
    loss = simulate_recipe(kernels, view.recipe.head, view.task, view.y, view.folds, view.schedule).loss
    return 2.0 * loss if view.task == "regression" else loss


def raw_plain_features(view: ProbeView, weights: Weights) -> dict[str, Array]:
    """Quantities [S]: the simulated recipe's log loss, size, gradient agreement, depth, share of attention."""
    total = sum(t.lora_params(view.rank) for t in view.targets)
    size = weights.params.sum(1)
    layers = [t.layer for t in view.targets if t.layer is not None]
    top = max(layers, default=0) or 1
    depth = np.array([1.0 if t.layer is None else t.layer / top for t in view.targets])
    attention = np.array([float(t.group == "attention") for t in view.targets])
    shares = weights.params / np.where(size > 0, size, 1.0)[:, None]
    n = len(view.y)
    scaled = weights.blocks["lora-expected"]
    off_diagonal = scaled @ (view.gradient_sums - view.gradient_traces) / max(1, n * (n - 1))
    diagonal = scaled @ view.gradient_traces / n
    return {
        "recipe_loss": np.log(recipe_loss(view, weights.blocks["adam"])),
        "params": np.log(np.maximum(size / total, HEAD_ONLY_SHARE)),
        "agreement": off_diagonal / np.where(diagonal > 0, diagonal, 1.0),
        "depth": np.where(size > 0, shares @ depth, 1.0),
        "attention": np.where(size > 0, shares @ attention, 0.5),
    }


def feature_table(view: ProbeView, weights: Weights, names: Sequence[str]) -> Array:
    """[S, features] of ``names`` (``params``, ``adam.simulated`` …), differences to all modules at the view's rank."""
    everything = np.ones((1, len(view.targets)))
    params = np.array([[t.lora_params(view.rank) for t in view.targets]], dtype=np.float64)
    both = Weights(
        np.vstack([weights.params, params]),
        {kind: np.vstack([block, everything]) for kind, block in weights.blocks.items()},
    )
    columns: dict[str, Array] = {}
    if any(name in PLAIN_FEATURES for name in names):
        columns |= raw_plain_features(view, both)
    for kind in view.kernels:
        asked = [name.removeprefix(f"{kind}.") for name in names if name.startswith(f"{kind}.")]
        if asked:
            found = raw_kernel_features(view, kind, both.blocks[kind], asked)
            columns |= {f"{kind}.{key}": value for key, value in found.items()}
    table = np.stack([columns[name] for name in names], axis=1)
    return np.asarray(table[:-1] - table[-1])


def all_feature_names() -> tuple[str, ...]:
    """Every feature there is, as stored in calibration rows."""
    return PLAIN_FEATURES + tuple(f"{kind}.{name}" for kind in ("adam", "lora-expected") for name in KERNEL_FEATURES)


def required_feature_names() -> tuple[str, ...]:
    """Those that every calibration row has."""
    return tuple(name for name in all_feature_names() if name not in LATER_FEATURES)
