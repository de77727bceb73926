"""One selection for a person: who contributes what, what adding or dropping each module changes, spectrum, bounds,
linearity (docs/design.md 2.2–2.6; no torch, no layout).

Shapes: M modules in model order, n probe examples. V(K) = σ zᵀ(K+σI)⁻¹z is what kernel ridge leaves of the residual
target z; it never rises when modules are added. Adapted modules stand at the candidate's own rank and alpha, the others
at the scorer's, as in its bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.advice.budget import Budget
from advisor.core.candidate import Candidate
from advisor.core.choices import LEVEL
from advisor.core.errors import BadInput
from advisor.core.recipe import BY_ODDS
from advisor.core.targets import Target
from advisor.prediction.payload import score_json
from advisor.prediction.scorer import Score, Scorer
from advisor.theory.bounds import Bound, bound_b_budget, relative_sizes
from advisor.theory.kernels import Array
from advisor.theory.linearity import Linearity
from advisor.theory.spectrum import Spectrum, alignment

EXPLANATION_SCHEMA = 1
PAPER_KERNEL, PAPER_SIGMA = "lora-expected", 1e-4  # arXiv 2602.08239: κ at initialisation


@dataclass(frozen=True)
class Effect:
    """What dropping an adapted module, or adding another one, does to V of the selection's kernel K.

    Attributes:
        eta: η_σ of the module's block against K + σI, ≥ 0.
        ratio: V(K−S)/V(K) ≥ 1 on dropping, V(K+S)/V(K) ≤ 1 on adding, exact; None where V(K) = 0.
        limit: bound B's for it: at most 1/(1−η_σ), None where η_σ reaches 1; at least 1/(1+η_σ).
    """

    eta: float
    ratio: float | None
    limit: float | None


@dataclass(frozen=True)
class ModuleRow:
    """One adaptable module, adapted or not.

    Attributes:
        share: of the trace of the kernel over all modules. share_with_head: the same with the head's trace in the
            whole, None where there is no head.
        energy: share of the gradient energy, the trace of LoRA-scaled G over all modules.
        agreement: mean of G off its diagonal over the mean on it, in [−1/(n−1), 1]: 1 where all examples pull the same
            way, 0 where their gradients are unrelated; None where the gradient is zero.
        effect: with the head's block where there is one; effect_without_head: None where there is none.
    """

    target: Target
    adapted: bool
    share: float
    share_with_head: float | None
    energy: float
    agreement: float | None
    effect: Effect
    effect_without_head: Effect | None


@dataclass(frozen=True)
class KernelFigures:
    """Spectral quantities of K_S (docs/design.md 2.4), with or without the head's block.

    Attributes:
        values: eigenvalues [n], descending; all_linear: those of all modules together, for comparison.
        condition: κ(K+σI) at the scorer's σ; paper_condition: at ``PAPER_SIGMA`` of the ``PAPER_KERNEL``.
        effective_rank: between 1 and n, 0 for the zero matrix.
        alignment: centred kernel-target alignment; None for a causal LM, whose targets are all positive.
        risk, objective: R and V on the residual target z. leave_one_out: mean squared, at the best of six ridges.
        paper_risk, paper_objective: R and V with f0 ignored (z = Y); None for a causal LM, which has no Y.
    """

    head: bool
    values: Array
    all_linear: Array
    condition: float
    paper_condition: float
    effective_rank: float
    alignment: float | None
    risk: float
    objective: float
    leave_one_out: float
    paper_risk: float | None
    paper_objective: float | None

    @property
    def trace(self) -> float:
        return float(self.values.sum())

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the paper's."""
        names = ("condition", "effective_rank", "alignment", "risk", "objective", "leave_one_out")
        return {
            "eigenvalues": self.values.tolist(),
            "all_linear_eigenvalues": self.all_linear.tolist(),
            "trace": self.trace,
            "largest": float(self.values[0]),
            "smallest": float(self.values[-1]),
            **{name: getattr(self, name) for name in names},
        }

    def paper_dict(self) -> dict[str, Any]:
        """For JSON, the paper's."""
        return {"condition": self.paper_condition, "risk": self.paper_risk, "objective": self.paper_objective}


