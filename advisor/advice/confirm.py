"""A few real runs where they tell most, folded into the prediction, until the pick is settled (no torch).

First a pilot: all modules are trained, and the trained model shows what each finalist alone is worth, by switching the other
modules' adapters off. Then, one after the other, the pick, a baseline, and whatever is most probably the best of the finalists.
How runs are made is the caller's business (:mod:`advisor.workflow` makes them as ``advisor calibrate`` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from advisor.advice.recommend import Recommendation, pick
from advisor.core.candidate import Candidate, RealRun
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import distinct
from advisor.core.targets import Selection
from advisor.prediction.predictions import Predictions
from advisor.prediction.probe_view import training_rows
from advisor.prediction.scorer import Scorer

CONFIRM_ROWS = 2048  # as many as the longest calibration runs had
DRAWS = 4096
SETTLED = 0.95
AS_GOOD = 2.0  # seed standard deviations of log loss
SWEEP_SEEDS = 2

Triple = tuple[float, float, float]
RunAll = Callable[[Sequence[Candidate], Sequence[Selection]], Sequence[RealRun | str]]
"""Makes real runs, and measures the selections in each; for each candidate its run, or why there is none."""


@dataclass(frozen=True)
class Confirmed:
    """One real run; ``before`` and ``after`` are the predicted loss of a run without and with all real ones."""

    run: RealRun
    role: str
    before: Triple
    after: Triple


@dataclass(frozen=True)
class Finalist:
    """A finalist's predicted loss without and with the real runs, and how probably it is the best of them."""

    candidate: Candidate
    before: Triple
    after: Triple
    best: float


@dataclass(frozen=True)
class Confirmation:
    """What real runs confirmed.

    Attributes:
        asked: runs that were allowed. recipe: theirs; same_recipe: it is the one the advice is for.
        scorer: at that recipe, given the runs.
        runs, failed: what was run, and for each candidate that was left out its name and the reason.
        pick_before, order: the pick the runs began with; indices of the finalists that are left, the new pick first.
        sure: probability that the new pick lies within two seed standard deviations of the best finalist.
    """

    asked: int
    recipe: TrainingRecipe
    same_recipe: bool
    scorer: Scorer
    runs: tuple[Confirmed, ...]
    failed: tuple[tuple[str, str], ...]
    finalists: tuple[Finalist, ...]
    pick_before: Candidate
    order: tuple[int, ...]
    sure: float

    @property
    def picked(self) -> Candidate:
        return self.finalists[0].candidate

    @property
    def settled(self) -> bool:
        return self.sure >= SETTLED

    @property
    def cost_s(self) -> float:
        """Seconds of the runs, measuring included."""
        return sum(confirmed.run.wall_s + confirmed.run.switched_s for confirmed in self.runs)

    @property
    def sweep_runs(self) -> int:
        """Runs of a sweep over all finalists, two seeds each."""
        return SWEEP_SEEDS * len(self.finalists)

    @property
    def sweep_s(self) -> float:
        """What that sweep would take, from the mean time of the runs."""
        return sum(confirmed.run.wall_s for confirmed in self.runs) / max(1, len(self.runs)) * self.sweep_runs


def short_recipe(scorer: Scorer, rows: int | None) -> TrainingRecipe:
    """The scorer's recipe on at most ``rows`` training rows, by default 2,048; the recipe itself where that is no limit."""
    available = training_rows(scorer.probe, scorer.recipe)
    limit = CONFIRM_ROWS if rows is None else rows
    return scorer.recipe if limit >= available else replace(scorer.recipe, train_rows=limit)


def baseline_of(rec: Recommendation, scorer: Scorer) -> Candidate | None:
    """The user's own config, else q,v at a rank that fits, else the first target set in the table; never the pick itself."""
    if rec.baseline is not None:
        return rec.equal_budget[rec.baseline].candidate
    others = [score.candidate for score in rec.equal_budget][1:]
    qv = tuple(t.name for t in scorer.probe.targets if t.role in scorer.probe.info["qv_roles"])
    return next((c for c in others if c.selection.targets == qv), others[0] if others else None)


@dataclass(frozen=True)
class Decision:
    """What :func:`decide` came to, in indices of its selections.

    Attributes:
        picked: the new pick. runs, failed: what was run, in that order. left: the finalists whose run did not fail.
        best: of each of ``left``, the probability that it is the best of them.
        sure: probability that the pick lies within two seed standard deviations of the best, 0 without a run.
    """

    picked: int
    runs: tuple[int, ...]
    failed: tuple[int, ...]
    left: tuple[int, ...]
    best: NDArray[np.float64]
    sure: float


def decide(
    predict: Callable[[Sequence[int]], Predictions],
    params: NDArray[np.int64],
    finalists: Sequence[int],
    first: Sequence[int],
    asked: int,
    run: Callable[[Sequence[int]], Sequence[bool]],
    at_once: int = 1,
    begun: Sequence[int] = (),
) -> Decision:
    """Run ``first``, then what is most probably the best, until the pick is settled or ``asked`` more are run.

    Args:
        predict: all selections given the runs of those named. params: LoRA parameters of each.
        finalists: what may be picked, the present pick first.
        run: runs selections for real; whether each succeeded. at_once: how many it is given after the first.
        begun: what was run before.
    """
    picked, left = finalists[0], list(finalists)
    runs, failed = list(begun), list[int]()
    chosen = [index for index in first if index not in runs][:asked]
    while True:
        for index, succeeded in zip(chosen, run(chosen), strict=True):
            (runs if succeeded else failed).append(index)
        predictions = predict(runs)
        if runs:  # where all failed, the recipe is at fault and not the selections
            left = [i for i in finalists if i not in failed] or left
            picked, _ = pick(predictions, params, left)
        best, sure = chances(predictions, left, picked)
        open_ones = [left[k] for k in np.argsort(-best, kind="stable") if left[k] not in (*runs, *failed)]
        chosen = open_ones[: min(at_once, asked + len(begun) - len(runs) - len(failed))]
        if not chosen or (runs and sure >= SETTLED):
            return Decision(picked, tuple(runs), tuple(failed), tuple(left), best, sure if runs else 0.0)


