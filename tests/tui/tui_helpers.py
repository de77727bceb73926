"""What tests of the screens share."""

from __future__ import annotations

from collections.abc import Callable

from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Static

from tui.app import AdvisorApp

FROZEN = 1_700_000_000.0
TRIES = 400


async def settled(pilot: Pilot[None], tries: int = TRIES) -> None:
    """Wait until the app has nothing under way: no run, no question to the engine, figures and effects are there."""
    app = pilot.app
    assert isinstance(app, AdvisorApp)
    for _ in range(tries):
        await pilot.pause(0.02)
        waiting = not app.has_begun or app.has_keys_waiting or app.runs or any(app.is_busy(topic) for topic in app.topics)
        state = app.state
        late = state.opened is not None and app.current_mode == "explore" and (not state.is_fresh or not state.effects_are_fresh)
        if not waiting and not late:
            await pilot.pause()
            return
    raise AssertionError(f"still busy: {list(app.runs)}")


def shown_text(app: AdvisorApp, selector: str) -> str:
    """The text of a Static of the screen in view."""
    return str(app.screen.query_one(selector, Static).render())


def send(app: AdvisorApp, *keys: str) -> None:
    """Keys that all wait in the terminal, as of a paste, a macro or a slow line."""
    for key in keys:
        app.post_message(Key(key, " " if key == "space" else key if len(key) == 1 else None))


async def until(pilot: Pilot[None], met: Callable[[], bool]) -> None:
    """Wait until it is so."""
    for _ in range(300):
        if met():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not happen")
