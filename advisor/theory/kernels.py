"""From stored weight-space blocks to the kernel of any selection (docs/design.md 2.1, 2.3).

Three kinds: ``lora-expected`` K_m = c_m·W_m, the expectation over PEFT's initialisation of A; ``adam``
K̃_m = K_m·√p_m/‖g_m‖, what Adam's rescaling makes of it; ``weight`` W_m itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.choices import KERNELS
from advisor.core.errors import check_choice
from advisor.core.targets import LoraSettings, Target

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernels:
    """The additive parts of every selection's kernel.

    Attributes:
        kind: one of ``KERNELS``.
        blocks: float64 [M, n, n], one PSD block a module, in model order.
        head: [n, n], part of every selection; zeros when PEFT trains no head.
        silent: names of modules whose loss gradient is exactly zero (their Adam-aware block is zero).
    """

    kind: str
    blocks: Array
    head: Array
    silent: tuple[str, ...] = ()

    def of(self, weights: Array, with_head: bool = True) -> Array:
        """Kernels [S, n, n] of selections given as weights [S, M], 0 or 1, or :func:`rank_weights` at other ranks."""
        m, n = self.blocks.shape[:2]
        summed: Array = (weights @ self.blocks.reshape(m, n * n)).reshape(-1, n, n)
        return summed + self.head if with_head else summed

    def default_sigma(self) -> float:
        """The ridge of every bound: 1e-2·tr(K_all without head)/n (docs/design.md 2.4)."""
        return 1e-2 * float(np.einsum("mii->", self.blocks)) / int(self.blocks.shape[1])


def lora_constant(target: Target, settings: LoraSettings) -> float:
    """c_m with E[K_m] = c_m·W_m over PEFT's default init of A: alpha²/(3·a·rank), with rsLoRA alpha²/(3a).

    A's entries are uniform with variance 1/(3a); B = 0, so only B's gradient, scale·(Σ_t g_t x_tᵀ)Aᵀ, counts.
    """
    return settings.scale**2 * settings.rank / (3 * target.in_features)


def make_kernels(
    targets: Sequence[Target],
    weight_blocks: NDArray[Any],
    gradient_blocks: NDArray[Any],
    settings: LoraSettings,
    kind: str,
    head: tuple[NDArray[Any], float, int] | None = None,
) -> Kernels:
    """Scale stored blocks to ``kind``.

    Args:
        weight_blocks, gradient_blocks: W_m and G_m, [M, n, n].
        head: its block [n, n], the norm of its last layer's fresh gradient and that layer's parameter count: the
            head is Adam-scaled by √p/‖g‖ of the *fresh* head, as a fitted one has almost no gradient left.

    Raises:
        BadInput: unknown kind.
    """
    check_choice("--kernel", kind, KERNELS)
    scales = np.ones(len(targets)) if kind == "weight" else np.array([lora_constant(t, settings) for t in targets])
    silent: tuple[str, ...] = ()
    head_scale = 1.0
    if kind == "adam":
        norms = np.sqrt(np.clip(scales * np.asarray(gradient_blocks, np.float64).sum((1, 2)), 0.0, None))
        silent = tuple(t.name for t, norm in zip(targets, norms, strict=True) if norm == 0)
        parameters = np.array([t.b_params(settings.rank) for t in targets], np.float64)
        scales = scales * np.divide(np.sqrt(parameters), norms, out=np.zeros_like(norms), where=norms > 0)
        if head is not None and head[1] > 0:
            head_scale = float(np.sqrt(head[2])) / head[1]
    n = weight_blocks.shape[1]
    return Kernels(
        kind,
        scales[:, None, None] * weight_blocks.astype(np.float64),
        np.zeros((n, n)) if head is None else head_scale * head[0].astype(np.float64),
        silent,
    )


def rank_weights(kind: str, base: LoraSettings, other: LoraSettings) -> float:
    """What a block scaled for ``base`` is multiplied by at ``other`` rank, alpha or scaling rule.

    ``lora-expected`` follows c_m; ``adam`` follows K_m·√p_m/‖g_m‖ with p_m ∝ rank and ‖g_m‖² ∝ c_m.
    """
    if kind == "weight":
        return 1.0
    constant = (other.scale**2 * other.rank) / (base.scale**2 * base.rank)
    return constant if kind == "lora-expected" else float(np.sqrt(constant * other.rank / base.rank))
