"""The app's search for a recommendation, and what follows when one asks for another budget, rank or recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.choices import EFFORTS, PREDICTED, SOME_RUNS
from advisor.core.events import Event, Note, Progress, Session
from advisor.core.option import options_of
from advisor.core.option_groups import Budget, Ceiling, Scoring, Seed, Strategy
from tui.jobs import TRAINS, Jobs
from tui.state import State
from tui.work import Stood

if TYPE_CHECKING:
    from advisor.advice.recommend import Recommendation
    from tui.engine import Confirmed, Engine, Headline, Opened, Standing

RECOMMENDATION, CONFIRM_FOLDER = "recommendation", "confirm"  # where `advisor recommend` writes, and keeps its real runs
CALIBRATION_FOLDER = "calibration"  # beside them: runs that the predictor learns from
SCORED_AT = tuple(options_of(Scoring))
SEARCHED_FOR = tuple(name for group in (Budget, Strategy, Ceiling, Seed) for name in options_of(group))


class Answers(Jobs):
    """Jobs that lead to what is recommended.

    Attributes:
        announced: what the real runs under way take, in words; empty before that is known.
        standing: how it stands after the real runs so far; None where none were asked for.
        runs_folder: the recommendation's folder, in which real runs are kept.
    """

    state: State

    def __init__(self) -> None:
        super().__init__()
        self._progress = ""  # of the search at hand
        self._searched: tuple[Any, ...] = ()  # what was looked for last, and
        self._answered: tuple[Any, ...] = ()  # what the recommendation is for: each as :attr:`_wanted` said then
        self.ran: dict[tuple[Any, ...], Confirmed] = {}  # what real runs came to, by what was asked of this probe
        self.announced = ""
        self.standing: Standing | None = None
        self.runs_folder = Path(RECOMMENDATION)

    @property
    def engine(self) -> Engine:
        raise NotImplementedError

    @property
    def _is_scored(self) -> bool:
        """Whether the open probe is scored at the rank and recipe that are asked for."""
        opened, inputs = self.state.opened, self.state.inputs
        return opened is not None and all(getattr(inputs, name) == getattr(opened.inputs, name) for name in SCORED_AT)

    @property
    def _wanted(self) -> tuple[Any, ...]:
        """All that a search depends on, once the probe is scored."""
        return self.state.opened, *(getattr(self.state.inputs, name) for name in SEARCHED_FOR)

    @property
    def _question(self) -> tuple[Any, ...]:
        """All that is asked of the open probe."""
        return tuple(getattr(self.state.inputs, name) for name in (*SCORED_AT, *SEARCHED_FOR))

    @property
    def is_behind(self) -> bool:
        """Whether the recommendation is not, or not yet, of what is asked for."""
        return not self._is_scored or self._wanted != self._answered

    @property
    def searching(self) -> str:
        """What is being done for another recommendation; empty where nothing is."""
        if "search" in self.runs:
            return self._progress
        return "predicting anew" if self.is_busy("rescore") else ""

    def follow_inputs(self) -> None:
        """Score and search anew where rank, recipe or budget are no longer those of what is shown; what real runs have answered
        already is shown again. Called when they change in view of a screen that shows the probe, on each way to such a screen,
        when a probe arrives, when a search ends."""
        opened, inputs, engine = self.state.opened, self.state.inputs, self.engine
        if opened is None:
            return
        known = self.ran.get(self._question)
        if not self._is_scored:
            self._show_rescored(opened, lambda: known.opened if known else engine.rescored(opened, inputs))
        elif known is None:
            self._search()
        elif self.state.recommendation is not known.recommendation:
            self.cancel("search")
            self._take_runs(known)

    def _show_rescored(self, opened: Opened, job: Callable[[], Opened]) -> None:
        """Put what ``job`` makes of a probe in its place, unless another one is looked at by then."""
        last = self.state.selected, self.state.is_chosen

        def done(found: Any) -> None:
            if self.state.opened is opened:
                self.show_opened(found)

        self.ask("rescore", lambda: self.load(job(), *last), done)

    def load(self, opened: Opened, selection: dict[str, Any] | None, is_chosen: bool) -> Any:
        """What :meth:`show_opened` takes. In a thread."""
        raise NotImplementedError

    def show_opened(self, found: Any) -> None:
        """Look at a probe, or at the same one scored anew."""
        raise NotImplementedError

    def _search(self) -> None:
        """Look for a recommendation beside everything else."""
        engine, inputs, opened, wanted = self.engine, self.state.inputs, self.state.opened, self._wanted
        if opened is None or wanted == self._searched:
            return

        def job(session: Any) -> tuple[Recommendation, Headline]:
            found = engine.recommend(opened, inputs, session)
            return found, engine.headline(opened, found, None)

        if self.start_run("search", job, partial(self._found, wanted)):
            self._searched = wanted
            self._progress = "searching for the best selection"
            for screen in self.places_in_view():
                screen.run_began("search")
        else:
            self._searched = ()
            self.cancel("search")  # its end brings us here again

    def _found(self, wanted: tuple[Any, ...], found: tuple[Recommendation, Headline]) -> None:
        if wanted == self._wanted:
            self._answered = wanted
            if "confirm" not in self.runs:
                self.standing = None  # it was of another recommendation
            self.state.recommend(*found)

    # --- real runs ------------------------------------------------------------------------------------------------------

    @property
    def runs_asked(self) -> int:
        """How many real runs are allowed."""
        return self.state.inputs.real_runs or EFFORTS[SOME_RUNS]

    def start_confirm(self) -> None:
        """Make real runs, and take what they come to."""
        state, engine, folder = self.state, self.engine, self.runs_folder / CONFIRM_FOLDER
        opened, rec, inputs, asked = state.opened, state.recommendation, state.inputs, self.runs_asked
        if opened is None or rec is None:
            self.notify("There is no pick yet to confirm.", severity="warning", markup=False)
            return
        if self.is_behind:
            self.notify("There is no pick yet for what is asked.", severity="warning", markup=False)
            return
        if rec.strategy != PREDICTED:
            said = f"Real runs correct predictions, but --strategy {rec.strategy} does not choose by them."
            self.notify(said, severity="warning", markup=False)
            return

        def tell(standing: Standing) -> None:
            self.post_message(Stood(standing))

        def job(session: Session) -> Confirmed:
            return engine.confirm(opened, rec, inputs, asked, folder, session, tell)

        if not self._trains() and self.start_run("confirm", job, partial(self._confirmed, opened, rec)):
            self.standing, self.announced = None, ""

    def start_calibration(self) -> None:
        """Make real runs of the usual and random target sets, and let the predictor learn from them."""
        opened, inputs, engine, asked = self.state.opened, self.state.inputs, self.engine, self.runs_asked
        folder = self.runs_folder / CALIBRATION_FOLDER
        if opened is None:
            return

        def job(session: Session) -> tuple[Opened, int]:
            return engine.calibrate(opened, inputs, asked, folder, session)

        if not self._trains():
            self.start_run("calibrate", job, partial(self._calibrated, opened))

    def _trains(self) -> bool:
        """Whether real runs are under way; if so, say it."""
        if trains := not self.runs.keys().isdisjoint(TRAINS):
            self.notify("Real runs are under way.", severity="warning", markup=False)
        return trains

    def _calibrated(self, opened: Opened, found: tuple[Opened, int]) -> None:
        scored, rows = found
        if self.state.opened is not opened:
            self.notify("Another probe is open now. The runs are kept, and its predictions learn from them too.", markup=False)
            return
        self.notify(f"Predictions now learn from {rows} runs on these rows.", markup=False)
        self.ran.clear()
        self._show_rescored(opened, lambda: scored)

    def _confirmed(self, opened: Opened, rec: Recommendation, found: Confirmed) -> None:
        if self.state.opened is opened and self.state.recommendation is rec:
            self.ran[self._question] = found
            self._take_runs(found)
        else:
            self.standing = None
            self.notify("Something else is asked now. The runs are kept, and count once they are asked for again.", markup=False)

    def _take_runs(self, found: Confirmed) -> None:
        self._searched = self._answered = (found.opened, *self._wanted[1:])
        self.standing = found.standing
        self.state.take_runs(found)

    def on_stood(self, message: Stood) -> None:
        self.standing = message.standing
        for screen in self.places_in_view():
            screen.show_standing()

    def places_in_view(self) -> list[Any]:
        """The screen of the present place, also under a dialog."""
        raise NotImplementedError

    def run_ended(self, name: str, error: Exception | None) -> None:
        if name == "search":
            self.follow_inputs()

    def heard(self, run: str, event: Event) -> None:
        """An event of a run."""
        if run == "confirm" and isinstance(event, Note) and event.brief:
            self.announced = event.text
        if run == "search" and run in self.runs and isinstance(event, Progress):
            self._progress = f"searching: {event.stage.lower()} {event.done} of {event.total}"
