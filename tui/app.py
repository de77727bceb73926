"""The app: places, the shared state, work off the event loop, errors, what is kept between sessions."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Print
from textual.screen import Screen
from textual.widget import AwaitMount

from advisor.core.crash import write_log
from advisor.core.errors import AdvisorError, Interrupted
from advisor.core.events import Event, Session
from advisor.core.option import options_of
from advisor.core.options import Scoring
from tui.activity import Activity, outcome
from tui.base import OF_EVERY_APP, AdvisorScreen, Place
from tui.inputs import Inputs
from tui.keep import Kept, read_session, session_file, write_session
from tui.lineup import Lineup
from tui.state import Change, State, entry
from tui.work import Happened, Latest

if TYPE_CHECKING:
    from textual.command import Provider

    from advisor.core.candidate import Candidate
    from tui.engine import Engine, Opened
    from tui.setup import SetupScreen

KEEP_AFTER = 0.5  # seconds without a change until the session is written
LOG_LINES = 5000
MERE_MOVES = ("app.focus", "app.next_place")
SCORED_AT = tuple(options_of(Scoring))


def palette() -> type[Provider]:
    """Imported when the palette is first opened."""
    from tui.palette import Commands

    return Commands


class AdvisorApp(App[None]):
    """``advisor tui``."""

    TITLE = "LoRA layer advisor"
    PLACES: ClassVar[tuple[Place, ...]] = (
        Place("setup", "Setup", "tui.setup", "SetupScreen", False),
        Place("probe", "Probe", "tui.probe", "ProbeScreen", False),
        Place("explore", "Explore", "tui.explore", "ExploreScreen", True),
        Place("pareto", "Pareto", "tui.pareto", "ParetoScreen", True),
        Place("compare", "Compare", "tui.compare", "CompareScreen", True),
        Place("export", "Export", "tui.export", "ExportScreen", True),
    )
    MODES: ClassVar[dict[str, Callable[[], Screen[Any]]]] = {place.mode: place.load for place in PLACES}  # type: ignore[assignment]
    DEFAULT_MODE = "setup"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", priority=True),
        Binding("ctrl+p", "command_palette", "Commands", show=True, priority=True),
        *(Binding(str(n), f"show('{place.mode}')", f"Go to {place.label}", show=False) for n, place in enumerate(PLACES, 1)),
    ]
    COMMANDS: ClassVar[set[Any]] = {palette}
    CSS = """
    Screen { layers: base above; }
    #places { height: 1; background: $panel; color: $text; link-style: none; link-color: $text; }
    Toast { max-width: 60; }
    """

    def __init__(
        self,
        inputs: Inputs | None = None,
        engine: Engine | None = None,
        *,
        session_path: Path | None = None,
        probe_folder: Path | None = None,
        start: bool = False,
        demo: bool = False,
    ) -> None:
        """
        Args:
            inputs: what Setup shows at first; None: what the last session had.
            probe_folder: open this probe in Explore. start: probe ``inputs`` at once. demo: fill in the embedded model
                and data.
        """
        super().__init__()
        self._engine = engine
        self.session_path = session_path or session_file()
        self.kept: Kept = read_session(self.session_path)
        self.state = State(inputs or self.kept.inputs)
        self.lineup = Lineup()
        self.state.show_measure(self.kept.measure)
        self.recent = list(self.kept.recent)
        self.runs: dict[str, Session] = {}
        self.activity: Activity | None = None
        self.log_lines: deque[str] = deque(maxlen=LOG_LINES)
        self.log_path: Path | None = None
        self._opened_at: tuple[Any, ...] = ()
        self._latest: dict[str, Latest] = {}
        self._probe_folder, self._start, self._demo = probe_folder, start, demo
        self._keep_timer: Any = None
        self.visits = 0  # how often a place was gone to
        self.has_begun = False  # the form is there, and what was asked for at the start is under way

    @property
    def engine(self) -> Engine:
        """The real one unless another was given, made when it is first asked something: not before the first paint."""
        if self._engine is None:
            from tui.real_engine import RealEngine

            self._engine = RealEngine()
        return self._engine

    def on_mount(self) -> None:
        if self.kept.theme in self.available_themes:
            self.theme = self.kept.theme
        self.state.subscribe(self._state_changed)
        self.theme_changed_signal.subscribe(self, lambda _: self.keep_soon())
        self.begin_capture_print(self)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._terminal_is_gone)

    def on_ready(self) -> None:
        """Textual paints nothing before this returns: whatever takes time waits until Setup's first lines are there."""
        self.call_later(self.screen.call_after_refresh, self._begin)

    async def _begin(self) -> None:
        gc.enable()
        setup = cast("SetupScreen", self.screen)  # no key leads elsewhere yet
        await setup.show_form()
        if self._probe_folder is not None:
            self.open_probe(self._probe_folder)
        elif self._demo:
            setup.action_demo()
        elif self._start:
            self.action_start_probe()
        self.has_begun = True
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """What is typed before the form is there would fall to the keys of the commands: until then one can only quit."""
        return self.has_begun or action == "quit"

    # --- places -------------------------------------------------------------------------------------------------------

    def can_show(self, mode: str) -> bool:
        place = next(place for place in self.PLACES if place.mode == mode)
        return self.state.opened is not None or not place.needs_probe

    def switch_mode(self, mode: str) -> AwaitMount:
        self.visits += 1
        return super().switch_mode(mode)

    def action_show(self, mode: str) -> None:
        """Go to a place."""
        if isinstance(self.screen, AdvisorScreen) or mode != self.current_mode:
            if self.can_show(mode):
                self.switch_mode(mode)
                if self.state.opened is not None and mode not in ("setup", "probe") and self._opened_at != self._scored_at():
                    self.open_probe(self.state.opened.folder)  # Setup names another rank or recipe now
            else:
                self.notify("First open a probe: Setup lists recent ones.", severity="warning", markup=False)

    def action_next_place(self, step: int) -> None:
        modes = [place.mode for place in self.PLACES if self.can_show(place.mode)]
        self.switch_mode(modes[(modes.index(self.current_mode) + step) % len(modes)])

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action that the screen binds a key to, every place, and Textual's own but for its other help. What only moves
        the cursor is found by searching."""
        found: dict[str, SystemCommand] = {}
        for active in screen.active_bindings.values():
            what, action = active.binding.description, active.binding.action
            if active.enabled and what and active.node is not self and not action.endswith(OF_EVERY_APP):
                run = lambda node=active.node, action=action: self.run_worker(self.run_action(action, node))  # noqa: E731
                is_listed = active.binding.show or (isinstance(active.node, AdvisorScreen) and not action.startswith(MERE_MOVES))
                keys = self.get_key_display(active.binding)
                found.setdefault(what, SystemCommand(what, f"Key {keys}", run, is_listed))
        yield from found.values()
        for place in self.PLACES:
            if self.can_show(place.mode):
                yield SystemCommand(f"Go to {place.label}", "Another screen", lambda m=place.mode: self.action_show(m))
        yield from (command for command in super().get_system_commands(screen) if command.title != "Keys")

    def _state_changed(self, change: Change) -> None:
        if change in (Change.PROBE, Change.SELECTION, Change.INPUTS, Change.MEASURE, Change.NAMED):
            self.keep_soon()
        for screen in self._in_view():
            screen.state_changed(change)

    def _in_view(self) -> list[AdvisorScreen]:
        """The screen of the present place, also under a dialog."""
        return [screen for screen in self.screen_stack if isinstance(screen, AdvisorScreen) and screen.is_mounted]

    # --- work off the event loop --------------------------------------------------------------------------------------

    def ask(self, topic: str, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run ``job`` in a thread, then ``done(result)`` on the event loop; of many waiting jobs of one topic only the
        newest is run. Errors become a dialog."""
        self._latest.setdefault(topic, Latest(self.show_error)).ask(job, done)

    def is_busy(self, topic: str) -> bool:
        """Whether a job of this topic is under way."""
        return topic in self._latest and self._latest[topic].is_busy

    @property
    def topics(self) -> tuple[str, ...]:
        """Of all questions asked so far."""
        return tuple(self._latest)

    def start_run(self, name: str, job: Callable[[Session], Any], done: Callable[[Any], None]) -> bool:
        """Run ``job(session)`` in a thread: long, cancellable, its events arrive as :class:`Happened`. False if one of
        this name is under way."""
        if name in self.runs:
            return False
        session = Session(emit=lambda event: self._happened(name, event))
        self.runs[name] = session
        self.run_worker(self._run(name, session, job, done), group=name, exit_on_error=False)
        return True

    def _happened(self, name: str, event: Event) -> None:
        """On the engine's thread."""
        self.post_message(Happened(name, event))

    async def _run(self, name: str, session: Session, job: Callable[[Session], Any], done: Callable[[Any], None]) -> None:
        error: Exception | None = None
        result: Any = None
        try:
            result = await asyncio.to_thread(job, session)
        except Exception as raised:
            error = raised
        finally:
            self.runs.pop(name, None)
        self.run_ended(name, error)
        if error is None:
            done(result)
        elif not isinstance(error, Interrupted):
            self.show_error(error)

    def run_ended(self, name: str, error: Exception | None) -> None:
        """Keep how it ended, and let the screen in view redraw."""
        if name == "probe" and self.activity is not None:
            self.activity.outcome = outcome(error)
        for screen in self._in_view():
            screen.run_ended(name, error)
            screen.state_changed(None)

    def on_happened(self, message: Happened) -> None:
        if message.run == "probe" and self.activity is not None:
            line = self.activity.take(message.event)
            if line is not None:
                self.add_log_line(line)
        for screen in self._in_view():
            screen.show_event(message.run, message.event)

    def on_print(self, event: Print) -> None:
        """What a library prints goes to the log of the probe."""
        for line in event.text.splitlines():
            if line.strip():
                self.add_log_line(line.rstrip())

    def add_log_line(self, line: str) -> None:
        self.log_lines.append(line)
        for screen in self._in_view():
            screen.add_log_line(line)

    def cancel(self, name: str) -> bool:
        """Ask a run to stop at its next safe point; False if there is none."""
        if name not in self.runs:
            return False
        self.runs[name].cancel.set()
        return True

    # --- probes -------------------------------------------------------------------------------------------------------

    def open_probe(self, folder: Path) -> None:
        """Load a probe from disk, then go to Explore."""
        inputs, last = self.state.inputs, self._selection_for(folder)
        self.ask("open", lambda: self._load(self.engine.open(folder, inputs), *last), self._show_opened)

    def _selection_for(self, folder: Path) -> tuple[dict[str, Any] | None, bool]:
        """What was selected when this probe was last looked at, and whether by the user; at the common rank, it follows a
        change of that."""
        opened, current = self.state.opened, self.state.current
        if opened is None or current is None or opened.folder != folder:
            return (self.kept.selection, self.kept.is_chosen) if self.kept.probe == str(folder) else (None, False)
        found = entry(current)
        if current.settings == opened.scorer.settings:
            found = {key: value for key, value in found.items() if key not in ("rank", "alpha", "rslora")}
        return found, self.state.is_chosen

    def fill_demo(self) -> None:
        """Fill in the embedded model and data; with ``start``, probe them."""

        def fill(found: tuple[str, str]) -> None:
            model, data = found
            self.state.set_inputs(model=model, data=data, task="auto", text_column=None, label_column=None, metric=None)
            if self._start:
                self.action_start_probe()

        self.ask("demo", self.engine.demo, fill)

    def action_start_probe(self) -> None:
        """Probe what ``inputs`` says, then go to Explore."""
        inputs = self.state.inputs
        if self.start_run("probe", lambda s: self._load(self.engine.probe(inputs, s)), self._show_opened):
            self.activity = Activity()
            self.switch_mode("probe")

    def _load(
        self, opened: Opened, selection: dict[str, Any] | None = None, is_chosen: bool = False
    ) -> tuple[Opened, Candidate, list[Candidate], bool]:
        """With the selection to begin with: the given one, if it still fits. In a thread."""
        named = self.engine.kept(opened)
        if selection is not None:
            try:
                return opened, self.engine.read(opened, [selection], "last session")[0], named, is_chosen
            except AdvisorError:
                pass  # the probe changed since
        usual = self.engine.target_sets(opened)
        return opened, next((c for c in usual if c.selection.name == "q,v"), usual[0]), named, False

    def _scored_at(self) -> tuple[Any, ...]:
        """The inputs that a scorer is made for."""
        return tuple(getattr(self.state.inputs, name) for name in SCORED_AT)

    def _show_opened(self, found: tuple[Opened, Candidate, list[Candidate], bool]) -> None:
        opened = found[0]
        self._opened_at = self._scored_at()
        self.cancel("search")
        self.recent = [str(opened.folder), *(f for f in self.recent if f != str(opened.folder))]
        self.state.open(*found)
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # what a session keeps need not be looked through again while one toggles
        if self.current_mode in ("setup", "probe"):
            self.switch_mode("explore")

    # --- errors -------------------------------------------------------------------------------------------------------

    def show_error(self, error: BaseException) -> None:
        """An expected error as a dialog with its next step, any other one with the file that tells more."""
        from tui.dialogs import ErrorDialog

        if isinstance(error, AdvisorError):
            self.push_screen(ErrorDialog(error.what, error.hint))
            return
        self.log_path = write_log(error)
        where = f"Details: {self.log_path}" if self.log_path else "Its details could not be written to a file."
        self.push_screen(ErrorDialog(f"Unexpected error: {type(error).__name__}: {error}", where))

    def _handle_exception(self, error: Exception) -> None:
        """An unexpected error in the interface itself ends the app; the session is kept, the log's path printed."""
        self.keep_now()
        self.log_path = write_log(error)
        super()._handle_exception(error)

    # --- what is kept, leaving ----------------------------------------------------------------------------------------

    def keep_soon(self) -> None:
        """Write the session file once nothing has changed for a moment."""
        if self._keep_timer is not None:
            self._keep_timer.stop()
        self._keep_timer = self.set_timer(KEEP_AFTER, self.keep_now)

    def keep_now(self) -> None:
        """Write the session file; that it cannot be written is no reason to stop."""
        try:
            write_session(self.session_path, self.state, self.theme, self.recent, self.kept)
        except (AdvisorError, OSError) as error:
            self.log.error(f"session not kept: {error}")

    async def action_quit(self) -> None:
        """Quit; during a probe, ask first."""
        from tui.dialogs import Question

        if "probe" not in self.runs:
            self.leave()
            return
        question = Question(
            "A probe is running",
            "Quit? The probe stops after its present batch. What is done is kept: probe again to resume.",
            {"stay": "Stay", "quit": "Stop and quit"},
        )
        self.push_screen(question, lambda answer: self.leave() if answer == "quit" else None)

    def leave(self) -> None:
        """Keep the session, stop what runs, exit."""
        for name in tuple(self.runs):
            self.cancel(name)
        self.keep_now()
        self.exit()

    def _terminal_is_gone(self) -> None:
        """SIGHUP: nobody can answer any more."""
        self.leave()
