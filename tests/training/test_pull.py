"""The ℓ2 pull towards the start (arXiv 2602.08239, Eq. 8): the rule by hand, real runs, the recipe, the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from command import advisor, refused
from torch import nn
from torch.nn import functional

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models import forward
from advisor.models.descent import pull
from advisor.models.encode import collate, length_bucketed
from advisor.models.prepare import Prepared, Source, prepare
from advisor.prediction.calibration_rows import user_rows_folder
from advisor.training import finetune as module
from advisor.training.finetune import RunResult, finetune
from advisor.training.runs import read_runs

Values = dict[str, torch.Tensor]
TinyModel = Callable[..., Path]
SETTINGS = LoraSettings(4, 8)
RECIPE = TrainingRecipe(epochs=3, lr=5e-3, batch_size=4)


# --- the rule ----------------------------------------------------------------------------------------------------


def pulled(gradient: list[float] | None, share: float, always: bool) -> list[float]:
    """θ0 = (1, 2), θ = (3, 1), so θ−θ0 = (2, −1)."""
    parameter = nn.Parameter(torch.tensor([3.0, 1.0]))
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    pull(parameter, torch.tensor([1.0, 2.0]), share, always)
    return parameter.tolist()


@pytest.mark.parametrize("gradient", [[1.0, 0.0], [5.0, 9.0], [1.0, 2.0], [0.0, 0.0], None])
def test_shrinks_where_descent_leads_back(gradient: list[float] | None) -> None:
    """⟨∇R̃, θ−θ0⟩ = 2, 1, 0, 0, 0; a tensor is judged as a whole, though its second entry moves away in some."""
    assert pulled(gradient, 0.25, False) == [2.5, 1.25]


@pytest.mark.parametrize("gradient", [[-1.0, 0.0], [1.0, 2.5], [-5.0, -9.0]])
def test_leaves_what_descent_takes_further(gradient: list[float]) -> None:
    assert pulled(gradient, 0.25, False) == [3.0, 1.0]
    assert pulled(gradient, 0.25, True) == [2.5, 1.25]


def test_nothing_and_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    values, start = torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
    parameter = nn.Parameter(values.clone())
    pull(parameter, start, 0.0, True)
    assert torch.equal(parameter, values)
    pull(parameter, start, 1.0, True)
    assert torch.equal(parameter, start)


# --- real runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)
    path, _ = oracle.write_rows(tmp_path, "binary")
    return prepare(Source(str(tiny_model("bert")), str(path), eval_data=str(path), device="cpu"), Session())


def run(prepared: Prepared, recipe: TrainingRecipe, **options: Any) -> RunResult:
    selection = options.pop("selection", all_linear(prepared.loaded.targets))
    return finetune(
        prepared.loaded, selection, SETTINGS, recipe, prepared.train_rows, prepared.eval_rows, "accuracy", 3, **options
    )


def final(prepared: Prepared, recipe: TrainingRecipe, **options: Any) -> tuple[RunResult, Values, Values]:
    """The run, θ at its end and θ0."""
    seen: list[tuple[Values, Values]] = []

    def inspect(model: nn.Module, start: Mapping[str, torch.Tensor]) -> None:
        assert not model.training
        named = dict(model.named_parameters())
        assert set(start) == {name for name, p in named.items() if p.requires_grad}
        seen.append(({name: named[name].detach().clone() for name in start}, dict(start)))

    result = run(prepared, recipe, inspect=inspect, **options)
    ((end, start),) = seen
    return result, end, start


def by_hand(prepared: Prepared, recipe: TrainingRecipe) -> tuple[list[float], Values]:
    """Mean training loss of each epoch, and θ at the end: :func:`finetune` as it was before it had a pull, then Eq. 8."""
    torch.manual_seed(3)
    model = module._adapted_copy(prepared.loaded, all_linear(prepared.loaded.targets), SETTINGS)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in named.items()}
    rows, rng = prepared.train_rows, np.random.default_rng(3)
    total = recipe.epochs * math.ceil(len(rows) / recipe.batch_size)
    warmup, step, losses = max(1, round(recipe.warmup * total)), 0, []
    optimizer = torch.optim.AdamW(named.values(), lr=recipe.lr, weight_decay=0.0)
    model.train()
    for _ in range(recipe.epochs):
        loss_sum = 0.0
        for indices in length_bucketed([len(row.ids) for row in rows], recipe.batch_size, rng):
            batch = collate([rows[i] for i in indices], prepared.loaded)
            labels = batch.pop("labels")
            loss = functional.cross_entropy(model(**batch).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(named.values(), 1.0)
            lr = recipe.lr * min((step + 1) / warmup, max(0.0, (total - step) / max(1, total - warmup)))
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            for name, p in named.items() if recipe.pull else ():
                inner = (p.grad * (p.data - start[name])).sum().item()
                if recipe.pull_always or inner >= 0:
                    p.data = start[name] + (1 - recipe.pull * lr) * (p.data - start[name])
            loss_sum += loss.item() * len(indices)
            step += 1
        losses.append(loss_sum / len(rows))
    return losses, {name: p.detach() for name, p in named.items()}


def norm(end: Values, start: Values) -> float:
    return torch.cat([(end[name] - start[name]).double().flatten() for name in start]).norm().item()


@pytest.mark.parametrize("always", [False, True])
def test_without_a_pull_every_bit_is_as_before(prepared: Prepared, always: bool) -> None:
    result, end, _ = final(prepared, replace(RECIPE, pull_always=always))
    losses, expected = by_hand(prepared, RECIPE)
    assert [e.train_loss for e in result.epochs[1:]] == losses
    assert all(torch.equal(end[name], expected[name]) for name in end)


@pytest.mark.parametrize("always", [False, True])
def test_a_run_follows_the_rule(prepared: Prepared, always: bool) -> None:
    recipe = replace(RECIPE, pull=30.0, pull_always=always)
    result, end, start = final(prepared, recipe)
    losses, expected = by_hand(prepared, recipe)
    assert [e.train_loss for e in result.epochs[1:]] == pytest.approx(losses, rel=1e-5)
    for name, value in end.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert norm(end, expected) < 1e-3 * norm(end, start)


def test_distances(prepared: Prepared) -> None:
    one_epoch, after_one, start = final(prepared, replace(RECIPE, epochs=1))
    assert [e.distance for e in one_epoch.epochs] == [0.0, pytest.approx(norm(after_one, start), rel=1e-9)]
    assert any("lora_A" in name for name in start)
    assert any("classifier" in name for name in start)
    assert all((value == 0).all() for name, value in start.items() if "lora_B" in name)
    assert all(not torch.equal(after_one[name], value) for name, value in start.items())


def test_the_stronger_the_pull_the_shorter_the_way(prepared: Prepared) -> None:
    for always in (True, False):
        ways = [run(prepared, replace(RECIPE, pull=pull, pull_always=always)).epochs[-1].distance for pull in (0, 10, 100)]
        assert ways[0] > ways[1] > ways[2] > 0, (always, ways)


def test_a_pull_beyond_all_bounds_only_holds_the_start(prepared: Prepared) -> None:
    """λ·lr far above 1 is clipped: nothing overshoots."""
    result = run(prepared, replace(RECIPE, pull=1e9, pull_always=True))
    assert [e.distance for e in result.epochs] == [0.0] * 4
    assert {e.val_loss for e in result.epochs} == {result.epochs[0].val_loss}


def test_nothing_to_train(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, _ = oracle.write_rows(tmp_path, "causal-lm")
    source = Source(str(tiny_model("gpt2", "causal-lm", 1)), str(path), eval_data=str(path), task="causal-lm", device="cpu")
    lm = prepare(source, Session())
    result, end, start = final(lm, replace(RECIPE, pull=1.0), selection=Selection("zero-shot", ()))
    assert [e.distance for e in result.epochs] == [0.0]
    assert end == start == {}


# --- recipe and command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, -1e-9, math.nan, math.inf, -math.inf])
def test_bad_pulls(value: float) -> None:
    with pytest.raises(BadInput, match="--pull"):
        TrainingRecipe(pull=value)


def test_recipes_record_it_and_older_ones_load() -> None:
    recipe = TrainingRecipe(pull=2.0, pull_always=True)
    assert TrainingRecipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe
    older = {"train_rows": 512, "epochs": 6, "lr": 1e-3, "batch_size": 32, "warmup": 0.06}
    assert TrainingRecipe(**older).as_dict() == {**older, "pull": 0.0, "pull_always": False}


@pytest.fixture
def command(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """``advisor calibrate`` of two short runs, in folders of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path, _ = oracle.write_rows(tmp_path, "binary")
    return [
        "calibrate",
        tiny_model("bert"),
        "--data",
        path,
        "--eval-data",
        path,
        "--device",
        "cpu",
        "--rank",
        4,
        "--runs",
        2,
        "--train-rows",
        8,
        "--eval-rows",
        6,
        "--epochs",
        1,
        "--batch-size",
        4,
        "--out",
        tmp_path / "out",
    ]


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much"])
def test_bad_pulls_exit_2(command: list[Any], tmp_path: Path, value: str) -> None:
    assert "--pull" in refused(2, *command, "--pull", value)
    assert not (tmp_path / "out").exists()


