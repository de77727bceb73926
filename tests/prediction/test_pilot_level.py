"""What random sets lose in a pilot run, and what it says of all small sets of a language model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import distances, fit, make_probe, make_rows, make_scorer, traits

from advisor.core.candidate import Candidate, RealRun
from advisor.core.selections import all_linear
from advisor.prediction import pilot_level
from advisor.prediction.likeness import error_correlations


def test_the_sets_are_the_same_at_every_call_and_of_their_size() -> None:
    probe = make_probe(n=24, layers=4)
    sets = pilot_level.level_sets(probe.targets, "causal-lm", 8)
    assert sets == pilot_level.level_sets(probe.targets, "causal-lm", 8)
    assert [s.targets for s in sets] == [s.targets for s in pilot_level.level_sets(probe.targets, "causal-lm", 4)]
    assert len({s.targets for s in sets}) == len(sets) > 3
    whole = all_linear(probe.targets).params(probe.targets, 8)
    for each in sets:
        assert 0.05 * whole < each.params(probe.targets, 8) <= pilot_level.SHARE * whole
    assert pilot_level.level_sets(probe.targets, "classification", 8) == []


def test_the_level_is_a_mean_share_of_the_gain() -> None:
    context = make_rows(1, task="causal-lm", metric="token_accuracy")[0].context
    everything = context["log_start"] - 0.5
    losses = everything + 0.5 * np.array([0.2, 0.6, 0.7])
    assert pilot_level.level_of(context, losses, everything) == pytest.approx(0.5)
    assert pilot_level.level_of(context, losses + 9, everything) == 2.0  # a share is limited
    assert math.isfinite(pilot_level.level_of(context, losses, context["log_start"]))


def test_what_is_left_of_the_misfit_is_half_of_its_common_variance() -> None:
    apart = np.array([[0.0, 0.5, 0.8], [0.5, 0.0, 0.8], [0.8, 0.8, 0.0]])
    misfit, common = pilot_level.narrowed(0.2, 0.7)
    before, own = (0.2**2 * error_correlations(apart, 0.7), 0.2**2 * 0.3 * error_correlations(apart, 0.0))
    after = misfit**2 * error_correlations(apart, common)
    np.testing.assert_allclose(after, own + pilot_level.LEFT * (before - own), atol=1e-12)
    assert pilot_level.narrowed(0.2, 0.0) == (0.2, 0.0)


def test_a_level_moves_small_sets_together_and_narrows_them() -> None:
    predictor = fit(make_rows(6, 12, task="causal-lm", metric="token_accuracy"), "causal-lm")
    predictor.common_ = 0.7
    context, apart = predictor.groups_[0].context, distances(3)
    apart[-1, :3] = apart[:3, -1] = [0.9, 0.9, 0.0]
    shown = traits([0.1, 0.2, 0.0])
    run = [2], [math.exp(context["log_start"] - 0.4)]
    usual, more = (predictor.given(shown, context, apart, *run, None, level) for level in (pilot_level.USUAL, 0.9))
    blind = predictor.given(shown, context, apart, *run)
    np.testing.assert_allclose(usual.deviation, blind.deviation, rtol=0.1, atol=0.01)
    moved = more.deviation - usual.deviation
    assert moved[0] == pytest.approx(moved[1])
    assert moved[0] > 0.05
    assert moved[2] == pytest.approx(0.0, abs=1e-9)
    for known in (usual, more):
        assert (np.log(known.loss.high / known.loss.low)[:2] < 0.95 * np.log(blind.loss.high / blind.loss.low)[:2]).all()


def test_a_scorer_reads_the_level_off_the_pilot_run() -> None:
    scorer = make_scorer(make_probe(n=24, layers=4, task="causal-lm"))
    everything = Candidate(all_linear(scorer.probe.targets), scorer.settings)
    sets = pilot_level.level_sets(scorer.probe.targets, scorer.probe.task, 8)
    best = math.exp(scorer.context["log_start"] - 0.5)
    pilot = RealRun(everything, best, 0.5, 1.0, {everything.selection.targets: best, (): 9 * best})
    assert scorer.given([pilot]).pilot_level is None
    share = {s.targets: best * math.exp(0.5 * 0.8) for s in sets}
    given = scorer.given([replace(pilot, switched={**pilot.switched, **share})])
    assert given.pilot_level == pytest.approx(0.8)
    assert given.on(scorer.probe).pilot_level == pytest.approx(0.8)
    assert given.at(scorer.recipe).pilot_level is None
