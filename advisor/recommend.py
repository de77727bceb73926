"""From a scorer and a budget to a recommendation: candidates, the pick, what it rests on (no torch, no transformers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from advisor.budget import Budget
from advisor.errors import BudgetTooSmall
from advisor.events import Session, Stage
from advisor.scoring import Candidate, Score, Scorer, Scores, subsample
from advisor.search import Mask, Surrogate, fill_budget, pareto, unit_matrix
from advisor.selections import all_linear, distinct, recipes, structured_random
from advisor.targets import LoraSettings, Selection

GRANULARITIES = ("module", "role", "layer")
LEVELS = (1.0, 0.5, 0.25, 0.12)  # shares of the budget that candidates are sought at
RANDOM_CANDIDATES = 6  # structured-random starts a level
ROUNDS, NEIGHBOURS = 4, 24  # local search with the regressor
STABILITY_DRAWS, STABILITY_SHARE = 20, 0.8
STABLE = 0.7


@dataclass(frozen=True)
class Stability:
    """Over subsamples of the probe examples: how often each module of the pick stays picked, and their mean.

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
        scores: every candidate considered, the reference all-linear first. pick: index into it.
        best: index of the one predicted best within the budget. front: indices on the Pareto front, cheapest first.
        equal_budget: the usual recipes (and the user's baseline) at most at the budget, rank lowered where needed.
        baseline: index into ``equal_budget`` of the user's own config, None if there is none.
        alike: how many recipes in ``equal_budget`` cannot be told from the pick.
    """

    scores: Scores
    pick: int
    best: int
    front: tuple[int, ...]
    equal_budget: Scores
    baseline: int | None
    alike: int
    stability: Stability
    budget: Budget
    granularity: str

    @property
    def picked(self) -> Score:
        return self.scores.scores[self.pick]

    @property
    def all_linear(self) -> Score:
        return self.scores.scores[0]


def recommend(
    scorer: Scorer, budget: Budget, session: Session, *, granularity: str = "module", baseline: Candidate | None = None,
    seed: int = 0,
) -> Recommendation:
    """Search, score, pick the cheapest candidate not distinguishable from the best, and say how stable that is.

    Raises:
        BudgetTooSmall: nothing fits.
        Interrupted: cancelled.
    """
    pool = _pool(scorer, budget, granularity, seed, session)
    scores = scorer.score(pool)
    allowed = _allowed(scorer, budget, scores)
    pick = scores.pick(allowed)
    best = min(allowed, key=lambda i: scores.predictions.deviation[i])
    equal, baseline_index = _equal_budget(scorer, budget, baseline, scores.scores[pick])
    session.check()
    return Recommendation(
        scores=scores,
        pick=pick,
        best=best,
        front=tuple(pareto(np.array([s.cost.params for s in scores]), -scores.predictions.deviation)),
        equal_budget=equal,
        baseline=baseline_index,
        alike=sum(not equal.predictions.distinguishable(i, 0) for i in range(1, len(equal.scores))),
        stability=_stability(scorer, budget, granularity, seed, scores.scores[pick], session),
        budget=budget,
        granularity=granularity,
    )


def compare(scorer: Scorer, budget: Budget, baseline: Candidate | None = None) -> tuple[Scores, int | None]:
    """The usual recipes at equal budget, see :class:`Recommendation`; and the index of the baseline."""
    return _equal_budget(scorer, budget, baseline, None)


def _pool(scorer: Scorer, budget: Budget, granularity: str, seed: int, session: Session) -> list[Candidate]:
    """All-linear, recipes, and searched selections at several levels of the budget, distinct, all-linear first."""
    targets, rank = scorer.probe.targets, scorer.settings.rank
    units = unit_matrix([_unit_label(t, granularity) for t in targets])
    sizes = units.astype(np.int64) @ budget.sizes(targets, rank)
    ceiling = budget.ceiling(targets, rank)
    if int(sizes.min()) > ceiling:
        raise BudgetTooSmall(
            f"The budget {budget.text} allows {ceiling:,}, the smallest {granularity} needs {int(sizes.min()):,}.",
            "Raise --budget, lower --rank, or use --granularity module.",
        )
    rng = np.random.default_rng(seed)
    kernels = scorer.view.kernels
    surrogates = [Surrogate.of(kernels[kind], _contrast(scorer), units) for kind in kernels]
    found: list[Mask] = []
    for level in LEVELS:
        if sizes.min() <= level * ceiling:
            found += [fill_budget(s, sizes, int(level * ceiling)) for s in surrogates]
            found += [_random_fill(sizes, int(level * ceiling), rng) for _ in range(RANDOM_CANDIDATES)]
    session.check()
    selections = [_selection(scorer, units, mask) for mask in found]
    if granularity == "module" and budget.kind != "modules":
        selections += [
            structured_random(targets, int(level * ceiling), rank, rng, "") for level in LEVELS for _ in range(RANDOM_CANDIDATES)
        ]
    selections = _improve(scorer, selections, units, sizes, ceiling, rng, session)
    usual = recipes(targets, scorer.probe.info["qv_roles"])
    named = distinct([all_linear(targets), *usual, *(s for s in selections if s.targets)])
    return [_named(s, i, scorer.settings) for i, s in enumerate(named)]


def _improve(
    scorer: Scorer,
    selections: list[Selection],
    units: np.ndarray,
    sizes: np.ndarray,
    ceiling: int,
    rng: np.random.Generator,
    session: Session,
) -> list[Selection]:
    """Rounds of drop-and-refill moves on the selection predicted best; all that were scored well are returned."""
    stage = Stage(session, "Search", ROUNDS)
    selections = distinct(selections)
    deviations = scorer.predict([Candidate(s, scorer.settings) for s in selections]).deviation
    for _ in range(ROUNDS):
        session.check()
        best = selections[int(np.argmin(deviations))]
        mask = np.array([set(_unit_names(scorer, u)) <= set(best.targets) for u in units])
        moves = [_selection(scorer, units, _move(mask, sizes, ceiling, rng)) for _ in range(NEIGHBOURS)]
        known = {s.targets for s in selections}
        new = [s for s in distinct(moves) if s.targets not in known]
        if new:
            selections = selections + new
            more = scorer.predict([Candidate(s, scorer.settings) for s in new]).deviation
            deviations = np.concatenate([deviations, more])
        stage.advance()
    return selections


def _move(mask: Mask, sizes: np.ndarray, ceiling: int, rng: np.random.Generator) -> Mask:
    """Drop up to two random units, then add random ones that fit."""
    moved = mask.copy()
    present = np.flatnonzero(mask)
    if len(present):
        moved[rng.choice(present, size=min(len(present), int(rng.integers(1, 3))), replace=False)] = False
    dropped = mask & ~moved
    left = ceiling - int(sizes[moved].sum())
    for unit in rng.permutation(len(sizes)):
        if not moved[unit] and not dropped[unit] and sizes[unit] <= left:
            moved[unit] = True
            left -= int(sizes[unit])
    return moved


def _random_fill(sizes: np.ndarray, ceiling: int, rng: np.random.Generator) -> Mask:
    return _move(np.zeros(len(sizes), dtype=bool), sizes, ceiling, rng)


def _contrast(scorer: Scorer) -> np.ndarray:
    """Targets for alignment: Y, or for a causal LM the residual z, as its Y is constant."""
    return scorer.probe.z if scorer.probe.task == "causal-lm" else scorer.probe.y


def _unit_label(target, granularity: str) -> str:  # type: ignore[no-untyped-def]
    if granularity == "role":
        return str(target.role)
    if granularity == "layer":
        return f"layer {target.layer}"
    return str(target.name)


def _unit_names(scorer: Scorer, unit: np.ndarray) -> list[str]:
    return [t.name for t, member in zip(scorer.probe.targets, unit, strict=True) if member]


def _selection(scorer: Scorer, units: np.ndarray, mask: Mask) -> Selection:
    members = units[mask].any(0)
    return Selection("", tuple(_unit_names(scorer, members)))


def _named(selection: Selection, index: int, settings: LoraSettings) -> Candidate:
    return Candidate(selection if selection.name else replace(selection, name=f"searched #{index}"), settings)


def _allowed(scorer: Scorer, budget: Budget, scores: Scores) -> list[int]:
    targets, rank = scorer.probe.targets, scorer.settings.rank
    allowed = [
        i
        for i, s in enumerate(scores)
        if budget.allows(s.cost, len(s.candidate.selection.targets), targets, rank)
    ]
    if not allowed:
        least = min(s.cost.memory_bytes for s in scores)
        raise BudgetTooSmall(
            f"No selection trains within {budget.text}; the least needs about {least / 1e9:.2f} GB.",
            "Raise --budget, or lower --batch-size or --max-length.",
        )
    return allowed


def _equal_budget(
    scorer: Scorer, budget: Budget, baseline: Candidate | None, pick: Score | None
) -> tuple[Scores, int | None]:
    """The pick (if given), the baseline as it is, and each recipe with its rank lowered until it fits the budget."""
    targets, settings = scorer.probe.targets, scorer.settings
    ceiling = budget.params(targets, settings.rank)
    candidates = [] if pick is None else [pick.candidate]
    index = None
    if baseline is not None:
        index = len(candidates)
        candidates.append(baseline)
    for selection in recipes(targets, scorer.probe.info["qv_roles"]):
        lower = _fitting_rank(selection, scorer, ceiling)
        if lower is None:
            continue
        name = selection.name if lower == settings else f"{selection.name}, r={lower.rank}"
        candidates.append(Candidate(replace(selection, name=name), lower))
    return scorer.score(candidates), index


def _fitting_rank(selection: Selection, scorer: Scorer, ceiling: int) -> LoraSettings | None:
    """The highest rank up to the asked one that fits; alpha follows, so that the scale stays. None: not even rank 1."""
    settings = scorer.settings
    for rank in range(settings.rank, 0, -1):
        if selection.params(scorer.probe.targets, rank) <= ceiling:
            factor = (rank / settings.rank) ** (0.5 if settings.rslora else 1.0)
            return replace(settings, rank=rank, alpha=settings.alpha * factor)
    return None


def _stability(
    scorer: Scorer, budget: Budget, granularity: str, seed: int, pick: Score, session: Session
) -> Stability:
    """Search and pick again on random 80 % of the probe examples, from the stored blocks."""
    rng = np.random.default_rng(seed)
    n = scorer.probe.samples
    stage = Stage(session, "Stability (subsamples)", STABILITY_DRAWS)
    names = pick.candidate.selection.targets
    kept = np.zeros(len(names))
    for _ in range(STABILITY_DRAWS):
        session.check()
        keep = np.sort(rng.choice(n, size=round(STABILITY_SHARE * n), replace=False))
        smaller = Scorer(
            subsample(scorer.probe, keep), scorer.settings, scorer.recipe, scorer.predictor, kernel=scorer.kernels.kind
        )
        again = _repick(smaller, budget, granularity, seed)
        kept += np.array([name in again for name in names], dtype=np.float64)
        stage.advance()
    return Stability(tuple(float(k) for k in kept / STABILITY_DRAWS), STABILITY_DRAWS)


def _repick(scorer: Scorer, budget: Budget, granularity: str, seed: int) -> set[str]:
    pool = _pool(scorer, budget, granularity, seed, Session())
    scores = scorer.score(pool)
    return set(scores.scores[scores.pick(_allowed(scorer, budget, scores))].candidate.selection.targets)


def module_shares(scorer: Scorer, names: Sequence[str]) -> dict[str, float]:
    """Each module's share of the trace of the scorer's kernel over all modules (head excluded)."""
    traces = np.einsum("mii->m", scorer.kernels.blocks)
    total = float(traces.sum()) or 1.0
    by_name = {t.name: float(v) / total for t, v in zip(scorer.probe.targets, traces, strict=True)}
    return {name: by_name[name] for name in names}
