"""Work off the event loop: events of a run as messages, and questions of which only the newest counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual.message import Message

from advisor.core.events import Event, Progress


class Happened(Message):
    """An event of a run; newer progress of the same stage replaces older."""

    def __init__(self, run: str, event: Event) -> None:
        super().__init__()
        self.run, self.event = run, event

    def can_replace(self, message: Message) -> bool:
        if not isinstance(message, Happened) or not isinstance(self.event, Progress):
            return False
        return isinstance(message.event, Progress) and (message.run, message.event.stage) == (self.run, self.event.stage)


class Latest:
    """Answers the newest of many questions: one job at a time in a thread, and of those that wait only the last. ``failed`` is
    told what a job raised."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self.failed = failed
        self._wanted: tuple[Callable[[], Any], Callable[[Any], None]] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def ask(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._wanted = (job, done)
        if not self.is_busy:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._wanted is not None:
            (job, done), self._wanted = self._wanted, None
            try:
                result = await asyncio.to_thread(job)
            except Exception as error:
                self.failed(error)
            else:
                done(result)
