"""The app's search for a recommendation, and what follows when one asks for another budget, rank or recipe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.choices import EFFORTS, PREDICTED, SOME_RUNS
from advisor.core.events import Event, Progress, Session
from advisor.core.option import options_of
from advisor.core.option_groups import Scoring
from tui.jobs import TRAINS, Jobs
from tui.state import State
from tui.work import Stood

if TYPE_CHECKING:
    from advisor.advice.recommend import Recommendation
    from tui.engine import Confirmed, Engine, Headline, Opened, Standing

RECOMMENDATION, CONFIRM_FOLDER = "recommendation", "confirm"  # where `advisor recommend` writes, and keeps its real runs
CALIBRATION_FOLDER = "calibration"  # beside them: runs that the predictor learns from
SCORED_AT = tuple(options_of(Scoring))
SEARCHED_FOR = ("budget", "granularity", "strategy", "seed")


class Answers(Jobs):
    """Jobs that lead to what is recommended.

    Attributes:
        searching: what the search at hand is doing; empty where none is under way.
        standing: how it stands after the real runs so far; None where none were asked for.
        runs_folder: the recommendation's folder, in which real runs are kept.
    """

    state: State

    def __init__(self) -> None:
        super().__init__()
        self.searching = ""
        self._searched: tuple[Any, ...] = ()
        self.standing: Standing | None = None
        self.runs_folder = Path(RECOMMENDATION)

    @property
    def engine(self) -> Engine:
        raise NotImplementedError

    def follow_inputs(self) -> None:
        """Score and search anew where rank, recipe or budget are no longer those of what is shown."""
        opened, inputs, engine = self.state.opened, self.state.inputs, self.engine
        if opened is None:
            return
        if all(getattr(inputs, name) == getattr(opened.inputs, name) for name in SCORED_AT):
            self.search()
            return

        def rescored(found: Any) -> None:
            if self.state.opened is opened:
                self.show_opened(found)

        last = self.state.selected, self.state.is_chosen
        self.ask("rescore", lambda: self.load(engine.rescored(opened, inputs), *last), rescored)

    def load(self, opened: Opened, selection: dict[str, Any] | None, is_chosen: bool) -> Any:
        """What :meth:`show_opened` takes. In a thread."""
        raise NotImplementedError

    def show_opened(self, found: Any) -> None:
        """Look at a probe, or at the same one scored anew."""
        raise NotImplementedError

    def search(self) -> None:
        """Look for a recommendation beside everything else."""
        engine, inputs, opened = self.engine, self.state.inputs, self.state.opened
        wanted = opened, *(getattr(inputs, name) for name in SEARCHED_FOR)
        if opened is None or wanted == self._searched:
            return

        def job(session: Any) -> tuple[Recommendation, Headline]:
            found = engine.recommend(opened, inputs, session)
            return found, engine.headline(opened, found, None)

        if self.start_run("search", job, partial(self._found, opened)):
            self._searched = wanted
            self.searching = "searching for the best selection"
            for screen in self.places_in_view():
                screen.run_began("search")
        else:
            self.cancel("search")  # its end brings us here again

    def _found(self, opened: Opened, found: tuple[Recommendation, Headline]) -> None:
        if self.state.opened is opened:
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
        if rec.strategy != PREDICTED:
            said = f"Real runs correct predictions, but --strategy {rec.strategy} does not choose by them."
            self.notify(said, severity="warning", markup=False)
            return

        def tell(standing: Standing) -> None:
            self.post_message(Stood(standing))

        def job(session: Session) -> Confirmed:
            return engine.confirm(opened, rec, inputs, asked, folder, session, tell)

        if not self._trains() and self.start_run("confirm", job, partial(self._confirmed, opened, rec)):
            self.standing = None

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
        last = self.state.selected, self.state.is_chosen
        self.ask("rescore", lambda: self.load(scored, *last), self.show_opened)

    def _confirmed(self, opened: Opened, rec: Recommendation, found: Confirmed) -> None:
        if self.state.opened is opened and self.state.recommendation is rec:
            self._searched = (found.opened, *self._searched[1:])
            self.state.take_runs(found)
        else:
            self.notify("Something else is asked now. The runs are kept, and count once they are asked for again.", markup=False)

    def on_stood(self, message: Stood) -> None:
        self.standing = message.standing
        for screen in self.places_in_view():
            screen.show_standing()

    def places_in_view(self) -> list[Any]:
        """The screen of the present place, also under a dialog."""
        raise NotImplementedError

    def run_ended(self, name: str, error: Exception | None) -> None:
        if name == "search":
            self.searching = ""
            self.search()

    def heard(self, run: str, event: Event) -> None:
        """An event of a run."""
        if run == "search" and run in self.runs and isinstance(event, Progress):
            self.searching = f"searching: {event.stage.lower()} {event.done} of {event.total}"
