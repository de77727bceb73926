"""Real runs for the terminal interface: the engine's own stages, with how things stand after each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.errors import Interrupted
from advisor.core.events import Session
from tui.engine import Confirmed, Finalist, RealLoss, Standing
from tui.inputs import Inputs
from tui.wording import headline

if TYPE_CHECKING:
    from advisor.advice.confirm import Confirmation, RunAll
    from advisor.advice.recommend import Recommendation
    from advisor.core.candidate import Candidate, RealRun
    from advisor.core.recipe import TrainingRecipe
    from advisor.core.targets import Selection
    from advisor.prediction.scorer import Scorer
    from tui.engine import Opened

NOT_RUN = "stopped before it was run"


@dataclass
class Runs:
    """Makes real runs one after the other, and tells how things stand after each.

    Attributes:
        outcomes: each candidate that was run, with its run or why there is none.
    """

    scorer: Scorer
    rec: Recommendation
    recipe: TrainingRecipe
    asked: int
    workers: int
    run_all: RunAll
    tell: Callable[[Standing], None]

    def __post_init__(self) -> None:
        self.outcomes: list[tuple[Candidate, RealRun | str]] = []
        self.prior = self.scorer if self.recipe == self.scorer.recipe else self.scorer.at(self.recipe)
        self.finalists = [self.rec.pool[i] for i in self.rec.finalists]
        self.before = _losses(self.prior, self.finalists)

    def make(self, candidates: Sequence[Candidate], measured: Sequence[Selection] = ()) -> list[RealRun | str]:
        """As :data:`advisor.advice.confirm.RunAll`, as many at a time as there are workers."""
        for start in range(0, len(candidates), self.workers):
            some = candidates[start : start + self.workers]
            self.outcomes += zip(some, self.run_all(some, measured), strict=True)
            self.tell(self.standing())
        return [outcome for _, outcome in self.outcomes[len(self.outcomes) - len(candidates) :]]

    def again(self, candidates: Sequence[Candidate], measured: Sequence[Selection] = ()) -> list[RealRun | str]:
        """The outcomes that are there, for a conclusion from them."""
        return [
            next((outcome for made, outcome in self.outcomes if made.trained_like(candidate)), NOT_RUN)
            for candidate in candidates
        ]

    def standing(self) -> Standing:
        """What the runs so far say of the finalists."""
        import numpy as np

        from advisor.advice.confirm import SETTLED, chances
        from advisor.advice.recommend import pick
        from advisor.core.candidate import RealRun

        runs = [outcome for _, outcome in self.outcomes if isinstance(outcome, RealRun)]
        failed = [candidate for candidate, outcome in self.outcomes if isinstance(outcome, str)]
        left = [i for i, c in enumerate(self.finalists) if not any(c.trained_like(f) for f in failed)]
        left = left or list(range(len(self.finalists)))
        given = self.prior.given(runs)
        predictions = given.predict(self.finalists)
        params = np.array([self.scorer.cost(candidate).params for candidate in self.finalists])
        picked = pick(predictions, params, left)[0] if runs else left[0]
        best, sure = chances(predictions, left, picked)
        after = _losses(given, self.finalists)
        order = sorted(left, key=lambda i: (i != picked, i))
        return Standing(
            asked=self.asked,
            runs=tuple(
                RealLoss(
                    _called(self, candidate),
                    outcome.loss if isinstance(outcome, RealRun) else None,
                    outcome.metric if isinstance(outcome, RealRun) else None,
                    outcome.wall_s + outcome.switched_s if isinstance(outcome, RealRun) else 0.0,
                    "" if isinstance(outcome, RealRun) else outcome,
                )
                for candidate, outcome in self.outcomes
            ),
            finalists=tuple(
                Finalist(self.finalists[i], self.before[i], after[i], float(best[left.index(i)]), i == 0) for i in order
            ),
            sure=sure if runs else 0.0,
            settled=bool(runs) and sure >= SETTLED,
        )


def _called(runs: Runs, candidate: Candidate) -> str:
    """What a candidate is called: finalists by what they are, as only the search has named them."""
    if candidate.trained_like(runs.finalists[0]):
        return "the pick"
    if candidate.trained_like(runs.rec.pool[0]):
        return "all modules"
    return candidate.selection.called


def _losses(scorer: Scorer, candidates: Sequence[Candidate]) -> list[tuple[float, float, float]]:
    loss = scorer.predict(candidates).loss
    return [(float(v), float(low), float(high)) for v, low, high in zip(loss.value, loss.low, loss.high, strict=True)]


def confirm(
    opened: Opened,
    rec: Recommendation,
    inputs: Inputs,
    asked: int,
    folder: Path,
    session: Session,
    tell: Callable[[Standing], None],
) -> Confirmed:
    """See :meth:`tui.engine.Engine.confirm`."""
    from advisor import probe_cache, real_runs
    from advisor.advice.confirm import short_recipe
    from advisor.report.confirmation import cost_of_runs
    from advisor.training.pace import step_seconds

    scorer = opened.scorer
    source, probed = probe_cache.made_from(opened.probe, inputs.trust_remote_code)
    prepared = probe_cache.prepare_again(source, session, probed.samples)
    prepared.loaded.require_in_memory()
    made_of, recipe = dict(prepared.made_of), short_recipe(scorer, inputs.confirm_rows)
    session.note(cost_of_runs(scorer, rec, recipe, asked, step_seconds(prepared, recipe.batch_size)), brief=True)
    del prepared  # the runs load their own
    run_all = real_runs.real_runs(source, made_of, recipe, folder, inputs.workers, session)
    runs = Runs(scorer, rec, recipe, asked, inputs.workers, run_all, tell)
    tell(runs.standing())
    return conclude(opened, rec, inputs, runs)


def conclude(opened: Opened, rec: Recommendation, inputs: Inputs, runs: Runs) -> Confirmed:
    """Make the runs and decide; where one stops them, decide by those that are done.

    Raises:
        Interrupted: stopped before the first run was done.
    """
    from advisor.advice import confirm as stages
    from advisor.advice.recommend import reconsider

    try:
        found: Confirmation = stages.confirm(runs.scorer, rec, runs.recipe, runs.asked, runs.make)
    except Interrupted:
        if not any(not isinstance(outcome, str) for _, outcome in runs.outcomes):
            raise
        found = stages.confirm(runs.scorer, rec, runs.recipe, len(runs.outcomes), runs.again)
    scorer = found.scorer if found.same_recipe else runs.scorer
    again = reconsider(rec, scorer, found.scorer, found.order, inputs.seed, Session())
    return Confirmed(replace(opened, scorer=scorer), again, found, headline(scorer, again, found), runs.standing())


def calibrate(opened: Opened, inputs: Inputs, asked: int, folder: Path, session: Session) -> int:
    """See :meth:`tui.engine.Engine.calibrate`; returns the number of rows."""
    from advisor import probe_cache, real_runs
    from advisor.advice.confirm import short_recipe
    from advisor.prediction.probe_view import training_rows

    scorer = opened.scorer
    source, _ = probe_cache.made_from(opened.probe, inputs.trust_remote_code)
    recipe = short_recipe(scorer, inputs.confirm_rows)
    _, rows = real_runs.calibrate_folder(
        source,
        scorer.settings,
        lambda task: recipe,
        folder,
        session,
        train_rows=training_rows(opened.probe, recipe),
        runs=asked,
        seeds=1,
        workers=inputs.workers,
        eval_rows=real_runs.CONFIRM_EVAL_ROWS,
        probe=opened.probe,
    )
    return rows
