"""The head the kernels see: a linear probe on frozen features, or the fresh head as loaded (docs/design.md 2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from advisor.core.events import Session, Stage
from advisor.core.probe import FOLDS
from advisor.core.tasks import OF_TOKENS, TOKENS
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.forward import passing
from advisor.models.head_input import at_read_token
from advisor.models.load import LoadedModel
from advisor.probing.capture import capturing, fewer_rows

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of standardised features; scikit-learn's C
RIDGES = tuple(float(a) for a in np.logspace(-1, 5, 13))
FEATURE_BATCH = 32


@dataclass(frozen=True)
class HeadFit:
    """A linear probe on frozen features and what its cross-validation showed.

    Attributes:
        weight: [outputs, h]; bias: [outputs], zeros where the layer has none.
        cv_loss: held-out loss (cross-entropy in nats; regression: squared error of standardised values).
        cv_score: held-out accuracy (regression: R²).
        penalty: the chosen inverse penalty (classification) or ridge (regression).
    """

    weight: np.ndarray
    bias: np.ndarray
    cv_loss: float
    cv_score: float
    penalty: float


def last_linear(loaded: LoadedModel) -> nn.Linear:
    """The head's output layer: the last linear module of the last head module."""
    layers = [m for name in loaded.head for m in loaded.model.get_submodule(name).modules() if isinstance(m, nn.Linear)]
    return layers[-1]


def head_features(loaded: LoadedModel, rows: Sequence[EncodedRow], session: Session) -> np.ndarray:
    """Inputs of the head's last linear layer, see :func:`layer_inputs`."""
    return layer_inputs(loaded, rows, session, (last_linear(loaded),))[0]


@torch.no_grad()
def layer_inputs(
    loaded: LoadedModel, rows: Sequence[EncodedRow], session: Session, layers: Sequence[nn.Linear]
) -> list[np.ndarray]:
    """Inputs of linear layers of the head, float64 [rows, h] each, see :func:`at_read_token`; of rows of words at each that has a
    tag, [words, h], row by row; of rows with a span at all tokens. [0, 0] of a layer that the model does not call.

    Raises:
        NotFinite: a feature is NaN or infinite; names the module where it starts.
        OutOfMemory: one row does not fit.
    """
    model: Any = loaded.model
    captured: dict[int, torch.Tensor] = {}

    def capture(place: int) -> Any:
        return lambda module, inputs, output: captured.__setitem__(place, inputs[0])

    handles = [layer.register_forward_hook(capture(place)) for place, layer in enumerate(layers)]
    features: list[list[np.ndarray | None]] = [[None] * len(rows) for _ in layers]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].length, i))
    start, most = 0, loaded.at_once(FEATURE_BATCH)
    stage = Stage(session, "Frozen features (rows)", len(rows))
    try:
        while start < len(order):
            session.check()
            indices = order[start : start + most]
            batch = collate([rows[i] for i in indices], loaded)
            labels = batch.pop("labels")
            captured.clear()
            try:
                with passing(loaded, [rows[i] for i in indices]):
                    model(**batch)
            except (MemoryError, RuntimeError) as error:
                most = fewer_rows(error, len(indices), rows[indices[-1]].length, session)
                continue
            for place, x in captured.items():
                if loaded.task in OF_TOKENS:
                    counted = labels != IGNORED if loaded.task == TOKENS else batch["attention_mask"] == 1
                    found = [states[own] for states, own in zip(x, counted.to(x.device), strict=True)]
                else:
                    found = list(at_read_token(x, batch, model)[:, None])
                for i, states in zip(indices, found, strict=True):
                    features[place][i] = states.float().cpu().numpy().astype(np.float64)
            stage.advance(units=len(indices))
            start += len(indices)
    finally:
        for handle in handles:
            handle.remove()
    read = [[f for f in own if f is not None] for own in features]
    stacked = [np.concatenate(own) if own else np.empty((0, 0)) for own in read]
    for own, whole in zip(read, stacked, strict=True):
        finite = [bool(np.isfinite(f).all()) for f in own]
        if not all(finite):
            batch = collate([rows[finite.index(False)]], loaded)
            batch.pop("labels")
            with capturing(loaded.model, [t.name for t in loaded.targets]) as passed:
                model(**batch)
                passed.require_finite(torch.from_numpy(whole))
    return stacked


def head_labels(loaded: LoadedModel, rows: Sequence[EncodedRow]) -> tuple[np.ndarray, np.ndarray]:
    """The label of each of :func:`head_features`, and the index of its row."""
    if loaded.task != TOKENS:
        return np.array([row.label for row in rows]), np.arange(len(rows))
    pairs = [(label, i) for i, row in enumerate(rows) for label in row.token_labels if label != IGNORED]
    labels, owners = np.array(pairs).T
    return labels, owners


