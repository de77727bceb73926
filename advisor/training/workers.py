"""The same work on many items, in processes of this machine or on a Ray cluster; what fails stops nothing else.

A pool is a context manager that gives ``submit(item)``, which returns a Future; leaving it stops the workers at once. The
work is any picklable callable; each worker has its own copy, so it may keep what it prepares for its first item.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any, TypeVar

from advisor.core.errors import AdvisorError, BadInput, NotFinite, OutOfMemory, how_to_install
from advisor.core.events import Session

Item = TypeVar("Item")
Work = Callable[[Any], Any]
Submit = Callable[[Any], "Future[Any]"]
Pool = Callable[[int], AbstractContextManager[Submit]]
"""Opens a pool of so many workers. ``submit`` and its futures raise BrokenExecutor where a worker died."""


def run_all(items: Iterable[Item], pool: Pool, workers: int, session: Session) -> Iterator[tuple[Item, Any | AdvisorError]]:
    """Yield each item with its result, or why it has none, as it finishes; no more than two a worker are queued.

    An item whose worker ran out of memory or died is tried once more at the end, alone: others may have taken the memory,
    and when a process dies all those of its pool are lost.

    Raises:
        Interrupted: cancelled. Whatever the work raises except NotFinite and OutOfMemory.
    """
    waiting, suspects = deque(items), deque[Item]()
    while waiting or suspects:
        alone = not waiting
        queue = suspects if alone else waiting
        count = 1 if alone else workers
        running: dict[Future[Any], Item] = {}
        broken = False
        with pool(count) as submit:
            while running or (queue and not broken):
                while queue and not broken and len(running) < (1 if alone else 2 * count):
                    try:
                        running[submit(queue[0])] = queue[0]
                        queue.popleft()
                    except BrokenExecutor:
                        broken = True
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in [future for future in running if future in finished]:  # as they were queued
                    item = running.pop(future)
                    try:
                        yield item, future.result()
                    except NotFinite as error:
                        yield item, error
                    except (OutOfMemory, BrokenExecutor) as error:
                        broken |= isinstance(error, BrokenExecutor)
                        if not alone:
                            suspects.append(item)
                        elif isinstance(error, OutOfMemory):
                            yield item, error
                        else:
                            yield (
                                item,
                                OutOfMemory(
                                    "Its process died, also when it ran alone: perhaps for lack of memory.",
                                    "Lower --batch-size or --max-length.",
                                ),
                            )
                session.check()


_work: Work | None = None  # of a worker process


def _start(work: bytes, is_quiet: bool) -> None:
    """Begin a worker process: it ends with its parent, however that ends. What the work needs is loaded after that.

    ``is_quiet``: what it and its libraries print is dropped.
    """
    global _work
    if is_quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about one another
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = ForkingPickler.loads(work)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)


_main_is_away = threading.Lock()


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes started meanwhile do not run the caller's script again, as Python has them do; nothing of it is needed there."""
    with _main_is_away:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started meanwhile never see SIGINT; ours comes late."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _screen_is_taken() -> bool:
    """Whether our stderr is no file, as while a terminal interface or a notebook shows it: then what processes print would go
    over that."""
    try:
        return sys.stderr.fileno() < 0
    except (AttributeError, OSError, ValueError):
        return True


@contextmanager
def processes(work: Work, count: int) -> Iterator[Submit]:
    """``count`` processes of this machine. Ctrl-C does not reach them: the parent ends them."""
    context = multiprocessing.get_context("spawn")
    is_quiet = _screen_is_taken()
    if is_quiet:
        with redirect_stderr(None):  # else it would be handed a stderr that is no file
            resource_tracker.ensure_running()
    given = (bytes(ForkingPickler.dumps(work)), is_quiet)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=given)

    def submit(item: Any) -> Future[Any]:
        with _without_interrupts(), _without_main():
            return pool.submit(_do, item)

    try:
        yield submit
    finally:
        started = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.terminate()


def import_ray() -> Any:
    """Ray, told to report to nobody.

    Raises:
        BadInput: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise BadInput("--ray needs Ray.", how_to_install("ray")) from None
    return ray


class _Actor:
    """A worker on a Ray cluster."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def ready(self) -> None:
        pass

    def do(self, item: Any) -> Any:
        return self.work(item)


@contextmanager
def ray_actors(work: Work, count: int, address: str, gpus: bool = True) -> Iterator[Submit]:
    """``count`` actors on the Ray cluster at ``address`` (``local`` starts one here), with one CPU and a share of a GPU each.

    An actor that the cluster has no room for waits, and takes no work meanwhile. Whatever the work reads by a path must
    lie there on every node.

    Args:
        gpus: share the cluster's GPUs among the actors, where there are any.

    Raises:
        BadInput: Ray is not installed, or there is no cluster at ``address``; from futures: an actor could not start there.
    """
    ray = import_ray()
    here: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--ray {address}: no cluster there: {reason}", "Use local, auto, or a cluster's address.") from error
    own = threading.local()
    actors: list[Any] = []
    share = 0.0
    if gpus and (there := int(ray.cluster_resources().get("GPU", 0))):
        share = 1 / -(-count // there)
    actor_class = ray.remote(num_cpus=1, num_gpus=share)(_Actor)

    def start() -> None:
        own.actor = actor_class.remote(work)
        own.failure = None
        actors.append(own.actor)
        try:
            ray.get(own.actor.ready.remote())
        except ray.exceptions.RayError as error:  # or the pool is being left, then nobody asks
            own.failure = str(error).strip().splitlines()[-1]

    def do(item: Any) -> Any:
        if own.failure:
            raise BadInput(
                f"--ray {address}: a worker cannot start: {own.failure}", "Install the same advisor on every node of the cluster."
            )
        try:
            return ray.get(own.actor.do.remote(item))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise BrokenExecutor(str(error)) from None

    threads = ThreadPoolExecutor(count, initializer=start)
    try:
        yield lambda item: threads.submit(do, item)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for actor in actors:
            ray.kill(actor)
        ray.shutdown()
