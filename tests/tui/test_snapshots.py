"""How every place looks: three sizes, two themes. `pytest tests/tui/test_snapshots.py --snapshot-update` after a look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from tui_helpers import settled

from tui.app import AdvisorApp
from tui.inputs import Inputs

SIZES = [(120, 40), (80, 24), (50, 20)]
THEMES = ["textual-dark", "textual-light"]


@pytest.mark.parametrize(
    ("size", "theme"),
    [
        pytest.param(
            size,
            theme,
            id=f"{size[0]}x{size[1]}-{theme}",
            marks=() if theme == THEMES[0] or size == (120, 40) else pytest.mark.slow,
        )
        for size in SIZES
        for theme in THEMES
    ],
)
@pytest.mark.parametrize("mode", [place.mode for place in AdvisorApp.PLACES])
def test_place(make_app: Callable[..., AdvisorApp], snap_compare: Any, mode: str, size: tuple[int, int], theme: str) -> None:
    app = make_app(Inputs(model="fake/bert", data="fake.jsonl"), start=True)

    async def look(pilot: Pilot[None]) -> None:
        app.theme = theme
        await settled(pilot)
        await pilot.press("down", "right", "space")
        app.action_show(mode)
        await settled(pilot)
        await pilot.pause(0.3)  # Setup reads the data a moment after it is shown, tables lay their columns out anew
        await settled(pilot)
        if mode == "setup":
            await pilot.press("escape")  # no blinking cursor
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=look)