def chances(predictions: Predictions, among: Sequence[int], picked: int) -> tuple[NDArray[np.float64], float]:
    """Of each of ``among`` the probability of being the best of them, and that ``picked`` is as good as the best.

    As good: within two seed standard deviations. From a sample of fixed seed of the joint Gaussian of the deviations.
    """
    at, draws = np.asarray(among, dtype=np.int64), draws_of(predictions, among)
    best = np.bincount(draws.argmin(1), minlength=len(at)) / DRAWS
    within = draws[:, at == picked][:, 0] - draws.min(1) <= AS_GOOD * predictions.seed_sd
    return best, float(within.mean())


def draws_of(predictions: Predictions, among: Sequence[int]) -> NDArray[np.float64]:
    """[D, K] draws of fixed seed of the deviations of ``among`` from their joint Gaussian."""
    at = np.asarray(among, dtype=np.int64)
    values, vectors = np.linalg.eigh(predictions.covariance[np.ix_(at, at)])
    normal = np.random.default_rng(0).standard_normal((DRAWS, len(at)))
    return np.asarray(predictions.deviation[at] + normal @ (vectors * np.sqrt(np.clip(values, 0.0, None))).T)


def confirm(
    scorer: Scorer, rec: Recommendation, recipe: TrainingRecipe, asked: int, run_all: RunAll, at_once: int = 1
) -> Confirmation:
    """Run up to ``asked`` candidates for real at ``recipe``, and decide at that recipe which finalist to pick.

    The first run is the pilot, which measures them all, unless a budget of memory has no room for it. Runs of one recipe say
    nothing certain of another, so they are folded in and decided on at their own; only where ``recipe`` is the scorer's are
    they also evidence on the advice's own numbers. A candidate whose run fails is neither folded in nor picked.

    Args:
        at_once: runs chosen together after the first three.
    """
    same = recipe == scorer.recipe
    prior = scorer if same else scorer.at(recipe)
    candidates = [rec.pool[i] for i in rec.finalists]
    finalists = range(len(candidates))

    def index_of(candidate: Candidate) -> int:
        known = next((i for i, other in enumerate(candidates) if other.trained_like(candidate)), None)
        if known is None:
            candidates.append(candidate)
        return len(candidates) - 1 if known is None else known

    everything, baseline = index_of(rec.pool[0]), baseline_of(rec, scorer)
    roles = {everything: "pilot"} | ({} if baseline is None else {index_of(baseline): "baseline"})
    done: dict[int, RealRun] = {}
    reasons: dict[int, str] = {}

    def run(indices: Sequence[int], measured: Sequence[Selection] = ()) -> list[bool]:
        new = [i for i in indices if i not in reasons]  # the pilot may have failed where nothing else is left
        for index, outcome in zip(new, run_all([candidates[i] for i in new], measured) if new else (), strict=True):
            if isinstance(outcome, RealRun):
                done[index] = outcome
            else:
                reasons[index] = outcome
        return [i in done for i in indices]

    def given(runs: Sequence[int]) -> Scorer:
        return prior.given([done[i] for i in runs])

    shown = [*(c.selection for c in candidates), *scorer.level_sets, Selection("no module", ())]
    memory = rec.budget.amount if rec.budget.kind == "memory" else np.inf
    pilot = [everything] if prior.cost(rec.pool[0]).memory_bytes <= memory else []
    run(pilot, distinct(shown))
    params = np.array([scorer.cost(candidate).params for candidate in candidates])
    left = [i for i in finalists if i not in reasons] or list(finalists)
    picked = pick(given([everything]).predict(candidates), params, left)[0] if done else left[0]
    roles = {everything: "pilot", picked: "pick"} | roles
    found = decide(
        lambda runs: given(runs).predict(candidates),
        params,
        finalists=sorted(left, key=lambda i: i != picked),
        first=sorted(set(roles) - {everything}, key=lambda i: i != picked),
        asked=asked - len(pilot),
        run=run,
        at_once=at_once,
        begun=list(done),
    )
    before, after = (_losses(s.predict(candidates)) for s in (prior, given(found.runs)))
    order = sorted(found.left, key=lambda i: (i != found.picked, i))  # the pick first, the others as they were
    return Confirmation(
        asked=asked,
        recipe=recipe,
        same_recipe=same,
        scorer=given(found.runs),
        runs=tuple(Confirmed(done[i], roles.get(i, "candidate"), before[i], after[i]) for i in found.runs),
        failed=tuple((candidates[i].selection.name, reasons[i]) for i in reasons),
        finalists=tuple(Finalist(candidates[i], before[i], after[i], float(found.best[found.left.index(i)])) for i in order),
        pick_before=candidates[0],
        order=tuple(rec.finalists[i] for i in order),
        sure=found.sure,
    )


def _losses(predictions: Predictions) -> list[Triple]:
    loss = predictions.loss
    return [(float(v), float(low), float(high)) for v, low, high in zip(loss.value, loss.low, loss.high, strict=True)]
