"""The answer in words: what ``advisor recommend`` says, with this program's keys for what to do next (no Textual)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.prediction.scorer import share_of_loss
from advisor.report.tables import ALL
from advisor.report.verdict import (
    checked,
    level,
    little_to_win,
    next_step,
    only_ranked,
    qv_index,
    told_apart,
    unlike,
    what_to_adapt,
)
from tui.engine import MOSTLY, OPEN, SETTLED, UNLIKE, Against, Headline

if TYPE_CHECKING:
    from advisor.advice.confirm import Confirmation
    from advisor.advice.recommend import Recommendation
    from advisor.prediction.scorer import Scorer

BY_KEYS = {
    "samples": "press 1, set Probe rows to {} and probe again",
    "pilot": "press 6",
    "runs": "press 6",
    "confirm": "press 6",
    "train": "press 7 to export it, then train",
}


def headline(scorer: Scorer, rec: Recommendation, confirmation: Confirmation | None) -> Headline:
    """The pick, what it costs or wins, and how sure that is."""
    against = []
    if rec.picked.cost.params < rec.all_linear.cost.params:
        against.append(Against(ALL, rec.picked.vs_all))
    if (index := qv_index(scorer, rec)) is not None:
        change = share_of_loss(rec.equal_budget.predictions.difference(0, index))
        against.append(Against(rec.equal_budget[index].name, change))
    sureness, why = _how_sure(rec, confirmation)
    why = " ".join(filter(None, [little_to_win(scorer), why]))
    return Headline(
        adapt=what_to_adapt(scorer, rec),
        level=only_ranked(scorer, rec.front.predictions.far) or level(scorer, rec.picked),
        against=tuple(against),
        sureness=sureness,
        why=why,
        next=next_step(scorer, rec, confirmation, BY_KEYS),
    )


def _how_sure(rec: Recommendation, confirmation: Confirmation | None) -> tuple[str, str]:
    """Real runs of the task say more than predictions, and what predictions rest on more than what they say."""
    if confirmation is not None and confirmation.settled:
        return SETTLED, checked(confirmation)
    if far := unlike(rec):
        return UNLIKE, far
    if confirmation is not None:
        return OPEN, checked(confirmation)
    untold = rec.untold - rec.alike  # the others end within so little that it does not matter which one is taken
    others = len(rec.equal_budget) - 1
    return (SETTLED if not untold else MOSTLY if 2 * untold < others else OPEN), told_apart(rec)
