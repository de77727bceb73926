"""Contractions and the sketch against plain einsum; the kernel that LoRA really has at its initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.func import functional_call, jacrev, vmap

from advisor.models.load import load_model
from advisor.probing import gram as blocks

TinyModel = Callable[..., Path]
SHAPES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4)
WIDTH = st.integers(1, 7)
SEED = st.integers(0, 10_000)


def random_pieces(shapes: list[tuple[int, int]], a: int, b: int, seed: int) -> list[blocks.Piece]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, t, a, generator=generator), torch.randn(n, t, b, generator=generator)) for n, t in shapes]


def naive(pieces: list[blocks.Piece]) -> torch.Tensor:
    """Per-example weight gradients in float64, one token at a time, and their inner products."""
    gradients = []
    for x, g in pieces:
        for i in range(len(x)):
            gradients.append(sum(torch.outer(g[i, t].double(), x[i, t].double()) for t in range(x.shape[1])))
    flat = torch.stack([w.flatten() for w in gradients])
    return flat @ flat.T


def distance(block: torch.Tensor, pieces: list[blocks.Piece]) -> float:
    """From the definition, in units of the block without any cancellation: fp32 rounds its terms, not their sum."""
    largest = naive([(x.abs(), g.abs()) for x, g in pieces]).norm()
    return float((block.double() - naive(pieces)).norm() / largest)


@settings(max_examples=60, deadline=None)
@given(SHAPES, WIDTH, WIDTH, SEED, st.sampled_from([1, 20, 16_000_000]))
def test_both_contractions_equal_the_definition(shapes: list[tuple[int, int]], a: int, b: int, seed: int, tile: int) -> None:
    """Pieces of any raggedness, tiles of any size; symmetric to the last bit, positive semidefinite."""
    pieces = random_pieces(shapes, a, b, seed)
    largest = naive([(x.abs(), g.abs()) for x, g in pieces]).norm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "TILE_FLOATS", tile)
        found = [blocks.exact_block(pieces, method) for method in (blocks.MATERIALISE, blocks.TOKEN_GRAM)]
    for block in found:
        assert distance(block, pieces) < 1e-6
        assert torch.equal(block, block.T)
        assert torch.linalg.eigvalsh(block.double())[0] >= -1e-6 * largest


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), WIDTH, WIDTH, SEED, st.floats(0, 1))
def test_dropping_idle_tokens_is_exact(n: int, t: int, a: int, b: int, seed: int, share: float) -> None:
    x, g = random_pieces([(n, t)], a, b, seed)[0]
    idle = torch.rand(n, t, generator=torch.Generator().manual_seed(seed)) < share
    g = g * ~idle[..., None]
    short_x, short_g = blocks.drop_idle_tokens(x, g)
    assert short_x.shape[1] == short_g.shape[1] == max(1, int((~idle).sum(1).max()))
    for i in range(n):  # every token that counts is still there, once, with its own gradient, in order
        kept = short_g[i].abs().amax(-1) > 0
        assert torch.equal(short_x[i, kept], x[i, ~idle[i]])
        assert torch.equal(short_g[i, kept], g[i, ~idle[i]])
    wanted = naive([(x, g)])
    torch.testing.assert_close(naive([(short_x, short_g)]), wanted, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(SHAPES, WIDTH, WIDTH, SEED, st.integers(1, 4), st.sampled_from([blocks.MATERIALISE, blocks.TOKEN_GRAM]))
def test_padding_changes_nothing(shapes: list[tuple[int, int]], a: int, b: int, seed: int, more: int, method: str) -> None:
    """A padded token has any input and no gradient."""
    pieces = random_pieces(shapes, a, b, seed)
    padded = [
        (
            torch.cat([x, 99 * torch.ones(len(x), more, a)], 1),
            torch.cat([g, torch.zeros(len(x), more, b)], 1),
        )
        for x, g in pieces
    ]
    assert distance(blocks.exact_block(padded, method), pieces) < 1e-6


def test_a_bias_adds_the_gram_of_summed_gradients() -> None:
    x, g = random_pieces([(4, 3)], 5, 2, 0)[0]
    block = blocks.exact_block([(blocks.with_bias(x), g)], blocks.MATERIALISE)
    summed = g.double().sum(1)
    assert oracle.relative(block, naive([(x, g)]) + summed @ summed.T) < 1e-6


@pytest.mark.parametrize("method", [blocks.MATERIALISE, blocks.TOKEN_GRAM])
def test_blocks_add_up_over_outputs_and_inputs(method: str) -> None:
    """The block of a fused projection is the sum of its parts' blocks."""
    x, g = random_pieces([(5, 4)], 6, 8, 1)[0]
    whole = blocks.exact_block([(x, g)], method).double()
    by_output = sum(blocks.exact_block([(x, part)], method).double() for part in g.split(2, -1))
    by_input = sum(blocks.exact_block([(part, g)], method).double() for part in x.split(3, -1))
    assert oracle.relative(by_output, whole) < 1e-6
    assert oracle.relative(by_input, whole) < 1e-6


