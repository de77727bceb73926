"""From Setup to Explore on the real engine with a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from oracle import write_rows
from textual.widgets import Input
from tui_helpers import settled, shown_text

from advisor.core.events import Session
from advisor.core.probe import KeepBlocks
from advisor.prediction.calibration_rows import parse_rows, user_rows_folder
from advisor.training.live import finished_runs
from tui.app import AdvisorApp
from tui.form import parsed
from tui.inputs import Inputs
from tui.real_engine import RealEngine

RUNS_TRIES = 30_000


def write_data(path: Path) -> Path:
    words = {"good": ("fine", "great", "nice"), "bad": ("poor", "awful", "grim")}
    rows = [f"{word} film number {i} today,{label}" for i in range(12) for label, of in words.items() for word in of]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


async def test_from_setup_to_explore(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model, data = tiny_model("bert"), write_data(tmp_path / "d.csv")
    app = AdvisorApp(Inputs(samples=16, epochs=2), session_path=tmp_path / "tui.json")
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.screen.query_one("#model", Input).value = str(model)
        app.screen.query_one("#data", Input).value = str(data)
        await pilot.pause(0.05)
        await settled(pilot)
        assert "classification (2: bad, good)" in shown_text(app, "#preview")
        await pilot.press("f5")
        await settled(pilot)
        assert app.current_mode == "explore", list(app.log_lines)
        assert any("one forward and" in line for line in app.log_lines)
        state = app.state
        assert state.title.startswith("the pick")
        assert state.opened.probe.samples == 16
        before = state.figures.loss
        await pilot.press("a", "space")
        await settled(pilot)
        assert len(state.chosen) == len(state.targets) - 1
        assert state.figures.loss != before
        assert state.figures.cost.params == state.params
        folder = state.opened.folder
        await pilot.press("1")
        await settled(pilot)
        assert [probe.folder for probe in app.screen.recent] == [folder]


@pytest.mark.slow  # real runs have processes of their own
async def test_real_runs_confirm_and_calibrate(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, data = tiny_model("bert"), write_data(tmp_path / "d.csv")
    inputs = Inputs(model=str(model), data=str(data), samples=16, epochs=1, batch_size=8, confirm=2, confirm_rows=16, workers=1)
    app = AdvisorApp(inputs, session_path=tmp_path / "tui.json", start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("6", "f5")
        await settled(pilot, RUNS_TRIES)
        state = app.state
        assert state.confirmation.runs[0].role == "pilot", list(app.log_lines)
        assert len(finished_runs(tmp_path / "recommendation" / "confirm")) == len(state.confirmation.runs)
        opened = state.opened
        await pilot.press("c")
        await settled(pilot, RUNS_TRIES)
        assert len(finished_runs(tmp_path / "recommendation" / "calibration")) == 2, list(app.log_lines)
        assert state.opened is not opened
        (rows,) = user_rows_folder().glob("*.jsonl")
        assert len(parse_rows(rows.read_bytes().splitlines(), str(rows))) == 2


def test_rows_to_keep_come_from_setup_to_the_exported_file(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old = tmp_path / "old.jsonl"
    old.write_text("".join(f'{{"text": "an old row {word}"}}\n' for word in ("good", "bad", "red", "dull")))
    texts = {
        "model": str(tiny_model("llama", "causal-lm")),
        "data": str(write_rows(tmp_path, "causal-lm")[0]),
        "keep": str(old),
        "max_forgetting": "1000",
    }
    found, problems = parsed(texts)
    assert not problems
    inputs, engine = Inputs(samples=16, epochs=1, **found), RealEngine()
    opened = engine.probe(inputs, Session())
    assert isinstance(opened.probe.keep, KeepBlocks)
    rec = engine.recommend(opened, inputs, Session())
    assert rec.max_forgetting == 1000
    comments = engine.plan(opened, rec.picked.candidate, rec).comments
    assert any("Rows to keep: with the pick" in line and "at most +1000 was allowed" in line for line in comments)
    comments = engine.plan(opened, rec.all_linear.candidate, rec).comments
    assert any("Rows to keep: with this selection" in line for line in comments)
    written = engine.write(opened, rec, None, inputs, tmp_path / "out", False, Session())
    assert "at most +1000 was allowed for the pick" in next(p for p in written if p.name == "lora.yaml").read_text()
