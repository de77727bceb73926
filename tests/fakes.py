"""Synthetic probes and calibration rows: plain arrays with known structure, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from advisor.cost import TrainingFootprint
from advisor.features import all_feature_names
from advisor.kernels import Kernels
from advisor.predictor import Predictor, context_of
from advisor.probe_folder import HeadBlock, Probe, stratified_folds
from advisor.recipe import TrainingRecipe
from advisor.rows import CalibrationRow
from advisor.scoring import Candidate, Scorer
from advisor.selections import ALL_LINEAR
from advisor.targets import LoraSettings, Selection, Target

WIDTH, INNER = 24, 40
ROLES = (
    ("attention.self.query", "query", "attention", WIDTH, WIDTH),
    ("attention.self.key", "key", "attention", WIDTH, WIDTH),
    ("attention.self.value", "value", "attention", WIDTH, WIDTH),
    ("attention.output.dense", "output", "attention", WIDTH, WIDTH),
    ("intermediate.dense", "up", "mlp", WIDTH, INNER),
    ("output.dense", "down", "mlp", INNER, WIDTH),
)


def bert_targets(layers: int = 4) -> tuple[Target, ...]:
    """The adaptable modules of a BERT of ``layers`` layers."""
    return tuple(
        Target(f"encoder.layer.{i}.{name}", i, role, group, a, b)
        for i in range(layers)
        for name, role, group, a, b in ROLES
    )


def random_psd(rng: np.random.Generator, count: int, n: int, rank: int = 5) -> np.ndarray:
    """``count`` PSD matrices [n, n] of low rank and unequal sizes."""
    features = rng.normal(size=(count, n, rank)) * np.exp(rng.normal(size=(count, 1, 1)))
    return np.asarray(features @ features.transpose(0, 2, 1))


def random_kernels(seed: int, modules: int = 5, n: int = 12, rank: int = 3, head: bool = True) -> Kernels:
    rng = np.random.default_rng(seed)
    block = random_psd(rng, 1, n, 2)[0] if head else np.zeros((n, n))
    return Kernels("adam", random_psd(rng, modules, n, rank), block)


def footprint(targets: Sequence[Target]) -> TrainingFootprint:
    none = (0.0, 0.0, 0.0, 0.0)
    return TrainingFootprint(
        weight_bytes=1_000_000,
        weight_itemsize=4,
        autocast=False,
        targets=tuple(t.name for t in targets),
        saved=tuple((0.0, 0.0, 8.0 * t.out_features, 0.5) for t in targets),
        spared_alone=(none,) * len(targets),
        head_saved=(0.0, 100.0, 0.0, 0.0),
        head_saved_alone=(0.0, 50.0, 0.0, 0.0),
        inputs=tuple(range(len(targets))),
        input_kept_by=(-1,) * len(targets),
        logits=(0.0, 2.0, 0.0, 0.0),
        other_macs=0.0,
        measured_on=((2, 16),),
    )


def make_probe(
    task: str = "classification", classes: int = 2, n: int = 40, layers: int = 4, seed: int = 0, **info: Any
) -> Probe:
    """A probe whose modules' features carry unequal shares of the label's signal."""
    rng = np.random.default_rng(seed)
    targets = bert_targets(layers)
    if task == "regression":
        labels = rng.normal(size=n)
        labels = (labels - labels.mean()) / labels.std()
        y, classes = labels[:, None].copy(), 0
    elif task == "causal-lm":
        labels, y, classes = np.zeros(n), np.ones((n, 1)), 0
    else:
        labels = np.arange(n) % classes
        y = np.where(labels == 1, 1.0, -1.0)[:, None] if classes == 2 else np.eye(classes)[labels] - 1 / classes
    f0 = 0.3 * rng.normal(size=y.shape)
    if y.shape[1] > 1:
        f0 -= f0.mean(1, keepdims=True)
    z = 1 / (1 + np.exp(f0)) if task == "causal-lm" else y - f0
    k, m = 6, len(targets)
    features = rng.normal(size=(m, n, k))
    signal = np.linspace(0, 1.5, m)[rng.permutation(m)]
    contrast = z if task == "causal-lm" else y
    features += (signal[:, None, None] * contrast[:, :1]) * rng.normal(size=(m, 1, k))
    features *= np.exp(0.5 * rng.normal(size=(m, 1, 1)))
    weight = features @ features.transpose(0, 2, 1)
    slope = -z[:, 0] / (1 + np.abs(z[:, 0]))
    gradient = weight * np.outer(slope, slope)
    head = None
    if task != "causal-lm":
        x = np.hstack([rng.normal(size=(n, 4)), np.ones((n, 1))])
        head = HeadBlock((x @ x.T).astype(np.float32), 3.0, 5.0, 2 * (WIDTH + 1))
    metric = {"classification": "accuracy", "regression": "spearman", "causal-lm": "token_accuracy"}[task]
    return Probe(
        targets=targets,
        weight_blocks=weight.astype(np.float32),
        gradient_blocks=gradient.astype(np.float32),
        head=head,
        labels=labels,
        y=y,
        f0=f0,
        z=z,
        losses=np.ones(n),
        folds=stratified_folds(labels, seed),
        info={
            "identity": {"model_fingerprint": "model", "data_fingerprint": "data"},
            "advisor": "0", "torch": "0", "task": task, "metric": metric,
            "class_names": [f"c{i}" for i in range(classes)],
            "model": "fake/bert", "model_type": "bert", "revision": None, "model_parameters": 10_000,
            "qv_roles": ["query", "value"], "head": [] if head is None else ["classifier"],
            "head_parameters": 0 if head is None else 2 * (WIDTH + 1), "data": "fake.jsonl", "train_rows": 400,
            "device": "cpu", "head_kind": "none" if head is None else "probed", "head_cv": None, "mean_tokens": 12.0,
            "max_tokens": 20, "footprint": asdict(footprint(targets)), "methods": {}, "estimate_error": None,
            **info,
        },
    )  # fmt: skip


def make_rows(
    groups: int = 4,
    selections: int = 16,
    seeds: int = 2,
    seed: int = 0,
    *,
    task: str = "classification",
    metric: str = "accuracy",
    noise: float = 0.02,
    misfit: float = 0.02,
    level_sd: float = 0.1,
    effect: Callable[[dict[str, float]], float] = lambda f: f["recipe_loss"] - 0.03 * f["params"],
    prefix: str = "group",
) -> list[CalibrationRow]:
    """Rows of a known model: log loss = level + effect(features) + misfit of the selection + noise of the seed.

    ``recipe_loss`` and ``params`` vary independently; the other features are noise. Features of all-linear are 0.
    """
    rng = np.random.default_rng(seed)
    names = all_feature_names()
    rows = []
    for g in range(groups):
        simulated = float(np.exp(rng.normal(-1.2, 0.4)))
        level = math.log(simulated) + 0.1 + level_sd * rng.normal()
        classes = 2 if task == "classification" else 0
        context = context_of(
            task=task, metric=metric, classes=classes, train_rows=400, lr=1e-3, rank=8, simulated=simulated
        )
        for s in range(selections):
            features = dict.fromkeys(names, 0.0) if s == 0 else {name: float(rng.normal(0, 0.3)) for name in names}
            if s:
                features["params"] = float(-rng.uniform(0, 3))
                features["recipe_loss"] = float(rng.normal(0.05, 0.12))
            own = effect(features) + (misfit * rng.normal() if s else 0.0)
            for run in range(seeds):
                loss = math.exp(level + own + noise * rng.normal())
                rows.append(
                    CalibrationRow(
                        group=f"{prefix} {g}",
                        selection=ALL_LINEAR if s == 0 else f"selection {s}",
                        params=1000 + s,
                        seed=run,
                        features=features,
                        context=context,
                        recipe=TrainingRecipe().as_dict(),
                        settings=asdict(LoraSettings()),
                        train_loss=0.5 * loss,
                        val_loss=loss,
                        metric=metric,
                        score=max(0.05, 1 - 0.6 * loss),
                        provenance={"task": task},
                    )
                )
    return rows


def make_scorer(probe: Probe | None = None, rows: Sequence[CalibrationRow] | None = None, **options: Any) -> Scorer:
    probe = probe or make_probe()
    metric = str(probe.info["metric"])
    fitted = Predictor().fit(rows if rows is not None else make_rows(task=probe.task, metric=metric), probe.task)
    settings = options.pop("settings", LoraSettings())
    recipe = options.pop("recipe", TrainingRecipe())
    return Scorer(probe, settings, recipe, fitted, **options)


def candidate(probe: Probe, indices: Sequence[int], settings: LoraSettings | None = None, name: str = "s") -> Candidate:
    chosen = tuple(probe.targets[i].name for i in sorted(indices))
    return Candidate(Selection(name, chosen), settings or LoraSettings())


def with_blocks(probe: Probe, **arrays: np.ndarray) -> Probe:
    return replace(probe, **arrays)
