"""Small models whose Lipschitz constants are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from advisor.theory.bounds import (
    FlowConstants,
)


class Model(Protocol):
    """Outputs f(θ) [m], their Jacobian [m, p], and constants that hold within ``radius`` of ``start``, proven."""

    start: np.ndarray
    radius: float

    def outputs(self, theta: np.ndarray) -> np.ndarray: ...

    def jacobian(self, theta: np.ndarray) -> np.ndarray: ...

    def lipschitz(self) -> tuple[float, float]: ...


@dataclass
class Sines:
    """f(θ) = Aθ + C sin(Wθ + b): ‖J‖ ≤ ‖A‖ + ‖C‖‖W‖, ‖J−J'‖ ≤ ‖C‖‖W‖ max‖w_j‖ ‖θ−θ'‖, everywhere. C = 0: linear."""

    linear: np.ndarray
    mix: np.ndarray
    inner: np.ndarray
    phase: np.ndarray
    start: np.ndarray
    radius: float = math.inf

    @classmethod
    def make(cls, seed: int, amplitude: float = 0.7) -> Sines:
        rng = np.random.default_rng(seed)
        m, p, j = int(rng.integers(2, 7)), int(rng.integers(3, 12)), 5
        return cls(
            rng.normal(size=(m, p)) / 2,
            amplitude * rng.normal(size=(m, j)) / 2,
            rng.normal(size=(j, p)),
            rng.uniform(0, 6, j),
            rng.normal(size=p),
        )

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(self.linear @ theta + self.mix @ np.sin(self.inner @ theta + self.phase))

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(self.linear + (self.mix * np.cos(self.inner @ theta + self.phase)) @ self.inner)

    def lipschitz(self) -> tuple[float, float]:
        curved = np.linalg.norm(self.mix, 2) * np.linalg.norm(self.inner, 2)
        steepest = float(np.linalg.norm(self.inner, axis=1).max())
        return float(np.linalg.norm(self.linear, 2) + curved), float(curved * steepest)


@dataclass
class Quadratic:
    """f_i(θ) = a_iᵀθ + ½θᵀH_iθ from θ0 = 0: Lip(∇f) = h ≤ √Σ‖H_i‖², ‖J‖ ≤ ‖A‖ + h·radius within the ball."""

    linear: np.ndarray
    hessians: np.ndarray
    start: np.ndarray
    radius: float

    @classmethod
    def make(cls, seed: int, radius: float = 0.3) -> Quadratic:
        rng = np.random.default_rng(seed)
        m, p = int(rng.integers(2, 6)), int(rng.integers(2, 10))
        hessians = rng.normal(size=(m, p, p)) / p
        return cls(rng.normal(size=(m, p)), hessians + hessians.transpose(0, 2, 1), np.zeros(p), radius)

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(self.linear @ theta + (self.hessians @ theta) @ theta / 2)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(self.linear + self.hessians @ theta)

    def lipschitz(self) -> tuple[float, float]:
        curved = math.sqrt(sum(np.linalg.norm(h, 2) ** 2 for h in self.hessians))
        return float(np.linalg.norm(self.linear, 2) + curved * self.radius), curved


@dataclass
class TanhNet:
    """f_o(x_i) = v_oᵀ tanh(Wx_i), o = 1, 2, both layers trained, 3 points, 12 parameters.

    Row (i, o) of J has squared norm at most H + ‖v_o‖²‖x_i‖². Its Hessian couples v_ok and w_k only, the blocks
    [[0, t'x_iᵀ], [t'x_i, v_ok t'' x_ix_iᵀ]] have norm at most ‖x_i‖ + |v_ok| max|tanh''| ‖x_i‖², max|tanh''| = 4/(3√3).
    Within the ball ‖v_o‖ ≤ ‖v_o at θ0‖ + radius. Squares sum over rows.
    """

    points: np.ndarray
    start: np.ndarray
    radius: float
    hidden: int = 3

    @classmethod
    def make(cls, seed: int, radius: float = 0.3) -> TanhNet:
        rng = np.random.default_rng(seed)
        return cls(rng.normal(size=(3, 2)), rng.normal(size=2 * 3 + 2 * 3), radius)

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[: 2 * self.hidden].reshape(2, self.hidden), theta[2 * self.hidden :].reshape(self.hidden, 2)

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        v, w = self.split(theta)
        return np.asarray((np.tanh(self.points @ w.T) @ v.T).ravel())

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        v, w = self.split(theta)
        active = np.tanh(self.points @ w.T)
        n = len(self.points)
        by_v = np.einsum("ik,op->iopk", active, np.eye(2)).reshape(2 * n, -1)
        by_w = np.einsum("ok,ik,id->iokd", v, 1 - active**2, self.points).reshape(2 * n, -1)
        return np.hstack([by_v, by_w])

    def lipschitz(self) -> tuple[float, float]:
        sizes = np.linalg.norm(self.points, axis=1)[:, None]
        v = np.linalg.norm(self.split(self.start)[0], axis=1)[None] + self.radius
        bends = sizes + v * 4 / (3 * math.sqrt(3)) * sizes**2
        return math.sqrt((self.hidden + v**2 * sizes**2).sum()), math.sqrt((bends**2).sum())


@dataclass
class Ring:
    """A valley along an ellipse with walls, f1 = √((x/2)²+y²+s²) − √(1+s²), and a slight slope round it, f2 = εm·(θ+θ0), Y = 0.

    ‖∇f1‖ ≤ 1 and its Hessian ≤ 1/s, everywhere. From (0, −1) the flow goes round to the other side, (0, 1).
    """

    start: np.ndarray
    radius: float = math.inf
    smooth: float = 0.3
    tilt: float = 0.05

    @property
    def driving(self) -> np.ndarray:
        return self.tilt * np.array([math.sin(0.2), math.cos(0.2)])

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        wall = math.sqrt(theta[0] ** 2 / 4 + theta[1] ** 2 + self.smooth**2) - math.sqrt(1 + self.smooth**2)
        return np.array([wall, self.driving @ (theta + self.start)])

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        size = math.sqrt(theta[0] ** 2 / 4 + theta[1] ** 2 + self.smooth**2)
        return np.array([[theta[0] / 4 / size, theta[1] / size], self.driving])

    def lipschitz(self) -> tuple[float, float]:
        return math.sqrt(1 + self.tilt**2), 1 / self.smooth

    def constants(self) -> FlowConstants:
        return FlowConstants(*self.lipschitz(), float(np.linalg.norm(self.outputs(self.start))), sampled=False)
