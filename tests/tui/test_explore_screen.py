"""Explore: the heat-map and what is live around it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fakes
import pytest
from textual.widgets import Input, OptionList, Static
from tui_helpers import settled, shown_text

from advisor.core.errors import BadInput, BudgetTooSmall
from advisor.core.targets import Selection, Target
from tui.app import AdvisorApp
from tui.cells import DISTURBS
from tui.dialogs import ErrorDialog, TextDialog
from tui.heatmap import Grid, HeatMap
from tui.inputs import Inputs
from tui.panels import measure_values
from tui.ranking import Ranking
from tui.state import State

MakeApp = Callable[..., AdvisorApp]
NAME = "encoder.layer.{}.attention.self.{}"


async def test_space_toggles_the_module_under_the_cursor_and_everything_follows(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.current_mode == "explore"
        before, loss = app.state.chosen, app.state.figures.loss
        await pilot.press("down", "right", "space")
        await settled(pilot)
        assert app.state.chosen ^ before == {NAME.format(1, "key")}
        assert app.state.is_fresh
        assert app.state.figures.loss != loss
        assert app.state.figures.cost.params == app.state.params
        assert "my selection" in shown_text(app, "#selection")


async def test_the_pick_is_shown_once_it_is_found_and_r_goes_back_to_it(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        pick = {t.name for t in app.state.targets if t.layer == 3}
        assert app.state.chosen == pick
        assert shown_text(app, "#selection").startswith("the pick")
        await pilot.press("n")
        assert not app.state.chosen
        await pilot.press("r")
        await settled(pilot)
        assert app.state.chosen == pick


async def test_a_search_that_ends_late_does_not_take_away_what_was_chosen(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    engine.gate = threading.Event()
    async with app.run_test(size=(120, 40)) as pilot:
        while "recommend" not in engine.asked or app.state.figures is None:
            await pilot.pause(0.02)
        await pilot.press("space")
        mine = app.state.chosen
        engine.gate.set()
        await settled(pilot)
        assert app.state.pick is not None
        assert app.state.chosen == mine


async def test_rows_and_columns_toggle_as_a_whole(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "home", "space")
        assert app.state.chosen == {t.name for t in app.state.targets if t.layer == 0}
        await pilot.press("n", "right", "up", "space")
        assert app.state.chosen == {t.name for t in app.state.targets if t.role == "query"}
        await pilot.press("space")
        assert not app.state.chosen


async def test_a_click_moves_and_a_second_one_toggles(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        heatmap = app.screen.query_one(HeatMap)
        width = heatmap.cell_width
        places = [
            ((6 + width + 1, 1 + 2 * heatmap.cell_height), {NAME.format(2, "key")}),
            ((1, 1), {t.name for t in app.state.targets if t.layer == 0}),
            ((7, 0), {t.name for t in app.state.targets if t.role == "query"}),
        ]
        for offset, names in places:
            before = app.state.chosen
            await pilot.click(HeatMap, offset=offset)
            assert app.state.chosen == before  # one looks at it
            await pilot.click(HeatMap, offset=offset)
            assert app.state.chosen == before | names
        before = app.state.chosen
        for offset in ((1, 0), (6 + 6 * width + 2, 2)):
            await pilot.click(HeatMap, offset=offset, times=2)
        assert app.state.chosen == before


async def test_hjkl_move_as_the_arrows_do(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        heatmap = app.screen.query_one(HeatMap)
        await pilot.press("j", "j", "l", "l", "l", "k", "h")
        assert heatmap.cursor == (1, 2)


async def test_the_map_says_what_is_adapted_first_and_what_is_unlike_the_pick(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        heatmap = app.screen.query_one(HeatMap)

        def ground(row: int, column: int) -> float:
            """How far a cell's ground is from that of the map, in RGB."""
            style = heatmap._cell(row, column, heatmap.cell_width, heatmap.rich_style, 0, 0)[1]
            return sum(abs(a - b) for a, b in zip(style.bgcolor.triplet, heatmap.rich_style.bgcolor.triplet, strict=True))

        adapted = [ground(3, column) for column in range(6)]
        left_out = [ground(row, column) for row in range(3) for column in range(6)]
        assert min(adapted) > 1.5 * max(left_out)  # whatever their measure
        await pilot.press("ctrl+end", "space", "up", "space")
        lines = [heatmap.render_line(1 + row * heatmap.cell_height).text for row in range(4)]
        assert (lines[2].count("⊕"), lines[3].count("⊖")) == (1, 1)
        assert (lines[2].count("○"), lines[3].count("●")) == (5, 5)
        await pilot.press("r")
        assert not set("⊕⊖") & set("".join(heatmap.render_line(1 + row * heatmap.cell_height).text for row in range(4)))


