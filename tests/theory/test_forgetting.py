"""Closed forms of forgetting against a float64 model in ``torch.func``, its exact Fisher matrix, and real small steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fakes import random_psd
from torch.func import jacrev, jvp, vmap

from advisor.theory.forgetting import (
    drift_cap,
    fisher_traces,
    kl_drift,
    moves,
    output_pulls,
    pull_directions,
    pulls,
    random_drift,
)
from advisor.theory.simulate import EFFICIENCY, Schedule

VOCABULARY, WIDTH, HIDDEN, TOKENS = 5, 4, 6, 2
TRAIN, KEPT = 7, 4
SCALES = torch.tensor([0.7, 1.9], dtype=torch.float64)  # what blocks of the two modules are multiplied by
Parameters = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """Two weights; a row is TOKENS inputs [TOKENS, WIDTH] and as many target tokens, its loss the mean over them."""

    start: Parameters
    train: tuple[torch.Tensor, torch.Tensor]
    kept: tuple[torch.Tensor, torch.Tensor]

    @staticmethod
    def log_p(weights: Parameters, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(torch.tanh(x @ weights[0].T) @ weights[1].T, -1)

    def loss(self, weights: Parameters, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -self.log_p(weights, x).gather(-1, labels[:, None]).mean()

    def gradients(self, rows: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
        """[rows, parameters] of each module."""
        found = vmap(jacrev(self.loss), (None, 0, 0))(self.start, *rows)
        return [g.flatten(1) for g in found]

    def moved(self, mask: np.ndarray, pulled: np.ndarray, size: float = 1.0) -> Parameters:
        """Δθ = −size·Σ_i a_i ∇ℓ_i by definition, of the modules in ``mask``, times their scales."""
        return tuple(
            -size * float(on) * scale * (torch.from_numpy(pulled) @ g).reshape(w.shape)
            for on, scale, g, w in zip(mask, SCALES, self.gradients(self.train), self.start, strict=True)
        )

    def after(self, step: Parameters) -> Parameters:
        return tuple(w + d for w, d in zip(self.start, step, strict=True))

    def kl(self, weights: Parameters) -> float:
        """Mean over kept rows and tokens of KL(before ‖ after)."""
        p, q = self.log_p(self.start, self.kept[0]), self.log_p(weights, self.kept[0])
        return float((p.exp() * (p - q)).sum(-1).mean())

    def every_sampling(self) -> tuple[tuple[torch.Tensor, torch.Tensor], np.ndarray]:
        """The kept rows with every combination of target tokens, and the probability of each under the model."""
        combinations = list(itertools.product(range(VOCABULARY), repeat=TOKENS))
        x = self.kept[0].repeat_interleave(len(combinations), 0)
        labels = torch.tensor(combinations * KEPT)
        chosen = self.log_p(self.start, x).gather(-1, labels[..., None])[..., 0]
        return (x, labels), chosen.sum(-1).exp().numpy()


@pytest.fixture(scope="module")
def model() -> Model:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(count, TOKENS, WIDTH), torch.randint(0, VOCABULARY, (count, TOKENS), generator=generator)

    return Model((normal(HIDDEN, WIDTH), normal(VOCABULARY, HIDDEN)), rows(TRAIN), rows(KEPT))


MASKS = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
PULLED = np.random.default_rng(3).uniform(0, 0.4, (len(MASKS), TRAIN))


def cross_blocks(model: Model, rows: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    pairs = zip(SCALES, model.gradients(rows), model.gradients(model.train), strict=True)
    return torch.stack([scale * kept @ train.T for scale, kept, train in pairs]).numpy()


def test_moves_are_the_directional_derivative(model: Model) -> None:
    found = moves(MASKS, cross_blocks(model, model.kept), PULLED)
    for s, mask in enumerate(MASKS):
        step = model.moved(mask, PULLED[s])

        def losses(weights: Parameters) -> torch.Tensor:
            return vmap(model.loss, (None, 0, 0))(weights, *model.kept)

        torch.testing.assert_close(torch.from_numpy(found[s]), jvp(losses, (model.start,), (step,))[1])


def exact_drift(model: Model, step: Parameters) -> float:
    """½ΔθᵀFΔθ, F = Jᵀ(diag p − ppᵀ)J of the logits at each token, mean over rows and tokens."""

    def logits(weights: Parameters) -> torch.Tensor:
        return torch.tanh(model.kept[0] @ weights[0].T) @ weights[1].T

    change = jvp(logits, (model.start,), (step,))[1]
    p = model.log_p(model.start, model.kept[0]).exp()
    variance = (p * change**2).sum(-1) - (p * change).sum(-1) ** 2
    return 0.5 * float(variance.mean())


def test_drift_over_all_samplings_is_the_exact_fisher_form(model: Model) -> None:
    rows, probabilities = model.every_sampling()
    each = moves(MASKS, cross_blocks(model, rows), PULLED)
    weighted = each * np.sqrt(probabilities * len(probabilities) / KEPT)  # a mean over rows is now the expectation
    found = kl_drift(weighted, np.full(len(probabilities), float(TOKENS)))
    wanted = [exact_drift(model, model.moved(mask, pull)) for mask, pull in zip(MASKS, PULLED, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_a_real_small_step_does_as_predicted(model: Model) -> None:
    """Loss change to first order, KL to second, of the model itself."""
    rows, probabilities = model.every_sampling()
    first = moves(MASKS, cross_blocks(model, model.kept), PULLED).mean(1)
    each = moves(MASKS, cross_blocks(model, rows), PULLED) * np.sqrt(probabilities * len(probabilities) / KEPT)
    second = kl_drift(each, np.full(len(probabilities), float(TOKENS)))
    before = vmap(model.loss, (None, 0, 0))(model.start, *model.kept).mean()
    for s, mask in enumerate(MASKS):
        size = 1e-3
        after = model.after(model.moved(mask, PULLED[s], size))
        change = vmap(model.loss, (None, 0, 0))(after, *model.kept).mean() - before
        assert float(change) / size == pytest.approx(first[s], rel=1e-2, abs=1e-3)
        assert model.kl(after) / size**2 == pytest.approx(second[s], rel=1e-2)


def test_lora_with_b_at_zero_moves_as_its_expectation(model: Model) -> None:
    """A step of B, dW = s·B·A with PEFT's A: over draws of A the loss moves as s²·rank/(3a) times the block says."""
    rank, scale, draws = 2, 1.5, 4000
    generator = torch.Generator().manual_seed(1)
    train, kept = (g[0].reshape(-1, HIDDEN, WIDTH) for g in (model.gradients(model.train), model.gradients(model.kept)))
    bound = WIDTH**-0.5  # of kaiming_uniform with a = √5
    a = (torch.rand(draws, rank, WIDTH, generator=generator, dtype=torch.float64) * 2 - 1) * bound
    step_of_b = -scale * torch.einsum("i,iba,dra->dbr", torch.from_numpy(PULLED[0]), train, a)
    found = torch.einsum("kba,dbr,dra->dk", kept, scale * step_of_b, a)
    wanted = (
        scale**2 * rank / (3 * WIDTH) * moves(np.ones((1, 1)), torch.einsum("kba,iba->ki", kept, train)[None].numpy(), PULLED[:1])
    )
    error = found.std(0) / draws**0.5
    assert bool(((found.mean(0) - torch.from_numpy(wanted[0])).abs() < 4 * error).all())


