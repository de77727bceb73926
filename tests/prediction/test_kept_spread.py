"""Intervals of what is predicted of rows to keep: their constants are those of the real runs, their theory covers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from advisor.core.choices import LEVEL
from advisor.prediction.kept_spread import LARGEST_KL, MEASURED, PairFit, Spread, fit_pair

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "keep.json"


def test_the_constants_are_those_of_the_real_runs() -> None:
    pairs = json.loads(RESULTS.read_text(encoding="utf-8"))["pairs"]
    fits = []
    for pair in (pair for pair in pairs if not pair["surprised"]):
        predicted = (np.array(pair["predicted"][name]) for name in ("loss, first order", "kl"))
        fits.append(fit_pair(*predicted, *(np.array(pair["real"][name]) for name in ("loss", "kl"))))
    assert asdict(MEASURED) == pytest.approx(asdict(Spread.of(fits)), abs=1e-3)


def test_the_largest_divergence_is_that_of_the_real_runs() -> None:
    pairs = json.loads(RESULTS.read_text(encoding="utf-8"))["pairs"]
    assert max(max(pair["all_modules"]["kl"], *pair["real"]["kl"]) for pair in pairs) == pytest.approx(LARGEST_KL, abs=0.05)


def test_a_pair_is_fitted_where_there_is_no_noise() -> None:
    rng = np.random.default_rng(0)
    first, kl = rng.normal(size=9), rng.uniform(0.1, 1.0, 9)
    fit = fit_pair(first, kl, 0.7 * first + 2.0 * kl, 2.0 * kl)
    assert (fit.log_kl, fit.within, fit.slope) == pytest.approx((np.log(2.0), 0.0, 0.7), abs=1e-12)


@pytest.mark.parametrize("count", [3, 11])
def test_intervals_cover_runs_of_a_new_pair(count: int) -> None:
    """Pairs are drawn from the model that the intervals assume; with few pairs Student's factor is what makes up for it."""
    rng = np.random.default_rng(1)
    within, selections, draws = 0.3, 200, 600
    hits = []
    for _ in range(draws):
        ratios, slopes = rng.normal(0.4, 0.6, count + 1), rng.normal(1.0, 0.5, count + 1)
        fits = [PairFit(ratio, within, slope) for ratio, slope in zip(ratios[:-1], slopes[:-1], strict=True)]
        first, kl = rng.normal(0, 0.3, selections), rng.uniform(0.01, 0.5, selections)
        real_kl = kl * np.exp(ratios[-1] + within * rng.normal(size=selections))
        loss, span = Spread.of(fits).intervals(first, kl)
        real = slopes[-1] * first + real_kl
        hits.append([np.mean((low <= r) & (r <= high)) for (low, high), r in ((loss.T, real), (span.T, real_kl))])
    loss_share, kl_share = np.mean(hits, 0)
    assert kl_share == pytest.approx(LEVEL, abs=0.04)
    assert LEVEL - 0.03 <= loss_share <= 1.0  # that its two parts err at once is less likely than that one does


def test_what_is_predicted_lies_within() -> None:
    first, kl = np.array([-2.0, 0.0, 1.0]), np.array([0.0, 0.5, 1e-6])
    loss, span = MEASURED.intervals(first, kl)
    assert ((loss[:, 0] <= first + kl) & (first + kl <= loss[:, 1])).all()
    assert (span[:, 0] <= span[:, 1]).all()
    assert span[0].tolist() == [0.0, 0.0]
