"""What real runs in a folder have reached, for whoever looks on: one small file a run while it trains, ``runs.jsonl`` after
(no torch). Nothing is decided by it, so what is damaged or cannot be written is left out."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from advisor.core.events import Event, Progress

LIVE_FOLDER = "live"
RUNS_FILE, IDENTITY_FILE = "runs.jsonl", "calibration.json"
EVERY_S = 0.5  # a run that trains says at most so often what it has reached
POINTS = 200  # training losses that are kept of a run, thinned evenly
PATIENCE_S, PATIENCE_STEPS = 30.0, 20.0  # without a word for so long, or so many steps, a run is no longer under way


@dataclass(frozen=True)
class LiveRun:
    """A run under way.

    Attributes:
        step, steps: done and in all. losses: training losses, the latest last, thinned.
        epochs: validation losses, from before training on; at: after how many steps.
        started, written: seconds since 1970, of the start and of the latest of these. seen: when it last showed that it is at
            work, as while it measures. measured, to_measure: selections, done and in all; 0 before it measures.
    """

    key: str
    name: str
    step: int
    steps: int
    losses: tuple[float, ...]
    epochs: tuple[float, ...]
    at: tuple[int, ...]
    started: float
    written: float
    seen: float = 0.0
    measured: int = 0
    to_measure: int = 0

    @property
    def eta_s(self) -> float | None:
        """Seconds that its steps still take, or what it measures after them; None before the first."""
        if self.to_measure:
            return None if not self.measured else (self.seen - self.written) / self.measured * (self.to_measure - self.measured)
        return None if not self.step else (self.written - self.started) / self.step * (self.steps - self.step)

    def is_under_way(self, now: float) -> bool:
        patience = max(PATIENCE_S, PATIENCE_STEPS * (self.written - self.started) / max(self.step, 1))
        return now - max(self.written, self.seen) <= patience


@dataclass(frozen=True)
class DoneRun:
    """A finished run.

    Attributes:
        epochs: validation losses, from before training on. wall_s: seconds of training. measured_s: of measuring after it.
    """

    key: str
    name: str
    loss: float
    metric: float
    wall_s: float
    epochs: tuple[float, ...]
    measured_s: float = 0.0


class LiveFile:
    """Where a run says what it has reached."""

    def __init__(self, folder: Path, key: str, name: str) -> None:
        self.path, self.key, self.name = folder / f"{key}.json", key, name
        self._losses: list[float] = []
        self._at: list[int] = []
        self._started = time.time()
        self._written = self._seen = 0.0
        self._last: LiveRun | None = None

    def tell(self, step: int, steps: int, loss: float | None, epochs: Sequence[float]) -> None:
        """After a step with its training loss, or after an epoch (None)."""
        if loss is not None:
            self._losses.append(loss)
        else:
            self._at.append(step)
        now = time.time()
        if loss is not None and now - self._written < EVERY_S:
            return
        self._written = now
        stride = max(math.ceil(len(self._losses) / POINTS), 1)
        losses = tuple(self._losses[::-1][::stride][::-1])
        self._last = LiveRun(self.key, self.name, step, steps, losses, tuple(epochs), tuple(self._at), self._started, now)
        self._write(self._last)

    def at_work(self, event: Event) -> None:
        """It measures."""
        now = time.time()
        if self._last is not None and isinstance(event, Progress) and now - self._seen >= EVERY_S:
            self._seen = now
            self._write(replace(self._last, seen=now, measured=event.done, to_measure=event.total))

    def _write(self, found: LiveRun) -> None:
        part = self.path.with_suffix(".part")
        with suppress(OSError, ValueError):
            part.write_text(json.dumps(asdict(found), allow_nan=False), encoding="utf-8")
            os.replace(part, self.path)

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def begin(folder: Path) -> Path:
    """An empty place for the files of runs under way in ``folder``, which only one process trains in at a time."""
    live = folder / LIVE_FOLDER
    shutil.rmtree(live, ignore_errors=True)
    with suppress(OSError):
        live.mkdir(parents=True, exist_ok=True)
    return live


def end(folder: Path) -> None:
    shutil.rmtree(folder / LIVE_FOLDER, ignore_errors=True)


def runs_under_way(folder: Path) -> list[LiveRun]:
    """Of a folder of runs, whoever started them."""
    found = []
    for path in sorted((folder / LIVE_FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            row = json.loads(path.read_text(encoding="utf-8"))
            run = LiveRun(
                str(row["key"]),
                str(row["name"]),
                int(row["step"]),
                int(row["steps"]),
                tuple(map(float, row["losses"])),
                tuple(map(float, row["epochs"])),
                tuple(map(int, row["at"])),
                float(row["started"]),
                float(row["written"]),
                float(row["seen"]),
                int(row["measured"]),
                int(row["to_measure"]),
            )
            if run.is_under_way(time.time()):
                found.append(run)
    return found


def made_of(folder: Path) -> dict[str, Any]:
    """Fingerprints of the model and the data that a folder's runs are of; empty where it does not say."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return dict(json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))["made_of"])
    return {}


def finished_runs(folder: Path) -> list[DoneRun]:
    """Of a folder of runs, in the order in which they ended."""
    try:
        text = (folder / RUNS_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    found = []
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            row: dict[str, Any] = json.loads(line)
            result = row["result"]
            epochs = tuple(float(epoch[1]) for epoch in result["epochs"])
            loss, metric, wall_s = (float(result[name]) for name in ("val_loss", "metric", "wall_s"))
            measured_s = float(result.get("switched_s", 0.0))
            found.append(DoneRun(str(row["key"]), str(row["selection"]["name"]), loss, metric, wall_s, epochs, measured_s))
    return found
