"""From a scorer and a budget to a recommendation: candidates, the pick, what it rests on (no torch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from advisor.advice.budget import Budget
from advisor.advice.gentle import gentle, trade_off
from advisor.advice.pool import candidate_pool
from advisor.advice.units import units_of
from advisor.core.candidate import Candidate
from advisor.core.choices import ALIKE, APART, PREDICTED, SPECTRAL_RATIO, STRATEGIES
from advisor.core.errors import BudgetTooSmall, check_choice
from advisor.core.events import Session, Stage
from advisor.core.selections import target_sets
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.predictions import Predictions
from advisor.prediction.probe_view import subsample
from advisor.prediction.scorer import Score, Scorer, Scores
from advisor.theory.criteria import Criterion, fills
from advisor.theory.surrogate import pareto
from advisor.theory.training_cost import Cost

STABILITY_DRAWS = 20
FINALISTS = 48
STABLE = 0.6
GIVEN_UP = 1 / 3  # seed standard deviations of log loss that a cheaper pick may be expected to lose


@dataclass(frozen=True)
class Stability:
    """How often each module of the pick stays picked when the finalists are scored on subsamples of the examples.

    ``kept`` is aligned with the pick's targets.
    """

    kept: tuple[float, ...]
    draws: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.kept)) if self.kept else 1.0


@dataclass(frozen=True)
class Recommendation:
    """What is recommended and everything shown with it.

    Attributes:
        all_linear, picked, best: adapting every module, the pick, and the one predicted best within the budget.
        front: the Pareto front, cheapest first.
        equal_budget: the pick, then the user's baseline, then the common target sets, rank lowered until they fit.
        baseline: index of the user's own config in ``equal_budget``, None if there is none.
        untold: how many of ``equal_budget`` after the pick cannot be told from it; alike: how many of these are known to end
            within ``ALIKE_WITHIN`` of its loss.
        pool: all candidates that were scored, all-linear first. costs: of each.
        finalists: indices in ``pool`` of the pick, and of what the strategy ranks first within the budget.
        max_forgetting: the most by which they may disturb the rows to keep, see
            :attr:`advisor.prediction.disturbance.Disturbance.size`; None: any.
        trade_off: the front of what is disturbed against the predicted loss within the budget, gentlest first; None without rows
            to keep.
    """

    all_linear: Score
    picked: Score
    best: Score
    front: Scores
    equal_budget: Scores
    baseline: int | None
    untold: int
    alike: int
    stability: Stability
    pool: tuple[Candidate, ...]
    costs: tuple[Cost, ...]
    finalists: tuple[int, ...]
    budget: Budget
    granularity: str
    strategy: str
    max_forgetting: float | None = None
    trade_off: Scores | None = None

    @property
    def considered(self) -> int:
        """How many candidates were scored."""
        return len(self.pool)


def recommend(
    scorer: Scorer,
    budget: Budget,
    session: Session,
    *,
    granularity: str = "module",
    strategy: str = PREDICTED,
    baseline: Candidate | None = None,
    seed: int = 0,
    spread: Callable[[Candidate], Candidate] | None = None,
    max_forgetting: float | None = None,
) -> Recommendation:
    """Search, score, pick, and say how stable that is.

    Args:
        max_forgetting: the most by which the pick may disturb the probe's rows to keep: their loss, nats per token, or drift.
        spread: gives the modules of what the search found ranks of their own, see :func:`advisor.advice.ranks.auto_ranks`.
        strategy: ``predicted`` picks the cheapest candidate as good as the one predicted best, the others of
            ``STRATEGIES`` the lowest of their own criterion.

    Raises:
        BadInput: unknown strategy.
        BudgetTooSmall: nothing fits.
        Interrupted: cancelled.
    """
    check_choice("--strategy", strategy, tuple(STRATEGIES))
    pool = candidate_pool(scorer, budget, granularity, strategy, seed, session)
    if spread is not None:
        pool = [spread(candidate) for candidate in pool]
    predictions = scorer.predict(pool)
    costs = [scorer.cost(candidate) for candidate in pool]
    finalists, best = choose(scorer, pool, costs, predictions, budget, granularity, strategy, max_forgetting)
    return _advice(
        scorer,
        scorer,
        pool,
        costs,
        predictions,
        finalists,
        best,
        session,
        budget=budget,
        granularity=granularity,
        strategy=strategy,
        baseline=baseline,
        seed=seed,
        max_forgetting=max_forgetting,
    )


def choose(
    scorer: Scorer,
    pool: Sequence[Candidate],
    costs: Sequence[Cost],
    predictions: Predictions,
    budget: Budget,
    granularity: str,
    strategy: str,
    max_forgetting: float | None = None,
) -> tuple[tuple[int, ...], int]:
    """Indices in ``pool``: the pick followed by what the strategy ranks first within the budget; the one predicted best.

    Raises:
        BudgetTooSmall: nothing fits, or all disturb the rows to keep too much.
    """
    params = np.array([cost.params for cost in costs])
    allowed = _allowed(scorer, budget, pool, costs)
    if max_forgetting is not None:
        allowed = gentle(scorer, pool, allowed, max_forgetting)
    picked, best = pick(predictions, params, allowed)
    ranked = sorted(allowed, key=lambda i: predictions.deviation[i])
    if strategy != PREDICTED:
        if strategy == SPECTRAL_RATIO:
            ranked = _filling(scorer, budget, granularity, pool, allowed)
        values = _criterion(scorer, strategy, [pool[i] for i in ranked])
        ranked = [ranked[k] for k in np.argsort(values, kind="stable")]
        picked = ranked[0]
    return (picked, *(i for i in ranked[:FINALISTS] if i != picked)), best


def reconsider(
    rec: Recommendation, scorer: Scorer, decider: Scorer, finalists: Sequence[int], seed: int, session: Session
) -> Recommendation:
    """The same recommendation with another pick: the first of ``finalists``, which ``decider`` chose among them.

    Args:
        scorer: what everything shown is predicted by; ``decider`` may be at another recipe.
        finalists: indices in the recommendation's pool.

    Raises:
        BudgetTooSmall: none of the common target sets fits, and there is no baseline.
        Interrupted: cancelled.
    """
    predictions = scorer.predict(rec.pool)
    best = min(finalists, key=lambda i: predictions.deviation[i])
    own = None if rec.baseline is None else rec.equal_budget[rec.baseline].candidate
    return _advice(
        scorer,
        decider,
        rec.pool,
        rec.costs,
        predictions,
        finalists,
        best,
        session,
        budget=rec.budget,
        granularity=rec.granularity,
        strategy=rec.strategy,
        baseline=own,
        seed=seed,
        max_forgetting=rec.max_forgetting,
    )


def _advice(
    scorer: Scorer,
    decider: Scorer,
    pool: Sequence[Candidate],
    costs: Sequence[Cost],
    predictions: Predictions,
    finalists: Sequence[int],
    best: int,
    session: Session,
    *,
    budget: Budget,
    granularity: str,
    strategy: str,
    baseline: Candidate | None,
    seed: int,
    max_forgetting: float | None,
) -> Recommendation:
    """Everything said of the pick, the first of ``finalists``, see :func:`recommend` and :func:`reconsider`."""
    candidates = [pool[i] for i in finalists]
    params = np.array([cost.params for cost in costs])
    front = pareto(params, -predictions.deviation)
    all_linear, picked, best_score = scorer.score([pool[0], candidates[0], pool[best]])
    equal, baseline_index = _equal_budget(scorer, budget, baseline, candidates[0])
    beside = [equal.predictions.beside(i, 0) for i in range(1, len(equal))]
    session.check()
    return Recommendation(
        all_linear=all_linear,
        picked=picked,
        best=best_score,
        front=scorer.score([pool[i] for i in front]),
        equal_budget=equal,
        baseline=baseline_index,
        untold=sum(found != APART for found in beside),
        alike=beside.count(ALIKE),
        stability=_stability(decider, strategy, candidates, params[list(finalists)], seed, session),
        pool=tuple(pool),
        costs=tuple(costs),
        finalists=tuple(finalists),
        budget=budget,
        granularity=granularity,
        strategy=strategy,
        max_forgetting=max_forgetting,
        trade_off=trade_off(scorer, pool, _allowed(scorer, budget, pool, costs), predictions),
    )


def pick(predictions: Predictions, params: NDArray[np.int64], allowed: Sequence[int]) -> tuple[int, int]:
    """The cheapest of ``allowed`` that is as good as the one predicted best, and that one.

    As good: not distinguishable from it, and predicted to lie within a third of a seed standard deviation, so that wide
    intervals alone never talk anyone into a selection that is expected to be worse.
    """
    best = min(allowed, key=lambda i: predictions.deviation[i])
    close = predictions.deviation - predictions.deviation[best] <= GIVEN_UP * predictions.seed_sd
    alike = [i for i in allowed if close[i] and not predictions.distinguishable(i, best)]
    return min(alike, key=lambda i: (params[i], predictions.deviation[i])), best


def _criterion(scorer: Scorer, strategy: str, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """The strategy's criterion of each candidate's kernel, in the scorer's kind; the lowest is picked."""
    criterion = Criterion.of(strategy, scorer.kernels, scorer.probe.z, scorer.sigma)
    kernels = (scorer.kernels.of(scorer.block_weights([candidate], scorer.kernels.kind))[0] for candidate in candidates)
    return np.array([criterion.value(kernel) for kernel in kernels])


