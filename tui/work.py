"""Work off the event loop: events of a run as messages, and questions of which only the newest counts."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from textual.message import Message

from advisor.core.events import Event, Progress
from tui.engine import Standing

_threads: set[threading.Thread] = set()  # that have not ended


async def in_thread(job: Callable[[], Any]) -> Any:
    """``job()`` in a thread of its own, which does not keep the process from ending as an executor's would."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: Exception | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(job)
        except Exception as raised:
            error = raised
        except BaseException as raised:  # a library that exits the program
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        finally:
            _threads.discard(threading.current_thread())
        with suppress(RuntimeError):  # the app has left, and closed its loop
            loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=work, name="advisor-job", daemon=True)
    _threads.add(thread)
    thread.start()
    return await future


def threads_ended(within: float) -> bool:
    """Whether all jobs' threads end in so many seconds."""
    deadline = time.monotonic() + within
    for thread in tuple(_threads):
        thread.join(max(deadline - time.monotonic(), 0.0))
    return not any(thread.is_alive() for thread in _threads)


class Happened(Message):
    """An event of a run; newer progress of the same stage replaces older."""

    def __init__(self, run: str, event: Event) -> None:
        super().__init__()
        self.run, self.event = run, event

    def can_replace(self, message: Message) -> bool:
        if not isinstance(message, Happened) or not isinstance(self.event, Progress):
            return False
        return isinstance(message.event, Progress) and (message.run, message.event.stage) == (self.run, self.event.stage)


class Stood(Message):
    """How it stands after another real run."""

    def __init__(self, standing: Standing) -> None:
        super().__init__()
        self.standing = standing


class Latest:
    """Answers the newest of many questions: one job at a time in a thread, and of those that wait only the last. ``failed`` is
    told what a job, or taking its result, raised."""

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
                done(await in_thread(job))
            except Exception as error:
                self.failed(error)
