"""A probe, a recipe and a fitted predictor: predictions, bounds and cost of any selections (no model needed)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor import bounds
from advisor.bounds import Bound, Change, bound_c, certificate
from advisor.cost import Cost, TrainingFootprint, estimate_cost
from advisor.errors import BadInput
from advisor.features import (
    ProbeView,
    Weights,
    all_feature_names,
    feature_table,
    recipe_kernels,
    recipe_loss,
)
from advisor.kernels import Array, Kernels, lora_constant, make_kernels, rank_weights
from advisor.linearity import Linearity
from advisor.predictor import (
    FEATURE,
    LEVEL,
    Estimate,
    Predictions,
    Predictor,
    context_of,
    measured_shares,
    parameter_distances,
)
from advisor.probe_folder import Probe
from advisor.recipe import LANGUAGE_TASKS, TrainingRecipe, default_recipe
from advisor.rows import CalibrationRow
from advisor.simulate import Schedule
from advisor.spectrum import Spectrum
from advisor.targets import LoraSettings, Selection, in_model_order

FEATURE_KERNELS = ("adam", "lora-expected")
# A simulation of more steps than these rows take would only learn the probe's few examples by heart, as training on many rows
# does not: at 2,048 rows it ranked real runs worse than that of 512 (TREC +0.79 and +0.94, STS-B −0.20 and +1.00).
ROWS_PER_EXAMPLE = 4


@dataclass(frozen=True)
class Candidate:
    """A selection with the LoRA settings it would be trained with.

    ``ranks`` and ``alphas`` override single modules, as PEFT's ``rank_pattern`` and ``alpha_pattern`` do.
    """

    selection: Selection
    settings: LoraSettings
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @property
    def patterns(self) -> dict[str, Any]:
        """``rank_pattern`` and ``alpha_pattern`` by full module name, as in a selection file; empty where there are none."""
        return {"rank_pattern": dict(self.ranks), "alpha_pattern": dict(self.alphas)} if self.ranks or self.alphas else {}

    def trained_like(self, other: Candidate) -> bool:
        """Whether both train the same modules in the same way; names do not count."""
        return self == replace(other, selection=replace(other.selection, name=self.selection.name))

    def module_settings(self, name: str) -> LoraSettings:
        return replace(
            self.settings,
            rank=self.ranks.get(name, self.settings.rank),
            alpha=self.alphas.get(name, self.settings.alpha),
        )


@dataclass(frozen=True)
class RealRun:
    """A finished LoRA run of a candidate at a scorer's own recipe.

    ``switched``, of a pilot run of all modules: the trained model's validation loss with the adapters of some modules alone at
    work, by their names; of all and of none among them. ``switched_s``: what measuring them took.
    """

    candidate: Candidate
    loss: float
    metric: float
    wall_s: float
    switched: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    switched_s: float = 0.0


@dataclass(frozen=True)
class Score:
    """All that is said of one candidate; estimates are (value, low, high)."""

    candidate: Candidate
    cost: Cost
    loss: tuple[float, float, float]
    metric: tuple[float, float, float]
    relative: tuple[float, float, float]
    bounds: tuple[Bound, ...]
    warnings: tuple[str, ...]

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
        self.kernels = self.view.kernels.get(kernel) or _kernels(probe, settings, kernel)
        self.sigma = self.kernels.default_sigma() if sigma is None else sigma
        if not 0 < self.sigma < math.inf:
            raise BadInput(f"--sigma must be positive and finite, got {self.sigma}.")
        self.context = probe_context(probe, self.view, settings, recipe)
        self.runs: tuple[RealRun, ...] = ()

    def weights(self, candidates: Sequence[Candidate]) -> Weights:
        """Candidates as numbers for :func:`advisor.features.feature_table`."""
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
        return other

    def predict(self, candidates: Sequence[Candidate]) -> Predictions:
        """Predictions alone: what the search calls."""
        weights = self.weights([*candidates, *(run.candidate for run in self.runs)])
        simulated = feature_table(self.view, weights, (FEATURE,))[:, 0]
        reference = np.array([t.lora_params(self.settings.rank) for t in self.probe.targets], dtype=np.float64)
        distances = parameter_distances(weights.params, reference)
        if not self.runs:
            return self.predictor.predict(simulated, self.context, distances)
        count = len(candidates)
        observed, losses = range(count, count + len(self.runs)), [run.loss for run in self.runs]
        measured = self._measured([*candidates, *(run.candidate for run in self.runs)])
        return self.predictor.given(simulated, self.context, distances, observed, losses, measured).first(count)

    def _measured(self, candidates: Sequence[Candidate]) -> Array:
        """[S] share of the gain that each forgoes by a pilot run, NaN where none measured its modules at its ranks and alphas."""
        shares = np.full(len(candidates), np.nan)
        for run in self.runs:
            everything = run.candidate.selection.targets
            for i, candidate in enumerate(candidates):
                names = candidate.selection.targets
                loss = run.switched.get(names)
                alike = all(candidate.module_settings(name) == run.candidate.module_settings(name) for name in names)
                if loss is not None and alike:
                    ends = math.log(run.switched[everything]), math.log(run.switched[()])
                    shares[i] = measured_shares(np.log([loss]), *ends)[0]
        return shares

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, certificate and cost of each candidate."""
        predictions = self.predict(candidates)
        scores = []
        for i, candidate in enumerate(candidates):
            scores.append(
                Score(
                    candidate,
                    self.cost(candidate),
                    _triple(predictions.loss, i),
                    _triple(predictions.score, i),
                    _triple(predictions.relative, i),
                    bounds=self.bounds(candidate),
                    warnings=tuple(f"Far from the calibration rows: {reason}." for reason in predictions.far),
                )
            )
        return Scores(tuple(scores), predictions)

    def bounds(self, candidate: Candidate, linearity: Linearity | None = None) -> tuple[Bound, ...]:
        """What the theory says of the candidate, with the head's block and, where there is one, without it.

        C first, then of adding all other modules at once B, A, Weyl, Theorems 6 and 7, and Theorem 5 of the candidate
        itself; of gradient flow Theorems 2 and 4, where its linearity is given or the probe measured it.
        """
        weights = self.block_weights([candidate], self.kernels.kind)
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
                bounds.theorem_5(kernel, self.probe.z, self.sigma, kind=self.kernels.kind, head=head),
            ]
        linearity = linearity or self.linearity(candidate)
        if linearity is not None and linearity.flow is not None:
            time = bounds.horizon(linearity.flow, 0.0) * (1 - 1e-12)  # rounding must not put Theorem 2 outside the ball
            found += [bounds.theorem_2(linearity.flow, 0.0, time), bounds.theorem_4(linearity.flow, 0.0, time)]
        return tuple(found)

    def linearity(self, candidate: Candidate) -> Linearity | None:
        """What the probe measured for these very modules, None if nothing; it did so at the default rank and alpha."""
        if candidate.settings != LoraSettings() or candidate.ranks or candidate.alphas:
            return None
        stored = (Linearity.from_dict(fields) for fields in self.probe.info.get("linearity", ()))
        return next((found for found in stored if found.targets == candidate.selection.targets), None)

    def cost(self, candidate: Candidate) -> Cost:
        """Parameters, memory and time of training the candidate; time as if all modules had its common rank."""
        base = self._cost(candidate.selection, candidate.settings)
        params, memory = base.params, base.memory_bytes
        for name in set(candidate.ranks) & set(candidate.selection.targets):  # both are sums of a part per module's rank
            alone = Selection(name, (name,))
            own, common = (self._cost(alone, s) for s in (candidate.module_settings(name), candidate.settings))
            params += own.params - common.params
            memory += own.memory_bytes - common.memory_bytes
        return replace(
            base, params=params, params_with_head=base.params_with_head - base.params + params, memory_bytes=memory
        )

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
        )


