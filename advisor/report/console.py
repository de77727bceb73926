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
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from tqdm.auto import tqdm as notebook_bar

from advisor.core.events import Event, Note, Progress, Session, Warn


@contextmanager
def console_session(short: bool = False) -> Iterator[Session]:
    """A session whose events go to stderr and whose cancel flag is set by the first Ctrl-C.

    A second Ctrl-C interrupts at once. ``short`` leaves out notes that are not brief, and where there is no
    terminal it names each stage once.
    """
    console = Console(stderr=True, highlight=False)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[str, int] = {}
    notebook_bars: dict[str, Any] = {}

    def emit(event: Event) -> None:
        if isinstance(event, Warn):
            console.print(f"[bold yellow]Warning:[/] {escape(event.text)}", soft_wrap=True)
        elif isinstance(event, Note):
            if event.brief or not short:
                console.print(f"[dim]·[/] {escape(event.text)}", soft_wrap=True)
        elif isinstance(event, Progress):
            _show(event)

    def _show(event: Progress) -> None:
        if console.is_jupyter:
            _show_in_notebook(event)
        elif not console.is_terminal:
            if event.done in ((0,) if short else (0, event.total)) or "LoRA runs" in event.stage:
                remaining = f", {event.eta_s:.0f} s left" if event.eta_s and event.done < event.total else ""
                console.print(escape(f"{event.stage}: {event.done}/{event.total}{remaining} {event.detail}".rstrip()))
        else:
            _show_on_terminal(event)

    def _show_on_terminal(event: Progress) -> None:
        if event.stage not in tasks:
            tasks[event.stage] = bar.add_task(escape(event.stage), total=event.total, detail="")
        bar.update(tasks[event.stage], completed=event.done, total=event.total, detail=escape(event.detail))  # type: ignore[arg-type]
        if event.done == event.total:
            bar.remove_task(tasks.pop(event.stage))  # type: ignore[arg-type]

    def _show_in_notebook(event: Progress) -> None:
        if event.stage not in notebook_bars:
            notebook_bars[event.stage] = notebook_bar(desc=event.stage, total=event.total, leave=False)
        shown = notebook_bars[event.stage]
        shown.set_postfix_str(event.detail, refresh=False)
        shown.update(event.done - shown.n)
        if event.done == event.total:
            notebook_bars.pop(event.stage).close()

    session = Session(emit=emit)

    def stop(number: int, frame: FrameType | None) -> None:
        if session.cancel.is_set():
            raise KeyboardInterrupt
        session.cancel.set()
        console.print("Stopping at the next safe point; press Ctrl-C again to stop at once.")

    on_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, stop) if on_main_thread else None
    try:
        with bar:
            yield session
    finally:
        for shown in notebook_bars.values():
            shown.close()
        if on_main_thread:
            signal.signal(signal.SIGINT, previous)
