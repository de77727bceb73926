"""Real LoRA runs on tiny models, and metrics against scikit-learn and SciPy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch.nn import functional

from advisor.core.errors import Interrupted, NotFinite
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models import forward
from advisor.models.forward import label_scale
from advisor.models.prepare import Prepared
from advisor.training import finetune as module
from advisor.training.finetune import RunResult, finetune, score

SETTINGS = LoraSettings(4, 8)
NOTHING = Selection("head-only", ())


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


def run(prepared: Prepared, selection: Selection, seed: int = 0, metric: str | None = None, **recipe: Any) -> RunResult:
    options = {"epochs": 1, "lr": 5e-3, "batch_size": 4, **recipe}
    return finetune(
        prepared.loaded,
        selection,
        SETTINGS,
        TrainingRecipe(**options),
        prepared.train_rows,
        prepared.eval_rows,
        metric or prepared.train.schema.metric,
        seed,
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert", "binary"),
        ("llama", "three"),
        ("bert", "regression"),
        ("gpt2", "causal-lm"),
        ("t5", "seq2seq"),
        ("vit", "images"),
    ],
)
def test_training_lowers_the_loss(ready: Callable[..., Prepared], name: str, kind: str) -> None:
    prepared = ready(name, kind)
    selection = all_linear(prepared.loaded.targets)
    before = {n: p.detach().clone() for n, p in prepared.loaded.model.named_parameters()}
    result = run(prepared, selection, epochs=8)
    assert len(result.epochs) == 9
    assert math.isnan(result.epochs[0].train_loss)
    assert result.epochs[-1].train_loss < result.epochs[1].train_loss
    assert min(e.val_loss for e in result.epochs[1:]) < result.epochs[0].val_loss  # evaluated on the training rows
    assert result.at_best.val_loss == min(e.val_loss for e in result.epochs[1:])
    assert result.lora_params == selection.params(prepared.loaded.targets, 4)
    for n, p in prepared.loaded.model.named_parameters():  # a copy was trained
        assert torch.equal(p, before[n]), n
        assert not p.requires_grad


def test_the_seed_decides_everything(ready: Callable[..., Prepared]) -> None:
    prepared = ready("bert", "binary")
    selection = all_linear(prepared.loaded.targets)
    first, again, other = (run(prepared, selection, seed) for seed in (3, 3, 4))
    assert first.epochs[1:] == again.epochs[1:]
    assert first.epochs[0].val_loss == again.epochs[0].val_loss
    assert first.epochs[1] != other.epochs[1]


def test_a_trained_run_reports_a_trained_epoch_even_if_worse(ready: Callable[..., Prepared]) -> None:
    result = run(ready("bert", "three"), NOTHING, epochs=2, lr=3.0)
    assert result.epochs[0].val_loss < min(e.val_loss for e in result.epochs[1:])
    assert result.best >= 1
    assert result.at_best.val_loss == min(e.val_loss for e in result.epochs[1:])


def test_single_modules_train_at_their_own_rank_and_scale(ready: Callable[..., Prepared]) -> None:
    prepared = ready("gpt2", "binary")
    targets = prepared.loaded.targets
    names, found = [t.name for t in targets], {}

    def inspect(model: Any, initial: Any) -> None:
        layers = {name: model.base_model.model.get_submodule(name) for name in names}
        found.update({name: (layer.r["default"], layer.scaling["default"]) for name, layer in layers.items()})

    ranks, alphas = {names[0]: 3, names[2]: 1}, {names[0]: 6.0, names[1]: 4.0}
    result = finetune(
        prepared.loaded,
        all_linear(targets),
        SETTINGS,
        TrainingRecipe(epochs=1, batch_size=4),
        prepared.train_rows,
        prepared.eval_rows,
        "accuracy",
        0,
        inspect=inspect,
        ranks=ranks,
        alphas=alphas,
    )
    assert found == {name: (4, 2.0) for name in names} | {names[0]: (3, 2.0), names[1]: (4, 1.0), names[2]: (1, 8.0)}
    assert result.lora_params == sum(t.lora_params(ranks.get(t.name, 4)) for t in targets)


def trained_names(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What the optimizer is given: names in the copy, by identity."""
    seen: list[set[str]] = []
    make = module._adapted_copy

    def watch(*arguments: Any) -> Any:
        model = make(*arguments)
        seen.append({n for n, p in model.named_parameters() if p.requires_grad})
        return model

    monkeypatch.setattr(module, "_adapted_copy", watch)
    return seen


