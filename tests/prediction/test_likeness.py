"""Distances between selections, and how alike the errors of their predictions are."""

from __future__ import annotations

import numpy as np
import pytest

from advisor.prediction.likeness import error_correlations, parameter_distances


def test_parameter_distances() -> None:
    params = np.array([[4.0, 0, 0], [2, 2, 0], [0, 0, 0]])
    found = parameter_distances(params, np.array([4.0, 4, 4]))
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 0)
    assert found[0, 1] == pytest.approx(1 - 2 / 6)
    assert found[0, 3] == pytest.approx(1 - 4 / 12)
    assert found[2, 3] == found[0, 2] == 1.0


def some_distances(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = (rng.uniform(size=(12, 10)) < rng.uniform(0.1, 0.9, (12, 1))).astype(float)
    return parameter_distances(masks, np.ones(10))


@pytest.mark.parametrize("common", [0.0, 0.4, 1.0])
def test_errors_are_correlated_as_a_covariance_is(common: float) -> None:
    for seed in range(10):
        found = error_correlations(some_distances(seed), common)
        np.testing.assert_allclose(np.diag(found), 1.0)
        np.testing.assert_allclose(found, found.T)
        assert np.linalg.eigvalsh(found).min() > -1e-10


def test_the_error_against_all_modules_does_not_depend_on_what_is_common() -> None:
    distances = some_distances(0)
    alone, together = (error_correlations(distances, common) for common in (0.0, 1.0))
    np.testing.assert_allclose(alone[-1], together[-1])
    np.testing.assert_allclose(alone, 1 - distances)


def test_selections_of_one_size_err_alike_as_far_as_their_error_is_common() -> None:
    halves = parameter_distances(np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), np.ones(4))  # they share nothing
    differ = [2 - 2 * error_correlations(halves, common)[0, 1] for common in (0.0, 0.6, 1.0)]
    assert differ == pytest.approx([2.0, 0.8, 0.0])
