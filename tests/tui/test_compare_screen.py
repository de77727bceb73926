"""Compare, and the selections that it and Pareto show."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import fakes
import pytest
from textual.widgets import Static
from tui_helpers import settled

from advisor.core.candidate import Candidate
from advisor.core.errors import AdvisorError
from advisor.core.targets import LoraSettings, Selection
from advisor.report.words import disturbs_words
from tui.app import AdvisorApp
from tui.cells import DISTURBS
from tui.compare import CompareScreen
from tui.dialogs import ErrorDialog, TextDialog
from tui.inputs import Inputs
from tui.lineup import CURRENT, PEER, PICK, TARGET_SET, apart, differences, merged

SIZES = [(120, 40), (80, 24), (50, 20)]


def shown(app: AdvisorApp) -> CompareScreen:
    assert isinstance(app.screen, CompareScreen)
    return app.screen


def said(app: AdvisorApp, id: str) -> str:
    return str(app.screen.query_one(f"#{id}", Static).content)


def bracketed() -> fakes.Probe:
    """Module names that would be markup, and one outside any layer."""
    probe = fakes.make_probe()
    targets = tuple(replace(t, name=t.name.replace("layer", "[bold]layer[/bold]")) for t in probe.targets)
    targets = (*targets[:-1], replace(targets[-1], name="[red]pooler", layer=None))
    footprint = fakes.footprint(targets)
    return replace(probe, targets=targets, info={**probe.info, "footprint": asdict(footprint)})


# --- pure ------------------------------------------------------------------------------------------------------------


def test_a_selection_that_is_several_things_is_one_entry_with_all_marks() -> None:
    probe = fakes.make_probe()
    same, other = fakes.candidate(probe, [1, 2]), fakes.candidate(probe, [1, 2], LoraSettings(4, 8))
    entries = merged([(PICK, "the pick", same), (TARGET_SET, "q,v", same), (CURRENT, "", same), (PEER, "eva", other)])
    assert [entry.kinds for entry in entries] == [(CURRENT, PICK, TARGET_SET), (PEER,)]
    assert entries[0].marks == "◉◆□"
    assert entries[0].names == ("the pick", "q,v")
    assert entries[1].name == "eva"
    assert entries[0].id != entries[1].id


def test_a_selection_without_any_name_is_called_by_its_size() -> None:
    probe = fakes.make_probe()
    names = [merged([(CURRENT, "", fakes.candidate(probe, range(n)))])[0].name for n in (1, 3)]
    assert names == ["1 module", "3 modules"]


def test_differences_name_roles_and_layers_both_ways_and_ranks() -> None:
    probe = bracketed()
    targets = probe.targets
    one = fakes.candidate(probe, [0, 6, 7])
    other = replace(fakes.candidate(probe, [0, 12, 18, 23]), ranks={targets[0].name: 4})
    assert differences(targets, one, other) == [
        "adds 3:",
        "  query: layers 2–3",
        "  [red]pooler",
        "leaves out 2:",
        "  query: layer 1",
        "  key: layer 1",
        "rank 8 → 4 for all it shares",
    ]
    assert differences(targets, one, one) == ["the same modules at the same ranks"]


def test_what_cannot_be_told_apart_is_not_known_rather_than_the_same(engine: Any) -> None:
    opened = engine.open(engine.folder, Inputs())
    probe = opened.probe
    pick, all_of_it = fakes.candidate(probe, range(3)), fakes.candidate(probe, range(24))
    figures = engine.compare(opened, [pick, all_of_it], pick)
    entry = merged([(TARGET_SET, "all", all_of_it)])[0]
    told = opened.scorer.predict([all_of_it, pick])
    better = told.deviation[0] < told.deviation[1]
    wanted = "not known" if not told.distinguishable(0, 1) else f"yes, {'better' if better else 'worse'}"
    assert apart(entry, figures[1], figures[0]) == wanted
    assert apart(entry, replace(figures[1], beside="not known"), figures[0]) == "not known"
    worse = replace(figures[1], beside="apart", vs_all=(figures[0].vs_all[0] + 1, 0, 0))
    assert apart(entry, worse, figures[0]) == "yes, worse"
    assert apart(merged([(PICK, "the pick", pick)])[0], figures[0], figures[0]) == "is the pick"
    assert apart(entry, None, figures[0]) == "…"


# --- the screen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_every_selection_once_with_its_figures(make_app: Callable[..., AdvisorApp], size: tuple[int, int]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        screen = shown(app)
        kinds = [kind for entry in screen.entries for kind in entry.kinds]
        assert kinds.count(PICK) == kinds.count(CURRENT) == 1
        assert TARGET_SET in kinds
        assert PEER in kinds
        assert len({entry.id for entry in screen.entries}) == screen.table.row_count == len(screen.entries)
        assert screen.waiting == ""
        assert not screen.lineup.missing(screen.entries)
        cells = [str(cell) for row in screen.entries for cell in screen.table.get_row(row.id)]
        assert "is the pick" in cells
        assert "…" not in cells
        params = [app.state.params_of(entry.candidate) for entry in screen.entries]
        assert params == sorted(params)
        assert screen.table.size.height >= 5


async def test_with_rows_to_keep_every_selection_says_what_it_disturbs(
    keeping_app: Callable[..., AdvisorApp], engine: Any
) -> None:
    app = keeping_app(opened=True)
    async with app.run_test(size=(140, 40)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        screen = shown(app)
        column = [c.id for c in screen.columns].index(DISTURBS) + 1
        assert {kind for entry in screen.entries for kind in entry.kinds} >= {PICK, PEER, TARGET_SET}
        for entry in screen.entries:
            found = engine.scorer.disturbances([entry.candidate])[0]
            assert str(screen.table.get_row(entry.id)[column]) == disturbs_words(found)
        assert any(line.startswith("disturbs ") for line in screen.details_under())


async def test_enter_takes_a_selection_and_u_gives_the_old_one_back(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        before = app.state.current
        row = next(i for i, entry in enumerate(shown(app).entries) if CURRENT not in entry.kinds)
        shown(app).table.move_cursor(row=row)
        await pilot.pause()
        wanted = shown(app).under
        assert wanted is not None
        assert "adds" in said(app, "different") + said(app, "details").replace("leaves out", "adds")
        await pilot.press("enter")
        await settled(pilot)
        assert app.state.current == wanted.candidate
        assert shown(app).under == replace(shown(app).under, candidate=wanted.candidate)  # the cursor stays on it
        assert CURRENT in shown(app).under.kinds  # type: ignore[union-attr]
        await pilot.press("u")
        assert app.state.current == before
        await pilot.press("ctrl+r")
        assert app.state.current == wanted.candidate


async def test_a_click_on_a_header_sorts_and_another_one_inverts(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        screen = shown(app)
        on = screen.under
        for inverted in (False, True):
            await pilot.click("#table", offset=(3, 0))
            await pilot.pause()
            names = [entry.name.lower() for entry in screen.entries]
            assert names == sorted(names, reverse=inverted)
        assert screen.under == on
        await pilot.press("o", "o", "o", "o", "o")
        against_all = screen.columns[[c.id for c in screen.columns].index(screen.order)]
        assert against_all.id == "vs_all"
        mark = str(screen.table.columns["vs_all"].label)
        assert "▲" in mark or "▼" in mark
        values = [screen.lineup.figures(entry).vs_all[0] for entry in screen.entries]  # type: ignore[union-attr]
        assert values == sorted(values)


async def test_the_columns_follow_the_tables_own_size(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(200, 60)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        table = shown(app).table
        wide = table.ordered_columns[0].width
        table.styles.width = 60  # the screen keeps its size
        await settled(pilot)
        assert table.ordered_columns[0].width < wide


async def test_every_column_is_explained(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        labels = [column.label for column in shown(app).columns]
        await pilot.press("w")
        assert isinstance(app.screen, TextDialog)
        told = app.screen.text
        assert all(f"{label}: " in told for label in ["selection", *labels])


async def test_kept_selections_are_there_under_their_names(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("space")
        app.state.keep("[red]mine")
        await pilot.press("5")
        await settled(pilot)
        entry = next(entry for entry in shown(app).entries if CURRENT in entry.kinds)
        assert entry.name == "[red]mine"
        assert entry.marks == "◉◇"
        assert "[red]mine" in str(shown(app).table.get_row(entry.id)[0])
        assert "[red]mine" in said(app, "details")


async def test_names_with_brackets_are_shown_as_they_are(make_app: Callable[..., AdvisorApp], engine: Any) -> None:
    engine.scorer = fakes.make_scorer(bracketed())
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        pooler = Candidate(Selection("just it", ("[red]pooler",)), app.state.opened.scorer.settings)  # type: ignore[union-attr]
        app.state.choose(pooler)
        await pilot.press("5")
        await settled(pilot)
        row = next(i for i, entry in enumerate(shown(app).entries) if entry.name.startswith("q,v"))
        shown(app).table.move_cursor(row=row)
        await pilot.pause()
        assert "[red]pooler" in said(app, "different")


async def test_an_error_of_the_engine_is_a_dialog_and_the_screen_stays(
    make_app: Callable[..., AdvisorApp], engine: Any, bad: AdvisorError
) -> None:
    engine.fails = {"peers": bad, "compare": bad}
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("5")
        await settled(pilot)
        assert isinstance(app.screen, ErrorDialog)
        assert app.screen.what == bad.what
        await pilot.press("escape")
        await settled(pilot)
        assert shown(app).table.row_count > 3
        assert "could be predicted" in said(app, "heading")


async def test_before_the_search_is_over_there_is_what_is_known(
    make_app: Callable[..., AdvisorApp], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, recommend = threading.Event(), engine.recommend

    def late(*asked: Any) -> Any:
        gate.wait(60)
        return recommend(*asked)

    monkeypatch.setattr(engine, "recommend", late)
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        while "search" not in app.runs:
            await pilot.pause(0.02)
        app.action_show("compare")
        while app.is_busy("compare") or not isinstance(app.screen, CompareScreen) or not app.screen.entries:
            await pilot.pause(0.02)
        assert [entry.kinds for entry in shown(app).entries] == [(CURRENT,)]
        assert "searching" in said(app, "heading")
        gate.set()
        await settled(pilot)
        assert len(shown(app).entries) > 3
