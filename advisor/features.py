"""What the regressor sees of a selection: dimensionless, relative to ``all-linear`` on the same probe (no torch).

Every feature is a difference to the same quantity of the selection of all modules, mostly a log-ratio, so that it
carries over between tasks, sizes and models; ``all-linear`` itself is the zero vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.kernels import Kernels
from advisor.simulate import simulate
from advisor.spectrum import Spectrum, alignment
from advisor.targets import Target

Array = NDArray[np.float64]
FEATURE_VERSION = 1
RELATIVE_SIGMA = 1e-2  # σ of κ as a feature, times the mean eigenvalue
HEAD_ONLY_SHARE = 1e-3  # stands in for log 0 where no module is adapted
KERNEL_FEATURES = ("simulated", "simulated_train", "leave_one_out", "alignment", "condition", "effective_rank", "trace")
PLAIN_FEATURES = ("recipe_loss", "params", "agreement", "depth", "attention")


@dataclass(frozen=True)
class ProbeView:
    """The arrays of a probe that features need.

    Attributes:
        targets: M modules. kernels: by kind, ``adam`` and ``lora-expected``.
        gradient_sums, gradient_traces: [M] sums and traces of LoRA-scaled G_m.
        task, y, f0, folds: as in :class:`advisor.probe_folder.Probe`.
        rank: LoRA rank.
        damping: [M], and head_damping: see :func:`gradient_damping`. steps: of the recipe, see
            :func:`advisor.simulate.recipe_steps`.
    """

    targets: Sequence[Target]
    kernels: Mapping[str, Kernels]
    gradient_sums: Array
    gradient_traces: Array
    task: str
    y: Array
    f0: Array
    folds: NDArray[np.int64]
    rank: int
    damping: Array
    head_damping: float
    steps: Array

    def damped(self, weights: Array) -> Array:
        """Kernels [S, n, n] of the steps that Adam really takes on noisy mini-batch gradients; weights [S, M]."""
        adam = self.kernels["adam"]
        return adam.of(weights * self.damping, with_head=False) + self.head_damping * adam.head


def gradient_damping(norms_squared: Array, energies: Array, samples: int, batch_size: int) -> Array:
    """‖ḡ‖/√E‖g_batch‖², what mini-batch noise takes from Adam's steps; between 1/√batch and 1.

    Adam divides by the root mean square of *mini-batch* gradients, E‖g_batch‖² = ‖ḡ‖² + (mean‖g_i‖² − ‖ḡ‖²)/batch,
    where the Adam-aware kernel of DESIGN 2.3 divides by the whole sample's ‖ḡ‖.

    Args:
        norms_squared: ‖Σ_i g_i‖² over the sample. energies: Σ_i ‖g_i‖².
    """
    mean, each = norms_squared / samples**2, energies / samples
    batch = mean + np.clip(each - mean, 0.0, None) / batch_size
    return np.sqrt(np.divide(mean, batch, out=np.zeros_like(mean), where=batch > 0))


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
        z = view.y if view.task == "causal-lm" else view.y - view.y.mean(0)
        found["leave_one_out"] = np.log([s.best_leave_one_out(z) + 1e-12 for s in spectra])
        found["condition"] = np.log([s.condition_number(RELATIVE_SIGMA * (s.mean or 1.0)) for s in spectra])
        found["effective_rank"] = np.log([max(s.effective_rank(), 1.0) for s in spectra])
    if "alignment" in names:
        found["alignment"] = np.array([alignment(k, view.y) for k in kernels])
    if "trace" in names:
        found["trace"] = np.log(np.einsum("sii->s", kernels) + 1e-300)
    return found


def recipe_loss(view: ProbeView, weights: Array) -> Array:
    """Held-out loss [S] of the recipe simulated in kernel space, nats or half squared errors; weights [S, M]."""
    return simulate(view.damped(weights), view.task, view.y, view.f0, view.folds, view.steps).loss


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
