"""Export: the current selection as another tool's config, what that tool trains with it, save and copy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.highlight import highlight
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from advisor.core.errors import AdvisorError
from advisor.export import FORMATS
from tui.base import AdvisorScreen
from tui.lineup import key
from tui.lists import Options
from tui.paths import meant
from tui.state import Change

if TYPE_CHECKING:
    from advisor.advice.recommend import Recommendation
    from advisor.export.plan import Plan, Rendered
    from advisor.models.peft import Resolved
    from tui.engine import Exported

SIGNS = {"exact": "✓ exact", "lossy": "≈ lossy", "impossible": "✗ impossible"}
MEANINGS = {
    "exact": "trains exactly what was selected",
    "lossy": "the same modules, other ranks or scales",
    "impossible": "this tool would train something else",
}
CONFIG, REPORT = "config", "report"  # what is written: of the selection at hand, of the recommendation
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Shown:
    """What the screen shows of one selection: every format's files, or why there are none; ``key`` names what is trained."""

    key: Hashable
    plan: Plan | None
    rendered: dict[str, Rendered]
    problem: str = ""


def resolved_text(resolved: Resolved | None, plan: Plan) -> str:
    """What PEFT makes of the config, in words; None: the file says nothing."""
    if resolved is None:
        return "There is nothing to resolve: the file holds comments only."
    exact = dict(resolved.ranks) == {name: plan.module_settings(name).rank for name in plan.names}
    stacks = len(resolved.parameters)
    experts = f" and {stacks} {'stack' if stacks == 1 else 'stacks'} of experts" if stacks else ""
    lines = [
        f"PEFT wraps {len(resolved.wrapped)} modules{experts}" + (", exactly those selected." if exact else "."),
        f"{resolved.lora_params:,} LoRA parameters.",
    ]
    if resolved.saved:
        lines.append(f"In full: {', '.join(resolved.saved)} ({resolved.saved_params:,} parameters).")
    return "\n".join([*lines, *(f"PEFT warns: {warning}" for warning in resolved.warnings)])


