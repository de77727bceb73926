"""Strategies that minimise one number of the kernel: bounds below it, pruning that changes nothing, and the pick."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from fakes import make_probe, make_rows, make_scorer, random_psd
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.advice import pool as candidates
from advisor.advice import recommend as module
from advisor.advice.budget import parse_budget
from advisor.advice.pool import candidate_pool
from advisor.advice.recommend import Recommendation, recommend
from advisor.advice.units import units_of
from advisor.cli import main as cli
from advisor.core.candidate import Candidate
from advisor.core.choices import CONDITION_NUMBER, OBJECTIVE, PREDICTED, SPECTRAL_RATIO, STRATEGIES
from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.scorer import Scorer
from advisor.theory.criteria import Criterion, Filled, fill_by, fills
from advisor.theory.kernels import Kernels

OURS = (OBJECTIVE, SPECTRAL_RATIO, CONDITION_NUMBER)
EXAMPLES = (10, 30)  # as many as the bounds' subspace has dimensions, or more
PROBE = make_probe(n=32, layers=3)
TARGETS = PROBE.targets


# --- by hand: the three numbers, from eigenvalues and inverses, nothing of advisor ----------------------------------------


def by_hand(strategy: str, kernel: np.ndarray, head: np.ndarray, z: np.ndarray, sigma: float) -> float:
    if strategy == OBJECTIVE:
        values, vectors = np.linalg.eigh(kernel)
        return float(((sigma / (np.clip(values, 0, None) + sigma))[:, None] * (vectors.T @ z) ** 2).sum())
    shifted = np.linalg.eigvalsh(kernel) + sigma
    if strategy == SPECTRAL_RATIO:
        return float(shifted[-1] / (np.linalg.eigvalsh(head)[-1] + sigma))
    return float(shifted[-1] / shifted[0])


class Family:
    """Random PSD blocks, grouped into units, with sizes, a budget, a target and a ridge."""

    def __init__(self, seed: int, modules: int = 9, n: int = 10) -> None:
        rng = np.random.default_rng(seed)
        blocks = random_psd(rng, modules, n, int(rng.integers(1, 5))) * 10.0 ** rng.uniform(-2, 2, (modules, 1, 1))
        for _ in range(int(rng.integers(0, 4))):
            blocks[rng.integers(modules)] = blocks[rng.integers(modules)]  # a tie
        blocks[rng.random(modules) < 0.15] = 0.0
        head = random_psd(rng, 1, n, 3)[0] * 10.0 ** rng.uniform(0, 2) if rng.random() < 0.7 else np.zeros((n, n))
        self.kernels = Kernels("adam", blocks, head)
        labels = np.arange(modules) if rng.random() < 0.5 else rng.integers(0, modules // 2, modules)
        self.units = np.array([labels == u for u in np.unique(labels)])
        self.sizes = rng.integers(1, 5, len(self.units)) * (1 + (rng.random() < 0.3) * 1000)
        self.ceiling = int(rng.uniform(0, 1.1) * self.sizes.sum())
        self.z = rng.normal(size=(n, int(rng.integers(1, 4))))
        self.sigma = 10.0 ** rng.uniform(-3, 0) * float(np.einsum("mii->", blocks) + 1) / n

    @property
    def parts(self) -> np.ndarray:
        return np.einsum("um,mij->uij", self.units.astype(float), self.kernels.blocks)

    def criterion(self, strategy: str = OBJECTIVE) -> Criterion:
        return Criterion.of(strategy, self.kernels, self.z, self.sigma)

    def fill(self, strategy: str, pruned: bool = True) -> Filled:
        return fill_by(self.criterion(strategy), self.kernels, self.units, self.sizes, self.ceiling, pruned=pruned)

    def value(self, mask: Any, strategy: str = OBJECTIVE) -> float:
        kernel = self.kernels.head + self.parts[np.asarray(mask, dtype=bool)].sum(0)
        return by_hand(strategy, kernel, self.kernels.head, self.z, self.sigma)


@given(st.integers(0, 10**9), st.sampled_from(OURS))
def test_values_are_the_numbers_named(seed: int, strategy: str) -> None:
    family = Family(seed)
    mask = np.random.default_rng(seed).random(len(family.sizes)) < 0.5
    kernel = family.kernels.head + family.parts[mask].sum(0)
    assert family.criterion(strategy).value(kernel) == pytest.approx(family.value(mask, strategy), rel=1e-7)


# --- pruning --------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(OURS), st.sampled_from(EXAMPLES))
def test_pruning_changes_nothing_and_never_costs_more(seed: int, strategy: str, n: int) -> None:
    """Ties, duplicates, zero blocks, units of several modules, no head, budgets of nothing and of everything."""
    family = Family(seed, n=n)
    pruned, whole = (family.fill(strategy, pruned) for pruned in (True, False))
    assert np.array_equal(pruned.mask, whole.mask)
    assert pruned.value == whole.value
    assert pruned.evaluations <= whole.evaluations
    assert family.sizes[pruned.mask].sum() <= family.ceiling
    assert fills(family.sizes, pruned.mask, family.ceiling)
    assert pruned.value == pytest.approx(family.value(pruned.mask, strategy), rel=1e-7)


@pytest.mark.parametrize("strategy", OURS)
def test_pruning_saves_evaluations(record_property: Any, strategy: str) -> None:
    """Over many families about a third or more."""
    counts = np.array([[Family(s, 16).fill(strategy, p).evaluations for p in (True, False)] for s in range(40)])
    record_property("share evaluated", float(counts[:, 0].sum() / counts[:, 1].sum()))
    assert counts[:, 0].sum() < 0.7 * counts[:, 1].sum()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9), st.floats(-6, 3), st.floats(-5, 5), st.sampled_from(OURS), st.sampled_from(EXAMPLES))
def test_lower_bounds_lie_below(seed: int, sigma: float, spread: float, strategy: str, n: int) -> None:
    """For any PSD K and S, also of condition up to some 1e10, small and large steps, several columns."""
    rng = np.random.default_rng(seed)
    family = Family(seed, n=n)
    kernel = family.kernels.head + family.parts[rng.random(len(family.sizes)) < 0.5].sum(0)
    parts = np.concatenate([family.parts, np.zeros((1, n, n)), 10.0**spread * family.parts[:3], kernel[None]])
    ridge = 10.0**sigma * max(np.trace(kernel), 1.0) / n
    criterion = Criterion(strategy, family.z, ridge, float(np.linalg.eigvalsh(kernel)[-1]))
    exact = np.array([by_hand(strategy, kernel + part, kernel, family.z, ridge) for part in parts])
    assert (criterion.lower_bounds(kernel, parts) <= exact).all()


def test_bounds_are_worth_having() -> None:
    """Each of V's two is the larger somewhere; all are exact where nothing is added, V's tangent nearly for little."""
    family = Family(1)
    criterion, kernel = family.criterion(), family.kernels.head
    start = criterion.value(kernel)
    assert criterion.lower_bounds(kernel, np.zeros((1, 10, 10)))[0] == pytest.approx(start)
    part = family.parts[np.argmax(np.trace(family.parts, axis1=1, axis2=2))]
    small, large = 1e-6 * part, 1e3 * part
    low = criterion.lower_bounds(kernel, np.stack([small, large]))
    gained = start - criterion.value(kernel + small)
    assert start - low[0] == pytest.approx(gained, rel=1e-3)
    assert 0 < low[1] <= criterion.value(kernel + large)
    for strategy in (SPECTRAL_RATIO, CONDITION_NUMBER):
        criterion = family.criterion(strategy)
        assert criterion.lower_bounds(kernel, np.zeros((1, 10, 10)))[0] == pytest.approx(criterion.value(kernel))
        assert (criterion.lower_bounds(kernel, family.parts) > criterion.value(kernel) * (1 - 1e-6)).any()


# --- greedy and exchanges -------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_the_objective_is_no_worse_than_any_single_unit_and_than_any_exchange(seed: int) -> None:
    family = Family(seed)
    found = family.fill(OBJECTIVE)
    tolerance = 1e-8 * family.value(np.zeros(len(family.sizes)))
    if family.sizes.min() == family.sizes.max():  # else one that fits alone may leave no room that was taken first
        for unit in np.flatnonzero(family.sizes <= family.ceiling):
            assert found.value <= family.value(np.arange(len(family.sizes)) == unit) + tolerance
    left = family.ceiling - family.sizes[found.mask].sum()
    for out, new in itertools.product(np.flatnonzero(found.mask), np.flatnonzero(~found.mask)):
        if family.sizes[new] <= left + family.sizes[out]:
            other = found.mask.copy()
            other[out], other[new] = False, True
            assert found.value <= family.value(other) + tolerance


def test_regret_against_exhaustive_search_is_small(record_property: Any) -> None:
    """Every selection of up to 9 units that the budget allows."""
    regrets = []
    for seed in range(40):
        family = Family(seed)
        masks = np.array(list(itertools.product((False, True), repeat=len(family.sizes))))
        allowed = masks[masks @ family.sizes <= family.ceiling]
        best = min(family.value(mask) for mask in allowed)
        found = family.fill(OBJECTIVE).value
        assert found >= best * (1 - 1e-9)
        regrets.append(found / best - 1)
    record_property("regret", (float(np.mean(regrets)), float(np.max(regrets))))
    assert np.mean(regrets) < 0.05
    assert np.median(regrets) < 1e-9


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_the_spectral_ratio_never_falls_when_modules_are_added(seed: int) -> None:
    """Its known flaw, and V's mirror image: left alone it would take nothing."""
    family = Family(seed)
    criterion = family.criterion(SPECTRAL_RATIO)
    kernel = family.kernels.head.copy()
    ratio, objective = criterion.value(kernel), family.criterion().value(kernel)
    assert ratio == pytest.approx(1.0)
    for part in family.parts:
        kernel = kernel + part
        now, then = criterion.value(kernel), family.criterion().value(kernel)
        assert now >= ratio * (1 - 1e-9)
        assert then <= objective * (1 + 1e-9)
        ratio, objective = now, then


