"""A fake engine for the screens: synthetic probes, real arithmetic, nothing slow; a clock that stands still."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from textual.css.stylesheet import Stylesheet
from tui_helpers import FROZEN

from advisor.advice.budget import parse_budget
from advisor.advice.confirm import Confirmation, short_recipe
from advisor.advice.explain import agreements, block_ranks
from advisor.advice.gentle import trade_off
from advisor.advice.peer_picks import PeerPick, module_scores
from advisor.advice.recommend import Recommendation, Stability, compare, module_shares
from advisor.core.candidate import Candidate, RealRun
from advisor.core.errors import AdvisorError
from advisor.core.events import Session, Stage
from advisor.core.probe import KeepBlocks
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.alternatives import Alternative, with_alternatives
from advisor.export.plan import Plan, Rendered
from advisor.models.peft import Resolved
from advisor.prediction.scorer import Scorer
from tui.app import AdvisorApp
from tui.engine import Confirmed, Exported, Figures, Opened, Preview, Recent, Standing
from tui.inputs import Inputs
from tui.real_confirm import Runs, conclude
from tui.real_engine import RealEngine

_PARSED: dict[Any, Any] = {}  # style sheets of all apps
_parse_rules = Stylesheet._parse_rules


def _parse_once(self: Stylesheet, *source: Any, **options: Any) -> Any:
    key = (tuple(self._variables.items()), source, tuple(options.items()))
    if key not in _PARSED:
        _PARSED[key] = _parse_rules(self, *source, **options)
    return _PARSED[key]


Stylesheet._parse_rules = _parse_once  # type: ignore[method-assign]  # an app parses some 20 of them, in 60 ms, for each screen


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Coroutine tests run in an event loop of their own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


class FakeEngine(RealEngine):
    """:class:`tui.real_engine.RealEngine` on a synthetic probe, without files but for kept selections.

    Attributes:
        scorer: of every probe that is opened or made. fails: raised by the method of that name.
        gate: ``probe``, between its batches, and ``recommend`` wait for it where it is not None.
    """

    def __init__(self, folder: Path, scorer: Scorer) -> None:
        self.folder = folder
        self.scorer = scorer
        self.fails: dict[str, Exception] = {}
        self.gate: threading.Event | None = None
        self.asked: list[str] = []

    def _called(self, name: str) -> None:
        self.asked.append(name)
        if name in self.fails:
            raise self.fails[name]

    def recent(self, folders: Iterable[str]) -> list[Recent]:
        self._called("recent")
        return [Recent(Path(folder), "fake/bert", "fake.jsonl", 24, FROZEN - 7200) for folder in folders]

    def demo(self) -> tuple[str, str]:
        self._called("demo")
        return "demo-model", "demo.jsonl"

    def preview(self, inputs: Inputs) -> Preview:
        self._called("preview")
        return Preview(
            task=inputs.task if inputs.task != "auto" else "classification",
            metric=inputs.metric or "accuracy",
            text_columns=inputs.text_columns or ("text",),
            label_column=inputs.label_column or "label",
            classes=("c0", "c1"),
            columns=("text", "label", "note"),
            rows=(("a first [row] of text", "c0"), ("a second one", "c1")),
            total=400,
            notes=("The task is classification.",),
            cost="Probing takes 128 rows, about 3,000 tokens." if inputs.model else "",
        )

    def probe(self, inputs: Inputs, session: Session) -> Opened:
        self._called("probe")
        session.note(f"Probing {inputs.model} on {inputs.data}.")
        stage = Stage(session, "Probe", 4)
        for batch in range(4):
            if self.gate is not None:
                self.gate.wait(10)
            session.check()
            stage.advance(f"layer [{batch}]")
        return self.open(self.folder, inputs)

    def rescored(self, opened: Opened, inputs: Inputs) -> Opened:
        return self.open(opened.folder, inputs)

    def open(self, folder: Path, inputs: Inputs) -> Opened:
        self._called("open")
        scorer = self.scorer
        if inputs.rank != scorer.settings.rank:
            scorer = fakes.make_scorer(scorer.probe, settings=LoraSettings(inputs.rank, inputs.alpha))
        shares = module_shares(scorer, [t.name for t in scorer.probe.targets])
        return Opened(
            folder,
            scorer,
            np.array(list(shares.values())),
            agreements(scorer),
            block_ranks(scorer),
            module_scores(scorer.probe),
            inputs,
        )

    def recommend(self, opened: Opened, inputs: Inputs, session: Session) -> Recommendation:
        """The last layer's modules, and a front of the common target sets: no search."""
        self._called("recommend")
        if self.gate is not None:
            self.gate.wait(10)
        scorer, budget = opened.scorer, parse_budget(inputs.budget)
        last = max(t.layer for t in opened.targets if t.layer is not None)
        names = tuple(t.name for t in opened.targets if t.layer == last)
        pool = [
            Candidate(all_linear(opened.targets), scorer.settings),
            Candidate(Selection("searched #1", names), scorer.settings),
            Candidate(Selection("searched #2", names[:3]), scorer.settings),
        ]
        scores = scorer.score(pool)
        equal, _ = compare(scorer, budget)
        return Recommendation(
            all_linear=scores[0],
            picked=scores[1],
            best=scores[1],
            front=scorer.score([pool[2], pool[1], pool[0]]),
            equal_budget=equal,
            baseline=None,
            untold=2,
            alike=0,
            stability=Stability((1.0,) * len(names), 20),
            pool=tuple(pool),
            costs=tuple(scorer.cost(candidate) for candidate in pool),
            finalists=(1, 2),
            budget=budget,
            granularity="module",
            strategy="predicted",
            trade_off=trade_off(scorer, pool, range(len(pool)), scorer.predict(pool)),
        )

    def confirm(
        self,
        opened: Opened,
        recommendation: Recommendation,
        inputs: Inputs,
        asked: int,
        folder: Path,
        session: Session,
        tell: Callable[[Standing], None],
    ) -> Confirmed:
        """Runs whose loss falls with the number of modules; between them ``gate`` is waited for."""
        self._called("confirm")

        def run_all(candidates: Sequence[Candidate], measured: Sequence[Selection] = ()) -> list[RealRun | str]:
            if self.gate is not None:
                self.gate.wait(10)
            session.check()
            self.asked.append("run")
            many = len(opened.targets)
            switched = {s.targets: 0.6 - 0.2 * len(s.targets) / many for s in measured}
            return [RealRun(c, 0.5 - 0.1 * len(c.selection.targets) / many, 0.8, 2.0, switched, 0.5) for c in candidates]

        recipe = short_recipe(opened.scorer, inputs.confirm_rows)
        runs = Runs(opened.scorer, recommendation, recipe, asked, 1, run_all, tell)
        tell(runs.standing())
        return conclude(opened, recommendation, inputs, runs)

    def calibrate(self, opened: Opened, inputs: Inputs, asked: int, folder: Path, session: Session) -> tuple[Opened, int]:
        """Runs without a model; between them ``gate`` is waited for."""
        self._called("calibrate")
        for _ in range(asked):
            if self.gate is not None:
                self.gate.wait(10)
            session.check()
            self.asked.append("run")
        return self.rescored(opened, opened.inputs), asked

    def write(
        self,
        opened: Opened,
        recommendation: Recommendation,
        confirmation: Confirmation | None,
        inputs: Inputs,
        out: Path,
        overwrite: bool,
        session: Session,
    ) -> tuple[Path, ...]:
        """The pick's modules, in one file."""
        self._called("write")
        self.wrote = confirmation, out
        out.mkdir(parents=True, exist_ok=True)
        (out / "lora.yaml").write_text("\n".join(recommendation.picked.candidate.selection.targets))
        return (out / "lora.yaml",)

    def compare(self, opened: Opened, candidates: Sequence[Candidate], reference: Candidate | None) -> list[Figures]:
        self._called("compare")
        return super().compare(opened, candidates, reference)

    def peers(self, opened: Opened, recommendation: Recommendation, inputs: Inputs) -> list[PeerPick]:
        self._called("peers")
        return super().peers(opened, recommendation, inputs)

    def resolve(self, opened: Opened, plan: Plan, format_name: str, inputs: Inputs) -> Resolved | None:
        """As if PEFT did what it is asked: there is no model."""
        self._called("resolve")
        if FORMATS[format_name].render(plan).fidelity == "impossible":
            return None
        ranks = {name: plan.module_settings(name).rank for name in plan.names}
        return Resolved(
            wrapped=plan.names,
            lora_params=plan.params,
            saved=plan.head,
            saved_params=50,
            other_params=0,
            tokens={},
            token_params=0,
            warnings=(),
            ranks=ranks,
            alphas=dict.fromkeys(plan.names, 16.0),
            rslora=False,
            parameters=(),
        )

    def files(
        self, opened: Opened, plan: Plan, format_name: str, recommendation: Recommendation | None, inputs: Inputs
    ) -> Rendered:
        """As if all modules at the common rank were the best that a file can say."""
        self._called("files")
        target = FORMATS[format_name]
        rendered = target.render(plan)
        if recommendation is None or rendered.fidelity == "exact":
            return rendered
        everything = replace(plan, selection=recommendation.all_linear.candidate.selection, ranks={}, alphas={})
        found = [Alternative(file, everything, "All modules instead.") for file in rendered.files]
        return with_alternatives(rendered, target, found)

    def export(self, rendered: Rendered, folder: Path, overwrite: bool) -> Exported:
        self._called("export")
        return super().export(rendered, folder, overwrite)


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    return fakes.make_scorer(fakes.make_probe(n=24))


