"""The answer over the map: its words are the command's, its bars lie where the numbers say."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import fakes
import pytest
from textual.pilot import Pilot
from textual.widgets import Input
from tui_helpers import settled, shown_text

from advisor.advice.confirm import CONFIRM_ROWS
from advisor.core.errors import BudgetTooSmall
from advisor.report.verdict import BY_OPTIONS, little_to_win, next_step, short_verdict, told_apart
from advisor.report.words import change_span
from tui.answer import bars, headline
from tui.app import AdvisorApp
from tui.ask import AskBar
from tui.engine import MOSTLY, OPEN, SETTLED, UNLIKE, Against, Headline
from tui.heatmap import HeatMap
from tui.inputs import Inputs
from tui.intervals import BAR, VALUE, interval, reach
from tui.side import Panel
from tui.sift import sifted
from tui.wording import BY_KEYS

MakeApp = Callable[..., AdvisorApp]


def test_a_bar_lies_where_its_numbers_are() -> None:
    half = reach([(0.1, -0.2, 0.5)])
    line = interval((0.1, -0.2, 0.5), 41, half).plain
    assert len(line) == 41
    assert line.index(VALUE) > 20  # higher: right of the middle
    assert line.index(BAR) < 20 < line.rindex(BAR)
    better = interval((-0.3, -0.5, -0.1), 41, reach([(-0.3, -0.5, -0.1)])).plain
    assert better.rindex(BAR) < 20
    assert better[20] == "│"


@pytest.mark.parametrize("change", [(0.0, -0.999, 1e9), (float("inf"), 0.5, float("inf")), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("width", [0, 5, 12, 40, 200])
def test_any_interval_can_be_drawn(change: tuple[float, float, float], width: int) -> None:
    assert len(interval(change, width, reach([change])).plain) in (0, width)


@pytest.mark.parametrize("width", [20, 40, 78, 200])
def test_bars_keep_to_their_width(width: int) -> None:
    rows = [Against("all modules", (0.14, -0.19, 1.11)), Against("attention, last 3 layers", (-0.3, -0.7, -0.05))]
    for line in bars(rows, width):
        assert len(line.plain) <= max(width, 30)
        assert all(not line.plain.strip() or set(line.plain) for line in bars(rows, width))


@pytest.mark.parametrize("width", [24, 34, 44, 78])
def test_nothing_moves_while_a_difference_is_computed(width: int) -> None:
    """The panel would be laid out twice at every change of the selection, and what stands below would jump."""
    known = [Against("all", (0.03, -0.06, 0.2)), Against("pick", (0.0, -0.01, 0.02))]
    lines = [bars([replace(row, change=change) for row in known], width) for change in ((0.03, -0.06, 0.2), None)]
    assert len(lines[0]) == len(lines[1])


def test_a_low_screen_gets_few_lines() -> None:
    found = Headline("Adapt 1. " * 30, "Expected.", (Against("all modules", (0.1, 0.0, 0.2)),), OPEN, "Why. " * 30, "Next. " * 30)
    low = headline(found, 78, is_low=True).plain.split("\n")
    assert len(low) == 4
    assert all(len(line) <= 78 for line in low)
    assert len(headline(found, 78, is_low=False).plain.split("\n")) > 8


async def test_the_headline_says_what_the_command_says(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(200, 60)) as pilot:
        await settled(pilot)
        said = " ".join(shown_text(app, "#headline").split())
        scorer, rec = app.state.opened.scorer, app.state.recommendation
        adapt, *_, level = short_verdict(scorer, rec)
        assert adapt in said
        assert level in said
        assert f"Mostly settled. {' '.join(filter(None, [little_to_win(scorer), told_apart(rec)]))}" in said
        assert f"loss vs all modules {change_span(rec.picked.vs_all)}" in said
        assert next_step(scorer, rec, None, BY_KEYS) in said


async def test_how_sure_it_is_follows_what_is_known(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        opened, rec = app.state.opened, app.state.recommendation
        far = replace(rec.front, predictions=replace(rec.front.predictions, far=("few rows",)))
        assert engine.headline(opened, replace(rec, front=far), None).sureness == UNLIKE
        others = len(rec.equal_budget) - 1
        for untold, alike, sureness in (
            (0, 0, SETTLED),
            (1, 0, MOSTLY),
            (others, 0, OPEN),
            (others - 1, 0, OPEN),
            (others, others - 1, MOSTLY),
            (others, others, SETTLED),
        ):
            assert engine.headline(opened, replace(rec, untold=untold, alike=alike), None).sureness == sureness


async def test_while_another_pick_is_searched_for_the_last_one_is_not_said(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "Adapt 6 of 24 modules" in shown_text(app, "#headline")
        engine.gate = threading.Event()
        await pilot.press("b", "ctrl+u", *"12modules", "enter")
        while "search" not in app.runs:
            await pilot.pause(0.02)
        await pilot.pause(0.05)
        assert "searching" in shown_text(app, "#headline")
        assert "Adapt" not in shown_text(app, "#headline")
        engine.gate.set()
        await settled(pilot)
        assert "budget 12modules" in " ".join(shown_text(app, "#headline").split())


async def test_budget_and_rank_are_asked_for_from_any_screen_and_everything_follows(make_app: MakeApp, monkeypatch) -> None:
    monkeypatch.setattr("tui.ask.FOLLOW_AFTER", 0.01)
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        params = app.state.params
        for place in ("explore", "confirm"):
            app.action_show(place)
            await settled(pilot)
            await pilot.press("b")
            assert isinstance(app.screen, AskBar), place
            app.screen.query_one("#rank", Input).value = "4"
            await pilot.pause(0.1)
            await settled(pilot)
            assert app.state.opened.scorer.settings.rank == 4  # without leaving the field
            assert app.state.params == params / 2
            await pilot.press("escape")
            await settled(pilot)
            assert app.state.opened.scorer.settings.rank == 8
            assert app.state.params == params


async def by_digit(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "3")


async def by_next(pilot: Pilot[None]) -> None:
    await pilot.press("ctrl+pagedown", "ctrl+pagedown")


async def by_previous(pilot: Pilot[None]) -> None:
    await pilot.press("ctrl+pageup")


async def by_palette(pilot: Pilot[None]) -> None:
    await pilot.press("ctrl+p", *"go to pareto")
    await pilot.pause(0.3)
    await pilot.press("enter")


async def by_click(pilot: Pilot[None]) -> None:
    await pilot.click("#places", offset=(shown_text(pilot.app, "#places").index("Compare"), 0))  # type: ignore[arg-type]


async def by_probe(pilot: Pilot[None]) -> None:
    await pilot.press("f5")


async def by_list(pilot: Pilot[None]) -> None:
    pilot.app.screen.query_one("#recent").focus()
    await pilot.press("enter")


@pytest.mark.parametrize("go", [by_digit, by_next, by_previous, by_palette, by_click, by_probe, by_list])
async def test_what_is_changed_in_setup_is_followed_on_every_way_out_of_it(
    make_app: MakeApp, engine, go: Callable[[Pilot[None]], Awaitable[None]]
) -> None:
    app = make_app(Inputs("m", "d"), opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for field, text in (("budget", "12modules"), ("rank", "4"), ("lr", "0.5"), ("epochs", "9"), ("max_forgetting", "0.5")):
            await pilot.press("1")
            await settled(pilot)
            before = app.state.recommendation
            app.screen.query_one(f"#{field}", Input).value = text
            await pilot.pause()
            await go(pilot)
            await settled(pilot)
            assert app.current_mode not in ("setup", "probe")
            assert app.state.recommendation is not before, field
            asked, answered = app.state.inputs, app.state.opened.inputs
            assert (answered.rank, answered.lr, answered.epochs) == (asked.rank, asked.lr, asked.epochs)
            assert app.state.recommendation.budget.text == asked.budget
            assert app.state.current.settings.rank == asked.rank
            assert f"{asked.budget} · rank {asked.rank}" in shown_text(app, "#context")
        assert (asked.budget, asked.rank, asked.lr, asked.epochs) == ("12modules", 4, 0.5, 9)


@pytest.mark.parametrize("place", ["1", "2", "3"])
async def test_what_is_changed_while_a_probe_runs_is_followed_when_it_arrives(make_app: MakeApp, engine, place: str) -> None:
    app = make_app(Inputs("m", "d"), opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("1", "escape")
        engine.gate = threading.Event()
        await pilot.press("f5", place, "b")
        assert "probe" in app.runs
        app.screen.query_one("#rank", Input).value = "4"
        await pilot.press("enter")
        said: list[int] = []
        app.state.subscribe(lambda change: said.append(app.state.pick.settings.rank) if app.state.pick else None)
        engine.gate.set()
        await settled(pilot)
        if place == "1":  # one who fills in Setup stays there
            assert app.current_mode == "setup"
            assert any("The probe is done" in note.message for note in app._notifications)
            await pilot.press("escape", "3")
            await settled(pilot)
        assert set(said) == {4}
        assert app.current_mode == "explore"
        assert app.state.opened.scorer.settings.rank == app.state.inputs.rank == 4
        assert app.state.pick.settings.rank == 4


async def test_where_nothing_fits_no_other_pick_stands_there_nor_is_run(make_app: MakeApp, engine, bad) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        engine.fails["recommend"] = bad
        await pilot.press("b", "ctrl+u", *"1modules", "enter")
        await settled(pilot)
        await pilot.press("escape")
        assert "no pick: nothing fits, or the search failed, budget 1modules" in " ".join(shown_text(app, "#headline").split())
        await pilot.press("7", "w", "6", "f5")
        await settled(pilot)
        assert shown_text(app, "#verdict") == "There is no pick to confirm."
        assert not {"write", "confirm"} & set(engine.asked)
        del engine.fails["recommend"]
        engine.gate = threading.Event()
        await pilot.press("b", "ctrl+u", *"12modules", "enter", "f5")
        assert "search" in app.runs
        engine.gate.set()
        await settled(pilot)
        assert "confirm" not in engine.asked  # the search was not finished yet
        await pilot.press("f5")
        await settled(pilot)
        assert app.state.confirmation is not None
        assert app.standing is not None
        await pilot.press("b", "ctrl+u", *"6modules", "enter")
        await settled(pilot)
        assert (app.standing, app.state.confirmation) == (None, None)
        assert "once they have begun" in shown_text(app, "#finalists")


async def test_what_cannot_be_asked_for_is_said_and_not_taken(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("b", "ctrl+u", *"lots", "enter")
        assert isinstance(app.screen, AskBar)
        assert "not understood" in shown_text(app, "#said")
        assert app.state.inputs.budget == "25%"


async def test_a_budget_that_nothing_fits_is_said_where_one_types(make_app: MakeApp, engine, monkeypatch) -> None:
    monkeypatch.setattr("tui.ask.FOLLOW_AFTER", 0.01)
    nothing = BudgetTooSmall("--budget 10MB: nothing fits.", "Raise --budget, or lower --batch-size.")
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        engine.fails["recommend"] = nothing
        await pilot.press("b", "ctrl+u", *"10MB")
        await pilot.pause(0.1)
        await settled(pilot)
        assert isinstance(app.screen, AskBar)
        assert shown_text(app, "#said") == "Budget 10MB: nothing fits. Raise Budget, or lower Batch size."
        del engine.fails["recommend"]
        await pilot.press("backspace", "backspace", "%")
        await pilot.pause(0.1)
        await settled(pilot)
        assert app.state.recommendation.budget.text == "10%"
        assert "Enter keeps them" in shown_text(app, "#said")


async def test_a_filter_without_a_match_says_so_and_nothing_is_toggled(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        before = app.state.chosen
        await pilot.press("slash", *"nosuch")
        assert "No module matches" in shown_text(app, "#inspect")
        await pilot.press("enter", "space", "home", "space")
        await settled(pilot)
        assert app.state.chosen == before
        assert "No module matches" in shown_text(app, "#inspect")
        await pilot.press("slash", "escape", "space")
        await settled(pilot)
        assert app.state.chosen != before
        assert "No module matches" not in shown_text(app, "#inspect")


@pytest.mark.parametrize("size", [(80, 24), (50, 20), (50, 40), (120, 40)])
async def test_the_foot_has_room_for_what_it_says_of_any_module(make_app: MakeApp, size: tuple[int, int]) -> None:
    app = make_app(Inputs(budget="3modules"), opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        panel, state = app.screen.query_one("#inspect", Panel), app.state
        ends: set[str] = set()
        for sign in (-1, 1):
            gains = fakes.np.full(len(state.targets), sign * 1.5)
            state.effects = replace(state.effects, gains=gains, noise=0.01)
            for index in range(len(state.targets)):
                app.screen.under = (index,)
                app.screen._draw_inspected()
                said = panel._text.plain
                assert panel.lines <= panel.size.height, said
                ends.add(said.splitlines()[-1].split(". ")[-1])
        assert size[0] < 80 or ends == {
            "It helps: keep it.",
            "No help: Space drops it.",
            "It does not help.",
            "The budget has no room for it.",
        }


async def test_plus_and_minus_change_the_rank_and_keep_the_scale(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("plus")
        await settled(pilot)
        assert (app.state.inputs.rank, app.state.inputs.alpha) == (16, 32)
        await pilot.press(*["minus"] * 6)
        await settled(pilot)
        assert (app.state.inputs.rank, app.state.inputs.alpha) == (1, 2)
        assert app.state.opened.scorer.settings.rank == 1


async def test_the_cell_under_the_cursor_says_why(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        effects = app.state.effects
        for key, row in (("ctrl+end", 3), ("ctrl+home", 0)):
            await pilot.press(key, "down") if key == "ctrl+home" else await pilot.press(key)
            heatmap = app.screen.query_one(HeatMap)
            heatmap.cursor = (row, 0)
            await pilot.pause()
            index = heatmap.modules_at(row, 0)[0]
            said = shown_text(app, "#inspect")
            share = fakes.np.expm1(effects.gains[index] if row == 3 else -effects.gains[index])
            assert f"{abs(share):.1%}" in said or "no different" in said
            assert said.splitlines()[1].startswith("In: without" if row == 3 else "Out: with")


async def test_t_shows_the_theory_with_a_sentence_each_and_goes_back(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert not app.screen.query_one("#theory").display
        assert "κ" not in shown_text(app, "#selection")
        await pilot.press("t")
        await pilot.pause(0.1)
        said = shown_text(app, "#theory")
        for term in ("condition number κ", "effective rank", "certificate", "kernel share", "bound B"):
            assert term in said
        assert said.count(".\n") >= 4
        assert "eigenvalues above σ" in shown_text(app, "#spectrum")
        await pilot.press("t")
        assert not app.screen.query_one("#theory").display


async def test_a_filter_dims_and_space_on_a_name_takes_what_is_left(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "slash", *"value", "enter")
        heatmap = app.screen.query_one(HeatMap)
        assert heatmap.sieve == {i for i, t in enumerate(app.state.targets) if t.role == "value"}
        assert heatmap.cursor == (0, 2)
        await pilot.press("home", "space")
        assert {t.role for t in app.state.targets if t.name in app.state.chosen} == {"value"}
        await pilot.press("right_square_bracket", "right_square_bracket")
        assert heatmap.cursor[1] == 2
        await pilot.press("slash", "escape")
        assert heatmap.sieve is None
        assert app.screen.focused is heatmap


def test_words_of_a_filter_must_all_hold() -> None:
    targets = fakes.bert_targets(4)
    labels: dict[int | None, str] = {i: str(i) for i in range(4)}
    names = {t.name: i for i, t in enumerate(targets)}

    def found(text: str) -> frozenset[int] | None:
        return sifted(text, targets, labels, frozenset({0, 1}), frozenset({1, 2}))

    assert found("  ") is None
    assert found("query 2") == {names["encoder.layer.2.attention.self.query"]}
    assert found("in") == {0, 1}
    assert found("differs") == {0, 2}
    assert found("out key 0") == frozenset()
    assert found("[red]") == frozenset()


def test_the_command_and_the_screen_agree_on_short_runs() -> None:
    assert CONFIRM_ROWS == 2048  # as the field's placeholder says
    assert Inputs().real_runs == 0
    assert BY_KEYS.keys() == BY_OPTIONS.keys()


async def test_the_headline_has_no_empty_lines_after_another_theme_and_size(make_app: MakeApp) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(200, 60)) as pilot:
        await settled(pilot)
        for theme, size in (("textual-light", (80, 24)), ("textual-dark", (200, 60)), ("textual-dark", (80, 24))):
            await pilot.press("7")
            await settled(pilot)
            app.theme = theme
            await pilot.resize_terminal(*size)
            await pilot.press("3")
            await settled(pilot)
            panel = app.screen.query_one("#headline", Panel)
            assert panel.size.height == panel.lines
