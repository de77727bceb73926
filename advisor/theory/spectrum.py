"""Closed forms of one kernel: spectrum, alignment, ridge quantities (docs/design.md 2.4).

K is a symmetric PSD [n, n] matrix, z and y are targets [n, c]; sums, not means; σ multiplies the identity. With
z = Y − f0 the paper's f0-free formulas are centred on the pretrained model; with z = Y they are the paper's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LOO_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # times the mean eigenvalue


@dataclass(frozen=True)
class Spectrum:
    """Eigendecomposition K = U diag(λ) Uᵀ, λ ascending and clipped at 0.

    Attributes:
        values: λ [n]. vectors: U [n, n], columns.
    """

    values: Array
    vectors: Array

    @classmethod
    def of(cls, kernel: Array) -> Spectrum:
        """Decompose a symmetric PSD matrix in float64."""
        values, vectors = np.linalg.eigh(kernel)
        return cls(np.clip(values, 0.0, None), vectors)

    @property
    def mean(self) -> float:
        """Mean eigenvalue tr(K)/n."""
        return float(self.values.mean())

    def condition_number(self, sigma: float) -> float:
        """κ(K + σI) = (λmax + σ)/(λmin + σ), the paper's metric at initialisation (its σ is 1e-4)."""
        return float((self.values[-1] + sigma) / (self.values[0] + sigma))

    def effective_rank(self) -> float:
        """exp of the entropy of λ/Σλ (Roy and Vetterli 2007), between 1 and n; 0 for the zero matrix."""
        total = self.values.sum()
        if total <= 0:
            return 0.0
        p = self.values[self.values > 0] / total
        return float(np.exp(-(p * np.log(p)).sum()))

    def ridge_risk(self, z: Array, sigma: float) -> float:
        """Training risk of kernel ridge, R = σ²‖(K + σI)⁻¹z‖² (Theorem 5's quantity)."""
        rotated = self.vectors.T @ z
        return float(((sigma / (self.values + sigma))[:, None] ** 2 * rotated**2).sum())

    def objective(self, z: Array, sigma: float) -> float:
        """V(K) = σ zᵀ(K + σI)⁻¹z, the minimum of ‖z − Kα‖² + σ αᵀKα; never rises when modules are added."""
        rotated = self.vectors.T @ z
        return float(((sigma / (self.values + sigma))[:, None] * rotated**2).sum())

    def leave_one_out(self, z: Array, sigma: float) -> float:
        """Mean squared leave-one-out error of kernel ridge, closed form: e_i = [A z]_i / A_ii, A = (K + σI)⁻¹."""
        inverse = 1.0 / (self.values + sigma)
        az = self.vectors @ (inverse[:, None] * (self.vectors.T @ z))
        diagonal = (self.vectors**2) @ inverse
        return float(((az / diagonal[:, None]) ** 2).sum(1).mean())

    def best_leave_one_out(self, z: Array) -> float:
        """The smallest leave-one-out error over ridges of 1e-3 … 100 times the mean eigenvalue."""
        scale = self.mean or 1.0
        return min(self.leave_one_out(z, ridge * scale) for ridge in LOO_RIDGES)


def alignment(kernel: Array, y: Array) -> float:
    """Centred kernel-target alignment ⟨HKH, YYᵀ⟩/(‖HKH‖ ‖HYYᵀH‖), in [0, 1] for PSD K (Cortes et al. 2012).

    0 when either side vanishes after centring, as for a causal LM, whose targets are all positive by construction.
    """
    centred_y = y - y.mean(0)
    centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    size = float(np.linalg.norm(centred) * np.linalg.norm(centred_y @ centred_y.T))
    return float(np.sum(centred_y * (kernel @ centred_y))) / size if size > 0 else 0.0