def _texts_of(files: Sequence[Path]) -> dict[Path, str | None]:
    """What each says now; None where it cannot be read."""

    def text(path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    return {path: text(path) for path in files}


def _changed(files: Sequence[Path], own: Mapping[Path, str | None]) -> bool:
    """Whether one of them is not in ``own``, or says something else than there."""
    return any(path not in own or own[path] != said for path, said in _texts_of(files).items())


def has_desktop() -> bool:
    """Whether a browser would open beside the terminal, not in it."""
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


class FolderInput(Input):
    """Where to save; Enter saves, Escape leaves it, so that the single-key commands work."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "screen.leave_field", "Leave field", show=False)]
    HELP_TEXT = "The folder to write to; it is made if it is missing. Enter saves; files that are there already are asked about."


class ExportScreen(AdvisorScreen):
    """Formats, what the chosen one says and does, where to save it."""

    HELP = (
        "Choose a format with the arrows. ✓ exact: the tool trains exactly the selection; ≈ lossy: the same modules, but other "
        "ranks or scales, with what that is predicted to cost; ✗ impossible: the tool would train something else, so the file "
        "only says why. Beside a file that is not exact lies, once there is a recommendation, the best selection that the format "
        "can say (alternative-…). s saves, y copies the file that is shown, f shows the format's next one, e edits the folder. "
        "w writes the whole recommendation, of the pick, to the folder as the command does, and opens its report in a browser."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "save", "Save"),
        Binding("y", "copy", "Copy"),
        Binding("f", "next_file", "Next file"),
        Binding("e", "edit_folder", "Folder"),
        Binding("w", "write_report", "Report"),
    ]
    DEFAULT_CSS = """
    ExportScreen #main { height: 1fr; }
    ExportScreen #left { width: 44; height: 1fr; padding: 0 1; border-right: solid $border; scrollbar-size-vertical: 1; }
    ExportScreen #left Static { height: auto; margin-bottom: 1; }
    ExportScreen #left .heading { text-style: bold; color: $text-primary; margin-bottom: 0; }
    ExportScreen #formats { height: auto; border: none; background: $background; margin-bottom: 1; padding: 0; }
    ExportScreen #right { width: 1fr; height: 1fr; }
    ExportScreen #file { height: 1; padding: 0 1; text-style: bold; background: $panel; }
    ExportScreen #scroll { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    ExportScreen #preview { height: auto; }
    ExportScreen #saving { height: 1; }
    ExportScreen #saving Static { width: auto; padding: 0 1; color: $text-muted; }
    ExportScreen #folder { width: 1fr; height: 1; border: none; background: $boost; padding: 0 1; }
    ExportScreen #folder:focus { background: $surface-lighten-1; }
    ExportScreen #saving Button { margin: 0 1; }
    ExportScreen #saved { height: auto; padding: 0 1; color: $text-success; }
    ExportScreen.-normal #left { width: 34; }
    ExportScreen.-narrow #main { layout: vertical; }
    ExportScreen.-narrow #left { width: 100%; height: 50%; border-right: none; border-bottom: solid $border; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.format_name = next(iter(FORMATS))
        self.file_number = 0
        self.shown: Shown | None = None
        self.resolved: dict[tuple[Hashable, str], str] = {}
        self.complete: dict[tuple[Hashable, str], Rendered] = {}  # with alternatives to what is not exact
        self.complete_for: Recommendation | None = None
        # files that this screen wrote, as what and of which probe, and what they said then
        self.own: dict[tuple[str, Path], dict[Path, str | None]] = {}

    def body(self) -> ComposeResult:
        with Horizontal(id="main"):
            with VerticalScroll(id="left", can_focus=False):
                yield Static("", id="what", classes="heading", markup=False)
                yield Options(id="formats", compact=True)
                yield Static("", id="fidelity", markup=False)
                yield Static("What it resolves to", classes="heading")
                yield Static("", id="resolved", markup=False)
            with Vertical(id="right"):
                yield Static("", id="file", markup=False)
                with VerticalScroll(id="scroll"):
                    yield Static("", id="preview", markup=False)
        yield Static("", id="saved", markup=False)
        with Horizontal(id="saving"):
            yield Static("save to", markup=False)
            yield FolderInput(id="folder", compact=True)
            yield Button("Save (s)", id="save", compact=True, variant="primary")

    def on_mount(self) -> None:
        formats = self.query_one("#formats", OptionList)
        formats.add_options([Option(target.label, id=name) for name, target in FORMATS.items()])
        formats.highlighted = 0
        formats.focus()

    # --- state --------------------------------------------------------------------------------------------------------

    def state_changed(self, change: Change | None) -> None:
        if change in (Change.FIGURES, Change.EFFECTS, Change.MEASURE) or self.state.opened is None:
            return
        folder = self.query_one("#folder", Input)
        if change in (None, Change.PROBE) and (change is Change.PROBE or not folder.value):
            folder.value = str(self.advisor.runs_folder)
        self._render_all()

    def _render_all(self) -> None:
        """Every format's files of the current selection, in a thread: predictions of the header take a moment."""
        state, engine = self.state, self.advisor.engine
        opened, current, rec = state.opened, state.current, state.recommendation
        if opened is None or current is None:
            return

        asked = (opened.folder, key(current))
        if rec is not self.complete_for:
            self.complete, self.complete_for = {}, rec

        def job() -> Shown:
            if not current.selection.targets:
                return Shown(asked, None, {}, "The current selection has no modules, so there is no config. Explore selects.")
            try:
                plan = engine.plan(opened, current, rec)
                return Shown(asked, plan, {name: target.render(plan) for name, target in FORMATS.items()})
            except AdvisorError as error:
                return Shown(asked, None, {}, f"✗ {error.what} {error.hint}".strip())

        self.advisor.ask("render", job, self._rendered)

    def _rendered(self, shown: Shown) -> None:
        self.shown = shown
        self._look_closer()

    def _look_closer(self) -> None:
        """Draw the chosen format, and ask what takes longer."""
        self._draw()
        self._resolve()
        if self._is_short():
            asked, job, rec = self._key(), self._files_job(), self.complete_for

            def done(rendered: Rendered) -> None:
                if rec is self.complete_for:
                    self.complete[asked] = rendered
                    self._draw()

            self.advisor.ask("alternatives", job, done)

    def _key(self) -> tuple[Hashable, str]:
        return (self.shown.key if self.shown else None, self.format_name)

    def _rendered_now(self) -> Rendered | None:
        """The chosen format's files as far as they are known; None where there is nothing to export."""
        return self.complete.get(self._key()) or (self.shown.rendered.get(self.format_name) if self.shown else None)

    def _is_short(self) -> bool:
        """Whether alternatives to the chosen format's files are still to be searched."""
        rendered = self._rendered_now()
        short = rendered is not None and any(file.fidelity != "exact" for file in rendered.files.values())
        return short and self.complete_for is not None and self._key() not in self.complete

    def _files_job(self) -> Callable[[], Rendered]:
        """All files of the chosen format, for a thread; those known already where the engine has no more to say."""
        opened, plan, known = self.state.opened, self.shown.plan if self.shown else None, self._rendered_now()
        name, rec, engine, inputs = self.format_name, self.complete_for, self.advisor.engine, self.state.inputs
        assert opened is not None
        assert plan is not None
        assert known is not None

        def job() -> Rendered:
            try:
                return engine.files(opened, plan, name, rec, inputs)
            except AdvisorError:  # such as no model to prove them on, which is said under "What it resolves to"
                return known

        return job

    def _resolve(self) -> None:
        """Ask PEFT once for every plan and format."""
        shown, name, engine, inputs = self.shown, self.format_name, self.advisor.engine, self.state.inputs
        opened = self.state.opened
        if opened is None or shown is None or shown.plan is None or (shown.key, name) in self.resolved:
            return
        plan, asked, fidelity = shown.plan, (shown.key, name), shown.rendered[name].fidelity

        def job() -> str:
            try:
                resolved = engine.resolve(opened, plan, name, inputs)
                cost = engine.cost(opened, plan, resolved) if resolved is not None and fidelity == "lossy" else ""
                return f"{resolved_text(resolved, plan)}\n{cost}".strip()
            except AdvisorError as error:
                return f"✗ {error.what} {error.hint}".strip()

        def done(text: str) -> None:
            self.resolved[asked] = text
            self._draw()

        self.advisor.ask("resolve", job, done)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        shown = self.shown
        if shown is None or not self.is_mounted:
            return
        formats, current = self.query_one("#formats", OptionList), self.state.current
        many = len(current.selection.targets) if current else 0
        self.query_one("#what", Static).update(f"{self.state.title}: {many} modules")
        for name, target in FORMATS.items():
            sign = SIGNS[shown.rendered[name].fidelity] if name in shown.rendered else ""
            formats.replace_option_prompt(name, Content(f"{target.label:<15}{sign}"))
        rendered = self._rendered_now()
        if rendered is None or shown.plan is None:
            for part in ("fidelity", "resolved", "file"):
                self.query_one(f"#{part}", Static).update("")
            self.query_one("#preview", Static).update(shown.problem)
            return
        why = "\n".join(f"· {reason}" for reason in rendered.reasons)
        own = shown.rendered[self.format_name].fidelity  # an alternative says something else
        said = f"{SIGNS[own]}: {MEANINGS[own]}."
        search = "… The best selection that this format can say is being searched." if self._is_short() else ""
        self.query_one("#fidelity", Static).update("\n".join(filter(None, [said, why, search])))
        self.query_one("#resolved", Static).update(
            self.resolved.get((shown.key, self.format_name), "… PEFT is being asked, on a model without weights")
        )
        file_name, text = self._file()
        several = f"  {self.file_number + 1}/{len(rendered.files)} (f)" if len(rendered.files) > 1 else ""
        self.query_one("#file", Static).update(f"{file_name}{several}")
        self.query_one("#preview", Static).update(highlight(text, path=file_name))

    def _file(self) -> tuple[str, str]:
        """Name and text of the file that is shown; empty where there is none."""
        rendered = self._rendered_now()
        if rendered is None:
            return "", ""
        name = list(rendered.files)[self.file_number % len(rendered.files)]
        return name, rendered.files[name].text

    # --- what the user does -------------------------------------------------------------------------------------------

    @on(OptionList.OptionHighlighted, "#formats")
    def format_chosen(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id is not None and event.option.id != self.format_name:
            self.format_name, self.file_number = event.option.id, 0
            self.query_one("#saved", Static).update("")
            self._look_closer()

    def action_next_file(self) -> None:
        if rendered := self._rendered_now():
            self.file_number = (self.file_number + 1) % len(rendered.files)
            self._draw()

    def action_copy(self) -> None:
        """The file that is shown."""
        name, text = self._file()
        if text:
            self.app.copy_to_clipboard(text)
            self.notify(f"{name} copied.", markup=False)
        else:
            self.notify("There is nothing to copy.", severity="warning", markup=False)

    def action_edit_folder(self) -> None:
        self.query_one("#folder", Input).focus()

    def action_leave_field(self) -> None:
        self.query_one("#formats").focus()

    @on(Input.Submitted, "#folder")
    @on(Button.Pressed, "#save")
    def save_wanted(self) -> None:
        self.action_save()

    def _folder(self) -> Path | None:
        """Where to save; None, which is said, where the field is empty."""
        text = self.query_one("#folder", Input).value.strip()
        if not text:
            self.notify("Name a folder to save to.", severity="warning", markup=False)
        return Path(meant(text)).expanduser().absolute() if text else None

    def _own(self, what: str) -> dict[Path, str | None]:
        """What this screen wrote as ``what`` of the open probe: it may go again unasked, if nobody has touched it."""
        assert self.state.opened is not None
        return self.own.setdefault((what, self.state.opened.folder), {})

    def action_save(self) -> None:
        """Write the files of the chosen format; files that are there already are asked about."""
        self._save(overwrite=False)

    def _save(self, overwrite: bool) -> None:
        shown, engine = self.shown, self.advisor.engine
        if shown is None or shown.plan is None:
            self.notify("There is nothing to save.", severity="warning", markup=False)
            return
        if (folder := self._folder()) is None:
            return
        known = self.complete.get(self._key())
        files = self._files_job() if known is None else lambda: known
        own = self._own(CONFIG)

        def job() -> Exported:
            rendered = files()
            exported = engine.export(rendered, folder, overwrite)
            may_go = exported.existing and not _changed(exported.existing, own)
            return engine.export(rendered, folder, overwrite=True) if may_go else exported

        def saved(exported: Exported) -> None:
            if exported.written:
                own.update(_texts_of(exported.written))
                self.query_one("#saved", Static).update("\n".join(f"✓ Written: {path}" for path in exported.written))
                names = ", ".join(path.name for path in exported.written)
                self.notify(f"Saved to {exported.written[0].parent}: {names}.", markup=False)
            else:
                self._ask_overwrite(exported.existing, partial(self._save, overwrite=True))

        self.advisor.ask("export", job, saved)

    def action_write_report(self) -> None:
        """Write the whole recommendation, and open its report; files that are there already are asked about."""
        if self.state.recommendation is None or self.advisor.is_behind:
            self.notify("There is no recommendation yet for what is asked.", severity="warning", markup=False)
            return
        if (folder := self._folder()) is None:
            return
        own, engine = self._own(REPORT), self.advisor.engine

        def job() -> tuple[Path, ...]:
            there = engine.there(folder)
            return there if _changed(there, own) else ()

        def looked(there: tuple[Path, ...]) -> None:
            if there:
                self._ask_overwrite(there, write)
            else:
                write()

        def write() -> None:
            self.advisor.write_recommendation(folder, True, written)

        def written(files: tuple[Path, ...]) -> None:
            own.update(_texts_of(files))
            self.query_one("#saved", Static).update(f"✓ Written: the pick's config and report to {folder}")
            report = next((path for path in files if path.name == REPORT_FILE), None)
            if report is not None and has_desktop():
                self.app.open_url(report.absolute().as_uri())

        self.advisor.ask("export", job, looked)

    def _ask_overwrite(self, files: Sequence[Path], write: Callable[[], None]) -> None:
        from tui.dialogs import Question

        def answered(answer: str | None) -> None:
            if answer == "overwrite":
                write()

        names = "\n".join(str(path) for path in files)
        question = Question("Already there", f"{names}\n\nOverwrite?", {"keep": "Keep", "overwrite": "Overwrite"})
        self.app.push_screen(question, answered)
