"""Pictures of every screen on the demo's probe, into ``docs/screenshots``: ``make screenshots``.

Each is an SVG as Textual draws it, and a PNG of it where ``rsvg-convert`` is installed. Other probes and places:

    python docs/screenshots.py --probe FOLDER --out FOLDER --keys down,space
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from textual.pilot import Pilot

from advisor.probe_cache import demo_inputs
from tui.app import AdvisorApp
from tui.inputs import Inputs

ALL = tuple(place.mode for place in AdvisorApp.PLACES)
Look = tuple[tuple[int, int], str, tuple[str, ...]]  # size, theme, places
LOOKS: tuple[Look, ...] = (
    ((120, 40), "textual-dark", ALL),
    ((120, 40), "textual-light", ALL),
    ((80, 24), "textual-dark", ("explore",)),
    ((80, 24), "textual-dark", ("confirm",)),
    ((50, 20), "textual-light", ("explore",)),
)
PATIENCE = 1800  # seconds for probe and search together, and for the real runs
RUNS, RUN_ROWS = 3, 128  # real runs for the picture of Confirm, and training rows of each


async def settled(pilot: Pilot[None], app: AdvisorApp) -> None:
    """Wait until nothing is under way."""
    for _ in range(PATIENCE * 5):
        await pilot.pause(0.2)
        if not app.runs and not any(app.is_busy(topic) for topic in app.topics):
            await pilot.pause(0.8)
            if not app.runs and not any(app.is_busy(topic) for topic in app.topics):
                return
    raise TimeoutError("The app did not come to rest.")


def link_demo(folder: Path) -> tuple[str, str]:
    """Links to the demo's model and data in ``folder``, so that no path of this machine is in the pictures."""
    model, data = Path("all-MiniLM-L6-v2"), Path("docstrings.jsonl")
    for link, found in zip((model, data), demo_inputs(), strict=True):
        (folder / link).symlink_to(found)
    return str(model), str(data)


def picture(app: AdvisorApp) -> str:
    """The screen as SVG. Without ``xml:space`` rsvg-convert drops the spaces that a text begins with."""
    return app.export_screenshot(title="LoRA layer advisor").replace("<svg ", '<svg xml:space="preserve" ', 1)


def save(app: AdvisorApp, path: Path) -> None:
    path.with_suffix(".svg").write_text(picture(app), encoding="utf-8")
    if program := shutil.which("rsvg-convert"):
        subprocess.run([program, "-w", "1000", "-o", path.with_suffix(".png"), path.with_suffix(".svg")], check=True)


def look(text: str) -> Look:
    """``200x60:textual-light``: every place so."""
    size, theme = text.split(":")
    width, height = map(int, size.split("x"))
    return (width, height), theme, ALL


async def main(probe: Path | None, out: Path, keys: list[str], looks: Sequence[Look], runs: bool) -> None:
    out, probe = out.resolve(), probe and probe.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs()
        if probe is None:
            model, data = link_demo(Path(folder))
            inputs = Inputs(model=model, data=data)
        os.chdir(folder if probe is None else probe.parent)
        os.environ["XDG_CACHE_HOME"] = os.environ["XDG_DATA_HOME"] = folder  # no rows of this machine
        app = AdvisorApp(inputs, session_path=Path(folder) / "tui.json", probe_folder=probe, start=probe is None)
        async with app.run_test(size=looks[0][0]) as pilot:
            await settled(pilot, app)
            if app.state.opened is None:
                raise SystemExit(f"No probe was opened: {app.screen}")
            if runs:
                app.state.set_inputs(confirm=RUNS, confirm_rows=RUN_ROWS)
                app.action_show("confirm")
                await pilot.pause(1)
                app.start_confirm()
                await settled(pilot, app)
                app.action_show("explore")
                await settled(pilot, app)
            for key in keys:
                await pilot.press(key)
            await settled(pilot, app)
            for size, theme, modes in looks:
                app.theme = theme
                await pilot.resize_terminal(*size)
                for mode in modes:
                    app.action_show(mode)
                    await settled(pilot, app)
                    save(app, out / f"{mode}-{size[0]}x{size[1]}-{theme.removeprefix('textual-')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probe", type=Path, help="a probe's folder; default: the demo's, probed first, which takes minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "screenshots")
    parser.add_argument("--keys", default="down,down,right,right", help="pressed in Explore first, separated by commas")
    parser.add_argument("--look", action="append", type=look, help="e.g. 200x60:textual-light; may be repeated")
    parser.add_argument("--runs", action="store_true", help="make real runs first, which takes minutes; default without --probe")
    given = parser.parse_args()
    asyncio.run(
        main(
            given.probe,
            given.out,
            [key for key in given.keys.split(",") if key],
            given.look or LOOKS,
            given.runs or not given.probe,
        )
    )