@pytest.mark.parametrize("size", [(50, 20), (80, 24), (120, 40)])
async def test_every_screen_says_what_it_is_of(make_app: MakeApp, size: tuple[int, int]) -> None:
    app = make_app(Inputs(model="a/long/way/to/mine", data="train.csv", budget="12modules"), opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for place in app.PLACES:
            app.action_show(place.mode)
            await settled(pilot)
            said = shown_text(app, "#context")
            info = app.state.opened.probe.info
            of = ("mine", "train.csv") if place.mode in ("setup", "probe") else (info["model"], info["data"])
            assert all(name.split("/")[-1] in said for name in of), said
            assert "12modules · rank 8" in said
            assert len(said) <= size[0]


@pytest.mark.parametrize(("size", "height"), [((120, 40), 3), ((80, 24), 2), ((50, 20), 1), ((200, 60), 3)])
async def test_cells_are_as_tall_as_there_is_room_and_every_line_of_one_takes_the_click(
    make_app: MakeApp, size: tuple[int, int], height: int
) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        heatmap = app.screen.query_one(HeatMap)
        assert heatmap.cell_height == height
        await pilot.press("n")
        for part in range(height):
            heatmap.cursor = (2, 1)
            await pilot.click(HeatMap, offset=(6 + heatmap.cell_width + 1, 1 + 2 * height + part))
            assert app.state.chosen == (set() if part % 2 else {NAME.format(2, "key")})
        for row in range(4 if height > 1 else 0):
            assert set(heatmap.render_line(1 + row * height + 1).text) & set("█▉▊▋▌▍▎▏")


async def test_the_ranking_lists_the_highest_first_and_a_click_goes_there(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        ranking = app.screen.query_one(Ranking)
        sizes = [t.lora_params(8) for t in app.state.targets]
        worth = app.state.effects.gains / sizes
        assert ranking.shown == tuple(sorted(range(24), key=lambda i: -worth[i]))[: ranking.size.height - 2]
        third = app.state.targets[ranking.shown[2]]
        assert f"layer {third.layer} {third.role}" in str(ranking.render()).splitlines()[4]
        await pilot.click(Ranking, offset=(20, 4))
        assert third.name in shown_text(app, "#inspect")
        await pilot.press("m")
        assert "most loss saved: " in str(ranking.render())


async def test_undo_and_redo_by_their_keys(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        start = app.state.chosen
        await pilot.press("space", "right", "space")
        end = app.state.chosen
        await pilot.press("u", "ctrl+z")
        assert app.state.chosen == start
        await pilot.press("ctrl+r", "ctrl+y")
        assert app.state.chosen == end


async def test_many_keys_at_once_leave_the_figures_of_the_last(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press(*(["space", "right"] * 5), *(["down", "space", "left"] * 5))
        await settled(pilot)
        expected = app.engine.figures(app.state.opened, app.state.current)
        assert app.state.figures.metric == expected.metric


async def test_measures_take_turns_and_the_legend_names_them(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        seen = []
        for _ in range(5):
            seen.append(shown_text(app, "#legend").split("  ")[0])
            await pilot.press("m")
        assert seen == ["saved per param", "loss saved", "kernel share", "agreement", "bound width"]
        assert app.state.measure == "worth"


async def test_with_rows_to_keep_the_map_shows_what_each_module_disturbs(keeping_app: MakeApp, engine: Any) -> None:
    """Against two selections scored by hand: with the module and without."""
    app = keeping_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for _ in range(5):
            await pilot.press("m")
        await settled(pilot)
        state, scorer = app.state, engine.scorer
        assert state.measure == DISTURBS
        assert "disturbs" in shown_text(app, "#legend")
        assert "disturbs " in shown_text(app, "#selection")
        assert state.current is not None
        values = measure_values(state)
        for index in (0, len(state.targets) - 1):
            name = state.targets[index].name
            others = tuple(t.name for t in state.targets if t.name in state.chosen and t.name != name)
            with_it = tuple(t.name for t in state.targets if t.name in {*others, name})
            pair = [replace(state.current, selection=Selection("", names)) for names in (with_it, others)]
            inside, outside = (found.size for found in scorer.disturbances(pair))
            assert values[index] == pytest.approx(inside - outside)
        await pilot.press("m")
        assert state.measure == "worth"


def test_a_measure_that_a_probe_lacks_is_left(engine: Any) -> None:
    state = State()
    state.show_measure(DISTURBS)
    assert state.measure == DISTURBS
    opened = engine.open(engine.folder, Inputs())
    state.open(opened, engine.target_sets(opened)[0])
    assert state.measure == "worth"
    state.show_measure(DISTURBS)
    assert state.measure == "worth"


async def test_the_cursor_inspects(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("ctrl+end", "end")
        text = shown_text(app, "#inspect")
        assert "encoder.layer.3.output.dense" in text
        assert "40→24" in text
        assert "In: without it the loss is predicted" in text
        await pilot.press("home")
        assert "6 modules, 6 adapted" in shown_text(app, "#inspect")


async def test_a_stack_says_how_many_experts_it_holds(make_app: MakeApp, engine) -> None:
    probe = fakes.make_probe()
    first, *others = probe.targets
    engine.scorer = fakes.make_scorer(replace(probe, targets=(replace(first, kind="experts", experts=8, active=2), *others)))
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "8 experts (2 a token), 24→24, 3.07k params at rank 8" in shown_text(app, "#inspect")


async def test_a_selection_is_kept_beside_the_probe_and_is_there_again(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("space", "s")
        app.screen.query_one(Input).value = "mine [x]"
        await pilot.press("enter")
        await settled(pilot)
        mine = app.state.chosen
    entries = json.loads((engine.folder / "selections.json").read_text())
    assert [(e["name"], set(e["targets"])) for e in entries] == [("mine [x]", mine)]
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("r", "o")
        labels = [str(app.screen.query_one(OptionList).get_option_at_index(i).prompt) for i in range(2)]
        assert labels[0].startswith("the pick")
        assert labels[1].startswith("mine [x]")
        await pilot.press("down", "enter")
        assert app.state.chosen == mine
        await pilot.press("d", "enter")
        await settled(pilot)
    assert json.loads((engine.folder / "selections.json").read_text()) == []


@pytest.mark.parametrize("name", ["q,v", "all-linear", "random", "my selection", "the pick", "searched #1"])
async def test_a_selection_is_not_kept_under_anothers_name(make_app: MakeApp, name: str) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("space", "s")
        app.screen.query_one(Input).value = name
        await pilot.press("enter")
        assert shown_text(app, "#problem") == f"{name} is the name of another selection. Choose another name."
        app.screen.query_one(Input).value = f"{name} of mine".removeprefix("searched ")
        await pilot.press("enter")
        await settled(pilot)
        assert len(app.state.named) == 1
        assert name not in app.state.named


async def test_a_folder_that_cannot_be_written_is_an_error_with_its_next_step(make_app: MakeApp, engine) -> None:
    engine.keep = lambda *_: (_ for _ in ()).throw(BadInput("read-only [folder]", "Choose another."))
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("s", "x", "enter")
        await settled(pilot)
        assert isinstance(app.screen, ErrorDialog)
        assert "read-only [folder]" in str(app.screen.query_one("#what", Static).render())


async def test_help_says_what_the_focused_widget_is_and_which_keys_it_has(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for key in ("f1", "question_mark", "w"):
            await pilot.press(key)
            assert isinstance(app.screen, TextDialog)
            text = app.screen.text
            assert "κ" in text if key == "w" else ("Each cell is a module" in text and "Undo" in text)
            await pilot.press("escape")


async def test_the_budget_that_is_passed_is_said(make_app: MakeApp) -> None:
    app = make_app(Inputs(budget="3modules"), opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "▲ over" in shown_text(app, "#selection")


@pytest.mark.parametrize("task", ["regression", "causal-lm"])
async def test_other_tasks(make_app: MakeApp, engine, task: str) -> None:
    engine.scorer = fakes.make_scorer(fakes.make_probe(task=task))
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("space", "m")
        await settled(pilot)
        wanted = {"regression": "Spearman", "causal-lm": "accuracy"}[task]
        assert f"{wanted} " in shown_text(app, "#selection")


def test_modules_outside_layers_and_twice_in_one_have_their_place() -> None:
    def target(name: str, layer: int | None, role: str) -> Target:
        return Target(name, layer, role, "other", 4, 4)

    grid = Grid.of([target("e", None, "embed"), target("a", 1, "up"), target("b", 1, "up"), target("c", 0, "up")])
    assert grid.layers == (0, 1, None)
    assert grid.roles == ("embed", "up")
    assert grid.cells == {(2, 0): (0,), (1, 1): (1, 2), (0, 1): (3,)}
    assert grid.row(1) == (1, 2)
    assert set(grid.column(1)) == {1, 2, 3}


async def test_names_full_of_markup_are_shown_as_they_are(make_app: MakeApp, engine) -> None:
    probe = fakes.make_probe()
    odd = tuple(replace(t, name=f"[red]{t.name}[/]", role=f"[b]{t.role}") for t in probe.targets)
    footprint = {**probe.info["footprint"], "targets": [t.name for t in odd]}
    info = {**probe.info, "model": "[link=x]m", "qv_roles": ["[b]query"], "footprint": footprint}
    engine.scorer = fakes.make_scorer(replace(probe, targets=odd, info=info))
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "[red]encoder.layer.0.attention.self.query[/]" in shown_text(app, "#inspect")
        await pilot.press("space", "1", "3")
        await settled(pilot)


async def test_one_search_a_probe_and_another_when_the_budget_changes(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("1", "escape", "3")
        await settled(pilot)
        assert engine.asked.count("recommend") == 1
        app.state.set_inputs(budget="12modules")
        await pilot.press("1", "escape", "3")
        await settled(pilot)
        assert engine.asked.count("recommend") == 2
        assert app.state.recommendation.budget.text == "12modules"


async def test_a_search_that_fails_says_so_once(make_app: MakeApp, engine) -> None:
    engine.fails["recommend"] = BudgetTooSmall("Nothing fits.", "Raise --budget.")
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert isinstance(app.screen, ErrorDialog)
        await pilot.press("escape")
        await settled(pilot)
        assert app.current_mode == "explore"
        assert not isinstance(app.screen, ErrorDialog)
        assert engine.asked.count("recommend") == 1
        assert "searching" not in shown_text(app, "#headline")


@pytest.mark.parametrize("what", ["figures", "effects"])
async def test_numbers_that_fail_are_not_asked_for_again_when_their_dialog_closes(
    make_app: MakeApp, engine, bad, monkeypatch, what: str
) -> None:
    asked = []

    def fails(*_: object) -> None:
        asked.append(what)
        raise bad

    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        monkeypatch.setattr(engine, what, fails)
        await pilot.press("space")
        while not isinstance(app.screen, ErrorDialog):
            await pilot.pause(0.02)
        await pilot.press("escape")
        await pilot.pause(0.2)
        assert not isinstance(app.screen, ErrorDialog)
        assert len(asked) == 1


async def test_another_rank_in_setup_is_what_everything_is_said_for(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "space")
        chosen, params = app.state.chosen, app.state.params
        app.state.set_inputs(rank=2)
        await pilot.press("1", "escape", "3")
        await settled(pilot)
        assert app.state.chosen == chosen
        assert app.state.params == params / 4
        assert "rank 2" in shown_text(app, "#selection")