def _filling(scorer: Scorer, budget: Budget, granularity: str, pool: Sequence[Candidate], allowed: Sequence[int]) -> list[int]:
    """Those of ``allowed`` beside which nothing more fits; where the ceiling does not say, as for memory, those that are
    part of no other."""
    full = [i for i in allowed if _is_full(scorer, pool[i], budget, granularity)]
    taken = {i: set(pool[i].selection.targets) for i in allowed}
    return full or [i for i in allowed if not any(taken[i] < other for other in taken.values())]


def _is_full(scorer: Scorer, candidate: Candidate, budget: Budget, granularity: str) -> bool:
    """Whether no further unit fits into the budget beside the candidate."""
    units, sizes, ceiling = units_of(scorer, budget, granularity)
    taken = np.isin([t.name for t in scorer.probe.targets], candidate.selection.targets)
    return fills(sizes, np.asarray((units & taken).any(1)), ceiling)


def compare(scorer: Scorer, budget: Budget, baseline: Candidate | None = None) -> tuple[Scores, int | None]:
    """The common target sets at equal budget, see :class:`Recommendation`; and the index of the baseline.

    Raises:
        BudgetTooSmall: none fits, and there is no baseline.
    """
    return _equal_budget(scorer, budget, baseline, None)


def _allowed(scorer: Scorer, budget: Budget, pool: Sequence[Candidate], costs: Sequence[Cost]) -> list[int]:
    """Indices of what can be picked: within the budget, and of modules that learn alone."""
    targets, rank = scorer.probe.targets, scorer.settings.rank
    learning = {t.name for t in scorer.probe.learning}
    allowed = [
        i
        for i, (candidate, cost) in enumerate(zip(pool, costs, strict=True))
        if learning.issuperset(candidate.selection.targets)
        and budget.allows(cost, len(candidate.selection.targets), targets, rank)
    ]
    if not allowed:
        least = math.ceil(min(cost.memory_bytes for cost in costs) / 1e6)
        raise BudgetTooSmall(
            f"No selection trains within {budget.text}; the least needs about {least:,} MB.",
            "Raise --budget, or lower --batch-size or --max-length.",
        )
    return allowed


