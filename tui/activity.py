"""What the engine reports during a run, as a frozen picture of it: stages, speed, remaining time (no Textual)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from advisor.core.errors import AdvisorError, Interrupted
from advisor.core.events import Event, Note, Progress, Warn

Clock = Callable[[], float]
DONE = "Done."
# The engine's stages in their order, and about which part of a probe each takes; a stage may be missing.
PHASES = {
    "Frozen features (rows)": 0.15,
    "Forward and backward passes (rows)": 0.55,
    "Kernel blocks (modules)": 0.15,
    "Linearity (selections)": 0.1,
    "Peers' scores (modules)": 0.05,
}


@dataclass
class Activity:
    """A run from its start to its end.

    Attributes:
        progress: of each stage so far, in order. stopping: the user asked to stop, the engine has not yet.
        outcome: empty while it runs.
    """

    clock: Clock = time.monotonic
    progress: dict[str, Progress] = field(default_factory=dict)
    stage: str = ""
    stopping: bool = False
    outcome: str = ""
    started: float = 0.0
    _stage_started: dict[str, tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def take(self, event: Event) -> str | None:
        """Count progress in; a line for the log from anything else."""
        if isinstance(event, Progress):
            if event.stage not in self._stage_started:
                self._stage_started[event.stage] = (self.clock(), event.done)
            self.progress[event.stage], self.stage = event, event.stage
            return None
        return said(event)

    def headline(self) -> str:
        """The state in one line."""
        from advisor.report.words import duration  # not before the first paint: it is not light

        if self.outcome:
            return self.outcome
        if self.stopping:
            return "Stopping… after the present batch; what is done is kept."
        now = self.progress.get(self.stage)
        if now is None:
            return f"Loading model and data… {duration(self.clock() - self.started)}"
        number, many = self.phase()
        phase = f"Phase {number} of {many}, {now.stage[0].lower()}{now.stage[1:]}" if number else now.stage
        parts = [f"{phase}: {now.done} of {now.total}"]
        if rate := self.rate():
            parts.append(f"{rate:.3g}/s")
        if now.eta_s is not None and now.done < now.total:
            parts.append(f"{duration(now.eta_s)} left")
        parts.append(f"{duration(self.clock() - self.started)} so far")
        return ", ".join(parts)

    def phase(self) -> tuple[int, int]:
        """Which of how many phases this is, as far as can be told: a phase that was passed over is none."""
        if self.stage not in PHASES:
            return 0, 0
        order = list(PHASES)
        now = order.index(self.stage)
        before = [name for name in order[:now] if name in self.progress]
        after = [name for name in order[now + 1 :] if name in self.progress or name != "Linearity (selections)"]
        return len(before) + 1, len(before) + 1 + len(after)

    def share(self) -> float:
        """About how much of all phases is done."""
        now = self.progress.get(self.stage)
        if now is None or self.stage not in PHASES:
            return now.done / now.total if now is not None and now.total else 0.0
        order = list(PHASES)
        at = order.index(self.stage)
        done = sum(PHASES[name] for name in order[:at] if name in self.progress)
        left = sum(PHASES[name] for name in order[at + 1 :] if name != "Linearity (selections)")
        part = now.done / now.total if now.total else 1.0
        return (done + part * PHASES[self.stage]) / (done + PHASES[self.stage] + left)

    def rate(self) -> float:
        """Units a second of the present stage, 0 before there is one."""
        now, (began, first) = self.progress.get(self.stage), self._stage_started.get(self.stage, (0.0, 0))
        passed = self.clock() - began
        return (now.done - first) / passed if now is not None and passed > 0 else 0.0


def outcome(error: Exception | None) -> str:
    """How a run ended."""
    if error is None:
        return DONE
    if isinstance(error, Interrupted):
        return "Stopped; finished work is kept. F5 resumes."
    return f"Failed: {error}" if isinstance(error, AdvisorError) else "Failed: unexpected error."


def said(event: Event) -> str | None:
    """A line for the log; None of progress."""
    return f"⚠ {event.text}" if isinstance(event, Warn) else f"· {event.text}" if isinstance(event, Note) else None


def memory() -> str:
    """Resident memory of this process; empty where the platform does not say."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            kilobytes = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration, ValueError):
        return ""
    return f"{kilobytes / 1e6:.2f} GB"
