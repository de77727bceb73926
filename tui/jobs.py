"""The app's work off the event loop, and how it ends: errors as dialogs, crashes, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import ScreenStackError

from advisor.core.crash import write_log
from advisor.core.errors import AdvisorError, Interrupted
from advisor.core.events import Event, Session
from tui.keys import InOrder
from tui.work import Happened, Latest, in_thread

if TYPE_CHECKING:
    from tui.dialogs import Question

KEPT = "What the probe has stored is kept: probing the same again goes on from there. The phase at hand may begin anew."
TRAINS = ("confirm", "calibrate")
TRAINING = ("Real runs are under way", "Quit? The run at hand is lost. Finished ones are kept, and count next time.")
ASKED_ABOUT = {  # before they are stopped
    "probe": ("A probe is running", f"Quit? The probe stops after its present batch. {KEPT}"),
    **dict.fromkeys(TRAINS, TRAINING),
}
WAITED_FOR = {"probe", "write"}  # runs that leave something behind


class Jobs(InOrder):
    """Questions and runs in threads. Subclasses draw what they report, and keep the session."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Session] = {}
        self.log_path: Path | None = None
        self.is_leaving = False
        self._latest: dict[str, Latest] = {}
        self._leaving: Question | None = None  # the question whether to stop what runs

    # --- what subclasses say ------------------------------------------------------------------------------------------

    def run_ended(self, name: str, error: Exception | None) -> None:
        """A run ended, well or by ``error``."""

    def keep_now(self) -> None:
        """Write the session file."""

    def under_way(self) -> str:
        """The long run at hand in a sentence."""
        return ""

    # --- jobs ---------------------------------------------------------------------------------------------------------

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
            result = await in_thread(lambda: job(session))
        except Exception as raised:
            error = raised
        finally:
            self.runs.pop(name, None)
        if self._leaving is not None and not self.runs.keys() & ASKED_ABOUT.keys():
            self._leaving.dismiss("stay")  # there is nothing left to ask about
        if self.is_leaving:
            if name == "write" and error is None:
                done(result)
            if not self.runs.keys() & WAITED_FOR:
                self.exit()
            return
        try:
            self.run_ended(name, error)
            if error is None:
                done(result)
            elif not isinstance(error, Interrupted):
                self.show_error(error)
        except Exception as ours:
            self.show_error(ours)

    def cancel(self, name: str) -> bool:
        """Ask a run to stop at its next safe point; False if there is none."""
        if name not in self.runs:
            return False
        self.runs[name].cancel.set()
        return True

    # --- errors -------------------------------------------------------------------------------------------------------

    def show_error(self, error: BaseException) -> None:
        """An expected error as a dialog with its next step, any other one with the file that tells more."""
        from tui.ask import AskBar
        from tui.dialogs import ErrorDialog
        from tui.form import by_fields

        if self.is_leaving or not self.is_running:
            return
        if isinstance(error, AdvisorError):
            what, hint = by_fields(error.what), by_fields(error.hint)
            if isinstance(self.screen, AskBar):  # a dialog would take the keys of whoever types
                self.screen.say(f"{what} {hint}".strip())
            else:
                self.push_screen(ErrorDialog(what, hint))
            return
        self.log_path = write_log(error)
        where = f"Details: {self.log_path}" if self.log_path else "Its details could not be written to a file."
        self.push_screen(ErrorDialog(f"Unexpected error: {type(error).__name__}: {error}", where))

    def _handle_exception(self, error: Exception) -> None:
        """An unexpected error in the interface itself ends the app: runs are told to stop, the session is kept, and the
        terminal gets one sentence with the log's path instead of a traceback. What a timer asks of the screens when all of
        them are gone, as while the app closes, is no error."""
        if isinstance(error, ScreenStackError) and not self._screen_stack:
            return
        self.is_leaving = True
        self._cancel_all()
        with suppress(Exception):  # what crashed may be what is kept
            self.keep_now()
        self.log_path = write_log(error)
        super()._handle_exception(error)
        if self.log_path is not None:
            self._exit_renderables.clear()

    @property
    def crash(self) -> str:
        """What to say in the terminal once the app is gone; empty where it did not crash."""
        if self._exception is None:
            return ""
        where = f" Details: {self.log_path}." if self.log_path else ""
        what = f"{type(self._exception).__name__}: {self._exception}"
        return f"The terminal interface failed: {what}.{where} Your session was kept: `advisor tui` opens it."

    # --- leaving ------------------------------------------------------------------------------------------------------

    async def action_quit(self) -> None:
        """Quit; during a probe or real runs, ask first. Then say what is waited for; once that is said, quit without waiting."""
        from tui.dialogs import Question

        running = next((name for name in ASKED_ABOUT if name in self.runs), None)
        if running is None or self.is_leaving:
            self.leave()
        elif not isinstance(self.screen, Question):
            title, text = ASKED_ABOUT[running]
            self._leaving = Question(title, text, {"stay": "Stay", "quit": "Stop and quit"})
            self.push_screen(self._leaving, lambda answer: self.leave() if answer == "quit" else None)

    def leave(self) -> None:
        """Keep the session, stop what runs, exit once what leaves something behind has ended; at once when asked again."""
        from tui.dialogs import StoppingDialog

        self._cancel_all()
        self.keep_now()
        if self.runs.keys() & WAITED_FOR and not self.is_leaving:
            since = asyncio.get_running_loop().time()
            self.push_screen(StoppingDialog(lambda: self._waits_for(asyncio.get_running_loop().time() - since)))
            self.is_leaving = True
        else:
            self.is_leaving = True
            self.exit()

    def _waits_for(self, seconds: float) -> str:
        if "probe" in self.runs:
            return f"Waiting for {self.under_way()}, {seconds:.0f} s so far. {KEPT}"
        return f"Waiting for the recommendation's folder to be written, {seconds:.0f} s so far."

    def _cancel_all(self) -> None:
        """Tell all runs to stop but the one that writes what was asked for."""
        for name in tuple(self.runs):
            if name != "write":
                self.cancel(name)

    def terminal_is_gone(self) -> None:
        """SIGHUP: nobody can answer any more."""
        self.is_leaving = True
        self.leave()
