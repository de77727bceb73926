"""Two-sided bounds with a status; here the certificate C (DESIGN 2.5)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from advisor.kernels import Array, Kernels
from advisor.spectrum import Spectrum


@dataclass(frozen=True)
class Bound:
    """``low`` ≤ quantity ≤ ``high`` when ``status`` is ``applies``.

    Attributes:
        id: letter or theorem of DESIGN 2.5. quantity: what is bounded. added: what is added to the selection.
        kernel, head, sigma: the kernel, whether the head's block is in it, and the ridge σ.
        status: ``applies``, ``estimated`` or ``does-not-apply``; reason: why not, None when it applies.
    """

    id: str
    quantity: str
    added: str
    kernel: str
    head: bool
    sigma: float
    low: float
    high: float
    status: str = "applies"
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def certificate(kernels: Kernels, weights: Array, z: Array, sigma: float, with_head: bool = True) -> Bound:
    """C: adding anything to S leaves V at or above V(K_all), so V(S ∪ rest)/V(S) lies in [V(all)/V(S), 1].

    V(K) = σ zᵀ(K + σI)⁻¹z is the objective of kernel ridge on the residual target z; it cannot rise when modules are
    added, and K_all is the largest kernel there is. Always applies, exact.

    Args:
        weights: [M], 1 for the selection's modules and 0 elsewhere. z: [n, c] residual target. sigma: ridge σ > 0.
    """
    both = kernels.of(np.vstack([weights, np.ones_like(weights)]), with_head)
    chosen, full = (Spectrum.of(kernel).objective(z, sigma) for kernel in both)
    low = min(1.0, full / chosen) if chosen > 0 else 1.0
    return Bound("C", "V(all)/V(S)", "rest", kernels.kind, with_head, sigma, low, 1.0)
