"""The app as a whole: what is kept, crashes, resizing, themes, what is loaded when, the command line."""

from __future__ import annotations

import gc
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.command import CommandList
from tui_helpers import settled, shown_text

import advisor
from advisor.cli.app import app as command_line
from advisor.cli.main import main
from advisor.core.option import options_of
from tui.app import AdvisorApp
from tui.dialogs import ErrorDialog, TextDialog
from tui.footer import Keys
from tui.heatmap import HeatMap
from tui.inputs import Inputs
from tui.keep import Kept, read_session, session_file

MakeApp = Callable[..., AdvisorApp]
ROOT = Path(advisor.__file__).resolve().parents[1]
SIZES = [(120, 40), (50, 20), (200, 60), (80, 24), (20, 6), (1, 1), (100, 30)]


async def test_the_session_is_there_again(make_app: MakeApp, engine, tmp_path: Path) -> None:
    app = make_app(Inputs(model="m", budget="12modules"), opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("space", "m")
        mine = app.state.chosen
        app.theme = "textual-light"
        await pilot.press("ctrl+q")
    again = make_app(None)
    assert again.kept.probe == str(engine.folder)
    between = AdvisorApp(None, engine, session_path=tmp_path / "tui.json")
    async with between.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("ctrl+q")  # the probe was not opened
    again = AdvisorApp(None, engine, session_path=tmp_path / "tui.json")
    async with again.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert again.state.inputs == Inputs(model="m", budget="12modules")
        assert (again.theme, again.state.measure) == ("textual-light", "gain")
        again.open_probe(engine.folder)
        await settled(pilot)
        assert again.state.chosen == mine


@pytest.mark.parametrize("is_chosen", [True, False])
async def test_a_search_takes_the_place_of_its_own_selection_and_not_of_the_users(
    make_app: MakeApp, engine, tmp_path: Path, is_chosen: bool
) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        if is_chosen:
            await pilot.press("o", "down", "enter")  # a recipe: neither edited nor kept
        first = app.state.chosen
        await pilot.press("ctrl+q")
    assert read_session(tmp_path / "tui.json").is_chosen == is_chosen
    again = make_app(opened=True)
    async with again.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert again.state.recommendation is not None
        assert again.state.is_pick == (not is_chosen)
        assert again.state.chosen == first


async def test_a_change_is_on_disk_without_leaving(make_app: MakeApp, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tui.app.KEEP_AFTER", 0.01)
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "space")
        await pilot.pause(0.1)
        kept = read_session(tmp_path / "tui.json")
        assert kept.selection["targets"] == list(app.state.current.selection.targets)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "inputs": 3, "recent": 4, "theme": 5}'])
def test_a_damaged_session_keeps_nobody_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tui.json"
    path.write_text(text, encoding="utf-8")
    assert read_session(path) == Kept()


async def test_a_session_that_no_longer_fits_the_probe_is_left_out(make_app: MakeApp, engine, tmp_path: Path) -> None:
    session = {"schema": 1, "probe": str(engine.folder), "selection": {"name": "x", "targets": ["gone"]}, "measure": "no"}
    (tmp_path / "tui.json").write_text(json.dumps(session), encoding="utf-8")
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.state.measure == "worth"
        assert app.state.chosen


async def test_a_lost_terminal_loses_nothing(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "space")
        chosen = app.state.chosen
        os.kill(os.getpid(), signal.SIGHUP)
        await pilot.pause(0.1)
        assert not app.is_running or app._exit
    assert set(read_session(tmp_path / "tui.json").selection["targets"]) == chosen


