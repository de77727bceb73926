"""Synthetic probes and calibration rows: plain arrays with known structure, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from advisor.core.candidate import Candidate
from advisor.core.probe import HeadBlock, Probe, stratified_folds
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.context import context_of
from advisor.prediction.forgone import ALONE
from advisor.prediction.gain import GAIN_POWER, USUALLY_ALIGNED
from advisor.prediction.groups import Group
from advisor.prediction.predictions import Predictions
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.theory.features import all_feature_names
from advisor.theory.kernels import Kernels
from advisor.theory.training_cost import TrainingFootprint

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
        Target(f"encoder.layer.{i}.{name}", i, role, group, a, b) for i in range(layers) for name, role, group, a, b in ROLES
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


def make_probe(task: str = "classification", classes: int = 2, n: int = 40, layers: int = 4, seed: int = 0, **info: Any) -> Probe:
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
            "advisor": "0",
            "torch": "0",
            "task": task,
            "metric": metric,
            "class_names": [f"c{i}" for i in range(classes)],
            "model": "fake/bert",
            "model_type": "bert",
            "revision": None,
            "model_parameters": 10_000,
            "qv_roles": ["query", "value"],
            "head": [] if head is None else ["classifier"],
            "head_parameters": 0 if head is None else 2 * (WIDTH + 1),
            "data": "fake.jsonl",
            "train_rows": 400,
            "device": "cpu",
            "head_kind": "none" if head is None else "probed",
            "head_cv": None,
            "mean_tokens": 12.0,
            "max_tokens": 20,
            "footprint": asdict(footprint(targets)),
            "methods": {},
            "estimate_error": None,
            "counted_loss": None,
            **info,
        },
    )


def make_rows(
    groups: int = 4,
    selections: int = 16,
    seeds: int = 2,
    seed: int = 0,
    *,
    task: str = "classification",
    metric: str = "accuracy",
    noise: float = 0.05,
    misfit: float = 0.1,
    tilt: float = 0.0,
    log_ratio: float = -0.2,
    ratio_sd: float = 0.4,
    start_sd: float = 0.03,
    score_slope: float = 1.5,
    score_sd: float = 0.1,
    prefix: str = "group",
) -> list[CalibrationRow]:
    """Rows of a known model: log loss = H − G·(1 − x^1.5 − tilt·e) + misfit·G + noise·G, G a log-normal
    multiple of the root of the simulated, e by how much its log lies above the mean; all modules have no tilt.

    H varies around the simulated one; x, the forgone share, is uniform, 0 for all-linear and 1 for one head-only run. All
    features but ``recipe_loss`` say nothing. What is missing of the metric is a power of the loss.
    """
    rng = np.random.default_rng(seed)
    names = all_feature_names()
    rows = []
    for g in range(groups):
        shares = rng.dirichlet([20, 20]) if task == "classification" else np.empty(0)
        start = rng.normal(-0.4, 0.1)
        simulated_gain = rng.uniform(0.2, 0.6)
        surprise = ratio_sd * rng.normal()
        gain = simulated_gain**GAIN_POWER * math.exp(log_ratio + surprise)
        real_start = start + start_sd * rng.normal()
        context = context_of(
            task=task,
            metric=metric,
            model="fake",
            shares=shares,
            train_rows=512,
            steps=96,
            lr=1e-3,
            rank=8,
            start=math.exp(start),
            simulated=math.exp(start - simulated_gain),
            aligned=USUALLY_ALIGNED,
            counted=None,
            head_loss=None,
        )
        for s in range(-1, selections):
            name, x = {-1: (HEAD_ONLY, 1.0), 0: (ALL_LINEAR, 0.0)}.get(s, (f"selection {s}", rng.uniform()))
            features = {key: float(rng.normal(0, 0.3)) if s > 0 else 0.0 for key in names}
            features["recipe_loss"] = x * simulated_gain
            expected = real_start - gain * (1 - x**1.5) + (misfit * gain * rng.normal() if s >= 0 else 0.0)
            expected += gain * tilt * surprise if s > 0 else 0.0
            for run in range(seeds if s >= 0 else 1):
                log_loss = expected + (noise * gain * rng.normal() if s >= 0 else 0.0)
                missing = math.exp(-score_slope * (context["log_guess"] - log_loss) + score_sd * rng.normal())
                rows.append(
                    CalibrationRow(
                        group=f"{prefix} {g}",
                        selection=name,
                        params=1000 + s,
                        seed=run,
                        features=features,
                        context=context,
                        recipe=TrainingRecipe().as_dict(),
                        settings=asdict(LoraSettings()),
                        train_loss=0.5 * math.exp(log_loss),
                        val_loss=math.exp(log_loss),
                        metric=metric,
                        score=1 - (1 - context["chance"]) * min(missing, 1.0),
                        provenance={"task": task, "model": "fake"},
                    )
                )
    return rows


def traits(simulated: Sequence[float] | np.ndarray) -> np.ndarray:
    """[S, 3] of selections of the size and depth of all modules."""
    return np.column_stack([simulated, np.zeros((len(simulated), 2))])


def as_simulated(predictor: Predictor) -> Predictor:
    """The same predictor, which believes the simulation alone."""
    predictor.forgone_ = ALONE
    return predictor


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


@contextmanager
def one_thread(work: Callable[[Any], Any], count: int) -> Iterator[Callable[[Any], Future[Any]]]:
    """A pool for :func:`advisor.training.workers.run_all` whose one worker is a thread of this process."""
    thread = ThreadPoolExecutor(1)
    try:
        yield lambda item: thread.submit(work, item)
    finally:
        thread.shutdown(cancel_futures=True)


def run_row(run: Any, recipe: TrainingRecipe | None = None, **result: Any) -> dict[str, Any]:
    """A line of ``runs.jsonl`` for a planned run, as if it had been done."""
    return {
        "schema": 1,
        "key": run.key,
        "selection": asdict(run.selection),
        "settings": asdict(run.settings),
        **run.own,
        "recipe": (recipe or TrainingRecipe()).as_dict(),
        "seed": run.seed,
        "result": {
            "train_loss": 0.4,
            "val_loss": 0.5,
            "metric": 0.9,
            "best_epoch": 1,
            "epochs": [[None, 0.7, 0.5], [0.4, 0.5, 0.9]],
            "distances": [0.0, 1.0],
            "lora_params": 100,
            "wall_s": 3.0,
            **result,
        },
        "provenance": {
            "model": "fake/bert",
            "model_fingerprint": "model",
            "data": "fake.jsonl",
            "data_fingerprint": "data",
            "eval_fingerprint": "eval",
            "task": "classification",
            "metric": "accuracy",
            "train_rows": 400,
            "eval_rows": 50,
            "versions": {},
        },
    }


def distances(count: int) -> np.ndarray:
    """Selections that share nothing with each other; all-linear last."""
    return np.asarray(1.0 - np.eye(count + 1))


def distances_of(group: Group) -> np.ndarray:
    """The same, but all-linear is itself."""
    found = distances(len(group.selections))
    i = group.selections.index(ALL_LINEAR)
    found[i, -1] = found[-1, i] = 0.0
    return found


def predict(predictor: Predictor, group: Group) -> Predictions:
    return predictor.predict(group.traits, group.context, distances_of(group))


def typical_gain(predictor: Predictor, context: Mapping[str, Any]) -> float:
    """Median of G."""
    return math.exp(predictor.gain_level_.of(context)[0])


def fit(rows: Sequence[CalibrationRow], task: str = "classification") -> Predictor:
    return Predictor().fit(rows, task)
