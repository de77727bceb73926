"""Features: zero for all modules, indifferent to order, and their parts in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.prediction.probe_view import ROWS_PER_EXAMPLE, probe_view
from advisor.probing.head import fresh_head_gradient
from advisor.theory.features import (
    HEAD_ONLY_SHARE,
    PLAIN_FEATURES,
    RELATIVE_SIGMA,
    Weights,
    adam_scales,
    all_feature_names,
    feature_table,
    raw_plain_features,
    recipe_kernels,
    recipe_loss,
)
from advisor.theory.kernels import lora_constant, rank_weights
from advisor.theory.simulate import Schedule, simulate, slopes_at_zero

PROBES = {
    "binary": make_probe(seed=1, n=32, layers=2),
    "three": make_probe(seed=2, n=32, layers=2, classes=3),
    "regression": make_probe("regression", seed=3, n=32, layers=2),
    "causal-lm": make_probe("causal-lm", seed=4, n=32, layers=2),
}
SETTINGS = LoraSettings()
NAMES = all_feature_names()


def view_of(probe, recipe=None):  # type: ignore[no-untyped-def]
    return probe_view(probe, SETTINGS, recipe or TrainingRecipe())


def weights_of(probe, masks) -> Weights:  # type: ignore[no-untyped-def]
    masks = np.atleast_2d(np.asarray(masks, dtype=float))
    params = masks * np.array([t.lora_params(SETTINGS.rank) for t in probe.targets])
    return Weights(params, {"adam": masks, "lora-expected": masks})


def random_masks(probe, count: int, seed: int = 0) -> np.ndarray:  # type: ignore[no-untyped-def]
    return (np.random.default_rng(seed).random((count, len(probe.targets))) < 0.5).astype(float)


@pytest.mark.parametrize("kind", PROBES)
def test_all_linear_is_zero_and_everything_is_finite(kind: str) -> None:
    probe = PROBES[kind]
    masks = np.vstack([np.ones(len(probe.targets)), np.zeros(len(probe.targets)), random_masks(probe, 5)])
    table = feature_table(view_of(probe), weights_of(probe, masks), NAMES)
    assert table.shape == (7, len(NAMES))
    np.testing.assert_allclose(table[0], 0, atol=1e-9)
    assert np.isfinite(table).all()
    assert (np.abs(table[2:]).max(0) > 0).sum() >= len(NAMES) - 2  # a causal LM may leave alignment constant


@pytest.mark.parametrize("kind", PROBES)
def test_order_of_selections_and_modules_does_not_matter(kind: str) -> None:
    probe = PROBES[kind]
    masks = random_masks(probe, 6)
    table = feature_table(view_of(probe), weights_of(probe, masks), NAMES)
    order = np.random.default_rng(0).permutation(6)
    shuffled = feature_table(view_of(probe), weights_of(probe, masks[order]), NAMES)
    np.testing.assert_allclose(shuffled, table[order], atol=1e-9)
    modules = np.random.default_rng(1).permutation(len(probe.targets))
    other = replace(
        probe,
        targets=tuple(probe.targets[m] for m in modules),
        weight_blocks=probe.weight_blocks[modules],
        gradient_blocks=probe.gradient_blocks[modules],
    )
    again = feature_table(view_of(other), weights_of(other, masks[:, modules]), NAMES)
    np.testing.assert_allclose(again, table, atol=1e-6)


def test_asking_for_some_names_gives_those_columns() -> None:
    probe = PROBES["binary"]
    weights = weights_of(probe, random_masks(probe, 3))
    table = feature_table(view_of(probe), weights, NAMES)
    some = ("adam.condition", "params", "lora-expected.alignment")
    picked = feature_table(view_of(probe), weights, some)
    np.testing.assert_allclose(picked, table[:, [NAMES.index(name) for name in some]], atol=1e-9)


def test_plain_features_by_hand() -> None:
    probe = PROBES["binary"]
    view = view_of(probe)
    chosen = [0, 4, 7]  # layer 0 query and up, layer 1 key
    mask = np.zeros(len(probe.targets))
    mask[chosen] = 1
    raw = raw_plain_features(view, weights_of(probe, mask))
    sizes = np.array([t.lora_params(8) for t in probe.targets])
    assert raw["params"][0] == pytest.approx(np.log(sizes[chosen].sum() / sizes.sum()))
    assert raw["depth"][0] == pytest.approx(sizes[7] / sizes[chosen].sum())
    assert raw["attention"][0] == pytest.approx((sizes[0] + sizes[7]) / sizes[chosen].sum())
    n = probe.samples
    gradient = sum(16**2 / (3 * probe.targets[m].in_features * 8) * probe.gradient_blocks[m].astype(float) for m in chosen)
    off = (gradient.sum() - np.trace(gradient)) / (n * (n - 1))
    assert raw["agreement"][0] == pytest.approx(off / (np.trace(gradient) / n), rel=1e-6)
    empty = raw_plain_features(view, weights_of(probe, np.zeros(len(probe.targets))))
    assert empty["params"][0] == pytest.approx(np.log(HEAD_ONLY_SHARE))


def test_kernel_features_by_hand() -> None:
    probe = PROBES["regression"]
    view = view_of(probe)
    mask = random_masks(probe, 1, 5)
    both = np.vstack([mask, np.ones_like(mask)])
    values = {}
    for kind in ("adam", "lora-expected"):
        a, b = (np.linalg.eigvalsh(k) for k in view.kernels[kind].of(both))
        sigmas = [RELATIVE_SIGMA * v.mean() for v in (a, b)]
        kappas = [(v[-1] + s) / (max(v[0], 0) + s) for v, s in zip((a, b), sigmas, strict=True)]
        values[f"{kind}.condition"] = np.log(kappas[0] / kappas[1])
        values[f"{kind}.trace"] = np.log(a.sum() / b.sum())
        losses = simulate(view.kernels[kind].of(both), "regression", view.y, view.f0, view.folds).loss
        values[f"{kind}.simulated"] = np.log(losses[0] / losses[1])
    table = feature_table(view, weights_of(probe, mask), tuple(values))
    np.testing.assert_allclose(table[0], list(values.values()), rtol=1e-6)


def scale_of(gradients: np.ndarray, parameters: int, batch: float) -> float:
    """√p/(n·√E‖g_batch‖²) of explicit per-example gradients [n, p], in plain words of mean and variance."""
    mean = gradients.mean(0)
    variance = ((gradients - mean) ** 2).sum(1).mean()
    return float(np.sqrt(parameters) / (len(gradients) * np.sqrt(mean @ mean + variance / batch)))


def scales(gradients: np.ndarray, parameters: int, batch: int) -> float:
    sums, energy = np.sum(gradients.sum(0) ** 2), np.sum(gradients**2)
    return float(adam_scales(np.array([sums]), np.array([energy]), np.array([parameters]), len(gradients), batch)[0])


@given(st.integers(0, 1000), st.integers(1, 64))
def test_adam_scale_from_explicit_gradients(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(9, 4)) + rng.normal() * np.ones(4)
    assert scales(g, 4, batch) == pytest.approx(scale_of(g, 4, batch))


def test_adam_divides_by_the_root_mean_square_over_all_batches() -> None:
    """Batches of two drawn with replacement, every one of them."""
    g = np.random.default_rng(0).normal(size=(6, 3)) + 0.5
    mean_square = np.mean([np.sum((g[list(rows)].mean(0)) ** 2) for rows in product(range(6), repeat=2)])
    assert scales(g, 3, 2) == pytest.approx(np.sqrt(3) / (6 * np.sqrt(mean_square)))


def test_adam_scale_bounds() -> None:
    same = np.ones((5, 3))
    assert scales(same, 3, 1) == pytest.approx(np.sqrt(3) / np.linalg.norm(same.sum(0)))  # all agree: no noise
    assert scales(np.zeros((5, 3)), 3, 8) == 0.0
    rounding = adam_scales(np.array([-1e-9]), np.array([0.0]), np.array([3]), 5, 8)  # a sum of float32 blocks
    assert rounding[0] == 0.0
    cancelling = np.array([[1.0], [-1.0]])  # noise alone
    assert scales(cancelling, 1, 16) == pytest.approx(1 / (2 * np.sqrt(1 / 16)))


def jacobians(seed: int, outputs: int = 1) -> list[np.ndarray]:
    """Of three modules with 5, 7 and 9 parameters, [outputs, n, p]; inner products are the same for every output."""
    rng = np.random.default_rng(seed)
    found = []
    for p in (5, 7, 9):
        one = rng.normal(size=(12, p)) + 0.5
        turns = np.stack([np.linalg.qr(rng.normal(size=(p, p)))[0] for _ in range(outputs)])
        found.append(one @ turns)
    return found


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("batch", [1, 8])
def test_recipe_kernels_from_explicit_gradients(task: str, batch: int) -> None:
    """Of a fresh head: slopes −y/2 at a margin of 0, −y for values; the fitted head's G_m plays no part."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(12, 1)) if task == "regression" else np.where(np.arange(12) % 3 > 0, 1.0, -1.0)[:, None]
    slope = -y if task == "regression" else -y / 2
    modules = [j[0] for j in jacobians(2)]
    blocks = np.stack([j @ j.T for j in modules])
    found = recipe_kernels(blocks, np.full_like(blocks, np.nan), np.array([5, 7, 9]), task, y, batch)
    for block, j in zip(found.blocks, modules, strict=True):
        np.testing.assert_allclose(block, scale_of(slope * j, j.shape[1], batch) * j @ j.T)
    assert not found.head.any()


