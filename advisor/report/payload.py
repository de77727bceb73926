"""What ``recommendation.json`` holds, typed: built here alone, and read by the page, the figures and the short answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from advisor.advice.peer_picks import NoPick, PeerEntry, PeerPick
from advisor.advice.recommend import Recommendation, module_shares
from advisor.core.choices import LEVEL, Beside
from advisor.core.recipe import TrainingRecipe
from advisor.export.alternatives import Alternative
from advisor.export.plan import Plan, Rendered
from advisor.prediction.payload import Interval, ScoreEntry, plain, score_entry, score_fields
from advisor.prediction.scorer import Scorer, share_of_loss
from advisor.report.confirmation import ConfirmEntry
from advisor.theory.linearity import Linearity
from advisor.theory.spectrum import Spectrum

RECOMMENDATION_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class PickEntry(ScoreEntry):
    """The recommended selection; ``targets``: full names of its modules in model order."""

    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ComparedEntry(ScoreEntry):
    """A selection beside the pick.

    Attributes:
        beside_pick: ``apart`` where the two can be told apart, ``alike`` where they are known to end within ``ALIKE_WITHIN``
            of one another's loss, else ``not known``.
        vs_pick: the share by which this selection's expected loss is higher than the pick's.
    """

    beside_pick: Beside
    vs_pick: Interval


@dataclass(frozen=True)
class StabilityEntry:
    """How often the pick's modules stay picked in ``draws`` subsamples: in the mean, and each."""

    mean: float
    draws: int
    modules: Mapping[str, float]


@dataclass(frozen=True)
class Eigenvalues:
    """Of the pick's kernel and of all modules', descending, the head's block included."""

    pick: tuple[float, ...]
    all: tuple[float, ...]


@dataclass(frozen=True)
class KernelEntry:
    """The kernel that bounds and shares are of; ``shares``: each module's share of its trace."""

    kind: str
    sigma: float
    shares: Mapping[str, float]
    eigenvalues: Eigenvalues


@dataclass(frozen=True)
class ResolvedEntry:
    """What PEFT adapts when it applies the config."""

    modules: int
    lora_params: int


@dataclass(frozen=True)
class FormatEntry:
    """What is written for one tool."""

    fidelity: str
    reasons: tuple[str, ...]
    files: tuple[str, ...]
    alternatives: Mapping[str, Alternative]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the recommendation was made from; most is what the probe says of itself."""

    advisor: str
    torch: str
    model: str
    model_type: str
    revision: str | None
    data: str
    train_rows: int
    class_names: Sequence[str]
    head: Sequence[str]
    head_kind: str
    identity: Mapping[str, Any]
    device: str
    methods: Mapping[str, str]
    estimate_error: float | None
    samples: int
    calibration_rows: int

    def as_dict(self) -> dict[str, Any]:
        """All fields, None or not."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class RecommendationFile:
    """The content of ``recommendation.json``; every number is of a selection at the recipe.

    Attributes:
        schema: ``RECOMMENDATION_SCHEMA``. level: of all intervals.
        verdict: the short answer's sentences.
        equal_budget: the pick, the user's config, and the common target sets with their rank lowered until they fit.
        baseline: name of the user's config in ``equal_budget``. untold_at_equal_budget: how many cannot be told from the pick;
            alike_at_equal_budget: how many of these are alike.
        peers: what other methods pick, by method. front: the Pareto front, cheapest first.
        far: why the task is unlike all calibration runs. peft: arguments of ``LoraConfig``.
        max_forgetting: the most by which the pick may disturb the rows to keep, left out where any. trade_off: the front of
            what is disturbed against the predicted loss within the budget, gentlest first; left out without rows to keep.
    """

    schema: int
    task: str
    metric: str
    higher_is_better: bool
    level: float
    verdict: tuple[str, ...]
    pick: PickEntry
    predicted_best: str
    all_linear: ComparedEntry
    equal_budget: tuple[ComparedEntry, ...]
    baseline: str | None
    untold_at_equal_budget: int
    alike_at_equal_budget: int
    peers: Mapping[str, PeerEntry | NoPick]
    front: tuple[ScoreEntry, ...]
    stability: StabilityEntry
    linearity: Linearity | None
    kernel: KernelEntry
    budget: str
    granularity: str
    strategy: str
    recipe: TrainingRecipe
    far: tuple[str, ...]
    candidates_scored: int
    peft: Mapping[str, Any]
    resolved: ResolvedEntry
    provenance: Provenance
    confirm: ConfirmEntry | None
    plan: Plan
    formats: Mapping[str, FormatEntry]
    warnings: tuple[str, ...]
    max_forgetting: float | None = None
    trade_off: tuple[ScoreEntry, ...] | None = None

    def json(self) -> dict[str, Any]:
        """As the file holds it."""
        found: dict[str, Any] = plain(self)
        return found


