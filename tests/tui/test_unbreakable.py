"""What must not break the interface: doubled and queued keys, crashes, work that does not end, leaving."""

from __future__ import annotations

import json
import math
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
from textual.command import CommandList
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList
from tui_helpers import send, settled, shown_text

import advisor
from advisor.core.errors import BadInput
from advisor.core.options import Terminal
from advisor.core.targets import Target
from tui import work
from tui.app import AdvisorApp
from tui.cells import MEASURES, headings, number, number_width
from tui.dialogs import ChoiceDialog, ErrorDialog, NameDialog, Question, StoppingDialog, TextDialog
from tui.heatmap import Grid, HeatMap
from tui.inputs import Inputs
from tui.keep import read_session
from tui.lists import Options
from tui.main import inputs_of
from tui.plot import Scale
from tui.real_engine import RealEngine

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


@pytest.mark.parametrize("theme_list", [True, False])
async def test_a_palette_that_is_closed_or_left_before_it_is_there_breaks_nothing(make_app: MakeApp, theme_list: bool) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        opens = app.search_themes if theme_list else app.action_command_palette
        opens()
        app.pop_screen()
        await pilot.pause(0.1)
        opens()
        app.switch_mode("compare")  # as the end of a probe does
        await pilot.pause(0.1)
        assert (app.current_mode, len(app.screen_stack)) == ("compare", 1)
        await pilot.press("3")
        assert (app.current_mode, len(app.screen_stack)) == ("explore", 1)


async def test_a_palette_opens_while_the_last_one_is_still_closing(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        app.action_command_palette()
        await pilot.pause(0.1)
        app.screen.dismiss()
        app.action_command_palette()
        await pilot.pause(0.1)
        assert len(app.screen_stack) == 2


def test_a_page_key_in_a_list_that_is_not_laid_out_yet_does_nothing() -> None:
    listed = Options("a", "b")
    listed.action_page_up()
    listed.action_page_down()
    assert listed.option_count == 2


async def test_no_widget_needs_room_to_say_how_high_it_is(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for place in app.PLACES:
            app.action_show(place.mode)
            await settled(pilot)
            for widget in app.screen.query("*"):
                for width in (0, 1):
                    widget.get_content_height(app.size, app.size, width)


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
        inputs_of(Terminal(model="m", **wrong))


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


# --- numbers that are true, axes and headings that can be ----------------------------------------------------------------


async def test_numbers_of_the_last_selection_go_with_it(make_app: MakeApp, engine, monkeypatch) -> None:
    app = make_app(opened=True)
    gate = threading.Event()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("m")  # loss saved: it is of the selection too
        old = f"{app.state.figures.metric[0]:.2f}"
        assert old in shown_text(app, "#selection")
        for name, asks in (("figures", engine.figures), ("effects", engine.effects)):
            monkeypatch.setattr(engine, name, lambda *given, asks=asks: asks(*given) if gate.wait(10) else None)
        await pilot.press("space")
        lines = shown_text(app, "#selection").splitlines()
        assert not [line for line in lines if line.startswith(("accuracy", "loss", "memory")) and "…" not in line]
        assert "loss vs all …" in " ".join(shown_text(app, "#against").split())
        assert app.screen.query_one(HeatMap).is_stale
        assert "loss saved …" in shown_text(app, "#legend")
        gate.set()
        await settled(pilot)
        assert not app.screen.query_one(HeatMap).is_stale
        assert f"{app.state.figures.metric[0]:.2f}" in shown_text(app, "#selection")


LLAMA = ("query", "key", "value", "output", "gate", "up", "down")
T5 = (*LLAMA[:4], *(f"cross.{role}" for role in LLAMA[:4]), "wi", "wo")


@pytest.mark.parametrize("roles", [LLAMA, T5, ("q_proj", "k_proj", "c_attn", "fc1", "fc2"), ("mlp.dense_in", "mlp.dense_out")])
@pytest.mark.parametrize("width", [2, 3, 4, 6, 10])
def test_headings_fit_and_tell_all_roles_apart(roles: tuple[str, ...], width: int) -> None:
    found = headings(roles, width)
    assert len(set(found)) == len(roles)
    assert all(0 < len(name) <= width for name in found)


@pytest.mark.parametrize("top", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("most", range(1, 6))
def test_numbers_are_shown_only_where_they_say_something(top: float, most: int) -> None:
    values = [top * i / 9 for i in range(10)]
    width = number_width(values, MEASURES["share"], most)
    if width:
        shown = [float(number(value, MEASURES["share"], width)) for value in values]
        assert max(abs(s - 100 * v) for s, v in zip(shown, values, strict=True)) <= max(0.02 * 100 * top, 0.05) + 1e-9
    else:
        assert most < 4


def test_rows_say_which_stack_they_are_of() -> None:
    def rows(*names: str) -> tuple[str, ...]:
        return Grid.of([Target(name, i, "query", "attention", 4, 4) for i, name in enumerate(names)]).labels

    assert rows("encoder.block.0.q", "encoder.block.1.q", "decoder.block.0.q") == ("enc0", "enc1", "dec0")
    assert rows("model.vision.layers.0.q", "model.language.layers.10.q") == ("vis0", "lan10")
    assert rows("model.text_a.0.q", "model.text_b.1.q") == ("s1.0", "s2.1")
    assert rows("model.layers.0.q", "model.layers.31.q") == ("0", "1")


async def test_seven_roles_are_readable_at_80x24(make_app: MakeApp, engine) -> None:
    targets = [Target(f"model.layers.{i}.{r}", i, r, "attention", 24, 24) for i in range(32) for r in LLAMA]
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        heatmap = app.screen.query_one(HeatMap)
        heatmap.show_grid(Grid.of(targets))
        heatmap.show_values([0.001 + 0.0001 * i for i in range(224)], MEASURES["share"])
        assert heatmap.render_line(0).text.split() == ["layer", "q", "k", "v", "o", "gate", "up", "down"]
        line = heatmap.render_line(1).text
        assert not set(line[6:]) & set("123456789")
        assert line.count("○") == 7


@pytest.mark.parametrize(("value", "limits"), [(0.0, (0.0, 1.0)), (1.0, (0.0, 1.0)), (0.0, (-1.0, 1.0)), (0.0, (0.0, math.inf))])
def test_an_axis_keeps_to_what_its_metric_can_be_also_where_all_tie(value: float, limits: tuple[float, float]) -> None:
    scale = Scale.of([value, value], margin=0.08, limits=limits)
    assert limits[0] <= scale.low < scale.high <= limits[1]
    assert 0 <= scale.place(value) <= 1


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

    def write(opened, inputs, out, session):
        written.append((opened.folder, inputs.budget))
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
