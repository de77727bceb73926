"""The heat-map and what is live around it."""

from __future__ import annotations

from collections.abc import Callable

from tui_helpers import settled

from tui.app import AdvisorApp


async def test_space_toggles_the_module_under_the_cursor(make_app: Callable[..., AdvisorApp]) -> None:
    app = make_app(opened=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.current_mode == "explore"
        before = app.state.chosen
        await pilot.press("down", "right", "space")
        await settled(pilot)
        assert app.state.chosen ^ before == {"encoder.layer.1.attention.self.key"}
        assert app.state.is_fresh
