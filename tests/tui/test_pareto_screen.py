"""Pareto: the plot and the table of its points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakes
import pytest
from textual.widgets import Static
from tui_helpers import settled

from advisor.report import words
from tui.app import AdvisorApp
from tui.cells import DISTURBS
from tui.lineup import CURRENT, FRONT, MARKS, MEANINGS, PICK, TRADE_OFF
from tui.pareto import ParetoScreen, Plot
from tui.plot import places, plot

SIZES = [(120, 40), (80, 24), (50, 40), (50, 20)]


def shown(app: AdvisorApp) -> ParetoScreen:
    assert isinstance(app.screen, ParetoScreen)
    return app.screen


@pytest.mark.parametrize("size", SIZES)
async def test_plot_and_table_are_there_at_any_size(make_app: Callable[..., AdvisorApp], size: tuple[int, int]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        screen = shown(app)
        drawn = screen.query_one(Plot)
        assert drawn.display
        assert screen.table.row_count == len(screen.entries)
        assert screen.table.size.height >= 5
        text = str(drawn.content)
        assert len(text.splitlines()) == drawn.size.height >= 7
        assert MARKS[FRONT] in text
        assert MARKS[CURRENT] in text
        assert "▸" in text or "◂" in text


async def test_the_heading_says_where_only_the_order_is_known(
    make_app: Callable[..., AdvisorApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        heading = shown(app).query_one("#heading", Static)
        assert "level" not in str(heading.content)
        for known in ("metric_known", "loss_known"):
            monkeypatch.setattr(words, known, lambda *_: False)
        for _ in range(2):  # of the metric, and of the loss
            await pilot.press("m")
            await settled(pilot)
            assert "the level is not known, only the order" in str(heading.content)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)])
async def test_the_legend_says_every_mark_that_is_there(make_app: Callable[..., AdvisorApp], size: tuple[int, int]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("space", "s", *"mine", "enter", "space", "4")
        await settled(pilot)
        legend = shown(app).query_one("#legend", Static)
        lines = ["".join(segment.text for segment in legend.render_line(y)) for y in range(legend.size.height)]
        drawn = [mark.replace("\xa0", " ") for line in lines for mark in line.strip().split("  ")]
        used = {kind for entry in shown(app).entries for kind in entry.kinds}
        assert drawn == [f"{mark} {MEANINGS[kind]}" for kind, mark in MARKS.items() if kind in used]
        assert len(drawn) == 7


async def test_the_metric_has_one_name(make_app: Callable[..., AdvisorApp], engine: Any) -> None:
    engine.scorer = fakes.make_scorer(fakes.make_probe(task="causal-lm"))
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.state.opened is not None
        assert app.state.opened.metric == "token_accuracy"
        await pilot.press("4")
        await settled(pilot)
        assert "accuracy" in [column.label for column in shown(app).columns]
        assert str(shown(app).query_one("#heading", Static).content).startswith("Predicted accuracy (")


async def test_all_of_the_front_is_there(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        rec = app.state.recommendation
        assert rec is not None
        front = {entry.candidate.selection.targets for entry in shown(app).entries if FRONT in entry.kinds}
        assert front == {score.candidate.selection.targets for score in rec.front}
        points = shown(app).query_one(Plot).points
        assert len(points) == len(shown(app).entries)


async def test_the_cursor_moves_the_mark_and_enter_takes_the_point(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        before = app.state.current
        for _ in range(len(shown(app).entries)):
            await pilot.press("up")
        first = shown(app).entries[0]
        assert shown(app).under == first
        assert first.name in str(app.screen.query_one("#details", Static).content)
        if CURRENT in first.kinds:
            await pilot.press("down")
        wanted = shown(app).under
        assert wanted is not None
        await pilot.press("enter")
        await settled(pilot)
        assert app.state.current == wanted.candidate != before
        await pilot.press("u")
        assert app.state.current == before


async def test_a_click_in_the_plot_goes_to_the_nearest_mark(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        drawn = shown(app).query_one(Plot)
        where = places(drawn.points, drawn.size.width, drawn.size.height)
        alone = next(i for i, place in enumerate(where) if where.count(place) == 1 and shown(app).drawn[i] != shown(app).under.id)  # type: ignore[union-attr]
        row, column = where[alone]
        await pilot.click("#plot", offset=(column, row))
        await pilot.pause()
        assert shown(app).under is not None
        assert shown(app).under.id == shown(app).drawn[alone]


async def test_m_changes_to_the_loss_and_back(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        screen = shown(app)
        pick = next(entry for entry in screen.entries if PICK in entry.kinds)
        figures = screen.lineup.figures(pick)
        assert figures is not None
        for values, heading in ((figures.metric, "accuracy"), (figures.loss, "loss"), (figures.metric, "accuracy")):
            point = screen.query_one(Plot).points[screen.drawn.index(pick.id)]
            assert (point.x, point.value, point.low, point.high) == (app.state.params_of(pick.candidate), *values)
            assert heading in str(app.screen.query_one("#heading", Static).content)
            assert heading in [c.label for c in screen.columns]
            await pilot.press("m")


async def test_it_can_be_resized_at_any_time(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        for size in ((50, 20), (80, 24), (140, 50)):
            await pilot.resize_terminal(*size)
            await settled(pilot)
            drawn = shown(app).query_one(Plot)
            expected = plot(drawn.points, [], drawn.size.width, drawn.size.height)
            assert len(str(drawn.content).splitlines()) == len(expected) > 0


async def test_it_can_be_resized_while_another_screen_is_in_view(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        await pilot.press("3")
        await settled(pilot)
        await pilot.resize_terminal(50, 20)
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        drawn = shown(app).query_one(Plot)
        assert len(str(drawn.content).splitlines()) == drawn.size.height == 7


# --- rows to keep ------------------------------------------------------------------------------------------------------


async def test_x_shows_what_is_disturbed_and_its_own_front(keeping_app: Callable[..., AdvisorApp]) -> None:
    app = keeping_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        screen, rec = shown(app), app.state.recommendation
        assert rec is not None
        assert rec.trade_off is not None
        sizes = [point.x for point in screen.query_one(Plot).points]
        assert "x" in screen.active_bindings
        await pilot.press("x")
        await settled(pilot)
        drawn = screen.query_one(Plot)
        assert "disturbs of the rows to keep" in str(app.screen.query_one("#heading", Static).content)
        assert DISTURBS in [c.id for c in screen.columns]
        joined = {screen.drawn[i] for i in drawn.front}
        assert joined == {e.id for e in screen.entries if TRADE_OFF in e.kinds}
        assert len(joined) == len(rec.trade_off)
        values = [(drawn.points[i].x, drawn.points[i].value) for i in drawn.front]
        assert values == sorted(values)
        for entry, point in zip(screen.drawn, drawn.points, strict=True):
            figures = next(screen.lineup.figures(e) for e in screen.entries if e.id == entry)
            assert figures is not None
            assert figures.disturbs is not None
            assert point.x == figures.disturbs.size
        await pilot.press("x")
        assert [point.x for point in drawn.points] == sizes


async def test_without_rows_to_keep_x_does_nothing_and_is_not_offered(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("4")
        await settled(pilot)
        await pilot.press("x")
        assert not shown(app).shows_disturbs
        assert "x" not in shown(app).active_bindings