def test_always_needs_a_pull(command: list[Any]) -> None:
    assert "--pull-always needs --pull" in refused(2, *command, "--pull-always")


@pytest.mark.parametrize("name", ["recommend", "score", "compare"])
def test_predictions_take_none(name: str) -> None:
    assert "--pull" in refused(2, name, "x", "--pull", "1")
    assert "--pull" not in advisor(name, "--help").out
    assert "Eq. 8" in advisor("calibrate", "--help").out


def test_runs_with_a_pull_become_no_rows(command: list[Any], tmp_path: Path) -> None:
    """In a worker process, as users have it: of the quick tests this is the one that trains a model there."""
    ran = advisor(*command, "--pull", "10", "--pull-always")
    assert ran.code == 0, ran.err
    assert ran.out.split() == ["Runs:", str(tmp_path / "out" / "runs.jsonl")]
    assert ran.err.count("become no calibration rows") == 1
    assert not user_rows_folder().exists()
    assert (tmp_path / "out" / "probe" / "probe.json").exists()
    runs = read_runs(tmp_path / "out")
    assert len(runs) == 2
    for row in runs:
        assert (row["recipe"]["pull"], row["recipe"]["pull_always"]) == (10.0, True)
        assert len(row["result"]["distances"]) == len(row["result"]["epochs"]) == 2
        assert row["result"]["distances"][0] == 0.0 < row["result"]["distances"][1]
    again = advisor(*command, "--pull", "10", "--pull-always", "--json")
    assert json.loads(again.out) == {"rows": 0, "file": None}
    assert read_runs(tmp_path / "out") == runs
    for other in ([], ["--pull", 10], ["--pull", 11, "--pull-always"]):
        assert "another model, data or setting" in refused(2, *command, *other)
    assert read_runs(tmp_path / "out") == runs