def recommendation_file(
    scorer: Scorer,
    rec: Recommendation,
    *,
    verdict: Sequence[str],
    linearity: Linearity | None,
    peers: Sequence[PeerPick],
    confirm: ConfirmEntry | None,
    plan: Plan,
    arguments: Mapping[str, Any],
    resolved: ResolvedEntry,
    formats: Mapping[str, FormatEntry],
    warnings: Sequence[str],
) -> RecommendationFile:
    """The payload of a recommendation.

    Args:
        arguments: of ``LoraConfig``. resolved: what PEFT makes of them. formats: what is written, by format.
    """
    info, targets = scorer.probe.info, rec.picked.candidate.selection.targets
    rows = sum(len(group.rows) for group in scorer.predictor.groups_)
    own = {field.name for field in fields(Provenance)} - {"samples", "calibration_rows"}
    return RecommendationFile(
        schema=RECOMMENDATION_SCHEMA,
        task=info["task"],
        metric=info["metric"],
        higher_is_better=True,
        level=LEVEL,
        verdict=tuple(verdict),
        pick=PickEntry(**score_fields(rec.picked, scorer), targets=targets),
        predicted_best=rec.best.name,
        all_linear=_all_linear(scorer, rec),
        equal_budget=_equal_budget(scorer, rec),
        baseline=None if rec.baseline is None else rec.equal_budget[rec.baseline].name,
        untold_at_equal_budget=rec.untold,
        alike_at_equal_budget=rec.alike,
        peers={pick.peer: pick.entry(scorer) for pick in peers},
        front=tuple(score_entry(score, scorer) for score in rec.front),
        stability=StabilityEntry(rec.stability.mean, rec.stability.draws, dict(zip(targets, rec.stability.kept, strict=True))),
        linearity=linearity,
        kernel=_kernel(scorer, rec),
        budget=rec.budget.text,
        granularity=rec.granularity,
        strategy=rec.strategy,
        recipe=scorer.recipe,
        far=rec.front.predictions.far,
        candidates_scored=rec.considered,
        peft=arguments,
        resolved=resolved,
        provenance=Provenance(**{name: info[name] for name in own}, samples=scorer.probe.samples, calibration_rows=rows),
        confirm=confirm,
        plan=plan,
        formats=formats,
        warnings=tuple(warnings),
        max_forgetting=rec.max_forgetting,
        trade_off=None if rec.trade_off is None else tuple(score_entry(score, scorer) for score in rec.trade_off),
    )


def format_entry(rendered: Rendered, instead: Sequence[Alternative]) -> FormatEntry:
    """Of one format's files, the alternatives ``instead`` among them."""
    alternatives = {alternative.file: alternative for alternative in instead}
    return FormatEntry(rendered.fidelity, tuple(rendered.reasons), tuple(rendered.files), alternatives)


def _all_linear(scorer: Scorer, rec: Recommendation) -> ComparedEntry:
    both = scorer.predict([rec.picked.candidate, rec.all_linear.candidate])
    return ComparedEntry(
        **score_fields(rec.all_linear, scorer),
        beside_pick=both.beside(1, 0),
        vs_pick=Interval(*share_of_loss(both.difference(1, 0))),
    )


def _equal_budget(scorer: Scorer, rec: Recommendation) -> tuple[ComparedEntry, ...]:
    joint = rec.equal_budget.predictions
    return tuple(
        ComparedEntry(
            **score_fields(score, scorer),
            beside_pick=joint.beside(i, 0),
            vs_pick=Interval(*share_of_loss(joint.difference(i, 0))),
        )
        for i, score in enumerate(rec.equal_budget)
    )


def _kernel(scorer: Scorer, rec: Recommendation) -> KernelEntry:
    weights = scorer.block_weights([rec.picked.candidate, rec.all_linear.candidate], scorer.kernels.kind)
    pick, everything = (tuple(Spectrum.of(kernel).values[::-1].tolist()) for kernel in scorer.kernels.of(weights))
    shares = module_shares(scorer, [t.name for t in scorer.probe.targets])
    return KernelEntry(scorer.kernels.kind, scorer.sigma, shares, Eigenvalues(pick, everything))