def training_rows(probe: Probe, recipe: TrainingRecipe) -> int:
    """Rows the recipe trains on, at most those there are."""
    available = int(probe.info["train_rows"])
    return min(available, recipe.train_rows or available)


def probe_view(probe: Probe, settings: LoraSettings, recipe: TrainingRecipe) -> ProbeView:
    """The probe's arrays at the given LoRA settings and recipe, as the features take them."""
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    sums = constants * probe.gradient_blocks.sum((1, 2), dtype=np.float64)
    traces = constants * np.einsum("mii->m", probe.gradient_blocks, dtype=np.float64)
    head = None
    if (block := probe.head) is not None:
        head = (block.weight, block.fresh_gradient_norm, block.fresh_gradient_energy, block.fresh_gradient_params)
    simulated_rows = min(training_rows(probe, recipe), ROWS_PER_EXAMPLE * probe.samples)
    optimizer_steps = recipe.epochs * math.ceil(simulated_rows / recipe.batch_size)
    scaled = constants[:, None, None]
    return ProbeView(
        targets=probe.targets,
        kernels={kind: _kernels(probe, settings, kind) for kind in FEATURE_KERNELS},
        recipe=recipe_kernels(
            scaled * probe.weight_blocks,
            scaled * probe.gradient_blocks,
            np.array([settings.rank * t.out_features for t in probe.targets], dtype=np.float64),
            probe.task,
            probe.y,
            recipe.batch_size,
            head,
        ),
        gradient_sums=sums,
        gradient_traces=traces,
        task=probe.task,
        y=probe.y,
        f0=probe.f0,
        losses=probe.losses,
        folds=probe.folds,
        rank=settings.rank,
        schedule=Schedule.of(recipe.lr, optimizer_steps, fresh_head=probe.task not in LANGUAGE_TASKS),
    )


