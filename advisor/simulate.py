"""Fine-tuning simulated in kernel space, on held-out folds (DESIGN 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STEPS = 40
EFFICIENCY = 0.3
STRIDE, MIN_STEPS, MAX_STEPS = 2.4, 8, 80
CHUNK_FLOATS = 500_000  # outputs simulated at once: a few arrays of this size stay in the cache
POWER_STEPS = 30


@dataclass(frozen=True)
class Simulation:
    """Per selection [S]: the lowest held-out loss over steps, the training loss there, and the step as a share."""

    loss: Array
    train_loss: Array
    stop: Array


def recipe_steps(lr: float, optimizer_steps: int) -> Array:
    """Step sizes that together go as far as Adam does in a linearly decaying schedule.

    In the kernel of :meth:`advisor.features.ProbeView.damped`, one optimizer step moves the outputs by
    lr·K·∂(summed loss)/∂F while gradients keep their size and direction. Real runs get about a third as
    far: ``EFFICIENCY`` is that share, set on four tasks with MiniLM, where ranks hardly depend on it. One
    simulated step stands for ``STRIDE`` optimizer steps; schedules above ``MAX_STEPS`` of them are simulated up to
    there, since a small sample overfits long before a long schedule ends.
    """
    count = int(np.clip(round(optimizer_steps / STRIDE), MIN_STEPS, MAX_STEPS))
    stride = min(optimizer_steps / count, STRIDE)
    return np.asarray(EFFICIENCY * lr * stride * (1.0 - np.arange(count) / count))


def simulate(
    kernels: Array, task: str, y: Array, f0: Array, folds: NDArray[np.int64], steps: Array | None = None
) -> Simulation:
    """F ← F − h·K[:, T]·∂ℓ/∂F_T on three of four folds, loss on the fourth; mean over folds, then the best step.

    Args:
        steps: step sizes h for gradients summed over all n examples (three folds are scaled up to them); None:
            ``STEPS`` steps of the largest stable size, 2/λmax(K_TT) (1/λmax for regression).
        kernels: [S, n, n] PSD.
        task: ``classification`` (cross-entropy from F = 0), ``regression`` (half squared error from F = 0) or
            ``causal-lm`` (log(1 + e^{−F}) from f0).
        y: targets [n, 1 or C]; f0: [n, 1 or C], used by ``causal-lm`` only. folds: [n] fold of each example.

    Returns:
        Losses in nats, or half squared errors of standardised values.
    """
    chunk = max(1, CHUNK_FLOATS // (y.size * len(np.unique(folds))))
    parts = [_simulate(kernels[i : i + chunk], task, y, f0, folds, steps) for i in range(0, len(kernels), chunk)]
    return Simulation(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("loss", "train_loss", "stop")))


def _simulate(
    kernels: Array, task: str, y: Array, f0: Array, folds: NDArray[np.int64], steps: Array | None
) -> Simulation:
    count, n, _ = kernels.shape
    ids = np.unique(folds)
    held_out = folds[:, None] == ids  # [n, folds]
    train = (~held_out).astype(np.float64)
    width = y.shape[1]
    if steps is None:
        numerator = 1.0 if task == "regression" else 2.0
        largest = _largest_eigenvalues(kernels, train)  # [S, folds]
        stable = np.divide(numerator, largest, out=np.zeros_like(largest), where=largest > 0)
        sizes = np.broadcast_to(stable, (STEPS, *stable.shape))
    else:
        scale_up = n / train.sum(0)
        sizes = np.broadcast_to((steps[:, None] * scale_up)[:, None, :], (len(steps), count, len(ids)))
    start = f0 if task == "causal-lm" else np.zeros_like(y)
    f = np.broadcast_to(start[:, None, :], (count, n, len(ids), width)).copy()
    weights_out = held_out / held_out.sum(0)
    weights_in = train / train.sum(0)
    curve, train_curve = [], []
    for step in sizes:
        _, slope = _loss(f, task, y)
        slope = slope * train[None, :, :, None]
        moved = (kernels @ slope.reshape(count, n, -1)).reshape(f.shape)
        f -= step[:, None, :, None] * moved
        loss, _ = _loss(f, task, y)
        curve.append((loss * weights_out).sum(1).mean(1))
        train_curve.append((loss * weights_in).sum(1).mean(1))
    losses, train_losses = np.array(curve), np.array(train_curve)  # [steps, S]
    best = np.where(np.isnan(losses), np.inf, losses).argmin(0)  # inf − inf where squared errors overflowed
    columns = np.arange(count)
    return Simulation(losses[best, columns], train_losses[best, columns], (best + 1) / len(sizes))


def _loss(f: Array, task: str, y: Array) -> tuple[Array, Array]:
    """Loss [S, n, folds] and slope ∂ℓ/∂F [S, n, folds, c]."""
    if task == "regression":
        slope = f - y[None, :, None, :]
        return 0.5 * (slope**2).sum(-1), slope
    if y.shape[1] == 1:  # ±1 margins; a causal LM's targets are all +1
        margin = f * y[None, :, None, :]
        slope = -y[None, :, None, :] * _sigmoid(-margin)
        return np.logaddexp(0.0, -margin)[..., 0], slope
    shifted = f - f.max(-1, keepdims=True)
    exponent = np.exp(shifted)
    total = exponent.sum(-1, keepdims=True)
    slope = exponent / total
    target = np.argmax(y, axis=1)
    rows = np.arange(len(y))
    loss = np.log(total[..., 0]) - shifted[:, rows, :, target].transpose(1, 0, 2)
    slope[:, rows, :, target] -= 1.0
    return loss, slope


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _largest_eigenvalues(kernels: Array, train: Array) -> Array:
    """λmax of K_TT for every fold by power iteration, [S, folds]; kernels are PSD, one start vector serves all.

    It is random, so that no pattern of labels is orthogonal to it.
    """
    start = train * np.random.default_rng(0).normal(size=len(train))[:, None]
    vector = np.broadcast_to(start, (len(kernels), *train.shape))
    norm = np.linalg.norm(vector, axis=1)
    for _ in range(POWER_STEPS):
        vector = vector / np.where(norm > 0, norm, 1.0)[:, None, :]
        vector = (kernels @ vector) * train
        norm = np.linalg.norm(vector, axis=1)
    return np.asarray(norm)
