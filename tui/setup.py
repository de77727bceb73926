"""Setup: what to probe, how the data is read, for which recipe; or a probe made earlier."""

from __future__ import annotations

import os
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.content import Content
from textual.events import DescendantBlur
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Button, Input, OptionList, Select, Static
from textual.widgets._select import SelectCurrent
from textual.widgets.option_list import Option

from advisor.core.option import Option as Field
from tui.base import AdvisorScreen, Context, Places, name_of
from tui.form import FIELDS, FIRST, PLACES, READING, by_fields, is_choice, parsed, shown
from tui.lists import Choices, Options
from tui.paths import DATA_SUFFIXES, completions
from tui.state import Change
from tui.work import in_thread

if TYPE_CHECKING:
    from tui.engine import Preview, Recent

WELCOME = "Which modules should LoRA adapt? Name your model and data, then press F5."
MORE, FEWER = "▸ More: columns, recipe, probe (F3)", "▾ Fewer (F3)"
NO_DATA = "Name a model and data to begin, or press F2 for the demo."
BEING_READ = "… reading the data"
HUB_ID = re.compile(r"[\w-]+(/[\w.-]*)*")
PREVIEW_AFTER = 0.3  # seconds without typing until the data is read


class PathSuggester(Suggester):
    """Completes a path from what is on disk; → takes what is offered."""

    def __init__(self, folders_only: bool) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self.folders_only = folders_only

    async def get_suggestion(self, value: str) -> str | None:
        found = await in_thread(lambda: completions(value, self.folders_only))
        return next((path for path in found if path != value), None)