@pytest.fixture
def engine(tmp_path: Path, scorer: Scorer) -> FakeEngine:
    folder = tmp_path / "probe"
    folder.mkdir()
    return FakeEngine(folder, scorer)


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Session, log and cache of each test alone; a clock that stands still; no memory figures."""
    for name in ("STATE", "CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("time.time", lambda: FROZEN)
    monkeypatch.setattr("tui.probe.memory", lambda: "1.23 GB")
    monkeypatch.setattr("tui.explore.EFFECTS_AFTER", 0.01)
    monkeypatch.setattr("tui.setup.PREVIEW_AFTER", 0.01)


@pytest.fixture
def make_app(engine: FakeEngine, tmp_path: Path) -> Callable[..., AdvisorApp]:
    """``make_app(inputs=None, *, opened=False, start=False)``: an app on the fake engine; ``opened``: in Explore."""

    def make(inputs: Inputs | None = None, *, opened: bool = False, **options: Any) -> AdvisorApp:
        if opened:
            options["probe_folder"] = engine.folder
        return AdvisorApp(inputs or Inputs(), engine, session_path=tmp_path / "tui.json", **options)

    return make


@pytest.fixture
def keeping_app(make_app: Callable[..., AdvisorApp], engine: FakeEngine) -> Callable[..., AdvisorApp]:
    """As ``make_app``, of a probe with rows to keep."""
    probe, rng = fakes.make_probe("causal-lm", n=24), np.random.default_rng(0)
    cross = rng.normal(size=(2, len(probe.targets), 5, probe.samples)).astype(np.float32)
    energies = rng.uniform(1, 2, (len(probe.targets), 5)).astype(np.float32)
    keep = KeepBlocks(*cross, energies=energies, losses=np.ones(5), tokens=np.full(5, 3.0))
    engine.scorer = fakes.make_scorer(replace(probe, keep=keep))
    return make_app


@pytest.fixture
def bad() -> AdvisorError:
    return AdvisorError("The file [bold]x[/bold].csv is empty.", "Give another file.")
