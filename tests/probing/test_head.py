"""The linear probe on frozen features against scikit-learn, and the features themselves against the models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from architectures import ARCHITECTURES, FAMILIES, build
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from advisor.core.errors import BadInput, NotFinite
from advisor.core.events import Session
from advisor.models.encode import EncodedRow
from advisor.models.head_input import head_linears
from advisor.models.load import LoadedModel, load_model
from advisor.probing.head import (
    INVERSE_PENALTIES,
    RIDGES,
    fit_head,
    fresh_head_gradient,
    head_features,
    install_head,
    last_linear,
)
from advisor.probing.method import probed_layers
from advisor.probing.outputs import make_outputs
from advisor.probing.spool import Spool

TinyModel = Callable[..., Path]
LENGTHS = (3, 7, 4, 9, 1, 5)


def load(folder: Path, num_labels: int = 3) -> LoadedModel:
    return load_model(str(folder), "classification", num_labels=num_labels, device="cpu")


def rows_of(seed: int = 0, label: int = 0) -> list[EncodedRow]:
    generator = torch.Generator().manual_seed(seed)
    return [EncodedRow(tuple(torch.randint(10, 60, (n,), generator=generator).tolist()), label=label) for n in LENGTHS]


def synthetic(classes: int, rows: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scale and place; a linear rule and noise give the classes."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 6))
    scores = features @ rng.normal(size=(6, classes)) + noise * rng.normal(size=(rows, classes))
    return features * [1, 100, 0.01, 1, 5, 1] + [0, 1000, 0.3, -2, 0, 1], scores.argmax(1)


def probabilities(features: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return functional.softmax(torch.from_numpy(features @ weight.T + bias), -1).numpy()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("noise", "least"), [(0.0, 0.9), (2.0, 0.4)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_head_is_the_regression_that_cross_validates_best(classes: int, noise: float, least: float, use_bias: bool) -> None:
    features, labels = synthetic(classes, 160, noise)
    if not use_bias:
        features = features - features.mean(0)
    fit = fit_head(features, labels, classes, use_bias)
    scaler = StandardScaler(with_mean=use_bias)
    scaled = scaler.fit_transform(features)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    held_out = {}
    for c in INVERSE_PENALTIES:
        model = LogisticRegression(C=c, fit_intercept=use_bias, max_iter=2000, tol=1e-5)
        held_out[c] = -cross_val_score(model, scaled, labels, scoring="neg_log_loss", cv=folds).mean()
    assert held_out[fit.penalty] == pytest.approx(min(held_out.values()), abs=0.01)
    assert fit.cv_loss == pytest.approx(held_out[fit.penalty], abs=0.01)
    model = LogisticRegression(C=fit.penalty, fit_intercept=use_bias, max_iter=300, tol=1e-3).fit(scaled, labels)
    found = probabilities(features, fit.weight, fit.bias)
    np.testing.assert_allclose(found, model.predict_proba(scaled), atol=1e-6)
    model = LogisticRegression(C=fit.penalty, fit_intercept=use_bias, max_iter=5000, tol=1e-7).fit(scaled, labels)
    np.testing.assert_allclose(found, model.predict_proba(scaled), atol=0.06)  # the fit stops early
    accuracy = cross_val_score(model, scaled, labels, cv=folds).mean()
    assert fit.cv_score == pytest.approx(accuracy, abs=0.02)
    assert fit.cv_score >= least
    assert fit.weight.shape == (classes, 6)
    assert use_bias or not fit.bias.any()


def test_clean_data_is_penalised_less_than_noise() -> None:
    penalties = [fit_head(*synthetic(2, 160, noise), 2, True).penalty for noise in (0.0, 20.0)]
    assert penalties[0] > penalties[1]


@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_a_regression_head_is_ridge(noise: float) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, 5)) * [1, 10, 100, 1, 0.1] + 3
    labels = (features / features.std(0)) @ [1, -1, 0.5, 0, 2] + noise * rng.normal(size=80)
    labels = (labels - labels.mean()) / labels.std()
    fit = fit_head(features, labels, 0, True)
    assert any(fit.penalty == pytest.approx(r) for r in RIDGES)
    scaled = StandardScaler().fit_transform(features)
    model = Ridge(fit.penalty).fit(scaled, labels)
    np.testing.assert_allclose(features @ fit.weight[0] + fit.bias[0], model.predict(scaled), atol=1e-8)
    left_out = []
    for i in range(80):
        others = np.arange(80) != i
        left_out.append(Ridge(fit.penalty).fit(scaled[others], labels[others]).predict(scaled[i : i + 1])[0])
    error = float(np.mean((labels - np.array(left_out)) ** 2))
    assert fit.cv_loss == pytest.approx(error, rel=1e-3)
    assert fit.cv_score == pytest.approx(1 - error, rel=1e-2, abs=1e-3)
    assert fit.weight.shape == (1, 5)


def test_equal_values_to_predict_give_a_flat_head() -> None:
    """A sample may have a single value though the data have more."""
    fit = fit_head(np.random.default_rng(0).normal(size=(20, 3)), np.zeros(20), 0, True)
    assert np.abs(fit.weight).max() < 1e-12
    assert np.isfinite([fit.cv_loss, fit.cv_score]).all()


@pytest.mark.parametrize("rare", [1, 2, 3])
def test_a_class_too_rare_for_every_fold(rare: int) -> None:
    features, _ = synthetic(2, 40, 0.0)
    labels = np.zeros(40, dtype=int)
    labels[:rare] = 1
    two = fit_head(features, labels, 2, True)
    labels[20:] += 1 - labels[20:] + 1
    three = fit_head(features, labels, 3, True)
    for fit in (two, three):
        assert np.isfinite(fit.weight).all()
        assert np.isfinite(fit.cv_loss)
        assert 0 <= fit.cv_score <= 1


def test_a_class_without_any_row_is_never_predicted() -> None:
    features, labels = synthetic(3, 90, 0.0)
    fit = fit_head(features, labels + (labels > 0), 4, True)  # class 1 is empty
    p = probabilities(features, fit.weight, fit.bias)
    assert p[:, 1].max() < 1e-3
    assert (p.argmax(1) == labels + (labels > 0)).mean() > 0.9


def test_two_classes_of_three_present() -> None:
    features, labels = synthetic(2, 90, 0.0)
    fit = fit_head(features, 2 * labels, 3, True)  # class 1 is empty
    assert (probabilities(features, fit.weight, fit.bias).argmax(1) == 2 * labels).mean() > 0.9


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_installed_head_gives_the_fitted_probabilities(tiny_model: TinyModel, name: str, classes: int) -> None:
    loaded = load(tiny_model(name, num_labels=classes), classes)
    rows = [row for seed in range(5) for row in rows_of(seed)]
    features = head_features(loaded, rows, Session())
    labels = np.arange(len(rows)) % classes
    use_bias = last_linear(loaded).bias is not None
    assert use_bias == (name != "gpt2")
    fit = fit_head(features, labels, classes, use_bias)
    before = {n: p.clone() for n, p in loaded.model.named_parameters()}
    install_head(loaded, fit)
    changed = {n for n, p in loaded.model.named_parameters() if not torch.equal(p, before[n])}
    last = head_linears(loaded)[-1]
    assert changed == ({f"{last}.weight", f"{last}.bias"} if use_bias else {f"{last}.weight"})
    scaler = StandardScaler(with_mean=use_bias)
    model = LogisticRegression(C=fit.penalty, fit_intercept=use_bias, max_iter=300, tol=1e-3)
    wanted = model.fit(scaler.fit_transform(features), labels).predict_proba(scaler.transform(features))
    for i, row in enumerate(rows):
        logits = loaded.model(torch.tensor([row.ids])).logits
        np.testing.assert_allclose(functional.softmax(logits, -1)[0], wanted[i], atol=1e-3)


# --- features ---------------------------------------------------------------------------------------------------------


def true_features(loaded: LoadedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """What the last layer reads for one unpadded text, put together from the base model's output."""
    model: Any = loaded.model
    out = model.base_model(torch.tensor([ids]))
    kind = model.config.model_type
    if kind == "bert":
        first = out.last_hidden_state[0, 0]
        return torch.tanh(model.bert.pooler.dense(first))
    if kind == "roberta":
        return torch.tanh(model.classifier.dense(out.last_hidden_state[0, 0]))
    return out.last_hidden_state[0, -1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_what_the_last_layer_reads(tiny_model: TinyModel, name: str) -> None:
    """At the first token, or the last that is no padding; in the order of the rows, whatever their lengths."""
    loaded = load(tiny_model(name, num_labels=3))
    rows = rows_of()
    features = head_features(loaded, rows, Session())
    assert features.dtype == np.float64
    assert features.shape == (len(rows), 24)
    for found, row in zip(features, rows, strict=True):
        np.testing.assert_allclose(found, true_features(loaded, row.ids), rtol=1e-4, atol=1e-5)
    assert not last_linear(loaded)._forward_hooks
    logits = features @ last_linear(loaded).weight.numpy().T
    bias = last_linear(loaded).bias
    for wanted, row in zip(logits, rows, strict=True):
        given = loaded.model(torch.tensor([row.ids])).logits[0] - (0 if bias is None else bias)
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_features_are_at_the_position_the_model_scores(tiny_model: TinyModel, name: str) -> None:
    """Padding is the end token there: a text that ends with one is scored before it."""
    loaded = load(tiny_model(name, num_labels=3))
    end = loaded.model.config.pad_token_id
    rows = [
        EncodedRow((11, 12, 13)),
        EncodedRow((11, 12, end)),
        EncodedRow((14, end, 12, 15)),
        EncodedRow((14, 15, 16, end, end, end)),
    ]
    features = head_features(loaded, rows, Session())
    weight = last_linear(loaded).weight
    for found, row in zip(features, rows, strict=True):
        logits = loaded.model(torch.tensor([row.ids])).logits[0]
        np.testing.assert_allclose(found @ weight.numpy().T, logits, rtol=1e-4, atol=1e-5)


def test_more_rows_than_a_batch(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(tiny_model("bert", num_labels=3))
    rows = [row for seed in range(3) for row in rows_of(seed)]
    whole = head_features(loaded, rows, Session())
    monkeypatch.setattr("advisor.probing.head.FEATURE_BATCH", 4)
    np.testing.assert_allclose(head_features(loaded, rows, Session()), whole, rtol=1e-4, atol=1e-6)


def test_a_nan_feature_names_the_module(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model("bert", num_labels=3))
    name = loaded.targets[4].name
    with torch.no_grad():
        loaded.model.get_submodule(name).weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match=re.escape(name)):
        head_features(loaded, rows_of(), Session())


def test_head_layers(tiny_model: TinyModel) -> None:
    names = {name: head_linears(load(tiny_model(name, num_labels=3))) for name in ARCHITECTURES}
    assert names["bert"] == ("classifier",)
    assert names["roberta"] == ("classifier.dense", "classifier.out_proj")
    assert all(names[name] == ("score",) for name in ("gpt2", "gpt_neo", "opt", "llama"))


# --- the fresh head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_the_fresh_gradient_is_autograds_at_a_zero_head(classes: int, use_bias: bool) -> None:
    """Summed over the examples: cross-entropy, or half squared error."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    layer = torch.nn.Linear(4, classes or 1, bias=use_bias, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    if classes:
        labels = torch.randint(0, classes, (9,), generator=generator)
    else:
        labels = torch.randn(9, generator=generator, dtype=torch.float64)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return oracle.cross_entropy(layer(x), y) if classes else oracle.squared(layer(x), y)

    parts = [loss_of(x, y) for x, y in zip(features, labels, strict=True)]
    weights = list(layer.parameters())
    gradients = [torch.autograd.grad(part, weights, retain_graph=True) for part in parts]
    energy = sum(float(g.square().sum()) for example in gradients for g in example)
    loss = torch.stack(parts).sum()
    loss.backward()
    wanted = float(torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).norm())
    norm, summed, count = fresh_head_gradient(features.numpy(), labels.numpy(), classes, use_bias)
    assert norm == pytest.approx(wanted)
    assert summed == pytest.approx(energy)
    assert count == sum(p.numel() for p in layer.parameters())


def test_words_of_one_row_are_held_out_together() -> None:
    """Labels are drawn for each row, and features say which row it is: with others of its words at hand a word is known."""
    rng = np.random.default_rng(0)
    labels, owners = np.repeat(rng.integers(0, 2, 40), 5), np.repeat(np.arange(40), 5)
    features = np.eye(40)[owners] + 0.1 * rng.normal(size=(200, 40))
    torn, whole = fit_head(features, labels, 2, True), fit_head(features, labels, 2, True, owners)
    assert torn.cv_score > 0.85
    assert whole.cv_score < 0.7
    assert whole.cv_loss > 0.6


def test_rows_that_the_model_cannot_read_are_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Funnel pools pairs of tokens twice: a batch of rows of four tokens is too short for it, and fails within transformers."""
    fields = {"d_model": 24, "n_head": 4, "d_head": 6, "d_inner": 40, "block_sizes": [1, 1, 1]}
    monkeypatch.setitem(FAMILIES, "funnel", FAMILIES["roberta"]._replace(config="FunnelConfig", fields=fields))
    loaded = load_model(str(build("funnel", tmp_path / "model")), "classification", num_labels=2, device="cpu")
    rows = [EncodedRow((5, 6, 7, 8)), EncodedRow((5, 6, 7, 8))]
    with pytest.raises(BadInput, match=r"cannot read a batch of 4 tokens a row: .*too short for it"):
        head_features(loaded, rows, Session())


def test_a_mean_of_all_logits_is_that_of_the_mean_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EuroBERT scores every token: its logits are the head's last layer on what is taken for its input."""
    fields = {**FAMILIES["llama"].fields, "num_hidden_layers": 1}
    monkeypatch.setitem(FAMILIES, "eurobert", FAMILIES["bert"]._replace(config="EuroBertConfig", fields=fields))
    loaded = load(build("eurobert", tmp_path / "model", num_labels=3))
    rows = [EncodedRow(tuple(range(5, 5 + length)), label=length % 3) for length in LENGTHS]
    features = torch.from_numpy(head_features(loaded, rows, Session()))
    for row, own in zip(rows, features, strict=True):
        logits = loaded.model(input_ids=torch.tensor([row.ids])).logits[0]
        torch.testing.assert_close(last_linear(loaded)(own.float()), logits)
    spool = Spool(tmp_path, rows, probed_layers(loaded, 0), make_outputs("classification", 3, 0), 0.0, 1.0, None, None)
    spool.fill(loaded, Session())
    torch.testing.assert_close(spool.read("pooled").double(), features)
