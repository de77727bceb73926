"""Speed of the terminal interface (docs/design.md 6): from Space to the refreshed screen, from Python's start to the first paint.

    python benchmarks/terminal.py

Toggle: the real app on a synthetic probe of 224 modules and 128 examples; from the key to the screen that shows the new
selection with its prediction, cost, κ, certificate and spectrum; beside it the engine's part of that (its figures alone),
and until the cell and the parameters show. First paint: a subprocess in a pseudo-terminal, from its start to the first screen
it writes, and until all that Setup has is there; a start before the measured ones has compiled every source. Beside both an
empty Textual app: one line of text, which Space changes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the program does
os.environ.setdefault("TEXTUAL_FPS", "120")

import numpy as np
from search import synthetic
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from advisor.core.probe import Probe, save_probe, stratified_folds
from advisor.core.targets import Target
from advisor.core.version import __version__
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.theory.training_cost import TrainingFootprint
from tui.app import AdvisorApp
from tui.dialogs import ErrorDialog
from tui.explore import ExploreScreen
from tui.inputs import Inputs
from tui.state import Change

RESULTS = Path(__file__).parent / "results" / "terminal.json"
LAYERS, EXAMPLES, TOGGLES, STARTS = 32, 128, 50, 15
ADVISOR = "import sys; sys.argv = ['advisor', 'tui']; from advisor.cli.main import main; main()"
EMPTY = """
from textual.app import App
from textual.widgets import Static
class Empty(App):
    def compose(self):
        yield Static("Setup")
