"""Pictures of ``report.html`` for the demo, in light and dark, into ``docs/screenshots``: part of ``make screenshots``.

Drawn by Debian's Chromium without a window; of another report: ``python docs/report_screenshots.py --report FILE --out FOLDER``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from screenshots import link_demo

WIDTH, HEIGHT = 1280, 1960  # down to the Pareto front and the spectra
SCHEMES = {"dark": 0, "light": 1}  # Blink's preferredColorScheme


def take(report: Path, out: Path) -> None:
    """Light and dark pictures of a report."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("Chromium is missing: apt-get install chromium")
    for scheme, number in SCHEMES.items():
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    program,
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                    f"--user-data-dir={profile}",
                    f"--blink-settings=preferredColorScheme={number}",
                    f"--window-size={WIDTH},{HEIGHT}",
                    f"--screenshot={out / f'report-{scheme}.png'}",
                    report.resolve().as_uri(),
                ],
                check=True,
                capture_output=True,
            )


def demo_report(folder: Path) -> Path:
    """The report of the demo, with no path of this machine in it."""
    model, data = link_demo(folder)
    command = [Path(sys.executable).with_name("advisor"), "recommend", model, "--data", data, "--out", "recommendation"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), **os.environ, "XDG_CACHE_HOME": str(folder)}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "recommendation" / "report.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="a report.html; default: the demo's, probed first, which takes a minute")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "screenshots")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        take(given.report or demo_report(Path(place)), given.out.resolve())
