"""Classes of words: the tokens that are learned, kernel blocks against autograd, the head's own part, and real runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from head_blocks import assert_blocks_of_autograd
from tangents import SETTINGS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, XLNetConfig

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.models import forward
from advisor.models.encode import collate
from advisor.models.forward import batch_loss
from advisor.models.load import load_model
from advisor.models.prepare import Prepared, Source, prepare
from advisor.models.readers import check_direction
from advisor.probing.head import fresh_head_gradient, head_features, head_labels, last_linear
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.finetune import finetune

KIND = "token-classification"
TinyModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


@pytest.fixture
def tagged(tiny_model: TinyModel, tmp_path: Path) -> Callable[[str], tuple[Prepared, list[oracle.Text]]]:
    def make(name: str) -> tuple[Prepared, list[oracle.Text]]:
        path, rows = oracle.write_rows(tmp_path, KIND)
        source = Source(str(tiny_model(name, KIND, 3)), str(path), eval_data=str(path), device="cpu")
        prepared = prepare(source, Session())
        return prepared, oracle.tokenised(prepared.loaded.tokenizer, rows, KIND)

    return make


Make = Callable[[str], tuple[Prepared, list[oracle.Text]]]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_only_the_first_token_of_a_word_is_learned(tagged: Make, name: str) -> None:
    prepared, texts = tagged(name)
    for row, text in zip(prepared.train_rows, texts, strict=True):
        assert (row.ids, row.token_labels, row.types) == (tuple(text.ids), tuple(text.label), text.types and tuple(text.types))  # type: ignore[arg-type]


def test_rows_are_cut_with_their_tags(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, _ = oracle.write_rows(tmp_path, KIND)
    source = Source(str(tiny_model("bert", KIND, 3)), str(path), eval_data=str(path), device="cpu", max_length=6)
    notes: list[str] = []
    rows = prepare(source, Session(lambda event: notes.append(str(getattr(event, "text", ""))))).train_rows
    assert max(map(len, (row.ids for row in rows))) == 6
    assert all(len(row.ids) == len(row.token_labels) for row in rows)
    assert any("rows are longer and were cut (limit 6 tokens)" in note for note in notes)


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
@pytest.mark.parametrize("head", ["probed", "fresh"])
def test_blocks_are_those_of_autograd(tagged: Make, tmp_path: Path, name: str, head: str) -> None:
    prepared, texts = tagged(name)
    probe = assert_blocks_of_autograd(prepared, texts, KIND, head, tmp_path / "probe")
    shares = np.bincount([tag for text in texts for tag in text.label if tag >= 0])  # type: ignore[union-attr]
    assert np.allclose(probe.info["class_shares"], shares / shares.sum())


def test_the_fresh_heads_gradient_is_that_of_autograd(tagged: Make) -> None:
    prepared, _ = tagged("bert")
    loaded, rows = prepared.loaded, prepared.train_rows[:8]
    features = head_features(loaded, rows, Session())
    labels, owners = head_labels(loaded, rows)
    found = fresh_head_gradient(features, labels, 3, True, owners)
    layer = last_linear(loaded)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    parameters = [layer.weight.requires_grad_(True), layer.bias.requires_grad_(True)]
    each = []
    for row in rows:
        loss, _ = batch_loss(loaded.model, loaded, collate([row], loaded))
        each.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    assert found[0] == pytest.approx(float(torch.stack(each).sum(0).norm()), rel=1e-4)
    assert found[1] == pytest.approx(float(torch.stack(each).square().sum()), rel=1e-4)
    assert found[2] == layer.weight.numel() + layer.bias.numel()


def test_a_run_learns_and_counts_words(tagged: Make) -> None:
    prepared, texts = tagged("bert")
    rows, loaded = prepared.train_rows, prepared.loaded
    recipe = TrainingRecipe(epochs=4, lr=1e-2, batch_size=6)
    found = finetune(loaded, all_linear(loaded.targets), SETTINGS, recipe, rows, rows, "token_accuracy", 0)
    tags = [tag for text in texts for tag in text.label if tag >= 0]  # type: ignore[union-attr]
    assert found.at_best.val_loss < found.epochs[0].val_loss
    assert found.at_best.metric > max(np.bincount(tags)) / len(tags)


def test_rows_cut_to_one_tag_are_refused_and_lost_words_are_said(tiny_model: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text((json.dumps({"tokens": ["good", ""] * 9 + ["bad"], "tags": ["O"] * 18 + ["B"]}) + "\n") * 24)
    notes: list[str] = []
    source = Source(str(tiny_model("bert", KIND, 3)), str(file), eval_data=str(file), device="cpu", max_length=6)
    prepared = prepare(source, Session(lambda event: notes.append(str(getattr(event, "text", "")))))
    assert len(prepared.train_rows) == 24
    assert any("24 of 24 rows have tagged words that no token is made of" in note for note in notes)
    with pytest.raises(BadInput, match="within 6 tokens a row, all 96 labels are 'O'"):
        run_probe(prepared, ProbeSettings(), tmp_path / "probe", Session())


@pytest.mark.parametrize("task", ["causal-lm", "preference"])
def test_a_model_that_reads_both_sides_predicts_no_words(tiny_model: TinyModel, task: str) -> None:
    folder = str(tiny_model("bert", KIND, 3))
    with pytest.raises(BadInput, match="bert reads a text from both sides"):
        load_model(folder, task, device="cpu")
    decoder = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, is_decoder=True)).eval()
    check_direction("model", decoder, AutoTokenizer.from_pretrained(folder), task)
    xlnet = AutoModelForCausalLM.from_config(XLNetConfig(vocab_size=200, d_model=24, n_layer=2, n_head=4, d_inner=40)).eval()
    with pytest.raises(BadInput, match="xlnet reads a text from both sides"):
        check_direction("model", xlnet, AutoTokenizer.from_pretrained(folder), task)
