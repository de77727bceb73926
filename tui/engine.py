"""The seam between screens and engine: every question a screen asks, and what it gets back as plain data.

Methods block and are called off the event loop (:meth:`tui.app.AdvisorApp.ask`); :class:`tui.real_engine.RealEngine` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tui.inputs import Inputs

if TYPE_CHECKING:
    from advisor.advice.confirm import Confirmation
    from advisor.advice.explain import ModuleRow
    from advisor.advice.peer_picks import PeerPick
    from advisor.advice.recommend import Recommendation
    from advisor.core.candidate import Candidate
    from advisor.core.choices import Beside
    from advisor.core.events import Session
    from advisor.core.probe import Probe
    from advisor.core.targets import Target
    from advisor.export.plan import Plan, Rendered
    from advisor.models.peft import Resolved
    from advisor.prediction.disturbance import Disturbance
    from advisor.prediction.scorer import Scorer
    from advisor.theory.bounds import Bound
    from advisor.theory.kernels import Array
    from advisor.theory.training_cost import Cost
    from advisor.training.live import DoneRun, LiveRun

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Recent:
    """A probe on disk: its folder, what was probed, and when (seconds since 1970)."""

    folder: Path
    model: str
    data: str
    modules: int
    when: float


@dataclass(frozen=True)
class Preview:
    """How the data would be read.

    Attributes:
        task, metric, text_columns, label_column, classes: as inferred, or as asked for.
        columns: all there are. rows: the first few, one text a column. total: usable rows.
        notes: every inference, one sentence each. cost: of the probe, a sentence; empty while that cannot be told.
    """

    task: str
    metric: str
    text_columns: tuple[str, ...]
    label_column: str | None
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    notes: tuple[str, ...]
    cost: str


@dataclass(frozen=True, eq=False)
class Opened:
    """A probe with its scorer, and what is the same for every selection. Arrays are aligned with ``targets``.

    Attributes:
        shares: of the trace of the kernel over all modules. agreements: of the gradients between examples, NaN where a
            gradient is zero. ranks: effective rank of each module's block, between 0 and n.
        peers: each peer's score of each module, higher is better, NaN where unknown.
        inputs: rank and recipe of these are what is scored.
    """

    folder: Path
    scorer: Scorer
    shares: Array
    agreements: Array
    ranks: Array
    peers: dict[str, Array]
    inputs: Inputs

    @property
    def probe(self) -> Probe:
        return self.scorer.probe

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.scorer.probe.targets

    @property
    def metric(self) -> str:
        return str(self.scorer.probe.info["metric"])


SETTLED, MOSTLY, OPEN, UNLIKE = "Settled", "Mostly settled", "Cannot tell", "Outside calibration"


@dataclass(frozen=True)
class Against:
    """How much higher the expected validation loss is than another selection's, as a share of it: (value, low, high); None while
    that is not known."""

    other: str
    change: Triple | None


@dataclass(frozen=True)
class Headline:
    """The answer, in the words of ``advisor recommend``.

    Attributes:
        adapt: what to adapt, a sentence. level: metric and loss of one run. against: the pick beside others.
        sureness: one of ``SETTLED``, ``MOSTLY``, ``OPEN``, ``UNLIKE``; why: a sentence. next: what would make it surer.
    """

    adapt: str
    level: str
    against: tuple[Against, ...]
    sureness: str
    why: str
    next: str


@dataclass(frozen=True, eq=False)
class Figures:
    """What is said of one selection at once.

    Attributes:
        metric, loss, vs_all: (value, low, high), see :class:`advisor.prediction.scorer.Score`.
        beside: what is known of it beside the recommended selection, as
            :meth:`advisor.prediction.predictions.Predictions.beside` says it; None where that was not asked.
        condition: κ(K+σI). effective_rank: of K. spectrum: eigenvalues of K, descending; the head's block counts.
        certificate: bound C. far: reasons to trust the prediction less.
        disturbs: what it does to the rows to keep, None where there are none.
    """

    candidate: Candidate
    metric: Triple
    loss: Triple
    vs_all: Triple
    beside: Beside | None
    cost: Cost
    condition: float
    effective_rank: float
    spectrum: Array
    certificate: Bound
    far: tuple[str, ...]
    disturbs: Disturbance | None = None


@dataclass(frozen=True, eq=False)
class Effects:
    """What toggling each module would do to one selection, in model order.

    Attributes:
        rows: shares, and the exact change of V with its bound. gains: log of the predicted loss without the module over that
            with it; positive: the module helps. noise: standard deviation of log loss between seeds.
        vs_pick: how much higher the loss is than that of ``reference``, the recommended one; beside: what is known of it
            beside that one; None before there is one.
        disturbs: how much less the rows to keep would be disturbed without the module; None where there are none.
    """

    candidate: Candidate
    reference: Candidate | None
    rows: tuple[ModuleRow, ...]
    gains: Array
    noise: float
    vs_pick: Triple | None
    beside: Beside | None
    disturbs: Array | None = None


@dataclass(frozen=True)
class RealLoss:
    """A real run that ended: what was trained, its loss and metric (None: it failed, ``problem`` says why), and seconds."""

    name: str
    loss: float | None
    metric: float | None
    seconds: float
    problem: str


@dataclass(frozen=True)
class Finalist:
    """A finalist's predicted loss without and with the real runs, and how probably it is the best of them."""

    candidate: Candidate
    before: Triple
    after: Triple
    best: float
    was_pick: bool


