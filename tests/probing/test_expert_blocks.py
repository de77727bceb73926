"""Stacks of experts: their blocks by definition, and the LoRA that PEFT gives them, from its own wrappers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tangents import SETTINGS, Make, random_step

from advisor.core.events import Session
from advisor.core.selections import all_linear
from advisor.models.experts import lora_layer
from advisor.models.peft import lora_arguments
from advisor.models.prepare import Prepared
from advisor.probing import gram
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.kernels import lora_constant

MIXTURES = ("mixtral", "gpt_oss")  # the weights of the second are the other way round, and have biases


def random_stack(shapes: list[tuple[int, int]], experts: int, seed: int) -> tuple[list[gram.Piece], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    pieces = [(torch.randn(n, t, 5, generator=generator), torch.randn(n, t, 3, generator=generator)) for n, t in shapes]
    return pieces, [torch.randint(0, experts, shape, generator=generator) for shape in shapes]


def by_definition(pieces: list[gram.Piece], routes: list[torch.Tensor], experts: int) -> torch.Tensor:
    """Of every example the gradient of the whole stack [experts, b, a], one token at a time; their inner products."""
    gradients = []
    for (x, g), route in zip(pieces, routes, strict=True):
        for i in range(len(x)):
            stack = torch.zeros(experts, g.shape[-1], x.shape[-1], dtype=torch.float64)
            for t in range(x.shape[1]):
                stack[route[i, t]] += torch.outer(g[i, t].double(), x[i, t].double())
            gradients.append(stack.flatten())
    flat = torch.stack(gradients)
    return flat @ flat.T


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3),
    st.integers(1, 6),
    st.integers(0, 10_000),
    st.sampled_from([gram.MATERIALISE, gram.TOKEN_GRAM]),
)
def test_a_stack_is_the_sum_of_its_experts(shapes: list[tuple[int, int]], experts: int, seed: int, method: str) -> None:
    pieces, routes = random_stack(shapes, experts, seed)
    wanted = by_definition(pieces, routes, experts)
    found = sum(gram.exact_block(part, method) for part in gram.by_expert(pieces, routes, experts))
    assert (torch.as_tensor(found).double() - wanted).norm() <= 1e-5 * wanted.diagonal().sum()


def test_the_sketch_of_a_stack_is_unbiased() -> None:
    pieces, routes = random_stack([(4, 6)], 3, 1)
    (x, g), wanted = pieces[0], by_definition(pieces, routes, 3)
    draws = []
    for seed in range(2000):
        maps = gram.sketch_projections(3 * 5, 3, 6, seed, torch.device("cpu"))
        draws.append(gram.gram(gram.stack_features(x, g, routes[0], maps)).double())
    found = torch.stack(draws)
    standard_error = found.std(0) / len(draws) ** 0.5
    assert (standard_error.diagonal() < 0.05 * wanted.diagonal()).all()
    assert ((found.mean(0) - wanted).abs() < 4.5 * standard_error).all()


@pytest.mark.parametrize("name", MIXTURES)
def test_b_of_a_stack_has_the_gradients_that_peft_gives_it(case: Make, name: str) -> None:
    """Row by row, from PEFT's own wrappers in transformers' own experts; at the start and away from it."""
    here = case(name, "causal-lm")
    tangent = here.tangent()
    tangent.batch = 5
    stacks = [t for t in here.loaded.targets if t.experts]
    output, _ = oracle.scalars_of(here.kind)
    for direction in ({}, random_step(tangent)):
        tangent.move(direction)
        found = tangent.jacobian([t.name for t in stacks])
        model: Any = copy.deepcopy(tangent.model)
        model.set_experts_implementation("eager")
        factors = [lora_layer(model, t.name).lora_B["default"].weight.requires_grad_(True) for t in stacks]
        for i, text in enumerate(here.texts):
            value = output(model(**text.inputs()).logits[0], torch.tensor(text.label))
            wanted = torch.autograd.grad(value.sum(), factors)
            for target, gradient in zip(stacks, wanted, strict=True):
                assert float(gradient.norm()) > 0
                assert oracle.relative(found[target.name][i], gradient.flatten()) < 2e-6, target.name


def test_the_expected_kernel_of_a_stack_is_that_of_its_weight_block(ready: Callable[..., Prepared], tmp_path: Path) -> None:
    """Traces over PEFT's draws of A, summed over all rows, against c·tr W: PEFT draws A of a stack as that of a module."""
    loaded = ready("mixtral", "causal-lm", dtype="float64").loaded
    here = oracle.tokenised(loaded.tokenizer, oracle.write_rows(tmp_path, "causal-lm")[1], "causal-lm")
    selection = all_linear(loaded.targets)
    arguments = lora_arguments(selection, SETTINGS, task="causal-lm", head=(), targets=loaded.targets, base_model="x")
    stacks = [t for t in loaded.targets if t.experts]
    base = oracle.looped_reference(loaded.model, [t.name for t in stacks], here[:6], *oracle.scalars_of("causal-lm"))
    ratios: dict[str, list[float]] = {t.name: [] for t in stacks}
    for seed in range(16):
        torch.manual_seed(seed)
        model: Any = get_peft_model(copy.deepcopy(loaded.model), LoraConfig(**arguments)).double().eval()
        layers = [lora_layer(model.base_model.model, t.name).lora_B["default"].weight for t in stacks]
        traces = torch.zeros(len(stacks), dtype=torch.float64)
        for text in here[:6]:
            value = oracle.mean_odds(model(**text.inputs()).logits[0], torch.tensor(text.label))
            traces += torch.stack([g.square().sum() for g in torch.autograd.grad(value.sum(), layers)])
        for target, trace in zip(stacks, traces, strict=True):
            wanted = lora_constant(target, SETTINGS) * float(base.weight_block([target.name]).trace())
            ratios[target.name].append(float(trace) / wanted)
    for name, found in ratios.items():
        assert sum(found) / len(found) == pytest.approx(1, abs=0.12), name


@pytest.mark.parametrize("method", ["kronecker", "token-gram"])
def test_a_mixture_is_probed_by_every_method(ready: Callable[..., Prepared], tmp_path: Path, method: str) -> None:
    notes: list[str] = []
    prepared = ready("qwen3_moe", "causal-lm")
    session = Session(lambda event: notes.append(str(getattr(event, "text", ""))))
    probe = run_probe(prepared, ProbeSettings(method=method, samples=16, micro_batch=5, linearity=True), tmp_path / "p", session)
    exact = run_probe(prepared, ProbeSettings(method="materialise", samples=16), tmp_path / "exact", session)
    for index, target in enumerate(probe.targets):
        error = oracle.relative(probe.weight_blocks[index], torch.as_tensor(exact.weight_blocks[index]).double())
        assert error < (0.5 if method == "kronecker" else 1e-5), target.name
    assert [fields["selection"] for fields in probe.info["linearity"]] == ["all-linear", "q,v"]
    peers = probe.info["peers"]
    assert [value is None for value in peers["kappatune"]] == [bool(t.experts) for t in probe.targets]