def test_of_equals_the_first_is_taken_and_nothing_that_does_not_fit() -> None:
    block = np.diag([1.0, 0, 0])
    kernels = Kernels("adam", np.stack([block] * 3), np.zeros((3, 3)))
    criterion = Criterion.of(OBJECTIVE, kernels, np.ones((3, 1)), 0.5)
    units = np.eye(3, dtype=bool)
    for pruned in (True, False):
        assert fill_by(criterion, kernels, units, np.array([1, 1, 1]), 1, pruned=pruned).mask.tolist() == [True, False, False]
        assert fill_by(criterion, kernels, units, np.array([2, 1, 1]), 1, pruned=pruned).mask.tolist() == [False, True, False]
        nothing = fill_by(criterion, kernels, units, np.array([2, 2, 2]), 1, pruned=pruned)
        assert not nothing.mask.any()
        assert nothing.value == pytest.approx(3.0)
        assert nothing.evaluations == 0


def test_an_exchange_undoes_a_greedy_mistake() -> None:
    """One unit is best alone, two others together: greedy adds start with the wrong one."""
    z = np.array([[1.0], [1.0]])
    first = np.outer([1, 1], [1, 1]) * 0.8
    kernels = Kernels("adam", np.stack([first, np.diag([3.0, 0]), np.diag([0, 3.0])]), np.zeros((2, 2)))
    criterion = Criterion.of(OBJECTIVE, kernels, z, 0.3)
    values = [criterion.value(block) for block in kernels.blocks]
    assert min(values) == values[0]
    found = fill_by(criterion, kernels, np.eye(3, dtype=bool), np.ones(3, dtype=np.int64), 2)
    assert found.mask.tolist() == [False, True, True]


