"""Two-sided bounds on what adding or removing modules does, each with a status (docs/design.md 2.5; no torch).

Theorem numbers are those of Afzal et al., *Linearization Explains Fine-Tuning in Large Language Models* (NeurIPS 2025,
arXiv 2602.08239). Kernels are symmetric PSD [n, n]; z is the residual target [n, c]; σ > 0 multiplies the identity.
A bound whose assumptions fail is ``does-not-apply`` with the reason and no numbers; one that rests on a sampled constant
is ``estimated``.

Corollary 1, Theorem 3, Eq. 9, the eigenvalues of A and B for removal are shown to nobody: they stand here because the tests check
the paper's statements one by one, and ``docs/theory.md`` reports what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.theory.kernels import Array, Kernels
from advisor.theory.spectrum import Spectrum

APPLIES, ESTIMATED, DOES_NOT_APPLY = "applies", "estimated", "does-not-apply"
SINGULAR = 1e-10  # λmin below this share of λmax counts as singular: its inverse is rounding noise


@dataclass(frozen=True)
class Bound:
    """``low`` ≤ quantity ≤ ``high`` when ``status`` is ``applies``.

    Attributes:
        id: letter or theorem of docs/design.md 2.5. quantity: what is bounded. added: what is added to, or removed from, the
            selection ("" where nothing is).
        kernel, head, sigma: the kernel, whether the head's block is in it, and the ridge σ (None: plays no part).
        low, high: None when ``status`` is ``does-not-apply``.
        status: ``applies``, ``estimated`` or ``does-not-apply``; reason: why not simply ``applies``, else None.
    """

    id: str
    quantity: str
    added: str
    kernel: str
    head: bool
    sigma: float | None
    low: float | None
    high: float | None
    status: str = APPLIES
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def failing(self, reason: str) -> Bound:
        """The same statement, not applying."""
        return replace(self, low=None, high=None, status=DOES_NOT_APPLY, reason=reason)


@dataclass(frozen=True)
class Change:
    """A kernel K and a PSD part S that is added to it, or removed from it, at ridge σ.

    Attributes:
        base: K [n, n]. part: S [n, n]. sigma: σ > 0.
        name, kernel, head: as ``added``, ``kernel`` and ``head`` of :class:`Bound`.
    """

    base: Array
    part: Array
    sigma: float
    name: str = "S"
    kernel: str = "lora-expected"
    head: bool = False

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of K."""
        return Spectrum.of(self.base)

    @cached_property
    def after(self) -> Spectrum:
        """Of K + S."""
        return Spectrum.of(self.base + self.part)

    @cached_property
    def part_range(self) -> tuple[float, float]:
        """λmin(S), λmax(S)."""
        values = np.linalg.eigvalsh(self.part)
        return float(values[0]), float(values[-1])

    @cached_property
    def eta(self) -> float | None:
        """η = ‖K^{-1/2} S K^{-1/2}‖ of Theorem 6, None when K is singular."""
        values = self.spectrum.values
        if values[0] <= SINGULAR * values[-1]:
            return None
        return float(relative_sizes(self.spectrum, self.part[None], 0.0)[0])

    @cached_property
    def eta_sigma(self) -> float:
        """η_σ = λmax((K+σI)^{-1/2} S (K+σI)^{-1/2}) of A and B."""
        return float(relative_sizes(self.spectrum, self.part[None], self.sigma)[0])

    def bound(self, id: str, quantity: str, low: float, high: float, sigma: bool = True) -> Bound:
        return Bound(id, quantity, self.name, self.kernel, self.head, self.sigma if sigma else None, low, high)


def relative_sizes(spectrum: Spectrum, parts: Array, sigma: float) -> Array:
    """η_σ of each PSD part [M, n, n] against K + σI, [M]: the largest relative change of any quadratic form."""
    whitening = spectrum.vectors / np.sqrt(spectrum.values + sigma)
    return np.asarray(np.clip(np.linalg.eigvalsh(whitening.T @ parts @ whitening)[:, -1], 0.0, None))