class TextField(Input):
    """A field to type into; Escape leaves it, so that the single-key commands work."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "screen.leave_field", "Leave field", show=False)]

    def __init__(self, field: Field, value: str) -> None:
        suggester = PathSuggester(field.name == "model") if field.name in PLACES else None
        placeholder = field.blank or field.unset
        super().__init__(value, placeholder=placeholder, id=field.name, compact=True, suggester=suggester)
        self.HELP_TEXT = f"{field.label}. {field.help}" + (" → takes the path that is offered." if suggester else "")


class ChoiceField(Select[str]):
    """A field to choose in."""

    def __init__(self, field: Field, value: str) -> None:
        choices = dict.fromkeys((*field.choices, value))  # the command line takes more, such as cuda:1
        super().__init__([(c, c) for c in choices], value=value, allow_blank=False, id=field.name, compact=True)
        self.HELP_TEXT = f"{field.label}. {field.help}"

    def compose(self) -> ComposeResult:
        yield SelectCurrent(self.prompt)
        yield Choices().data_bind(compact=Select.compact)


class SetupScreen(AdvisorScreen):
    """The form, the data as it would be read, recent probes."""

    SHOWS_PROBE = False
    HELP = (
        "Name a model and your training rows. The rows are read at once and shown as the model will see them: check the "
        "task and the columns, change them if they are wrong. Then probe: one pass over a sample of the rows, after which "
        "every question about every selection is answered without the model.\n\n"
        "A probe made earlier opens at once: choose it in the list."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f5", "probe", "Probe", key_display="F5"),
        Binding("f2", "demo", "Demo", key_display="F2"),
        Binding("f3", "unfold", "More", key_display="F3"),
    ]
    CSS = """
    SetupScreen #welcome { padding: 1 2; text-style: bold; }
    SetupScreen #columns { height: 1fr; }
    SetupScreen #hello { padding: 0 1; height: auto; color: $text-primary; text-style: bold; }
    SetupScreen .form { layout: vertical; height: auto; padding: 0 1; }
    SetupScreen .row { height: 1; }
    SetupScreen #form { margin-top: 1; }
    SetupScreen #more { display: none; }
    SetupScreen #more.-unfolded { display: block; }
    SetupScreen #unfold { margin: 1 0 0 1; }
    SetupScreen .problem { display: none; height: auto; color: $text-error; padding: 0 0 0 14; }
    SetupScreen .problem.-said { display: block; }
    SetupScreen .label { height: 1; width: 14; color: $text-muted; }
    SetupScreen TextField { height: 1; width: 1fr; background: $panel; border: none; padding: 0 1; }
    SetupScreen TextField:focus { background: $surface-lighten-1; text-style: none; }
    SetupScreen TextField.wrong { color: $text-error; text-style: underline; }
    SetupScreen ChoiceField { height: 1; width: 1fr; }
    SetupScreen ChoiceField SelectCurrent { padding: 0 1; }
    SetupScreen #left { width: 1fr; height: 1fr; }
    SetupScreen #right { width: 1fr; height: 1fr; }
    SetupScreen #right > * { padding: 0 1; min-width: 12; }
    SetupScreen .heading { text-style: bold; color: $text-primary; height: 1; }
    SetupScreen #recent { margin-bottom: 1; }
    SetupScreen #preview, SetupScreen #message { height: auto; }
    SetupScreen #message { color: $text-warning; padding: 0 1; }
    SetupScreen #recent { height: auto; max-height: 12; border: none; background: $background; }
    SetupScreen.-low #recent { max-height: 4; }
    SetupScreen #buttons { height: 1; padding: 0 1; }
    SetupScreen #buttons Button { margin-right: 2; }
    SetupScreen.-narrow #columns { layout: vertical; overflow-y: auto; }
    SetupScreen.-narrow #left { height: auto; width: 100%; }
    SetupScreen.-narrow #right { height: auto; width: 100%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_complete = False
        self.problems: dict[str, str] = {}
        self.preview: Preview | None = None
        self.recent: list[Recent] = []
        self._preview_timer: Any = None
        self.unreadable: dict[str, str] = {}  # what stands against the model or the data as they are, by field name
        self._read: tuple[Any, ...] | None = None

    def compose(self) -> ComposeResult:
        """Little at first, so that there is something to see at once; the form follows after the first paint."""
        yield Places(id="places")
        yield Context(id="context", markup=False)
        folder = self.advisor.probe_folder
        asked = "Which modules should LoRA adapt, on your model and your data?"
        yield Static(asked if folder is None else f"Opening the probe in {folder} …", id="welcome", markup=False)

    def body(self) -> ComposeResult:
        inputs = self.state.inputs
        yield Static(WELCOME, id="hello", markup=False)
        with Horizontal(id="columns"):
            with VerticalScroll(id="left", can_focus=False):
                for form, fields in (
                    ("form", [field for field in FIELDS if field.name in FIRST]),
                    ("more", [field for field in FIELDS if field.name not in FIRST]),
                ):
                    if form == "more":
                        yield Button(MORE, id="unfold", compact=True)
                    with Container(id=form, classes="form"):
                        for field in sorted(fields, key=lambda f: FIRST.index(f.name) if f.name in FIRST else 0):
                            value = shown(inputs, field)
                            with Horizontal(classes="row"):
                                yield Static(field.label, classes="label", markup=False)
                                yield ChoiceField(field, value) if is_choice(field) else TextField(field, value)
                            yield Static("", id=f"problem-{field.name}", classes="problem", markup=False)
            with VerticalScroll(id="right", can_focus=False):
                yield Static("Recent probes", classes="heading", id="recent-heading")
                yield Options(id="recent", compact=True)
                yield Static("Data as it will be read", classes="heading")
                yield Static(NO_DATA, id="preview", markup=False)
        yield Static("", id="message", markup=False)
        with Horizontal(id="buttons"):
            yield Button("Probe (F5)", id="probe", variant="primary", compact=True)
            yield Button("Demo (F2)", id="demo", compact=True)

    async def show_form(self) -> None:
        """Called once the first paint is on the terminal."""
        await self.mount_compose(self.body())
        await self.mount_compose(self.compose_footer())
        await self.query_one("#welcome").remove()
        self.is_complete = True
        self.query_one("#model").focus()
        self.state_changed(None)
        if self.advisor.probe_folder is not None:
            self._say(f"Opening the probe in {self.advisor.probe_folder} …")

    def action_unfold(self, is_open: bool | None = None) -> None:
        """Show or fold what is rarely needed."""
        more = self.query_one("#more")
        more.set_class(not more.has_class("-unfolded") if is_open is None else is_open, "-unfolded")
        self.query_one("#unfold", Button).label = FEWER if more.has_class("-unfolded") else MORE
        if self.focused is not None and self.focused in more.query("*") and not more.has_class("-unfolded"):
            self.query_one("#model").focus()

    def state_changed(self, change: Change | None) -> None:
        if not self.is_complete:
            return
        if change in (None, Change.INPUTS):
            self._fill()
        if change is None:
            self._list_recent()
            self._preview_soon(0.0)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        return self.is_complete

    def _fill(self) -> None:
        """Show the inputs of the state where they differ from what the fields say."""
        values, _ = parsed(self._texts())
        for field in FIELDS:
            if getattr(self.state.inputs, field.name) != values.get(field.name):
                widget = self.query_one(f"#{field.name}")
                if isinstance(widget, TextField | ChoiceField):
                    widget.value = shown(self.state.inputs, field)

    def _texts(self) -> dict[str, str]:
        texts = {widget.id or "": widget.value for widget in self.query(TextField)}
        return texts | {widget.id or "": str(widget.value) for widget in self.query(ChoiceField)}

    @on(Input.Changed)
    @on(Select.Changed)
    def take(self) -> None:
        """Every keystroke goes to the state, so that nothing is lost; what cannot be read is said."""
        values, self.problems = parsed(self._texts())
        if any(getattr(self.state.inputs, name) != value for name, value in values.items()):
            self.state.set_inputs(**values)
        self._preview_soon(PREVIEW_AFTER)
        self._say_problems()

    def _say_problems(self) -> None:
        """What is wrong with a field stands below it; what is folded and wrong unfolds."""
        wrong = {**self.unreadable, **self.problems}
        for field in FIELDS:
            said = self.query_one(f"#problem-{field.name}", Static)
            if str(said.render()) != wrong.get(field.name, ""):
                said.update(wrong.get(field.name, ""))
                said.set_class(field.name in wrong, "-said")
            self.query_one(f"#{field.name}").set_class(field.name in wrong, "wrong")
        if wrong.keys() - set(FIRST):
            self.action_unfold(True)
        # What is said of the demo stays until it is filled in, of a probe until it is open.
        if not (self.advisor.is_busy("demo") or self.advisor.is_busy("open")):
            self._say("")

    def _say(self, text: str) -> None:
        self.query_one("#message", Static).update(text)

    # --- the data ---------------------------------------------------------------------------------------------------

    def _preview_soon(self, delay: float) -> None:
        inputs = self.state.inputs
        if self._what_is_read() == self._read:
            return
        if self._preview_timer is not None:
            self._preview_timer.stop()
        self.unreadable = {}
        if self._is_being_typed(str(inputs.data or "")):
            self._preview_timer = None  # a hub id is looked up once one has left the field
            return
        if not inputs.data:
            self.preview, self._read = None, None
            self.query_one("#preview", Static).update(NO_DATA)
        if not inputs.data and not inputs.model:
            return
        self._preview_timer = self.set_timer(max(delay, 0.01), self._ask_preview)

    def _is_being_typed(self, data: str) -> bool:
        """Whether it may become the id of a hub data set: nothing on disk is called so, and the field is not left."""
        field = self.query_one("#data", TextField)
        return field.has_focus and bool(HUB_ID.fullmatch(data)) and not data.endswith(DATA_SUFFIXES) and not os.path.exists(data)

    def on_descendant_blur(self, event: DescendantBlur) -> None:
        if event.widget.id == "data" and self.is_complete and self.is_running and self.query("#data"):
            self._preview_soon(0.0)

    def _what_is_read(self) -> tuple[Any, ...]:
        """The inputs that the preview and the cost of the probe depend on."""
        inputs = self.state.inputs
        model = inputs.model, inputs.revision, inputs.samples, inputs.max_length
        return (*(getattr(inputs, name) for name in READING), *model)

    def _ask_preview(self) -> None:
        inputs, engine = self.state.inputs, self.advisor.engine
        self._read = self._what_is_read()
        if inputs.data and self.preview is None:
            self.query_one("#preview", Static).update(BEING_READ)

        def look() -> tuple[str, Preview | str | None]:
            from advisor.core.errors import AdvisorError

            problem = engine.model_problem(inputs)
            try:
                return problem, engine.preview(inputs) if inputs.data else None
            except AdvisorError as error:  # while one types, a sentence below the form, not a dialog
                return problem, str(error)

        self.advisor.ask("preview", look, partial(self._show_preview, self._read))

    def _show_preview(self, read: tuple[Any, ...], found: tuple[str, Preview | str | None]) -> None:
        if read != self._what_is_read():
            return  # of what stood there a moment ago
        problem, preview = found
        self.preview = None if isinstance(preview, str) else preview
        self.unreadable = {"model": problem} if problem else {}
        if isinstance(preview, str):
            self.unreadable["data"] = by_fields(preview)
            self.query_one("#preview", Static).update("")
        elif preview is not None:
            self.query_one("#preview", Static).update(preview_text(preview))
        self._say_problems()

    # --- recent probes ----------------------------------------------------------------------------------------------

    def _list_recent(self) -> None:
        folders, engine = tuple(self.advisor.recent), self.advisor.engine
        self.advisor.ask("recent", lambda: engine.recent(folders), self._show_recent)

    def _show_recent(self, found: list[Recent]) -> None:
        self.recent = found
        listed = self.query_one("#recent", OptionList)
        listed.clear_options()
        listed.add_options([Option(recent_line(probe, time.time())) for probe in found])
        listed.highlighted = 0 if found else None
        self.query_one("#recent-heading").display = listed.display = bool(found)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.advisor.open_probe(self.recent[event.option_index].folder)

    # --- actions ----------------------------------------------------------------------------------------------------

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        actions = {"probe": self.action_probe, "demo": self.action_demo, "unfold": self.action_unfold}
        actions[event.button.id or ""]()

    @on(Input.Submitted)
    def submitted(self) -> None:
        self.focus_next()

    def action_leave_field(self) -> None:
        self.set_focus(None)

    def action_probe(self) -> None:
        """Start the probe unless something is missing; then go to the field."""
        if self.advisor.is_busy("demo"):
            self._say("The demo is not filled in yet.")
            return
        inputs = self.state.inputs
        missing = [name for name in ("model", "data") if not getattr(inputs, name)]
        wrong = {name: f"{name.capitalize()} is missing." for name in missing} | self.problems | self.unreadable
        for name, text in wrong.items():
            if name in missing:
                self._say(text)
            if name not in FIRST:
                self.action_unfold(True)
            self.query_one(f"#{name}", Widget).focus()
            return
        self.advisor.action_start_probe()

    def action_demo(self) -> None:
        """Fill in the embedded model and data."""
        self._say("The demo: an embedded MiniLM, and sentences of this Python's documentation. F5 probes it when it is there.")
        self.advisor.fill_demo()