def probe_context(
    probe: Probe, view: ProbeView, settings: LoraSettings, recipe: TrainingRecipe
) -> dict[str, Any]:
    """The predictor's context of a probe at a recipe."""
    nothing_and_all = np.repeat([[0.0], [1.0]], len(probe.targets), axis=1)
    start, simulated = recipe_loss(view, nothing_and_all)
    return context_of(
        task=probe.task,
        reads=str(probe.info.get("reads", "text")),
        metric=str(probe.info["metric"]),
        shares=np.bincount(probe.labels.astype(int), minlength=len(probe.class_names)) / probe.samples
        if probe.class_names
        else np.empty(0),
        train_rows=training_rows(probe, recipe),
        lr=recipe.lr,
        rank=settings.rank,
        start=float(start),
        simulated=float(simulated),
        head_loss=(probe.info["head_cv"] or {}).get("loss"),
    )


def subsample(probe: Probe, keep: NDArray[np.int64]) -> Probe:
    """The same probe on some of its examples, from the stored blocks."""
    head = probe.head and replace(probe.head, weight=probe.head.weight[np.ix_(keep, keep)])
    return replace(
        probe,
        weight_blocks=probe.weight_blocks[:, keep][:, :, keep],
        gradient_blocks=probe.gradient_blocks[:, keep][:, :, keep],
        head=head,
        **{name: getattr(probe, name)[keep] for name in ("labels", "y", "f0", "z", "losses", "folds")},
    )


def parse_selections(entries: Any, probe: Probe, settings: LoraSettings, where: str) -> list[Candidate]:
    """Candidates of a selection file's content (DESIGN 4, selection file).

    Raises:
        BadInput: not a list of selections, an unknown module or key, a rank that is not a positive integer.
    """
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{where}: not a non-empty list of selections.", "See the README for the format.")
    keys = {"name", "targets", "rank", "alpha", "rslora", "rank_pattern", "alpha_pattern"}
    candidates = []
    for number, entry in enumerate(entries, 1):
        place = f"{where}, selection {number}"
        if not isinstance(entry, dict) or not {"name", "targets"} <= set(entry):
            raise BadInput(f"{place}: needs name and targets.", "See the README for the format.")
        if unknown := set(entry) - keys:
            raise BadInput(f"{place}: unknown field {sorted(unknown)[0]!r}.", f"Known: {', '.join(sorted(keys))}.")
        ranks, alphas = (entry.get(pattern, {}) for pattern in ("rank_pattern", "alpha_pattern"))
        if not isinstance(ranks, dict) or not isinstance(alphas, dict):
            raise BadInput(f"{place}: rank_pattern and alpha_pattern map module names to numbers.")
        if not isinstance(entry["name"], str):
            raise BadInput(f"{place}: name is not a text.")
        if not isinstance(entry["targets"], list):
            raise BadInput(f"{place}: targets is not a list of module names.")
        names = in_model_order([*map(str, entry["targets"])], probe.targets, place)
        for pattern in (ranks, alphas):
            in_model_order(pattern, probe.targets, place)
            if beside := sorted(set(pattern) - set(names)):
                raise BadInput(f"{place}: {beside[0]!r} has its own rank or alpha but is not among the targets.")
        every_rank = [*ranks.values(), *([entry["rank"]] if "rank" in entry else [])]
        if any(not isinstance(r, int) or isinstance(r, bool) or r < 1 for r in every_rank):
            raise BadInput(f"{place}: a rank is not a positive integer.")
        every_alpha = [*alphas.values(), *([entry["alpha"]] if "alpha" in entry else [])]
        if any(isinstance(a, bool) or not isinstance(a, int | float) or not 0 < a < math.inf for a in every_alpha):
            raise BadInput(f"{place}: an alpha is not a positive number.")
        if not isinstance(entry.get("rslora", False), bool):
            raise BadInput(f"{place}: rslora is neither true nor false.")
        own = replace(settings, **{k: entry[k] for k in ("rank", "alpha", "rslora") if k in entry})
        candidates.append(Candidate(Selection(entry["name"], names), own, ranks, alphas))
    return candidates