def theorem_5(spectrum: Spectrum, target: Array, sigma: float, *, kind: str = "lora-expected", head: bool = False) -> Bound:
    """Theorem 5: (σ‖z‖/(σ+λmax))² ≤ R(K) ≤ (σ‖z‖/(σ+λmin))², R the training risk of kernel ridge. Always applies.

    Args:
        spectrum: of K. target: z [n, c]; the paper writes Y, which is z with f0 ignored.
    """
    values = spectrum.values
    size = float((target**2).sum())
    low, high = (float((sigma / (sigma + value)) ** 2 * size) for value in (values[-1], values[0]))
    return Bound("Thm 5", "R(S)", "", kind, head, sigma, low, high)


def weyl(change: Change) -> tuple[Array, Array]:
    """Weyl: λi(K) + λmin(S) ≤ λi(K+S) ≤ λi(K) + λmax(S) for every i; low and high [n], ascending. Always applies."""
    smallest, largest = change.part_range
    return change.spectrum.values + smallest, change.spectrum.values + largest


def weyl_bound(change: Change) -> Bound:
    """:func:`weyl` for the largest eigenvalue, relative to it."""
    low, high = weyl(change)
    top = float(change.spectrum.values[-1])
    if top <= 0:
        return change.bound("Weyl", "λmax(K+S)/λmax(K)", 0, 0, sigma=False).failing("K is zero.")
    return change.bound("Weyl", "λmax(K+S)/λmax(K)", max(float(low[-1]), 0.0) / top, float(high[-1]) / top, sigma=False)


def theorem_6(change: Change) -> Bound:
    """Theorem 6: (1−η)λi(K) ≤ λi(K+S) ≤ (1+η)λi(K) for every i, η = ‖K^{-1/2}SK^{-1/2}‖. Holds when K is invertible."""
    bound = change.bound("Thm 6", "λi(K+S)/λi(K), every i", 0, 0, sigma=False)
    if change.eta is None:
        return bound.failing("K is singular, so that η = ‖K^{-1/2} S K^{-1/2}‖ does not exist.")
    return replace(bound, low=max(1 - change.eta, 0.0), high=1 + change.eta)


def theorem_7(change: Change, condition: float | None = None) -> Bound:
    """Theorem 7: √(R(K+S)/R(K)) lies within a^{±1} of ρ = (λmax(K+S)+σ)/(λmax(K)+σ), a = c/(1−η)², κ(K+σI) ≤ c.

    Holds when K is invertible *and η < 1*, which the paper does not say: for K = 1, S = 3, σ = c = 1 its "lower bound"
    is 10 and the ratio 0.4. Proof for η < 1: the ratio is at most (λmax(K)+σ)/(λmin(K+S)+σ) ≤ c and at least
    1/(cρ), and ρ(1−η) ≤ (1+η)(1−η) ≤ 1.

    Args:
        condition: c; None takes κ(K+σI) itself.

    Raises:
        ValueError: ``condition`` is below κ(K+σI).
    """
    bound = change.bound("Thm 7", "√(R(K+S)/R(K))", 0, 0)
    if reason := _theorem_7_fails(change):
        return bound.failing(reason)
    ratio, a = _theorem_7_terms(change, condition)
    return replace(bound, low=ratio / a, high=ratio * a)


def corollary_1(first: Change, second: Change) -> Bound:
    """Corollary 1, two additions to one K: √(R(K+S1)/R(K+S2)) within b^{±1} of the ratio of their λmax + σ, b = a1·a2.

    Holds when Theorem 7 does for both.

    Raises:
        ValueError: the two do not share K and σ.
    """
    if first.sigma != second.sigma or not np.array_equal(first.base, second.base):
        raise ValueError("corollary_1 compares two additions to one kernel at one σ")
    bound = replace(first.bound("Cor 1", "√(R(K+S1)/R(K+S2))", 0, 0), added=f"{first.name} or {second.name}")
    for change in (first, second):
        if reason := _theorem_7_fails(change):
            return bound.failing(f"{change.name}: {reason}")
    (ratio1, a1), (ratio2, a2) = _theorem_7_terms(first, None), _theorem_7_terms(second, None)
    return replace(bound, low=ratio1 / ratio2 / (a1 * a2), high=ratio1 / ratio2 * a1 * a2)


