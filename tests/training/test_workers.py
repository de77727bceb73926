"""Items that fail, processes that die, and clusters that are not there: the other items get their results."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.errors import AdvisorError, BadInput, Interrupted, NotFinite, OutOfMemory
from advisor.core.events import Session
from advisor.training import workers
from advisor.training.workers import Submit, import_ray, processes, ray_actors, run_all

Item = tuple[int, str]
FAILS_ALONE = {"nan": NotFinite, "too large": OutOfMemory, "deadly": OutOfMemory}


def outcome_of(item: Item, count: int) -> str:
    """Result, or raises: what item asks for in a pool of ``count`` workers."""
    number, kind = item
    if kind == "nan":
        raise NotFinite(f"{number} is nan")
    if kind == "too large" or (kind == "large" and count > 1):
        raise OutOfMemory(f"{number} does not fit")
    if kind == "deadly" or (kind == "heavy" and count > 1):
        raise BrokenExecutor("died")
    return f"{number} done"


class LossyPools:
    """Pools that work when waited for, in an order drawn at random; a death loses all that is queued, as with processes."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.opened: list[int] = []
        self.queued: list[tuple[Item, Future[str]]] = []
        self.dead = False

    @contextmanager
    def open(self, count: int) -> Iterator[Submit]:
        self.opened.append(count)
        self.dead = False
        yield self.submit
        self.queued.clear()

    def submit(self, item: Item) -> Future[str]:
        if self.dead:
            raise BrokenExecutor("dead")
        future: Future[str] = Future()
        self.queued.append((item, future))
        if self.draw.random() < 0.3:
            self.work(1)
        return future

    def wait(self, futures: Any, **options: Any) -> tuple[set[Future[str]], set[Future[str]]]:
        done = {f for f in futures if f.done()}
        if not done:
            self.work(self.draw.randint(1, len(self.queued)))
            done = {f for f in futures if f.done()}
        return done, set(futures) - done

    def work(self, items: int) -> None:
        for _ in range(min(items, len(self.queued))):
            item, future = self.queued.pop(self.draw.randrange(len(self.queued)))
            try:
                future.set_result(outcome_of(item, self.opened[-1]))
            except AdvisorError as error:
                future.set_exception(error)
            except BrokenExecutor as error:
                self.dead = True
                for lost in (future, *(f for _, f in self.queued)):
                    lost.set_exception(error)
                self.queued.clear()
                return

    def run(self, items: Sequence[Item], count: int) -> list[tuple[Item, Any]]:
        with mock.patch.object(workers, "wait", self.wait):
            return list(run_all(items, self.open, count, Session()))


KINDS = st.sampled_from(["fine", "nan", "large", "too large", "heavy", "deadly"])


@given(st.lists(KINDS, max_size=8), st.integers(1, 3), st.integers(0, 999))
def test_every_item_is_answered_once_and_only_culprits_fail(kinds: Sequence[str], count: int, seed: int) -> None:
    items, pools = list(enumerate(kinds)), LossyPools(seed)
    found = pools.run(items, count)
    assert sorted(item for item, _ in found) == items
    for (number, kind), outcome in found:
        if kind in FAILS_ALONE:
            assert type(outcome) is FAILS_ALONE[kind]
        else:
            assert outcome == f"{number} done"
    if set(kinds) <= {"fine", "nan"}:
        assert pools.opened == [count] * bool(kinds)


def test_a_dead_process_is_said_to_have_died() -> None:
    ((_, error),) = LossyPools().run([(0, "deadly")], 2)
    assert "process died" in error.what
    assert error.hint


