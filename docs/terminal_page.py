"""The screens of ``docs/terminal.md``: part of ``make screenshots``.

A real session on the demo's data at 80×24, from empty fields to an exported config. Each screen stands in the page below a
comment with its name, as in ``<!-- screen: setup -->``.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from screenshots import PATIENCE, RUN_ROWS, RUNS, link_demo, settled
from textual.pilot import Pilot

from advisor.core.store import write_text
from tui.app import AdvisorApp
from tui.inputs import Inputs

PAGE = Path(__file__).parent / "terminal.md"
BLOCK = re.compile(r"(<!-- screen: (\w+) -->\n\n```text\n).*?(```)", re.DOTALL)


def text_of(app: AdvisorApp) -> str:
    """The characters on the screen, without spaces at the ends of lines."""
    console = Console(width=app.size.width, height=app.size.height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(app.screen._compositor.render_update(full=True, screen_stack=app._background_screens))
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines()[: app.size.height])


async def until(pilot: Pilot[None], met: Callable[[], bool]) -> None:
    while not met():
        await pilot.pause(0.1)


async def session(app: AdvisorApp, pilot: Pilot[None], model: str, data: str) -> dict[str, str]:
    """The screens by name."""
    screens: dict[str, str] = {}

    def take(name: str) -> None:
        screens[name] = text_of(app)

    async def press(*keys: str) -> None:
        await pilot.press(*keys)
        await settled(pilot, app)

    await pilot.pause(2)
    await press(*model, "tab", *data, "tab")
    take("setup")
    await pilot.press("f5")
    await until(pilot, lambda: app.activity is not None and len(app.activity.progress) > 1)
    take("probe")
    await settled(pilot, app)
    if app.state.opened is None:
        raise SystemExit(f"No probe was opened: {app.screen}")
    take("explore")
    await press("down", "down", "right", "right", "space")
    take("toggled")
    await press("t")
    take("theory")
    await press("t", "slash", *"value")
    take("filter")
    await press("escape", "escape", "r", "b", *["backspace"] * 3, *"12modules")
    take("ask")
    await press("escape")
    await press("4")
    take("pareto")
    await press("5")
    take("compare")
    app.state.set_inputs(confirm=RUNS, confirm_rows=RUN_ROWS)
    await press("6")
    take("confirm")
    await pilot.press("f5")
    await until(pilot, lambda: app.standing is not None and len(app.standing.runs) > 0)
    await pilot.pause(1)
    take("after_pilot")
    await press("escape")
    take("stopped")
    await press("3")
    take("settled")
    await press("7")
    await press("s")
    take("export")
    return screens


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, data = link_demo(Path(folder))
        os.chdir(folder)
        os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = os.environ["XDG_DATA_HOME"] = folder
        app = AdvisorApp(Inputs(), session_path=Path(folder) / "tui.json", probe_folder=None, start=False)
        async with app.run_test(size=(80, 24)) as pilot, asyncio.timeout(2 * PATIENCE):
            screens = await session(app, pilot, model, data)
    page = PAGE.read_text(encoding="utf-8")
    named = {name for _, name, _ in BLOCK.findall(page)}
    if named != set(screens):
        raise SystemExit(f"Screens of the page and of the session differ: {named ^ set(screens)}")
    write_text(PAGE, BLOCK.sub(lambda found: found[1] + screens[found[2]].replace(folder, "~") + found[3], page))


if __name__ == "__main__":
    asyncio.run(main())