def _theorem_7_fails(change: Change) -> str | None:
    if change.eta is None:
        return "K is singular, so that η = ‖K^{-1/2} S K^{-1/2}‖ does not exist."
    if change.eta >= 1:
        return f"η = {change.eta:.3g} is not below 1; beyond it the statement is false."
    return None


def _theorem_7_terms(change: Change, condition: float | None) -> tuple[float, float]:
    """ρ and a."""
    sigma, eta = change.sigma, change.eta
    assert eta is not None
    own = change.spectrum.condition_number(sigma)
    if condition is not None and condition < own:
        raise ValueError(f"condition {condition} is below κ(K+σI) = {own}")
    ratio = float((change.after.values[-1] + sigma) / (change.spectrum.values[-1] + sigma))
    return ratio, (condition or own) / (1 - eta) ** 2


def bound_a(change: Change) -> Bound:
    """A (ours): λi(K)+σ ≤ λi(K+S)+σ ≤ (1+η_σ)(λi(K)+σ), so κ(K+S+σI)/κ(K+σI) ∈ [1/(1+η_σ), 1+η_σ]. Always applies.

    From K+σI ⪯ K+S+σI ⪯ (1+η_σ)(K+σI) and monotonicity of eigenvalues.
    """
    return change.bound("A", "κ(K+S+σI)/κ(K+σI)", 1 / (1 + change.eta_sigma), 1 + change.eta_sigma)


def bound_a_eigenvalues(change: Change) -> tuple[Array, Array]:
    """A for every eigenvalue of K+S+σI, low and high [n], ascending."""
    low = change.spectrum.values + change.sigma
    return low, (1 + change.eta_sigma) * low


def bound_b(change: Change) -> Bound:
    """B (ours), adding: 1/(1+η_σ) ≤ V(K+S)/V(K) ≤ 1, V(K) = σzᵀ(K+σI)⁻¹z, whatever z. Always applies.

    Inversion reverses K+σI ⪯ K+S+σI ⪯ (1+η_σ)(K+σI), and V is the quadratic form of the inverse.
    """
    return change.bound("B", "V(K+S)/V(K)", 1 / (1 + change.eta_sigma), 1.0)


def bound_b_budget(etas: Array, sizes: NDArray[Any], left: float) -> float:
    """B for whatever fits a budget: V(K+ΣS_m)/V(K) ≥ 1/(1+Σ η_m) over every set of modules of total size ≤ ``left``.

    η_σ is subadditive; the largest Σ η_m is bounded by the fractional knapsack.

    Args:
        etas: η_σ of each module that may be added, [M]. sizes: [M] > 0, in the budget's unit.
    """
    order = np.argsort(-etas / sizes)
    filled = np.concatenate([[0.0], np.cumsum(sizes[order])])
    shares = np.clip((left - filled[:-1]) / sizes[order], 0.0, 1.0)
    return 1.0 / (1.0 + float(shares @ etas[order]))


def bound_b_removal(change: Change) -> Bound:
    """B, removing S ⊆ K: 1 ≤ V(K−S)/V(K) ≤ 1/(1−η_σ), η_σ of S against K+σI. Holds when K−S is PSD and η_σ < 1."""
    bound = change.bound("B", "V(K−S)/V(K)", 1.0, 1.0)
    rest = float(np.linalg.eigvalsh(change.base - change.part)[0])
    if rest < -SINGULAR * float(change.spectrum.values[-1]):
        return bound.failing("S is not a part of K.")
    if change.eta_sigma >= 1:  # only through rounding, or a σ that is nothing beside K
        return bound.failing(f"η_σ = {change.eta_sigma:.6g} is not below 1.")
    return replace(bound, high=1 / (1 - change.eta_sigma))


