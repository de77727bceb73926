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
PLAIN_FEATURES = ("params", "agreement", "depth", "attention")


@dataclass(frozen=True)
class ProbeView:
    """The arrays of a probe that features need.

    Attributes:
        targets: M modules. kernels: by kind, ``adam`` and ``lora-expected``.
        gradient_sums, gradient_traces: [M] sums and traces of LoRA-scaled G_m.
        task, y, f0, folds: as in :class:`advisor.probe_folder.Probe`.
        rank: LoRA rank.
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


def raw_kernel_features(view: ProbeView, kind: str, masks: NDArray[np.bool_]) -> dict[str, Array]:
    """Log quantities [S] of the selections' kernels of one kind, head included."""
    kernels = view.kernels[kind].of(masks)
    simulated = simulate(kernels, view.task, view.y, view.f0, view.folds)
    spectra = [Spectrum.of(k) for k in kernels]
    z = view.y - view.y.mean(0) if view.task != "causal-lm" else view.y
    return {
        "simulated": np.log(simulated.loss),
        "simulated_train": np.log(simulated.train_loss + 1e-4),
        "leave_one_out": np.log([s.best_leave_one_out(z) + 1e-12 for s in spectra]),
        "alignment": np.array([alignment(k, view.y) for k in kernels]),
        "condition": np.log([s.condition_number(RELATIVE_SIGMA * (s.mean or 1.0)) for s in spectra]),
        "effective_rank": np.log([max(s.effective_rank(), 1.0) for s in spectra]),
        "trace": np.log([s.mean + 1e-300 for s in spectra]),
    }


def raw_plain_features(view: ProbeView, masks: NDArray[np.bool_]) -> dict[str, Array]:
    """Quantities [S] that need no kernel: size, gradient agreement, depth, share of attention."""
    params = np.array([t.lora_params(view.rank) for t in view.targets], dtype=np.float64)
    chosen = masks.astype(np.float64)
    size = chosen @ params
    layers = [t.layer for t in view.targets if t.layer is not None]
    top = max(layers, default=0) or 1
    depth = np.array([1.0 if t.layer is None else t.layer / top for t in view.targets])
    attention = np.array([float(t.group == "attention") for t in view.targets])
    weights = chosen * params / np.where(size > 0, size, 1.0)[:, None]
    n = len(view.y)
    off_diagonal = chosen @ (view.gradient_sums - view.gradient_traces) / max(1, n * (n - 1))
    diagonal = chosen @ view.gradient_traces / n
    return {
        "params": np.log(np.maximum(size / params.sum(), HEAD_ONLY_SHARE)),
        "agreement": off_diagonal / np.where(diagonal > 0, diagonal, 1.0),
        "depth": np.where(size > 0, weights @ depth, 1.0),
        "attention": np.where(size > 0, weights @ attention, 0.5),
    }


def feature_table(view: ProbeView, masks: NDArray[np.bool_], names: Sequence[str]) -> Array:
    """[S, features] of ``names`` (``params``, ``adam.simulated`` …), differences to the selection of all modules."""
    reference = np.ones((1, len(view.targets)), dtype=bool)
    both = np.vstack([masks, reference])
    columns: dict[str, Array] = {}
    if any(name in PLAIN_FEATURES for name in names):
        columns |= raw_plain_features(view, both)
    for kind in view.kernels:
        if any(name.startswith(f"{kind}.") for name in names):
            columns |= {f"{kind}.{key}": value for key, value in raw_kernel_features(view, kind, both).items()}
    table = np.stack([columns[name] for name in names], axis=1)
    return table[:-1] - table[-1]


def all_feature_names() -> tuple[str, ...]:
    """Every feature there is, as stored in calibration rows."""
    return PLAIN_FEATURES + tuple(f"{kind}.{name}" for kind in ("adam", "lora-expected") for name in KERNEL_FEATURES)
