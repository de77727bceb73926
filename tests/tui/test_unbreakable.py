"""What must not break the interface: queued keys, crashes, work that does not end, leaving, Setup, saving."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.events import Key
from textual.widgets import Button, Input
from tui_helpers import send, settled, shown_text, until

import advisor
from advisor.core.errors import BadInput
from advisor.core.options import Terminal
from tui import work
from tui.app import AdvisorApp
from tui.dialogs import ErrorDialog, Question, StoppingDialog
from tui.inputs import Inputs
from tui.keep import read_session
from tui.real_engine import RealEngine

MakeApp = Callable[..., AdvisorApp]
ROOT = Path(advisor.__file__).resolve().parents[1]


# --- keys keep their order --------------------------------------------------------------------------------------------


async def test_queued_keys_land_in_the_field_they_were_typed_for(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        send(app, *"model", "tab", *"data", "enter", *"9modules", "shift+tab", "end", "x", "ctrl+u", *"new", "tab", "tab", "q")
        await settled(pilot)
        inputs = app.state.inputs
        assert (inputs.model, inputs.data, inputs.budget) == ("model", "new", "9modules")


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


async def test_a_key_that_comes_back_when_all_screens_are_gone_does_nothing(make_app: MakeApp, monkeypatch) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        key = Key("x", "x")
        key._set_forwarded()
        with monkeypatch.context() as closing:
            closing.setattr(AdvisorApp, "_screen_stack", [])
            await app.on_event(key)


@pytest.mark.parametrize("place", ["confirm", "explore"])
async def test_a_timer_that_ticks_when_all_screens_are_gone_is_no_crash(make_app: MakeApp, monkeypatch, place: str) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        app.switch_mode(place)
        await settled(pilot)
        screen, asked = app.screen, []
        with monkeypatch.context() as closing:
            closing.setattr(AdvisorApp, "_screen_stack", [])
            screen.set_timer(0.01, lambda: asked.append(screen.is_active))
            screen.set_timer(0.01, lambda: asked.append(app.screen))
            if place == "confirm":
                screen._look()
            await asyncio.sleep(0.1)
        assert asked == [False]
    assert not app.crash


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
from advisor.core.options import Terminal
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
sys.exit(main.run(Terminal(model="m", data="d"), start=True))
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


# --- Setup -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["900%", "0%", "-3modules", "lots", "24 parsecs"])
async def test_a_budget_that_cannot_be_is_refused_at_once_and_never_kept(
    make_app: MakeApp, engine, tmp_path, budget: str
) -> None:
    app = make_app(Inputs(model="m", data="d"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.screen.query_one("#budget", Input).value = budget
        await pilot.pause()
        assert shown_text(app, "#problem-budget").startswith(f"Budget {budget}:")
        assert app.screen.query_one("#problem-budget").display
        assert app.screen.query_one("#budget").has_class("wrong")
        await pilot.press("f5")
        await settled(pilot)
        assert "probe" not in engine.asked
        await pilot.press("ctrl+q")
    assert read_session(tmp_path / "tui.json").inputs.budget == "25%"


@pytest.mark.parametrize("wrong", [{"budget": "900%"}, {"rank": 0}, {"alpha": -1.0}, {"task": "poetry"}, {"epochs": 0}])
def test_a_wrong_value_of_an_old_session_or_a_command_line_goes_no_further(tmp_path: Path, wrong: dict[str, object]) -> None:
    (tmp_path / "tui.json").write_text(json.dumps({"schema": 1, "inputs": {"model": "m", **wrong}}), encoding="utf-8")
    assert read_session(tmp_path / "tui.json").inputs == Inputs(model="m")
    with pytest.raises(BadInput):
        Terminal(model="m", **wrong)


async def test_a_model_folder_that_is_not_there_is_said_on_setup(make_app: MakeApp, engine, tmp_path: Path) -> None:
    app = make_app(Inputs(model=str(tmp_path / "gone"), data="d"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.pause(0.05)
        await settled(pilot)
        assert f"{tmp_path / 'gone'}: no such folder" in shown_text(app, "#problem-model")
        await pilot.press("f5")
        await settled(pilot)
        assert "probe" not in engine.asked
        assert app.screen.focused.id == "model"
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "config.json").write_text("{}")
        app.screen.query_one("#model", Input).value = str(tmp_path / "there")
        await pilot.pause(0.05)
        await settled(pilot)
        assert not app.screen.query_one("#problem-model").display


@pytest.mark.parametrize("name", ["gpt2", "owner/name", None, "no-such-name"])
def test_a_hub_id_is_not_taken_for_a_missing_folder(name: str | None) -> None:
    assert RealEngine().model_problem(Inputs(model=name)) == ""


async def test_data_that_cannot_be_read_are_not_probed_and_clearing_them_clears_the_error(make_app: MakeApp, engine, bad) -> None:
    engine.fails["preview"] = bad
    app = make_app(Inputs(model="m", data="d.csv"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.pause(0.05)
        await settled(pilot)
        await pilot.press("f5")
        await settled(pilot)
        assert "probe" not in engine.asked
        assert bad.what in shown_text(app, "#problem-data")
        assert app.screen.focused.id == "data"
        await pilot.press("ctrl+u")
        await settled(pilot)
        assert shown_text(app, "#problem-data") == ""
        assert not app.screen.query_one("#data").has_class("wrong")


async def test_a_probe_that_is_opened_is_named_until_it_is_there(make_app: MakeApp, engine, monkeypatch) -> None:
    gate = threading.Event()
    opens = engine.open
    monkeypatch.setattr(engine, "open", lambda *given: opens(*given) if gate.wait(10) else None)
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        while not app.has_begun:
            await pilot.pause(0.01)
        await pilot.pause(0.3)
        assert f"Opening the probe in {engine.folder}" in shown_text(app, "#message")
        gate.set()
        await settled(pilot)
        assert app.current_mode == "explore"


async def test_the_first_lines_name_the_probe_that_is_opened(make_app: MakeApp, engine, monkeypatch) -> None:
    async def later(self: AdvisorApp) -> None:
        pass

    monkeypatch.setattr(AdvisorApp, "_begin", later)
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)):
        assert f"Opening the probe in {engine.folder}" in shown_text(app, "#welcome")


async def test_f5_while_the_last_probe_stops_is_answered_and_attempts_are_told_apart(make_app: MakeApp, engine) -> None:
    engine.gate = threading.Event()
    app = make_app(Inputs(model="m", data="d"), start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "probe" in app.runs and app.activity.stage == "Probe")
        await pilot.press("escape", "f5")
        assert any("has not stopped yet" in str(notice.message) for notice in app._notifications)
        engine.gate.set()
        await settled(pilot)
        await pilot.press("f5")
        await settled(pilot)
    assert [line for line in app.log_lines if line.startswith("──")] == ["── Attempt 1: m on d", "── Attempt 2: m on d"]


# --- saving ------------------------------------------------------------------------------------------------------------


async def test_saving_twice_asks_nothing_of_what_nobody_touched(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("7")
        await settled(pilot)
        app.screen.query_one("#folder", Input).value = str(tmp_path / "out")
        await pilot.press("s")
        await settled(pilot)
        assert any(f"Saved to {tmp_path / 'out'}: " in str(notice.message) for notice in app._notifications)
        await pilot.press("s")
        await settled(pilot)
        assert not isinstance(app.screen, Question)
        (tmp_path / "out" / "lora.yaml").write_text("mine")
        await pilot.press("s")
        await settled(pilot)
        assert isinstance(app.screen, Question)


async def test_recommend_in_the_interface_writes_the_folder_once(make_app: MakeApp, engine, tmp_path: Path, monkeypatch) -> None:
    written = []
    gate = threading.Event()

    def write(opened, rec, found, inputs, out, overwrite, session):
        written.append((opened.folder, rec.budget.text))
        gate.wait(10)
        return (tmp_path / "recommendation" / "lora.yaml",)

    monkeypatch.setattr(engine, "write", write)
    app = make_app(Inputs(budget="12modules"), opened=True, writes=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(written))
        await pilot.press("ctrl+q")
        assert isinstance(app.screen, StoppingDialog)
        assert "the recommendation's folder" in shown_text(app, "#waits-for")
        assert not app.runs["write"].cancel.is_set()
        gate.set()
        await until(pilot, lambda: app._exit)
    assert written == [(engine.folder, "12modules")]
    assert app.written == (tmp_path / "recommendation" / "lora.yaml",)