def test_other_errors_and_stopping_end_it() -> None:
    @contextmanager
    def pool(count: int) -> Iterator[Submit]:
        def submit(item: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(item) if isinstance(item, Exception) else future.set_result(item)
            return future

        yield submit

    with pytest.raises(BadInput, match="gone"):
        list(run_all([1, BadInput("gone"), 2], pool, 1, Session()))
    session = Session()
    answers = run_all(range(9), pool, 1, session)
    assert next(answers) == (0, 0)
    session.cancel.set()
    with pytest.raises(Interrupted):
        list(answers)


class Deadly:
    """Kills its process for one item; counts the items a process has done."""

    def __init__(self, deadly: int) -> None:
        self.deadly, self.done = deadly, 0

    def __call__(self, item: int) -> tuple[int, int, int]:
        if item == self.deadly:
            os._exit(1)
        if item == 100:
            raise NotFinite("a hundred", "less")
        self.done += 1
        return item, os.getpid(), self.done


def test_in_real_processes() -> None:
    found = dict(run_all([0, 1, 100, 2, 3, 4], partial(processes, Deadly(2)), 2, Session()))
    assert {item for item, outcome in found.items() if not isinstance(outcome, AdvisorError)} == {0, 1, 3, 4}
    assert all(found[i][0] == i and found[i][1] != os.getpid() for i in (0, 1, 3, 4))
    assert isinstance(found[2], OutOfMemory)
    assert isinstance(found[100], NotFinite)
    assert (found[100].what, found[100].hint) == ("a hundred", "less")


def test_leaving_stops_the_processes() -> None:
    with processes(time.sleep, 1) as submit:
        future = submit(600)
        while not future.running():
            time.sleep(0.01)
    assert isinstance(future.exception(timeout=20), BrokenExecutor)


PARENT = """
import os, sys, time
from advisor.training.workers import processes

if __name__ == "__main__":
    with processes(time.sleep, 2) as submit:
        futures = [submit(600), submit(600)]
        while not all(future.running() for future in futures):
            time.sleep(0.01)
        time.sleep(float(sys.argv[1]))
        print("sleeping", flush=True)
        time.sleep(600)
"""


def test_a_script_is_not_run_again(tmp_path: Path) -> None:
    """As Python's own processes would, in a script whose work is not under ``if __name__ == "__main__"``."""
    script = "from advisor.training.workers import processes\nwith processes(abs, 1) as submit:\n    print(submit(-3).result(60))"
    (tmp_path / "script.py").write_text(f"{script}\nimport __main__\nprint(__main__.__file__)\n")
    command = [sys.executable, str(tmp_path / "script.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["3", str(tmp_path / "script.py")], done.stderr


def session_of(leader: int) -> list[str]:
    """Living processes of the session that ``leader`` began."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.0, 2.0])  # while they start, and when they work
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals, after: float) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "parent.py"), str(after)]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"sleeping\n"
        assert len(session_of(parent.pid)) >= 3
        parent.send_signal(number)
        assert parent.wait(20) == -number
        end = time.monotonic() + 30
        while session_of(parent.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert session_of(parent.pid) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def blocked(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_reaches_the_parent_alone() -> None:
    with processes(blocked, 1) as submit:
        assert submit(0).result(60)
    assert not blocked(0)


# --- Ray --------------------------------------------------------------------------------------------------------------


class FakeRay(ModuleType):
    """As much of Ray as is used; actors are objects in this process."""

    def __init__(self, gpus: int = 0, room: int = 99) -> None:
        super().__init__("ray")
        self.gpus, self.room = gpus, room
        self.options: list[dict[str, Any]] = []
        self.killed: list[Any] = []
        self.alive = False
        self.stopped = threading.Event()

        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause: Exception) -> None:
                self.cause = cause

        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def init(self, address: str, **options: Any) -> None:
        if address == "auto":
            raise ConnectionError("Could not find any running Ray instance.\nMore.")
        self.alive = True

    def shutdown(self) -> None:
        self.alive = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options.append(options)

        def made(cls: type) -> Any:
            def start(*arguments: Any) -> Any:
                real = cls(*arguments)
                place = self.room = self.room - 1
                call = lambda method: SimpleNamespace(remote=lambda *a: lambda: method(*a))  # noqa: E731
                wait = lambda: self.stopped.wait(60) and None if place < 0 else None  # noqa: E731
                return SimpleNamespace(ready=call(wait), do=call(real.do), dead=False)

            return SimpleNamespace(remote=start)

        return made

    def get(self, reference: Callable[[], Any]) -> Any:
        try:
            return reference()
        except SystemExit:
            raise self.exceptions.RayError("The actor died.") from None
        except Exception as error:
            raise self.exceptions.RayTaskError(error) from error

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)
        self.stopped.set()


def fake_ray(monkeypatch: pytest.MonkeyPatch, **options: Any) -> FakeRay:
    ray = FakeRay(**options)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def work(item: int) -> int:
    if item == 5:
        raise NotFinite("five")
    if item == 6:
        raise SystemExit
    return item * item


def test_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = fake_ray(monkeypatch)
    found = dict(run_all(range(9), partial(ray_actors, work, address="local"), 2, Session()))
    assert {i: found[i] for i in found if i not in (5, 6)} == {i: i * i for i in (0, 1, 2, 3, 4, 7, 8)}
    assert isinstance(found[5], NotFinite)
    assert isinstance(found[6], OutOfMemory)
    assert not ray.alive
    assert ray.killed
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_an_actor_without_room_takes_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = fake_ray(monkeypatch, room=1)
    found = dict(run_all(range(4), partial(ray_actors, work, address="local"), 3, Session()))
    assert found == {i: i * i for i in range(4)}
    assert ray.stopped.is_set()


@pytest.mark.parametrize(
    ("gpus", "count", "wanted", "share"),
    [(0, 2, True, 0), (1, 2, True, 0.5), (3, 4, True, 0.5), (8, 2, True, 1), (4, 2, False, 0)],
)
def test_gpus_are_shared_so_that_all_actors_fit(
    monkeypatch: pytest.MonkeyPatch, gpus: int, count: int, wanted: bool, share: float
) -> None:
    ray = fake_ray(monkeypatch, gpus=gpus)
    with ray_actors(work, count, "local", wanted) as submit:
        assert submit(3).result(timeout=20) == 9
    assert ray.options == [{"num_cpus": 1, "num_gpus": share}]


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch)
    with pytest.raises(BadInput, match="--ray auto: no cluster there: Could not find") as caught:
        list(run_all([1], partial(ray_actors, work, address="auto"), 1, Session()))
    assert "More" not in str(caught.value)


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install -c constraints\.txt '\.\[ray\]'"):
        import_ray()


def test_a_worker_that_cannot_start_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = fake_ray(monkeypatch)
    monkeypatch.setattr(ray, "get", mock.Mock(side_effect=ray.exceptions.RayError("Trace:\nModuleNotFoundError: advisor")))
    with pytest.raises(BadInput, match="a worker cannot start: ModuleNotFoundError: advisor Install"):
        list(run_all([1], partial(ray_actors, work, address="local"), 1, Session()))


@pytest.fixture
def only_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests in other processes wait: ``auto`` would find their clusters."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "ray.lock"):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("only_cluster")
def test_on_a_real_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # as installed on the node
    pool = partial(ray_actors, Deadly(2), address="local")
    found = dict(run_all([0, 1, 100, 2, 3], pool, 1, Session()))
    assert isinstance(found[2], OutOfMemory)
    assert isinstance(found[100], NotFinite)
    assert (found[100].what, found[100].hint) == ("a hundred", "less")
    assert [found[i][0] for i in (0, 1, 3)] == [0, 1, 3]
    assert found[0][1] != os.getpid()
    session = Session()
    session.cancel.set()
    with pytest.raises(Interrupted):
        list(run_all([600], partial(ray_actors, time.sleep, address="local"), 1, session))
    with pytest.raises(BadInput, match="no cluster there"), ray_actors(work, 1, "auto"):
        pass


def slow_work(item: int) -> int:
    time.sleep(1.0)
    return item


@pytest.mark.slow
@pytest.mark.usefixtures("only_cluster")
def test_a_node_that_dies_loses_no_item_and_none_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local cluster of three nodes, one of which is killed while all are at work."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    room = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": False})
    try:
        others = [cluster.add_node(**room) for _ in range(2)]
        cluster.wait_for_nodes()
        found: list[tuple[int, Any]] = []
        for item, result in run_all(range(12), partial(ray_actors, slow_work, address=cluster.address), 3, Session()):
            found.append((item, result))
            if len(found) == 3:
                cluster.remove_node(others[0], allow_graceful=False)
        assert sorted(found) == [(item, item) for item in range(12)]
    finally:
        cluster.shutdown()