def preview_text(found: Preview) -> Content:
    """Task and columns in a sentence, then the first rows."""
    label = f", label from {found.label_column}" if found.label_column else ""
    names = [*found.classes[:6], *(["…"] if len(found.classes) > 6 else [])]
    classes = f" ({len(found.classes)}: {', '.join(names)})" if names else ""
    lines = [
        Content.styled(f"{found.task}{classes}, metric {found.metric}", "bold"),
        Content(f"{found.total:,} rows; text from {', '.join(found.text_columns)}{label}; columns: {', '.join(found.columns)}"),
    ]
    lines += [Content(found.cost)] if found.cost else []
    for row in found.rows:
        *texts, last = row
        lines.append(Content(f"· {' | '.join(_short(t) for t in texts)}" + (f" → {_short(last, 24)}" if texts else _short(last))))
    lines += [Content.styled(note, "dim") for note in found.notes if "Left out" in note]
    return Content("\n").join(lines)


def _short(text: str, most: int = 60) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def recent_line(probe: Recent, now: float) -> Content:
    """What was probed, on what, when; of paths the last two parts, as many a file is called train.jsonl."""
    age = max(now - probe.when, 0.0)
    steps = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
    when = next((f"{age / size:.0f} {unit} ago" for size, unit in steps if age >= size), "just now")
    model, data = (name_of(text) for text in (probe.model, probe.data))
    return Content.assemble((model, "bold"), f" on {data}, {probe.modules} modules, ", (when, "dim"))
