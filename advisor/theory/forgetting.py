"""What a simulated LoRA run does to rows it does not train on: change of their loss, drift, and a cap (docs/keep.md).

A *cross block* of module m is C_m[r, i] = ⟨∇ρ_r, ∇ℓ_i⟩ over the module's weight, with ρ_r a scalar of reference row r and ℓ_i
the loss of training row i (or its output, see :func:`pull_directions`). It is scaled by the same factor as the training rows'
own block G_m, and adds up over modules just so. The simulated run moves the weights by Δθ = −Σ_i a_i ∇ℓ_i, a_i the *pull* of
row i summed over all steps; then ρ_r moves by −Σ_m Σ_i C_m[r, i] a_i to first order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from advisor.theory.simulate import EFFICIENCY, Schedule, recipe_slopes

Array = NDArray[np.float64]
CHUNK_FLOATS = 4_000_000  # floats of summed cross blocks held at once
LEAST_SLOPE = 1e-4  # of a row that the probe's head fits better, float32 gradients say nothing


def pulls(kernels: Array, losses: Array, schedule: Schedule) -> Array:
    """a [S, n]: how far each training row has pulled on the weights by the end of the simulated run on all n rows.

    The run is :func:`advisor.theory.simulate.simulate_losses`' without folds. A step of size h lowers each ℓ_i by h·Σ_j G_ij·s_j,
    s_j = ℓ_j(t)/ℓ_j(0), and adds h·s_j/``EFFICIENCY`` to row j's pull: losses fall by that share of what Adam's steps promise,
    but the weights go the whole way. The growth of a schedule is one of outputs, not of the weights' steps.

    Args:
        kernels: [S, n, n] of loss gradients, scaled as Adam steps. losses: [n] at θ0, nats.
    """
    left = np.broadcast_to(losses, kernels.shape[:2]).copy()
    first = np.where(losses > 0, losses, np.inf)
    total = np.zeros_like(left)
    for step, growth in zip(schedule.steps, schedule.growth, strict=True):
        pull = step * np.clip(left / first, 0.0, 1.0)
        total += pull
        left -= growth * (kernels @ pull[..., None])[..., 0]
    return total / EFFICIENCY


def pull_directions(task: str, y: Array, f0: Array) -> Array:
    """d [n, 1 or C]: what of a row's outputs a classifier's or regressor's cross blocks are of, Σ_c d_c ∇f_c.

    The one output itself, or where there are several classes the loss at the probe's outputs, whose slope is d = p − y.

    Args:
        y: targets, f0: outputs, as in :class:`advisor.core.probe.Probe`.
    """
    if task == "regression" or y.shape[1] == 1:
        return np.ones_like(y)
    return np.asarray(softmax(f0, axis=1) - (y - y.min(1, keepdims=True)))


def output_pulls(kernels: Array, head: Array, task: str, y: Array, directions: Array, schedule: Schedule) -> Array:
    """a [S, n] of a classifier or regressor, from :func:`advisor.theory.simulate.simulate_recipe`'s run on all rows.

    The weights move by −h·Σ_i Σ_c s_ic ∇f_ic a step, s the slopes ∂ℓ/∂f. Of s the part along d_i counts: a_i is the sum of
    h·⟨s_i, d_i⟩/‖d_i‖², over ``EFFICIENCY``.

    Args:
        kernels: [S, n, n] of the modules, head: [n, n], both scaled as Adam steps. directions: d [n, 1 or C].
    """
    sizes = (directions**2).sum(1)
    along = np.divide(directions, sizes[:, None], out=np.zeros_like(directions), where=sizes[:, None] > LEAST_SLOPE**2)
    total = np.zeros(kernels.shape[:2])
    for size, slopes in recipe_slopes(kernels, head, task, y, schedule):
        total += size[:, None] * np.einsum("snc,nc->sn", slopes, along)
    return total / EFFICIENCY


def moves(weights: Array, cross: Array, pulled: Array) -> Array:
    """First-order change [S, r] of each reference scalar.

    Args:
        weights: [S, M] multiples of the modules' blocks, 0 where a module is not adapted.
        cross: [M, r, n] scaled cross blocks. pulled: a, [S, n].
    """
    modules, rows, n = cross.shape
    flat = cross.reshape(modules, rows * n)
    most = max(1, CHUNK_FLOATS // (rows * n))
    parts = [
        -((weights[i : i + most] @ flat).reshape(-1, rows, n) @ pulled[i : i + most, :, None])[..., 0]
        for i in range(0, len(weights), most)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, rows))


def kl_drift(score_moves: Array, tokens: Array) -> Array:
    """½·ΔθᵀFΔθ [S] over the reference rows, nats a token: the mean KL divergence from the model before, to second order.

    F is the Fisher matrix of the model's own predictions. Its quadratic form is estimated from score gradients: the loss
    gradients of the same rows with every target token drawn from what the model predicts there. A row's loss is the mean over its
    T tokens, whose draws are independent, so the square of its move has expectation (2/T)·KL.

    Args:
        score_moves: [S, r] moves of losses of sampled targets; a row may be there with several draws.
        tokens: [r] target tokens T of each. Of a representation's random projections 2: their mean square counts in full.
    """
    return np.asarray(0.5 * (score_moves**2 * tokens).mean(1))


def drift_cap(weights: Array, cross: Array, tokens: Array, pulled: Array) -> Array:
    """What :func:`kl_drift` cannot exceed for *any* pulls of the same size ‖a‖: ½·σmax²·‖a‖²/r, [S].

    σmax is the largest singular value of the selection's cross block with rows multiplied by √T.
    """
    caps = []
    for row, pull in zip(weights, pulled, strict=True):
        summed = np.tensordot(row, cross, 1) * np.sqrt(tokens)[:, None]
        caps.append(0.5 * np.linalg.norm(summed, 2) ** 2 * float(pull @ pull) / len(tokens))
    return np.array(caps)


def fisher_traces(score_energies: Array, tokens: Array) -> Array:
    """tr F_m [M], a token: mean over reference rows of T·‖u‖², u the score gradient in the module's weight.

    Args:
        score_energies: [M, r], ‖u_r‖².
    """
    return np.asarray((score_energies * tokens).mean(1))


def random_drift(weights: Array, traces: Array, schedule: Schedule) -> Array:
    """Expected ½·ΔθᵀFΔθ [S] of steps that have nothing to do with the gradients' directions: each weight of B moves by the sum
    of all step sizes, its sign at random.

    Args:
        weights: [S, M] multiples of the modules' blocks. traces: [M], LoRA-scaled tr F_m.
    """
    way = float(schedule.steps.sum()) / EFFICIENCY
    return np.asarray(0.5 * way**2 * (weights @ traces))
