"""Dialogs, lists and the palette close once, however often a key is pressed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from textual.command import CommandList
from textual.widgets import Input, OptionList
from tui_helpers import send, settled, until

from tui.app import AdvisorApp
from tui.dialogs import ChoiceDialog, ErrorDialog, NameDialog, Question, TextDialog
from tui.lists import Choices, Options

MakeApp = Callable[..., AdvisorApp]


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
    NameDialog("title", lambda _: ""),
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


async def test_the_question_about_quitting_goes_with_the_runs_it_is_about(make_app: MakeApp, engine) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        engine.gate = threading.Event()
        await pilot.press("6", "f5", "ctrl+q")
        assert isinstance(app.screen, Question)
        engine.gate.set()
        await settled(pilot)
        assert app.is_running
        assert app.current_mode == "confirm"
        assert len(app.screen_stack) == 1
        await pilot.press("ctrl+q")
        assert app._exit


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


@pytest.mark.parametrize("kind", [Options, Choices])
def test_a_page_key_in_a_list_that_is_not_laid_out_yet_does_nothing(kind: type[OptionList]) -> None:
    listed = kind("a", "b") if kind is Options else kind()
    if kind is Choices:
        listed.add_options(["a", "b"])
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
