"""The program as such: Ctrl-C while it starts, errors that nobody expected, output that cannot be written."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command import advisor, refused

from advisor.cli import failure
from advisor.cli import main as program
from advisor.core.errors import BadInput, NotFinite

PROGRAM = [sys.executable, "-m", "advisor.cli.main"]
STOPS = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["advisor", "profiles", "list"]
from advisor.cli.main import main
main()
"""


@pytest.mark.parametrize("name", ["advisor.cli.app", "typer", "platformdirs", "advisor.core.options", "yaml"])
def test_ctrl_c_during_any_import_is_quiet(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", STOPS.format(name=name)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr == program.STOPPED_AT_ONCE


def test_ctrl_c_that_python_cannot_raise_still_ends_the_program() -> None:
    code = (
        "import os, signal, sys\n"
        "from advisor.cli import main as program\n"
        "class Last:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT)\n"
        "def run(arguments):\n"
        "    Last()\n"
        "    print('went on')\n"
        "program._run = run\n"
        "program.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", program.STOPPED_AT_ONCE)


@pytest.fixture
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """``advisor`` with any arguments raises ``error``."""

    def run(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(program, "_run", run)


def test_an_unexpected_error_is_called_a_bug_and_logged_privately(log_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(ValueError("so\x1b[31m\nand so"), monkeypatch)
    line = refused(1, "anything")
    assert "bug" in line
    assert line.isprintable()
    assert r"ValueError: so\x1b[31m\nand so" in line
    named = Path(re.search(r"Please report it with (\S+\.log)\.", line)[1])  # type: ignore[index]
    assert named.is_relative_to(log_folder)
    assert stat.S_IMODE(named.stat().st_mode) == 0o600
    assert "Traceback (most recent call last)" in named.read_text()
    assert [path.name for path in named.parent.iterdir()] == [named.name]  # no part of it is left


def test_where_no_log_can_be_written_the_error_is_still_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    raising(ZeroDivisionError("by zero"), monkeypatch)
    assert "ZeroDivisionError: by zero" in refused(1, "anything")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/blocks"), 2, "/out/blocks: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x\n"), 2, r"/root/x\n: Permission denied"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "no space left"),
        (MemoryError(), 4, "memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (NotFinite("a.b is NaN."), 5, "a.b"),
    ],
)
def test_expected_kinds_of_errors_have_their_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(error, monkeypatch)
    assert said in refused(code, "anything")


def test_an_error_that_a_library_made_of_ctrl_c_is_still_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ImportError("cannot import")
    error.__context__ = KeyboardInterrupt()
    raising(error, monkeypatch)
    assert "stopped" in refused(130, "anything")
    refusal = BadInput("a file")
    refusal.__context__ = KeyboardInterrupt()
    raising(refusal, monkeypatch)
    assert "a file" in refused(2, "anything")


def test_disk_full_behind_another_error_is_disk_full() -> None:
    error = RuntimeError("writing failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/out/x")
    found = failure.expected_of(error)
    assert found is not None
    assert "/out/x" in str(found)
    error.__cause__ = FileNotFoundError(errno.ENOENT, "No such file", "/a")
    assert failure.expected_of(error) is None


def test_what_was_imported_is_not_looked_through_on_the_way_out_and_handlers_still_run() -> None:
    """Python's last search for cycles goes through all of torch and transformers; a temporary folder goes all the same."""
    code = (
        "import atexit, gc, sys, tempfile\n"
        "from advisor.cli import main as program\n"
        "folder = tempfile.TemporaryDirectory()\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "print(folder.name)\n"
        "sys.argv = ['advisor', 'profiles', 'list']\n"
        "program.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    first, *_, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, "True"), done.stderr
    assert not Path(first).exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_the_letters_shows_escapes(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for arguments in (["recommend", "--help"], ["compare", "é\u202eκ\x1b"], ["frob\U0001f600"]):
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, env=environment, timeout=120)
        assert done.returncode == (0 if "--help" in arguments else 2), done.stderr
        assert b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stderr


@pytest.mark.parametrize("arguments", [["profiles", "list", "--json"], ["recommend", "--help"], ["profiles", "show", "llama"]])
def test_a_closed_pipe_is_quiet(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PROGRAM, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "profiles", "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, "compare", os.fsencode(tmp_path) + b"/\xff\n"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert r"\udcff\n" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_version_and_help_of_no_command() -> None:
    from advisor import __version__

    assert advisor("--version").out == f"lora-layer-advisor {__version__}\n"
    bare = advisor()
    assert (bare.code, bare.err) == (2, "")
    assert "recommend" in bare.out
