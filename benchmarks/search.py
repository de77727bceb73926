"""Speed of scoring and search, and the search's regret against exhaustive search (docs/design.md 7), on synthetic probes.

python benchmarks/search.py
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np

from advisor.advice.budget import parse_budget
from advisor.core.targets import LoraSettings, Target
from advisor.theory.features import ProbeView, Weights, feature_table, recipe_kernels, recipe_scales
from advisor.theory.kernels import lora_constant, make_kernels
from advisor.theory.simulate import Schedule
from advisor.theory.surrogate import Surrogate, fill_budget, pareto

RESULTS = Path(__file__).parent / "results" / "search.json"
ROLES = ("query", "key", "value", "output", "gate", "up", "down")


def synthetic(layers: int, n: int, seed: int) -> tuple[list[Target], ProbeView]:
    """A Llama-like list of 7 modules a layer and random low-rank blocks that share structure."""
    rng = np.random.default_rng(seed)
    targets = []
    for layer in range(layers):
        for role in ROLES:
            wide = role in ("gate", "up", "down")
            a, b = (4096, 11008) if role in ("gate", "up") else (11008, 4096) if wide else (4096, 4096)
            targets.append(Target(f"layers.{layer}.{role}", layer, role, "mlp" if wide else "attention", a, b))
    y = rng.choice([-1.0, 1.0], size=(n, 1))
    shared = rng.standard_normal((n, 8))
    blocks = np.empty((len(targets), n, n), dtype=np.float32)
    for m in range(len(targets)):
        factor = np.hstack([shared * rng.uniform(0.2, 1, 8), rng.standard_normal((n, 24)), rng.uniform(0, 1) * y])
        blocks[m] = rng.lognormal() * factor @ factor.T / 33
    slopes = rng.uniform(0.2, 0.8, n) * -y[:, 0]
    gradients = blocks * np.outer(slopes, slopes).astype(np.float32)
    settings = LoraSettings()
    constants = np.array([lora_constant(t, settings) for t in targets])
    sums, traces = constants * gradients.sum((1, 2)), constants * np.einsum("mii->m", gradients)
    scaled = constants[:, None, None]
    parameters = np.array([settings.rank * t.out_features for t in targets], dtype=np.float64)
    how = (
        np.asarray(scaled * blocks, np.float64),
        np.asarray(scaled * gradients, np.float64),
        parameters,
        "classification",
        y,
        32,
    )
    view = ProbeView(
        targets=targets,
        kernels={kind: make_kernels(targets, blocks, gradients, settings, kind) for kind in ("adam", "lora-expected")},
        recipe=recipe_kernels(*how),
        scales=recipe_scales(*how),
        gradient_sums=sums,
        gradient_traces=traces,
        task="classification",
        y=y,
        f0=np.zeros_like(y),
        losses=np.full(n, np.log(2)),
        folds=np.arange(n) % 4,
        rank=settings.rank,
        schedule=Schedule.of(1e-3, 96),
    )
    return targets, view


def scoring_rate(view: ProbeView, count: int) -> float:
    """Selections a second: the regressor's features, one kernel."""
    rng = np.random.default_rng(0)
    masks = (rng.uniform(size=(count, len(view.targets))) < 0.3).astype(np.float64)
    params = masks * np.array([t.lora_params(view.rank) for t in view.targets])
    weights = Weights(params, dict.fromkeys(view.kernels, masks))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        feature_table(view, weights, ("recipe_loss", "params"))
        best = min(best, time.perf_counter() - start)
    return count / best


def front_seconds(view: ProbeView, finalists: int) -> float:
    """The surrogate at 20 budgets, and the finalists scored exactly."""
    start = time.perf_counter()
    sizes = np.array([t.lora_params(view.rank) for t in view.targets], dtype=np.int64)
    units = np.eye(len(sizes), dtype=bool)
    masks = []
    for kernels in view.kernels.values():
        surrogate = Surrogate.of(kernels, view.y, units)
        masks += [fill_budget(surrogate, sizes, int(share * sizes.sum())) for share in np.linspace(0.05, 1, finalists // 2)]
    chosen = np.array(masks, dtype=np.float64)
    table = feature_table(view, Weights(chosen * sizes, dict.fromkeys(view.kernels, chosen)), ("recipe_loss", "params"))
    pareto((chosen @ sizes).astype(np.int64), -table[:, 0])
    return time.perf_counter() - start


def surrogate_regret(seed: int) -> float:
    """Shortfall of the found alignment against the best of all selections of 14 modules at 40 % of the parameters."""
    _, view = synthetic(2, 64, seed)
    sizes = parse_budget("40%").sizes(list(view.targets), view.rank)
    ceiling = int(0.4 * sizes.sum())
    surrogate = Surrogate.of(view.kernels["adam"], view.y, np.eye(14, dtype=bool))
    found = surrogate.value(fill_budget(surrogate, sizes, ceiling))
    best = max(
        surrogate.value(np.array(bits, dtype=bool))
        for bits in itertools.product((0, 1), repeat=14)
        if 0 < sizes @ np.array(bits) <= ceiling
    )
    return 1 - found / best


def main() -> None:
    _, view = synthetic(32, 128, 0)
    regrets = [surrogate_regret(seed) for seed in range(5)]
    result = {
        "modules": len(view.targets),
        "examples": 128,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "selections_per_second": scoring_rate(view, 300),
        "pareto_front_seconds": front_seconds(view, 40),
        "surrogate_regret_14_modules": {"mean": float(np.mean(regrets)), "max": float(np.max(regrets))},
    }
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
