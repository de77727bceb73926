"""What must not break the interface: doubled and queued keys, crashes, work that does not end, leaving."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from textual.command import CommandList
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList
from tui_helpers import send, settled, shown_text

import advisor
from tui import work
from tui.app import AdvisorApp
from tui.dialogs import ChoiceDialog, ErrorDialog, NameDialog, Question, StoppingDialog, TextDialog
from tui.inputs import Inputs

MakeApp = Callable[..., AdvisorApp]
ROOT = Path(advisor.__file__).resolve().parents[1]


async def until(pilot: Pilot[None], met: Callable[[], bool]) -> None:
    for _ in range(300):
        if met():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not happen")


# --- dialogs close once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("o", "enter", "enter"), ("o", "escape", "escape"), ("question_mark", "escape", "escape")])
async def test_keys_that_come_twice_close_a_dialog_once(make_app: MakeApp, keys: tuple[str, ...]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        send(app, *keys)
        await settled(pilot)
        assert app.current_mode == "explore"
        assert len(app.screen_stack) == 1


DIALOGS = [
    ErrorDialog("what", "hint"),
    Question("title", "text", {"a": "A", "b": "B"}),
    NameDialog("title", "name"),
    ChoiceDialog("title", {"a": "A"}),
    TextDialog("title", "text"),
]


@pytest.mark.parametrize("number", range(len(DIALOGS)))
async def test_no_dialog_is_dismissed_twice_or_takes_another_screen_with_it(make_app: MakeApp, number: int) -> None:
    app = make_app()
    answers: list[object] = []
    dialog = DIALOGS[number]
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        app.push_screen(dialog, answers.append)
        await pilot.pause()
        app.push_screen(TextDialog("above", ""))
        await pilot.pause()
        dialog.dismiss(None)
        assert len(app.screen_stack) == 3  # what lies above stays
        await pilot.press("escape")
        dialog.dismiss(None)
        dialog.dismiss(None)
        await pilot.pause()
        assert (len(app.screen_stack), answers) == (1, [None])


async def test_a_list_that_is_chosen_from_twice_answers_once(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("o")
        listed = app.screen.query_one(OptionList)
        listed.action_select()
        listed.action_select()
        await settled(pilot)
        assert len(app.screen_stack) == 1


async def test_the_list_of_themes_and_the_palette_take_one_of_two_quick_choices(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for opens, words in ((app.search_themes, "textual-light"), (app.action_command_palette, "Go to Compare")):
            opens()
            await pilot.pause()
            app.screen.query_one(Input).value = words
            await until(pilot, lambda: app.screen.query_one(CommandList).option_count > 0)
            await pilot.pause(0.2)
            send(app, "down", "enter", "enter")
            await until(pilot, lambda: len(app.screen_stack) == 1)
            await pilot.pause(0.1)
        assert app.theme == "textual-light"
        assert app.current_mode == "compare"


# --- keys keep their order --------------------------------------------------------------------------------------------


async def test_queued_keys_land_in_the_field_they_were_typed_for(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        send(app, *"model", "tab", *"data", "enter", *"rows", "shift+tab", "end", "x", "ctrl+u", *"new", "tab", "tab", "q")
        await settled(pilot)
        inputs = app.state.inputs
        assert (inputs.model, inputs.data, inputs.eval_data) == ("model", "new", "rows")


async def test_queued_keys_go_to_the_screen_that_those_before_them_opened(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        send(app, "n", "space", "s", *"name", "enter", "down", "space")
        await settled(pilot)
        assert list(app.state.named) == ["name"]
        assert len(app.state.chosen) == 2


async def test_a_key_whose_widget_is_taken_away_holds_up_no_others(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        field = Input(id="gone")
        await app.screen.mount(field)
        field.focus()
        await pilot.pause()
        send(app, "a", "b")
        field.remove()
        app.screen.query_one("#model").focus()
        await pilot.pause(0.3)
        send(app, "c")
        await until(pilot, lambda: str(app.state.inputs.model).endswith("c"))


# --- crashes and leaving ----------------------------------------------------------------------------------------------


async def test_a_crash_stops_what_runs_and_names_the_log(make_app: MakeApp, engine) -> None:
    engine.gate = threading.Event()
    app = make_app(Inputs(model="m", data="d"), start=True)

    async def crash() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "probe" in app.runs)
            session = app.runs["probe"]
            app.call_later(lambda: 1 / 0)
            await until(pilot, session.cancel.is_set)

    with pytest.raises(ZeroDivisionError):
        await crash()
    engine.gate.set()
    assert work.threads_ended(10)
    assert str(app.log_path) in app.crash
    assert "ZeroDivisionError" in app.crash
    assert "Traceback" in app.log_path.read_text()


async def test_what_fails_while_a_result_is_shown_is_said_and_logged(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for start in (
            lambda: app.ask("topic", lambda: 0, lambda n: 1 / n),
            lambda: app.start_run("r", lambda _: 0, lambda n: 1 / n),
        ):
            start()
            await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
            assert "ZeroDivisionError" in app.screen.what
            await pilot.press("escape")


async def test_stop_and_quit_says_what_it_waits_for_and_quits_once_it_is_done(make_app: MakeApp, engine) -> None:
    engine.gate = threading.Event()
    app = make_app(Inputs(model="m", data="d"), start=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "probe" in app.runs and app.activity.stage == "Probe")
        await pilot.press("ctrl+q", "tab", "enter")
        assert isinstance(app.screen, StoppingDialog)
        assert app.runs["probe"].cancel.is_set()
        assert "Waiting for the batch at hand (Probe: 0 of 4)" in shown_text(app, "#waits-for")
        await pilot.press("escape")
        assert isinstance(app.screen, StoppingDialog)
        engine.gate.set()
        await until(pilot, lambda: app._exit)
    assert app.return_code == 0


@pytest.mark.parametrize("key", ["ctrl+c", "ctrl+q", "enter"])
async def test_whoever_will_not_wait_quits_now(make_app: MakeApp, engine, key: str) -> None:
    engine.gate = threading.Event()
    app = make_app(Inputs(model="m", data="d"), start=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "probe" in app.runs)
        await pilot.press("ctrl+q", "ctrl+q", "tab", "enter")
        assert isinstance(app.screen, StoppingDialog)
        app.screen.query_one(Button).focus()
        await pilot.press(key)
        await until(pilot, lambda: app._exit)
    engine.gate.set()
    assert work.threads_ended(10)


STUCK = """
import sys, time
sys.path[:0] = ["tests", "tests/tui"]
from tui import main
from tui.real_engine import RealEngine