@dataclass(frozen=True)
class Explanation:
    """All that ``advisor explain`` shows of one candidate.

    Attributes:
        score: its predictions and cost; its bounds include the budget's, where one was given.
        modules: [M], in model order.
        head_ratio: the head's trace over that of all modules together; None without a head or a zero kernel.
        figures: with the head, where there is one, then without. target_energy: ‖z‖².
        linearity: what was measured at the candidate's common rank and alpha, None if nothing.
    """

    score: Score
    modules: tuple[ModuleRow, ...]
    head_ratio: float | None
    figures: tuple[KernelFigures, ...]
    target_energy: float
    linearity: Linearity | None

    @property
    def candidate(self) -> Candidate:
        return self.score.candidate


def explain(
    scorer: Scorer,
    candidates: Sequence[Candidate],
    budget: Budget | None = None,
    measured: Sequence[Linearity | None] | None = None,
) -> list[Explanation]:
    """An explanation of each candidate, in order.

    Args:
        budget: also bound what may be added within it.
        measured: linearity of each candidate, measured on the model; None: what the probe stored.

    Raises:
        BadInput: a budget of memory, which does not say which modules fit.
    """
    if budget is not None and budget.kind == "memory":
        raise BadInput(f"--budget {budget.text}: memory cannot be bounded here.", "Write 25%, 2M or 12modules.")
    everything = Spectra.of(scorer, np.ones(len(scorer.probe.targets)))
    explanations = []
    for i, score in enumerate(scorer.score(candidates)):
        candidate = score.candidate
        linearity = scorer.linearity(candidate) if measured is None else measured[i]
        if measured is not None:
            score = replace(score, bounds=scorer.bounds(candidate, linearity))
        explanations.append(_explain(scorer, score, everything, budget, linearity))
    return explanations


@dataclass(frozen=True)
class Spectra:
    """Spectra of one weighting of the blocks: with the head, where there is one, then without."""

    heads: tuple[bool, ...]
    spectra: tuple[Spectrum, ...]

    @classmethod
    def of(cls, scorer: Scorer, weights: Array, kernel: str | None = None) -> Spectra:
        """Of the scorer's kernel, or of another kind; weights [M]."""
        kernels = scorer.kernels if kernel is None else scorer.view.kernels[kernel]
        heads = (True, False) if scorer.probe.head is not None else (False,)
        return cls(heads, tuple(Spectrum.of(kernels.of(weights[None], head)[0]) for head in heads))


def module_rows(scorer: Scorer, candidate: Candidate) -> list[ModuleRow]:
    """The :class:`ModuleRow` of every module, in model order, without the rest of an explanation."""
    return _rows_and_effects(scorer, candidate)[0]


def _rows_and_effects(scorer: Scorer, candidate: Candidate) -> tuple[list[ModuleRow], list[list[Effect]], Spectra]:
    """The rows; the effects behind them, with the head, where there is one, then without; the candidate's spectra."""
    chosen = Spectra.of(scorer, scorer.block_weights([candidate], scorer.kernels.kind)[0])
    adapted = np.isin([t.name for t in scorer.probe.targets], candidate.selection.targets)
    parts = _own_weights(scorer, candidate)[:, None, None] * scorer.kernels.blocks
    effects = [_effects(scorer, spectrum, parts, adapted) for spectrum in chosen.spectra]
    return _module_rows(scorer, candidate, adapted, effects), effects, chosen


def _own_weights(scorer: Scorer, candidate: Candidate) -> Array:
    """What each block is multiplied by, [M]: adapted modules at the candidate's rank, the others at the scorer's."""
    weights = scorer.block_weights([candidate], scorer.kernels.kind)[0]
    return np.where(np.isin([t.name for t in scorer.probe.targets], candidate.selection.targets), weights, 1.0)


def _traces(scorer: Scorer, candidate: Candidate) -> Array:
    """Of every module's block at those weights, [M]."""
    return np.asarray(_own_weights(scorer, candidate) * np.einsum("mii->m", scorer.kernels.blocks))


def _head_trace(scorer: Scorer) -> float | None:
    return float(np.trace(scorer.kernels.head)) if scorer.probe.head is not None else None


