"""Probe: progress, log, stopping, what happens when it fails."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import ProgressBar, Static
from tui_helpers import settled, shown_text

from advisor.core.errors import NotFinite, OutOfMemory
from advisor.core.events import Note, Progress, Warn
from tui.activity import PHASES, Activity
from tui.app import AdvisorApp
from tui.dialogs import ErrorDialog, Question
from tui.inputs import Inputs

MakeApp = Callable[..., AdvisorApp]
INPUTS = Inputs(model="m", data="d")


async def until(pilot: Pilot[None], met: Callable[[], bool]) -> None:
    for _ in range(300):
        if met():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not happen")


async def test_a_probe_ends_in_the_explorer(make_app: MakeApp) -> None:
    app = make_app(INPUTS, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.current_mode == "explore"
        assert "· Probing m on d." in app.log_lines
        await pilot.press("2")
        assert shown_text(app, "#headline") == "Done."
        assert app.screen.query_one(ProgressBar).progress == 1.0


async def test_escape_stops_and_says_so_until_the_engine_has(make_app: MakeApp, engine) -> None:
    engine.gate = threading.Event()
    app = make_app(INPUTS, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "probe" in app.runs and app.activity.stage == "Probe")
        await pilot.press("escape")
        assert shown_text(app, "#headline").startswith("Stopping…")
        assert "probe" in app.runs
        engine.gate.set()
        await until(pilot, lambda: "probe" not in app.runs)
        await settled(pilot)
        assert shown_text(app, "#headline") == "Stopped; finished work is kept. F5 resumes."
        assert app.state.opened is None
        await pilot.press("f5")
        await settled(pilot)
        assert app.current_mode == "explore"


async def test_quitting_during_a_probe_asks(make_app: MakeApp, engine) -> None:
    engine.gate = threading.Event()
    app = make_app(INPUTS, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "probe" in app.runs)
        await pilot.press("ctrl+q")
        assert isinstance(app.screen, Question)
        await pilot.press("escape")
        assert app.is_running
        assert not app.runs["probe"].cancel.is_set()
        await pilot.press("ctrl+q", "right", "tab", "enter")
        engine.gate.set()
        await until(pilot, lambda: not app.runs)
    assert app.return_code == 0


@pytest.mark.parametrize(
    ("error", "hint"),
    [(OutOfMemory("Not even one [row] fits.", "Shorten --max-length."), "\nShorten Max tokens."), (NotFinite("NaN in m."), "")],
)
async def test_an_expected_failure_is_a_dialog_that_can_be_copied(make_app: MakeApp, engine, error, hint: str) -> None:
    engine.fails["probe"] = error
    app = make_app(INPUTS, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert error.what in str(app.screen.query_one("#what", Static).render())
        await pilot.press("c")
        assert app.clipboard == f"{error.what}{hint}"  # an option is called as its field here
        await pilot.press("escape")
        assert app.state.inputs == INPUTS
        assert shown_text(app, "#headline").startswith(f"Failed: {error.what}")


async def test_an_unexpected_failure_goes_to_a_log_file_whose_path_is_shown(make_app: MakeApp, engine) -> None:
    engine.fails["probe"] = ZeroDivisionError("odd [b]thing")
    app = make_app(INPUTS, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        assert "ZeroDivisionError: odd [b]thing" in str(app.screen.query_one("#what", Static).render())
        assert str(app.log_path) in app.screen.hint
    assert "Traceback" in app.log_path.read_text()


async def test_what_libraries_print_goes_to_the_log(make_app: MakeApp, engine) -> None:
    engine.gate = threading.Event()
    app = make_app(INPUTS, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "probe" in app.runs)
        print("a [library] says")
        print("and warns", file=sys.stderr)
        await until(pilot, lambda: "and warns" in app.log_lines)
        assert "a [library] says" in app.log_lines
        engine.gate.set()
        await settled(pilot)
        await pilot.press("2", "y")
        assert "a [library] says" in app.clipboard


def test_activity_tells_stage_speed_and_what_remains() -> None:
    now = [100.0]
    activity = Activity(clock=lambda: now[0])
    assert activity.headline() == "Loading model and data… 0 s"
    activity.take(Progress("Probe", 2, 10))
    now[0] = 104.0
    assert activity.take(Progress("Probe", 6, 10, "layer 3", eta_s=75.0)) is None
    assert activity.headline() == "Probe: 6 of 10, 1/s, 1.2 min left, 4 s so far"
    assert (activity.take(Note("n")), activity.take(Warn("w"))) == ("· n", "⚠ w")
    activity.stopping = True
    assert activity.headline().startswith("Stopping…")


def test_progress_in_all_never_falls_and_names_the_phase() -> None:
    activity, shares = Activity(clock=lambda: 0.0), []
    phases = [name for name in PHASES if not name.startswith("Linearity")]
    for stage in phases:
        for done in (0, 1, 2):
            activity.take(Progress(stage, done, 2))
            shares.append(activity.share())
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert activity.headline().startswith("Phase 4 of 4, peers' scores (modules): 2 of 2")
    skipped = Activity(clock=lambda: 0.0)  # a language model has no head
    skipped.take(Progress(phases[1], 0, 2))
    assert skipped.headline().startswith("Phase 1 of 3")
