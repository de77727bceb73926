"""What the engine tells whoever runs it: progress, notes and warnings as plain data, and a way to cancel.

The command line prints them on stderr; the terminal interface shows them. The engine never prints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from advisor.core.errors import Interrupted
from advisor.core.text import printable

LONGEST_EVENT = 2000  # characters of a note or warning


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of ``stage`` are finished; ``eta_s`` seconds remain (None: not known yet)."""

    stage: str
    done: int
    total: int
    detail: str = ""
    eta_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", printable(self.stage))
        object.__setattr__(self, "detail", printable(self.detail))


@dataclass(frozen=True)
class _Line:
    """One printable line."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text, LONGEST_EVENT))


@dataclass(frozen=True)
class Note(_Line):
    """Something the user should know: a choice made for them, a cost, a count.

    ``brief``: it is also shown where little is. ``left_out``: it names a part of the model that the answer does not cover, so it
    stands in the answer too.
    """

    brief: bool = False
    left_out: bool = False


@dataclass(frozen=True)
class Warn(_Line):
    """Something that may make the result worse than it looks."""


Event = Progress | Note | Warn


def ignore(event: Event) -> None:
    """A listener that drops every event."""


@dataclass
class Session:
    """Carries the listener and the cancel flag through the engine.

    Attributes:
        emit: called with every event, on the engine's thread.
        cancel: set from any thread; the engine raises :class:`Interrupted` at the next safe point.
    """

    emit: Callable[[Event], None] = ignore
    cancel: threading.Event = field(default_factory=threading.Event)

    def note(self, text: str, brief: bool = False) -> None:
        self.emit(Note(text, brief))

    def warn(self, text: str) -> None:
        self.emit(Warn(text))

    def check(self) -> None:
        """Go on, unless the user asked to stop.

        Raises:
            Interrupted: the user did.
        """
        if self.cancel.is_set():
            raise Interrupted("Stopped before the end; finished work is kept.", "Run the same command to resume.")


class Stage:
    """Counts the units of one stage and emits :class:`Progress` with an ETA after each."""

    def __init__(self, session: Session, name: str, total: int, done: int = 0) -> None:
        self.session, self.name, self.total, self.done = session, name, total, done
        self._first = done
        self._start = time.monotonic()
        session.emit(Progress(name, done, total))

    def advance(self, detail: str = "", units: int = 1) -> None:
        self.done += units
        per_unit = (time.monotonic() - self._start) / (self.done - self._first)
        eta = per_unit * (self.total - self.done)
        self.session.emit(Progress(self.name, self.done, self.total, detail, eta))
