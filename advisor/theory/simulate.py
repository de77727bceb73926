"""Fine-tuning simulated in kernel space, on held-out folds (docs/design.md 2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import BY_ODDS
from advisor.core.tasks import KTO

Array = NDArray[np.float64]
STEPS = 40
EFFICIENCY = 0.4
TRAVEL = 0.0085  # Σ lr·EFFICIENCY after which adapted modules move the outputs as fast as the kernel says
STABLE = {"regression": 1.0, "classification": 4.0}  # times 1/λmax, the longest simulated step
STRIDE, MIN_STEPS, MAX_STEPS = 2.4, 8, 80
CHUNK_FLOATS = 500_000  # outputs, or entries of kernels, simulated at once: a few arrays of this size stay in the cache
FEW_COLUMNS = 64
POWER_STEPS = 30


@dataclass(frozen=True)
class Simulation:
    """Per selection [S]: the lowest held-out loss over steps, the training loss there, and the step as a share."""

    loss: Array
    train_loss: Array
    stop: Array


@dataclass(frozen=True)
class Schedule:
    """Step sizes [T] that together go as far as Adam does in a linearly decaying schedule, and the modules' growth [T].

    In the recipe kernel of :class:`advisor.theory.features.ProbeView`, one optimizer step moves the outputs by
    lr·K·∂(summed loss)/∂F while gradients keep their size and direction. Real runs get less far: ``EFFICIENCY`` is that
    share. One simulated step stands for ``STRIDE`` optimizer steps, for more where there would be over ``MAX_STEPS``.

    A run begins with B = 0 and a fresh head: modules move the outputs slowly at first, and the faster the further B, A
    and head have gone. ``growth`` is that speed in units of the kernel's, proportional to the way travelled.
    """

    steps: Array
    growth: Array

    @classmethod
    def of(cls, lr: float, optimizer_steps: int, fresh_head: bool = True) -> Schedule:
        """For a peak learning rate and a number of optimizer steps; without a fresh head there is no growth."""
        count = int(np.clip(round(optimizer_steps / STRIDE), MIN_STEPS, MAX_STEPS))
        steps = EFFICIENCY * lr * optimizer_steps / count * (1.0 - np.arange(count) / count)
        travelled = np.cumsum(steps) - steps / 2
        return cls(steps, travelled / TRAVEL if fresh_head else np.ones(count))


def simulate(kernels: Array, task: str, y: Array, f0: Array, folds: NDArray[np.int64], steps: Array | None = None) -> Simulation:
    """F ← F − h·K[:, T]·∂ℓ/∂F_T on three of four folds, loss on the fourth; mean over folds, then the best step.

    Args:
        kernels: [S, n, n] PSD.
        task: ``classification`` (cross-entropy from F = 0), ``regression`` (half squared error from F = 0) or
            one of ``BY_ODDS`` such as ``causal-lm`` (log(1 + e^{−F}) from f0; ``kto``: 1/(1 + e^F)).
        y: targets [n, 1 or C]; f0: [n, 1 or C], used by the latter only. folds: [n] fold of each example.
        steps: step sizes h for gradients summed over all n examples (three folds are scaled up to them); None:
            ``STEPS`` steps of the largest stable size, 2/λmax(K_TT) (1/λmax for regression).

    Returns:
        Losses in nats, or half squared errors of standardised values.
    """
    chunk = max(1, CHUNK_FLOATS // max(y.size * len(np.unique(folds)), len(y) ** 2))
    parts = []
    for i in range(0, len(kernels), chunk):
        run = _Run.of(kernels[i : i + chunk], task, y, f0, folds)
        if steps is None:
            stable = run.longest(run.largest_eigenvalues(run.kernels), 1.0 if task == "regression" else 2.0)
            sizes = np.broadcast_to(stable, (STEPS, *stable.shape))
        else:
            sizes = np.broadcast_to(run.scaled_up(steps)[:, None, :], (len(steps), len(run.kernels), len(run.train[0])))
        parts.append(run.best(run.step(size, np.zeros(())) for size in sizes))
    return _joined(parts)


def simulate_recipe(kernels: Array, head: Array, task: str, y: Array, folds: NDArray[np.int64], schedule: Schedule) -> Simulation:
    """The same from F = 0 with K = growth·(modules') + head's, on a recipe's own schedule.

    Steps are shortened to ``STABLE``/λmax, as Adam's shrink where gradients change sign.

    Args:
        kernels: [S, n, n] of the selections' modules. head: [n, n].
    """
    chunk = max(1, CHUNK_FLOATS // max(y.size * len(np.unique(folds)), len(y) ** 2))
    parts, fixed = [], None
    for i in range(0, len(kernels), chunk):
        run = _Run.of(kernels[i : i + chunk], task, y, np.zeros_like(y), folds)
        modules, fixed = run.largest_eigenvalues(run.kernels), run.largest_eigenvalues(head[None]) if fixed is None else fixed
        wanted = run.scaled_up(schedule.steps)
        parts.append(
            run.best(
                run.step(np.minimum(size, run.longest(growth * modules + fixed, STABLE[task])), head, growth)
                for size, growth in zip(wanted, schedule.growth, strict=True)
            )
        )
    return _joined(parts)


def recipe_slopes(kernels: Array, head: Array, task: str, y: Array, schedule: Schedule) -> Iterator[tuple[Array, Array]]:
    """Before each step of :func:`simulate_recipe`'s run, here on all rows: its size [S], and the slopes ∂ℓ/∂F [S, n, 1 or C].

    Args:
        kernels: [S, n, n] of the selections' modules. head: [n, n].
    """
    run = _Run.on_all(kernels, task, y)
    modules, fixed = run.largest_eigenvalues(run.kernels), run.largest_eigenvalues(head[None])
    for wanted, growth in zip(schedule.steps, schedule.growth, strict=True):
        size = np.minimum(wanted, run.longest(growth * modules + fixed, STABLE[task]))
        yield size[:, 0], run.slope[:, :, 0]
        run.step(size, head, growth)


def _joined(parts: Sequence[Simulation]) -> Simulation:
    return Simulation(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("loss", "train_loss", "stop")))


@dataclass
class _Run:
    """Outputs f [S, n, folds, c] of S selections, trained on all but one fold at a time; train [n, folds] is 0 or 1, and means
    [2, n, folds] takes the mean over the folds of the mean loss held out, and of that in training; slope is ∂ℓ/∂f."""

    kernels: Array
    task: str
    y: Array
    train: Array
    means: Array
    f: Array
    slope: Array

    @classmethod
    def of(cls, kernels: Array, task: str, y: Array, f0: Array, folds: NDArray[np.int64]) -> _Run:
        train = (folds[:, None] != np.unique(folds)).astype(np.float64)
        start = f0 if task in BY_ODDS else np.zeros_like(y)
        shape = (len(kernels), len(y), train.shape[1], y.shape[1])
        f = np.broadcast_to(start[None, :, None, :], shape).copy()
        return cls(kernels, task, y, train, _fold_means(train), f, _loss(f, task, y)[1])

    @classmethod
    def on_all(cls, kernels: Array, task: str, y: Array) -> _Run:
        """From F = 0, with every example trained on and none held out."""
        f, train = np.zeros((len(kernels), len(y), 1, y.shape[1])), np.ones((len(y), 1))
        return cls(kernels, task, y, train, _fold_means(train), f, _loss(f, task, y)[1])

    def scaled_up(self, steps: Array) -> Array:
        """[T, folds]: sizes for three folds that do as much as ``steps`` would with all examples."""
        return np.asarray(steps[:, None] * len(self.y) / self.train.sum(0))

    def step(self, size: Array, head: Array, growth: float = 1.0) -> tuple[Array, Array]:
        """One step of sizes [S, folds] (or what broadcasts to it); losses [S] held out and in training after it."""
        count, n = self.f.shape[:2]
        flat = (self.slope * self.train[None, :, :, None]).reshape(count, n, -1)
        if head.ndim and flat.shape[2] >= FEW_COLUMNS:  # then a second product costs more than a sum of matrices
            moved = (growth * self.kernels + head) @ flat
        else:
            moved = growth * (self.kernels @ flat)
            if head.ndim:
                moved += head @ flat
        self.f -= size[:, None, :, None] * moved.reshape(self.f.shape)
        loss, self.slope = _loss(self.f, self.task, self.y)
        held_out, seen = np.einsum("snf,pnf->ps", loss, self.means)
        return held_out, seen

    def best(self, curve: Iterable[tuple[Array, Array]]) -> Simulation:
        losses, train_losses = (np.array(part) for part in zip(*curve, strict=True))  # [T, S]
        best = np.where(np.isnan(losses), np.inf, losses).argmin(0)  # inf − inf where squared errors overflowed
        columns = np.arange(losses.shape[1])
        return Simulation(losses[best, columns], train_losses[best, columns], (best + 1) / len(losses))

    def largest_eigenvalues(self, kernels: Array) -> Array:
        return _largest_eigenvalues(kernels, self.train)

    @staticmethod
    def longest(eigenvalues: Array, factor: float) -> Array:
        return np.divide(factor, eigenvalues, out=np.zeros_like(eigenvalues), where=eigenvalues > 0)


def _fold_means(train: Array) -> Array:
    parts = np.stack([1.0 - train, train])
    return np.asarray(parts / np.maximum(parts.sum(1, keepdims=True), 1.0) / train.shape[1])


def simulate_losses(kernels: Array, losses: Array, folds: NDArray[np.int64], schedule: Schedule) -> Array:
    """Held-out loss of the recipe from the loss-gradient kernel G alone, for outputs too large to follow one by one.

    Each example's loss falls by h·Σ_j G_ij·s_j, s_j = ℓ_j(t)/ℓ_j(0) the share that is left of example j's gradient; on
    three of four folds, the mean on the fourth; mean over folds, then the best step.

    Args:
        kernels: [S, n, n], inner products of the examples' loss gradients, scaled as Adam steps. losses: [n] at θ0,
            nats.

    Returns:
        [S], at least 1e-3 of the mean loss at θ0.
    """
    ids = np.unique(folds)
    held_out = folds[:, None] == ids
    train = (~held_out).astype(np.float64)
    weights_out = held_out / held_out.sum(0)
    left = np.broadcast_to(losses[None, :, None], (len(kernels), *held_out.shape)).copy()
    first = np.where(losses > 0, losses, np.inf)[None, :, None]  # without a loss no gradient
    best = np.full(len(kernels), np.inf)
    for step, growth in zip(schedule.steps, schedule.growth, strict=True):
        slope = np.clip(left / first, 0.0, 1.0) * train
        left -= growth * step * len(losses) / train.sum(0) * (kernels @ slope)
        best = np.minimum(best, (np.clip(left, 0.0, None) * weights_out).sum(1).mean(1))
    return np.asarray(np.maximum(best, 1e-3 * losses.mean()))


def slopes_at_zero(task: str, y: Array) -> Array:
    """∂ℓ/∂F at F = 0, where a fresh head starts, [n, 1 or C]."""
    _, slope = _loss(np.zeros((1, len(y), 1, y.shape[1])), task, y)
    return slope[0, :, 0, :]


def _loss(f: Array, task: str, y: Array) -> tuple[Array, Array]:
    """Loss [S, n, folds] and slope ∂ℓ/∂F [S, n, folds, c]."""
    if task == "regression":
        slope = f - y[None, :, None, :]
        return 0.5 * (slope**2).sum(-1), slope
    if y.shape[1] == 1:  # ±1 margins; a causal LM's targets are all +1
        margin = f * y[None, :, None, :]
        rest = np.exp(-np.abs(margin))
        wrong = np.where(margin > 0, rest, 1.0) / (1.0 + rest)
        if task == KTO:
            return wrong[..., 0], -y[None, :, None, :] * wrong * (1.0 - wrong)
        slope = -y[None, :, None, :] * wrong
        return (np.maximum(-margin, 0.0) + np.log1p(rest))[..., 0], slope
    shifted = f - f.max(-1, keepdims=True)
    exponent = np.exp(shifted)
    total = exponent.sum(-1, keepdims=True)
    slope = exponent / total
    target = np.argmax(y, axis=1)
    rows = np.arange(len(y))
    loss = np.log(total[..., 0]) - shifted[:, rows, :, target].transpose(1, 0, 2)
    slope[:, rows, :, target] -= 1.0
    return loss, slope


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
        norm = np.sqrt(np.einsum("snf,snf->sf", vector, vector))
    return np.asarray(norm)