async def test_an_error_in_the_interface_itself_keeps_session_and_traceback(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(opened=True)

    async def crash() -> None:
        async with app.run_test(size=(120, 40)) as pilot:
            await settled(pilot)
            await pilot.press("n", "space")
            app.call_later(lambda: 1 / 0)
            await pilot.pause(0.1)

    with pytest.raises(ZeroDivisionError):
        await crash()
    assert "ZeroDivisionError" in app.log_path.read_text()
    assert set(read_session(tmp_path / "tui.json").selection["targets"]) == app.state.chosen


async def test_any_size_at_any_time(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for place in app.PLACES:
            app.action_show(place.mode)
            for size in SIZES:
                await pilot.resize_terminal(*size)
                await pilot.pause()
        app.action_show("explore")
        await pilot.press("n", "home", "space", "end")
        assert len(app.state.chosen) == 6


async def test_many_layers_scroll_under_a_fixed_header(make_app: MakeApp, engine) -> None:
    import fakes

    engine.scorer = fakes.make_scorer(fakes.make_probe(n=12, layers=40))
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n", "ctrl+end", "space")
        assert app.state.chosen == {"encoder.layer.39.attention.self.query"}
        heatmap = app.screen.query_one(HeatMap)
        lines = [heatmap.render_line(y).text for y in range(heatmap.size.height)]
        assert lines[0].split()[:2] == ["layer", "q"]
        assert lines[-1].split()[0] == "39"
        assert "▸●" in lines[-1]


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "ansi-dark", "ansi-light"])
async def test_what_is_chosen_shows_without_colour_in_every_theme(make_app: MakeApp, theme: str) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        app.theme = theme
        await settled(pilot)
        heatmap = app.screen.query_one(HeatMap)
        marks = [heatmap.render_line(1 + row * heatmap.cell_height).text for row in (0, 3)]
        assert marks[0].count("○") == 6
        assert marks[1].count("●") == 6


