"""Random PSD families, and what bounds are checked against, in 60-digit arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext

import mpmath
import numpy as np
from hypothesis import strategies as st

from advisor.theory.bounds import Change

EPS = float(np.finfo(float).eps)
SHAPES = ("full", "deficient", "decades", "mild", "flat", "zero")
RELATIONS = ("full", "deficient", "decades", "flat", "zero", "shared", "proportional", "one vector", "within")
TARGETS = ("random", "of K", "of K+S", "of S", "mixed")
to_decimal = np.vectorize(Decimal, otypes=[object])


@dataclass(frozen=True)
class Family:
    base: np.ndarray
    part: np.ndarray
    other: np.ndarray
    sigma: float
    z: np.ndarray

    @property
    def change(self) -> Change:
        return Change(self.base, self.part, self.sigma)

    @property
    def rounding(self) -> float:
        """Relative error of η_σ, V and R in float64: each rests on (K+σI)⁻¹, known to n·ε·κ(K+σI)."""
        top = float(np.linalg.eigvalsh(self.base)[-1])
        return 1e-9 + 16 * len(self.z) * EPS * (1 + top / self.sigma)


def psd(vectors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """With what rounding may have taken, so that it is PSD exactly and not only nearly."""
    kernel = (vectors * values) @ vectors.T
    return (kernel + kernel.T) / 2 + 8 * len(values) * EPS * values.max() * np.eye(len(values))


def spectrum_of_shape(rng: np.random.Generator, shape: str, n: int) -> np.ndarray:
    if shape in ("decades", "mild"):
        return np.asarray(10 ** rng.uniform(-12 if shape == "decades" else -3, 0, n))
    values = rng.uniform(0.1, 1, n)
    if shape == "deficient":
        values[rng.permutation(n)[: int(rng.integers(n + 1))]] = 0
    return {"flat": np.ones(n), "zero": np.zeros(n)}.get(shape, values)


def make_part(rng: np.random.Generator, relation: str, vectors: np.ndarray, values: np.ndarray, size: float) -> np.ndarray:
    n, top = len(values), values.max() or 1.0
    if relation == "shared":
        return psd(vectors, size * top * rng.uniform(0, 1, n))
    if relation == "proportional":
        return psd(vectors, size * values)
    if relation == "one vector":
        return psd(vectors, size * top * (np.arange(n) == rng.integers(n)))
    own = np.linalg.qr(rng.normal(size=(n, n)))[0]
    if relation == "within":  # η ≤ 1, up to it
        root = np.sqrt(values)[:, None] * own * np.sqrt(rng.uniform(0, min(size, 1.0), n))
        return psd(vectors @ root, np.ones(n)) if values.max() > 0 else np.zeros((n, n))
    return psd(own, size * top * spectrum_of_shape(rng, relation, n))


def make_target(rng: np.random.Generator, kind: str, base: np.ndarray, part: np.ndarray) -> np.ndarray:
    n, columns = len(base), int(rng.integers(1, 5))
    z = rng.normal(size=(n, columns)) * 10 ** rng.uniform(-3, 3)
    if kind in ("random", "mixed"):
        return np.asarray(z)
    matrix = {"of K": base, "of S": part, "of K+S": base + part}[kind]
    return np.asarray(np.linalg.eigh(matrix)[1][:, rng.integers(n, size=columns)] * z[0])


@st.composite
def families(draw: st.DrawFn, shapes: tuple[str, ...] = SHAPES, relations: tuple[str, ...] = RELATIONS) -> Family:
    n = draw(st.sampled_from(range(1, 17)))  # integers() would draw 1 four times in ten
    shape = draw(st.sampled_from(shapes))
    related = [draw(st.sampled_from(relations)) for _ in range(2)]
    sizes = [10 ** draw(st.floats(-8, 8)) if r != "within" else draw(st.floats(1e-6, 1)) for r in related]
    relative_sigma = 10 ** draw(st.floats(-8, 3))
    kind = draw(st.sampled_from(TARGETS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = spectrum_of_shape(rng, shape, n) * 10 ** rng.uniform(-6, 6)
    base = psd(vectors, values)
    part, other = (make_part(rng, r, vectors, values, s) for r, s in zip(related, sizes, strict=True))
    sigma = relative_sigma * (values.mean() or 1.0)
    return Family(base, part, other, float(sigma), make_target(rng, kind, base, part))


def objective_and_risk(parts: list[np.ndarray], sigma: float, z: np.ndarray) -> tuple[Decimal, Decimal]:
    """V and R of Σ parts by Gaussian elimination in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        n, right = len(z), to_decimal(z)
        rows = np.hstack([sum(to_decimal(p) for p in parts) + Decimal(sigma) * to_decimal(np.eye(n)), right])
        for k in range(n):
            rows[k + 1 :] -= np.outer(rows[k + 1 :, k] / rows[k, k], rows[k])
        for k in reversed(range(n)):
            rows[k] /= rows[k, k]
            rows[:k] -= np.outer(rows[:k, k], rows[k])
        solution = rows[:, n:]
        return Decimal(sigma) * (right * solution).sum(), Decimal(sigma) ** 2 * (solution * solution).sum()


def ratio_of_objectives(after: list[np.ndarray], before: list[np.ndarray], sigma: float, z: np.ndarray) -> float:
    return float(objective_and_risk(after, sigma, z)[0] / objective_and_risk(before, sigma, z)[0])


def root_ratio_of_risks(after: list[np.ndarray], before: list[np.ndarray], sigma: float, z: np.ndarray) -> float:
    return float((objective_and_risk(after, sigma, z)[1] / objective_and_risk(before, sigma, z)[1]).sqrt())


def exact_eigenvalues(parts: list[np.ndarray]) -> list[mpmath.mpf]:
    with mpmath.workdps(40):
        total = mpmath.matrix(len(parts[0]))
        for part in parts:
            total += mpmath.matrix(part.tolist())
        return sorted(mpmath.eigsy(total, eigvals_only=True))


def exact_condition(parts: list[np.ndarray], sigma: float) -> mpmath.mpf:
    values = exact_eigenvalues(parts)
    return (values[-1] + sigma) / (values[0] + sigma)