def fit_head(features: np.ndarray, labels: np.ndarray, classes: int, use_bias: bool, owners: np.ndarray | None = None) -> HeadFit:
    """L2-penalised logistic regression (``classes`` > 0) or ridge regression, penalty by 4-fold cross-validation.

    Args:
        features: [n, h]; labels: [n] class ids, or standardised values when ``classes`` is 0. owners: the row of each, where rows
            have several, which are held out together; None: each is a row.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=use_bias).fit(features)
    scaled = scaler.transform(features)
    if classes == 0:
        ridge = RidgeCV(RIDGES, fit_intercept=use_bias).fit(scaled, labels)
        held_out = float(-ridge.best_score_)
        weight, bias = ridge.coef_[None], np.array([float(ridge.intercept_)])
        variance = float(np.var(labels))
        cv = (held_out, 1.0 - held_out / variance if variance else 0.0, float(ridge.alpha_))
    else:
        losses, scores = _cross_validate(scaled, labels, classes, use_bias, owners)
        best = int(np.argmin(losses))
        model = _logistic(INVERSE_PENALTIES[best], use_bias).fit(scaled, labels)
        weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -20.0 if use_bias else 0.0)
        rows, offsets = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row for the margin
            rows, offsets = np.vstack([-rows, rows]) / 2, np.hstack([-offsets, offsets]) / 2
        weight[model.classes_], bias[model.classes_] = rows, offsets
        cv = (losses[best], scores[best], INVERSE_PENALTIES[best])
    weight = weight / scaler.scale_
    if use_bias:
        bias = bias - weight @ scaler.mean_
    return HeadFit(weight, bias if use_bias else np.zeros(len(weight)), *cv)


def _logistic(inverse_penalty: float, use_bias: bool) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=inverse_penalty, fit_intercept=use_bias, max_iter=300, tol=1e-3)


def _cross_validate(
    features: np.ndarray, labels: np.ndarray, classes: int, use_bias: bool, owners: np.ndarray | None
) -> tuple[list[float], list[float]]:
    """Held-out cross-entropy and accuracy for each penalty; a class missing from a fold gets probability 1e-6."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    plain, stratified = (KFold, StratifiedKFold) if owners is None else (GroupKFold, StratifiedGroupKFold)
    splitter = (stratified if smallest >= FOLDS else plain)(FOLDS, shuffle=True, random_state=0)
    folds = list(splitter.split(features, labels, owners))
    losses, scores = [], []
    for inverse_penalty in INVERSE_PENALTIES:
        loss = score = 0.0
        for train, held_out in folds:
            probabilities = np.full((len(held_out), classes), 1e-6)
            present = np.unique(labels[train])
            if len(present) == 1:  # the only row of the other class is held out
                probabilities[:, present] = 1.0
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model = _logistic(inverse_penalty, use_bias).fit(features[train], labels[train])
                probabilities[:, model.classes_] = model.predict_proba(features[held_out])
            chosen = probabilities[np.arange(len(held_out)), labels[held_out]]
            loss -= float(np.log(np.clip(chosen, 1e-6, None)).sum())
            score += float((probabilities.argmax(1) == labels[held_out]).sum())
        losses.append(loss / len(labels))
        scores.append(score / len(labels))
    return losses, scores


def install_head(loaded: LoadedModel, fit: HeadFit) -> None:
    """Write a fitted probe into the head's last linear layer."""
    layer = last_linear(loaded)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fit.weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(fit.bias))
    loaded.head_is_fitted = True


def fresh_head_gradient(
    features: np.ndarray, labels: np.ndarray, classes: int, use_bias: bool, owners: np.ndarray | None = None
) -> tuple[float, float, int]:
    """‖Σ_i g_i‖ and Σ_i ‖g_i‖² of the last layer's loss gradients at a zero head, and that layer's parameter count.

    The Adam-aware kernel of the head is scaled by it (docs/design.md 2.1, 2.3): a fitted head has almost no gradient left.

    Args:
        features: [n, h] of the probe sample; labels as in :func:`fit_head`. owners: the row of each, in order, where rows have
            several, whose loss is their mean; None: each is a row.
    """
    h = np.hstack([features, np.ones((len(features), 1))]) if use_bias else features
    if classes == 0:
        slopes = -labels[:, None]
    else:
        slopes = np.full((len(labels), classes), 1.0 / classes)
        slopes[np.arange(len(labels)), labels] -= 1.0
    if owners is not None:
        slopes = slopes / np.bincount(owners)[owners][:, None]
    gradient = slopes.T @ h
    if owners is None:
        energy = float(((slopes**2).sum(1) * (h**2).sum(1)).sum())
    else:
        starts = np.flatnonzero(np.diff(owners)) + 1
        parts = zip(np.split(slopes, starts), np.split(h, starts), strict=True)
        energy = float(sum(((s.T @ x) ** 2).sum() for s, x in parts))
    return float(np.linalg.norm(gradient)), energy, gradient.size
