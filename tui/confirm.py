"""Confirm: real runs, as they go: loss curves, what they say of the finalists, how sure the pick is now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.widgets import Input, ProgressBar, Static

from advisor.core.errors import BadInput
from advisor.core.events import Event, Progress
from advisor.core.option import options_of
from tui.answer import SIGNS
from tui.answers import CALIBRATION_FOLDER, CONFIRM_FOLDER
from tui.base import AdvisorScreen
from tui.curves import LOWEST, curves
from tui.engine import OPEN, SETTLED, Seen
from tui.inputs import Inputs
from tui.jobs import TRAINS
from tui.paths import meant
from tui.ranking import Sized
from tui.side import Panel
from tui.standing import drawn, finalists_text, left_in_all, measuring_share, names_of, reached, runs_text, share
from tui.state import Change

if TYPE_CHECKING:
    from advisor.core.recipe import TrainingRecipe
    from tui.engine import Opened

MOST_RUNS = 8  # lines
LOOK_EVERY = 0.5  # seconds between looks at the folder of runs
STYLES = {"": "", "axis": "$text-muted"}  # of a plot; a curve's style is a colour


class RunField(Input):
    """Escape leaves it, so that the single-key commands work."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "screen.leave_field", "Leave field", show=False)]


class Curves(Static):
    """Loss curves, drawn to their size."""

    def __init__(self) -> None:
        super().__init__("", id="curves", markup=False)
        self.seen = Seen()

    def show(self, seen: Seen) -> None:
        self.seen = seen
        self.on_resize()

    def on_resize(self, event: Resize | None = None) -> None:
        found = drawn(self.seen.done, self.seen.live)
        lines = curves(found, self.size.width, self.size.height)
        text = [Content.assemble(*((part, STYLES.get(style, style)) for part, style in line)) for line in lines]
        nothing = "" if found else "No run has begun: its losses are drawn here."
        self.update(Content("\n").join(text) if text else nothing, layout=False)


