"""Heads of several layers trained alone on frozen features, against real runs that train no module."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import build
from fakes import make_probe

from advisor.core.errors import Interrupted
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe, default_recipe
from advisor.core.targets import LoraSettings, Selection
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.forward import label_scale
from advisor.models.head_input import first_linear
from advisor.models.load import LoadedModel, load_model
from advisor.models.prepare import Source, prepare
from advisor.prediction.probe_view import probe_context, probe_view
from advisor.probing import head_alone
from advisor.probing.head import layer_inputs
from advisor.probing.head_alone import RATES, HeadRun, train_head_alone
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.finetune import evaluate, finetune

TinyModel = Callable[..., Path]
SETTINGS = LoraSettings()
SCALE = (0.0, 1.0)
TWO_LAYERS = ("roberta", "distilbert")


def quiet(folder: Path, num_labels: int = 2) -> LoadedModel:
    """Without dropout, so that a run does not depend on how it draws."""
    loaded = load_model(str(folder), "classification" if num_labels > 1 else "regression", num_labels=num_labels, device="cpu")
    for module in loaded.model.modules():
        for name in {"p", "dropout_prob"} & vars(module).keys():
            setattr(module, name, 0.0)
    return loaded


def learnable(count: int, values: bool = False) -> list[EncodedRow]:
    """The first token after the start says the label, so a head on frozen features learns it."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        label = int(rng.integers(0, 2))
        told = int(rng.integers(10, 20)) + 20 * label
        rows.append(EncodedRow((1, told, told, told, *rng.integers(10, 60, 2).tolist()), label=float(label) if values else label))
    return rows


@pytest.mark.parametrize("name", TWO_LAYERS)
@pytest.mark.parametrize("values", [False, True])
def test_a_run_ends_where_a_real_run_of_no_module_does(tmp_path: Path, name: str, values: bool) -> None:
    """PEFT's runs train the head in place, through the whole model; in another order of the same rows."""
    folder = build(name, tmp_path / name, task="regression" if values else "classification", num_labels=1 if values else 2)
    loaded, rows = quiet(folder, 1 if values else 2), learnable(160, values)
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    head = head_alone._head_of(loaded, features, rows, SCALE)
    assert head is not None
    recipe = TrainingRecipe(epochs=6, lr=1e-2, batch_size=16)
    inside, outside = np.arange(120), np.arange(120, 160)
    states = torch.from_numpy(features).float()[:, None]
    mean, std = label_scale(rows[:120]) if values else SCALE
    labels = torch.tensor([(row.label - mean) / std if values else row.label for row in rows])
    how = (inside, outside, recipe, 6 * math.ceil(120 / 16))
    alone = [min(head_alone._curve(loaded, head, states, labels, *how, seed, Session())) for seed in range(4)]
    loaded = replace(loaded, head_is_new=False)  # a run draws a new head otherwise
    metric = "spearman" if values else "accuracy"
    runs = [finetune(loaded, Selection("none", ()), LoraSettings(), recipe, rows[:120], rows[120:], metric, s) for s in range(4)]
    real = [min(epoch.val_loss for epoch in run.epochs[1:]) for run in runs]
    assert np.mean(real) < 0.95 * runs[0].epochs[0].val_loss
    assert np.mean(alone) == pytest.approx(np.mean(real), rel=0.05)


