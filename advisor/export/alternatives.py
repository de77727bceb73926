"""What is offered where a tool's file cannot say what was chosen: the best selection that it can, and what that costs (no torch).

The format's own renderer says what a file can say, so nothing here knows any format. Selections are those that the search has
scored, at one rank for all modules, and what a second search over whole roles adds; the pick's own rule chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advisor.advice.budget import Budget
from advisor.advice.pool import candidate_pool
from advisor.advice.recommend import Recommendation, choose
from advisor.core.candidate import Candidate
from advisor.core.errors import BudgetTooSmall
from advisor.core.events import Session
from advisor.core.selections import distinct
from advisor.core.targets import LoraSettings
from advisor.export import FORMATS
from advisor.export.plan import Format, Plan, Rendered, RenderedFile
from advisor.export.proof import prove_file
from advisor.prediction.scorer import Scorer

if TYPE_CHECKING:
    from torch import nn

    from advisor.models.peft import Resolved

PREFIX = "alternative-"  # of the file's name


@dataclass(frozen=True)
class Alternative:
    """One selection in place of the one chosen, for one file.

    Attributes:
        file: the name of the file that cannot say the latter.
        plan: what the alternative file says, exactly.
        reason: what it is and costs, beside the latter.
    """

    file: str
    plan: Plan
    reason: str

    def rendered(self, target: Format) -> RenderedFile:
        """The alternative file; its name is ``PREFIX`` and that of the other."""
        return RenderedFile(target.render(self.plan).files[self.file].text, "alternative", (self.reason,))

    def as_dict(self) -> dict[str, Any]:
        """What ``recommendation.json`` holds of it: the reason, and what of the plan differs from the pick's."""
        plain = self.plan.as_dict()
        differing = ("selection", "settings", "ranks", "alphas", "comments")
        return {"reason": self.reason, "plan": {key: plain[key] for key in differing}}


def with_alternatives(rendered: Rendered, target: Format, alternatives: Sequence[Alternative]) -> Rendered:
    """The files of one format, each alternative behind the others."""
    return Rendered({**rendered.files, **{PREFIX + found.file: found.rendered(target) for found in alternatives}})


def sayable(scorer: Scorer, rec: Recommendation, seed: int, session: Session) -> list[Candidate]:
    """All-linear, then every other selection to choose from, at one rank for all modules.

    Raises:
        BadInput: the scores of other methods in the probe are damaged.
        Interrupted: cancelled.
    """
    found = [candidate.selection for candidate in rec.pool]
    if rec.granularity != "role":
        try:
            roles = candidate_pool(scorer, rec.budget, "role", rec.strategy, seed, session)
            found += [candidate.selection for candidate in roles]
        except BudgetTooSmall:  # no whole role fits
            pass
    return [Candidate(selection, scorer.settings) for selection in distinct(found)]


def can_say(target: Format, file: str, plan: Plan, candidate: Candidate) -> bool:
    """Whether ``file`` of the format says the candidate exactly; the rest is as in ``plan``."""
    said = replace(plan, selection=candidate.selection, settings=candidate.settings, ranks={}, alphas={})
    return target.render(said).files[file].fidelity == "exact"


def best_for(
    target: Format, file: str, plan: Plan, pool: Sequence[Candidate], scorer: Scorer, rec: Recommendation
) -> Alternative | None:
    """The selection that the pick's rule chooses among those that the file can say, within the same budget; within the
    parameters of the plan where that is beyond it.

    Args:
        plan: of the pick, or of any other selection. pool: of :func:`sayable`.

    Returns:
        None where none that it can say fits, or none is predicted better than the plan's modules at one rank for all, which it
        can say.
    """
    chosen = Candidate(plan.selection, plan.settings, plan.ranks, plan.alphas)
    budget, cost, targets = rec.budget, scorer.cost(chosen), scorer.probe.targets
    if not budget.allows(cost, len(plan.names), targets, scorer.settings.rank):
        budget = Budget(f"{cost.params:,}", "params", cost.params)
    own = Candidate(plan.selection, plan.flat().settings)
    known = [candidate for candidate in (own, *pool) if can_say(target, file, plan, candidate)]
    predictions = scorer.predict(known)
    try:
        costs = [scorer.cost(candidate) for candidate in known]
        finalists, _ = choose(scorer, known, costs, predictions, budget, "role", rec.strategy)
    except BudgetTooSmall:
        return None
    instead = known[finalists[0]]
    if known[0] is own and predictions.deviation[finalists[0]] >= predictions.deviation[0]:
        return None
    reason = (
        f"Another selection than the one chosen, the best that {file} can say: {len(instead.selection.targets)} modules with "
        f"{scorer.cost(instead).params:,} LoRA parameters in place of {len(plan.names)} with {cost.params:,}. "
        + cost_of(scorer, chosen, instead)
    )
    said = replace(plan, selection=replace(instead.selection, name=f"alternative for {file}"), settings=instead.settings)
    return Alternative(file, replace(said, ranks={}, alphas={}, comments=(reason,)), reason)


def cost_of_file(scorer: Scorer, picked: Candidate, resolved: Resolved) -> str:
    """What is predicted of a lossy file, which its tool resolves so, beside the pick."""
    first = resolved.adapted[0]
    settings = LoraSettings(resolved.ranks[first], resolved.alphas[first], resolved.rslora)
    ranks = {name: rank for name, rank in resolved.ranks.items() if rank != settings.rank}
    alphas = {name: alpha for name, alpha in resolved.alphas.items() if alpha != settings.alpha}
    return cost_of(scorer, picked, Candidate(picked.selection, settings, ranks, alphas))


def cost_of(scorer: Scorer, picked: Candidate, instead: Candidate) -> str:
    """What is predicted of a file that trains ``instead``, beside the pick."""
    scores = scorer.score([picked, instead])
    metric = str(scorer.probe.info["metric"]).replace("_", " ")
    (chosen, loss), (reached, value) = ((s.loss[0] for s in scores), (s.metric[0] for s in scores))
    apart = "" if scores.predictions.distinguishable(1, 0) else ", a difference that cannot be told from none"
    return (
        f"Predicted of this file: {metric} {value:.3g} (chosen: {reached:.3g}), "
        f"validation loss {loss:.3g} (chosen: {chosen:.3g}){apart}."
    )


def alternatives(
    rendered: Mapping[str, Rendered],
    plan: Plan,
    model: nn.Module,
    scorer: Scorer,
    rec: Recommendation,
    pool_of: Callable[[], list[Candidate]],
) -> dict[str, list[Alternative]]:
    """By format, for its files that do not say the plan exactly: the best selection that they can, proven on the model.

    Args:
        rendered: the plan's files by format. model: on the meta device. pool_of: :func:`sayable`, asked once if it is needed.

    Raises:
        BadInput, Interrupted: as ``pool_of``.
    """
    everything = Candidate(rec.all_linear.candidate.selection, scorer.settings)
    short = {
        name: [
            file
            for file, found in result.files.items()
            if found.fidelity != "exact" and can_say(FORMATS[name], file, plan, everything)
        ]
        for name, result in rendered.items()
    }
    pool = pool_of() if any(short.values()) else []
    found: dict[str, list[Alternative]] = {}
    for name, files in short.items():
        offered = (best_for(FORMATS[name], file, plan, pool, scorer, rec) for file in files)
        found[name] = [alternative for alternative in offered if alternative is not None]
        for alternative in found[name]:
            file = FORMATS[name].render(alternative.plan).files[alternative.file]
            prove_file(FORMATS[name], alternative.file, file, alternative.plan, model)
    return found
