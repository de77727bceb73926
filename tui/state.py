"""The one model of a session that all screens show and change: probe, selection, history, named selections.

No Textual and nothing heavy. Candidates, recommendations and figures are the engine's plain data. Whoever changes the
state does so on the event loop; listeners are told what changed, not what it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tui.cells import DISTURBS
from tui.inputs import Inputs

if TYPE_CHECKING:
    from advisor.advice.confirm import Confirmation
    from advisor.advice.recommend import Recommendation
    from advisor.core.candidate import Candidate
    from advisor.core.targets import Target
    from tui.engine import Confirmed, Effects, Figures, Headline, Opened

MEASURES = ("worth", "gain", "share", "agreement", "bound", DISTURBS)
EDITED = "my selection"
HISTORY = 500


class Change(StrEnum):
    """What a listener is told."""

    INPUTS = "inputs"
    PROBE = "probe"
    SELECTION = "selection"
    FIGURES = "figures"
    EFFECTS = "effects"
    RECOMMENDATION = "recommendation"
    NAMED = "named"
    MEASURE = "measure"


Listener = Callable[[Change], None]


def entry(candidate: Candidate) -> dict[str, Any]:
    """A candidate as an entry of a selection file (docs/design.md 4)."""
    settings = candidate.settings
    return {
        "name": candidate.selection.name,
        "targets": list(candidate.selection.targets),
        "rank": settings.rank,
        "alpha": settings.alpha,
        "rslora": settings.rslora,
        **candidate.patterns,
    }


class State:
    """A session.

    Attributes:
        inputs: what Setup shows.
        opened: the probe that is looked at, with its scorer; None before there is one.
        current: the selection at hand with its rank and alpha; None exactly while ``opened`` is.
        recommendation: the search's result, None until it is there.
        headline: the answer in words, likewise. confirmation: what real runs said, where some were made.
        pick_figures: as ``figures``, of the recommended selection, once they were computed.
        figures: prediction, cost and kernel numbers of the selection they name, perhaps not yet the current one.
        effects: per-module numbers of the selection they name, likewise.
        named: selections the user keeps, by name.
        measure: one of ``MEASURES``, what colours the heat-map.
        is_chosen: the current selection is the user's, so that no search's result takes its place.
    """

    def __init__(self, inputs: Inputs | None = None) -> None:
        self.inputs = inputs or Inputs()
        self.opened: Opened | None = None
        self.current: Candidate | None = None
        self.recommendation: Recommendation | None = None
        self.headline: Headline | None = None
        self.confirmation: Confirmation | None = None
        self.figures: Figures | None = None
        self.pick_figures: Figures | None = None
        self.effects: Effects | None = None
        self.named: dict[str, Candidate] = {}
        self.measure = MEASURES[0]
        self.is_chosen = False
        self._undo: list[Candidate] = []
        self._redo: list[Candidate] = []
        self._listeners: list[Listener] = []

    # --- listening ------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after every change until the returned function is called."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def _tell(self, *changes: Change) -> None:
        for change in changes:
            for listener in tuple(self._listeners):
                listener(change)

    # --- what is there --------------------------------------------------------------------------------------------

    @property
    def targets(self) -> tuple[Target, ...]:
        """The adaptable modules in model order; none before a probe is open."""
        return self.opened.targets if self.opened else ()

    @property
    def chosen(self) -> frozenset[str]:
        """Full names of the modules of the current selection."""
        return frozenset(self.current.selection.targets) if self.current else frozenset()

    @property
    def params(self) -> int:
        """LoRA parameters of the current selection, head excluded."""
        return self.params_of(self.current) if self.current else 0

    def params_of(self, candidate: Candidate) -> int:
        """LoRA parameters of a candidate at its own ranks, head excluded."""
        chosen = frozenset(candidate.selection.targets)
        common, ranks = candidate.settings.rank, candidate.ranks
        return sum(t.lora_params(ranks.get(t.name, common)) for t in self.targets if t.name in chosen)

    @property
    def pick(self) -> Candidate | None:
        """The recommended selection, once there is one."""
        return self.recommendation.picked.candidate if self.recommendation else None

    @property
    def selected(self) -> dict[str, Any] | None:
        """The current selection as an entry of a selection file. At the common rank the entry names none, so that it follows
        a change of that."""
        if self.current is None or self.opened is None:
            return None
        found = entry(self.current)
        if self.current.settings == self.opened.scorer.settings:
            found = {key: value for key, value in found.items() if key not in ("rank", "alpha", "rslora")}
        return found

    @property
    def title(self) -> str:
        """What the current selection is called."""
        if self.current is None:
            return ""
        selection = self.current.selection
        if not self.is_pick:
            return "found by the last search" if selection.is_searched else selection.name
        return "the pick" if selection.is_searched else f"the pick: {selection.name}"

    @property
    def is_pick(self) -> bool:
        """Whether the current selection trains the very modules that are recommended, at the same rank."""
        pick, current = self.pick, self.current
        if pick is None or current is None:
            return False
        return replace(current, selection=pick.selection) == pick and current.selection.targets == pick.selection.targets

    @property
    def is_fresh(self) -> bool:
        """Whether ``figures`` are those of the current selection."""
        return self.figures is not None and self.figures.candidate == self.current

    @property
    def effects_are_fresh(self) -> bool:
        """Whether ``effects`` are those of the current selection, beside the recommended one where there is one."""
        return self.effects is not None and (self.effects.candidate, self.effects.reference) == (self.current, self.pick)

    # --- changing it ----------------------------------------------------------------------------------------------

    def set_inputs(self, **changes: object) -> None:
        """Change fields of ``inputs``."""
        self.inputs = replace(self.inputs, **changes)  # type: ignore[arg-type]
        self._tell(Change.INPUTS)

    def open(self, opened: Opened, current: Candidate, named: Iterable[Candidate] = (), is_chosen: bool = False) -> None:
        """Look at another probe; everything said of the last one is dropped."""
        self.opened, self.current, self.is_chosen = opened, current, is_chosen
        self.recommendation = self.headline = self.confirmation = self.figures = self.pick_figures = self.effects = None
        self.named = {candidate.selection.name: candidate for candidate in named}
        self._undo, self._redo = [], []
        if self.measure not in self.measures:
            self.measure = MEASURES[0]
        self._tell(Change.PROBE)

    def toggle(self, names: Iterable[str]) -> None:
        """Add the named modules; where all of them are in already, take them out. Unknown names are ignored."""
        if self.current is None:
            return
        known = {t.name for t in self.targets}
        group = known & set(names)
        if not group:
            return
        chosen = self.chosen
        wanted = chosen - group if group <= chosen else chosen | group
        self.choose(self._with_modules(self.current, wanted))

    def _with_modules(self, candidate: Candidate, wanted: frozenset[str]) -> Candidate:
        targets = tuple(t.name for t in self.targets if t.name in wanted)
        return replace(
            candidate,
            selection=replace(candidate.selection, name=self._name_of(targets), targets=targets),
            ranks={name: rank for name, rank in candidate.ranks.items() if name in wanted},
            alphas={name: alpha for name, alpha in candidate.alphas.items() if name in wanted},
        )

    def _name_of(self, targets: tuple[str, ...]) -> str:
        """The name under which these modules are known, else ``EDITED``."""
        known = [*self.named.values(), *([self.pick] if self.pick else [])]
        return next((c.selection.name for c in known if c.selection.targets == targets), EDITED)

    def choose(self, candidate: Candidate) -> None:
        """Make ``candidate`` the current selection; can be undone."""
        if self.current is None or candidate == self.current:
            return
        self._undo = [*self._undo, self.current][-HISTORY:]
        self._redo = []
        self.is_chosen = True
        self._set_current(candidate)

    def undo(self) -> bool:
        """Back to the selection before the last change; False if there is none."""
        if not self._undo or self.current is None:
            return False
        self._redo.append(self.current)
        self._set_current(self._undo.pop())
        return True

    def redo(self) -> bool:
        """Undo the last undo; False if there is none."""
        if not self._redo or self.current is None:
            return False
        self._undo.append(self.current)
        self._set_current(self._redo.pop())
        return True

    def reset(self) -> bool:
        """To the recommended selection; False if there is none yet."""
        if self.pick is None:
            return False
        self.choose(self.pick)
        return True

    def _set_current(self, candidate: Candidate) -> None:
        self.current = candidate
        self._tell(Change.SELECTION)

    def recommend(
        self, recommendation: Recommendation, headline: Headline | None = None, confirmation: Confirmation | None = None
    ) -> None:
        """Take the result of a search, or of real runs; it becomes the current selection unless the user has chosen something
        already."""
        was_pick = self.is_pick
        self.recommendation, self.headline, self.confirmation = recommendation, headline, confirmation
        self._tell(Change.RECOMMENDATION)
        if self.current is not None and (was_pick or not self.is_chosen):
            self._set_current(recommendation.picked.candidate)

    def take_runs(self, found: Confirmed) -> None:
        """Take what real runs came to: from now on everything is predicted in their light."""
        self.opened, self.figures, self.pick_figures, self.effects = found.opened, None, None, None
        self.recommend(found.recommendation, found.headline, found.confirmation)

    def show_figures(self, figures: Figures) -> None:
        """Take what was computed, of the current or of an earlier selection, or of the recommended one."""
        if self.pick is not None and figures.candidate == self.pick:
            self.pick_figures = figures
        self.figures = figures
        self._tell(Change.FIGURES)

    def show_effects(self, effects: Effects) -> None:
        self.effects = effects
        self._tell(Change.EFFECTS)

    @property
    def measures(self) -> tuple[str, ...]:
        """Those of ``MEASURES`` that the probe at hand has: without rows to keep nothing disturbs any."""
        has_kept = self.opened is None or self.opened.probe.keep is not None
        return MEASURES if has_kept else tuple(measure for measure in MEASURES if measure != DISTURBS)

    def show_measure(self, measure: str) -> None:
        """Colour the heat-map by another of ``measures``."""
        if measure in self.measures and measure != self.measure:
            self.measure = measure
            self._tell(Change.MEASURE)

    def keep(self, name: str) -> None:
        """Keep the current selection under ``name``, in place of what had that name."""
        if self.current is not None:
            kept = replace(self.current, selection=replace(self.current.selection, name=name))
            self.named = {**self.named, name: kept}
            self.current, self.is_chosen = kept, True
            self._tell(Change.NAMED)

    def forget(self, name: str) -> None:
        """Drop a kept selection."""
        self.named = {other: candidate for other, candidate in self.named.items() if other != name}
        self._tell(Change.NAMED)