@dataclass(frozen=True)
class Standing:
    """How it stands after the real runs so far.

    Attributes:
        asked: runs that are allowed. finalists: those left, the present pick first.
        sure: probability that the pick is as good as the best of them; settled: that is enough.
    """

    asked: int
    runs: tuple[RealLoss, ...]
    finalists: tuple[Finalist, ...]
    sure: float
    settled: bool


@dataclass(frozen=True)
class Seen:
    """Real runs of a folder, under way and finished, whoever started them; none where they are of another model or other data
    than the open probe (``is_other``)."""

    live: tuple[LiveRun, ...] = ()
    done: tuple[DoneRun, ...] = ()
    is_other: bool = False


@dataclass(frozen=True, eq=False)
class Confirmed:
    """What real runs came to: the probe scored in their light, the recommendation with the new pick, the answer in words, how it
    stands after them."""

    opened: Opened
    recommendation: Recommendation
    confirmation: Confirmation
    headline: Headline
    standing: Standing


@dataclass(frozen=True)
class Exported:
    """Files that were written, or that stood in the way, so that none was."""

    written: tuple[Path, ...] = ()
    existing: tuple[Path, ...] = ()


class Engine(Protocol):
    """What the screens need. Every method may raise :class:`advisor.core.errors.AdvisorError`."""

    def recent(self, folders: Iterable[str]) -> list[Recent]:
        """Probes in the user's cache and those of ``folders`` that still are there, newest first."""

    def demo(self) -> tuple[str, str]:
        """Model folder and data file of the demo."""

    def preview(self, inputs: Inputs) -> Preview:
        """How the data would be read."""

    def model_problem(self, inputs: Inputs) -> str:
        """Why the model cannot be loaded, as far as can be told at once; empty where nothing speaks against it."""

    def probe(self, inputs: Inputs, session: Session) -> Opened:
        """Probe, or find it in the cache; resumes what was interrupted."""

    def open(self, folder: Path, inputs: Inputs) -> Opened:
        """A probe on disk, at the rank and the recipe of ``inputs``."""

    def target_sets(self, opened: Opened) -> list[Candidate]:
        """The selections people copy, all-linear first, at the asked rank."""

    def kept(self, opened: Opened) -> list[Candidate]:
        """The selections that the user kept beside this probe."""

    def keep(self, opened: Opened, candidates: Sequence[Candidate]) -> Path:
        """Write them; returns the file, which ``advisor score`` reads."""

    def read(self, opened: Opened, entries: Any, where: str) -> list[Candidate]:
        """Candidates of a selection file's content; ``where`` names it in messages."""

    def there(self, out: Path) -> tuple[Path, ...]:
        """Files of a recommendation that a folder holds already."""

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
        """Write the recommendation's folder, as ``advisor recommend`` does; returns the files. ``overwrite``: also over what
        the advisor did not write."""

    def recommend(self, opened: Opened, inputs: Inputs, session: Session) -> Recommendation:
        """Search within the budget of ``inputs``."""

    def rescored(self, opened: Opened, inputs: Inputs) -> Opened:
        """The same probe at another rank and recipe."""

    def headline(self, opened: Opened, recommendation: Recommendation, confirmation: Confirmation | None) -> Headline:
        """The answer in words."""

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
        """Up to ``asked`` real runs, kept in ``folder``, those included that it holds already; ``tell`` hears how it stands after
        each. Where the session is cancelled, what is done decides."""

    def calibrate(self, opened: Opened, inputs: Inputs, asked: int, folder: Path, session: Session) -> tuple[Opened, int]:
        """``asked`` real runs of the usual and random target sets on the probe's data, kept in ``folder``, those included that it
        holds already. The probe, scored by a predictor that has learned from them, and how many rows it learned from."""

    def watch(self, opened: Opened, folder: Path) -> Seen:
        """Real runs of a folder, if they are of the open probe's model and data."""

    def figures(self, opened: Opened, candidate: Candidate, reference: Candidate | None = None) -> Figures:
        """What is said of a selection; whether it can be told from ``reference``, the recommended one, takes longer."""

    def effects(self, opened: Opened, candidate: Candidate, reference: Candidate | None) -> Effects:
        """What toggling each module would do; ``reference`` is the recommended selection."""

    def compare(self, opened: Opened, candidates: Sequence[Candidate], reference: Candidate | None) -> list[Figures]:
        """What is said of each selection; ``reference`` is the recommended one."""

    def peers(self, opened: Opened, recommendation: Recommendation, inputs: Inputs) -> list[PeerPick]:
        """What other methods pick at the budget."""

    def plan(self, opened: Opened, candidate: Candidate, recommendation: Recommendation | None) -> Plan:
        """What an export of a selection has to say, the comments of ``advisor recommend`` included."""

    def resolve(self, opened: Opened, plan: Plan, format_name: str, inputs: Inputs) -> Resolved | None:
        """What the format's tool and PEFT train with the plan's first file, on the meta device; None: impossible."""

    def cost(self, opened: Opened, plan: Plan, resolved: Resolved) -> str:
        """What is predicted of a lossy file of the plan, which resolves so, beside the selection itself."""

    def files(
        self, opened: Opened, plan: Plan, format_name: str, recommendation: Recommendation | None, inputs: Inputs
    ) -> Rendered:
        """The plan's files; beside each that does not say it exactly the best selection that it can, once there is a
        recommendation to choose from. This may search for seconds."""

    def export(self, rendered: Rendered, folder: Path, overwrite: bool) -> Exported:
        """Write the files; where some are there already and may not be overwritten, none."""
