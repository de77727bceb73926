"""A recording of a whole session on the demo's data, ``docs/screenshots/session.gif``: part of ``make screenshots``.

What it shows is real: the probe and three real runs are made while it is taken. Only their minutes are cut, to a few
frames each. Needs ``rsvg-convert``.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from screenshots import PATIENCE, RUN_ROWS, RUNS, link_demo, picture, settled
from textual.pilot import Pilot

from tui.app import AdvisorApp
from tui.inputs import Inputs

OUT = Path(__file__).parent / "screenshots" / "session.gif"
SIZE, WIDTH, COLOURS = (100, 30), 900, 48
GLANCE, READ, STUDY = 0.3, 1.2, 3.0  # seconds that a frame stands


class Film:
    """Frames, each with the seconds it stands."""

    def __init__(self, app: AdvisorApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot
        self.frames: list[tuple[str, float]] = []

    def take(self, seconds: float) -> None:
        self.frames.append((picture(self.app), seconds))

    async def type(self, keys: Sequence[str], every: int = 1) -> None:
        """Press keys; a frame after every so many and after the last."""
        for i, key in enumerate(keys, 1):
            await self.pilot.press(key)
            if i % every == 0 or i == len(keys):
                await self.pilot.pause(0.3)
                self.take(GLANCE)

    async def show(self, place: str, seconds: float) -> None:
        self.app.action_show(place)
        await settled(self.pilot, self.app)
        self.take(seconds)

    async def watch(self, frames: int) -> None:
        """So many frames, evenly chosen, of what goes on until the app is at rest."""
        rest = asyncio.create_task(settled(self.pilot, self.app))
        seen: list[str] = []
        while not rest.done():
            await asyncio.sleep(0.5)
            seen.append(picture(self.app))
        await rest
        chosen = [seen[round(i * (len(seen) - 1) / (frames - 1))] for i in range(frames)]
        self.frames += [(frame, 2 * GLANCE) for frame in dict.fromkeys(chosen)]

    def save(self, path: Path) -> None:
        images = [pixels(svg) for svg, _ in self.frames]
        palette = images[len(images) // 2].quantize(COLOURS)
        first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
        durations = [round(1000 * seconds) for _, seconds in self.frames]
        first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def pixels(svg: str) -> Image.Image:
    drawn = subprocess.run(["rsvg-convert", "-w", str(WIDTH)], input=svg.encode(), capture_output=True, check=True)
    return Image.open(io.BytesIO(drawn.stdout)).convert("RGB")


async def session(film: Film, model: str, data: str) -> None:
    """From empty fields to an exported config."""
    app, pilot = film.app, film.pilot
    await pilot.pause(2)
    film.take(READ)
    for text in (model, data):
        await film.type(text, every=5)
        await film.type(["tab"])
    await settled(pilot, app)
    film.take(READ)
    await pilot.press("f5")
    await film.watch(6)
    if app.state.opened is None:
        raise SystemExit(f"No probe was opened: {app.screen}")
    await film.show("explore", STUDY)
    await film.type(["down", "down", "right", "space"])
    await settled(pilot, app)
    film.take(READ)
    await film.type(["u"])
    await settled(pilot, app)
    await film.show("pareto", READ)
    app.state.set_inputs(confirm=RUNS, confirm_rows=RUN_ROWS)
    await film.show("confirm", READ)
    app.start_confirm()
    await film.watch(8)
    film.take(READ)
    await film.show("explore", READ)
    await film.show("export", STUDY)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, data = link_demo(Path(folder))
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = os.environ["XDG_DATA_HOME"] = folder  # no rows of this machine
        app = AdvisorApp(Inputs(), session_path=Path(folder) / "tui.json", probe_folder=None, start=False)
        async with app.run_test(size=SIZE) as pilot:
            film = Film(app, pilot)
            async with asyncio.timeout(2 * PATIENCE):
                await session(film, model, data)
        film.save(OUT)


if __name__ == "__main__":
    if shutil.which("rsvg-convert") is None:
        raise SystemExit("rsvg-convert is not installed.")
    asyncio.run(main())
