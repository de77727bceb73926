"""Pairs of answers: kernel blocks of DPO's gradient at its start against autograd through its definition, and real runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tangents import SETTINGS, Make
from torch import nn

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import Selection
from advisor.core.tasks import BETA
from advisor.models import forward
from advisor.models.encode import collate
from advisor.models.forward import batch_logits, batch_loss, margins, without_adapters
from advisor.models.peft import lora_arguments
from advisor.models.prepare import Source, prepare
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.finetune import finetune
from advisor.training.pilot import at_work

TinyModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmoe"])
@pytest.mark.parametrize(("method", "micro_batch"), [("materialise", 5), ("token-gram", 1)])
def test_blocks_are_those_of_dpo_at_its_start(
    tiny_model: TinyModel, tmp_path: Path, name: str, method: str, micro_batch: int
) -> None:
    path, rows = oracle.write_rows(tmp_path, "preference")
    source = Source(str(tiny_model(name, "preference")), str(path), eval_data=str(path), device="cpu")
    prepared = prepare(source, Session())
    probe = run_probe(prepared, ProbeSettings(method=method, micro_batch=micro_batch), tmp_path / "probe", Session())
    oracle.require_blocks(probe, prepared.loaded, rows, "preference")
    assert (probe.f0 == 0).all()
    assert (probe.z == 0.5).all()
    assert probe.head is None


@pytest.mark.parametrize("task", ["preference", "kto"])
def test_jacobian_in_lora_space_is_that_of_autograd(case: Make, task: str) -> None:
    here = case("gpt2", task)
    tangent = here.tangent()
    names = list(tangent.movable)
    jacobian = tangent.jacobian(names)
    for row in (0, 5):
        unit = torch.zeros(len(here.rows), 1, dtype=torch.float64)
        unit[row] = 1
        for name, gradient in tangent.pull_back(unit, names).items():
            assert torch.allclose(jacobian[name][row], gradient.flatten(), rtol=1e-6, atol=1e-9)


def trained(loaded: Any) -> nn.Module:
    """With adapters that do something."""
    arguments = lora_arguments(
        all_linear(loaded.targets), SETTINGS, task="preference", head=(), targets=loaded.targets, base_model="x"
    )
    model: nn.Module = get_peft_model(loaded.model, LoraConfig(**arguments)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model


def test_the_loss_is_dpos_with_pefts_own_reference(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, _ = oracle.write_rows(tmp_path, "preference")
    prepared = prepare(Source(str(tiny_model("llama", "preference")), str(path), eval_data=str(path), device="cpu"), Session())
    loaded, rows = prepared.loaded, prepared.train_rows[:6]
    model = trained(loaded)

    def log_likelihoods() -> torch.Tensor:
        found = []
        for row in rows:
            for sequence in row.sequences:
                logits = model(input_ids=torch.tensor([sequence.ids])).logits[0, :-1]
                picked = logits.log_softmax(-1)[torch.arange(len(logits)), torch.tensor(sequence.ids[1:])]
                found.append(picked[torch.tensor(sequence.token_labels[1:]) >= 0].sum())
        return torch.stack(found).view(-1, 2)

    policy = log_likelihoods()
    with model.disable_adapter():  # type: ignore[operator]
        reference = log_likelihoods()
    won = BETA * ((policy - reference)[:, 0] - (policy - reference)[:, 1])
    loss, count = batch_loss(model, loaded, collate(rows, loaded))
    assert count == 6
    assert torch.allclose(loss, -torch.log(torch.sigmoid(won)).mean(), rtol=1e-5)
    assert loss.requires_grad


def test_what_is_at_work_is_the_same_after_the_reference(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, _ = oracle.write_rows(tmp_path, "preference")
    prepared = prepare(Source(str(tiny_model("llama", "preference")), str(path), eval_data=str(path), device="cpu"), Session())
    loaded = prepared.loaded
    model = trained(loaded)
    layers = {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    batch = collate(prepared.train_rows[:4], loaded)
    labels = batch.pop("labels")

    def found() -> torch.Tensor:
        return margins(batch_logits(model, loaded, batch), labels)

    with torch.no_grad(), at_work(layers, Selection("one", (loaded.targets[3].name,)), 2.0):
        before = found()
        with without_adapters(model):
            base = found()
        assert torch.equal(found(), before)
        assert not torch.allclose(base, before)


def test_a_run_starts_at_log_two_and_learns(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, _ = oracle.write_rows(tmp_path, "preference")
    prepared = prepare(Source(str(tiny_model("llama", "preference")), str(path), eval_data=str(path), device="cpu"), Session())
    recipe = TrainingRecipe(epochs=2, lr=1e-2, batch_size=6)
    rows, loaded = prepared.train_rows, prepared.loaded
    found = finetune(loaded, all_linear(loaded.targets), SETTINGS, recipe, rows, rows, "reward_accuracy", 0)
    assert found.epochs[0].val_loss == pytest.approx(math.log(2))
    assert found.epochs[0].metric == 0.5
    assert found.epochs[-1].val_loss < 0.6
    assert found.epochs[-1].metric > 0.7
    nothing = finetune(loaded, Selection("nothing", ()), SETTINGS, recipe, rows, rows, "reward_accuracy", 0)
    assert nothing.epochs[-1].val_loss == pytest.approx(math.log(2))
