"""Question answering: which tokens are learned, kernel blocks against autograd, the head that is fitted, and real runs."""

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
from torch.nn import functional

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.models import forward
from advisor.models.encode import collate
from advisor.models.forward import batch_loss
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probing.head import head_features, last_linear
from advisor.probing.span_head import fit_span_head, fresh_span_gradient
from advisor.training.finetune import finetune, score

KIND = "question-answering"
TinyModel = Callable[..., Path]
Make = Callable[..., tuple[Prepared, list[oracle.Text]]]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


@pytest.fixture
def asked(tiny_model: TinyModel, tmp_path: Path) -> Make:
    def make(name: str, **options: int) -> tuple[Prepared, list[oracle.Text]]:
        path, rows = oracle.write_rows(tmp_path, KIND)
        source = Source(str(tiny_model(name, KIND)), str(path), eval_data=str(path), device="cpu", **options)  # type: ignore[arg-type]
        prepared = prepare(source, Session())
        return prepared, oracle.tokenised(prepared.loaded.tokenizer, rows, KIND)

    return make


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_the_ends_are_the_answers_first_and_last_token(asked: Make, name: str) -> None:
    prepared, texts = asked(name)
    for row, text in zip(prepared.train_rows, texts, strict=True):
        assert (list(row.ids), list(row.token_labels)) == (list(text.ids), text.label)


def test_a_long_context_is_cut_to_a_window_with_the_answer(asked: Make) -> None:
    whole, _ = asked("bert")
    cut, _ = asked("bert", max_length=28)
    assert max(len(row.ids) for row in cut.train_rows) == 28
    answers = {tuple(row.ids[row.token_labels[0] : row.token_labels[1] + 1]) for row in whole.train_rows}
    assert len(cut.train_rows) > 20
    assert all(tuple(row.ids[row.token_labels[0] : row.token_labels[1] + 1]) in answers for row in cut.train_rows)


def test_without_an_answer_the_first_token_is_both_ends(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "squad.jsonl"
    row = {"question": "was it fine", "context": "the film was great", "answers": {"text": [], "answer_start": []}}
    path.write_text((json.dumps(row) + "\n") * 20)
    prepared = prepare(Source(str(tiny_model("bert", KIND)), str(path), eval_data=str(path), device="cpu"), Session())
    assert {row.token_labels for row in prepared.train_rows} == {(0, 0)}


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("head", ["probed", "fresh"])
def test_blocks_are_those_of_autograd(asked: Make, tmp_path: Path, name: str, head: str) -> None:
    prepared, texts = asked(name)
    assert_blocks_of_autograd(prepared, texts, KIND, head, tmp_path / "probe")


def test_the_fresh_heads_gradient_is_that_of_autograd(asked: Make) -> None:
    prepared, _ = asked("bert")
    loaded, rows = prepared.loaded, prepared.train_rows[:8]
    states = np.split(head_features(loaded, rows, Session()), np.cumsum([len(row.ids) for row in rows])[:-1])
    found = fresh_span_gradient(states, np.array([row.token_labels for row in rows]), True)
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


def test_a_head_finds_ends_that_features_mark() -> None:
    rng = np.random.default_rng(0)
    states, places = [], []
    for _ in range(60):
        length = int(rng.integers(6, 15))
        first, last = sorted(rng.integers(0, length, 2))
        each = 0.3 * rng.normal(size=(length, 5)) + 4
        each[first, 0] += 2
        each[last, 1] += 2
        states.append(each)
        places.append((first, last))
    fit = fit_span_head(states, np.array(places))
    assert fit.cv_score > 0.95
    logits = [torch.from_numpy(each @ fit.weight.T + fit.bias).T for each in states]
    losses = [functional.cross_entropy(one, torch.tensor(ends)) for one, ends in zip(logits, places, strict=True)]
    assert float(torch.stack(losses).mean()) < 0.2
    noise = fit_span_head([rng.normal(size=(10, 5)) for _ in range(60)], rng.integers(0, 10, (60, 2)))
    assert noise.cv_loss > 0.9 * np.log(10)


def test_a_run_learns_and_counts_whole_spans(asked: Make) -> None:
    prepared, _ = asked("bert")
    rows, loaded = prepared.train_rows, prepared.loaded
    recipe = TrainingRecipe(epochs=3, lr=1e-2, batch_size=6)
    found = finetune(loaded, all_linear(loaded.targets), SETTINGS, recipe, rows, rows, "exact_match", 0)
    assert found.at_best.val_loss < found.epochs[0].val_loss
    assert score("exact_match", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.5