@pytest.mark.parametrize("name", TWO_LAYERS)
def test_nothing_of_the_model_changes(tiny_model: TinyModel, name: str) -> None:
    loaded, rows = quiet(tiny_model(name)), learnable(40)
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    state, below = torch.get_rng_state(), getattr(loaded.model, loaded.model.base_model_prefix)
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    runs = train_head_alone(loaded, features, rows, SCALE, Session())
    steps = default_recipe("classification").epochs * math.ceil(40 / 32)
    assert [run.travel for run in runs] == pytest.approx([lr * steps for lr in RATES])
    assert getattr(loaded.model, loaded.model.base_model_prefix) is below
    assert all(torch.equal(before[key], value) for key, value in loaded.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_head_that_reads_more_than_one_state_is_left_to_the_simulation(tiny_model: TinyModel) -> None:
    """GPT-2 scores each token and looks for the last one; with other logits than the model's nothing is trained."""
    loaded, rows = quiet(tiny_model("roberta")), learnable(12)
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    assert train_head_alone(loaded, features + 1.0, rows, SCALE, Session()) == []
    loaded.model.base_model_prefix = "nothing"
    assert train_head_alone(loaded, features, rows, SCALE, Session()) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_rows(tiny_model: TinyModel, count: int) -> None:
    """Of one row none can be held out; of two there are two folds."""
    loaded, rows = quiet(tiny_model("roberta")), learnable(count)
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    runs = train_head_alone(loaded, features, rows, SCALE, Session())
    assert len(runs) == (0 if count == 1 else len(RATES))
    assert all(math.isfinite(run.loss) for run in runs)


def test_a_rate_at_which_it_diverges_is_left_out(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_alone, "RATES", (1e-3, 1.0))
    curve = head_alone._curve
    monkeypatch.setattr(head_alone, "_curve", lambda *how: curve(*how) if how[6].lr < 1 else [math.nan] * 6)
    loaded, rows = quiet(tiny_model("roberta")), learnable(40)
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    (run,) = train_head_alone(loaded, features, rows, SCALE, Session())
    assert run.travel == pytest.approx(1e-3 * 6 * math.ceil(40 / 32))


def test_a_layer_that_the_model_does_not_call_reads_nothing(tiny_model: TinyModel) -> None:
    loaded, rows = quiet(tiny_model("roberta")), learnable(12)
    nothing, features = layer_inputs(loaded, rows, Session(), (torch.nn.Linear(2, 2), first_linear(loaded)))
    assert nothing.shape == (0, 0)
    assert len(features) == 12
    assert train_head_alone(loaded, nothing, rows, SCALE, Session()) == []


def test_it_can_be_cancelled(tiny_model: TinyModel) -> None:
    loaded, rows, session = quiet(tiny_model("roberta")), learnable(12), Session()
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    session.cancel.set()
    with pytest.raises(Interrupted):
        train_head_alone(loaded, features, rows, SCALE, session)


def test_many_rows_are_thinned_out(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_alone, "MOST_ROWS", 16)
    loaded, rows = quiet(tiny_model("roberta")), learnable(40)
    (features,) = layer_inputs(loaded, rows, Session(), (first_linear(loaded),))
    few = [int(i) for i in np.linspace(0, 39, 16)]
    wanted = train_head_alone(loaded, features[few], [rows[i] for i in few], SCALE, Session())
    assert train_head_alone(loaded, features, rows, SCALE, Session()) == wanted


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_probe_holds_the_runs_of_a_head_with_several_layers(encoded: Any, tmp_path: Path, name: str) -> None:
    prepared, _ = encoded(name, "classification")
    probe = run_probe(prepared, ProbeSettings(), tmp_path / "probe", Session())
    assert len(probe.info["head_alone"]) == (len(RATES) if name == "roberta" else 0)


@pytest.mark.parametrize(
    ("travel", "wanted"), [(0.01, 0.6), (0.1, 0.3), (math.sqrt(1e-3), math.sqrt(0.18)), (1.0, 0.3), (1e-4, 0.6)]
)
def test_the_start_is_that_of_the_run_that_travels_as_far(travel: float, wanted: float) -> None:
    """Between two runs the logarithms are interpolated; the simulated gain of the modules stays."""
    probe = make_probe("classification", layers=2)
    recipe = TrainingRecipe(epochs=1, lr=travel, batch_size=1000)  # one step
    view = probe_view(probe, SETTINGS, recipe)
    simulated = probe_context(probe, view, SETTINGS, recipe)
    runs = [vars(HeadRun(0.01, 0.6)), vars(HeadRun(0.1, 0.3))]
    found = probe_context(replace(probe, info={**probe.info, "head_alone": runs}), view, SETTINGS, recipe)
    assert math.exp(found["log_start"]) == pytest.approx(wanted)
    gains = [about["log_start"] - about["log_simulated"] for about in (simulated, found)]
    assert gains[0] == pytest.approx(gains[1])


@pytest.mark.parametrize(("name", "task"), [("llama", "causal-lm"), ("t5", "seq2seq")])
def test_a_language_model_starts_at_the_loss_that_runs_are_evaluated_by(
    tiny_model: TinyModel, tmp_path: Path, name: str, task: str
) -> None:
    """Each token counts alike, so that rows with long answers count for more."""
    words = ["the", "film", "was", "good", "and", "long", "but", "bad"]
    answers = [" ".join(words[: 1 + i % 7]) for i in range(40)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": a[::-1], "completion": a}) + "\n" for a in answers))
    prepared = prepare(Source(str(tiny_model(name, task)), str(data), task=task, device="cpu"), Session())
    probe = run_probe(prepared, ProbeSettings(), tmp_path / "probe", Session())
    loaded = prepared.loaded
    wanted, _ = evaluate(loaded.model, loaded, prepared.train_rows, "token_accuracy", lambda some: collate(some, loaded))
    assert probe.samples == len(prepared.train_rows)
    assert probe.info["start_loss"] == pytest.approx(wanted, rel=1e-3)  # runs may be in bfloat16
    tokens = [sum(label != IGNORED for label in row.token_labels[task == "causal-lm" :]) for row in prepared.train_rows]
    assert len(set(tokens)) > 1
    assert probe.info["start_loss"] == pytest.approx(np.average(probe.losses, weights=tokens), rel=1e-6)
    recipe = TrainingRecipe(train_rows=20)
    context = probe_context(probe, probe_view(probe, SETTINGS, recipe), SETTINGS, recipe)
    assert math.exp(context["log_start"]) == pytest.approx(probe.info["start_loss"])