def test_head_only_trains_the_head_only(ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = ready("bert", "binary")
    seen = trained_names(monkeypatch)
    result = run(prepared, NOTHING, epochs=2)
    assert seen == [{"classifier.weight", "classifier.bias"}]
    assert result.lora_params == 0
    assert result.best >= 1
    assert result.epochs[1].val_loss != result.epochs[0].val_loss


def test_a_selection_trains_its_modules_and_the_head(ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = ready("bert", "binary")
    seen = trained_names(monkeypatch)
    chosen = prepared.loaded.targets[3].name
    run(prepared, Selection("one", (chosen,)))
    assert len(seen[0]) == 4
    assert {n for n in seen[0] if "lora_" in n} == {
        f"base_model.model.{chosen}.lora_A.default.weight",
        f"base_model.model.{chosen}.lora_B.default.weight",
    }
    assert all("classifier" in n for n in seen[0] if "lora_" not in n)


def test_nothing_to_train_in_a_language_model_only_evaluates(ready: Callable[..., Prepared]) -> None:
    prepared = ready("gpt2", "causal-lm")
    result = run(prepared, NOTHING, epochs=3)
    assert len(result.epochs) == 1
    assert result.best == 0
    total, count, right = 0.0, 0, 0
    for row in prepared.eval_rows:  # one row at a time: nothing padded
        from advisor.models.encode import collate

        batch = collate([row], prepared.loaded)
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            logits = prepared.loaded.model(**batch).logits[0]
        for position in range(1, len(labels)):
            if labels[position] >= 0:
                total += functional.cross_entropy(logits[position - 1], labels[position]).item()
                right += int(logits[position - 1].argmax() == labels[position])
                count += 1
    assert result.at_best.val_loss == pytest.approx(total / count, rel=1e-5)
    assert result.at_best.metric == pytest.approx(right / count)


def test_matches_a_plain_peft_loop(ready: Callable[..., Prepared]) -> None:
    """One epoch of one full batch, dropout off: the loss after one AdamW step of size lr, by hand."""
    prepared = ready("bert", "binary")
    loaded = prepared.loaded
    for m in loaded.model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(loaded.model.config, name, 0.0)
    selection = all_linear(loaded.targets)
    rows = prepared.train_rows
    result = run(prepared, selection, seed=5, batch_size=len(rows), lr=1e-2)

    import copy

    from advisor.models.encode import collate
    from advisor.training.finetune import reset_head

    torch.manual_seed(5)
    model = copy.deepcopy(loaded.model)
    reset_head(model, "classifier")
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=list(selection.targets), modules_to_save=["classifier"], task_type="SEQ_CLS"
    )
    adapted = get_peft_model(model, config)
    batch = collate(rows, loaded)
    adapted.train()
    first = adapted(**batch).loss
    first.backward()
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.0).step()
    adapted.eval()
    with torch.no_grad():
        after = adapted(**batch).loss
    assert result.epochs[0].val_loss == pytest.approx(first.item(), rel=1e-3)
    assert result.epochs[1].train_loss == pytest.approx(first.item(), rel=1e-3)
    assert result.epochs[1].val_loss == pytest.approx(after.item(), rel=1e-3)
    assert abs(after.item() - first.item()) > 1e-2


@pytest.mark.parametrize("batch_size", [4, 1000])
def test_blowing_up_is_said(ready: Callable[..., Prepared], batch_size: int) -> None:
    """Also where the only step there is blows up, which the next training loss would not show."""
    prepared = ready("bert", "regression")
    with pytest.raises(NotFinite, match="all-linear") as caught:
        run(prepared, all_linear(prepared.loaded.targets), lr=1e30, batch_size=batch_size)
    assert "--lr" in caught.value.hint
    assert caught.value.exit_code == 5


