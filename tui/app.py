"""The app: places, the shared state, work off the event loop, errors, what is kept between sessions."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Print
from textual.screen import Screen
from textual.widget import AwaitMount

from advisor.core.errors import AdvisorError
from advisor.core.option import values
from tui.activity import Activity, outcome, said
from tui.answers import Answers
from tui.base import OF_EVERY_APP, AdvisorScreen, Context, Place, Places
from tui.inputs import Inputs
from tui.jobs import TRAINS
from tui.keep import Kept, read_session, session_file, write_session
from tui.lineup import Lineup
from tui.state import Change, State
from tui.work import Happened

if TYPE_CHECKING:
    from textual.command import Provider

    from advisor.core.candidate import Candidate
    from tui.engine import Engine, Opened
    from tui.setup import SetupScreen

KEEP_AFTER = 0.5  # seconds without a change until the session is written
LOG_LINES = 5000
MERE_MOVES = ("app.focus", "app.next_place")


def palette() -> type[Provider]:
    """Imported when the palette is first opened."""
    from tui.palette import Commands

    return Commands


class AdvisorApp(Answers):
    """``advisor tui``."""

    TITLE = "LoRA layer advisor"
    PLACES: ClassVar[tuple[Place, ...]] = (
        Place("setup", "Setup", "tui.setup", "SetupScreen", False),
        Place("probe", "Probe", "tui.probe", "ProbeScreen", False),
        Place("explore", "Explore", "tui.explore", "ExploreScreen", True),
        Place("pareto", "Pareto", "tui.pareto", "ParetoScreen", True),
        Place("compare", "Compare", "tui.compare", "CompareScreen", True),
        Place("confirm", "Confirm", "tui.confirm", "ConfirmScreen", True),
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
    #context { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
    Toast { max-width: 60; }
    OptionList { text-overflow: ellipsis; }  /* Textual fails to fold a word where there is no room at all */
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
        writes: bool = False,
        confirms: bool = False,
    ) -> None:
        """
        Args:
            inputs: what Setup shows at first; None: what the last session had.
            probe_folder: open this probe in Explore. start: probe ``inputs`` at once. demo: fill in the embedded model
                and data. writes: write the first recommendation to its folder, as the command does. confirms: make real runs
                first.
        """
        super().__init__()
        self._engine = engine
        self.session_path = session_path or session_file()
        self.kept: Kept = read_session(self.session_path)
        self.state = State(inputs or self.kept.inputs)
        self.lineup = Lineup()
        self.state.show_measure(self.kept.measure)
        self.recent = list(self.kept.recent)
        self.activity: Activity | None = None
        self.log_lines: deque[str] = deque(maxlen=LOG_LINES)
        self.probe_folder, self._start, self._demo = probe_folder, start, demo
        self._writes, self._confirms = writes, confirms
        self.written: tuple[Path, ...] = ()  # the recommendation's files
        self._keep_timer: Any = None
        self.attempts = 0  # probes started in this session
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
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.terminal_is_gone)

    def on_ready(self) -> None:
        """Textual paints nothing before this returns: whatever takes time waits until Setup's first lines are there."""
        self.call_later(self.screen.call_after_refresh, self._begin)

    async def _begin(self) -> None:
        gc.enable()
        setup = cast("SetupScreen", self.screen)  # no key leads elsewhere yet
        await setup.show_form()
        if self.probe_folder is not None:
            self.open_probe(self.probe_folder)
        elif self._demo:
            setup.action_demo()
        elif self._start:
            setup.call_later(setup.action_probe)  # its fields say first what they hold
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
        from tui.palette import Palette

        self.visits += 1
        while isinstance(self.screen, Palette):  # its commands are those of the screen that is left
            self.screen.dismiss()
        switched = super().switch_mode(mode)
        self._follow_in_view()
        return switched

    def _follow_in_view(self) -> None:
        """Nobody sees an answer to another question; but while one fills in Setup, nothing is predicted at each keystroke."""
        if self.current_mode not in ("setup", "probe"):
            self.follow_inputs()

    def action_show(self, mode: str) -> None:
        """Go to a place."""
        if isinstance(self.screen, AdvisorScreen) or mode != self.current_mode:
            if self.can_show(mode):
                self.switch_mode(mode)
            else:
                self.notify("First open a probe: Setup lists recent ones.", severity="warning", markup=False)

    def action_next_place(self, step: int) -> None:
        modes = [place.mode for place in self.PLACES if self.can_show(place.mode)]
        self.switch_mode(modes[(modes.index(self.current_mode) + step) % len(modes)])

    def action_command_palette(self) -> None:
        from tui.palette import Palette

        if not isinstance(self.screen, Palette):
            self.push_screen(Palette())  # without an id: the last one may still be on its way out

    def search_themes(self) -> None:
        from textual.theme import ThemeProvider

        from tui.palette import Palette

        self.push_screen(Palette(providers=[ThemeProvider], placeholder="Search for themes…"))

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
        if change is Change.RECOMMENDATION and not self.is_behind:
            if self._confirms:
                self._confirms = False
                self.action_show("confirm")
                self.call_later(self.start_confirm)
            elif self._writes:
                self._write_first()
        for screen in self.places_in_view():
            if change in (Change.PROBE, Change.INPUTS):
                screen.query_one(Context).show()
            if change is Change.PROBE:
                screen.query_one(Places).show()
            screen.state_changed(change)
        if change is Change.INPUTS:
            self._follow_in_view()

    def write_recommendation(self, out: Path, overwrite: bool, done: Callable[[tuple[Path, ...]], None]) -> bool:
        """Write the recommendation's folder as the command does, then ``done(files)``; False while one is being written."""
        state, inputs, engine = self.state, self.state.inputs, self.engine
        opened, rec, found = state.opened, state.recommendation, state.confirmation
        assert opened is not None
        assert rec is not None

        def written(files: tuple[Path, ...]) -> None:
            self.written = files
            self.notify(f"Recommendation written to {files[0].parent}: {', '.join(f.name for f in files)}.", markup=False)
            done(files)

        return self.start_run("write", lambda s: engine.write(opened, rec, found, inputs, out, overwrite, s), written)

    def _write_first(self) -> None:
        """The first recommendation, once, where the command was asked to write it."""
        self._writes = not self.write_recommendation(self.runs_folder, False, lambda _: None)

    def places_in_view(self) -> list[AdvisorScreen]:
        """The screen of the present place, also under a dialog."""
        return [screen for screen in self.screen_stack if isinstance(screen, AdvisorScreen) and screen.is_mounted]

    # --- what runs report -----------------------------------------------------------------------------------------------

    def under_way(self) -> str:
        now = self.activity.progress.get(self.activity.stage) if self.activity is not None else None
        return f"the batch at hand ({now.stage}: {now.done} of {now.total})" if now else "model and data, which are being loaded"

    def run_ended(self, name: str, error: Exception | None) -> None:
        """Keep how it ended, and let the screen in view redraw."""
        super().run_ended(name, error)
        if name == "probe" and self.activity is not None:
            self.activity.outcome = outcome(error)
        if name == "confirm" and error is not None and self._writes and self.state.recommendation is not None:
            self._write_first()  # as predicted
        for screen in self.places_in_view():
            screen.run_ended(name, error)
            screen.state_changed(None)

    def on_happened(self, message: Happened) -> None:
        self.heard(message.run, message.event)
        line = None
        if message.run == "probe" and self.activity is not None:
            line = self.activity.take(message.event)
        elif message.run in TRAINS:
            line = said(message.event)
        if line is not None:
            self.add_log_line(line)
        for screen in self.places_in_view():
            screen.show_event(message.run, message.event)

    def on_print(self, event: Print) -> None:
        """What a library prints goes to the log of the probe."""
        for line in event.text.splitlines():
            if line.strip():
                self.add_log_line(line.rstrip())

    def add_log_line(self, line: str) -> None:
        self.log_lines.append(line)
        for screen in self.places_in_view():
            screen.add_log_line(line)

    # --- probes -------------------------------------------------------------------------------------------------------

    def open_probe(self, folder: Path) -> None:
        """Load a probe from disk, then go to Explore."""
        inputs, opened = self.state.inputs, self.state.opened
        if opened is not None and opened.folder == folder:
            last = self.state.selected, self.state.is_chosen
        else:
            last = (self.kept.selection, self.kept.is_chosen) if self.kept.probe == str(folder) else (None, False)
        self.ask("open", lambda: self.load(self.engine.open(folder, inputs), *last), self._arrive)

    def fill_demo(self) -> None:
        """Fill in the embedded model and data, and the default of all else. The command line's demo keeps what is asked beside
        it, and is probed at once with ``start``."""
        asked, starts = (self.state.inputs, self._start) if self._demo else (Inputs(), False)
        self._demo = False

        def fill(found: tuple[str, str]) -> None:
            model, data = found
            self.state.set_inputs(**values(replace(asked, model=model, data=data)))
            if starts:
                self.action_start_probe()

        self.ask("demo", self.engine.demo, fill)

    def action_start_probe(self) -> None:
        """Probe what ``inputs`` says, then go to Explore."""
        inputs = self.state.inputs
        if self.start_run("probe", lambda s: self.load(self.engine.probe(inputs, s)), partial(self._arrive, after_probing=True)):
            self.activity = Activity()
            self.attempts += 1
            self.add_log_line(f"── Attempt {self.attempts}: {inputs.model} on {inputs.data}")
            self.switch_mode("probe")
        else:
            what = "has not stopped yet: press F5 again once it has" if self.activity and self.activity.stopping else "is running"
            self.notify(f"The last probe {what}.", severity="warning", markup=False)

    def load(
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

    def show_opened(self, found: tuple[Opened, Candidate, list[Candidate], bool]) -> None:
        opened = found[0]
        self.cancel("search")
        last = self.state.opened
        self.recent = [str(opened.folder), *(f for f in self.recent if f != str(opened.folder))]
        self.standing = None
        self.state.open(*found)
        self.follow_inputs()  # they may have changed while it was made
        if last is not None:
            gc.unfreeze()
            gc.collect()
        gc.freeze()  # what a session keeps need not be looked through again while one toggles

    def _arrive(self, found: tuple[Opened, Candidate, list[Candidate], bool], after_probing: bool = False) -> None:
        """Look at another probe, in Explore; who fills in Setup while it is made stays there."""
        self.ran.clear()
        self.show_opened(found)
        if self.current_mode == "setup" and after_probing:
            self.notify("The probe is done. Explore shows it.", markup=False)
        elif self.current_mode in ("setup", "probe"):
            self.switch_mode("explore")

    # --- what is kept -------------------------------------------------------------------------------------------------

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