# --- the run ------------------------------------------------------------------------------------------------------------


def test_pulls_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    kernels = random_psd(rng, 3, TRAIN)
    losses = rng.uniform(0.5, 2.0, TRAIN)
    losses[2] = 0.0  # without a loss no gradient
    schedule = Schedule.of(1e-3, 60)
    found = pulls(kernels, losses, schedule)
    for s, kernel in enumerate(kernels):
        left, total = losses.copy(), np.zeros(TRAIN)
        for step, growth in zip(schedule.steps, schedule.growth, strict=True):
            slope = np.array([min(1.0, max(0.0, now / was)) if was else 0.0 for now, was in zip(left, losses, strict=True)])
            total += step * slope  # outputs grow faster, weights do not
            left = left - growth * step * kernel @ slope
        np.testing.assert_allclose(found[s], total / EFFICIENCY)
    assert (found[:, 2] == 0).all()


def test_without_movement_every_row_pulls_all_the_way() -> None:
    schedule = Schedule.of(1e-3, 60, fresh_head=False)
    found = pulls(np.zeros((1, TRAIN, TRAIN)), np.ones(TRAIN), schedule)
    np.testing.assert_allclose(found, schedule.steps.sum() / EFFICIENCY)


# --- classifiers and regressors ------------------------------------------------------------------------------------------

