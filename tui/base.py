"""What every screen shares: the row of places above, the footer below, the state, help of the focused widget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import ScreenResume
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from advisor.core.events import Event, Session
from tui.activity import Activity
from tui.footer import Keys
from tui.lineup import Lineup
from tui.state import Change, State

if TYPE_CHECKING:
    from tui.engine import Engine, Standing

OF_EVERY_APP = ("copy_text", "help_quit")  # actions of Textual's own that need no mention


@dataclass(frozen=True)
class Place:
    """A screen one can go to: ``module`` has the class ``screen``, imported when first shown."""

    mode: str
    label: str
    module: str
    screen: str
    needs_probe: bool

    def load(self) -> Screen[None]:
        return getattr(import_module(self.module), self.screen)()  # type: ignore[no-any-return]


class Advisor(Protocol):
    """What screens use of the app, besides what every Textual app has. The app imports the screens, never the reverse."""

    PLACES: ClassVar[tuple[Place, ...]]
    state: State
    lineup: Lineup
    recent: list[str]
    runs: dict[str, Session]
    activity: Activity | None
    log_lines: deque[str]
    probe_folder: Path | None  # to be opened at the start
    visits: int  # how often the user went to a place
    searching: str  # what is being done for another recommendation
    is_behind: bool  # the recommendation is not, or not yet, of what is asked for
    announced: str  # what the real runs under way take
    standing: Standing | None  # after the real runs so far
    runs_folder: Path  # the recommendation's folder, in which real runs are kept

    @property
    def engine(self) -> Engine: ...
    @property
    def current_mode(self) -> str: ...
    @property
    def runs_asked(self) -> int: ...
    def start_confirm(self) -> None: ...
    def start_calibration(self) -> None: ...
    def write_recommendation(self, out: Path, overwrite: bool, done: Callable[[tuple[Path, ...]], None]) -> bool: ...
    def can_show(self, mode: str) -> bool: ...
    def ask(self, topic: str, job: Callable[[], Any], done: Callable[[Any], None]) -> None: ...
    def is_busy(self, topic: str) -> bool: ...
    def start_run(self, name: str, job: Callable[[Session], Any], done: Callable[[Any], None]) -> bool: ...
    def cancel(self, name: str) -> bool: ...
    def open_probe(self, folder: Path) -> None: ...
    def fill_demo(self) -> None: ...
    def action_start_probe(self) -> None: ...
    def show_error(self, error: BaseException) -> None: ...


class Places(Static):
    """The row of places: where one is, where one can go; a click goes there."""

    def on_mount(self) -> None:
        self.show()

    def show(self) -> None:
        app = cast(Advisor, self.app)
        parts: list[Content] = []
        for number, place in enumerate(app.PLACES, 1):
            here = place.mode == app.current_mode
            text = f"[{number} {place.label}]" if here else f" {number} {place.label} "
            if self.screen.has_class("-narrow") and not here:
                text = f" {number} "
            style = "bold" if here else ("" if app.can_show(place.mode) else "dim")
            parts.append(Content.styled(text, style).stylize_before(f"@click=app.show('{place.mode}')"))
        self.update(Content("").join(parts))


class Context(Static):
    """What everything on the screen is said of: model, data, budget, rank."""

    def on_mount(self) -> None:
        self.show()

    def on_resize(self) -> None:
        self.show()

    def show(self) -> None:
        state = cast(Advisor, self.app).state
        inputs, opened = state.inputs, state.opened
        model, data, rank = str(inputs.model or ""), str(inputs.data or ""), inputs.rank
        if opened is not None and self.screen.SHOWS_PROBE:  # type: ignore[attr-defined]  # of every AdvisorScreen
            info = opened.probe.info
            model, data, rank = str(info.get("model", model)), str(info.get("data", data)), opened.scorer.settings.rank
        word = "" if self.screen.has_class("-narrow") else "budget "
        asked = f"{word}{inputs.budget} · rank {rank}"
        room = (self.size.width - len(asked) - 8) // 2
        names = [name_of(text, room) if text else f"no {what} yet" for text, what in ((model, "model"), (data, "data"))]
        self.update(Content.assemble((names[0], "bold"), f" · {names[1]} · {asked}"))


def name_of(path: str, most: int = 32) -> str:
    """The last two parts of a path, as many a file is called train.jsonl; the last one where two are too long."""
    parts = path.rstrip("/").split("/")
    name = next((name for name in ("/".join(parts[-2:]), parts[-1]) if len(name) <= most), parts[-1])
    return name if len(name) <= most else name[: max(most - 1, 1)] + "…"


class AdvisorScreen(Screen[None]):
    """A place of the app. Subclasses yield their widgets from :meth:`body` and redraw in :meth:`state_changed`."""

    AUTO_FOCUS = ""  # a dialog that closes leaves the focus where it was, also nowhere
    SHOWS_PROBE = True  # its context is the open probe's, else what Setup says
    HELP = ""  # what F1 says where the focused widget has none of its own
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-normal"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high"), (50, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,question_mark", "help", "Help", key_display="?"),
        Binding("b", "ask", "Budget", tooltip="Budget, rank and recipe"),
        Binding("ctrl+pagedown", "app.next_place(1)", "Next screen", show=False, priority=True),
        Binding("ctrl+pageup", "app.next_place(-1)", "Previous screen", show=False, priority=True),
    ]

    _visit = -1  # which of the app's visits to a place drew this screen last

    def compose(self) -> ComposeResult:
        yield Places(id="places")
        yield Context(id="context", markup=False)
        yield from self.body()
        yield from self.compose_footer()

    def compose_footer(self) -> ComposeResult:
        yield Keys(id="keys")

    def body(self) -> ComposeResult:
        raise NotImplementedError

    @property
    def advisor(self) -> Advisor:
        return cast(Advisor, self.app)

    @property
    def state(self) -> State:
        return self.advisor.state

    def state_changed(self, change: Change | None) -> None:
        """Redraw what ``change`` touches; None: everything, as the screen comes into view."""

    def show_event(self, run: str, event: Event) -> None:
        """Something a run reported (see :meth:`tui.app.AdvisorApp.start_run`), while this screen is in view."""

    def run_began(self, run: str) -> None:
        """A run began while this screen is in view."""

    def run_ended(self, run: str, error: Exception | None) -> None:
        """A run ended, well or by ``error``, while this screen is in view; :meth:`state_changed` follows."""

    def show_standing(self) -> None:
        """Another real run has ended, while this screen is in view."""

    def add_log_line(self, line: str) -> None:
        """A library printed a line, or the probe noted something, while this screen is in view."""

    def on_screen_resume(self, event: ScreenResume) -> None:
        """Draw everything on coming from another place; under a dialog nothing was missed, and asking again for what just
        failed would bring the dialog back."""
        if self._visit != self.advisor.visits:
            self._visit = self.advisor.visits
            self.call_after_refresh(self._show_all)

    def _show_all(self) -> None:
        self.query_one(Places).show()
        self.query_one(Context).show()
        self.state_changed(None)

    def on_resize(self) -> None:
        self.call_after_refresh(self.query_one(Places).show)

    def action_ask(self) -> None:
        """Another budget, rank or recipe."""
        from tui.ask import AskBar

        self.app.push_screen(AskBar(self.state.inputs))

    def action_undo(self) -> None:
        if not self.state.undo():
            self.notify("Nothing to undo.", markup=False)

    def action_redo(self) -> None:
        if not self.state.redo():
            self.notify("Nothing to redo.", markup=False)

    def action_reset(self) -> None:
        if not self.state.reset():
            self.notify("The search is not finished yet.", markup=False)

    def action_help(self) -> None:
        """The help of the focused widget or of what holds it, else the screen's."""
        from tui.dialogs import TextDialog

        widget: Widget | None = self.focused
        text = ""
        while widget is not None and not text:
            text = getattr(widget, "HELP_TEXT", "")
            widget = widget.parent if isinstance(widget.parent, Widget) else None
        keys: dict[str, list[str]] = {}  # by what they do
        for active in self.active_bindings.values():
            if active.enabled and active.binding.description and not active.binding.action.endswith(OF_EVERY_APP):
                keys.setdefault(active.binding.description, []).append(self.app.get_key_display(active.binding))
        lines = [f"  {' '.join(dict.fromkeys(displayed)):<12} {what}" for what, displayed in keys.items()]
        self.app.push_screen(TextDialog("Help", "\n".join([text or self.HELP, "", "Keys here:", *lines])))
