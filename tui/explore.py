"""Explore: the heat-map of all modules, what is said of the selection at hand, what the cursor is on."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input, Static

from advisor.core.errors import BadInput
from advisor.core.events import Event, Progress
from advisor.core.option import options_of
from advisor.core.targets import SEARCHED
from tui.answer import bars, headline
from tui.base import AdvisorScreen
from tui.cells import MEASURES
from tui.heatmap import Grid, HeatMap
from tui.inputs import Inputs
from tui.panels import against, inspected, legend, measure_is_stale, measure_values, selection_text
from tui.ranking import LEAST, Ranking, Sized
from tui.side import FilterInput, Panel, Side
from tui.sift import HELP, sifted
from tui.state import EDITED, Change
from tui.theory import spectrum_text, terms, theory_text

HIGHEST_SPECTRUM, SPECTRUM_AROUND = 20, 6  # lines of the plot, and of what stands around it
EFFECTS_AFTER = 0.4  # seconds without a change until what each module would do is computed


class ExploreScreen(AdvisorScreen):
    """Layers down, roles across, everything live."""

    HELP = HeatMap.HELP_TEXT
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "measure", "Measure"),
        Binding("u,ctrl+z", "undo", "Undo", key_display="u"),
        Binding("ctrl+r,ctrl+y", "redo", "Redo", key_display="^r", show=False),
        Binding("r", "reset", "Pick"),
        Binding("o", "load", "Load", show=False),
        Binding("s", "save", "Keep"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("plus", "rank(2)", "Rank × 2", show=False, key_display="+"),
        Binding("minus", "rank(0.5)", "Rank ÷ 2", show=False, key_display="-"),
        Binding("a", "all", "All modules", show=False),
        Binding("n", "none", "No modules", show=False),
        Binding("d", "forget", "Forget a kept selection", show=False),
        Binding("y", "copy", "Copy the modules' names", show=False),
        Binding("t", "theory", "Theory"),
        Binding("w", "words", "Terms", show=False),
    ]
    DEFAULT_CSS = """
    ExploreScreen #headline { height: auto; max-height: 50%; padding: 0 1; }
    ExploreScreen #inspect { height: 2; padding: 0 1; background: $panel; color: $text; }
    ExploreScreen.-narrow.-high #inspect { height: 3; }
    ExploreScreen #main { height: 1fr; }
    ExploreScreen #map { width: 1fr; height: 1fr; }
    ExploreScreen #filter { display: none; height: 1; border: none; background: $boost; padding: 0 1; }
    ExploreScreen #legend { height: 1; padding: 0 1; color: $text-muted; }
    ExploreScreen #side { width: 38; height: 1fr; padding: 0 1; border-left: solid $border; scrollbar-size-vertical: 1; }
    ExploreScreen #side { scrollbar-gutter: stable; }
    ExploreScreen #side Static { height: auto; }
    ExploreScreen #against { margin-bottom: 1; }
    ExploreScreen #theory, ExploreScreen #spectrum { display: none; }
    ExploreScreen.-wide.-tall #theory, ExploreScreen.-wide.-tall #spectrum { display: block; margin-bottom: 1; }
    ExploreScreen.-theory #theory, ExploreScreen.-theory #spectrum { display: block; margin-bottom: 1; }
    ExploreScreen.-theory #selection, ExploreScreen.-theory #against { display: none; }
    ExploreScreen.-wide #side { width: 40%; min-width: 52; max-width: 84; }
    ExploreScreen.-narrow #main { layout: vertical; }
    ExploreScreen.-narrow #side { width: 100%; height: 50%; border-left: none; border-top: solid $border; }
    ExploreScreen.-narrow.-low #side { height: 3; border-top: none; background: $boost; }
    ExploreScreen.-narrow.-low.-theory #side { height: 50%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.under: tuple[int, ...] = ()
        self._effects_timer: Any = None

    def body(self) -> ComposeResult:
        yield Panel("headline")
        with Horizontal(id="main"):
            with Vertical(id="map"):
                yield Static("", id="legend", markup=False)
                yield HeatMap()
                yield Ranking()
                yield FilterInput(placeholder=HELP, id="filter", compact=True)
            with Side(id="side"):
                for name in ("selection", "against", "theory", "spectrum"):
                    yield Panel(name)
        yield Panel("inspect")

    def on_mount(self) -> None:
        self.query_one(HeatMap).focus()

    def on_resize(self) -> None:
        super().on_resize()
        self.call_after_refresh(self._fit)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def state_changed(self, change: Change | None) -> None:
        state, heatmap = self.state, self.query_one(HeatMap)
        if state.opened is None:
            return
        if change in (None, Change.PROBE) and heatmap.grid != (grid := Grid.of(state.targets)):
            heatmap.show_grid(grid)
            self._fit()
        is_stale = measure_is_stale(state)
        if change is None or change in (Change.PROBE, Change.MEASURE, Change.EFFECTS) or heatmap.is_stale != is_stale:
            heatmap.show_values(measure_values(state), MEASURES[state.measure], is_stale)
            self._draw_legend()
        if change is None or change in (Change.PROBE, Change.SELECTION, Change.NAMED, Change.RECOMMENDATION):
            pick = None if state.pick is None else self._indices(frozenset(state.pick.selection.targets))
            heatmap.show_chosen(self._indices(state.chosen), pick)
            self._sift()
        if change is Change.RECOMMENDATION:
            self._draw_legend()
        if change is None or change in (Change.PROBE, Change.SELECTION, Change.NAMED, Change.RECOMMENDATION):
            self._compute()
        if change not in (Change.INPUTS, Change.FIGURES):
            self._draw_ranking()
        if change in (None, Change.PROBE, Change.RECOMMENDATION):
            self._draw_headline()
        self._draw_side()

    def _indices(self, names: frozenset[str]) -> frozenset[int]:
        """In model order."""
        return frozenset(i for i, t in enumerate(self.state.targets) if t.name in names)

    def _fit(self) -> None:
        """The map takes what its layers need, the ranking what is left, if that is enough to say something."""
        lines = self.query_one("#map").size.height - 1
        self.query_one(Ranking).display = self.query_one(HeatMap).fit(lines) >= LEAST
        self._draw_legend()

    @on(Sized)
    def resized(self) -> None:
        """What is drawn to the size of its widget, once that has it."""
        self._draw_headline()
        self._draw_ranking()
        self._draw_side()

    def _draw_legend(self) -> None:
        panel = self.query_one("#legend", Static)
        panel.update(legend(self.state, measure_values(self.state), panel.size.width - 2))

    def _draw_ranking(self) -> None:
        ranking, heatmap = self.query_one(Ranking), self.query_one(HeatMap)
        if ranking.display and self.state.opened is not None:
            labels = dict(zip(heatmap.grid.layers, heatmap.grid.labels, strict=True))
            ranking.show(self.state.targets, labels, measure_values(self.state), heatmap.chosen, MEASURES[self.state.measure])

    def _draw_headline(self) -> None:
        """The answer; while another is searched for, how far that is."""
        panel, found = self.query_one("#headline", Panel), self.state.headline
        if self.advisor.is_behind or found is None:
            budget = self.state.inputs.budget
            what = self.advisor.searching or "no pick: nothing fits, or the search failed"
            panel.show(Content.styled(f"… {what}, budget {budget}", "bold"))
        else:
            panel.show(headline(found, panel.size.width, self.has_class("-low")))

    def _draw_side(self) -> None:
        self._draw_inspected()
        if self.query_one("#theory").display:
            self._draw_theory()
        if self.has_class("-theory"):
            return
        self.query_one("#selection", Panel).show(selection_text(self.state, self._budget()), bold_title=True)
        panel = self.query_one("#against", Panel)
        panel.show(Content("\n").join(bars(against(self.state), panel.size.width, with_axis=False)))

    def _draw_theory(self) -> None:
        theory, spectrum = self.query_one("#theory", Panel), self.query_one("#spectrum", Panel)
        theory.show(theory_text(self.state, self.under[0] if len(self.under) == 1 else None), bold_title=True)
        above = sum(p.lines + 1 for p in self.query("#side Panel").results(Panel) if p.display and p is not spectrum)
        room = self.query_one("#side").size.height - above - SPECTRUM_AROUND
        spectrum.show(spectrum_text(self.state, spectrum.size.width, max(5, min(room, HIGHEST_SPECTRUM))))

    def _budget(self) -> Any:
        from advisor.advice.budget import parse_budget

        try:
            return parse_budget(self.state.inputs.budget)
        except BadInput:
            return None  # Setup says so

    # --- computing ----------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        """Figures at once, of the newest selection only; what each module would do once the user pauses."""
        state, engine = self.state, self.advisor.engine
        opened, current = state.opened, state.current
        if opened is None or current is None:
            return
        if not state.is_fresh:
            self.advisor.ask("figures", lambda: engine.figures(opened, current), state.show_figures)
        if self._effects_timer is not None:
            self._effects_timer.stop()
        if not state.effects_are_fresh:
            self._effects_timer = self.set_timer(EFFECTS_AFTER, self._compute_effects)

    def _compute_effects(self) -> None:
        state, engine = self.state, self.advisor.engine
        opened, current, pick = state.opened, state.current, state.pick
        if opened is not None and current is not None:
            self.advisor.ask("effects", lambda: engine.effects(opened, current, pick), state.show_effects)

    def run_began(self, run: str) -> None:
        if run == "search":
            self._draw_headline()

    def run_ended(self, run: str, error: Exception | None) -> None:
        if run == "search":
            self._draw_headline()

    def show_event(self, run: str, event: Event) -> None:
        if run == "search" and isinstance(event, Progress):
            self._draw_headline()

    # --- what the user does -------------------------------------------------------------------------------------------

    @on(HeatMap.Toggled)
    def toggled(self, message: HeatMap.Toggled) -> None:
        self.state.toggle(self.state.targets[i].name for i in message.modules)

    @on(HeatMap.Moved)
    def moved(self, message: HeatMap.Moved) -> None:
        self.under = message.modules
        self._draw_inspected()
        if self.query_one("#theory").display:
            self._draw_theory()

    @on(Ranking.Clicked)
    def go_to(self, message: Ranking.Clicked) -> None:
        heatmap = self.query_one(HeatMap)
        heatmap.cursor = next(place for place, members in heatmap.grid.cells.items() if message.module in members)
        heatmap.focus()

    def _draw_inspected(self) -> None:
        panel = self.query_one("#inspect", Panel)
        if self.query_one(HeatMap).sieve == frozenset():
            panel.show("No module matches the filter. / goes to it, Escape drops it there.")
            return
        panel.show(inspected(self.state, self.under, *panel.size, self._budget()))

    def action_measure(self) -> None:
        keys = self.state.measures
        self.state.show_measure(keys[(keys.index(self.state.measure) + 1) % len(keys)])

    def action_all(self) -> None:
        self.state.toggle(t.name for t in self.state.targets if t.name not in self.state.chosen)

    def action_none(self) -> None:
        self.state.toggle(self.state.chosen)

    def action_load(self) -> None:
        """Choose among the pick, kept selections and the common target sets."""
        from tui.dialogs import ChoiceDialog

        opened = self.state.opened
        if opened is None:
            return
        known = [(c.selection.name, c) for c in (*self.state.named.values(), *self.advisor.engine.target_sets(opened))]
        if self.state.pick is not None:
            known.insert(0, ("the pick", self.state.pick))
        found = [candidate for _, candidate in known]
        choices = {str(i): f"{name} ({len(c.selection.targets)} modules)" for i, (name, c) in enumerate(known)}
        self.app.push_screen(
            ChoiceDialog("Load a selection", choices), lambda key: self.state.choose(found[int(key)]) if key else None
        )

    def action_save(self) -> None:
        """Keep the selection under a name, beside the probe."""
        from tui.dialogs import NameDialog

        def keep(name: str | None) -> None:
            if name:
                self.state.keep(name)
                self._write_named()

        self.app.push_screen(NameDialog("Keep this selection as", self._taken), keep)

    def _taken(self, name: str) -> str:
        """That something else is called so already, as rows of tables are told apart by their names."""
        from advisor.advice.peer_picks import PEERS

        opened = self.state.opened
        usual = [c.selection.name for c in self.advisor.engine.target_sets(opened)] if opened else []
        if name in (*usual, *PEERS, EDITED, "the pick") or name.startswith(SEARCHED):
            return f"{name} is the name of another selection. Choose another name."
        return ""

    def action_forget(self) -> None:
        """Drop a kept selection."""
        from tui.dialogs import ChoiceDialog

        def forget(name: str | None) -> None:
            if name:
                self.state.forget(name)
                self._write_named()

        if self.state.named:
            self.app.push_screen(ChoiceDialog("Forget which?", {name: name for name in self.state.named}), forget)
        else:
            self.notify("No selection was kept yet; s keeps one.", markup=False)

    def _write_named(self) -> None:
        opened, engine, named = self.state.opened, self.advisor.engine, list(self.state.named.values())
        if opened is not None:
            self.advisor.ask(
                "keep", lambda: engine.keep(opened, named), lambda path: self.notify(f"Written to {path}.", markup=False)
            )

    def action_copy(self) -> None:
        """The full names of the modules, one a line."""
        self.app.copy_to_clipboard("\n".join(self.state.current.selection.targets if self.state.current else ()))
        self.notify(f"{len(self.state.chosen)} module names copied.", markup=False)

    def action_filter(self) -> None:
        """Type which modules to look at."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_drop_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.value, field.display = "", False
        self.query_one(HeatMap).focus()

    @on(Input.Submitted, "#filter")
    def filter_kept(self, event: Input.Submitted) -> None:
        """To the map, at the first module that is left."""
        event.input.display = bool(event.value.strip())
        heatmap = self.query_one(HeatMap)
        heatmap.focus()
        if heatmap.sieve and not heatmap.sieve.intersection(heatmap.modules_at(*heatmap.cursor)):
            heatmap.action_next(1)

    @on(Input.Changed, "#filter")
    def filter_changed(self) -> None:
        self._sift()

    def _sift(self) -> None:
        """Dim what the filter leaves out."""
        heatmap, text = self.query_one(HeatMap), self.query_one("#filter", Input).value
        labels = dict(zip(heatmap.grid.layers, heatmap.grid.labels, strict=True))
        heatmap.show_sieve(sifted(text, self.state.targets, labels, heatmap.chosen, heatmap.pick))

    def action_rank(self, factor: float) -> None:
        """Another rank for all, alpha with it; everything is scored anew."""
        option, inputs = options_of(Inputs), self.state.inputs
        rank = max(round(inputs.rank * factor), 1)
        try:
            values = {"rank": option["rank"].check(rank), "alpha": option["alpha"].check(inputs.alpha * rank / inputs.rank)}
        except BadInput as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        if rank != inputs.rank:
            self.state.set_inputs(**values)

    def action_theory(self) -> None:
        """The theory in place of the selection, or back."""
        self.toggle_class("-theory")
        self.call_after_refresh(self._draw_side)

    def action_words(self) -> None:
        from tui.dialogs import TextDialog

        self.app.push_screen(TextDialog("What the words mean", terms()))