class ConfirmScreen(AdvisorScreen):
    """Start, watch and stop real runs."""

    HELP = (
        "Real runs make the answer surer. F5 starts them: first a pilot that trains all modules and measures every finalist. "
        "Then come the pick, a common target set, and whatever is most probably the best, until the pick is settled or as many "
        "runs as you allow are done. Escape stops: finished runs are kept and decide. Runs that `advisor recommend --confirm` "
        "made in the same folder count, and it finds yours. e goes to the fields. c calibrates: as many runs of common "
        "and random target sets. Predictions learn from them, also those of other probes."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f5", "start", "Start", key_display="F5"),
        Binding("escape", "stop", "Stop"),
        Binding("c", "calibrate", "Calibrate"),
        Binding("e", "edit", "Fields"),
        Binding("y", "copy", "Copy", show=False),
    ]
    CSS = """
    ConfirmScreen #verdict { padding: 0 1; height: auto; text-style: bold; }
    ConfirmScreen #status { padding: 0 1; height: auto; }
    ConfirmScreen ProgressBar { padding: 0 1; width: 100%; height: 1; }
    ConfirmScreen ProgressBar Bar { width: 1fr; }
    ConfirmScreen #main { height: 1fr; }
    ConfirmScreen #left { width: 1fr; height: 1fr; }
    ConfirmScreen #curves { height: 1fr; color: $text-muted; }
    ConfirmScreen #runs { height: auto; max-height: 8; padding: 0 1; }
    ConfirmScreen.-no-curves #curves { display: none; }
    ConfirmScreen.-no-curves #left { height: auto; }
    ConfirmScreen #side { width: 1fr; height: 1fr; padding: 0 1; border-left: solid $border; scrollbar-size-vertical: 1; }
    ConfirmScreen #side Static { height: auto; margin-bottom: 1; }
    ConfirmScreen #caveat { color: $text-muted; }
    ConfirmScreen #fields { height: 1; }
    ConfirmScreen #fields Static { width: auto; padding: 0 1; color: $text-muted; }
    ConfirmScreen RunField { width: 1fr; height: 1; border: none; background: $boost; padding: 0 1; }
    ConfirmScreen RunField:focus { background: $surface-lighten-1; text-style: none; }
    ConfirmScreen RunField.wrong { color: $text-error; text-style: underline; }
    ConfirmScreen.-normal #main, ConfirmScreen.-narrow #main { layout: vertical; }
    ConfirmScreen.-normal #side, ConfirmScreen.-narrow #side { width: 100%; border-left: none; border-top: solid $border; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self.problems: dict[str, str] = {}

    def body(self) -> ComposeResult:
        inputs = self.state.inputs
        yield Static("", id="verdict", markup=False)
        yield Static("", id="status", markup=False)
        yield ProgressBar(show_eta=False, show_percentage=False)
        with Horizontal(id="main"):
            with Vertical(id="left"):
                yield Curves()
                yield Static("", id="runs", markup=False)
            with VerticalScroll(id="side", can_focus=True):
                yield Panel("finalists")
                yield Static("", id="caveat", markup=False)
        with Horizontal(id="fields"):
            yield Static("runs", markup=False)
            yield RunField(str(self.advisor.runs_asked), id="confirm", compact=True)
            yield Static("rows", markup=False)
            yield RunField(str(inputs.confirm_rows or ""), placeholder="at most 2048", id="confirm_rows", compact=True)
            yield Static("folder", markup=False)
            yield RunField(str(self.advisor.runs_folder), id="folder", compact=True)

    def on_mount(self) -> None:
        self.query_one("#side").focus()
        self.set_interval(LOOK_EVERY, self._look)

    @on(Sized)
    def resized(self) -> None:
        """What is drawn to the size of the finalists' panel, once that has it."""
        self._draw()

    def state_changed(self, change: Change | None) -> None:
        if change in (None, Change.PROBE, Change.RECOMMENDATION):
            self._look()
            self._draw()

    def show_event(self, run: str, event: Event) -> None:
        if run in (*TRAINS, "search") and isinstance(event, Progress):
            self._draw()

    def run_ended(self, run: str, error: Exception | None) -> None:
        self._draw()

    def show_standing(self) -> None:
        self._draw()

    # --- what is there ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """At the folder, whoever runs there."""
        opened, engine = self.state.opened, self.advisor.engine
        if opened is None or not self.is_active or self.advisor.is_busy("watch"):
            return
        folder = self.advisor.runs_folder / (CALIBRATION_FOLDER if self._trains() == "calibrate" else CONFIRM_FOLDER)
        self.advisor.ask("watch", lambda: engine.watch(opened, folder), self._show_seen)

    def _show_seen(self, seen: Seen) -> None:
        if seen != self.seen or self._trains():
            self.seen = seen
            self._draw()

    def _trains(self) -> str:
        """Which real runs are under way; empty where none are."""
        return next((name for name in TRAINS if name in self.advisor.runs), "")

    def _ended(self) -> int:
        """How many of the runs that are under way have ended."""
        if self._trains() == "calibrate":
            return len(self.seen.done)
        return len(self.advisor.standing.runs) if self.advisor.standing else 0

    # --- drawing ------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if not self.is_mounted or self.state.opened is None:
            return
        standing = self.advisor.standing
        self.query_one("#verdict", Static).update(self._verdict())
        self.query_one("#status", Static).update(self._status())
        bar = self.query_one(ProgressBar)
        bar.display = bool(self._trains())
        measuring, ended = self._measuring(), self._ended()
        done = ended + measuring * bool(ended) + sum(share(run, measuring) for run in self.seen.live)
        bar.update(total=self.advisor.runs_asked + measuring, progress=done)
        self.query_one(Curves).show(self.seen)
        self._draw_runs(runs_text(standing, self.seen.done, self.seen.live, names_of(standing)))
        panel = self.query_one("#finalists", Panel)
        width = max(self.query_one("#side").scrollable_content_region.width, 20)
        if standing is not None:
            panel.show(finalists_text(standing, width))
        else:
            panel.show("What the runs say of the finalists stands here once they have begun.")
        self.query_one("#caveat", Static).update(self._caveat())

    def _draw_runs(self, said: Content) -> None:
        """The runs; where they leave no room for their losses, the finalists take it."""
        if said:
            lines = min(len(said.split("\n")) + 1, MOST_RUNS)
            room = self.query_one("#main").size.height // (1 if self.has_class("-wide") else 2) - lines
            curves = "validation loss in colour, training loss grey" if room >= LOWEST else "A higher terminal draws the losses."
            said = Content.assemble(said, "\n", (curves, "$text-muted"))
        self.set_class(bool(said) and room < LOWEST, "-no-curves")
        self.query_one("#runs", Static).update(said)

    def _caveat(self) -> str:
        """What is known of such runs: in full once they are done."""
        from advisor.report.confirmation import CAVEAT, confirmed

        opened, found = self.state.opened, self.state.confirmation
        if opened is None or found is None:
            return CAVEAT
        return "\n\n".join(confirmed(found, opened.scorer))

    def _verdict(self) -> Content:
        """How sure the pick is now."""
        standing, found = self.advisor.standing, self.state.headline
        if "confirm" in self.advisor.runs and standing is not None and standing.runs:
            sign, style = SIGNS[SETTLED if standing.settled else OPEN]
            many = len(standing.finalists)
            return Content.styled(
                f"{sign} With a probability of {standing.sure:.0%} the pick is as good as the best of {many} finalists.", style
            )
        if found is None or self.advisor.is_behind:
            return Content("… the pick is being searched for" if self.advisor.searching else "There is no pick to confirm.")
        sign, style = SIGNS[found.sureness]
        return Content.styled(f"{sign} {found.sureness}. {found.why}", style)

    def _status(self) -> str:
        from advisor.report.words import duration

        if self.problems:
            return "  ".join(self.problems.values())
        asked, running = self.advisor.runs_asked, self._trains()
        if not running:
            if self.seen.live:
                return "Another process trains in this folder; its runs count once they are done."
            if self.seen.is_other:
                return "This folder holds runs of another model or other data. e goes to the field: name another folder."
            there = f"{len(self.seen.done)} finished in this folder. " if self.seen.done else ""
            return f"{there}F5: {self._cost()} Escape stops, and keeps. c: as many runs that predictions learn from."
        calibrates, ended = running == "calibrate", self._ended()
        if self.advisor.runs[running].cancel.is_set():
            return f"Stopping… finished runs are kept, and {'count next time' if calibrates else 'decide'}."
        parts = [
            f"{'Calibration: run' if calibrates else 'Run'} {min(ended + 1, asked)} of {'' if calibrates else 'at most '}{asked}"
        ]
        if not self.seen.live:
            parts.append("starting" if ended or (self.advisor.standing and not calibrates) else "loading model and data")
        parts += [reached(run) for run in self.seen.live]
        left = left_in_all(ended, asked, self.seen.done, self.seen.live, self._measuring())
        if left is not None:
            parts.append(f"at most {duration(left)} left in all")
        announced = "" if calibrates or left is not None else self.advisor.announced
        return f"{', '.join(parts)}. {announced}".rstrip()

    def _cost(self) -> str:
        """What the runs take that F5 would make."""
        from advisor.report.confirmation import cost_of_runs

        opened, rec = self.state.opened, self.state.recommendation
        if opened is None or rec is None:
            return "real runs, once there is a pick."
        said = cost_of_runs(opened.scorer, rec, self._recipe(opened), self.advisor.runs_asked)
        return said[0].lower() + said[1:]

    def _measuring(self) -> float:
        """What measuring the finalists takes besides the runs under way, as a share of one."""
        opened, rec = self.state.opened, self.state.recommendation
        if opened is None or rec is None or self._trains() != "confirm":
            return 0.0
        return measuring_share(opened.scorer, rec, self._recipe(opened))

    def _recipe(self, opened: Opened) -> TrainingRecipe:
        from advisor.advice.confirm import short_recipe

        return short_recipe(opened.scorer, self.state.inputs.confirm_rows)

    # --- what the user does -------------------------------------------------------------------------------------------

    def action_start(self) -> None:
        if self._read():
            self.advisor.start_confirm()
            self._draw()

    def action_calibrate(self) -> None:
        if self._read():
            self.advisor.start_calibration()
            self._draw()

    def action_stop(self) -> None:
        """Stop at once; what is done is kept."""
        if self.advisor.cancel(self._trains()):
            self._draw()

    def action_edit(self) -> None:
        self.query_one("#confirm").focus()

    def action_leave_field(self) -> None:
        self._read()
        self.query_one("#side").focus()

    @on(Input.Submitted)
    def submitted(self) -> None:
        """Start, and leave the fields, so that Escape stops."""
        self.action_start()
        if not self.problems:
            self.query_one("#side").focus()

    @on(Input.Changed)
    def changed(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Take what the fields say; False where something cannot be read, which is said."""
        options, values = options_of(Inputs), {}
        self.problems = {}
        for name, label in (("confirm", "Runs"), ("confirm_rows", "Rows")):
            field = self.query_one(f"#{name}", RunField)
            try:
                text = field.value.strip()
                values[name] = options[name].check(text, label) if text else options[name].default
            except BadInput as error:
                self.problems[name] = str(error)
            field.set_class(name in self.problems, "wrong")
        if values.get("confirm") == self.advisor.runs_asked:
            del values["confirm"]  # nobody has changed it
        folder = self.query_one("#folder", RunField).value.strip()
        if not folder:
            self.problems["folder"] = "Name a folder."
        else:
            self.advisor.runs_folder = Path(meant(folder)).expanduser()
        if any(getattr(self.state.inputs, name) != value for name, value in values.items()):
            self.state.set_inputs(**values)
        self.query_one("#status", Static).update(self._status())
        return not self.problems

    def action_copy(self) -> None:
        lines: list[Any] = [self._verdict().plain, self._status(), self._caveat()]
        self.app.copy_to_clipboard("\n".join(lines))
        self.notify("Copied.", markup=False)
