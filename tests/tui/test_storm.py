"""A storm of events: random keys, doubled ones, pastes, the mouse, resizes, on every screen and dialog. Nothing may crash."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import fakes
import pytest
from textual.events import Key, MouseDown, MouseMove, MouseScrollDown, MouseScrollUp, MouseUp, Paste
from textual.pilot import Pilot
from tui_helpers import settled

from advisor.core.errors import BadInput
from tui.app import AdvisorApp
from tui.inputs import Inputs

MakeApp = Callable[..., AdvisorApp]
LETTERS = "abcdefghijklmnopqrstuvwxyzAQ0123456789?/.%-_[]é漢"
NAMED = (
    *("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "ctrl+home", "ctrl+end"),
    *("enter", "enter", "enter", "space", "space", "escape", "tab", "shift+tab", "backspace", "delete"),
    *("f1", "f2", "f5", "ctrl+p", "ctrl+u", "ctrl+w", "ctrl+a", "ctrl+k", "ctrl+z", "ctrl+y", "ctrl+r", "ctrl+c", "ctrl+v"),
    *("ctrl+pageup", "ctrl+pagedown", "f3", "slash", "plus", "minus", "right_square_bracket", "left_square_bracket"),
)
DOUBLED = ("enter", "enter", "escape", "space", "tab", *"sodbte", "f5", "ctrl+p", "slash", "question_mark")
SIZES = [(80, 24), (120, 40), (50, 20), (200, 60), (20, 6), (1, 1), (3, 50), (300, 3)]
PASTES = ("900%", "", "a\nb\tc", "[bold]x[/bold]", "/no/such/folder", "\x1b[31m", "漢字" * 50, "x" * 500)


class Stays(AdvisorApp):
    """An app that cannot be quit, so that the storm goes on; whatever else leads to an error is counted."""

    def exit(self, *_: Any, **__: Any) -> None:
        self.is_leaving = False
        if len(self.screen_stack) > 1:
            self.pop_screen()


class Storm:
    """Random events from a seed. ``counts``: of what was sent, by kind; ``seen``: screens and dialogs it went over."""

    def __init__(self, app: AdvisorApp, pilot: Pilot[None], seed: int) -> None:
        self.app, self.pilot, self.random = app, pilot, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.size = SIZES[0]

    async def rage(self, events: int) -> None:
        while sum(self.counts.values()) < events:
            kind = self.random.choices(
                (self.key, self.twice, self.burst, self.paste, self.click, self.scroll, self.place, self.resize),
                (50, 10, 4, 3, 20, 4, 3, 1),
            )[0]
            await kind()
            if self.random.random() < 0.5:  # else events pile up
                await asyncio.sleep(0.01)
            self.seen[type(self.app.screen).__name__] += 1
            assert self.app._exception is None
            assert self.app.is_running

    def send(self, key: str) -> None:
        self.app.post_message(Key(key, " " if key == "space" else key if len(key) == 1 else None))

    async def key(self) -> None:
        self.counts["keys"] += 1
        self.send(self.random.choice(NAMED) if self.random.random() < 0.6 else self.random.choice(LETTERS))

    async def twice(self) -> None:
        self.counts["doubled"] += 2
        key = self.random.choice(DOUBLED)
        self.send(key)
        self.send(key)

    async def burst(self) -> None:
        """Many keys at once, as of a key that is held down."""
        self.counts["held"] += 8
        key = self.random.choice(("space", "down", "tab", "m", "u", "enter", "backspace"))
        for _ in range(8):
            self.send(key)

    async def paste(self) -> None:
        self.counts["pastes"] += 1
        self.app.post_message(Paste(self.random.choice(PASTES)))

    async def click(self) -> None:
        """A click, at times a double one or a drag."""
        x, y = self.random.randrange(self.size[0]), self.random.randrange(self.size[1])
        kinds = [MouseMove, MouseDown, MouseUp] * self.random.choice((1, 1, 2))
        for kind in kinds:
            self.counts["mouse"] += 1
            if self.random.random() < 0.1:
                x, y = self.random.randrange(self.size[0]), self.random.randrange(self.size[1])
            self.app.post_message(self._mouse(kind, x, y))

    async def scroll(self) -> None:
        self.counts["mouse"] += 1
        x, y = self.random.randrange(self.size[0]), self.random.randrange(self.size[1])
        self.app.post_message(self._mouse(self.random.choice((MouseScrollDown, MouseScrollUp)), x, y))

    @staticmethod
    def _mouse(kind: Any, x: int, y: int) -> Any:
        button = 1 if kind in (MouseDown, MouseUp) else 0
        return kind(None, x, y, 0, 0, button, False, False, False, screen_x=x, screen_y=y)

    async def place(self) -> None:
        self.counts["places"] += 1
        if len(self.app.screen_stack) > 1:
            self.send("escape")
            await asyncio.sleep(0.05)
        self.app.action_show(self.random.choice(self.app.PLACES).mode)

    async def resize(self) -> None:
        self.counts["resizes"] += 1
        self.size = self.random.choice(SIZES)
        await self.pilot.resize_terminal(*self.size)


async def storm(engine: Any, tmp_path: Any, seed: int, events: int) -> Storm:
    app = Stays(Inputs(model="m", data="d"), engine, session_path=tmp_path / "tui.json", probe_folder=engine.folder)
    async with app.run_test(size=SIZES[0]) as pilot:
        await settled(pilot)
        raging = Storm(app, pilot, seed)
        await raging.rage(events)
        await pilot.resize_terminal(80, 24)
        for _ in range(200):
            if not app.has_keys_waiting:
                break
            await pilot.pause(0.02)
        await pilot.pause(0.2)
        assert app._exception is None
    print(f"\nseed {seed}: {sum(raging.counts.values())} events {dict(raging.counts)} over {dict(raging.seen)}")
    return raging


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storm saves wherever it likes."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))


@pytest.mark.parametrize("seed", [1])
async def test_a_short_storm_breaks_nothing(engine: Any, tmp_path: Any, seed: int) -> None:
    await storm(engine, tmp_path, seed, 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 18))
async def test_a_long_storm_breaks_nothing(engine: Any, tmp_path: Any, seed: int) -> None:
    if seed % 2:
        engine.scorer = fakes.make_scorer(fakes.make_probe(n=12, layers=24))
    if seed % 4 == 2:  # an engine that refuses half of what it is asked
        engine.fails = {name: BadInput(f"{name} [b]fails[/b].", "Hint.") for name in ("preview", "compare", "peers", "export")}
    if seed % 4 == 0:
        engine.fails = {name: ZeroDivisionError(name) for name in ("recommend", "resolve", "recent", "files", "confirm")}
    raging = await storm(engine, tmp_path, seed, 2000)
    assert len(raging.seen) >= 6
