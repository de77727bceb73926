"""Measuring the tangent leaves the user's model as it was, and says what does not fit, overflows or is cancelled."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tangents import NOTHING, Make, apart, on_rows, oracle_jacobian, stand_in

from advisor.core.errors import Interrupted, OutOfMemory
from advisor.core.events import Event, Progress, Session, Warn
from advisor.core.selections import all_linear
from advisor.probing.linear_check import measure_linearity
from advisor.probing.tangent import Tangent

pytestmark = pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path` was renamed")  # of stand-ins


def test_the_users_model_is_left_as_it_is(case: Make) -> None:
    """Weights, flags, hooks, modes and module types, whatever state it was in; the copy is in eval mode."""
    loaded = case("roberta", "four", double=False).loaded
    model = loaded.model
    model.roberta.encoder.layer[0].output.dropout.train()
    model.roberta.encoder.layer[1].output.dense.weight.requires_grad_(True)

    def state() -> list[Any]:
        parts: list[Any] = [(n, p.requires_grad, p.grad, p.dtype, id(p)) for n, p in model.named_parameters()]
        parts += [
            (n, m.training, type(m), len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in model.named_modules()
        ]
        return parts

    weights = {n: p.clone() for n, p in model.state_dict().items()}
    before = state()
    tangent = on_rows(loaded, 4)
    found = measure_linearity(tangent, [all_linear(loaded.targets)], Session())
    assert state() == before
    assert all(torch.equal(p, weights[n]) for n, p in model.state_dict().items())
    assert not any(m.training for m in tangent.model.modules())
    assert not any(len(m._forward_hooks) for m in tangent.model.modules())
    assert all(torch.equal(p, tangent.start[n]) for n, p in tangent.movable.items())  # back at θ0
    assert found[0].distance > 0


def test_many_classes_have_no_constants_and_everything_else(case: Make) -> None:
    here = case("bert", "twelve")
    tangent = here.tangent()
    assert tangent.outputs.projected
    found = measure_linearity(tangent, here.some(), Session())
    values, jacobian = oracle_jacobian(here, tangent)
    assert apart(tangent.values(), values) < 1e-12
    for seen in found:
        assert seen.lipschitz is seen.gradient_lipschitz is seen.input_lipschitz is seen.input_gradient_lipschitz is None
        assert seen.flow is None
        assert np.isfinite(seen.gaps).all()
        assert seen.distance > 0
    lora = measure_linearity(tangent, here.some()[:1], Session())[0]
    assert lora == found[0]
    signs = tangent.outputs.directions
    assert signs is not None
    name = here.loaded.targets[0].name
    projected = torch.einsum("cp,nca->npa", signs.double(), jacobian[name]).flatten(0, 1)
    assert apart(tangent.jacobian([name])[name], projected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_on_a_float32_copy(case: Make, dtype: torch.dtype) -> None:
    loaded = case("gpt2", "binary", double=False).loaded
    loaded.model.to(dtype)
    rounded = copy.deepcopy(loaded.model).float()
    mine, wanted = (on_rows(replace(loaded, model=m), 2) for m in (loaded.model, rounded))
    assert {p.dtype for p in mine.model.parameters()} == {torch.float32}
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    everything = [all_linear(loaded.targets)]
    assert measure_linearity(mine, everything, Session()) == measure_linearity(wanted, everything, Session())


def limit_rows(tangent: Tangent, most: int) -> None:
    forward = tangent.model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > most:
            raise torch.OutOfMemoryError("simulated")
        return forward(*args, **kwargs)

    tangent.model.forward = limited


@pytest.mark.parametrize("most", [5, 1])
def test_out_of_memory_halves_the_batch(case: Make, most: int) -> None:
    here = case("opt", "causal-lm")
    whole = measure_linearity(here.tangent(), here.some()[2:3], Session())
    tangent = here.tangent()
    limit_rows(tangent, most)
    events: list[Event] = []
    halved = measure_linearity(tangent, here.some()[2:3], Session(emit=events.append))
    assert tangent.batch == {5: 3, 1: 1}[most]  # 12 → 6 → 3 → 1
    assert sum(isinstance(e, Warn) and "Out of memory" in e.text for e in events) == {5: 2, 1: 3}[most]
    for mine, wanted in zip(halved, whole, strict=True):
        np.testing.assert_allclose(mine.gaps, wanted.gaps, rtol=1e-3)
        assert mine.distance == pytest.approx(wanted.distance, rel=1e-4)


def test_what_does_not_fit_or_is_broken_is_said(case: Make) -> None:
    here = case("opt", "causal-lm")
    tangent = here.tangent()
    limit_rows(tangent, 0)
    with pytest.raises(OutOfMemory, match="One row"):
        measure_linearity(tangent, [here.everything], Session())

    def broken(**kwargs: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    tangent = here.tangent()
    tangent.model.forward = broken
    with pytest.raises(RuntimeError, match="shapes"):
        tangent.values()


def test_a_model_that_overflows_on_the_way_is_left_out_and_said(case: Make) -> None:
    loaded = stand_in(case("gpt2", "binary").loaded, "linear", 2, head=True)
    tangent = on_rows(loaded, 2)
    forward = tangent.model.forward

    def overflowing(**kwargs: Any) -> Any:
        found = forward(**kwargs)
        moved = float(tangent.movable["through"].detach().norm()) > 1e-3
        return SimpleNamespace(logits=found.logits * (torch.inf if moved else 1.0))

    tangent.model.forward = overflowing
    events: list[Event] = []
    found = measure_linearity(tangent, [all_linear(loaded.targets), NOTHING], Session(emit=events.append))
    assert [seen.selection for seen in found] == ["head alone"]
    assert any(isinstance(e, Warn) and "all-linear" in e.text and "overflow" in e.text for e in events)


def test_a_head_of_zeros_leaves_lora_without_effect(case: Make) -> None:
    """Then σ is zero and the head's kernel singular: the shortest way to the nearest fit."""
    loaded = stand_in(case("gpt2", "binary").loaded, "linear", 2, head=True)
    loaded.model.score.weight.data.zero_()
    loaded.model.double()
    tangent = on_rows(loaded, 2)
    seen = measure_linearity(tangent, [all_linear(loaded.targets)], Session())[0]
    assert (seen.sigma, seen.lora_distance, seen.lora_gap) == (0, 0, None)
    jacobian = torch.cat(list(tangent.jacobian(["score/weight", "score/bias"]).values()), 1)
    z = torch.tensor([[2.0 * row.label - 1] for row in tangent.rows]).double() - tangent.values()
    assert torch.linalg.matrix_rank(jacobian) < len(z)
    assert seen.distance == pytest.approx(float((torch.linalg.pinv(jacobian) @ z).norm()), rel=1e-6)
    assert max(seen.gaps) < 1e-9


def test_progress_and_cancelling(case: Make) -> None:
    here = case("bert", "binary")
    events: list[Event] = []
    session = Session()

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.done == 1:
            session.cancel.set()

    session.emit = stop
    with pytest.raises(Interrupted):
        measure_linearity(here.tangent(), here.some(), session)
    assert [e.done for e in events if isinstance(e, Progress)] == [0, 1]