def _equal_budget(
    scorer: Scorer, budget: Budget, baseline: Candidate | None, pick: Candidate | None
) -> tuple[Scores, int | None]:
    """The pick (if given), the baseline as it is, and each target set with its rank lowered until it fits the budget."""
    settings = scorer.settings
    candidates = [] if pick is None else [pick]
    index = None
    if baseline is not None:
        index = len(candidates)
        candidates.append(baseline)
    for selection in target_sets(scorer.probe.targets, scorer.probe.info["qv_roles"]):
        lower = _fitting_rank(selection, scorer, budget)
        if lower is None or (pick is not None and Candidate(selection, lower).trained_like(pick)):
            continue
        name = selection.name if lower == settings else f"{selection.name}, r={lower.rank}"
        candidates.append(Candidate(replace(selection, name=name), lower))
    if not candidates:
        raise BudgetTooSmall(f"None of the common target sets fits into {budget.text}, even at rank 1.", "Raise --budget.")
    return scorer.score(candidates), index


def _fitting_rank(selection: Selection, scorer: Scorer, budget: Budget) -> LoraSettings | None:
    """The highest rank up to the asked one that fits; alpha follows, so that the scale stays. None: not even rank 1."""
    settings, targets = scorer.settings, scorer.probe.targets
    ceiling = budget.params(targets, settings.rank)
    for rank in range(settings.rank, 0, -1):
        if selection.params(targets, rank) > ceiling:
            continue
        lower = settings.at_rank(rank)
        if budget.kind != "memory" or scorer.cost(Candidate(selection, lower)).memory_bytes <= budget.amount:
            return lower
    return None


def _stability(
    scorer: Scorer,
    strategy: str,
    finalists: Sequence[Candidate],
    params: NDArray[np.int64],
    seed: int,
    session: Session,
) -> Stability:
    """Pick among the finalists (the pick first) again on random halves of the probe examples, from the stored blocks.

    A half drawn without replacement varies about the whole sample as much as the sample varies about the data.
    """
    rng = np.random.default_rng(seed)
    n = scorer.probe.samples
    stage = Stage(session, "Stability (subsamples)", STABILITY_DRAWS)
    names = finalists[0].selection.targets
    kept = np.zeros(len(names))
    for _ in range(STABILITY_DRAWS):
        session.check()
        keep = np.sort(rng.choice(n, size=n // 2, replace=False))
        smaller = scorer.on(subsample(scorer.probe, keep))
        if strategy == PREDICTED:
            again, _ = pick(smaller.predict(finalists), params, range(len(finalists)))
        else:
            again = int(np.argmin(_criterion(smaller, strategy, finalists)))
        kept += np.isin(names, finalists[again].selection.targets)
        stage.advance()
    return Stability(tuple(float(k) for k in kept / STABILITY_DRAWS), STABILITY_DRAWS)


def module_shares(scorer: Scorer, names: Sequence[str]) -> dict[str, float]:
    """Each module's share of the trace of the scorer's kernel over all modules (head excluded)."""
    traces = np.einsum("mii->m", scorer.kernels.blocks)
    total = float(traces.sum()) or 1.0
    by_name = {t.name: float(v) / total for t, v in zip(scorer.probe.targets, traces, strict=True)}
    return {name: by_name[name] for name in names}
