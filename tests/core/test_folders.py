"""Folders that are written to: whole or not, never over what is the user's, one process at a time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor.core import folders, store
from advisor.core.errors import BadInput, Interrupted
from advisor.core.events import Event, Note, Session
from advisor.core.folders import LOCK_FILE, WRITTEN_FILE, locked, write_files

OLD = {"lora.yaml": "old", "axolotl.yaml": "old", "recommendation.json": "old"}
NEW = {"recommendation.json": "new", "lora.yaml": "new", "trl_sft.py": "new"}
LAST = "recommendation.json"
ROOT = Path(__file__).resolve().parents[2]


def put(folder: Path, files: dict[str, str], **how: bool) -> list[Path]:
    return write_files(folder, files, Session(), only=True, last=LAST, **how)


def seen(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".advisor")}


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)


def test_the_files_of_a_former_run_go_and_the_users_stay(tmp_path: Path) -> None:
    assert put(tmp_path, OLD) == [tmp_path / name for name in OLD]
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "partial").mkdir()
    put(tmp_path, NEW)
    (tmp_path / "partial").rmdir()
    assert seen(tmp_path) == {**NEW, "notes.txt": "mine"}
    write_files(tmp_path, {"export.yaml": "more"}, Session())  # an export beside
    assert seen(tmp_path) == {**NEW, "notes.txt": "mine", "export.yaml": "more"}
    put(tmp_path, OLD)
    assert seen(tmp_path) == {**OLD, "notes.txt": "mine"}


@pytest.mark.parametrize("change", ["before", "since", "link", "folder"])
def test_a_file_of_the_users_is_never_replaced(tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if change == "since":
        put(out, OLD)
    path = out / "lora.yaml"
    path.unlink(missing_ok=True)
    if change == "link":
        (tmp_path / "mine").write_text("mine")
        path.symlink_to(tmp_path / "mine")
    elif change == "folder":
        path.mkdir()
    else:
        path.write_text("mine")
    before = {p.name: p.is_dir() or p.read_text() for p in out.iterdir()}
    with pytest.raises(BadInput, match=r"lora\.yaml: (was changed since|is there already)"):
        put(out, NEW)
    assert {p.name: p.is_dir() or p.read_text() for p in out.iterdir()} == before
    if change != "folder":
        put(out, NEW, overwrite=True)
        assert seen(out) == NEW
    assert change != "link" or (tmp_path / "mine").read_text() == "mine"


def test_a_file_of_the_former_run_that_the_user_changed_stays(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    (tmp_path / "axolotl.yaml").write_text("mine")
    put(tmp_path, NEW)
    assert seen(tmp_path) == {**NEW, "axolotl.yaml": "mine"}


@pytest.mark.parametrize("text", ["", "{}", '{"files": 3}', '{"files": {"../notes.txt": ["x"]}}', '{"files": {"lora.yaml": 3}}'])
def test_with_a_damaged_list_of_files_nothing_is_ours(tmp_path: Path, text: str) -> None:
    put(tmp_path, OLD)
    (tmp_path / WRITTEN_FILE).write_text(text)
    with pytest.raises(BadInput, match=r"lora\.yaml"):
        put(tmp_path, NEW)
    assert seen(tmp_path) == OLD


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
from test_folders import NEW, put
calls = 0
def deadly(old):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return old(*arguments, **named)
    return call
for name in ("replace", "unlink", "rmdir", "mkdir", "open"):
    setattr(os, name, deadly(getattr(os, name)))
put(pathlib.Path(sys.argv[1]), NEW)
print(calls)
"""


def test_killed_at_any_call_it_is_the_old_or_the_new_or_not_whole(tmp_path: Path) -> None:
    program = KILLED.format(tests=str(Path(__file__).parent))
    calls = int(run(program, tmp_path / "count", 0).stdout)
    assert calls > 15
    outcomes = set()
    for number in range(1, calls + 1, 3):
        folder = tmp_path / str(number)
        put(folder, OLD)
        run(program, folder, number)
        left = seen(folder)
        assert LAST not in left or left in (OLD, NEW), number
        outcomes.add(left.get(LAST, "not whole"))
        put(folder, NEW)
        assert seen(folder) == NEW, number
        assert {path.name for path in folder.iterdir()} == {*NEW, WRITTEN_FILE}, number
    assert outcomes == {"old", "new", "not whole"}


