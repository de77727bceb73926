"""Features: zero for all modules, indifferent to order, and their parts in closed form."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer
from hypothesis import given
from hypothesis import strategies as st

from advisor.features import (
    HEAD_ONLY_SHARE,
    PLAIN_FEATURES,
    RELATIVE_SIGMA,
    Weights,
    all_feature_names,
    feature_table,
    gradient_damping,
    raw_plain_features,
    recipe_loss,
)
from advisor.kernels import rank_weights
from advisor.recipe import TrainingRecipe
from advisor.scoring import probe_view
from advisor.simulate import simulate
from advisor.targets import LoraSettings

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
    gradient = sum(
        16**2 / (3 * probe.targets[m].in_features * 8) * probe.gradient_blocks[m].astype(float) for m in chosen
    )
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


@given(st.integers(0, 1000), st.integers(1, 64))
def test_gradient_damping_from_explicit_gradients(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(9, 4)) + rng.normal() * np.ones(4)
    mean = g.mean(0)
    variance = ((g - mean) ** 2).sum(1).mean()
    expected = np.sqrt(mean @ mean / (mean @ mean + variance / batch))
    got = gradient_damping(np.array([np.sum(g.sum(0) ** 2)]), np.array([np.sum(g**2)]), 9, batch)
    assert got[0] == pytest.approx(expected)
    assert 0 < got[0] <= 1


def test_gradient_damping_is_the_mean_over_all_batches() -> None:
    """Batches of two drawn with replacement, every one of them."""
    g = np.random.default_rng(0).normal(size=(6, 3)) + 0.5
    mean_square = np.mean([np.sum((g[list(rows)].mean(0)) ** 2) for rows in product(range(6), repeat=2)])
    wanted = np.linalg.norm(g.mean(0)) / np.sqrt(mean_square)
    got = gradient_damping(np.array([np.sum(g.sum(0) ** 2)]), np.array([np.sum(g**2)]), 6, 2)
    assert got[0] == pytest.approx(wanted)


def test_gradient_damping_bounds() -> None:
    same = np.ones((5, 3))
    got = gradient_damping(np.array([np.sum(same.sum(0) ** 2)]), np.array([np.sum(same**2)]), 5, 8)
    assert got[0] == pytest.approx(1.0)  # all examples agree: no noise
    # one example alone has a gradient: ‖ḡ‖² = e/n², mean‖g_i‖² = e/n: the least agreement without cancelling
    least = gradient_damping(np.array([1.0]), np.array([1.0]), 10_000, 16)
    assert least[0] == pytest.approx(np.sqrt(1 / (1 + (10_000 - 1) / 16)))
    assert gradient_damping(np.array([0.0]), np.array([0.0]), 5, 8)[0] == 0.0


def test_damped_kernels_of_modules_and_head() -> None:
    """Every module and the head by their own noise; a larger batch damps less."""
    probe = PROBES["binary"]
    assert probe.head is not None
    n, batch = probe.samples, 16
    view = view_of(probe, TrainingRecipe(batch_size=batch))

    def damping(total: float, energy: float) -> float:
        mean, each = total / n**2, energy / n
        return float(np.sqrt(mean / (mean + (each - mean) / batch)))

    gradient = probe.gradient_blocks.astype(float)
    own = np.array([damping(g.sum(), np.trace(g)) for g in gradient])
    head = damping(probe.head.fresh_gradient_norm**2, probe.head.fresh_gradient_energy)
    assert head < 0.99
    mask = random_masks(probe, 1)
    adam = view.kernels["adam"]
    expected = np.einsum("m,mij->ij", mask[0] * own, adam.blocks) + head * adam.head
    np.testing.assert_allclose(view.damped(mask)[0], expected, rtol=1e-5)
    larger = view_of(probe, TrainingRecipe(batch_size=10 * batch))
    assert (larger.damping > view.damping).all()
    assert larger.head_damping > view.head_damping


def test_the_recipe_moves_the_simulated_loss() -> None:
    """One step barely leaves the start; the recipe's own steps get further."""
    probe = PROBES["binary"]
    everything = np.ones((1, len(probe.targets)))
    short = recipe_loss(view_of(probe, TrainingRecipe(lr=1e-9)), everything)[0]
    assert short == pytest.approx(np.log(2), rel=1e-3)
    assert recipe_loss(view_of(probe), everything)[0] < short


def test_rank_and_alpha_reach_the_features() -> None:
    """A selection at other settings is what probing the view at those settings would simulate."""
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


def test_names_are_distinct() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(PLAIN_FEATURES) < set(NAMES)