def test_cancelling(ready: Callable[..., Prepared]) -> None:
    prepared = ready("bert", "binary")
    session = Session()
    session.cancel.set()
    recipe = TrainingRecipe(epochs=1)
    with pytest.raises(Interrupted):
        finetune(prepared.loaded, NOTHING, SETTINGS, recipe, prepared.train_rows, prepared.eval_rows, "accuracy", 0, session)


def test_regression_is_in_units_of_the_label_variance(ready: Callable[..., Prepared]) -> None:
    prepared = ready("bert", "regression")
    mean, std = label_scale(prepared.train_rows)
    labels = np.array([row.label for row in prepared.train_rows], dtype=float)
    assert (mean, std) == pytest.approx((labels.mean(), labels.std()))
    zero = run(prepared, NOTHING, lr=1e-12).epochs[0]
    assert 0.5 < zero.val_loss < 10  # about 1 for a guess near the mean


RNG = np.random.default_rng(0)
BINARY = RNG.integers(0, 2, 50), RNG.integers(0, 2, 50)
THREE = RNG.integers(0, 3, 50), RNG.integers(0, 3, 50)
REAL = RNG.normal(size=50), RNG.normal(size=50)


def test_metrics() -> None:
    for actual, predicted in (BINARY, THREE):
        assert score("accuracy", actual, predicted) == accuracy_score(actual, predicted)
        assert score("token_accuracy", actual, predicted) == accuracy_score(actual, predicted)
        assert score("matthews", actual, predicted) == pytest.approx(matthews_corrcoef(actual, predicted))
    assert score("f1", *BINARY) == pytest.approx(f1_score(*BINARY))
    assert score("f1", *THREE) == pytest.approx(f1_score(*THREE, average="macro"))
    assert score("spearman", *REAL) == pytest.approx(spearmanr(*REAL).statistic)


def test_metrics_of_degenerate_predictions_are_numbers() -> None:
    zeros, mixed = np.zeros(6, dtype=int), np.array([0, 1, 0, 1, 0, 1])
    assert score("f1", mixed, zeros) == 0.0
    assert score("matthews", mixed, zeros) == 0.0
    assert score("spearman", mixed.astype(float), zeros.astype(float)) == 0.0
    assert score("spearman", zeros.astype(float), mixed.astype(float)) == 0.0
    # a class that the evaluation rows lack but the model predicts
    assert score("f1", mixed, np.array([0, 2, 0, 1, 0, 1])) == pytest.approx(
        f1_score(mixed, [0, 2, 0, 1, 0, 1], average="macro", zero_division=0)
    )


def test_results_are_json_once_trained(ready: Callable[..., Prepared]) -> None:
    best = run(ready("bert", "three"), NOTHING).at_best
    json.dumps([best.train_loss, best.val_loss, best.metric], allow_nan=False)


def test_a_run_tells_every_step_and_every_evaluation(ready: Callable[..., Prepared]) -> None:
    prepared, told = ready("bert", "binary"), list[tuple[int, int, float | None, list[float]]]()
    result = finetune(
        prepared.loaded,
        all_linear(prepared.loaded.targets),
        SETTINGS,
        TrainingRecipe(epochs=2, lr=5e-3, batch_size=4),
        prepared.train_rows,
        prepared.eval_rows,
        "accuracy",
        0,
        tell=lambda step, steps, loss, epochs: told.append((step, steps, loss, list(epochs))),
    )
    steps = 2 * math.ceil(len(prepared.train_rows) / 4)
    assert {each[1] for each in told} == {steps}
    assert [step for step, _, loss, _ in told if loss is not None] == list(range(1, steps + 1))
    assert [epochs for *_, loss, epochs in told if loss is None] == [
        [epoch.val_loss for epoch in result.epochs[: count + 1]] for count in range(3)
    ]
    first = [loss for *_, loss, _ in told if loss is not None][: steps // 2]
    assert math.isclose(float(np.mean(first)), result.epochs[1].train_loss, rel_tol=0.2)  # whose mean counts rows
