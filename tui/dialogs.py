"""Modal windows: an error with its next step, a question, a name to type, a choice from a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from tui.lists import Options

T = TypeVar("T")


class ClosesOnce:
    """Of a screen: its :meth:`dismiss` holds against a second call, as of two quick Enters. While another screen covers it, it
    stays."""

    def dismiss(self, result: Any = None) -> AwaitComplete:
        return super().dismiss(result) if self.is_active else AwaitComplete()  # type: ignore[misc,attr-defined]


class Dialog(ClosesOnce, ModalScreen[T], Generic[T]):
    """A box in the middle of the screen; Escape leaves it with the result None.

    Its style is ``DEFAULT_CSS``, as Textual applies a screen's ``CSS`` only below the type of the very screen shown.
    """

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical {
        width: 90%; max-width: 76; height: auto; max-height: 90%;
        background: $panel; border: round $border; padding: 0 1;
    }
    Dialog .title { text-style: bold; color: $text; height: auto; }
    Dialog .body { height: auto; max-height: 16; margin: 1 0; }
    Dialog .body Static { height: auto; color: $text; }
    Dialog Horizontal { height: auto; align-horizontal: right; }
    Dialog Button { margin-left: 1; }
    Dialog #problem { height: auto; color: $text-error; }
    Dialog OptionList { height: auto; max-height: 16; margin: 1 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Close")]

    def action_leave(self) -> None:
        self.dismiss(None)


class ErrorDialog(Dialog[None]):
    """What went wrong and what to do next; ``c`` copies it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("c", "copy", "Copy")]

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__()
        self.what, self.hint = what, hint

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static("✗ That did not work", classes="title", markup=False)
            with VerticalScroll(classes="body", can_focus=False):
                yield Static(self.what, markup=False, id="what")
                if self.hint:
                    yield Static(f"→ {self.hint}", markup=False, id="hint")
            with Horizontal():
                yield Button("Copy (c)", id="copy")
                yield Button("Close", id="close", variant="primary")

    def on_mount(self) -> None:
        self.query_one("#close").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "copy":
            self.action_copy()
        else:
            self.dismiss(None)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(f"{self.what}\n{self.hint}".strip())
        self.notify("Copied.", markup=False)


class Question(Dialog[str]):
    """A question with buttons; the result is the id of the one pressed, the first one is the default."""

    def __init__(self, title: str, text: str, answers: dict[str, str]) -> None:
        """``answers``: label of each button by its id."""
        super().__init__()
        self.title_text, self.text, self.answers = title, text, answers

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self.title_text, classes="title", markup=False)
            with VerticalScroll(classes="body", can_focus=False):
                yield Static(self.text, markup=False)
            with Horizontal():
                for number, (answer, label) in enumerate(self.answers.items()):
                    yield Button(label, id=answer, variant="default" if number else "primary")

    def on_mount(self) -> None:
        self.query(Button).first().focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id)


class NameDialog(Dialog[str]):
    """Asks for a short text; empty is not accepted."""

    def __init__(self, title: str, problem: Callable[[str], str]) -> None:
        """``problem``: why a text cannot be taken, a sentence; empty where it can."""
        super().__init__()
        self.title_text, self.problem = title, problem

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self.title_text, classes="title", markup=False)
            yield Input(max_length=80)
            yield Static("", id="problem", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        name = event.value.strip()
        problem = self.problem(name)
        self.query_one("#problem", Static).update(problem)
        if name and not problem:
            self.dismiss(name)


class ChoiceDialog(Dialog[str]):
    """One of a list; the result is its key."""

    def __init__(self, title: str, choices: dict[str, str]) -> None:
        """``choices``: what is shown, by key."""
        super().__init__()
        self.title_text, self.choices = title, choices

    def compose(self) -> ComposeResult:
        from textual.content import Content

        with Vertical():
            yield Static(self.title_text, classes="title", markup=False)
            yield Options(*(Option(Content(text)) for text in self.choices.values()))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(list(self.choices)[event.option_index])


class StoppingDialog(Dialog[None]):
    """What leaving waits for, until nothing runs any more. It does not close but for that."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "app.quit", "Quit now")]

    def __init__(self, waits_for: Callable[[], str]) -> None:
        """``waits_for``: a sentence on what is under way now."""
        super().__init__()
        self.waits_for = waits_for

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static("Stopping, then quitting", classes="title", markup=False)
            with VerticalScroll(classes="body", can_focus=False):
                yield Static(self.waits_for(), markup=False, id="waits-for")
            with Horizontal():
                yield Button("Quit now (^c)", id="now")

    def on_mount(self) -> None:
        self.set_interval(0.5, self._tick)

    def _tick(self) -> None:
        self.query_one("#waits-for", Static).update(self.waits_for())

    def action_leave(self) -> None:
        """The run has been told to stop: there is no way back."""

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.app.exit()


class TextDialog(Dialog[None]):
    """A text to read."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self.title_text, self.text = title, text

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self.title_text, classes="title", markup=False)
            with VerticalScroll(classes="body"):
                yield Static(self.text, markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