CLASSES = 3
TASKS = [("classification", 2), ("classification", CLASSES), ("regression", 1)]


def targets(task: str, classes: int, rng: np.random.Generator) -> np.ndarray:
    if task == "regression":
        return rng.normal(size=(TRAIN, 1))
    labels = np.arange(TRAIN) % classes
    return np.where(labels == 1, 1.0, -1.0)[:, None] if classes == 2 else np.eye(classes)[labels] - 1 / classes


def slopes_of(task: str, f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """∂ℓ/∂f by autograd, of losses written from their definition."""
    f = f.clone().requires_grad_(True)
    if task == "regression":
        loss = 0.5 * ((f - y) ** 2).sum()
    elif f.shape[1] == 1:
        loss = torch.log1p(torch.exp(-f * y)).sum()
    else:
        loss = torch.nn.functional.cross_entropy(f, y.argmax(1), reduction="sum")
    return torch.autograd.grad(loss, f)[0]


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_output_pulls_equal_a_run_of_the_kernel(task: str, classes: int) -> None:
    """A plain loop in torch: outputs move by K and the head's block, and what pulls is the slope along d."""
    rng = np.random.default_rng(4)
    y, kernels, head = targets(task, classes, rng), 0.3 * random_psd(rng, 2, TRAIN), 0.1 * random_psd(rng, 1, TRAIN)[0]
    directions = pull_directions(task, y, rng.normal(size=y.shape))
    schedule = Schedule.of(1e-3, 60)
    found = output_pulls(kernels, head, task, y, directions, schedule)
    for s, kernel in enumerate(kernels):
        f, total = torch.zeros(y.shape, dtype=torch.float64), np.zeros(TRAIN)
        for step, growth in zip(schedule.steps, schedule.growth, strict=True):
            slopes = slopes_of(task, f, torch.from_numpy(y))
            total += step * (slopes.numpy() * directions).sum(1) / (directions**2).sum(1) / EFFICIENCY
            f = f - step * torch.from_numpy(growth * kernel + head) @ slopes
        np.testing.assert_allclose(found[s], total, rtol=1e-9)


def test_directions_are_the_slopes_of_the_probes_outputs() -> None:
    rng = np.random.default_rng(5)
    y, f0 = targets("classification", CLASSES, rng), rng.normal(size=(TRAIN, CLASSES))
    wanted = slopes_of("classification", torch.from_numpy(f0), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(pull_directions("classification", y, f0), wanted)
    for task, classes in (TASKS[0], TASKS[2]):
        y = targets(task, classes, rng)
        assert (pull_directions(task, y, y) == 1).all()


def test_a_row_that_the_probe_fits_to_the_last_bit_does_not_pull() -> None:
    y = targets("classification", CLASSES, np.random.default_rng(0))
    directions = pull_directions("classification", y, 60 * y)
    found = output_pulls(
        np.zeros((1, TRAIN, TRAIN)), np.zeros((TRAIN, TRAIN)), "classification", y, directions, Schedule.of(1e-3, 9)
    )
    assert (found == 0).all()


def test_projections_give_the_representations_squared_change(model: Model) -> None:
    """h is the first weight's output. Over an orthonormal basis of directions drift is exact, and a real small step agrees."""

    def read(weights: Parameters) -> torch.Tensor:
        return torch.tanh(model.kept[0] @ weights[0].T)[:, 0]  # [kept, hidden], of the first token

    variance = float(read(model.start).var(0, correction=0).sum())
    basis = torch.eye(HIDDEN, dtype=torch.float64) * (HIDDEN / variance) ** 0.5
    jacobian = torch.einsum("dh,rhba->drba", basis, jacrev(lambda w: read((w, model.start[1])))(model.start[0])).flatten(2)
    train = model.gradients(model.train)[0]
    cross = SCALES[0] * jacobian.flatten(0, 1) @ train.T
    found = kl_drift(moves(np.ones((1, 1)), cross[None].numpy(), PULLED[:1]), np.full(len(cross), 2.0))
    step = model.moved(np.array([1.0, 0.0]), PULLED[0])
    change = jvp(read, (model.start,), (step,))[1]
    assert found[0] == pytest.approx(float((change**2).sum(1).mean()) / variance)
    size = 1e-4
    real = read(model.after(model.moved(np.array([1.0, 0.0]), PULLED[0], size))) - read(model.start)
    assert float((real**2).sum(1).mean()) / variance / size**2 == pytest.approx(found[0], rel=1e-2)


# --- cap and trace ------------------------------------------------------------------------------------------------------


def test_cap_holds_for_any_pulls_and_is_reached() -> None:
    rng = np.random.default_rng(2)
    cross, tokens = rng.normal(size=(3, 5, TRAIN)), rng.integers(1, 9, 5).astype(float)
    weights, pulled = rng.uniform(0, 2, (50, 3)), rng.normal(size=(50, TRAIN))
    caps = drift_cap(weights, cross, tokens, pulled)
    drifts = kl_drift(moves(weights, cross, pulled), tokens)
    assert (drifts <= caps * (1 + 1e-12)).all()
    summed = np.tensordot(weights[0], cross, 1) * np.sqrt(tokens)[:, None]
    worst = np.linalg.svd(summed)[2][:1] * np.linalg.norm(pulled[0])
    reached = kl_drift(moves(weights[:1], cross, worst), tokens)
    np.testing.assert_allclose(reached, drift_cap(weights[:1], cross, tokens, worst))


def test_fisher_trace_is_the_drift_of_random_steps(model: Model) -> None:
    """½ tr F of each module, over all samplings, against the exact form summed over unit steps of single weights."""
    rows, probabilities = model.every_sampling()
    energies = np.stack([(g**2).sum(1).numpy() for g in model.gradients(rows)]) * probabilities * len(probabilities) / KEPT
    found = fisher_traces(energies, np.full(len(probabilities), float(TOKENS)))
    schedule = Schedule.of(1e-3, 60)
    drift = random_drift(np.eye(2), found, schedule)
    for m in range(2):
        total = 0.0
        for index in range(model.start[m].numel()):
            step = [torch.zeros_like(w) for w in model.start]
            step[m].view(-1)[index] = 1.0
            total += exact_drift(model, tuple(step))
        assert 0.5 * found[m] == pytest.approx(total)
        assert drift[m] == pytest.approx(total * (schedule.steps.sum() / EFFICIENCY) ** 2)


def chunked(function: Callable[[], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr("advisor.theory.forgetting.CHUNK_FLOATS", 1)
    return function()


def test_chunks_do_not_show(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cross = cross_blocks(model, model.kept)
    whole = moves(MASKS, cross, PULLED)
    np.testing.assert_allclose(chunked(lambda: moves(MASKS, cross, PULLED), monkeypatch), whole)
    assert moves(MASKS[:0], cross, PULLED[:0]).shape == (0, KEPT)