def test_one_step_moves_outputs_as_adam_would() -> None:
    """Where the batch is all examples: √p parameters' worth of the normalised gradient."""
    y = np.where(np.arange(12) % 3 > 0, 1.0, -1.0)[:, None]
    modules = [j[0] for j in jacobians(4)]
    blocks = np.stack([j @ j.T for j in modules])
    found = recipe_kernels(blocks, blocks, np.array([5, 7, 9]), "classification", y, 10**12)
    for block, j in zip(found.blocks, modules, strict=True):
        gradient = (-y / 2 * j).sum(0)
        step = np.sqrt(len(gradient)) * gradient / np.linalg.norm(gradient)
        np.testing.assert_allclose(block @ (-y[:, 0] / 2), j @ step)


@given(st.integers(0, 200), st.integers(3, 6))
def test_classes_gradients_are_bounded_as_if_parallel(seed: int, classes: int) -> None:
    """C times what orthogonal ones have, and never less than what classes at any angle have."""
    y = np.eye(classes)[np.arange(12) % classes] - 1 / classes
    slope = slopes_at_zero("classification", y)
    modules = jacobians(seed, classes)
    blocks = np.stack([(j @ j.transpose(0, 2, 1)).mean(0) for j in modules])
    found = recipe_kernels(blocks, blocks, np.ones(3), "classification", y, 4)
    for scaled, block, j in zip(found.blocks, blocks, modules, strict=True):
        apart = np.concatenate([slope[:, [c]] * j[c] for c in range(classes)], axis=1)  # each class its own parameters
        together = sum(slope[:, [c]] * j[c] for c in range(classes))
        np.testing.assert_allclose(scaled, scale_of(apart, 1, 4) / np.sqrt(classes) * block)
        assert scaled[0, 0] <= scale_of(together, 1, 4) * block[0, 0] * (1 + 1e-9)