def agreements(scorer: Scorer) -> Array:
    """``agreement`` of :class:`ModuleRow` for every module, [M]; NaN where the gradient is zero."""
    view = scorer.view
    off_diagonal = view.gradient_sums - view.gradient_traces
    empty = np.full(len(off_diagonal), np.nan)
    ratios = np.divide(off_diagonal, view.gradient_traces, out=empty, where=view.gradient_traces > 0)
    return np.asarray(ratios / (scorer.probe.samples - 1))


def block_ranks(scorer: Scorer) -> Array:
    """Effective rank of every module's own block, [M], between 0 and n."""
    values = np.linalg.eigvalsh(scorer.kernels.blocks)[:, ::-1].clip(0.0)
    return np.array([Spectrum(row, np.empty(0)).effective_rank() for row in values])


def _explain(
    scorer: Scorer,
    score: Score,
    everything: Spectra,
    budget: Budget | None,
    linearity: Linearity | None,
) -> Explanation:
    rows, effects, chosen = _rows_and_effects(scorer, score.candidate)
    if budget is not None:
        within = [
            _budget_bound(scorer, score, budget, head, [e.eta for e in of_head])
            for head, of_head in zip(chosen.heads, effects, strict=True)
        ]
        score = replace(score, bounds=(*score.bounds, *within))
    traces = _traces(scorer, score.candidate)
    head_trace = _head_trace(scorer)
    return Explanation(
        score,
        tuple(rows),
        head_trace / float(traces.sum()) if head_trace is not None and traces.sum() > 0 else None,
        tuple(_figures(scorer, score.candidate, chosen, everything)),
        float((scorer.probe.z**2).sum()),
        linearity,
    )


def _effects(scorer: Scorer, spectrum: Spectrum, parts: Array, adapted: NDArray[np.bool_]) -> list[Effect]:
    """Of each module [M] on the kernel of ``spectrum``; parts [M, n, n]."""
    z, sigma = scorer.probe.z, scorer.sigma
    kernel = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
    before = spectrum.objective(z, sigma)
    effects = []
    for eta, part, inside in zip(relative_sizes(spectrum, parts, sigma).tolist(), parts, adapted, strict=True):
        after = Spectrum.of(kernel - part if inside else kernel + part).objective(z, sigma)
        limit = (1 / (1 - eta) if eta < 1 else None) if inside else 1 / (1 + eta)
        effects.append(Effect(eta, after / before if before > 0 else None, limit))
    return effects


def _budget_bound(scorer: Scorer, score: Score, budget: Budget, head: bool, etas: Sequence[float]) -> Bound:
    """B for whatever of the other modules, at the scorer's rank, fits in what the candidate leaves of the budget; by the
    sum of their η_σ, or by the η_σ of all of them together, whichever says more."""
    targets, chosen = scorer.probe.targets, score.candidate.selection.targets
    missing = ~np.isin([t.name for t in targets], chosen)
    sizes = budget.sizes(targets, scorer.settings.rank)
    left = budget.ceiling(targets, scorer.settings.rank) - (len(chosen) if budget.kind == "modules" else score.cost.params)
    bound = Bound("B", "V(K+S)/V(K)", "budget", scorer.kernels.kind, head, scorer.sigma, None, 1.0)
    if left < 0:
        return bound.failing(f"The selection is already above the budget of {budget.text}.")
    of_all = next(b.low for b in score.bounds if (b.id, b.added, b.head) == ("B", "rest", head))
    return replace(bound, low=max(bound_b_budget(np.array(etas)[missing], sizes[missing], left), of_all or 0.0))


def _module_rows(
    scorer: Scorer, candidate: Candidate, adapted: NDArray[np.bool_], effects: Sequence[Sequence[Effect]]
) -> list[ModuleRow]:
    scales = scorer.block_weights([candidate], "lora-expected")[0]
    energies = np.where(adapted, scales, 1.0) * scorer.view.gradient_traces
    traces, head_trace, agree = _traces(scorer, candidate), _head_trace(scorer), agreements(scorer)
    total, energy = float(traces.sum()) or 1.0, float(energies.sum()) or 1.0
    return [
        ModuleRow(
            target=target,
            adapted=bool(adapted[m]),
            share=float(traces[m]) / total,
            share_with_head=None if head_trace is None else float(traces[m]) / (float(traces.sum()) + head_trace or 1.0),
            energy=float(energies[m]) / energy,
            agreement=None if np.isnan(agree[m]) else float(agree[m]),
            effect=effects[0][m],
            effect_without_head=effects[1][m] if len(effects) > 1 else None,
        )
        for m, target in enumerate(scorer.probe.targets)
    ]