@pytest.mark.parametrize("method", [blocks.MATERIALISE, blocks.TOKEN_GRAM])
def test_half_precision_pieces_are_contracted_in_fp32(method: str) -> None:
    pieces = [(x.bfloat16(), g.bfloat16()) for x, g in random_pieces([(6, 9)], 32, 16, 2)]
    block = blocks.exact_block(pieces, method)
    assert block.dtype == torch.float32
    assert oracle.relative(block, naive(pieces)) < 1e-6


def test_the_exact_block_leaves_its_pieces_alone() -> None:
    pieces = random_pieces([(3, 2), (2, 4)], 3, 5, 3)
    copies = [(x.clone(), g.clone()) for x, g in pieces]
    for method in (blocks.MATERIALISE, blocks.TOKEN_GRAM):
        blocks.exact_block(pieces, method)
    assert all(torch.equal(x, u) and torch.equal(g, v) for (x, g), (u, v) in zip(pieces, copies, strict=True))


def test_the_cheaper_method_is_picked() -> None:
    """Counted multiply-adds decide; at width 768 the token Gram pays off up to about 25 tokens (EXAMPLES)."""
    n, width = 128, 768
    picked = [blocks.cheapest_method([t], [n], width, width) for t in range(1, 200)]
    switch = picked.index(blocks.MATERIALISE) + 1
    assert 12 <= switch <= 40
    assert set(picked[: switch - 1]) == {blocks.TOKEN_GRAM}
    assert set(picked[switch - 1 :]) == {blocks.MATERIALISE}
    for t in (2, switch // 2, switch * 2, 150):
        materialise = n * t * width**2 + n**2 * width**2
        gram = n * t * (n * t) / 2 * 2 * width
        assert picked[t - 1] == (blocks.TOKEN_GRAM if gram < materialise else blocks.MATERIALISE)
    # A classifier's two outputs are cheap to materialise; one token of a wide layer is not.
    assert blocks.cheapest_method([60], [128], 768, 2) == blocks.MATERIALISE
    assert blocks.cheapest_method([1] * 4, [32] * 4, 768, 3072) == blocks.TOKEN_GRAM


# --- sketch -----------------------------------------------------------------------------------------------------------


def sketched(x: torch.Tensor, g: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    projections = blocks.sketch_projections(x.shape[-1], g.shape[-1], k, seed, torch.device("cpu"))
    return blocks.gram(blocks.sketch_features(x, g, projections)).double()


def test_the_sketch_is_unbiased() -> None:
    x, g = random_pieces([(4, 3)], 9, 7, 4)[0]
    draws = torch.stack([sketched(x, g, 6, seed) for seed in range(3000)])
    wanted = naive([(x, g)])
    standard_error = draws.std(0) / math.sqrt(len(draws))
    assert (standard_error.diagonal() < 0.03 * wanted.diagonal()).all()
    assert ((draws.mean(0) - wanted).abs() < 4.5 * standard_error).all()


def diagonal_error(k: int, tokens: int, draws: int) -> float:
    """Root mean square relative error of the diagonal, over draws and examples."""
    x, g = random_pieces([(8, tokens)], 192, 160, 5)[0]
    # in float64 and without the loop over tokens: the naive reference is slow at this size
    wanted = torch.einsum("ita,itb->iab", x.double(), g.double()).flatten(1).square().sum(1)
    errors = torch.stack([sketched(x, g, k, seed).diagonal() / wanted - 1 for seed in range(draws)])
    return float(errors.square().mean().sqrt())


@pytest.mark.parametrize(("tokens", "stated"), [(1, 0.25), (16, 0.07), (128, 0.04)])
def test_the_sketch_is_as_accurate_as_stated(record_property: Callable[[str, object], None], tokens: int, stated: float) -> None:
    measured = diagonal_error(64, tokens, 60 if tokens < 100 else 20)
    record_property("diagonal_error", measured)
    assert stated / 1.6 < measured < stated * 1.6


def test_the_sketch_error_falls_with_k() -> None:
    """Its variance goes as 1/k: four times the size, half the error."""
    ratio = diagonal_error(16, 4, 150) / diagonal_error(64, 4, 150)
    assert 1.6 < ratio < 2.6


def test_sketch_seeds_give_the_same_draw_again_and_others_another() -> None:
    first, again, other = (blocks.sketch_projections(5, 4, 3, seed, torch.device("cpu")) for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first, other, strict=True))
    assert first[0].shape == (5, 3)
    assert first[1].shape == (4, 3)


def test_the_relative_error() -> None:
    one, zero = torch.ones(2, 2), torch.zeros(2, 2)
    assert blocks.relative_error(one, one) == 0
    assert blocks.relative_error(3 * one, one) == pytest.approx(2)
    assert blocks.relative_error(zero, zero) == 0
    assert blocks.relative_error(one, zero) == math.inf


# --- LoRA at its initialisation (docs/design.md 2.1, 2.3) ---------------------------------------------------------------------


class Drawn(NamedTuple):
    """Per module: LoRA-space kernels [draws, n, n], squared norms of the summed loss gradient [draws], W, G, a, b."""

    kernels: dict[str, torch.Tensor]
    norms: dict[str, torch.Tensor]
    weight: dict[str, torch.Tensor]
    gradient: dict[str, torch.Tensor]
    widths: dict[str, tuple[int, int]]


def draw_lora(folder: Path, rank: int, alpha: int, rslora: bool, draws: int) -> Drawn:
    """Gradients with respect to every A and B of a model that PEFT has wrapped, for ``draws`` fresh initialisations."""
    loaded = load_model(str(folder), "classification", num_labels=2, device="cpu")
    ids = torch.randint(10, 60, (4, 6), generator=torch.Generator().manual_seed(1))
    texts = [oracle.Text(row.tolist(), i % 2) for i, row in enumerate(ids)]
    full = [f"{t.name}.weight" for t in loaded.targets]
    base = oracle.reference(loaded.model, full, texts, oracle.margin, oracle.cross_entropy)
    names = [t.name for t in loaded.targets]
    config = LoraConfig(target_modules=names, r=rank, lora_alpha=alpha, use_rslora=rslora, task_type="SEQ_CLS")
    model: Any = get_peft_model(loaded.model.double(), config).eval()
    model.base_model.model.set_attn_implementation("eager")
    for module in model.modules():
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = lambda *_: None
    state = {name: p.detach() for name, p in model.named_parameters()}
    factors = [name for name in state if "lora_" in name]
    assert len(factors) == 2 * len(names)
    torch.manual_seed(0)
    stacks: dict[str, list[torch.Tensor]] = {name: [] for name in factors}
    for _ in range(draws):
        for name in names:
            model.base_model.model.get_submodule(name).reset_lora_parameters("default", True)
        for name in factors:
            stacks[name].append(model.get_parameter(name).detach().double().clone())
    values = {name: torch.stack(drawn) for name, drawn in stacks.items()}
    assert all(values[name].abs().max() == 0 for name in factors if "lora_B" in name)

    def scalars(chosen: dict[str, torch.Tensor], row: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        arguments = {"input_ids": row[None], "use_cache": False}
        logits = functional_call(model, {**state, **chosen}, kwargs=arguments).logits[0]
        return torch.cat([oracle.margin(logits, label), oracle.cross_entropy(logits, label).reshape(1)])

    labels = torch.tensor([t.label for t in texts])
    per_example = vmap(jacrev(scalars), in_dims=(None, 0, 0))
    jacobians = vmap(per_example, in_dims=(0, None, None), chunk_size=50)(values, ids, labels)
    kernels, norms = {}, {}
    for name in names:
        a, b = (jacobians[f"base_model.model.{name}.lora_{part}.default.weight"].detach().flatten(3) for part in "AB")
        assert float(a.abs().max()) == 0  # B = 0
        kernels[name] = torch.einsum("dip,djp->dij", b[:, :, 0], b[:, :, 0])
        norms[name] = b[:, :, 1].sum(1).square().sum(-1)
    return Drawn(
        kernels,
        norms,
        {name: base.weight_block([f"{name}.weight"]) for name in names},
        {name: base.gradient_block([f"{name}.weight"]) for name in names},
        {t.name: (t.in_features, t.out_features) for t in loaded.targets},
    )


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_expected_lora_kernel_is_a_multiple_of_the_weight_block(tiny_model: TinyModel, name: str, rslora: bool) -> None:
    """E over PEFT's draws of A of K_m is α²/(3·a·rank)·W_m, with rsLoRA α²/(3a)·W_m; GPT-2 has Conv1D."""
    rank, alpha = 4, 6
    drawn = draw_lora(tiny_model(name), rank, alpha, rslora, 300)
    assert len(drawn.kernels) == (12 if name == "bert" else 8)
    for module, kernels in drawn.kernels.items():
        a, _ = drawn.widths[module]
        factor = alpha**2 / (3 * a) if rslora else alpha**2 / (3 * a * rank)
        wanted = factor * drawn.weight[module]
        standard_error = kernels.std(0) / math.sqrt(len(kernels))
        assert ((kernels.mean(0) - wanted).abs() <= 5 * standard_error).all(), module
        traces = torch.einsum("dii->d", kernels)
        assert float(traces.std() / math.sqrt(len(traces)) / traces.mean()) < 0.05, module  # the test can tell
        assert float(kernels.mean(0).trace() / wanted.trace()) == pytest.approx(1, abs=0.15), module


def test_the_adam_kernel_does_not_depend_on_rank(tiny_model: TinyModel) -> None:
    """K_m·√p_m/‖g_m‖ in LoRA space, p_m = rank·b, is α√(b/3a)·W_m/‖g_m in weight space‖, whatever the rank."""
    alpha = 6
    for rank in (2, 8):
        drawn = draw_lora(tiny_model("gpt2"), rank, alpha, False, 300)
        for module, kernels in drawn.kernels.items():
            a, b = drawn.widths[module]
            squared = float(drawn.gradient[module].sum())
            norms = drawn.norms[module]
            standard_error = float(norms.std()) / math.sqrt(len(norms))
            assert abs(float(norms.mean()) - alpha**2 / (3 * a * rank) * squared) <= 5 * standard_error, module
            found = float(kernels.mean(0).trace()) * math.sqrt(rank * b) / math.sqrt(float(norms.mean()))
            wanted = alpha * math.sqrt(b / (3 * a)) * float(drawn.weight[module].trace()) / math.sqrt(squared)
            assert found == pytest.approx(wanted, rel=0.15), (module, rank)


def test_one_draw_of_a_is_off_where_the_expectation_is_not(tiny_model: TinyModel) -> None:
    """Why the expectation is stored: a single draw moves the trace of a block by a twentieth and more."""
    drawn = draw_lora(tiny_model("bert"), 4, 6, False, 40)
    traces = [torch.einsum("dii->d", kernels) for kernels in drawn.kernels.values()]
    assert np.median([float(t.std() / t.mean()) for t in traces]) > 0.05
