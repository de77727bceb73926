"""Probe: the run as it goes, its log, and a way to stop it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import ProgressBar, RichLog, Static

from advisor.core.events import Event, Progress
from tui.activity import DONE, memory
from tui.base import AdvisorScreen
from tui.state import Change

TICK = 0.5
LOG_LINES = 5000  # as the app keeps


class ProbeScreen(AdvisorScreen):
    """Progress and log of the probe."""

    SHOWS_PROBE = False
    HELP = (
        "The probe runs the frozen model forward and backward over a sample of your rows and keeps, for every module, how "
        "much and in which direction adapting it would move the outputs. Escape stops it after the present batch; what "
        "is done is kept, and probing the same again resumes."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop"),
        Binding("f5", "app.start_probe", "Probe", key_display="F5"),
        Binding("y", "copy_log", "Copy log"),
    ]
    DEFAULT_CSS = """
    ProbeScreen #headline { padding: 0 1; text-style: bold; height: auto; }
    ProbeScreen #detail { padding: 0 1; color: $text-muted; height: auto; }
    ProbeScreen ProgressBar { padding: 0 1; width: 100%; height: 1; }
    ProbeScreen ProgressBar Bar { width: 1fr; }
    ProbeScreen #stages { padding: 0 1; height: auto; color: $text-muted; }
    ProbeScreen RichLog { height: 1fr; margin: 1 0 0 0; padding: 0 1; border-top: solid $border; background: $background; }
    """

    def body(self) -> ComposeResult:
        yield Static("No probe is running. Setup starts one.", id="headline", markup=False)
        yield ProgressBar(show_eta=False, show_percentage=True)
        yield Static("", id="detail", markup=False)
        yield Static("", id="stages", markup=False)
        yield RichLog(max_lines=LOG_LINES, wrap=True, markup=False, highlight=False, min_width=1)

    def on_mount(self) -> None:
        self.set_interval(TICK, self._tick)

    def state_changed(self, change: Change | None) -> None:
        if change is None:
            self.query_one(RichLog).clear()
            for line in self.advisor.log_lines:
                self.add_log_line(line)
            self._draw()

    def on_resize(self) -> None:
        super().on_resize()
        self.call_after_refresh(self.state_changed, None)

    def add_log_line(self, line: str) -> None:
        """Another line of the log, wrapped where the screen ends."""
        log = self.query_one(RichLog)
        log.write(line, width=log.scrollable_content_region.width or None)

    def show_event(self, run: str, event: Event) -> None:
        if run == "probe" and isinstance(event, Progress):
            self._draw()

    def _tick(self) -> None:
        if self.advisor.activity is not None and not self.advisor.activity.outcome:
            self._draw()

    def _draw(self) -> None:
        activity = self.advisor.activity
        bar = self.query_one(ProgressBar)
        now = activity.progress.get(activity.stage) if activity is not None else None
        bar.display = now is not None
        if activity is None:
            return
        self.query_one("#headline", Static).update(activity.headline())
        if now is not None:
            bar.update(total=1.0, progress=1.0 if activity.outcome == DONE else activity.share())
        used = memory()
        detail = "  ".join(part for part in (now.detail if now else "", f"memory {used}" if used else "") if part)
        self.query_one("#detail", Static).update("" if activity.outcome else detail)
        done = [f"✓ {p.stage} ({p.total})" for p in activity.progress.values() if p.done >= p.total]
        self.query_one("#stages", Static).update(Content("  ".join(done)))

    def action_stop(self) -> None:
        """Ask the engine to stop; it does so after the present batch and says so."""
        activity = self.advisor.activity
        if activity is not None and self.advisor.cancel("probe"):
            activity.stopping = True
            self._draw()

    def action_copy_log(self) -> None:
        self.app.copy_to_clipboard("\n".join(self.advisor.log_lines))
        self.notify("Log copied.", markup=False)