@pytest.mark.parametrize("classes", [0, 2, 5])
def test_the_head_is_scaled_by_its_own_fresh_gradient(classes: int) -> None:
    """A module with the head's own block and parameters is scaled like it, but for the bound on classes."""
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(20, 4)) + 0.3, np.arange(20) % max(classes, 1)
    inner = features @ features.T
    if classes == 0:
        values = rng.normal(size=20)
        y, task, block, fresh = values[:, None], "regression", inner, fresh_head_gradient(features, values, 0, False)
    else:
        y = np.where(labels == 1, 1.0, -1.0)[:, None] if classes == 2 else np.eye(classes)[labels] - 1 / classes
        task, fresh = "classification", fresh_head_gradient(features, labels, classes, False)
        block = inner * (2 if classes == 2 else (classes - 1) / classes)  # of a margin; of centred logits
    found = recipe_kernels(block[None], block[None], np.array([fresh[2]]), task, y, 6, (block, *fresh))
    excess = classes - 1 if classes > 2 else 1
    np.testing.assert_allclose(found.head, np.sqrt(excess) * found.blocks[0])


def test_language_models_keep_the_gradient_kernel() -> None:
    """Their own loss gradients at θ0, whatever W is; no head."""
    rng = np.random.default_rng(5)
    gradients = [rng.normal(size=(12, p)) + 0.2 for p in (5, 7, 9)]
    blocks = np.stack([g @ g.T for g in gradients])
    found = recipe_kernels(np.full_like(blocks, np.nan), blocks, np.array([5, 7, 9]), "causal-lm", np.ones((12, 1)), 4)
    for block, g in zip(found.blocks, gradients, strict=True):
        np.testing.assert_allclose(block, scale_of(g, g.shape[1], 4) * g @ g.T)


