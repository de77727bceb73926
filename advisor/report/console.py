"""Events on stderr: a live progress bar on a terminal or in a notebook, plain lines elsewhere. Results never come through
here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from tqdm.auto import tqdm as notebook_bar

from advisor.core.events import Event, Note, Progress, Session, Warn


class _Shown:
    """Events on a console; ``short`` leaves out notes that are not brief."""

    def __init__(self, console: Console, short: bool) -> None:
        self.console, self.short = console, short
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._notebook_bars: dict[str, Any] = {}

    def show(self, event: Event) -> None:
        if isinstance(event, Warn):
            self.console.print(f"[bold yellow]Warning:[/] {escape(event.text)}", soft_wrap=True)
        elif isinstance(event, Note):
            if event.brief or not self.short:
                self.console.print(f"[dim]·[/] {escape(event.text)}", soft_wrap=True)
        elif isinstance(event, Progress):
            if self.console.is_jupyter:
                self._show_in_notebook(event)
            elif self.console.is_terminal:
                self._show_on_terminal(event)
            else:
                self._print(event)

    def _print(self, event: Progress) -> None:
        if event.done in ((0,) if self.short else (0, event.total)) or "LoRA runs" in event.stage:
            remaining = f", {event.eta_s:.0f} s left" if event.eta_s and event.done < event.total else ""
            self.console.print(escape(f"{event.stage}: {event.done}/{event.total}{remaining} {event.detail}".rstrip()))

    def _show_on_terminal(self, event: Progress) -> None:
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self.bar.add_task(escape(event.stage), total=event.total, detail="")
        self.bar.update(self._tasks[event.stage], completed=event.done, total=event.total, detail=escape(event.detail))
        if event.done == event.total:
            self.bar.remove_task(self._tasks.pop(event.stage))

    def _show_in_notebook(self, event: Progress) -> None:
        if event.stage not in self._notebook_bars:
            self._notebook_bars[event.stage] = notebook_bar(desc=event.stage, total=event.total, leave=False)
        shown = self._notebook_bars[event.stage]
        shown.set_postfix_str(event.detail, refresh=False)
        shown.update(event.done - shown.n)
        if event.done == event.total:
            self._notebook_bars.pop(event.stage).close()

    def close(self) -> None:
        for shown in self._notebook_bars.values():
            shown.close()


@contextmanager
def console_session(short: bool = False) -> Iterator[Session]:
    """A session whose events go to stderr and whose cancel flag is set by the first Ctrl-C.

    A second Ctrl-C interrupts at once. ``short`` leaves out notes that are not brief, and where there is no
    terminal it names each stage once.
    """
    console = Console(stderr=True, highlight=False)
    shown = _Shown(console, short)
    session = Session(emit=shown.show)

    def stop(number: int, frame: FrameType | None) -> None:
        if session.cancel.is_set():
            raise KeyboardInterrupt
        session.cancel.set()
        console.print("Stopping at the next safe point; press Ctrl-C again to stop at once.")

    on_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, stop) if on_main_thread else None
    try:
        with shown.bar:
            yield session
    finally:
        shown.close()
        if on_main_thread:
            signal.signal(signal.SIGINT, previous)
