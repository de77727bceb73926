"""Export: formats, preview, what PEFT makes of it, saving; and from a probe to a config that PEFT accepts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
import yaml
from command import write_data
from textual.widgets import Input, OptionList, Static
from tui_helpers import TRIES, settled, until

from advisor.core.errors import AdvisorError
from advisor.core.folders import WRITTEN_FILE
from advisor.core.targets import Selection
from advisor.export import FORMATS
from advisor.export.alternatives import PREFIX
from advisor.export.plan import plan_of
from advisor.models.peft import Resolved
from tui.app import AdvisorApp
from tui.dialogs import ErrorDialog, Question
from tui.export import ExportScreen, resolved_text
from tui.inputs import Inputs
from tui.real_engine import RealEngine

SIZES = [(120, 40), (80, 24), (50, 20)]


def shown(app: AdvisorApp) -> ExportScreen:
    assert isinstance(app.screen, ExportScreen)
    return app.screen


def said(app: AdvisorApp, id: str) -> str:
    return str(app.screen.query_one(f"#{id}", Static).content)


@pytest.mark.parametrize("size", SIZES)
async def test_every_format_shows_its_files_and_how_true_they_are(
    make_app: Callable[..., AdvisorApp], size: tuple[int, int]
) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("7")
        await settled(pilot)
        screen = shown(app)
        plan = app.engine.plan(app.state.opened, app.state.current, app.state.recommendation)  # type: ignore[arg-type]
        for name, target in FORMATS.items():
            assert screen.format_name == name
            rendered = target.render(plan)
            for file_name, file in rendered.files.items():
                assert said(app, "file").startswith(file_name)
                assert said(app, "preview").rstrip() == file.text.rstrip()
                await pilot.press("f")
            assert rendered.fidelity in said(app, "fidelity")
            assert all(reason in said(app, "fidelity") for reason in rendered.reasons)
            nothing = rendered.fidelity == "impossible"
            assert ("nothing to resolve" if nothing else f"wraps {len(plan.names)} modules") in said(app, "resolved")
            option = str(screen.query_one("#formats", OptionList).get_option(name).prompt)
            assert target.label in option
            assert rendered.fidelity in option
            await pilot.press("down")
            await settled(pilot)


async def test_saving_shows_the_paths_and_overwriting_asks(make_app: Callable[..., AdvisorApp], tmp_path: Path) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("7")
        await settled(pilot)
        out = tmp_path / "new [b]folder[/b]"
        app.screen.query_one("#folder", Input).value = str(out)
        await pilot.press("s")
        await settled(pilot)
        assert {path.name for path in out.iterdir()} == {"lora.yaml", "adapter_config.json", WRITTEN_FILE}
        assert str(out / "lora.yaml") in said(app, "saved")
        (out / "lora.yaml").write_text("mine")
        await pilot.press("s")
        await settled(pilot)
        assert isinstance(app.screen, Question)
        assert str(out / "lora.yaml") in app.screen.text
        await pilot.press("enter")  # the default is to keep
        await settled(pilot)
        assert (out / "lora.yaml").read_text() == "mine"
        await pilot.press("s")
        await settled(pilot)
        await pilot.click("#overwrite")
        await settled(pilot)
        assert "target_modules" in (out / "lora.yaml").read_text()


async def test_a_folder_that_cannot_be_written_is_a_dialog(make_app: Callable[..., AdvisorApp], tmp_path: Path) -> None:
    app = make_app(opened=True)
    (tmp_path / "file").write_text("")
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("7")
        await settled(pilot)
        app.screen.query_one("#folder", Input).value = str(tmp_path / "file" / "below")
        await pilot.press("e", "enter")
        await settled(pilot)
        assert isinstance(app.screen, ErrorDialog)
        assert str(tmp_path / "file" / "below") in app.screen.what


async def test_what_cannot_be_resolved_is_said_beside_the_preview(
    make_app: Callable[..., AdvisorApp], engine: Any, bad: AdvisorError
) -> None:
    engine.fails = {"resolve": bad}
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("7")
        await settled(pilot)
        assert bad.what in said(app, "resolved")
        assert "target_modules" in said(app, "preview")


async def test_an_empty_selection_has_no_config(make_app: Callable[..., AdvisorApp], tmp_path: Path) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        current = app.state.current
        assert current is not None
        app.state.choose(replace(current, selection=Selection("nothing", ())))
        await pilot.press("7")
        await settled(pilot)
        assert "no modules" in said(app, "preview")
        app.screen.query_one("#folder", Input).value = str(tmp_path / "out")
        await pilot.press("s", "y", "f")
        await settled(pilot)
        assert isinstance(app.screen, ExportScreen)
        assert not (tmp_path / "out").exists()
        app.state.undo()
        await settled(pilot)
        assert "target_modules" in said(app, "preview")


async def test_copy_copies_the_file_that_is_shown(make_app: Callable[..., AdvisorApp], monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(opened=True)
    copied: list[str] = []
    monkeypatch.setattr(app, "copy_to_clipboard", copied.append)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("7")
        await settled(pilot)
        await pilot.press("y", "f", "y")
        assert "target_modules" in yaml.safe_load(copied[0])
        assert "target_modules" in json.loads(copied[1])


async def test_beside_what_a_format_cannot_say_lies_what_it_can(
    make_app: Callable[..., AdvisorApp], engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(opened=True)
    gate, files = threading.Event(), engine.files

    def wait_and_search(*args: Any) -> Any:
        gate.wait(60)
        return files(*args)

    monkeypatch.setattr(engine, "files", wait_and_search)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("7", "end")
        for _ in range(TRIES):
            await pilot.pause(0.02)
            if "is being searched" in said(app, "fidelity"):
                break
        name = shown(app).format_name
        (file_name, *others) = shown(app).shown.rendered[name].files
        assert not any(other.startswith(PREFIX) for other in others)
        app.screen.query_one("#folder", Input).value = str(tmp_path / "out")
        await pilot.press("s", "down", "up")  # no key waits; what is saved does
        assert not (tmp_path / "out").exists()
        gate.set()
        await settled(pilot)
        assert "searched" not in said(app, "fidelity")
        assert f"{PREFIX}{file_name}: All modules instead." in said(app, "fidelity")
        assert "impossible" in said(app, "fidelity")
        for _ in range(1 + len(others)):
            await pilot.press("f")
        assert said(app, "file").startswith(PREFIX + file_name)
        assert (tmp_path / "out" / (PREFIX + file_name)).read_text().rstrip() == said(app, "preview").rstrip()
        before = engine.asked.count("files")
        await pilot.press("s")
        await settled(pilot)
        assert isinstance(app.screen, ExportScreen)  # the files are its own, so nothing is asked
        assert engine.asked.count("files") == before  # and nothing was searched again


async def test_an_alternative_of_another_budget_is_not_offered(
    make_app: Callable[..., AdvisorApp], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(opened=True)
    gates, seen, files = [threading.Event(), threading.Event()], [], engine.files

    def wait_and_search(*args: Any) -> Any:
        seen.append(args[3])  # the recommendation
        gates[len(seen) - 1].wait(60)
        return files(*args)

    monkeypatch.setattr(engine, "files", wait_and_search)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("7", "end")
        await until(pilot, lambda: bool(seen))
        first = app.state.recommendation
        await pilot.press("b", "ctrl+u", *"12modules", "enter")
        await until(pilot, lambda: shown(app).complete_for is not first)
        gates[0].set()
        await until(pilot, lambda: len(seen) == 2)
        assert seen[0] is first
        assert seen[1] is app.state.recommendation
        assert "is being searched" in said(app, "fidelity")
        gates[1].set()
        await settled(pilot)
        assert "All modules instead." in said(app, "fidelity")


@pytest.mark.parametrize(
    ("name", "task", "alpha", "fidelities"),
    [
        ("bert", "classification", 16.0, {"peft": "exact", "llama-factory": "impossible", "trl": "impossible"}),
        ("llama", "causal-lm", 12.5, {"peft": "exact", "llama-factory": "lossy", "trl": "exact"}),
    ],
)
async def test_from_a_probe_to_a_config_that_peft_accepts(
    tiny_model: Callable[..., Path], tmp_path: Path, name: str, task: str, alpha: float, fidelities: dict[str, str]
) -> None:
    """The real engine; and its files are those that `advisor recommend` and `advisor export` write for the pick. What a lossy
    file costs is said as they say it."""
    from peft import LoraConfig, get_peft_model

    from advisor import workflow
    from advisor.advice.budget import parse_budget
    from advisor.core.events import Session
    from advisor.models.load import meta_model

    data = write_data(tmp_path, task)
    model = tiny_model(name, task)
    inputs = Inputs(model=str(model), data=str(data), samples=16, head="fresh", budget="40%", alpha=alpha)
    engine = RealEngine()
    opened = engine.probe(inputs, Session())
    app = AdvisorApp(inputs, engine, session_path=tmp_path / "tui.json", probe_folder=opened.folder)
    out = tmp_path / "tui"
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("r", "7")
        await settled(pilot)
        assert "exactly those selected" in said(app, "resolved")
        app.screen.query_one("#folder", Input).value = str(out)
        costs = []
        for format_name in FORMATS:
            assert app.screen.format_name == format_name
            fidelity = app.screen.shown.rendered[format_name].fidelity
            assert fidelity == fidelities.get(format_name, fidelity)
            assert ("Predicted of this file" in said(app, "resolved")) == (fidelity == "lossy")
            costs += [line for line in said(app, "resolved").splitlines() if "Predicted of this file" in line]
            await pilot.press("s")
            await settled(pilot)
            await pilot.press("down")
            await settled(pilot)
        pick = app.state.pick
    assert pick is not None
    arguments: dict[str, Any] = yaml.safe_load((out / "lora.yaml").read_text())
    wrapped = get_peft_model(meta_model(str(model), task, num_labels=2), LoraConfig(**arguments))
    assert tuple(wrapped.base_model.targeted_module_names) == pick.selection.targets
    scorer = opened.scorer
    found = workflow.recommend_folder(
        opened.probe,
        workflow.Question(scorer.settings, scorer.recipe, parse_budget("40%"), formats=tuple(FORMATS)),
        Session(),
        tmp_path / "recommend",
        linearity_of=lambda _: None,
    )
    workflow.export_formats(tmp_path / "recommend", tuple(FORMATS), tmp_path / "export")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "export").iterdir()}
    for path in (path for path in out.iterdir() if path.name != WRITTEN_FILE):  # which names what its own folder holds
        assert path.read_bytes() == (tmp_path / "recommend" / path.name).read_bytes()
        assert path.read_bytes() == (tmp_path / "export" / path.name).read_bytes()
    assert all(any(cost in warning for warning in found.json["warnings"]) for cost in costs)


async def test_the_report_is_written_and_opened_where_a_browser_can(
    make_app: Callable[..., AdvisorApp], engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "recommendation" / "report.html"
    monkeypatch.setattr(engine, "write", lambda *_: (report.with_name("lora.yaml"), report))
    for desktop in (True, False):
        opened: list[str] = []
        monkeypatch.setattr("tui.export.has_desktop", lambda shown=desktop: shown)
        app = make_app(opened=True)
        monkeypatch.setattr(app, "open_url", opened.append)
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press("7", "w")
            await settled(pilot)
            assert app.written == (report.with_name("lora.yaml"), report)
            assert opened == ([report.as_uri()] if desktop else [])


async def test_a_report_asks_before_it_takes_the_place_of_what_was_saved(
    make_app: Callable[..., AdvisorApp], engine: Any, tmp_path: Path
) -> None:
    app = make_app(opened=True)
    out = tmp_path / "out"
    config = out / "lora.yaml"
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("space", "7")
        await settled(pilot)
        app.screen.query_one("#folder", Input).value = str(out)
        await pilot.press("s")
        await settled(pilot)
        mine = config.read_text()
        await pilot.press("w")
        await settled(pilot)
        assert isinstance(app.screen, Question)
        assert str(config) in app.screen.text
        await pilot.press("enter")  # the default is to keep
        await settled(pilot)
        assert config.read_text() == mine
        assert f"Written: {config}" in said(app, "saved")
        await pilot.press("w")
        await settled(pilot)
        await pilot.click("#overwrite")
        await settled(pilot)
        pick = "\n".join(app.state.pick.selection.targets)  # type: ignore[union-attr]
        assert config.read_text() == pick
        assert said(app, "saved") == f"✓ Written: the pick's config and report to {out}"
        (out / "adapter_config.json").unlink()  # which a real report has, and the fake one has not
        await pilot.press("w")
        await settled(pilot)
        assert engine.asked.count("write") == 2  # nobody has touched its own
        await pilot.press("s")
        await settled(pilot)
        assert isinstance(app.screen, Question)
        await pilot.press("escape")
        engine.folder = tmp_path / "another probe"
        engine.folder.mkdir()
        app.open_probe(engine.folder)
        await settled(pilot)
        app.screen.query_one("#folder", Input).value = str(out)
        await pilot.press("w")
        await settled(pilot)
        assert isinstance(app.screen, Question)
        assert config.read_text() == pick


def test_the_report_of_what_is_known_is_the_commands(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    from advisor.api import recommend
    from advisor.core.events import Session

    data = write_data(tmp_path, "classification")
    inputs = Inputs(model=str(tiny_model("bert", "classification")), data=str(data), samples=16, head="fresh", budget="40%")
    engine, out = RealEngine(), tmp_path / "tui"
    opened = engine.probe(inputs, Session())
    rec = engine.recommend(opened, inputs, Session())
    files = engine.write(opened, rec, None, inputs, out, False, Session())
    assert set(engine.there(out)) == set(files)
    recommend(opened.folder, out=tmp_path / "command", budget="40%", session=Session())
    for path in files:
        assert path.read_bytes() == (tmp_path / "command" / path.name).read_bytes()


def test_stacks_of_experts_are_counted_beside_modules() -> None:
    probe = fakes.make_probe()
    candidate = fakes.candidate(probe, range(3))
    names = candidate.selection.targets
    ranks, alphas = dict.fromkeys(names, candidate.settings.rank), dict.fromkeys(names, 16.0)
    resolved = Resolved(names[:2], 100, (), 0, 0, (), ranks, alphas, False, names[2:], {}, 0)
    plan = plan_of(candidate, probe)
    assert resolved_text(resolved, plan).startswith("PEFT wraps 2 modules and 1 stack of experts, exactly those selected.")
    assert "experts" not in resolved_text(replace(resolved, wrapped=names, parameters=()), plan)
