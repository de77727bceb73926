"""Kernels against closed forms, PEFT's own initialisation, and remaking them at other settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fakes import bert_targets, make_probe, random_psd
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from advisor.core.errors import BadInput
from advisor.core.targets import LoraSettings, Target
from advisor.theory.kernels import KERNELS, Kernels, lora_constant, make_kernels, rank_weights

TARGETS = bert_targets(1)
N = 7
RNG = np.random.default_rng(0)
WEIGHT = random_psd(RNG, len(TARGETS), N)
GRADIENT = random_psd(RNG, len(TARGETS), N)

lora_settings = st.builds(
    LoraSettings,
    rank=st.integers(1, 256),
    alpha=st.floats(0.1, 512, allow_nan=False),
    rslora=st.booleans(),
)


def test_constant_by_hand() -> None:
    target = Target("m", 0, "query", "attention", 30, 5)
    assert lora_constant(target, LoraSettings(4, 16)) == pytest.approx(16**2 / (3 * 30 * 4))
    assert lora_constant(target, LoraSettings(4, 16, rslora=True)) == pytest.approx(16**2 / (3 * 30))


@pytest.mark.parametrize("rslora", [False, True])
def test_constant_is_the_mean_over_pefts_own_draws_of_a(rslora: bool) -> None:
    """E over PEFT's A of the LoRA kernel of f_i = u·layer(x_i), whose weight-space kernel is ‖u‖²·⟨x_i, x_j⟩."""
    a, b, rank, alpha, draws = 20, 6, 1024, 24, 20
    torch.manual_seed(0)
    x, u = torch.randn(5, a), torch.randn(b)
    total = torch.zeros(5, 5)
    for _ in range(draws):
        model = torch.nn.Sequential(torch.nn.Linear(a, b, bias=False))
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], use_rslora=rslora)
        adapted = get_peft_model(model, config)
        weights = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        rows = []
        for i in range(len(x)):
            grads = torch.autograd.grad(adapted(x[i : i + 1])[0] @ u, list(weights.values()), allow_unused=True)
            rows.append(torch.cat([g.reshape(-1) for g in grads if g is not None]))
        jacobian = torch.stack(rows)
        total += jacobian @ jacobian.T / draws
    constant = lora_constant(Target("0", None, "r", "other", a, b), LoraSettings(rank, alpha, rslora))
    expected = constant * (u @ u) * (x @ x.T)
    assert float((total - expected).norm() / expected.norm()) < 0.03


def test_selection_kernel_is_head_plus_sum() -> None:
    head = random_psd(RNG, 1, N)[0]
    kernels = Kernels("weight", WEIGHT, head)
    masks = np.array([[1, 0, 1, 0, 0, 1], [0] * 6, [1] * 6], dtype=float)
    for mask, kernel, bare in zip(masks, kernels.of(masks), kernels.of(masks, with_head=False), strict=True):
        total = head.copy()
        for m in range(6):
            if mask[m]:
                total = total + WEIGHT[m]
        np.testing.assert_allclose(kernel, total, rtol=1e-12)
        np.testing.assert_allclose(bare, total - head, rtol=1e-9, atol=1e-9)


@given(lora_settings)
def test_adam_kernel_is_the_identity_of_the_design(own: LoraSettings) -> None:
    """K̃ = α·√(b/3a)·W/‖g in weight space‖, without rank; with rsLoRA times √rank."""
    kernels = make_kernels(TARGETS, WEIGHT, GRADIENT, own, "adam")
    for target, block, weight, gradient in zip(TARGETS, kernels.blocks, WEIGHT, GRADIENT, strict=True):
        norm = math.sqrt(gradient.sum())
        expected = own.alpha * math.sqrt(target.out_features / (3 * target.in_features)) * weight / norm
        if own.rslora:
            expected = expected * math.sqrt(own.rank)
        np.testing.assert_allclose(block, expected, rtol=1e-9)


def test_zero_gradient_gives_a_zero_flagged_block_in_adam_only() -> None:
    gradient = GRADIENT.copy()
    gradient[2] = 0.0
    kernels = make_kernels(TARGETS, WEIGHT, gradient, LoraSettings(), "adam")
    assert kernels.silent == (TARGETS[2].name,)
    assert (kernels.blocks[2] == 0).all()
    assert np.isfinite(kernels.blocks).all()
    assert all((kernels.blocks[m] != 0).any() for m in range(len(TARGETS)) if m != 2)
    assert make_kernels(TARGETS, WEIGHT, gradient, LoraSettings(), "lora-expected").silent == ()


def test_gradients_that_cancel_over_the_sample_are_silent() -> None:
    """‖Σ g_i‖ = 0 although each g_i is not: rounding below zero must not become NaN."""
    g = np.array([1.0, -1.0, 2.0, -2.0, 0.0, 3.0, -3.0])
    gradient = GRADIENT.copy()
    gradient[0] = np.outer(g, g)
    kernels = make_kernels(TARGETS, WEIGHT, gradient, LoraSettings(), "adam")
    assert kernels.silent == (TARGETS[0].name,)
    assert np.isfinite(kernels.blocks).all()


@settings(max_examples=60)
@given(st.sampled_from(KERNELS), lora_settings, lora_settings)
def test_rank_weights_equal_remaking_the_kernels(kind: str, base: LoraSettings, other: LoraSettings) -> None:
    made = make_kernels(TARGETS, WEIGHT, GRADIENT, base, kind)
    again = make_kernels(TARGETS, WEIGHT, GRADIENT, other, kind)
    np.testing.assert_allclose(made.blocks * rank_weights(kind, base, other), again.blocks, rtol=1e-9)


def test_head_is_scaled_by_its_fresh_gradient_under_adam_only() -> None:
    head = random_psd(RNG, 1, N)[0]
    scaled = make_kernels(TARGETS, WEIGHT, GRADIENT, LoraSettings(), "adam", (head, 4.0, 50))
    np.testing.assert_allclose(scaled.head, math.sqrt(50) / 4.0 * head)
    plain = make_kernels(TARGETS, WEIGHT, GRADIENT, LoraSettings(), "lora-expected", (head, 4.0, 50))
    np.testing.assert_array_equal(plain.head, head)
    still = make_kernels(TARGETS, WEIGHT, GRADIENT, LoraSettings(), "adam", (head, 0.0, 50))
    assert np.isfinite(still.head).all()


def test_default_sigma_is_a_hundredth_of_the_mean_eigenvalue_without_the_head() -> None:
    kernels = Kernels("weight", WEIGHT, 1e6 * np.eye(N))
    mean_eigenvalue = np.linalg.eigvalsh(WEIGHT.sum(0)).mean()
    assert kernels.default_sigma() == pytest.approx(1e-2 * mean_eigenvalue)


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(BadInput, match="ntk"):
        make_kernels(TARGETS, WEIGHT, GRADIENT, LoraSettings(), "ntk")


def test_stored_float32_blocks_are_summed_in_float64() -> None:
    probe = make_probe()
    kernels = make_kernels(probe.targets, probe.weight_blocks, probe.gradient_blocks, LoraSettings(), "weight")
    assert kernels.blocks.dtype == np.float64
    np.testing.assert_allclose(kernels.blocks.sum(0), probe.weight_blocks.astype(np.float64).sum(0), rtol=1e-12)
