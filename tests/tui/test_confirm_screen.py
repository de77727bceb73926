"""Confirm: real runs started, watched and stopped; what they say changes the answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fakes
import pytest
from textual.widgets import Input, ProgressBar
from tui_helpers import settled, shown_text, until

from advisor.advice.confirm import short_recipe
from advisor.advice.effort import measuring_steps, run_steps
from advisor.core.events import Progress
from advisor.report.confirmation import CAVEAT
from advisor.training.live import DoneRun, LiveFile, LiveRun, begin, end, finished_runs, runs_under_way
from tui.app import AdvisorApp
from tui.curves import Curve, curves
from tui.engine import Seen
from tui.inputs import Inputs
from tui.standing import finalists_text, left_in_all, reached, runs_text, share, smoothed

MakeApp = Callable[..., AdvisorApp]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are kept in the folder one is in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


async def test_real_runs_change_the_answer(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        before, scorer = app.state.recommendation, app.state.opened.scorer
        await pilot.press("6")
        await settled(pilot)
        opened, rec = app.state.opened, app.state.recommendation
        recipe = short_recipe(opened.scorer, None)
        steps = run_steps(opened.scorer, recipe)
        total = 4 * steps + measuring_steps(opened.scorer, len(rec.finalists), recipe)
        said = " ".join(shown_text(app, "#status").split())
        assert f"up to 4 real LoRA runs of {steps} steps" in said
        assert f"as long as {total} steps of training all modules at most" in said
        assert " ".join(shown_text(app, "#caveat").split()) == CAVEAT
        await pilot.press("f5")
        await settled(pilot)
        found = app.state.confirmation
        assert found.runs[0].role == "pilot"
        assert 1 <= len(found.runs) <= 4
        assert app.state.recommendation is not before
        assert app.state.opened.scorer is not scorer  # the fake's recipe is the advice's own: everything is predicted anew
        assert app.state.opened.scorer.runs
        standing = app.standing
        assert len(standing.runs) == engine.asked.count("run") == len(found.runs)
        first = standing.finalists[0]
        assert first.after[2] - first.after[1] < first.before[2] - first.before[1]  # the interval has shrunk
        said = shown_text(app, "#verdict")
        assert f"{len(found.runs)} real runs" in said
        assert "probability" in said
        assert engine.asked.count("recommend") == 1  # no search begins anew
        await pilot.press("3")
        await settled(pilot)
        assert "real runs" in shown_text(app, "#headline")


@pytest.mark.parametrize(("mode", "typed"), [("confirm", "'my runs'"), ("confirm", "my\\ runs"), ("export", "'my runs'")])
async def test_a_folder_may_be_named_as_a_shell_would_take_it(make_app: MakeApp, mode: str, typed: str) -> None:
    Path("my runs").mkdir()
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.action_show(mode)
        await settled(pilot)
        app.screen.query_one("#folder", Input).value = typed
        await pilot.pause()
        if mode == "export":
            await pilot.press("s")
            await settled(pilot)
            assert Path("my runs/lora.yaml").exists()
        else:
            assert app.runs_folder == Path("my runs")


async def test_finalists_are_drawn_to_the_size_they_have(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("6", "f5")
        await settled(pilot)
        for size in ((80, 24), (120, 40), (80, 24), (60, 30)):
            app.action_show("explore")
            await settled(pilot)
            await pilot.resize_terminal(*size)
            app.action_show("confirm")
            await settled(pilot)
            width = app.screen.query_one("#side").scrollable_content_region.width
            assert shown_text(app, "#finalists") == finalists_text(app.standing, width).plain
            assert "━" in shown_text(app, "#finalists")


async def test_escape_stops_and_what_is_done_decides(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("6")
        await settled(pilot)
        engine.gate = threading.Event()
        engine.gate.set()
        wait = engine.gate.wait
        first_done = threading.Event()

        def gate(timeout: float) -> bool:
            if "run" in engine.asked and not first_done.is_set():
                first_done.set()
                engine.gate.clear()
            return wait(timeout)

        engine.gate.wait = gate
        await pilot.press("f5")
        while not first_done.is_set():
            await pilot.pause(0.02)
        await pilot.press("escape")
        assert "Stopping" in shown_text(app, "#status")  # at once
        engine.gate.set()
        await settled(pilot)
        assert engine.asked.count("run") == 1
        assert len(app.state.confirmation.runs) == 1
        assert "1 real run " in shown_text(app, "#verdict")


async def test_stopping_before_the_first_run_leaves_the_answer(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        before = app.state.recommendation
        engine.gate = threading.Event()
        await pilot.press("6", "f5", "f5", "escape")
        engine.gate.set()
        await settled(pilot)
        assert app.state.recommendation is before
        assert app.state.confirmation is None
        assert engine.asked.count("confirm") == 1


async def test_calibration_scores_anew_by_what_was_learned(make_app: MakeApp, engine) -> None:
    app = make_app(Inputs(confirm=4), opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        opened = app.state.opened
        engine.gate = threading.Event()
        await pilot.press("6", "c", "c", "f5")  # one at a time
        await pilot.pause(0.1)
        assert "Calibration: run 1 of 4" in shown_text(app, "#status")
        assert engine.asked.count("calibrate") == 1
        assert "confirm" not in engine.asked
        engine.gate.set()
        await settled(pilot)
        assert engine.asked.count("run") == 4
        assert app.state.opened is not opened
        assert engine.asked.count("recommend") == 2  # searched for anew
        assert any("learn from 4 runs" in note.message for note in app._notifications)


async def test_a_stopped_calibration_leaves_the_answer(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        opened = app.state.opened
        engine.gate = threading.Event()
        await pilot.press("6", "c", "escape")
        assert "count next time" in shown_text(app, "#status")
        engine.gate.set()
        await settled(pilot)
        assert app.state.opened is opened


async def test_runs_of_another_process_are_seen(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        folder = Path("recommendation/confirm")
        row = {
            "key": "a",
            "selection": {"name": "all-linear", "targets": []},
            "result": {"val_loss": 0.5, "metric": 0.8, "wall_s": 7.0, "epochs": [[None, 0.9, 0.3], [0.7, 0.5, 0.8]]},
        }
        live = LiveFile(begin(folder), "b", "mine [x]")
        (folder / "runs.jsonl").write_text(json.dumps(row) + "\n{", encoding="utf-8")
        live.tell(0, 10, None, [0.9])
        for step in range(1, 6):
            live._written = 0.0
            live.tell(step, 10, 1.0 / step, [0.9])
        await pilot.press("6")
        await pilot.pause(0.6)
        await settled(pilot)
        said = shown_text(app, "#runs")
        assert "1 pilot (all modules): loss 0.500" in said
        assert "2 mine [x]: step 5 of 10" in said
        assert "Another process trains" in shown_text(app, "#status")
        assert set(shown_text(app, "#curves")) & set(map(chr, range(0x2801, 0x2900)))
        end(folder)
        await pilot.pause(0.6)
        await settled(pilot)
        assert "step 5" not in shown_text(app, "#runs")


async def test_how_many_runs_and_where_is_asked_below(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("6", "e", "ctrl+u", *"many")
        assert "Runs" in shown_text(app, "#status")
        await pilot.press("enter")
        assert "confirm" not in engine.asked
        await pilot.press("ctrl+u", "1")
        app.screen.query_one("#folder", Input).value = "there"
        await pilot.press("enter")
        await settled(pilot)
        assert app.screen.focused.id == "side"  # so that Escape stops
        assert app.runs_folder == Path("there")
        assert engine.asked.count("run") == 1
        assert app.state.inputs.confirm == 1


async def test_recommend_tui_confirm_runs_and_then_writes(make_app: MakeApp, engine) -> None:
    app = make_app(Inputs(model="m", data="d", confirm=2), start=True, writes=True, confirms=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for _ in range(100):
            await settled(pilot)
            if app.written:
                break
            await pilot.pause(0.05)
        assert app.current_mode == "confirm"
        assert engine.asked.index("confirm") < engine.asked.index("write")
        assert engine.wrote == (app.state.confirmation, Path("recommendation"))
        assert app.state.confirmation.asked == 2
        assert app.written == (Path("recommendation/lora.yaml"),)


def test_a_run_tells_what_it_has_reached_and_no_more_once_it_is_over(tmp_path: Path) -> None:
    live = LiveFile(begin(tmp_path), "k", "name")
    live.tell(0, 4, None, [1.5])
    (found,) = runs_under_way(tmp_path)
    assert (found.step, found.steps, found.epochs, found.at, found.losses) == (0, 4, (1.5,), (0,), ())
    live.tell(1, 4, 0.9, [1.5])
    live.tell(2, 4, 0.8, [1.5])  # too soon to be written
    live.tell(2, 4, None, [1.5, 0.7])
    (found,) = runs_under_way(tmp_path)
    assert (found.step, found.epochs, found.at) == (2, (1.5, 0.7), (0, 2))
    assert found.losses == (0.9, 0.8)
    live.at_work(Progress("measuring", 3, 12))
    (found,) = runs_under_way(tmp_path)
    assert (found.measured, found.to_measure) == (3, 12)
    assert found.seen >= found.written
    assert found.is_under_way(found.seen + 29.0)
    live.remove()
    assert runs_under_way(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 1}'])
def test_damaged_files_of_runs_are_left_out(tmp_path: Path, text: str) -> None:
    (begin(tmp_path) / "x.json").write_text(text, encoding="utf-8")
    (tmp_path / "runs.jsonl").write_text(f"{text}\n", encoding="utf-8")
    assert runs_under_way(tmp_path) == []
    assert finished_runs(tmp_path) == []


def test_a_run_without_a_word_for_long_is_over(tmp_path: Path) -> None:
    run = LiveRun("k", "n", 10, 100, (), (), (), started=0.0, written=100.0)  # 10 s a step
    assert run.eta_s == 900.0
    assert run.is_under_way(299.0)
    assert not run.is_under_way(301.0)
    (begin(tmp_path) / "k.json").write_text(json.dumps(asdict(run)), encoding="utf-8")
    assert runs_under_way(tmp_path) == []  # of 1970


def test_time_left_counts_what_is_under_way_and_what_may_follow() -> None:
    run = LiveRun("k", "n", 50, 100, (), (), (), started=0.0, written=10.0)
    assert left_in_all(0, 4, [], []) is None
    assert left_in_all(0, 4, [], [run]) == 10.0 + 3 * 20.0
    assert left_in_all(2, 4, [], [run]) == 10.0 + 20.0


def test_time_left_and_what_is_done_count_what_a_pilot_measures() -> None:
    trains = LiveRun("k", "n", 50, 100, (), (), (), started=0.0, written=10.0)
    assert left_in_all(0, 1, [], [trains], measuring=3.0) == 10.0 + 3 * 20.0
    begins = replace(trains, step=100, written=20.0, seen=20.0, to_measure=10)
    assert left_in_all(0, 1, [], [begins], measuring=3.0) == 3 * 20.0
    measures = replace(begins, seen=60.0, measured=4)
    assert left_in_all(0, 1, [], [measures], measuring=3.0) == 6 * 10.0
    done = DoneRun("k", "n", 0.5, 0.8, 20.0, (), 100.0)
    assert left_in_all(1, 2, [done], [], measuring=3.0) == 20.0
    assert [share(run, 3.0) for run in (trains, begins, measures)] == pytest.approx([0.5, 1.0, 2.2])
    assert reached(measures) == "measuring: 4 of 10 selections"
    assert "loss 0.500, metric 0.800, 2.0 min" in runs_text(None, [done], [], {}).plain


async def test_a_pilot_that_measures_shows_how_far_it_is_and_how_long_that_takes(make_app: MakeApp, engine, monkeypatch) -> None:
    run = LiveRun("k", "all-linear", 24, 24, (), (1.0,), (0,), started=0.0, written=10.0, seen=70.0, measured=6, to_measure=12)
    monkeypatch.setattr(engine, "watch", lambda opened, folder: Seen(live=(run,)))
    confirm = engine.confirm

    def announced(*given: Any) -> Any:
        given[5].note("Up to 1 real run, roughly 3 min.", brief=True)
        return confirm(*given)

    monkeypatch.setattr(engine, "confirm", announced)
    app = make_app(Inputs(confirm=1), opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        engine.gate = threading.Event()
        await pilot.press("6", "f5")
        await until(pilot, lambda: "measuring: 6 of 12 selections, at most 1.0 min left in all" in shown_text(app, "#status"))
        assert "measuring: 6 of 12" in shown_text(app, "#runs")
        bar = app.screen.query_one(ProgressBar)
        assert bar.percentage == pytest.approx((1 + (bar.total - 1) / 2) / bar.total)
        monkeypatch.setattr(engine, "watch", lambda opened, folder: Seen())
        await until(pilot, lambda: "roughly 3 min" in shown_text(app, "#status"))
        engine.gate.set()
        await settled(pilot)


@pytest.mark.parametrize("key", ["model_fingerprint", "data_fingerprint"])
async def test_runs_of_another_model_or_other_data_are_not_listed(make_app: MakeApp, engine, key: str) -> None:
    mine = {"model_fingerprint": "m", "data_fingerprint": "d"}
    probe = engine.scorer.probe
    engine.scorer = fakes.make_scorer(replace(probe, info={**probe.info, "identity": mine}))
    folder = Path("recommendation/confirm")
    folder.mkdir(parents=True)
    result = {"val_loss": 0.5, "metric": 0.8, "wall_s": 7.0, "epochs": [[None, 0.9, 0.3]]}
    row = {"key": "a", "selection": {"name": "all-linear", "targets": []}, "result": result}
    (folder / "runs.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for made_of, said in ((mine, "1 finished in this folder"), ({**mine, key: "x"}, "runs of another model or other data")):
            (folder / "calibration.json").write_text(json.dumps({"made_of": made_of}), encoding="utf-8")
            await pilot.press("3", "6")
            await until(pilot, lambda said=said: said in " ".join(shown_text(app, "#status").split()))
            assert ("loss 0.500" in shown_text(app, "#runs")) == (made_of == mine)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (50, 20)])
async def test_losses_are_drawn_where_there_is_room_and_else_the_finalists_have_it(
    make_app: MakeApp, engine, monkeypatch, size: tuple[int, int]
) -> None:
    many = tuple(DoneRun(str(i), f"run {i}", 0.5, 0.8, 20.0, (0.9, 0.6, 0.5)) for i in range(5))
    monkeypatch.setattr(engine, "watch", lambda opened, folder: Seen(done=many))
    app = make_app(opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("6")
        await settled(pilot)
        await pilot.pause(0.1)
        drawn = app.screen.query_one("#curves")
        said = shown_text(app, "#runs")
        assert "run 4: loss 0.500" in said
        assert drawn.display == ("validation loss in colour" in said) == (size == (120, 40))
        assert not drawn.display or set(str(drawn.render())) & set(map(chr, range(0x2801, 0x2900)))
        left, main, side = (app.screen.query_one(f"#{name}").size.height for name in ("left", "main", "side"))
        assert drawn.display or (left <= len(said.splitlines()) + 1 and side >= main - left - 1)


@pytest.mark.parametrize(("field", "text"), [("budget", "12modules"), ("rank", "4")])
async def test_another_budget_that_is_taken_back_leaves_what_runs_have_said(
    make_app: MakeApp, engine, monkeypatch: pytest.MonkeyPatch, field: str, text: str
) -> None:
    monkeypatch.setattr("tui.ask.FOLLOW_AFTER", 0.01)
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("6", "f5")
        await settled(pilot)
        await pilot.press("3")
        await settled(pilot)
        state = app.state
        before = (state.recommendation, state.headline, state.confirmation, state.opened, state.current, app.standing)
        said = shown_text(app, "#headline")
        assert "real runs" in said
        for tries in (1, 2):
            await pilot.press("b")
            app.screen.query_one(f"#{field}", Input).value = text
            await pilot.pause(0.1)
            await settled(pilot)
            assert state.recommendation is not before[0]
            assert state.confirmation is None
            if tries == 1:
                await pilot.press("escape")
            else:  # kept, and taken back later
                app.screen.query_one(f"#{field}", Input).value = {"budget": "25%", "rank": "8"}[field]
                await pilot.press("enter")
            await settled(pilot)
            after = (state.recommendation, state.headline, state.confirmation, state.opened, state.current, app.standing)
            assert after == before
            assert shown_text(app, "#headline") == said
        assert engine.asked.count("run") == len(before[2].runs)  # none was made again
        app.open_probe(engine.folder)
        await settled(pilot)
        assert state.confirmation is None  # as nothing is known of that probe yet


@pytest.mark.parametrize("width", [0, 10, 24, 100])
@pytest.mark.parametrize("height", [0, 4, 30])
def test_curves_fit_and_fall_as_the_losses_do(width: int, height: int) -> None:
    lines = curves([Curve(((0.0, 1.0), (0.5, 0.4), (1.0, 0.2)), "a"), Curve(((0.0, 0.9),), "b")], width, height)
    assert len(lines) in (0, height)
    assert all(sum(len(text) for text, _ in line) == width for line in lines)
    if lines:
        drawn = ["".join(text for text, style in line if style == "a") for line in lines]
        used = [row for row, text in enumerate(drawn) if text.strip()]
        assert used[0] < used[-1]
    assert curves([Curve(((0.0, float("nan")),), "a")], 80, 20) == []
    assert curves([], 80, 20) == []


def test_training_losses_are_smoothed() -> None:
    assert smoothed([1.0, 0.0], 0.5) == [1.0, 0.5]
    assert smoothed([]) == []
