"""A probe, a recipe and a fitted predictor: predictions, bounds and cost of any selections (no model needed)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from advisor.core.candidate import Candidate, RealRun
from advisor.core.errors import BadInput
from advisor.core.probe import KeepBlocks, Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection
from advisor.core.tasks import TASKS
from advisor.prediction.disturbance import Disturbance, disturbances
from advisor.prediction.gain import TRAITS
from advisor.prediction.likeness import parameter_distances
from advisor.prediction.pilot_level import level_of, level_sets, on_scale_of
from advisor.prediction.predictions import Estimate, Predictions
from advisor.prediction.predictor import Predictor
from advisor.prediction.probe_view import FEATURE_KERNELS, kernels_of, probe_context, probe_view
from advisor.theory import bounds
from advisor.theory.bounds import Bound, Change, bound_c, certificate
from advisor.theory.features import (
    Weights,
    feature_table,
)
from advisor.theory.kernels import Array, rank_weights
from advisor.theory.linearity import Linearity
from advisor.theory.spectrum import Spectrum
from advisor.theory.training_cost import Cost, TrainingFootprint, estimate_cost


@dataclass(frozen=True)
class Score:
    """All that is said of one candidate; estimates are (value, low, high).

    ``relative``: expected loss against all-linear in seed standard deviations, higher is better. ``vs_all``: the same as the
    share by which the loss is higher (0.1: 10 % higher), whatever the gain. ``disturbs``: what it does to the rows to keep, None
    where the probe has none.
    """

    candidate: Candidate
    cost: Cost
    loss: tuple[float, float, float]
    metric: tuple[float, float, float]
    relative: tuple[float, float, float]
    vs_all: tuple[float, float, float]
    bounds: tuple[Bound, ...]
    warnings: tuple[str, ...]
    disturbs: Disturbance | None = None

    @property
    def name(self) -> str:
        return self.candidate.selection.name


@dataclass(frozen=True)
class Scores:
    """Scores in input order with the joint predictions behind them."""

    scores: tuple[Score, ...]
    predictions: Predictions

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __getitem__(self, index: int) -> Score:
        return self.scores[index]

    def __len__(self) -> int:
        return len(self.scores)


class Scorer:
    """Scores selections of one probe at one recipe."""

    def __init__(
        self,
        probe: Probe,
        settings: LoraSettings,
        recipe: TrainingRecipe,
        predictor: Predictor,
        *,
        kernel: str = "adam",
        sigma: float | None = None,
    ) -> None:
        self.probe, self.settings, self.recipe, self.predictor = probe, settings, recipe, predictor
        self.view = probe_view(probe, settings, recipe)
        self.kernels = self.view.kernels.get(kernel) or kernels_of(probe, settings, kernel)
        self.sigma = self.kernels.default_sigma() if sigma is None else sigma
        if not 0 < self.sigma < math.inf:
            raise BadInput(f"--sigma must be positive and finite, got {self.sigma}.")
        self.context = probe_context(probe, self.view, settings, recipe)
        self._traits: dict[bytes, Array] = {}
        self._bounds: dict[bytes, list[Bound]] = {}
        self.runs: tuple[RealRun, ...] = ()
        self.pilot: RealRun | None = None
        self.pilot_scale: tuple[Array, Array] | None = None
        self.pilot_level: float | None = None

    def weights(self, candidates: Sequence[Candidate]) -> Weights:
        """Candidates as numbers for :func:`advisor.theory.features.feature_table`."""
        params = np.zeros((len(candidates), len(self.probe.targets)))
        for s, candidate in enumerate(candidates):
            chosen = set(candidate.selection.targets)
            for m, target in enumerate(self.probe.targets):
                if target.name in chosen:
                    params[s, m] = target.lora_params(candidate.module_settings(target.name).rank)
        return Weights(params, {kind: self.block_weights(candidates, kind) for kind in FEATURE_KERNELS})

    def block_weights(self, candidates: Sequence[Candidate], kind: str) -> Array:
        """[S, M], what each block of one kind of kernel is multiplied by."""
        weights = np.zeros((len(candidates), len(self.probe.targets)))
        for s, candidate in enumerate(candidates):
            chosen = set(candidate.selection.targets)
            for m, target in enumerate(self.probe.targets):
                if target.name in chosen:
                    weights[s, m] = rank_weights(kind, self.settings, candidate.module_settings(target.name))
        return weights

    def traits(self, weights: Weights) -> Array:
        """[S, traits] of selections; those of one that was asked for before are looked up, as a search asks for many again."""
        keys = [row.tobytes() for row in np.hstack([weights.params, *weights.blocks.values()])]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._traits}
        if fresh:
            rows = list(fresh.values())
            asked = Weights(weights.params[rows], {kind: blocks[rows] for kind, blocks in weights.blocks.items()})
            self._traits |= dict(zip(fresh, feature_table(self.view, asked, TRAITS), strict=True))
        return np.array([self._traits[key] for key in keys]).reshape(-1, len(TRAITS))

    @cached_property
    def least(self) -> float:
        """V(K_all) at its own rank and alpha, which no selection's V falls below."""
        everything = self.kernels.of(np.ones((1, len(self.probe.targets))))[0]
        return Spectrum.of(everything).objective(self.probe.z, self.sigma)

    def certificate(self, weights: Array, spectrum: Spectrum) -> Bound:
        """Bound C of a selection's weights [M] and its kernel's spectrum, with the head's block."""
        if not np.isin(weights, (0.0, 1.0)).all():  # adding the rest leads to another K_all
            return certificate(self.kernels, weights, self.probe.z, self.sigma)
        chosen = spectrum.objective(self.probe.z, self.sigma)
        return bound_c(chosen, self.least, self.sigma, self.kernels.kind, head=True)

    def on(self, probe: Probe) -> Scorer:
        """The same scorer, its kind of kernel, σ and real runs included, on another probe of the same model."""
        return self._like(probe, self.recipe).given(self.runs)

    def at(self, recipe: TrainingRecipe) -> Scorer:
        """The same scorer at another recipe, without the real runs of this one."""
        return self._like(self.probe, recipe)

    def _like(self, probe: Probe, recipe: TrainingRecipe) -> Scorer:
        return Scorer(probe, self.settings, recipe, self.predictor, kernel=self.kernels.kind, sigma=self.sigma)

    def given(self, runs: Sequence[RealRun]) -> Scorer:
        """The same scorer with all its predictions made in the light of real runs at its recipe."""
        other = copy.copy(self)
        other.runs = tuple(runs)
        other.pilot = next((run for run in runs if run.switched), None)
        other.pilot_scale = None if other.pilot is None else self._pilot_scale(other.pilot)
        other.pilot_level = None if other.pilot is None else self._pilot_level(other.pilot)
        return other

    def _pilot_scale(self, pilot: RealRun) -> tuple[Array, Array]:
        """Predicted shares and measured losses [K] of what the pilot run measured."""
        measured = [replace(pilot.candidate, selection=Selection("", names)) for names in pilot.switched]
        traits = self.traits(self.weights(measured))
        return self.predictor.forgone_.of(traits, self.context), np.array([*pilot.switched.values()])

    @cached_property
    def level_sets(self) -> list[Selection]:
        """Random sets that a pilot run measures beside the finalists."""
        return level_sets(self.probe.targets, self.probe.task, self.settings.rank)

    def _pilot_level(self, pilot: RealRun) -> float | None:
        """What the random sets of :func:`level_sets` lost in the pilot run; None where it did not measure them."""
        losses = [pilot.switched[s.targets] for s in self.level_sets if s.targets in pilot.switched]
        everything = math.log(pilot.switched[pilot.candidate.selection.targets])
        return level_of(self.context, np.log(losses), everything) if losses else None

    def predict(self, candidates: Sequence[Candidate]) -> Predictions:
        """Predictions alone: what the search calls."""
        weights = self.weights([*candidates, *(run.candidate for run in self.runs)])
        traits = self.traits(weights)
        reference = np.array([t.lora_params(self.settings.rank) for t in self.probe.targets], dtype=np.float64)
        distances = parameter_distances(weights.params, reference)
        if not self.runs:
            return self.predictor.predict(traits, self.context, distances)
        count = len(candidates)
        observed, losses = range(count, count + len(self.runs)), [run.loss for run in self.runs]
        measured = None if self.pilot is None else self._measured([*candidates, *(run.candidate for run in self.runs)])
        return self.predictor.given(traits, self.context, distances, observed, losses, measured, self.pilot_level).first(count)

    def _measured(self, candidates: Sequence[Candidate]) -> Array:
        """[S + 1] share of the gain that each forgoes by the pilot run, all modules last; NaN where the run did not measure its
        modules at its ranks and alphas."""
        assert self.pilot is not None
        assert self.pilot_scale is not None
        losses = np.full(len(candidates) + 1, np.nan)
        losses[-1] = self.pilot.switched[self.pilot.candidate.selection.targets]
        for i, candidate in enumerate(candidates):
            names = candidate.selection.targets
            alike = all(candidate.module_settings(name) == self.pilot.candidate.module_settings(name) for name in names)
            if alike and names in self.pilot.switched:
                losses[i] = self.pilot.switched[names]
        shares = on_scale_of(*self.pilot_scale, np.nan_to_num(losses))
        return np.where(np.isnan(losses), np.nan, shares)

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, certificate and cost of each candidate."""
        predictions = self.predict(candidates)
        against_all = predictions.against_all()
        disturbs: Sequence[Disturbance | None] = self.disturbances(candidates, with_cap=True) or (None,) * len(candidates)
        scores = []
        for i, candidate in enumerate(candidates):
            scores.append(
                Score(
                    candidate,
                    self.cost(candidate),
                    _triple(predictions.loss, i),
                    _triple(predictions.score, i),
                    _triple(predictions.relative, i),
                    share_of_loss(_triple(against_all, i)),
                    bounds=self.bounds(candidate),
                    warnings=tuple(f"Far from the calibration rows: {reason}." for reason in predictions.far),
                    disturbs=disturbs[i],
                )
            )
        return Scores(tuple(scores), predictions)

    @property
    def ranks_forgetting(self) -> bool:
        """Whether there are rows to keep, and what is predicted of them ranked real runs: of language models it did, the drift of
        classifiers did so too unevenly (docs/keep.md)."""
        return isinstance(self.probe.keep, KeepBlocks)

    def disturbances(self, candidates: Sequence[Candidate], with_cap: bool = False) -> Sequence[Disturbance]:
        """Of each candidate; none where the probe has no rows to keep."""
        if (keep := self.probe.keep) is None or not candidates:
            return ()
        return disturbances(self.probe, keep, self.view, self.settings, self.weights(candidates).blocks, with_cap)

    def bounds(self, candidate: Candidate, linearity: Linearity | None = None) -> tuple[Bound, ...]:
        """What the theory says of the candidate, with the head's block and, where there is one, without it.

        C first, then of adding all other modules at once B, A, Weyl, Theorems 6 and 7, and Theorem 5 of the candidate
        itself; of gradient flow Theorems 2 and 4, where its linearity is given or the probe measured it.
        """
        weights = self.block_weights([candidate], self.kernels.kind)
        key = weights.tobytes()
        if key not in self._bounds:  # the same candidates are shown in several tables
            self._bounds[key] = self._kernel_bounds(weights)
        found = [*self._bounds[key]]
        linearity = linearity or self.linearity(candidate)
        if linearity is not None and linearity.flow is not None:
            time = bounds.horizon(linearity.flow, 0.0) * (1 - 1e-12)  # rounding must not put Theorem 2 outside the ball
            found += [bounds.theorem_2(linearity.flow, 0.0, time), bounds.theorem_4(linearity.flow, 0.0, time)]
        return tuple(found)

    def _kernel_bounds(self, weights: Array) -> list[Bound]:
        """Those that speak of kernels, of weights [1, M]."""
        heads = (True, False) if self.probe.head is not None else (False,)
        found = [certificate(self.kernels, weights[0], self.probe.z, self.sigma, h) for h in heads]
        missing = np.where(weights == 0, 1.0, 0.0)
        for head in heads:
            kernel = self.kernels.of(weights, head)[0]
            rest = self.kernels.of(missing, with_head=False)[0]
            change = Change(kernel, rest, self.sigma, "rest", self.kernels.kind, head)
            found += [
                bounds.bound_b(change),
                bounds.bound_a(change),
                bounds.weyl_bound(change),
                bounds.theorem_6(change),
                bounds.theorem_7(change),
                bounds.theorem_5(change.spectrum, self.probe.z, self.sigma, kind=self.kernels.kind, head=head),
            ]
        return found

    def linearity(self, candidate: Candidate) -> Linearity | None:
        """What the probe measured for these very modules, None if nothing; it did so at the default rank and alpha."""
        if candidate.settings != LoraSettings() or candidate.ranks or candidate.alphas:
            return None
        stored = (Linearity.from_dict(fields) for fields in self.probe.info.get("linearity", ()))
        return next((found for found in stored if found.targets == candidate.selection.targets), None)

    def cost(self, candidate: Candidate) -> Cost:
        """Parameters, memory and time of training the candidate; time as if all modules had its common rank."""
        base = self._cost(candidate.selection, candidate.settings)
        params, active, memory = base.params, base.active_params, base.memory_bytes
        for name in set(candidate.ranks) & set(candidate.selection.targets):  # both are sums of a part per module's rank
            alone = Selection(name, (name,))
            own, common = (self._cost(alone, s) for s in (candidate.module_settings(name), candidate.settings))
            params += own.params - common.params
            active += own.active_params - common.active_params
            memory += own.memory_bytes - common.memory_bytes
        with_head = base.params_with_head - base.params + params
        return replace(base, params=params, active_params=active, params_with_head=with_head, memory_bytes=memory)

    @cached_property
    def footprint(self) -> TrainingFootprint:
        """What training holds in memory, as the probe measured it."""
        return TrainingFootprint.from_dict(self.probe.info["footprint"])

    def _cost(self, selection: Selection, settings: LoraSettings) -> Cost:
        return estimate_cost(
            selection,
            self.probe.targets,
            settings,
            self.recipe,
            self.footprint,
            head_params=self.probe.info["head_parameters"],
            mean_tokens=self.probe.info["mean_tokens"],
            max_tokens=self.probe.info["max_tokens"],
            extra_passes=TASKS[self.probe.task].extra_passes,
        )


def share_of_loss(log_ratio: tuple[float, float, float]) -> tuple[float, float, float]:
    """Log ratios of two losses as the share by which the first is higher; finite also where a run diverged."""
    value, low, high = (math.expm1(min(ratio, 300.0)) for ratio in log_ratio)
    return value, low, high


def _triple(estimate: Estimate, i: int) -> tuple[float, float, float]:
    return float(estimate.value[i]), float(estimate.low[i]), float(estimate.high[i])
