"""The selections among which a recommendation is found: common target sets, starts of many kinds, a local search (no torch).

Starts are what surrogates, other methods and chance fill the budget with. The search then climbs by the regressor itself, so
that no common target set and no other method's pick is predicted better than what it returns.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from advisor.advice.budget import Budget
from advisor.advice.peer_picks import module_picks
from advisor.advice.units import Units, mask_of, selection_of, units_of
from advisor.core.candidate import Candidate
from advisor.core.choices import PREDICTED
from advisor.core.errors import BudgetTooSmall
from advisor.core.events import Session, Stage
from advisor.core.recipe import BY_ODDS
from advisor.core.selections import all_linear, distinct, structured_random, target_sets
from advisor.core.targets import SEARCHED, LoraSettings, Selection, left_out_notes
from advisor.prediction.scorer import Scorer
from advisor.theory.criteria import Criterion, fill_by
from advisor.theory.surrogate import Mask, Surrogate, fill_budget

LEVELS = (1.0, 0.5, 0.25, 0.12)  # shares of the budget that candidates are sought at
RANDOM_CANDIDATES = 6  # structured-random starts a level
NO_GRADIENT = "that no gradient reaches on any of the probe's examples, so that LoRA on them would learn nothing"
ROUNDS, PATIENCE = 24, 2  # most rounds of the local search, and how many without a gain end it
MOVES, TRIED = 24, 48  # swaps a round; units whose own effect a round looks at


def candidate_pool(
    scorer: Scorer, budget: Budget, granularity: str, strategy: str, seed: int, session: Session
) -> list[Candidate]:
    """All-linear, the common target sets, and searched selections at several levels of the budget, distinct, all-linear first.

    Of the modules that do not learn only all-linear and the target sets have any, and they are said.

    Raises:
        BudgetTooSmall: not even the smallest unit fits.
        Interrupted: cancelled.
    """
    targets, learning, rank = scorer.probe.targets, scorer.probe.learning, scorer.settings.rank
    for text in left_out_notes({NO_GRADIENT: [t.name for t in targets if t not in learning]}):
        session.note(text)
    units, sizes, ceiling = units_of(scorer, budget, granularity)
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
            found += [
                _refilled(np.zeros(len(sizes), dtype=bool), rng.permutation(len(sizes)), sizes, int(level * ceiling))
                for _ in range(RANDOM_CANDIDATES)
            ]
    session.check()
    masks = [(s, mask_of(scorer, units, s)) for s in target_sets(targets, scorer.probe.info["qv_roles"])]
    usual = [s for s, mask in masks if mask is not None]
    starts = [selection_of(scorer, units, mask) for mask in [*found, *(mask for _, mask in masks if mask is not None)]]
    starts += [replace(pick.selection, name="") for pick in module_picks(scorer, budget, granularity)]
    if granularity == "module" and budget.kind != "modules":
        limits = [int(level * ceiling) for level in LEVELS for _ in range(RANDOM_CANDIDATES)]
        starts += [structured_random(learning, limit, rank, rng, "") for limit in limits]
    if strategy != PREDICTED:
        criterion = Criterion.of(strategy, scorer.kernels, scorer.probe.z, scorer.sigma)
        starts.append(selection_of(scorer, units, fill_by(criterion, scorer.kernels, units, sizes, ceiling).mask))
    searched = _climb(scorer, [*starts, *usual], units, sizes, ceiling, rng, session)
    named = distinct([all_linear(targets), *usual, *(s for s in [*starts, *searched] if s.targets)])
    return [_named(s, i, scorer.settings) for i, s in enumerate(named)]


def _climb(
    scorer: Scorer,
    starts: list[Selection],
    units: Units,
    sizes: NDArray[np.int64],
    ceiling: int,
    rng: np.random.Generator,
    session: Session,
) -> list[Selection]:
    """Rounds of drop-and-refill on the selection within the ceiling that is predicted best; all that they made.

    Units are dropped and added by what each does alone to that selection, as the regressor sees it, which names the swaps
    worth trying without trying all pairs.
    """

    def deviations(masks: list[Mask]) -> NDArray[np.float64]:
        return scorer.predict([Candidate(selection_of(scorer, units, m), scorer.settings) for m in masks]).deviation

    known = [m for s in distinct(starts) if (m := mask_of(scorer, units, s)) is not None and int(sizes[m].sum()) <= ceiling]
    known = [m for m in known if m.any()]
    values = deviations(known)
    best, value = known[int(np.argmin(values))], float(values.min())
    made: dict[bytes, Mask] = {}
    stage, idle = Stage(session, "Search", ROUNDS), 0
    while stage.done < ROUNDS and idle < PATIENCE:
        session.check()
        looked_at = rng.permutation(len(sizes))[:TRIED]
        flipped = [best ^ (np.arange(len(sizes)) == unit) for unit in looked_at]
        effect = np.full(len(sizes), np.nan)
        effect[looked_at] = deviations(flipped) - value
        moves = {m.tobytes(): m for m in _swaps(best, effect, sizes, ceiling, rng)}
        fresh = [m for key, m in moves.items() if key not in made and m.any()]
        idle += 1
        if fresh:
            made |= {m.tobytes(): m for m in fresh}
            values = deviations(fresh)
            if values.min() < value - 1e-9:
                best, value, idle = fresh[int(np.argmin(values))], float(values.min()), 0
        stage.advance()
    if stage.done < ROUNDS:
        stage.advance("nothing better", ROUNDS - stage.done)
    return [selection_of(scorer, units, m) for m in made.values()]


def _swaps(
    best: Mask, effect: NDArray[np.float64], sizes: NDArray[np.int64], ceiling: int, rng: np.random.Generator
) -> list[Mask]:
    """Up to ``MOVES`` masks: the cheapest drops, alone and in random pairs, refilled in order of gain or of gain per size."""
    present, absent = np.flatnonzero(best), np.flatnonzero(~best)
    drops = present[np.argsort(np.nan_to_num(effect[present], nan=np.inf), kind="stable")][: MOVES // 2]
    gains = -np.nan_to_num(effect[absent], nan=0.0)
    orders = [absent[np.argsort(-g, kind="stable")] for g in (gains, gains / sizes[absent])]
    dropped = [np.array([unit]) for unit in drops]
    if len(drops) > 1:
        dropped += [rng.choice(drops, size=2, replace=False) for _ in range(MOVES // 4)]
    found = [_refilled(best, order, sizes, ceiling) for order in orders]
    for units in dropped:
        left = best.copy()
        left[units] = False
        found += [_refilled(left, order, sizes, ceiling) for order in orders]
    return found[: 2 + MOVES]


def _refilled(mask: Mask, order: NDArray[np.intp], sizes: NDArray[np.int64], ceiling: int) -> Mask:
    """``mask`` with the units of ``order`` added while they fit."""
    filled = mask.copy()
    left = ceiling - int(sizes[filled].sum())
    for unit in order:
        if not filled[unit] and sizes[unit] <= left:
            filled[unit] = True
            left -= int(sizes[unit])
    return filled


def _contrast(scorer: Scorer) -> NDArray[np.float64]:
    """Targets for alignment: Y, or the residual z where Y is constant, as of a language model."""
    return scorer.probe.z if scorer.probe.task in BY_ODDS else scorer.probe.y


def _named(selection: Selection, index: int, settings: LoraSettings) -> Candidate:
    return Candidate(selection if selection.name else replace(selection, name=f"{SEARCHED} #{index}"), settings)
