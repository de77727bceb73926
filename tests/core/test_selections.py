"""Named selections on a Llama-like and a GPT-2-like model; random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.selections import all_linear, distinct, structured_random, target_sets
from advisor.core.targets import Selection, Target

LLAMA_ROLES = (
    (("query", 64, 64), ("key", 64, 16), ("value", 64, 16), ("output", 64, 64)),
    (
        ("gate", 64, 128),
        ("up", 64, 128),
        ("down", 128, 64),
    ),
)
GPT2_ROLES = (("qkv", 32, 96), ("output", 32, 32)), (("up", 32, 128), ("down", 128, 32))


def build(roles, layers: int, stem: str) -> tuple[Target, ...]:  # type: ignore[no-untyped-def]
    return tuple(
        Target(f"{stem}.{i}.{role}", i, role, group, a, b)
        for i in range(layers)
        for group, members in zip(("attention", "mlp"), roles, strict=True)
        for role, a, b in members
    )


LLAMA = build(LLAMA_ROLES, 5, "model.layers")
GPT2 = build(GPT2_ROLES, 4, "transformer.h")


def chosen(targets, qv, name: str) -> set[tuple[int, str]]:  # type: ignore[no-untyped-def]
    selection = {s.name: s for s in target_sets(targets, qv)}[name]
    return {(t.layer, t.role) for t in targets if t.name in selection.targets}


def test_llama_recipes() -> None:
    qv = ("query", "value")
    attention = {"query", "key", "value", "output"}
    assert chosen(LLAMA, qv, "all-linear") == {(t.layer, t.role) for t in LLAMA}
    assert chosen(LLAMA, qv, "q,v") == {(i, r) for i in range(5) for r in qv}
    assert chosen(LLAMA, qv, "attention") == {(i, r) for i in range(5) for r in attention}
    assert chosen(LLAMA, qv, "mlp") == {(i, r) for i in range(5) for r in ("gate", "up", "down")}
    assert {layer for layer, _ in chosen(LLAMA, qv, "last 3 layers")} == {2, 3, 4}
    assert {layer for layer, _ in chosen(LLAMA, qv, "first 3 layers")} == {0, 1, 2}
    assert {layer for layer, _ in chosen(LLAMA, qv, "last 2 layers")} == {3, 4}
    assert chosen(LLAMA, qv, "q,v, last 3 layers") == {(i, r) for i in (2, 3, 4) for r in qv}
    assert chosen(LLAMA, qv, "attention, last 3 layers") == {(i, r) for i in (2, 3, 4) for r in attention}


def test_gpt2_takes_the_fused_projection_for_q_and_v() -> None:
    assert chosen(GPT2, ("qkv",), "q,v") == {(i, "qkv") for i in range(4)}
    assert chosen(GPT2, ("qkv",), "attention") == {(i, r) for i in range(4) for r in ("qkv", "output")}
    assert {layer for layer, _ in chosen(GPT2, ("qkv",), "last layer")} == {3}


@pytest.mark.parametrize(("targets", "qv"), [(LLAMA, ("query", "value")), (GPT2, ("qkv",)), (LLAMA[:7], ("query",))])
def test_recipes_are_distinct_non_empty_and_in_model_order(targets, qv) -> None:  # type: ignore[no-untyped-def]
    found = target_sets(targets, qv)
    order = [t.name for t in targets]
    assert found[0].name == "all-linear"
    assert len({s.targets for s in found}) == len(found)
    assert len({s.name for s in found}) == len(found)
    for selection in found:
        assert selection.targets
        assert list(selection.targets) == sorted(selection.targets, key=order.index)


def test_modules_outside_layers_only_come_with_roles() -> None:
    targets = (*GPT2, Target("proj", None, "proj", "other", 8, 8))
    assert "proj" in all_linear(targets).targets
    found = {s.name: s for s in target_sets(targets, ("qkv",))}
    assert all("proj" not in s.targets for name, s in found.items() if name != "all-linear")


def test_a_model_without_layers() -> None:
    flat = tuple(Target(f"fc{i}", None, "fc", "other", 8, 8) for i in range(3))
    assert [s.name for s in target_sets(flat, ())] == ["all-linear"]
    selection = structured_random(flat, 2 * 16, 1, np.random.default_rng(0), "r")
    assert len(selection.targets) == 2


def test_distinct_keeps_the_first() -> None:
    kept = distinct([Selection("a", ("x",)), Selection("b", ("x",)), Selection("c", ())])
    assert [s.name for s in kept] == ["a", "c"]


@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.integers(1, 16))
def test_random_selections_fill_their_budget(seed: int, share: float, rank: int) -> None:
    budget = int(share * sum(t.lora_params(rank) for t in LLAMA))
    selection = structured_random(LLAMA, budget, rank, np.random.default_rng(seed), "r")
    left = budget - selection.params(LLAMA, rank)
    assert left >= 0
    assert all(t.name in selection.targets or t.lora_params(rank) > left for t in LLAMA)
    assert selection == structured_random(LLAMA, budget, rank, np.random.default_rng(seed), "r")


def test_random_selections_differ_and_are_structured() -> None:
    """Different draws differ; on average they hold fewer roles than uniform draws of the same size."""
    rng = np.random.default_rng(0)
    budget = int(0.15 * sum(t.lora_params(4) for t in LLAMA))
    drawn = [structured_random(LLAMA, budget, 4, rng, "r") for _ in range(60)]
    assert len({s.targets for s in drawn}) > 40
    role = {t.name: t.role for t in LLAMA}
    names = [t.name for t in LLAMA]
    own = np.mean([len({role[n] for n in s.targets}) / len(s.targets) for s in drawn])
    uniform = np.mean([len({role[n] for n in rng.choice(names, len(s.targets), replace=False)}) / len(s.targets) for s in drawn])
    assert own < uniform


def test_experts_and_recurrent_parts_are_target_sets_where_there_are_any() -> None:
    hybrid = (
        Target("0.q", 0, "query", "attention", 8, 8),
        Target("0.up", 0, "up", "mlp", 8, 8),
        Target("0.experts", 0, "experts.up", "mlp", 8, 8, "experts", 4, 2),
        Target("1.in", 1, "mamba.in_proj", "recurrent", 8, 8),
    )
    found = {s.name: s.targets for s in target_sets(hybrid, ())}
    assert found["recurrent"] == ("1.in",)
    assert found["experts"] == ("0.experts",)
    assert found["all but experts"] == ("0.q", "0.up", "1.in")
    assert found["mlp"] == ("0.up", "0.experts")
    assert not {"recurrent", "experts", "all but experts"} & {s.name for s in target_sets(LLAMA, ("query",))}
