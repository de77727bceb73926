"""Marked answers: kernel blocks of KTO's gradient at its start against autograd through its definition, and real runs whose
loss is that of TRL's own trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import roc_auc_score
from tangents import SETTINGS
from torch import nn

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe, recipe_for
from advisor.core.selections import all_linear
from advisor.core.targets import Selection
from advisor.models import forward
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.forward import batch_logits, batch_loss, mismatched, rewards
from advisor.models.peft import lora_arguments
from advisor.models.prepare import Source, prepare
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.simulate import simulate, slopes_at_zero
from advisor.training.finetune import evaluate, finetune, score

TinyModel = Callable[..., Path]
BETA = 0.1


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


def prepared_rows(tiny_model: TinyModel, folder: Path, name: str = "llama", **options: Any) -> Any:
    path, _ = oracle.write_rows(folder, "kto")
    return prepare(Source(str(tiny_model(name, "kto")), str(path), eval_data=str(path), device="cpu", **options), Session())


@pytest.mark.parametrize(
    ("name", "method", "micro_batch"), [("llama", "materialise", 5), ("gpt2", "token-gram", 1), ("olmoe", "materialise", 7)]
)
def test_blocks_are_those_of_kto_at_its_start(
    tiny_model: TinyModel, tmp_path: Path, name: str, method: str, micro_batch: int
) -> None:
    prepared = prepared_rows(tiny_model, tmp_path, name)
    _, rows = oracle.write_rows(tmp_path, "kto")
    probe = run_probe(
        prepared, ProbeSettings(method=method, micro_batch=micro_batch, linearity=False), tmp_path / "probe", Session()
    )
    oracle.require_blocks(probe, prepared.loaded, rows, "kto")
    # β/4 times the gradient of the log-likelihood
    assert np.allclose(probe.gradient_blocks, probe.weight_blocks / 16, rtol=1e-5)
    assert (probe.f0 == 0).all()
    assert (probe.z == 0.25).all()
    assert probe.head is None


def trained(loaded: Any, seed: int) -> nn.Module:
    """With adapters that do something."""
    arguments = lora_arguments(all_linear(loaded.targets), SETTINGS, task="kto", head=(), targets=loaded.targets, base_model="x")
    model: nn.Module = get_peft_model(loaded.model, LoraConfig(**arguments)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model


def own_losses(loaded: Any, model: nn.Module, rows: list[EncodedRow]) -> torch.Tensor:
    """By the definition, one text at a time, with PEFT's own switch for the reference, in float64."""

    def log_likelihood(ids: list[int], start: int) -> torch.Tensor:
        found = []
        for switch in (nullcontext(), model.disable_adapter()):  # type: ignore[operator]
            with switch, torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
            found.append(logits.log_softmax(-1)[torch.arange(len(logits)), torch.tensor(ids[1:])][start - 1 :].sum())
        return found[0] - found[1]

    starts = [next(t for t, label in enumerate(row.token_labels) if label != IGNORED) for row in rows]
    moved = [log_likelihood(list(row.ids), start) for row, start in zip(rows, starts, strict=True)]
    crossed = []
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        before = rows[i - 1]
        crossed.append(log_likelihood([*row.ids[:start], *before.ids[starts[i - 1] :]], start))
    z0 = max(0.0, float(torch.stack(crossed).mean()))
    signs = torch.tensor([1.0 if row.label else -1.0 for row in rows])
    return 1 - 1 / (1 + torch.exp(-BETA * signs * (torch.stack(moved) - z0)))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_loss_is_that_of_the_definition(tiny_model: TinyModel, tmp_path: Path, seed: int) -> None:
    prepared = prepared_rows(tiny_model, tmp_path)
    loaded, rows = prepared.loaded, prepared.train_rows[:6]
    model = trained(loaded, seed)
    loss, count = batch_loss(model, loaded, collate(rows, loaded))
    assert count == 6
    assert torch.allclose(loss.double(), own_losses(loaded, model, rows).mean(), rtol=1e-5)
    assert loss.requires_grad


def test_the_loss_is_that_of_trls_trainer(tiny_model: TinyModel, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed (extra `examples`)")
    from datasets import Dataset

    prepared = prepared_rows(tiny_model, tmp_path)
    loaded = prepared.loaded
    _, rows = oracle.write_rows(tmp_path, "kto")
    texts = [{**row, "completion": f" {row['completion']}"} for row in rows]
    arguments = lora_arguments(all_linear(loaded.targets), SETTINGS, task="kto", head=(), targets=loaded.targets, base_model="x")
    options = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    trainer = trl.KTOTrainer(
        model=loaded.model,
        args=trl.KTOConfig(str(tmp_path / "out"), per_device_train_batch_size=6, **options),
        train_dataset=Dataset.from_list(texts),
        processing_class=loaded.tokenizer,
        peft_config=LoraConfig(**arguments),
    )
    torch.manual_seed(5)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    baselines = []
    for start, theirs in zip(range(0, 18, 6), trainer.get_train_dataloader(), strict=False):
        ours = collate(prepared.train_rows[start : start + 6], loaded)
        assert torch.equal(theirs["input_ids"], ours["input_ids"])
        wanted = trainer.compute_loss(trainer.model, theirs)
        baselines.append(trainer._metrics["train"]["kl"][-1])
        loss, _ = batch_loss(trainer.model, loaded, ours)
        assert torch.allclose(loss, wanted, rtol=1e-5)
        own, trls = (
            torch.autograd.grad(each, [p for p in trainer.model.parameters() if p.requires_grad]) for each in (loss, wanted)
        )
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(own, trls, strict=True))
    assert max(baselines) > 0  # a batch that tells whether it is taken off