@pytest.mark.parametrize("kind", PROBES)
def test_the_view_scales_the_probes_blocks_at_the_recipe(kind: str) -> None:
    """B moves first: rank·out parameters of c_m·W_m; a larger batch is less noisy, so Adam steps further."""
    probe = PROBES[kind]
    view = view_of(probe, TrainingRecipe(batch_size=16))
    constants = np.array([lora_constant(t, SETTINGS) for t in probe.targets])[:, None, None]
    parameters = np.array([SETTINGS.rank * t.out_features for t in probe.targets])
    head = probe.head
    fresh = head and (head.weight, head.fresh_gradient_norm, head.fresh_gradient_energy, head.fresh_gradient_params)
    blocks = (constants * probe.weight_blocks, constants * probe.gradient_blocks)
    wanted = recipe_kernels(*blocks, parameters, probe.task, probe.y, 16, fresh)
    np.testing.assert_allclose(view.recipe.blocks, wanted.blocks, rtol=1e-9)
    np.testing.assert_allclose(view.recipe.head, wanted.head, rtol=1e-9)
    assert view.recipe.head.any() == (kind != "causal-lm")
    rows = ROWS_PER_EXAMPLE * probe.samples  # of the 400 there are
    assert rows < 400
    schedule = Schedule.of(1e-3, 6 * math.ceil(rows / 16), fresh_head=kind != "causal-lm")
    np.testing.assert_allclose((view.schedule.steps, view.schedule.growth), (schedule.steps, schedule.growth))
    larger = view_of(probe, TrainingRecipe(batch_size=160)).recipe
    assert (np.einsum("mii->m", larger.blocks) > np.einsum("mii->m", view.recipe.blocks)).all()


@pytest.mark.parametrize("kind", ["binary", "three", "regression"])
def test_no_module_is_the_head_alone(kind: str) -> None:
    """In nats, or in squared errors, twice the half; steps short enough for no cap."""
    probe = PROBES[kind]
    view = view_of(probe, TrainingRecipe(lr=1e-5))
    found = recipe_loss(view, np.zeros((1, len(probe.targets))))[0]
    alone = simulate(view.recipe.head[None], view.task, view.y, view.f0, view.folds, view.schedule.steps)
    assert found == pytest.approx(alone.loss[0] * (2 if kind == "regression" else 1))


def test_no_module_of_a_language_model_learns_nothing() -> None:
    probe = replace(PROBES["causal-lm"], losses=np.linspace(1, 3, 32))
    found = recipe_loss(view_of(probe), np.zeros((1, len(probe.targets))))[0]
    assert found == pytest.approx(np.mean([probe.losses[probe.folds == k].mean() for k in range(4)]))


@pytest.mark.parametrize("kind", PROBES)
def test_the_recipe_moves_the_simulated_loss(kind: str) -> None:
    """Steps of nearly nothing stay at the start, a regression's mean square included; the recipe's own get further."""
    probe = PROBES[kind]
    everything = np.ones((1, len(probe.targets)))
    short = recipe_loss(view_of(probe, TrainingRecipe(lr=1e-12)), everything)[0]
    start = {"binary": np.log(2), "three": np.log(3), "regression": np.mean(probe.y**2), "causal-lm": 1.0}[kind]
    assert short == pytest.approx(start, rel=1e-3)
    assert recipe_loss(view_of(probe), everything)[0] < short


def test_rank_and_alpha_reach_the_features() -> None:
    """A selection at other settings is what probing the view at those settings would simulate, recipe included."""
    probe = PROBES["binary"]
    scorer = make_scorer(probe)
    other = LoraSettings(2, 32)
    weights = scorer.weights([candidate(probe, [0, 3, 8], other)])
    assert set(np.flatnonzero(weights.params[0])) == {0, 3, 8}
    assert weights.params[0, 0] == 2 * 48
    for kind in ("adam", "lora-expected"):
        assert weights.blocks[kind][0, 3] == pytest.approx(rank_weights(kind, SETTINGS, other))
    remade = probe_view(probe, other, TrainingRecipe())
    mask = np.zeros((1, len(probe.targets)))
    mask[0, [0, 3, 8]] = 1
    rest = ("classification", probe.y, probe.f0, probe.folds)
    here = simulate(scorer.view.kernels["adam"].of(weights.blocks["adam"]), *rest)
    there = simulate(remade.kernels["adam"].of(mask), *rest)
    assert here.loss[0] == pytest.approx(there.loss[0], rel=1e-9)
    assert recipe_loss(scorer.view, weights.blocks["adam"])[0] == pytest.approx(recipe_loss(remade, mask)[0], rel=1e-6)


def test_names_are_distinct() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(PLAIN_FEATURES) < set(NAMES)