async def test_no_color_is_respected(make_app: MakeApp, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        svg = app.export_screenshot()
    colours = {part[:7] for part in svg.split('fill="')[1:] if part.startswith("#")}
    grey = {c for c in colours if c[1:3] == c[3:5] == c[5:7]}
    assert len(colours - grey) <= 4  # the window's own buttons and title


async def test_the_palette_has_every_action_of_the_screen(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert {"Go to Setup", "Measure", "Undo", "Redo", "Pick", "Load", "Keep", "Toggle", "Help", "Terms"} <= set(titles)
        assert len(set(titles)) == len(titles)
        assert titles.index("Toggle") < titles.index("Measure") < titles.index("Go to Setup") < titles.index("Theme")
        command = next(c for c in app.get_system_commands(app.screen) if c.title == "No modules")
        command.callback()
        await pilot.pause(0.05)
        assert not app.state.chosen


async def test_the_palette_opens_with_what_one_can_do_here(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        expected = [command.title for command in app.get_system_commands(app.screen) if command.discover]
        await pilot.press("ctrl+p")
        await pilot.pause(0.1)
        listed = app.screen.query_one(CommandList)
        shown = [str(listed.get_option_at_index(i).prompt).partition("\n")[0] for i in range(listed.option_count)]
        assert shown == expected
        assert shown[0] == "Toggle"
        assert not {"Down", "Focus Next"} & set(shown)


async def test_keys_before_the_form_is_there_lead_nowhere(make_app: MakeApp, engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = AdvisorApp._begin

    async def later(self: AdvisorApp) -> None:
        pass

    monkeypatch.setattr(AdvisorApp, "_begin", later)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2", "f5", "f2", "question_mark", "ctrl+p", "ctrl+pagedown")
        assert (app.current_mode, len(app.screen_stack)) == ("setup", 1)
        await begin(app)
        await settled(pilot)
        assert not {"demo", "probe"} & set(engine.asked)
        shown = str(app.screen.query_one(Keys).content)
        assert all(key in shown for key in ("Probe", "Demo", "Quit", "Commands"))
        await pilot.press("escape", "2")
        assert app.current_mode == "probe"


async def test_whatever_has_the_focus_has_help(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for place in app.PLACES:
            app.action_show(place.mode)
            await settled(pilot)
            for widget in app.screen.focus_chain:
                widget.focus()
                await pilot.press("f1")
                assert isinstance(app.screen, TextDialog), widget
                said, _, keys = app.screen.text.partition("Keys here:")
                assert said.strip()
                assert "Help" in keys
                await pilot.press("escape")
                assert app.focused is widget


async def test_a_click_on_a_place_goes_there(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for place in reversed(app.PLACES):
            text = shown_text(app, "#places")
            await pilot.click("#places", offset=(text.index(place.label), 0))
            await settled(pilot)
            assert app.current_mode == place.mode


async def test_the_row_below_shows_the_keys_of_the_place_and_a_click_presses_one(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        keys = app.screen.query_one(Keys)
        assert all(key in str(keys.content) for key in ("space Toggle", "? Help", "u Undo"))
        before = app.state.chosen
        await pilot.click(keys, offset=(keys.render_line(0).text.index("Toggle"), 0))
        await settled(pilot)
        assert len(app.state.chosen ^ before) == 1
        app.action_show("export")
        await settled(pilot)
        assert "Toggle" not in str(app.screen.query_one(Keys).content)


async def test_a_dialog_is_a_box_in_the_middle_and_leaves_the_focus_where_it_was(make_app: MakeApp) -> None:
    app = make_app(Inputs(model="mine"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("escape", "question_mark")
        await pilot.pause()
        box = app.screen.query_one("Dialog > Vertical")
        assert box.styles.border.top[0] == "round"
        assert box.region.x > 0
        assert box.region.right < 80
        keys = app.screen.text.partition("Keys here:")[2].splitlines()
        assert len({line.split("  ")[-1] for line in keys}) == len(keys)
        await pilot.press("escape", "question_mark", "escape", "x")
        assert app.focused is None
        assert app.state.inputs.model == "mine"


async def test_a_probe_that_cannot_be_opened_is_said(make_app: MakeApp, engine, bad) -> None:
    engine.fails["open"] = bad
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert isinstance(app.screen, ErrorDialog)
        assert app.screen.what == bad.what
        await pilot.press("escape")
        assert app.current_mode == "setup"
        assert "[1 Setup]" in shown_text(app, "#places")


def test_nothing_heavy_is_loaded_at_first_paint(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tui.app import AdvisorApp\n"
        "class App(AdvisorApp):\n"
        "    async def _begin(self):\n"
        "        heavy = [m for m in ('torch', 'transformers', 'peft', 'sklearn', 'scipy', 'numpy') if m in sys.modules]\n"
        "        self.exit(); print(heavy, file=sys.__stdout__)\n"
        "App().run(headless=True)\n"
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, env=environment)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_existing_probe_is_explored_without_torch(tmp_path: Path) -> None:
    import fakes

    from advisor.core.probe import save_probe

    save_probe(fakes.make_probe(n=16, layers=2), tmp_path / "probe")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from advisor.core.events import Session\n"
        "from tui.real_engine import RealEngine\n"
        "from tui.inputs import Inputs\n"
        "engine = RealEngine()\n"
        f"opened = engine.open(Path({str(tmp_path / 'probe')!r}), Inputs())\n"
        "pick = engine.recommend(opened, Inputs(), Session()).picked.candidate\n"
        "figures, effects = engine.figures(opened, pick), engine.effects(opened, pick, pick)\n"
        "engine.keep(opened, [pick])\n"
        "assert engine.kept(opened) == [pick] and effects.beside and figures.cost.params > 0\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'textual') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_without_a_terminal_the_command_says_so(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['advisor', 'tui']; from advisor.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "needs a terminal" in done.stderr


def test_in_a_terminal_the_command_starts_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['advisor', 'tui']; from advisor.cli.main import main; main()"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", XDG_STATE_HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    written, deadline, asked = b"", time.monotonic() + 30, False
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                written += os.read(terminal, 65536)
            except OSError:
                break
        if not asked and b"Budget" in written:
            os.write(terminal, b"\x11")
            asked = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"\x1b[?1049l" in written  # back from the alternate screen


def test_the_command_shares_the_options_of_recommend() -> None:
    by_name = {c.name: c.callback.groups for c in command_line.registered_commands}
    recommend, tui = ({name for group in by_name[command] for name in options_of(group)} for command in ("recommend", "tui"))
    own = {"baseline", "out", "format", "as_json", "verbose", "in_tui"}
    assert recommend - tui == own
    assert tui <= recommend


@pytest.mark.parametrize(
    "option",
    [
        "--baseline b.json",
        "--out o",
        "--format trl",
        "--json",
        "--rank auto",
    ],
)
def test_what_only_recommend_knows_is_refused_and_not_dropped(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["advisor", "recommend", "m", "--data", "d", "--tui", *option.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {option if option == '--rank auto' else option.split()[0]}: not known")
    assert "Leave out --tui" in said


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AdvisorApp]:
    """``started(*arguments)``: the app that a command line would run."""
    seen: list[AdvisorApp] = []
    monkeypatch.setattr("advisor.cli.terminal.has_terminal", lambda: True)
    monkeypatch.setattr(AdvisorApp, "run", lambda self: seen.append(self))

    def start(*arguments: str) -> AdvisorApp:
        monkeypatch.setattr("sys.argv", ["advisor", *arguments])
        with pytest.raises(SystemExit):
            main()
        gc.enable()
        return seen.pop()

    return start


MADE = Inputs("m", "d", rank=4, budget="10%", text_column=("a",), effort="runs")
OPTIONS = ["--rank", "4", "--budget", "10%", "--text-column", "a", "--effort", "runs"]


@pytest.mark.parametrize(
    ("command", "inputs"),
    [
        (["tui"], Inputs("old", "old.csv", rank=16, budget="5%", lr=0.1, eval_data="e.csv")),
        (["tui", "--budget", "25%"], Inputs()),  # what is typed counts, also where it holds without
        (["tui", "m"], Inputs("m")),
        (["tui", "m", "--data", "d", *OPTIONS], MADE),
        (["tui", "PROBE"], Inputs()),
        (["tui", "PROBE", "--rank", "8"], Inputs()),
        (["tui", "PROBE", "--rank", "4"], Inputs(rank=4)),
        (["tui", "--demo"], Inputs()),
        (["recommend", "--tui"], Inputs()),
        (["recommend", "m", "--data", "d", "--tui"], Inputs("m", "d")),
        (["recommend", "m", "--data", "d", "--tui", *OPTIONS], MADE),
        (["recommend", "PROBE", "--tui", "--rank", "8"], Inputs()),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_the_last_session_is_asked_again_where_nothing_else_is(
    command: list[str], inputs: Inputs, started: Callable[..., AdvisorApp], tmp_path: Path
) -> None:
    (tmp_path / "probe.json").write_text("{}")
    last = Inputs("old", "old.csv", rank=16, budget="5%", lr=0.1, eval_data="e.csv")
    session_file().parent.mkdir(parents=True)
    session_file().write_text(json.dumps({"schema": 1, "inputs": last.as_dict()}), encoding="utf-8")
    app = started(*(str(tmp_path) if word == "PROBE" else word for word in command))
    assert app.state.inputs == inputs
    assert app.probe_folder == (tmp_path if "PROBE" in command else None)  # opened, not probed


@pytest.mark.parametrize("command", [["tui", "PROBE"], ["recommend", "PROBE", "--tui"]], ids=" ".join)
@pytest.mark.parametrize("option", ["--samples 128", "--data d", "--head probed"])
def test_what_a_probe_has_decided_is_refused_beside_it(
    command: list[str], option: str, started: Callable[..., AdvisorApp], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "probe.json").write_text("{}")
    with pytest.raises(IndexError):  # no app was run
        started(*(str(tmp_path) if word == "PROBE" else word for word in command), *option.split())
    assert f"is a probe, made with its own {option.split()[0]}." in capsys.readouterr().err


async def test_recommend_without_a_model_asks_for_it(make_app: MakeApp, engine) -> None:
    app = make_app(start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert shown_text(app, "#message") == "Model is missing."
        assert "probe" not in engine.asked


@pytest.mark.parametrize("rank", [8, 4])
async def test_a_selection_of_the_last_session_comes_back_at_the_rank_that_is_asked(make_app: MakeApp, rank: int) -> None:
    app = make_app(Inputs(rank=16), opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "space")
        mine = app.state.chosen
        await pilot.press("ctrl+q")
    for opened in (False, True):  # also after a session that opened nothing
        other = make_app(Inputs(rank=rank), opened=opened)
        async with other.run_test(size=(120, 40)) as pilot:
            await settled(pilot)
            await pilot.press("ctrl+q")
    assert other.state.chosen == mine
    assert other.state.current.settings.rank == rank