# --- the recommendation ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STABILITY_DRAWS", 2)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return make_scorer(PROBE)


def run(scorer: Scorer, budget: str, strategy: str, **options: Any) -> Recommendation:
    return recommend(scorer, parse_budget(budget), Session(), strategy=strategy, **options)


def value_of(scorer: Scorer, strategy: str, candidate: Candidate) -> float:
    """From the scorer's blocks, by hand."""
    chosen = np.isin([t.name for t in TARGETS], candidate.selection.targets)
    kernel = scorer.kernels.head + scorer.kernels.blocks[chosen].sum(0)
    return by_hand(strategy, kernel, scorer.kernels.head, scorer.probe.z, scorer.sigma)


def pool_of(scorer: Scorer, budget: str, strategy: str, granularity: str = "module") -> list[Candidate]:
    """What the budget allows of the candidates, without all-linear where that is above it."""
    parsed = parse_budget(budget)
    pool = candidate_pool(scorer, parsed, granularity, strategy, 0, Session())
    return [pool[i] for i in module._allowed(scorer, parsed, pool, [scorer.cost(c) for c in pool])]


@pytest.mark.parametrize("granularity", ["module", "role", "layer"])
@pytest.mark.parametrize("budget", ["40%", "5modules", "100%"])
@pytest.mark.parametrize("strategy", OURS)
def test_the_pick_has_the_lowest_criterion_of_what_is_allowed(
    scorer: Scorer, strategy: str, budget: str, granularity: str
) -> None:
    if granularity == "layer" and budget == "5modules":
        budget = "6modules"
    found = run(scorer, budget, strategy, granularity=granularity)
    parsed = parse_budget(budget)
    size = {t.name: s for t, s in zip(TARGETS, parsed.sizes(TARGETS, 8), strict=True)}
    ceiling = parsed.ceiling(TARGETS, 8)
    label = {"module": lambda t: t.name, "role": lambda t: t.role, "layer": lambda t: t.layer}[granularity]
    units = [{t.name for t in TARGETS if label(t) == u} for u in {label(t) for t in TARGETS}]

    def room(candidate: Candidate) -> bool:
        chosen = set(candidate.selection.targets)
        left = ceiling - sum(size[t] for t in chosen)
        return any(not unit & chosen and sum(size[t] for t in unit) <= left for unit in units)

    pool = pool_of(scorer, budget, strategy, granularity)
    rivals = [c for c in pool if strategy != SPECTRAL_RATIO or not room(c)]
    values = [value_of(scorer, strategy, c) for c in rivals]
    mine = value_of(scorer, strategy, found.picked.candidate)
    assert mine == pytest.approx(min(values), rel=1e-6)
    assert found.strategy == strategy
    assert sum(size[t] for t in found.picked.candidate.selection.targets) <= ceiling
    if strategy == SPECTRAL_RATIO:
        assert not room(found.picked.candidate)
        if granularity == "module":  # a smaller set has a lower ratio, and is passed over
            assert min(value_of(scorer, strategy, c) for c in pool) < mine
    if strategy == OBJECTIVE:
        units_matrix, sizes, top = units_of(scorer, parsed, granularity)
        criterion = Criterion.of(OBJECTIVE, scorer.kernels, PROBE.z, scorer.sigma)
        assert mine <= fill_by(criterion, scorer.kernels, units_matrix, sizes, top, pruned=False).value * (1 + 1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_memory_budget(scorer: Scorer, strategy: str) -> None:
    """It sets no ceiling on parameters, so that none but all-linear is full: what is part of nothing allowed counts."""

    def memory(indices: range) -> int:
        selection = Selection("s", tuple(TARGETS[i].name for i in indices))
        return scorer.cost(Candidate(selection, scorer.settings)).memory_bytes

    limit = (memory(range(18)) + memory(range(17, 18))) // 2
    budget = f"{limit / 1e6}MB"
    found = run(scorer, budget, strategy)
    assert found.picked.cost.memory_bytes <= limit
    if strategy == SPECTRAL_RATIO:
        mine = set(found.picked.candidate.selection.targets)
        assert not any(mine < set(c.selection.targets) for c in pool_of(scorer, budget, strategy))


def test_an_unknown_strategy_is_refused(scorer: Scorer) -> None:
    with pytest.raises(BadInput, match="--strategy magic: unknown") as caught:
        run(scorer, "40%", "magic")
    assert all(name in caught.value.hint for name in STRATEGIES)
    assert caught.value.exit_code == 2


def test_predicted_knows_nothing_of_bounds_and_criteria(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pick when they are out of reach; it is the default; and it differs from what the others pick."""
    for seed in range(2):
        scorer = make_scorer(make_probe(n=32, layers=3, seed=seed), make_rows(seed=seed))
        found = run(scorer, "35%", PREDICTED, seed=seed)
        with monkeypatch.context() as patch:
            for place, names in ((candidates, ("fill_by", "Criterion")), (module, ("fills", "Criterion", "_criterion"))):
                for name in names:
                    patch.setattr(place, name, None)
            again = recommend(scorer, parse_budget("35%"), Session(), seed=seed)
        assert again.picked == found.picked
        assert again.considered == found.considered
        assert again.stability == found.stability
        assert again.strategy == PREDICTED
        picks = {run(scorer, "35%", s, seed=seed).picked.candidate.selection.targets for s in (PREDICTED, *OURS)}
        assert len(picks) > 1


def test_stability_is_of_the_same_strategy(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    criterion = module._criterion
    monkeypatch.setattr(module, "_criterion", lambda s, strategy, c: asked.append(strategy) or criterion(s, strategy, c))
    found = run(scorer, "30%", OBJECTIVE)
    assert asked == [OBJECTIVE] * 3  # the pick, and two draws
    assert len(found.stability.kept) == len(found.picked.candidate.selection.targets)


@pytest.mark.parametrize("kernel", ["weight", "lora-expected"])
def test_the_scorers_kernel_and_sigma_count(kernel: str) -> None:
    """And a candidate of another rank has its blocks scaled."""
    scorer = make_scorer(PROBE, kernel=kernel, sigma=2.0)
    found = run(scorer, "40%", OBJECTIVE)
    values = [value_of(scorer, OBJECTIVE, c) for c in pool_of(scorer, "40%", OBJECTIVE)]
    assert value_of(scorer, OBJECTIVE, found.picked.candidate) == pytest.approx(min(values), rel=1e-6)
    one = Candidate(Selection("one", (TARGETS[0].name,)), LoraSettings(8, 16))
    louder = Candidate(one.selection, LoraSettings(8, 64))
    assert int(np.argmin(module._criterion(scorer, OBJECTIVE, [one, louder]))) == (kernel == "lora-expected")


def test_a_causal_language_model_has_no_head_to_divide_by() -> None:
    scorer = make_scorer(make_probe("causal-lm", n=32, layers=2))
    for strategy in OURS:
        assert run(scorer, "30%", strategy).picked.candidate.selection.targets


# --- the command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_refuses_and_explains(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2 before anything is loaded; the help names every strategy and what is wrong with it."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["advisor", "recommend", "nowhere", "--data", "nothing", "--strategy", "magic"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Error: --strategy magic: unknown. Use one of predicted, objective, spectral-ratio, condition-number." in said
    monkeypatch.setattr("sys.argv", ["advisor", "recommend", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (*STRATEGIES, "never falls when modules are added", "weak modules win", "σ decides much", "whole budget"):
        assert words in shown