def scores_json(scores: Scores, scorer: Scorer) -> dict[str, Any]:
    """What ``advisor score --json`` prints (DESIGN 4)."""
    return {
        "schema": 1,
        "metric": scorer.probe.info["metric"],
        "higher_is_better": True,
        "level": LEVEL,
        "selections": [score_json(score, scorer) for score in scores],
    }


def score_json(score: Score, scorer: Scorer) -> dict[str, Any]:
    """One entry of :func:`scores_json`."""
    settings = score.candidate.settings
    return {
        "name": score.name,
        "params": score.cost.params,
        "params_with_head": score.cost.params_with_head,
        "rank": settings.rank,
        "alpha": settings.alpha,
        **score.candidate.patterns,
        "predicted": {"loss": interval(score.loss), "metric": interval(score.metric)},
        "relative": interval(score.relative),
        "kernel": scorer.kernels.kind,
        "bounds": [bound.as_dict() for bound in score.bounds],
        "cost": {"memory_bytes": score.cost.memory_bytes, "time_vs_all_linear": score.cost.time_vs_all_linear},
        "warnings": list(score.warnings),
    }


def _kernels(probe: Probe, settings: LoraSettings, kind: str) -> Kernels:
    head = None
    if probe.head is not None:
        head = (probe.head.weight, probe.head.fresh_gradient_norm, probe.head.fresh_gradient_params)
    return make_kernels(probe.targets, probe.weight_blocks, probe.gradient_blocks, settings, kind, head)


def _triple(estimate: Estimate, i: int) -> tuple[float, float, float]:
    return float(estimate.value[i]), float(estimate.low[i]), float(estimate.high[i])


def interval(triple: tuple[float, float, float]) -> dict[str, float]:
    """As JSON."""
    return dict(zip(("value", "low", "high"), triple, strict=True))


def _group_name(provenance: Mapping[str, Any], recipe: TrainingRecipe, settings: LoraSettings) -> str:
    """Model, data and rows; what else differs from the defaults, since selections are only compared at one recipe."""
    name = f"{provenance['model']} on {provenance['data']}, {provenance['train_rows']} rows"
    usual = default_recipe(provenance["task"])
    for field_name, label in (("lr", "lr"), ("epochs", "epochs"), ("batch_size", "batch")):
        if getattr(recipe, field_name) != getattr(usual, field_name):
            name += f", {label} {getattr(recipe, field_name):g}"
    if settings != LoraSettings():
        name += f", rank {settings.rank}, alpha {settings.alpha:g}" + (", rslora" if settings.rslora else "")
    return name


def rows_from_runs(runs: Sequence[Mapping[str, Any]], probe: Probe) -> list[CalibrationRow]:
    """Calibration rows: each run of :mod:`advisor.calibrate` beside its selection's features on ``probe``.

    Raises:
        BadInput: a run is of another model or other data than the probe.
    """
    rows = []
    runs = [run for run in runs if "ranks" not in run]  # rows are of one rank for all modules
    identity = probe.info["identity"]
    everything = np.array([t.lora_params(1) for t in probe.targets], dtype=np.float64)
    views: dict[tuple[LoraSettings, TrainingRecipe], ProbeView] = {}
    for run in runs:
        provenance, settings = run["provenance"], LoraSettings(**run["settings"])
        if provenance["model_fingerprint"] != identity["model_fingerprint"]:
            raise BadInput("The runs and the probe are of different models.", "Use another --out folder.")
        recipe = TrainingRecipe(**run["recipe"])
        if (settings, recipe) not in views:
            views[settings, recipe] = probe_view(probe, settings, recipe)
        view = views[settings, recipe]
        mask = np.array([[float(t.name in set(run["selection"]["targets"])) for t in probe.targets]])
        weights = Weights(mask * everything * settings.rank, {kind: mask for kind in FEATURE_KERNELS})
        names = all_feature_names()
        features = feature_table(view, weights, names)[0]
        result = run["result"]
        rows.append(
            CalibrationRow(
                group=_group_name(provenance, recipe, settings),
                selection=run["selection"]["name"],
                params=result["lora_params"],
                seed=run["seed"],
                features=dict(zip(names, (round(float(f), 6) for f in features), strict=True)),
                context=probe_context(probe, view, settings, recipe),
                recipe=run["recipe"],
                settings=run["settings"],
                train_loss=result["train_loss"],
                val_loss=result["val_loss"],
                metric=provenance["metric"],
                score=result["metric"],
                provenance=provenance,
                mask="".join("1" if adapted else "0" for adapted in mask[0]),
            )
        )
    return rows