Empty().run()
"""


def footprint(targets: list[Target]) -> dict[str, object]:
    none = (0.0, 0.0, 0.0, 0.0)
    found = TrainingFootprint(
        weight_bytes=13_000_000_000,
        weight_itemsize=2,
        autocast=False,
        targets=tuple(t.name for t in targets),
        saved=tuple((0.0, 0.0, 2.0 * t.out_features, 0.0) for t in targets),
        spared_alone=(none,) * len(targets),
        head_saved=none,
        head_saved_alone=none,
        inputs=tuple(range(len(targets))),
        input_kept_by=(-1,) * len(targets),
        logits=(0.0, 2.0, 0.0, 0.0),
        other_macs=0.0,
        measured_on=((2, 16),),
    )
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def synthetic_probe() -> Probe:
    """The blocks of ``benchmarks/search.py`` as a probe."""
    targets, view = synthetic(LAYERS, EXAMPLES, 0)
    kernels = view.kernels["lora-expected"].blocks
    slope = -view.y[:, 0]
    labels = (view.y[:, 0] > 0).astype(float)
    return Probe(
        targets=tuple(targets),
        weight_blocks=kernels.astype(np.float32),
        gradient_blocks=(0.1 * kernels * np.outer(slope, slope)).astype(np.float32),
        head=None,
        labels=labels,
        y=view.y,
        f0=view.f0,
        z=view.y,
        losses=np.full(EXAMPLES, np.log(2)),
        folds=stratified_folds(labels, 0),
        info={
            "identity": {"model_fingerprint": "", "data_fingerprint": "", "max_length": 128, "dtype": "float32", "settings": {}},
            "advisor": __version__,
            "torch": "",
            "device": "cpu",
            "model_type": "llama",
            "model_parameters": 6_700_000_000,
            "revision": None,
            "head_kind": "trained",
            "methods": {},
            "estimate_error": None,
            "task": "classification",
            "metric": "accuracy",
            "class_names": ["a", "b"],
            "model": "synthetic",
            "qv_roles": ["query", "value"],
            "head": [],
            "head_parameters": 0,
            "data": "synthetic",
            "train_rows": 2000,
            "head_cv": None,
            "mean_tokens": 64.0,
            "max_tokens": 128,
            "footprint": footprint(targets),
        },
    )


def _tell(told: dict[Change, asyncio.Event], change: Change) -> None:
    told[change].set()


async def at_rest(pilot: Pilot[None], app: AdvisorApp) -> None:
    if isinstance(app.screen, ErrorDialog):
        raise SystemExit("The probe could not be opened.")
    while app.runs or any(app.is_busy(topic) for topic in app.topics) or not app.state.effects_are_fresh:
        await pilot.pause(0.1)


async def toggles(folder: Path) -> dict[str, list[float]]:
    """Seconds of each toggle, by what they lead to."""
    times: dict[str, list[float]] = {"complete": [], "cell_and_parameters": [], "engine": []}
    app = AdvisorApp(Inputs(), session_path=folder / "tui.json", probe_folder=folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await at_rest(pilot, app)
        screen = app.screen
        assert isinstance(screen, ExploreScreen)
        for step in range(TOGGLES):
            await pilot.press("down" if step // 8 % 2 else "right")
            await asyncio.sleep(0.6)  # a person looks; what each module would do is computed meanwhile
            await at_rest(pilot, app)
            told = {change: asyncio.Event() for change in Change}
            stop = app.state.subscribe(partial(_tell, told))
            began = time.perf_counter()
            app.simulate_key("space")
            for what, change in (("cell_and_parameters", Change.SELECTION), ("complete", Change.FIGURES)):
                await told[change].wait()
                painted = asyncio.Event()
                screen.call_after_refresh(painted.set)
                await painted.wait()
                times[what].append(time.perf_counter() - began)
            stop()
            opened, current = app.state.opened, app.state.current
            assert opened is not None
            assert current is not None
            began = time.perf_counter()
            app.engine.figures(opened, current)
            times["engine"].append(time.perf_counter() - began)
    return times


class Empty(App[None]):
    """Says how often Space was pressed."""

    pressed = 0

    def compose(self) -> Iterator[Static]:
        yield Static("0")

    def key_space(self) -> None:
        self.pressed += 1
        self.query_one(Static).update(str(self.pressed))


async def empty_toggles() -> list[float]:
    """Seconds from Space to the refreshed screen of an empty app."""
    times, app = [], Empty()
    async with app.run_test(size=(120, 40)):
        for _ in range(TOGGLES):
            await asyncio.sleep(0.1)
            began, before = time.perf_counter(), app.pressed
            app.simulate_key("space")
            while app.pressed == before:
                await asyncio.sleep(0)
            painted = asyncio.Event()
            app.screen.call_after_refresh(painted.set)
            await painted.wait()
            times.append(time.perf_counter() - began)
    return times


def start(code: str, marks: tuple[bytes, ...]) -> list[float]:
    """Seconds from the start of a Python that runs ``code`` in a terminal until each mark is written."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled
        os.execv(sys.executable, [sys.executable, "-c", code])
    began, written = time.perf_counter(), b""
    found: list[float] = []
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    try:
        while len(found) < len(marks) and time.perf_counter() - began < 30:
            if select.select([terminal], [], [], 0.01)[0]:
                written += os.read(terminal, 65536)
                while len(found) < len(marks) and marks[len(found)] in written:
                    found.append(time.perf_counter() - began)
        os.write(terminal, b"\x11")
        deadline = time.perf_counter() + 10
        while time.perf_counter() < deadline:
            try:
                if select.select([terminal], [], [], 0.1)[0] and not os.read(terminal, 65536):
                    break
            except OSError:  # it left
                break
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return found


def summary(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    median, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {"median_ms": round(float(median), 1), "p95_ms": round(float(p95), 1)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = name  # nothing recent to list
        folder = Path(name) / "probe"
        save_probe(synthetic_probe(), folder)
        Predictor().fit(load_rows(), "classification")
        times = asyncio.run(toggles(folder))
        bare = asyncio.run(empty_toggles())
        starts, empty = [], []
        start(ADVISOR, (b"Budget",))  # compiles
        for _ in range(STARTS):  # in turn, as others may use the machine
            starts.append(start(ADVISOR, (b"Which modules", b"Budget")))
            empty.append(start(EMPTY, (b"Setup",))[0])
    result = {
        "modules": 7 * LAYERS,
        "examples": EXAMPLES,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "toggle": {
            **{what: summary(seconds) for what, seconds in times.items()},
            "empty_textual_app": summary(bare),
            "ratio_to_empty_app": round(float(np.median(times["complete"]) / np.median(bare)), 2),
        },
        "first_paint": {
            "advisor_tui": summary([found[0] for found in starts]),
            "complete_form": summary([found[1] for found in starts]),
            "empty_textual_app": summary(empty),
            "ratio_to_empty_app": round(float(np.median([found[0] for found in starts]) / np.median(empty)), 2),
        },
    }
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