class App(main.AdvisorApp):
    def on_happened(self, message):
        super().on_happened(message)
        if {crashes}:
            1 / 0

def probe(self, inputs, session):
    session.note("begun")
    while True:
        time.sleep(0.05)

RealEngine.probe, main.AdvisorApp, main.GRACE = probe, App, 0.3
sys.exit(main.run(dict(model="m", data="d"), start=True))
"""


def in_terminal(code: str, home: Path, asked: Callable[[bytes], bytes | None]) -> tuple[int, bytes]:
    """Run it in a terminal; ``asked`` says what to type by what is on screen. Exit code and what was written."""
    pid, terminal = pty.fork()
    if pid == 0:
        places = {f"XDG_{name}_HOME": str(home) for name in ("STATE", "CACHE", "DATA")}
        os.environ.update(TERM="xterm-256color", **places)
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                written += os.read(terminal, 65536)
            except OSError:
                break
        if keys := asked(written):
            os.write(terminal, keys)
    else:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written


def test_a_crash_beside_a_run_that_does_not_end_gives_the_terminal_back(tmp_path: Path) -> None:
    code, written = in_terminal(STUCK.format(crashes=True), tmp_path, lambda _: None)
    assert code == 1
    back = written.partition(b"\x1b[?1049l")[2]  # from the alternate screen
    assert b"The terminal interface failed: ZeroDivisionError" in back
    assert b".log" in back
    assert b"Traceback" not in back


def test_quitting_beside_a_run_that_does_not_end_ends_the_process(tmp_path: Path) -> None:
    typed: list[bytes] = []

    def asked(written: bytes) -> bytes | None:
        steps = [(b"begun", b"\x11"), (b"Stay", b"\t\r"), (b"Waiting", b"\x03")]
        if len(typed) < len(steps) and steps[len(typed)][0] in written:
            typed.append(steps[len(typed)][1])
            return typed[-1]
        return None

    code, written = in_terminal(STUCK.format(crashes=False), tmp_path, asked)
    assert code == 0
    assert len(typed) == 3
    assert b"\x1b[?1049l" in written
