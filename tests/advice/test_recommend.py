"""The pick: within budget, of whole units, never told apart from the best, the same for the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import candidate, make_probe, make_rows, make_scorer

from advisor.advice import recommend as module
from advisor.advice.budget import parse_budget
from advisor.advice.peer_picks import module_picks, peer_picks
from advisor.advice.recommend import Recommendation, compare, module_shares, pick, recommend
from advisor.core.candidate import Candidate
from advisor.core.errors import BudgetTooSmall, Interrupted
from advisor.core.events import Event, Note, Progress, Session
from advisor.core.selections import structured_random, target_sets
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.predictions import Estimate, Predictions
from advisor.prediction.scorer import Scorer

PROBE = make_probe(n=32, layers=3)
TARGETS = PROBE.targets
TOTAL = sum(t.lora_params(8) for t in TARGETS)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STABILITY_DRAWS", 3)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return make_scorer(PROBE)


def run(scorer: Scorer, budget: str, **options: Any) -> Recommendation:
    return recommend(scorer, parse_budget(budget), Session(), **options)


def memory_of(scorer: Scorer, indices: Any) -> int:
    return scorer.cost(candidate(PROBE, indices)).memory_bytes


@pytest.mark.parametrize("granularity", ["module", "role", "layer"])
@pytest.mark.parametrize("budget", ["40%", "100%", "9k", "8modules", "memory"])
def test_pick_is_within_budget_and_of_whole_units(scorer: Scorer, budget: str, granularity: str) -> None:
    memory = 0
    if budget == "memory":
        memory = (memory_of(scorer, range(18)) + memory_of(scorer, [17])) // 2
        budget = f"{memory / 1e6}MB"
    found = run(scorer, budget, granularity=granularity)
    chosen = found.picked.candidate.selection.targets
    params = found.picked.candidate.selection.params(TARGETS, 8)
    assert chosen
    assert params == found.picked.cost.params
    limits = {"40%": 0.4 * TOTAL, "100%": TOTAL, "9k": 9000, "8modules": TOTAL}
    if memory:
        assert found.picked.cost.memory_bytes <= memory
    else:
        assert params <= limits[budget]
    if budget == "8modules":
        assert len(chosen) <= 8
    label = {"module": lambda t: t.name, "role": lambda t: t.role, "layer": lambda t: t.layer}[granularity]
    units = {label(t) for t in TARGETS if t.name in chosen}
    assert {t.name for t in TARGETS if label(t) in units} == set(chosen)


def test_the_same_seed_gives_the_same_answer(scorer: Scorer) -> None:
    a, b = run(scorer, "30%", seed=4), run(make_scorer(PROBE), "30%", seed=4)
    for name in ("picked", "best", "stability", "considered", "untold", "alike"):
        assert getattr(a, name) == getattr(b, name), name
    assert list(a.front) == list(b.front)
    assert list(a.equal_budget) == list(b.equal_budget)


def test_pick_is_never_told_apart_from_the_best_and_never_dearer() -> None:
    for seed in range(4):
        scorer = make_scorer(make_probe(n=32, layers=3, seed=seed), make_rows(seed=seed))
        found = run(scorer, "35%", seed=seed)
        pair = scorer.predict([found.picked.candidate, found.best.candidate])
        assert not pair.distinguishable(0, 1)
        assert pair.deviation[1] <= pair.deviation[0] + 1e-12
        assert pair.deviation[0] - pair.deviation[1] <= 2 * pair.seed_sd + 1e-12
        assert found.picked.cost.params <= found.best.cost.params


def test_the_rule_of_the_pick() -> None:
    """The cheapest that is neither told apart from the best nor expected to be a third of a seed deviation worse."""
    none = Estimate(*(np.zeros(5),) * 3)

    def predictions(spread: float) -> Predictions:
        deviation = np.array([0.0, 0.01, 0.015, 0.05, 0.005])
        covariance = np.diag([0.0, spread, 1e-8, 1.0, spread]) ** 2
        return Predictions(none, none, none, deviation, covariance, 0.0315, ())

    params = np.array([100, 40, 10, 5, 60])
    # 2 is close but surely worse; 3 cannot be told apart but is over two seed deviations off; 1 is the cheapest left
    assert pick(predictions(0.1), params, range(5)) == (1, 0)
    assert pick(predictions(1e-8), params, range(5)) == (0, 0)
    assert pick(predictions(0.1), params, [2, 3, 4]) == (2, 4)  # the best of these is itself unsure
    assert pick(predictions(0.1), np.full(5, 7), range(5)) == (0, 0)


def test_best_beats_random_selections_and_recipes_of_the_budget(scorer: Scorer) -> None:
    found = run(scorer, "30%")
    rng = np.random.default_rng(1)
    budget = int(0.3 * TOTAL)
    others = [structured_random(TARGETS, budget, 8, rng, "r") for _ in range(40)]
    others += [s for s in target_sets(TARGETS, ("query", "value")) if s.params(TARGETS, 8) <= budget]
    deviations = scorer.predict([found.best.candidate, *(Candidate(s, scorer.settings) for s in others)]).deviation
    assert deviations[0] <= deviations[1:].min() + 1e-12


def test_a_clear_signal_is_found() -> None:
    """Two modules carry the labels, the rest is noise: with sure predictions and room for two, they are picked."""
    probe = make_probe(n=40, layers=2, seed=3)
    rng = np.random.default_rng(0)
    weight = np.stack([f @ f.T for f in rng.normal(size=(12, 40, 8))]).astype(np.float32)
    signal = (probe.y @ probe.y.T).astype(np.float32)
    for m in (2, 9):
        weight[m] = 0.05 * weight[m] + 8 * signal
    slopes = np.outer(probe.z[:, 0], probe.z[:, 0]).astype(np.float32)
    from fakes import with_blocks

    probe = with_blocks(probe, weight_blocks=weight, gradient_blocks=weight * slopes)
    rows = make_rows(6, 30, noise=0.001, misfit=0.001)
    found = run(make_scorer(probe, rows), "2modules")
    assert set(found.best.candidate.selection.targets) & {probe.targets[m].name for m in (2, 9)}


def test_front_is_not_beaten_and_all_linear_is_the_reference(scorer: Scorer) -> None:
    found = run(scorer, "50%")
    params = [s.cost.params for s in found.front]
    assert params == sorted(set(params))
    assert (np.diff(found.front.predictions.deviation) < 0).all()
    assert found.all_linear.candidate.selection.targets == tuple(t.name for t in TARGETS)
    assert found.all_linear.relative[0] == pytest.approx(0, abs=1e-9)


def test_recipes_at_equal_budget_have_their_rank_lowered(scorer: Scorer) -> None:
    found = run(scorer, "20%")
    assert found.equal_budget[0].name == found.picked.name
    for score in found.equal_budget:
        assert score.cost.params <= 0.2 * TOTAL
        own = score.candidate.settings
        assert own.alpha / own.rank == pytest.approx(16 / 8)
    lowered = {s.name: s for s in found.equal_budget}
    assert "all-linear, r=1" in lowered
    assert lowered["all-linear, r=1"].candidate.settings == LoraSettings(1, 2.0)


def test_rank_is_lowered_as_little_as_possible_and_rslora_keeps_its_scale() -> None:
    scorer = make_scorer(PROBE, settings=LoraSettings(8, 16, True))
    scores, index = compare(scorer, parse_budget("40%"))
    assert index is None
    for score in scores:
        own = score.candidate.settings
        assert own.scale == pytest.approx(16 / np.sqrt(8))
        selection = score.candidate.selection
        assert own.rank == 8 or selection.params(TARGETS, own.rank + 1) > int(0.4 * TOTAL)


def test_baseline_is_in_the_tables_as_it_is(scorer: Scorer) -> None:
    own = Candidate(Selection("your config", tuple(t.name for t in TARGETS)), LoraSettings(16, 32))
    found = run(scorer, "20%", baseline=own)
    assert found.baseline == 1
    assert found.equal_budget[1].candidate == own
    assert found.equal_budget[1].cost.params == 2 * TOTAL
    scores, index = compare(scorer, parse_budget("20%"), own)
    assert index == 0
    assert scores[0].name == "your config"


@pytest.mark.parametrize("granularity", ["module", "role", "layer"])
@pytest.mark.parametrize("budget", ["40%", "100%", "8modules", "1GB"])
def test_modules_that_no_gradient_reaches_are_not_picked(budget: str, granularity: str) -> None:
    idle = [1, 7, 14, 15, 16, 17]
    weight, gradient = PROBE.weight_blocks.copy(), PROBE.gradient_blocks.copy()
    weight[idle] = gradient[idle] = 0
    scorer = make_scorer(replace(PROBE, weight_blocks=weight, gradient_blocks=gradient))
    names = {TARGETS[i].name for i in idle}
    own = Candidate(Selection("your config", tuple(t.name for t in TARGETS)), LoraSettings())
    said: list[str] = []
    session = Session(lambda event: said.append(event.text) if isinstance(event, Note) else None)
    found = recommend(scorer, parse_budget(budget), session, granularity=granularity, baseline=own)
    peers = [pick.candidate for pick in peer_picks(scorer, parse_budget(budget), granularity=granularity) if pick.candidate]
    assert len(peers) > 3
    for made in [found.picked.candidate, *(found.pool[i] for i in found.finalists), *peers]:
        assert made.selection.targets
        assert not names & set(made.selection.targets)
    assert found.all_linear.cost.params == found.equal_budget[1].cost.params == TOTAL  # as PEFT counts them
    assert found.all_linear.vs_all == pytest.approx((0, 0, 0), abs=1e-9)
    assert any("Left out: 6 modules that no gradient reaches" in text and TARGETS[1].name in text for text in said)


def test_memory_budget_also_holds_in_the_comparison(scorer: Scorer) -> None:
    memory = (memory_of(scorer, range(18)) + memory_of(scorer, [17])) // 2
    found = run(scorer, f"{memory / 1e6}MB")
    assert all(s.cost.memory_bytes <= memory for s in found.equal_budget)
    assert memory_of(scorer, range(18)) > memory


@pytest.mark.parametrize(
    ("budget", "granularity"),
    [("100", "module"), ("0.1%", "module"), ("3modules", "layer"), ("2modules", "role"), ("1MB", "module")],
)
def test_too_small_a_budget(scorer: Scorer, budget: str, granularity: str) -> None:
    with pytest.raises(BudgetTooSmall) as caught:
        run(scorer, budget, granularity=granularity)
    assert budget in caught.value.what
    assert caught.value.exit_code == 3
    if told := re.search(r"the least needs about (\d+ MB)", caught.value.what):
        assert run(scorer, told[1], granularity=granularity).picked.cost.params > 0
    assert bool(told) == (budget == "1MB")


def test_stability_is_a_share_of_draws_for_each_module(scorer: Scorer) -> None:
    found = run(scorer, "30%")
    assert found.stability.draws == 3
    assert len(found.stability.kept) == len(found.picked.candidate.selection.targets)
    assert all(round(3 * k, 9) in (0, 1, 2, 3) for k in found.stability.kept)
    assert found.stability.mean == pytest.approx(np.mean(found.stability.kept))


def test_cancelling_stops(scorer: Scorer) -> None:
    session = Session()

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "Search" and event.done == 1:
            session.cancel.set()

    session.emit = stop
    with pytest.raises(Interrupted):
        recommend(scorer, parse_budget("30%"), session)


def test_a_causal_language_model() -> None:
    scorer = make_scorer(make_probe("causal-lm", n=32, layers=2))
    found = run(scorer, "30%")
    assert found.picked.candidate.selection.targets
    assert np.isfinite(found.picked.loss).all()


def test_shares_add_up_to_one(scorer: Scorer) -> None:
    shares = module_shares(scorer, [t.name for t in TARGETS])
    assert sum(shares.values()) == pytest.approx(1.0)
    traces = {t.name: np.trace(block) for t, block in zip(TARGETS, scorer.kernels.blocks, strict=True)}
    largest = max(traces, key=traces.__getitem__)
    assert max(shares, key=shares.__getitem__) == largest


@pytest.mark.parametrize("budget", ["10%", "25%", "3modules"])
def test_no_other_method_is_predicted_better_than_the_best_found(budget: str) -> None:
    """The search starts from what other methods pick too, and only climbs from there; nor is any single swap better."""
    for seed in range(3):
        scorer = make_scorer(make_probe(seed=seed, layers=4), make_rows(seed=seed))
        found = recommend(scorer, parse_budget(budget), Session(), seed=seed)
        best = found.best.candidate
        rivals = module_picks(scorer, parse_budget(budget), "module")
        deviations = scorer.predict([best, *rivals]).deviation
        assert len(rivals) >= 2
        assert deviations[0] <= deviations[1:].min() + 1e-9