def certificate(kernels: Kernels, weights: Array, z: Array, sigma: float, with_head: bool = True) -> Bound:
    """C: adding anything to S leaves V at or above V(K_all), so V(S ∪ rest)/V(S) lies in [V(all)/V(S), 1].

    V(K) = σ zᵀ(K + σI)⁻¹z is the objective of kernel ridge on the residual target z; it cannot rise when modules are
    added, and K_all is the largest kernel there is. Always applies, exact.

    Args:
        weights: [M], what the selection's blocks are multiplied by (1 at the kernels' own rank) and 0 elsewhere.
        z: [n, c] residual target. sigma: ridge σ > 0.
    """
    both = kernels.of(np.vstack([weights, np.where(weights > 0, weights, 1.0)]), with_head)
    ridge = sigma * np.eye(len(z))
    chosen, full = (sigma * float(np.sum(z * np.linalg.solve(kernel + ridge, z))) for kernel in both)
    return bound_c(chosen, full, sigma, kernels.kind, with_head)


def bound_c(chosen: float, full: float, sigma: float, kind: str, head: bool) -> Bound:
    """C of a selection whose V(S) and V(K_all) are known."""
    low = min(1.0, full / chosen) if chosen > 0 else 1.0
    return Bound("C", "V(all)/V(S)", "rest", kind, head, sigma, low, 1.0)


@dataclass(frozen=True)
class FlowConstants:
    """What Theorems 2–4 need of the flow dθ/dt = −∇‖f−Y‖² − λ(θ−θ0), all of the n·c stacked outputs.

    Attributes:
        lipschitz: Lip(f), the largest spectral norm of the Jacobian within ``radius`` of θ0.
        gradient_lipschitz: Lip(∇f), the Lipschitz constant of the Jacobian there, in spectral norm.
        residual: ‖f0 − Y‖.
        radius: of the ball around θ0 in which the two hold; inf if everywhere.
        sampled: they were estimated from points in the ball, not derived.
        selective: the pull is Eq. 8's, not always on.
    """

    lipschitz: float
    gradient_lipschitz: float
    residual: float
    radius: float = math.inf
    sampled: bool = True
    selective: bool = False

    def bound(self, id: str, quantity: str, high: float) -> Bound:
        sampled = "Rests on Lipschitz constants sampled at a few points of the ball."
        status, reason = (ESTIMATED, sampled) if self.sampled else (APPLIES, None)
        return Bound(id, quantity, "", "lora-draw", True, None, 0.0, high, status, reason)


def theorem_2(constants: FlowConstants, pull: float, time: float) -> Bound:
    """Theorem 2: ‖θt−θ0‖ ≤ 2 Lip(f) ‖f0−Y‖ (1−e^{−λt})/λ, λ ≥ 0 always on (λ = 0: the limit, t).

    Holds while the bound itself stays within the ball that Lip(f) holds in. Under Eq. 8's pull use :func:`equation_9`.
    """
    high = 2 * constants.lipschitz * constants.residual * _saturating(pull, time)
    bound = constants.bound("Thm 2", "‖θt−θ0‖", high)
    if constants.selective:
        return bound.failing("The pull switches (Eq. 8); Eq. 9 bounds the distance then.")
    return _inside_ball(bound, constants)


def equation_9(constants: FlowConstants, pulls: Sequence[float], durations: Sequence[float]) -> Bound:
    """Eq. 9: ‖θt−θ0‖ ≤ 2 Lip(f) ‖f0−Y‖ ∫₀ᵗ e^{−(Λt−Λs)} ds, Λt = ∫₀ᵗ λs ds, for the pulls that really acted.

    Where pulls differ between tensors, the smallest of them at each moment is a valid λs. The proof needs the loss to
    stay at or below its start: Eq. 8's pulls see to that, so do pulls that never rise, and for a linear f any pulls.
    Otherwise a pull that rises can drag the path back over a hill, and the statement is false.

    Args:
        pulls: λs ≥ 0, constant over each of ``durations``, in order.
    """
    integral = furthest = 0.0
    for pull, duration in zip(pulls, durations, strict=True):
        integral = integral * math.exp(-pull * duration) + _saturating(pull, duration)
        furthest = max(furthest, integral)  # between switches it moves one way
    speed = 2 * constants.lipschitz * constants.residual
    bound = constants.bound("Eq 9", "‖θt−θ0‖", speed * integral)
    rises = any(after > before for before, after in pairwise(pulls))
    if rises and not constants.selective and constants.gradient_lipschitz > 0:
        return bound.failing("The pull rises other than by Eq. 8, so the loss may exceed its start.")
    return _inside_ball(bound, constants, speed * furthest)