def test_answers_go_to_the_next_prompt(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared = prepared_rows(tiny_model, tmp_path)
    loaded, rows = prepared.loaded, prepared.train_rows[:4]
    batch = collate(rows, loaded)
    labels = batch.pop("labels")
    assert labels[:, 0].tolist() == [row.label for row in rows]
    made, aimed = mismatched(batch, labels, 64)
    for i, row in enumerate(rows):
        start, before = (next(t for t, label in enumerate(r.token_labels) if label >= 0) for r in (row, rows[i - 1]))
        answer = rows[i - 1].ids[before:]
        wanted = [*row.ids[:start], *answer]
        assert made["input_ids"][i][made["attention_mask"][i].bool()].tolist() == wanted
        assert aimed[i, : len(wanted)].tolist() == [*[IGNORED] * start, *answer]
        assert (aimed[i, len(wanted) :] == IGNORED).all()
    short, cut = mismatched(batch, labels, 5)
    assert short["input_ids"].shape == cut.shape == (4, 5)
    assert torch.equal(short["input_ids"], made["input_ids"][:, :5])


def test_a_row_alone_is_compared_with_itself(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared = prepared_rows(tiny_model, tmp_path)
    loaded, rows = prepared.loaded, prepared.train_rows[:1]
    model = trained(loaded, 2)
    loss, _ = batch_loss(model, loaded, collate(rows, loaded))
    assert torch.allclose(loss.double(), own_losses(loaded, model, rows).mean(), rtol=1e-5)


def test_a_run_starts_at_a_half_and_learns(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared = prepared_rows(tiny_model, tmp_path)
    recipe = TrainingRecipe(epochs=3, lr=1e-2, batch_size=6)
    rows, loaded = prepared.train_rows[:12], prepared.loaded
    found = finetune(loaded, all_linear(loaded.targets), SETTINGS, recipe, rows, rows, "reward_auc", 0)
    assert found.epochs[0].val_loss == 0.5
    assert found.epochs[0].metric == 0.5
    assert found.epochs[-1].val_loss < 0.45
    assert found.epochs[-1].metric > 0.7
    nothing = finetune(loaded, Selection("nothing", ()), SETTINGS, recipe, rows, rows, "reward_auc", 0)
    assert nothing.epochs[-1].val_loss == 0.5


def test_evaluation_ranks_rewards(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared = prepared_rows(tiny_model, tmp_path)
    loaded, rows = prepared.loaded, prepared.train_rows[:12]
    model = trained(loaded, 3)
    loss, metric = evaluate(model, loaded, rows, "reward_auc", lambda some: collate(some, loaded))
    batch = collate(rows, loaded)
    labels = batch.pop("labels")
    with torch.no_grad():
        won = rewards(model, loaded, batch, labels, batch_logits(model, loaded, batch))
    assert metric == pytest.approx(roc_auc_score([row.label for row in rows], won))
    order = sorted(range(len(rows)), key=lambda i: (rows[i].length, i))  # in which evaluation takes them
    assert loss == pytest.approx(float(own_losses(loaded, model, [rows[i] for i in order]).mean()), rel=1e-4)


def test_the_metric_is_the_share_of_pairs_ranked_right() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        actual, predicted = generator.integers(0, 2, 50), generator.integers(0, 9, 50) / 3  # with ties
        assert score("reward_auc", actual, predicted) == pytest.approx(roc_auc_score(actual, predicted))
    assert score("reward_auc", np.ones(3), np.arange(3.0)) == 0.5
    assert np.isnan(score("reward_auc", np.array([0, 1]), np.array([np.nan, 1.0])))


def test_the_simulated_loss_is_one_minus_sigma() -> None:
    y = np.ones((8, 1))
    assert np.allclose(slopes_at_zero("kto", y), -0.25)
    assert np.allclose(slopes_at_zero("preference", y), -0.5)
    folds, step = np.arange(8) % 4, np.array([0.5])
    found = simulate(np.eye(8)[None] * 0, "kto", y, np.zeros((8, 1)), folds, step)
    assert np.allclose(found.loss, 0.5)
    kernel = np.full((1, 8, 8), 0.1)  # one step: F rises by 0.5·(8/6)·6·0.1/4 on every example
    found = simulate(kernel, "kto", y, np.zeros((8, 1)), folds, step)
    assert np.allclose(found.loss, 1 - 1 / (1 + np.exp(-0.5 * 8 * 0.1 / 4)))


def test_what_cannot_be_learned_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--batch-size 1: KTO"):
        recipe_for("kto", batch_size=1)
    with pytest.raises(BadInput, match="reads a text from both sides"):
        _ = prepared_rows(lambda name, task: tiny_model(name), tmp_path, "bert").loaded
    rows = [{"prompt": "the film", "completion": "great " * (1 + 9 * (i % 2)), "label": i % 2 == 0} for i in range(24)]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(Source(str(tiny_model("llama", "kto")), str(path), device="cpu", max_length=4), Session())
    assert {row.length for row in prepared.train_rows} == {4}  # a long answer is cut, and something of it is left
    assert all(max(row.token_labels) >= 0 for row in prepared.train_rows)