@pytest.mark.parametrize("nth", range(8))
def test_a_full_disk_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    put(tmp_path, OLD)
    count = 0

    def full(path: Path, text: str) -> None:
        nonlocal count
        count += 1
        if count > nth:
            raise BadInput(f"{path}: cannot be written: {os.strerror(errno.ENOSPC)}")
        store.write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_text", full)
        patch.setattr(folders, "write_json", lambda path, value: full(path, store.json_text(value, path)))
        if nth < 4:  # three files and the list of them; the second list may fail
            with pytest.raises(BadInput, match="No space left"):
                put(tmp_path, NEW)
            assert seen(tmp_path) == OLD
        else:
            put(tmp_path, NEW)
            assert seen(tmp_path) == NEW
    put(tmp_path, OLD)
    assert seen(tmp_path) == OLD


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file"):
        put(tmp_path / "file", NEW)


# --- locks ------------------------------------------------------------------------------------------------------------

HOLDS = """
import pathlib, sys, time
from advisor.core.events import Session
from advisor.core.folders import locked
with locked(pathlib.Path(sys.argv[1]), Session()):
    print("in", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDS, str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_the_second_waits_says_for_whom_and_goes_on_when_the_first_is_killed(tmp_path: Path) -> None:
    process = hold(tmp_path)
    events: list[Event] = []

    def heard(event: Event) -> None:
        events.append(event)
        threading.Timer(0.5, process.kill).start()

    with locked(tmp_path, Session(emit=heard)):
        assert process.wait(20) == -signal.SIGKILL
        assert (tmp_path / LOCK_FILE).exists()
    (note,) = events
    assert isinstance(note, Note)
    assert f"process {process.pid} on" in note.text
    assert list(tmp_path.iterdir()) == []
    assert process.stdout is not None
    process.stdout.close()


def test_waiting_can_be_cancelled_and_ends_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = hold(tmp_path)
    try:
        session = Session()
        session.emit = lambda event: session.cancel.set()
        with pytest.raises(Interrupted), locked(tmp_path, session):
            pass
        monkeypatch.setattr(folders, "PATIENCE_S", 2.0)
        with pytest.raises(BadInput, match=f"process {process.pid} .* for a day"), locked(tmp_path, Session()):
            pass
    finally:
        process.kill()
        process.communicate()


def test_only_one_is_in_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(10):
            with locked(tmp_path, Session()):
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folders.FileLock, "acquire", refuse)
    events: list[Event] = []
    with locked(tmp_path, Session(emit=events.append)):
        pass
    assert len(events) == 1


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(folders.FileLock, "acquire", refuse)
    with pytest.raises(BadInput, match="cannot be written: Read-only"), locked(tmp_path, Session()):
        pass


# --- single files ------------------------------------------------------------------------------------------------------


def test_parts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    path = tmp_path / "a[1].json"
    program = (
        "import os, pathlib, signal, sys\n"
        "from advisor.core import store\n"
        "os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.write_text(pathlib.Path(sys.argv[1]), 'x')\n"
    )
    assert run(program, path).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    other = tmp_path / ".b.json.part"
    other.write_text("mine")
    with store.replacing(path) as living:
        assert set(tmp_path.iterdir()) == {living, other}
        store.write_text(path, "meanwhile")
        assert living.exists()
        living.write_text("mine")
    assert set(tmp_path.iterdir()) == {path, other}
    assert path.read_text() == "mine"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int) -> None:
    def private(part: Path) -> None:  # as some libraries do
        part.unlink()
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))

    write: Callable[[Path], object]
    before = os.umask(umask)
    try:
        for name, write in (("a", private), ("b", lambda part: part.write_text("x"))):
            with store.replacing(tmp_path / name) as part:
                write(part)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (("config.json", "model.safetensors"), "holds a model"),
        (("config.json", "model-00001-of-00002.safetensors"), "holds a model"),
        (("config.json", "pytorch_model.bin"), "holds a model"),
        (("adapter_model.safetensors",), "holds a trained adapter's weights"),
        (("adapter_model.bin",), "holds a trained adapter's weights"),
    ],
)
def test_nothing_is_written_beside_weights_that_it_would_change(tmp_path: Path, there: tuple[str, ...], says: str) -> None:
    for name in there:
        (tmp_path / name).write_text("weights")
    with pytest.raises(BadInput, match=says):
        put(tmp_path, NEW)
    with pytest.raises(BadInput, match=says), locked(tmp_path, Session()):
        raise AssertionError
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(there)


def test_a_file_or_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nothing")
    for name in ("file", "link"):
        with pytest.raises(BadInput, match="this is no folder"):
            put(tmp_path / name, NEW)