def theorem_3(constants: FlowConstants, pull: float, time: float) -> Bound:
    """Theorem 3: ‖f_θt − f̄_θ̄t‖ ≤ b(t − (1−e^{−λt})/λ), b = 2Lip(f)²‖f0−Y‖(4Lip(∇f)‖f0−Y‖/λ + 1).

    f̄ is the linear flow without pull. λ = 0 takes the limit 4Lip(f)²Lip(∇f)‖f0−Y‖²t². Holds for a pull that is always
    on, while Theorem 2 keeps the path within the ball of the constants; not under Eq. 8.
    """
    bound = constants.bound("Thm 3", "‖f_θt − f̄_θ̄t‖", _theorem_3_value(constants, pull, time))
    if constants.selective:
        return bound.failing("The pull switches (Eq. 8); the proof needs it always on.")
    return _inside_ball(bound, constants, 2 * constants.lipschitz * constants.residual * _saturating(pull, time))


def threshold_pull(constants: FlowConstants) -> float:
    """λ° = 2‖f0−Y‖Lip(f)/radius of Theorem 4: with λ ≥ λ° the flow stays within the ball for ever.

    The paper prints the simplification with R̃(θ0) = ‖f0−Y‖²; its derivation, and this, has ‖f0−Y‖.
    """
    return 2 * constants.residual * constants.lipschitz / constants.radius


def horizon(constants: FlowConstants, pull: float) -> float:
    """Time until which Theorem 4 keeps the flow within the ball: inf for λ ≥ λ°, else (1/λ) ln 1/(1−λ/λ°)."""
    threshold = threshold_pull(constants)
    if threshold == 0 or pull >= threshold:
        return math.inf
    return -math.log1p(-pull / threshold) / pull if pull > 0 else 1 / threshold


def theorem_4(constants: FlowConstants, pull: float, time: float) -> Bound:
    """Theorem 4: Theorem 3's bound from constants that hold in a ball only, for t ≤ :func:`horizon`; see there for λ°."""
    bound = constants.bound("Thm 4", "‖f_θt − f̄_θ̄t‖", _theorem_3_value(constants, pull, time))
    if constants.selective:
        return bound.failing("The pull switches (Eq. 8); the proof needs it always on.")
    if time > horizon(constants, pull):
        return bound.failing(
            f"λ = {pull:.3g} is below λ° = {threshold_pull(constants):.3g}, and t = {time:.3g} beyond the horizon "
            f"{horizon(constants, pull):.3g}."
        )
    return bound


def _saturating(pull: float, time: float) -> float:
    """(1−e^{−λt})/λ, t for λ = 0."""
    return -math.expm1(-pull * time) / pull if pull > 0 else time


def _theorem_3_value(constants: FlowConstants, pull: float, time: float) -> float:
    lipschitz, residual = constants.lipschitz, constants.residual
    x = pull * time
    # (t − (1−e^{−λt})/λ)/λ = t²·(x + e^{−x} − 1)/x², whose limit at x = 0 is t²/2; below 1e-3 by its series.
    curve = (x + math.expm1(-x)) / x**2 if x > 1e-3 else 0.5 - x / 6 + x**2 / 24
    return 2 * lipschitz**2 * residual * (4 * constants.gradient_lipschitz * residual + pull) * time**2 * curve


def _inside_ball(bound: Bound, constants: FlowConstants, distance: float | None = None) -> Bound:
    travelled = bound.high if distance is None else distance
    assert travelled is not None
    if travelled > constants.radius:
        return bound.failing(
            f"The path may leave the ball of radius {constants.radius:.3g} that the constants hold in (by {travelled:.3g})."
        )
    return bound
