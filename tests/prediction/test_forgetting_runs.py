"""Predicted beside real forgetting of runs, and when an interval may be given."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import fakes
import numpy as np
import pytest

from advisor.core.probe import PROJECTIONS, DriftBlocks
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.prediction.forgetting import central_errors, fewest, forgetting_of

RECIPE = TrainingRecipe(train_rows=96, epochs=1, lr=3e-4)


def test_an_interval_takes_as_many_errors_as_its_level_needs() -> None:
    assert fewest(0.9) == 19
    assert central_errors(range(18)) is None
    assert central_errors([*range(19)]) == (0, 18)
    assert central_errors(list(reversed(range(39)))) == (1, 37)


def test_it_covers_one_more_of_the_same_kind() -> None:
    """20 draws of any law: the last lies between with at least the level, and not much more."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(4000):
        drawn = rng.gamma(0.5, size=20)
        low, high = central_errors(drawn[:19].tolist())  # type: ignore[misc]
        inside.append(low <= drawn[19] <= high)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)


def keeping_probe() -> Any:
    probe = fakes.make_probe(n=24, layers=4)
    rng = np.random.default_rng(1)
    cross = rng.normal(size=(len(probe.targets), 3 * PROJECTIONS, probe.samples)).astype(np.float32)
    return replace(probe, keep=DriftBlocks(cross, rng.uniform(1, 2, cross.shape[:2]).astype(np.float32)))


def run_of(probe: Any, modules: list[int], drift: float | None, seed: int = 0) -> dict[str, Any]:
    kept = {} if drift is None else {"kept": {"drift": drift}}
    selection = {"name": f"s{modules}", "targets": [probe.targets[m].name for m in modules]}
    return {"selection": selection, "settings": asdict(LoraSettings()), "recipe": RECIPE.as_dict(), "seed": seed, "result": kept}


def test_predictions_are_the_scorers_and_seeds_are_averaged() -> None:
    probe = keeping_probe()
    scorer = fakes.make_scorer(probe, recipe=RECIPE)
    chosen = [[m, m + 1] for m in range(20)]
    sizes = [found.size for found in scorer.disturbances([fakes.candidate(probe, modules) for modules in chosen])]
    runs = [run_of(probe, modules, 2 * size) for modules, size in zip(chosen, sizes, strict=True)]
    runs.append(run_of(probe, chosen[0], 4 * sizes[0], seed=1))
    runs += [run_of(probe, [], 0.0), run_of(probe, [5], None)]
    found = forgetting_of(runs, probe)
    assert found is not None
    assert len(found.names) == 20
    np.testing.assert_allclose(found.predicted, sizes)
    np.testing.assert_allclose(found.real, [3 * sizes[0], *(2 * size for size in sizes[1:])])
    assert found.spearman is not None
    assert found.spearman > 0.8
    errors = [real - predicted for real, predicted in zip(found.real, found.predicted, strict=True)]
    assert found.errors == (min(errors), max(errors))
    few = forgetting_of(runs[:5], probe)
    assert few is not None
    assert few.errors is None


def test_without_rows_to_keep_there_is_nothing() -> None:
    probe = keeping_probe()
    assert forgetting_of([run_of(probe, [1], None)], probe) is None
    assert forgetting_of([run_of(probe, [1], 0.1)], replace(probe, keep=None)) is None
