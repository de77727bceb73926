"""Outputs, losses, targets and residuals against their definitions."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from advisor.probing.outputs import Outputs, forward_outputs, loss_slope, make_outputs, residual, targets_of

LOGITS = st.floats(-8, 8, width=32)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (3, 4), elements=LOGITS), st.integers(2, 4), st.integers(0, 100))
def test_classifier_outputs_are_margins_or_centred_logits(values: np.ndarray, classes: int, seed: int) -> None:
    logits = torch.from_numpy(values[:, :classes])
    labels = torch.randint(0, classes, (3,), generator=torch.Generator().manual_seed(seed))
    found, f0, losses = forward_outputs(make_outputs("classification", classes, 0), logits, labels)
    output = oracle.margin if classes == 2 else oracle.centred
    wanted = torch.stack([output(row.double(), label) for row, label in zip(logits, labels, strict=True)])
    torch.testing.assert_close(f0.double(), wanted, rtol=1e-5, atol=1e-5)
    # In an orthonormal basis of the centred logits: inner products, and so Σ_c J_c J_cᵀ, are those of all classes.
    torch.testing.assert_close(found.double() @ found.double().T, wanted @ wanted.T, rtol=1e-4, atol=1e-4)
    wanted = torch.stack([oracle.cross_entropy(row.double(), label) for row, label in zip(logits, labels, strict=True)])
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-5)


def token_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A padded batch of logits and labels, and each example alone without its padding."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 7, 11, generator=generator)
    labels = torch.randint(0, 11, (4, 7), generator=generator)
    alone = []
    for row, (prompt, length) in enumerate(((0, 7), (3, 6), (1, 2), (4, 5))):
        labels[row, :prompt] = -100
        labels[row, length:] = -100
        alone.append((logits[row, :length], labels[row, :length]))
    return logits, labels, alone


@pytest.mark.parametrize("seed", range(5))
def test_language_outputs_are_mean_log_odds_over_target_tokens(seed: int) -> None:
    """Prompt and padding are masked; the token at t is predicted at t − 1, so the first one never."""
    logits, labels, alone = token_batch(seed)
    found, f0, losses = forward_outputs(make_outputs("causal-lm", 0, 0), logits, labels)
    wanted = torch.stack([oracle.mean_odds(x.double(), y) for x, y in alone])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(f0, found)
    wanted = torch.stack([oracle.token_loss(x.double(), y) for x, y in alone])
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_decoder_behind_an_encoder_predicts_the_token_at_its_own_place(seed: int) -> None:
    logits, labels, alone = token_batch(seed)
    found, _, losses = forward_outputs(make_outputs("seq2seq", 0, 0), logits, labels)
    wanted = torch.stack([oracle.mean_target_odds(x.double(), y) for x, y in alone])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    wanted = torch.stack([oracle.target_loss(x.double(), y) for x, y in alone])
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-5)


def test_log_odds_stay_finite_where_a_token_is_certain_or_impossible() -> None:
    labels = torch.tensor([[-100, 1, 1], [-100, 0, 0]])
    logits = torch.zeros(2, 3, 4)
    logits[..., 1] = 200.0
    logits.requires_grad_(True)
    found, _, losses = forward_outputs(Outputs("causal-lm"), logits, labels)
    assert found[:, 0].tolist() == pytest.approx([200 - np.log(3), -200], abs=1e-3)
    assert losses.tolist() == pytest.approx([0, 200], abs=1e-3)
    gradient = torch.autograd.grad(found.sum() + losses.sum(), logits)[0]
    assert bool(torch.isfinite(gradient).all())


def test_half_precision_logits_are_taken_to_fp32() -> None:
    logits, labels, alone = token_batch(0)
    found, _, losses = forward_outputs(Outputs("causal-lm"), logits.bfloat16(), labels)
    assert found.dtype == losses.dtype == torch.float32
    wanted = torch.stack([oracle.mean_odds(x.bfloat16().double(), y) for x, y in alone])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_regression_output_is_the_value_and_half_squared_error() -> None:
    logits, labels = torch.tensor([[1.5], [-2.0]]), torch.tensor([1.0, 1.0])
    found, f0, losses = forward_outputs(make_outputs("regression", 0, 0), logits, labels)
    assert found.tolist() == f0.tolist() == [[1.5], [-2.0]]
    assert losses.tolist() == [0.125, 4.5]


@pytest.mark.parametrize(
    ("task", "classes", "count", "weight", "scaled"),
    [
        ("classification", 2, 1, 1.0, True),
        ("classification", 3, 2, 1 / 3, False),
        ("classification", 8, 7, 1 / 8, False),
        ("classification", 9, 16, 1 / (9 * 16), False),
        ("classification", 77, 16, 1 / (77 * 16), False),
        ("regression", 0, 1, 1.0, True),
        ("causal-lm", 0, 1, 1.0, False),
        ("seq2seq", 0, 1, 1.0, False),
    ],
)
def test_how_many_outputs_and_how_they_are_summed(task: str, classes: int, count: int, weight: float, scaled: bool) -> None:
    outputs = make_outputs(task, classes, 0)
    assert outputs.count == count
    assert outputs.weight == pytest.approx(weight)
    assert outputs.loss_gradient_is_scaled == scaled


def test_signs_are_drawn_once_by_the_seed() -> None:
    first, again, other = (make_outputs("classification", 12, seed).directions for seed in (3, 3, 4))
    assert first is not None
    assert again is not None
    assert other is not None
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert first.shape == (12, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_projections_are_unbiased_for_the_class_sum() -> None:
    """Any Jacobian of centred logits: the mean over draws of signs comes to (1/C)·Σ over classes."""
    classes, draws = 12, 2000
    jacobian = torch.randn(5, classes, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = jacobian - jacobian.mean(1, keepdim=True)
    wanted = torch.einsum("ica,jca->ij", jacobian, jacobian) / classes
    blocks = []
    for seed in range(draws):
        outputs = make_outputs("classification", classes, seed)
        assert outputs.directions is not None
        projected = torch.einsum("ica,cp->ipa", jacobian, outputs.directions.double())
        blocks.append(outputs.weight * torch.einsum("ipa,jpa->ij", projected, projected))
    stacked = torch.stack(blocks)
    standard_error = stacked.std(0) / draws**0.5
    assert ((stacked.mean(0) - wanted).abs() < 4.5 * standard_error).all()
    assert (standard_error.diagonal() < 0.01 * wanted.diagonal()).all()


def test_targets() -> None:
    labels = np.array([0.0, 1.0, 1.0])
    assert targets_of(make_outputs("classification", 2, 0), labels).tolist() == [[-1], [1], [1]]
    assert targets_of(make_outputs("regression", 0, 0), labels).tolist() == [[0], [1], [1]]
    assert targets_of(make_outputs("causal-lm", 0, 0), labels).shape == (3, 1)
    y = targets_of(make_outputs("classification", 12, 0), labels)
    assert y.shape == (3, 12)
    np.testing.assert_allclose(y.sum(1), 0, atol=1e-12)
    assert y[1, 1] == pytest.approx(11 / 12)
    assert y[1, 0] == pytest.approx(-1 / 12)


def test_residuals() -> None:
    y, f0 = np.array([[1.0], [-1.0]]), np.array([[3.0], [-0.5]])
    assert residual(Outputs("regression"), y, f0).tolist() == [[-2], [-0.5]]
    p = 1 / (1 + np.exp(-f0))
    np.testing.assert_allclose(residual(Outputs("causal-lm"), y, f0), 1 - p)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, (4, 2), elements=LOGITS), st.sampled_from(["classification", "regression"]))
def test_the_loss_gradient_is_its_slope_times_the_output_gradient(values: np.ndarray, task: str) -> None:
    logits = torch.from_numpy(values if task == "classification" else values[:, :1].copy()).double().float()
    logits.requires_grad_(True)
    labels = torch.tensor([0, 1, 1, 0]) if task == "classification" else torch.tensor([0.5, -1.0, 2.0, 0.0])
    outputs = make_outputs(task, 2 if task == "classification" else 0, 0)
    found, f0, losses = forward_outputs(outputs, logits, labels)
    of_output = torch.autograd.grad(found.sum(), logits, retain_graph=True)[0]
    of_loss = torch.autograd.grad(losses.sum(), logits)[0]
    slopes = loss_slope(outputs, targets_of(outputs, labels.numpy().astype(float)), f0.double().numpy())
    assert slopes.shape == (4,)
    torch.testing.assert_close(of_loss, torch.from_numpy(slopes).float()[:, None] * of_output, rtol=1e-4, atol=1e-6)


def test_the_slope_of_a_certain_example_is_finite() -> None:
    slopes = loss_slope(Outputs("classification", 2), np.array([[1.0], [-1.0]]), np.array([[900.0], [900.0]]))
    assert np.isfinite(slopes).all()
    assert slopes.tolist() == pytest.approx([0, 1])