def _figures(scorer: Scorer, candidate: Candidate, chosen: Spectra, everything: Spectra) -> list[KernelFigures]:
    probe, sigma, weights = scorer.probe, scorer.sigma, scorer.block_weights([candidate], scorer.kernels.kind)
    paper = Spectra.of(scorer, scorer.block_weights([candidate], PAPER_KERNEL)[0], PAPER_KERNEL)
    has_targets = probe.task not in BY_ODDS
    figures = []
    for head, spectrum, theirs, of_all in zip(chosen.heads, chosen.spectra, paper.spectra, everything.spectra, strict=True):
        kernel = scorer.kernels.of(weights, head)[0]
        figures.append(
            KernelFigures(
                head,
                spectrum.values[::-1],
                of_all.values[::-1],
                spectrum.condition_number(sigma),
                theirs.condition_number(PAPER_SIGMA),
                spectrum.effective_rank(),
                alignment(kernel, probe.y) if has_targets else None,
                spectrum.ridge_risk(probe.z, sigma),
                spectrum.objective(probe.z, sigma),
                spectrum.best_leave_one_out(probe.z),
                spectrum.ridge_risk(probe.y, sigma) if has_targets else None,
                spectrum.objective(probe.y, sigma) if has_targets else None,
            )
        )
    return figures


def explanations_json(explanations: Sequence[Explanation], scorer: Scorer) -> dict[str, Any]:
    """What ``advisor explain --json`` prints: ``advisor score --json`` and everything else that is shown."""
    return {
        "schema": EXPLANATION_SCHEMA,
        "metric": scorer.probe.info["metric"],
        "higher_is_better": True,
        "level": LEVEL,
        "selections": [_explanation_json(explanation, scorer) for explanation in explanations],
    }


def _explanation_json(explanation: Explanation, scorer: Scorer) -> dict[str, Any]:
    figures = {f.head: f for f in explanation.figures}
    kernel = {"kernel": scorer.kernels.kind, "sigma": scorer.sigma}

    def by_head(field: str) -> dict[str, Any]:
        """``with_head`` is null where there is no head."""
        found = {head: getattr(f, field)() for head, f in figures.items()}
        return {"with_head": found.get(True), "without_head": found[False]}

    return {
        **score_json(explanation.score, scorer),
        "targets": list(explanation.candidate.selection.targets),
        "modules": [_module_json(row) for row in explanation.modules],
        "head_ratio": explanation.head_ratio,
        "spectrum": {
            **kernel,
            "samples": scorer.probe.samples,
            "target_energy": explanation.target_energy,
            **by_head("as_dict"),
        },
        "paper": {
            **kernel,
            "target": "Y",
            "condition_kernel": PAPER_KERNEL,
            "condition_sigma": PAPER_SIGMA,
            **by_head("paper_dict"),
        },
        "linearity": explanation.linearity and explanation.linearity.as_dict(),
    }


def _module_json(row: ModuleRow) -> dict[str, Any]:
    with_head, without = (row.effect, row.effect_without_head) if row.effect_without_head else (None, row.effect)
    return {
        "name": row.target.name,
        "layer": row.target.layer,
        "role": row.target.role,
        "adapted": row.adapted,
        "share": row.share,
        "share_with_head": row.share_with_head,
        "gradient_energy": row.energy,
        "gradient_agreement": row.agreement,
        "change": "V(K−S)/V(K)" if row.adapted else "V(K+S)/V(K)",
        "with_head": with_head and _effect_json(with_head),
        "without_head": _effect_json(without),
    }


def _effect_json(effect: Effect) -> dict[str, Any]:
    return {"eta": effect.eta, "ratio": effect.ratio, "limit": effect.limit}
