"""A line at the foot of any screen to ask for another budget, rank or recipe: what is shown follows as one types."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from advisor.core.option import options_of
from tui.dialogs import ClosesOnce
from tui.form import parsed, shown
from tui.inputs import Inputs

ASKED = ("budget", "rank", "alpha", "lr", "epochs", "train_rows")
SHORT = {"lr": "rate", "train_rows": "rows"}
USUAL = "Numbers follow as you type. Enter keeps them, Escape goes back."
FOLLOW_AFTER = 0.6  # seconds without typing until what is shown follows


class AskBar(ClosesOnce, ModalScreen[bool]):
    """Fields for what is asked of the open probe. Enter keeps them, Escape goes back to what was asked before; the result is
    whether they are kept."""

    DEFAULT_CSS = """
    AskBar { align: left bottom; background: transparent; }
    AskBar > Vertical { height: auto; background: $panel; border-top: solid $border; padding: 0 1; }
    AskBar Horizontal { height: auto; }
    AskBar Label { color: $text-muted; padding: 0 1; }
    AskBar Input { width: 1fr; height: 1; border: none; background: $boost; padding: 0 1; }
    AskBar Input:focus { background: $surface-lighten-1; text-style: none; }
    AskBar Input.wrong { color: $text-error; text-style: underline; }
    AskBar Static { height: auto; max-height: 3; color: $text-muted; }
    AskBar .two { display: none; }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-normal")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("enter", "keep", "Keep", priority=True),
    ]

    def __init__(self, inputs: Inputs, first: str = ASKED[0]) -> None:
        """``inputs``: what is asked now. ``first``: the field to begin in."""
        super().__init__()
        self.inputs, self.first = inputs, first
        self.problems: dict[str, str] = {}
        self._timer: Any = None

    def compose(self) -> ComposeResult:
        options = options_of(Inputs)
        with Vertical():
            for names in (ASKED[:3], ASKED[3:]):
                with Horizontal():
                    for name in names:
                        option = options[name]
                        yield Label(SHORT.get(name, name), markup=False)
                        yield Input(shown(self.inputs, option), placeholder=option.blank or option.unset, id=name, compact=True)
            yield Static(USUAL, id="said", markup=False)

    def on_mount(self) -> None:
        self.query_one(f"#{self.first}", Input).focus()

    @on(Input.Changed)
    def changed(self) -> None:
        """Wait for a pause, then follow."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(FOLLOW_AFTER, self._follow)

    def _follow(self) -> bool:
        """Take what is typed; False where something cannot be read, which is said."""
        values, self.problems = parsed({field.id or "": field.value for field in self.query(Input)})
        for field in self.query(Input):
            field.set_class(field.id in self.problems, "wrong")
        self.say("  ".join(self.problems.values()) or USUAL)
        self._take(values)
        return not self.problems

    def say(self, text: str) -> None:
        """In the line below the fields."""
        self.query_one("#said", Static).update(text)

    def _take(self, values: dict[str, Any]) -> None:
        app: Any = self.app
        if any(getattr(app.state.inputs, name) != value for name, value in values.items()):
            app.state.set_inputs(**values)

    def action_keep(self) -> None:
        if self._follow():
            self.dismiss(True)

    def action_back(self) -> None:
        self._take({name: getattr(self.inputs, name) for name in ASKED})
        self.dismiss(False)
