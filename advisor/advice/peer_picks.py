"""What other methods of choosing LoRA targets pick at the same budget, and how much they like any selection (no torch).

A method's scores are turned so that higher is what it prefers:

- ``spectrum``: signal-to-noise ratio of the weight; taken evenly from every role.
- ``kappatune``: −log κ of the weight.
- ``plop``: −normalised feature norm; decides by role, lowest mean first, within the last role that fits in part by module.
- ``eva``: explained variance of the module's inputs in its leading ``rank`` directions; picks ranks, not modules.
- ``gradient-norm``: √(1ᵀG1) of the module's layer, G summed over it (Aletheia, arXiv 2604.15351); best layers first,
  the last one in part.
- ``fisher``: tr(G)/(n·a·b), the mean diagonal of the empirical Fisher matrix of the weight (surgical fine-tuning, arXiv
  2210.11466, by module here where they have layers).
- ``condition-number``: −log κ(K_S + σI) and ``spectral-ratio``: −log λmax(K_S + σI)/λmax(K_head + σI), of the
  selection's kernel, not of modules.
- ``random``: seeded, has no score.

A selection's score by one of the first six is the mean of its modules' scores, weighted by their LoRA parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.advice.budget import Budget
from advisor.advice.units import selection_of, units_of
from advisor.core.candidate import Candidate
from advisor.core.choices import CONDITION_NUMBER, SPECTRAL_RATIO
from advisor.core.errors import BadInput
from advisor.core.probe import PROBE_AGAIN, Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.store import PROBE_FILE
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.payload import ScoreEntry, plain, score_fields, scores_json
from advisor.prediction.probe_view import probe_view
from advisor.prediction.scorer import Score, Scorer, Scores
from advisor.theory.criteria import Criterion, fill_by
from advisor.theory.kernels import Array, Kernels
from advisor.theory.surrogate import Mask

SPECTRUM, KAPPATUNE, PLOP, EVA, GRADIENT_NORM, FISHER, RANDOM = (
    "spectrum",
    "kappatune",
    "plop",
    "eva",
    "gradient-norm",
    "fisher",
    "random",
)
KERNEL_PEERS = (CONDITION_NUMBER, SPECTRAL_RATIO)
MODULE_PEERS = (SPECTRUM, KAPPATUNE, PLOP, GRADIENT_NORM, FISHER)  # of a score per module, and no ranks
PEERS = (SPECTRUM, KAPPATUNE, PLOP, EVA, GRADIENT_NORM, FISHER, *KERNEL_PEERS, RANDOM)
RHO = 2  # EVA gives no module more than twice the common rank, PEFT's default
MOST_UNITS = 96  # beyond which the kernel peers' search takes minutes
NOT_MEASURED, TOO_MANY, NOTHING_FITS = "not measured", "not computed: too many modules", "nothing fits"


@dataclass(frozen=True, kw_only=True)
class PeerEntry(ScoreEntry):
    """A peer's pick; ``same_as``: an earlier selection of the comparison that is the same."""

    targets: tuple[str, ...]
    same_as: str | None


@dataclass(frozen=True)
class NoPick:
    """Why a peer has no pick."""

    name: str
    reason: str


@dataclass(frozen=True)
class PeerPick:
    """What one peer picks within the budget.

    Attributes:
        candidate: the pick; None if there is none, and then ``reason`` says why.
        score: what is predicted of it.
        same_as: an earlier selection of the comparison that is the same.
    """

    peer: str
    candidate: Candidate | None = None
    reason: str | None = None
    score: Score | None = None
    same_as: str | None = None

    @property
    def label(self) -> str:
        return self.peer if self.same_as is None else f"{self.peer} (= {self.same_as})"

    def entry(self, scorer: Scorer) -> PeerEntry | NoPick:
        """For programs: the entry of ``score --json`` with what is adapted, or the reason why there is none."""
        if self.candidate is None or self.score is None:
            return NoPick(self.peer, self.reason or "")
        patterns = {"rank_pattern": dict(self.candidate.ranks), "alpha_pattern": dict(self.candidate.alphas)}
        given = score_fields(self.score, scorer) | patterns
        return PeerEntry(**given, targets=self.candidate.selection.targets, same_as=self.same_as)


# --- scores --------------------------------------------------------------------------------------------------------


def module_scores(probe: Probe, rank: int = LoraSettings().rank) -> dict[str, Array]:
    """Each peer's score of each module [M], higher is better, NaN where unknown; peers that were not measured are absent.

    Raises:
        BadInput: the probe's field ``peers`` is garbled.
    """
    found = {}
    for peer, sign in ((SPECTRUM, 1.0), (KAPPATUNE, -1.0), (PLOP, -1.0)):
        values = measured(probe, peer)
        if values is not None:
            found[peer] = sign * (np.log(values) if peer == KAPPATUNE else values)
    ratios = measured(probe, EVA)
    if ratios is not None:
        found[EVA] = ratios[:, :rank].sum(1)
    norms = gradient_norms(probe)
    layers = np.array([-1 if t.layer is None else t.layer for t in probe.targets])
    found[GRADIENT_NORM] = np.sqrt(((layers[:, None] == layers) * norms**2).sum(1))
    sizes = np.array([t.in_features * t.out_features * t.weights for t in probe.targets], dtype=np.float64)
    found[FISHER] = np.einsum("mii->m", probe.gradient_blocks, dtype=np.float64) / (probe.samples * sizes)
    return found


def gradient_norms(probe: Probe) -> Array:
    """‖Σ_i ∇ℓ_i‖ = √(1ᵀG_m1) of each module's weight, [M]."""
    return np.asarray(np.sqrt(np.clip(probe.gradient_blocks.sum((1, 2), dtype=np.float64), 0.0, None)))


def measured(probe: Probe, peer: str) -> Array | None:
    """A field of the probe's ``peers`` as numbers, [M] or for EVA [M, 64], NaN where unknown; None if it says nothing, or if
    the probe is older than the peer.

    Raises:
        BadInput: the field is damaged; names it.
    """
    fields = probe.info.get("peers")
    if fields is None or (isinstance(fields, dict) and peer not in fields):
        return None
    try:
        entries = fields[peer]["ratios"] if peer == EVA else fields[peer]
        width = next((len(entry) for entry in entries if entry is not None), 0) if peer == EVA else None
        empty: Any = np.nan if width is None else [np.nan] * width
        values = np.array([empty if entry is None else entry for entry in entries], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{PROBE_FILE}: peers.{peer} is missing or garbled ({error}).", PROBE_AGAIN) from error
    if len(values) != len(probe.targets):
        raise BadInput(f"{PROBE_FILE}: peers.{peer} has {len(values)} entries, not {len(probe.targets)}.", PROBE_AGAIN)
    return None if np.isnan(values).all() else values


def selection_scores(probe: Probe, masks: NDArray[Any], settings: LoraSettings | None = None) -> dict[str, Array]:
    """How much each peer likes each selection, from a probe alone; higher is better, NaN where unknown or empty.

    Args:
        masks: [S, M], 0 or 1. settings: rank and alpha, the same for all; default: rank 8, alpha 16.

    Returns:
        {peer: [S]}; the kernel peers look at the Adam-aware kernel with the head at its default σ.
    """
    settings = settings or LoraSettings()
    masks = np.asarray(masks, dtype=np.float64)
    kernels = probe_view(probe, settings, TrainingRecipe()).kernels["adam"]
    params = masks * np.array([t.lora_params(settings.rank) for t in probe.targets])
    return _scores(probe, params, settings.rank) | _kernel_scores(kernels, probe.z, kernels.default_sigma(), masks)


def candidate_scores(scorer: Scorer, candidates: Sequence[Candidate]) -> dict[str, Array]:
    """The same for candidates with ranks and alphas of their own, in the scorer's kernel and σ."""
    weights = scorer.block_weights(candidates, scorer.kernels.kind)
    modules = _scores(scorer.probe, scorer.weights(candidates).params, scorer.settings.rank)
    return modules | _kernel_scores(scorer.kernels, scorer.probe.z, scorer.sigma, weights)


def _scores(probe: Probe, params: Array, rank: int) -> dict[str, Array]:
    return {peer: _mean(values, params) for peer, values in module_scores(probe, rank).items()}


def _mean(values: Array, weights: Array) -> Array:
    """Σ_m w_sm v_m / Σ_m w_sm over the modules whose value is known, [S]; NaN where there are none."""
    known = weights * ~np.isnan(values)
    total = known.sum(1)
    return np.asarray(np.divide(known @ np.nan_to_num(values), total, out=np.full(len(known), np.nan), where=total > 0))


def _kernel_scores(kernels: Kernels, z: Array, sigma: float, weights: Array) -> dict[str, Array]:
    criteria = {peer: Criterion.of(peer, kernels, z, sigma) for peer in KERNEL_PEERS}
    found: dict[str, list[float]] = {peer: [] for peer in KERNEL_PEERS}
    for row in weights:
        kernel = kernels.of(row[None])[0] if row.any() else None
        for peer, criterion in criteria.items():
            found[peer].append(np.nan if kernel is None else -float(np.log(criterion.value(kernel))))
    return {peer: np.array(values) for peer, values in found.items()}


def scores_for_json(scorer: Scorer, candidates: Sequence[Candidate]) -> list[dict[str, float | None]]:
    """One dictionary a candidate: every peer that has scores, None where one does not apply or was not measured."""
    found = candidate_scores(scorer, candidates)
    absent = np.full(len(candidates), np.nan)
    peers = [peer for peer in PEERS if peer != RANDOM]
    columns = {peer: found.get(peer, absent) for peer in peers}
    return [
        {peer: float(column[i]) if np.isfinite(column[i]) else None for peer, column in columns.items()}
        for i in range(len(candidates))
    ]


def comparison_json(scores: Scores, picks: Sequence[PeerPick], scorer: Scorer) -> dict[str, Any]:
    """:func:`advisor.prediction.payload.scores_json` of the selections, then the picks, each with what ``peers`` think of it; and
    ``without_pick``, the reason for each peer that has none."""
    made = [pick for pick in picks if pick.candidate is not None]
    shown = scores_json(scores, scorer)
    shown["selections"] += [plain(pick.entry(scorer)) for pick in made]
    candidates = [score.candidate for score in scores] + [pick.candidate for pick in made if pick.candidate is not None]
    for entry, peers in zip(shown["selections"], scores_for_json(scorer, candidates), strict=True):
        entry["peers"] = peers
    return shown | {"without_pick": {pick.peer: pick.reason for pick in picks if pick.candidate is None}}


# --- picks ---------------------------------------------------------------------------------------------------------


def peer_picks(
    scorer: Scorer, budget: Budget, earlier: Sequence[Candidate] = (), *, granularity: str = "module", seed: int = 0
) -> list[PeerPick]:
    """The pick of each of ``PEERS``, in that order, of whole units (modules, roles or layers) at the scorer's rank.

    A peer's units are taken in its order while they fit. EVA hands out ranks instead, and the kernel peers search.

    Args:
        earlier: selections that a pick may turn out to be the same as.
    """
    found = [_pick(peer, scorer, budget, granularity, seed) for peer in PEERS]
    made = [pick for pick in found if pick.candidate is not None]
    scores = scorer.score([pick.candidate for pick in made if pick.candidate is not None]) if made else ()
    by_peer = {pick.peer: score for pick, score in zip(made, scores, strict=True)}
    seen = {_content(candidate): candidate.selection.name for candidate in reversed(earlier)}
    result = []
    for pick in found:
        same_as = None
        if pick.candidate is not None:
            same_as = seen.get(_content(pick.candidate))
            seen.setdefault(_content(pick.candidate), pick.peer)
        result.append(replace(pick, score=by_peer.get(pick.peer), same_as=same_as))
    return result


def module_picks(scorer: Scorer, budget: Budget, granularity: str) -> list[Candidate]:
    """The picks of ``MODULE_PEERS``, as far as there are any, without predictions: places for a search to start from."""
    picks = (_pick(peer, scorer, budget, granularity, 0) for peer in MODULE_PEERS)
    return [pick.candidate for pick in picks if pick.candidate is not None]


def _content(candidate: Candidate) -> Any:
    """What two candidates must share to be the same."""
    ranks, alphas = (tuple(sorted(pattern.items())) for pattern in (candidate.ranks, candidate.alphas))
    return candidate.selection.targets, candidate.settings, ranks, alphas


def _pick(peer: str, scorer: Scorer, budget: Budget, granularity: str, seed: int) -> PeerPick:
    probe, settings = scorer.probe, scorer.settings
    units, sizes, ceiling = units_of(scorer, budget, granularity)

    def candidate(mask: Mask) -> Candidate:
        return Candidate(selection_of(scorer, units, mask, peer), settings)

    def allowed(found: Candidate) -> bool:
        return budget.allows(scorer.cost(found), len(found.selection.targets), probe.targets, settings.rank)

    def fits(mask: Mask) -> bool:
        return int(sizes[mask].sum()) <= ceiling and (budget.kind != "memory" or allowed(candidate(mask)))

    def fill(order: Sequence[int] | NDArray[np.intp]) -> Mask:
        mask = np.zeros(len(units), dtype=bool)
        for unit in order:
            mask[unit] = True
            mask[unit] = fits(mask)
        return mask

    scores = module_scores(probe, settings.rank)
    if peer in scores:
        order = _order(peer, probe, scores[peer], units, granularity)
    if peer == RANDOM:
        found = candidate(fill(np.random.default_rng(seed).permutation(len(units))))
    elif peer in KERNEL_PEERS:
        if len(units) > MOST_UNITS:
            return PeerPick(peer, reason=TOO_MANY)
        criterion = Criterion.of(peer, scorer.kernels, probe.z, scorer.sigma)
        alone = np.array([fits(unit) for unit in np.eye(len(units), dtype=bool)])
        if not alone.any():
            return PeerPick(peer, reason=NOTHING_FITS)

        def search(most: int) -> Candidate:
            mask = np.zeros(len(units), dtype=bool)
            mask[alone] = fill_by(criterion, scorer.kernels, units[alone], sizes[alone], most).mask
            return candidate(mask)

        found = _most(search, allowed, ceiling)
    elif peer not in scores:
        return PeerPick(peer, reason=NOT_MEASURED)
    elif peer == EVA:
        ratios = measured(probe, EVA)
        assert ratios is not None
        some = units[fill(order)] if budget.kind == "memory" else units  # there the modules first, then their ranks
        found = _most(lambda most: eva_ranks(scorer, budget, some, ratios, most), allowed, ceiling)
    else:
        found = candidate(fill(order))
    return PeerPick(peer, found) if found.selection.targets else PeerPick(peer, reason=NOTHING_FITS)


def _order(peer: str, probe: Probe, scores: Array, units: NDArray[np.bool_], granularity: str) -> NDArray[np.intp]:
    """Units, the most liked first; those of unknown score last, ties in model order."""
    if granularity == "module":
        return np.nonzero(units[:, _modules_in_order(peer, probe, scores)].T)[1]
    if peer == GRADIENT_NORM and granularity == "role":
        scores = gradient_norms(probe)  # a layer's norm says nothing of roles
    return np.argsort(-_mean(scores, units.astype(np.float64)), kind="stable")


def _modules_in_order(peer: str, probe: Probe, scores: Array) -> NDArray[np.intp]:
    roles = np.array([t.role for t in probe.targets])
    if peer == PLOP:
        averages = _mean(scores, (roles[:, None] == roles).astype(np.float64))
        first = {role: i for i, role in reversed(list(enumerate(roles)))}  # roles of one average stay apart
        return np.lexsort((-scores, [first[role] for role in roles], -averages))
    if peer == SPECTRUM:
        share = np.full(len(roles), 2.0)  # of its role that is better
        for role in set(roles):
            members = np.flatnonzero((roles == role) & ~np.isnan(scores))
            share[members[np.argsort(-scores[members], kind="stable")]] = np.arange(len(members)) / (roles == role).sum()
        return np.argsort(share, kind="stable")
    if peer == GRADIENT_NORM:
        layers = np.array([-1 if t.layer is None else t.layer for t in probe.targets])
        return np.lexsort((-gradient_norms(probe), layers, -scores))
    return np.argsort(-scores, kind="stable")


def _most(make: Callable[[int], Candidate], allowed: Callable[[Candidate], bool], ceiling: int) -> Candidate:
    """``make(most)`` of the largest ``most`` up to the ceiling whose candidate is allowed, by bisection: memory is no sum."""
    low, high, found = 0, ceiling + 1, make(0)
    middle = ceiling
    while high - low > 1:
        made = make(middle)
        if not made.selection.targets or allowed(made):
            low, found = middle, made
        else:
            high = middle
        middle = (low + high) // 2
    return found


def eva_ranks(scorer: Scorer, budget: Budget, units: NDArray[np.bool_], ratios: Array, most: int) -> Candidate:
    """EVA's redistribution: one rank after the other goes to the direction with the largest explained variance left, at
    most ``RHO`` times the common rank a module, while parameters (of a budget in modules: ranks, and modules) last.

    ``alpha`` follows the rank, so that the scale stays, as PEFT does (``adjust_scaling_factors``).

    Args:
        units: [U, M], those that may be adapted. ratios: [M, 64]. most: parameters, or modules.
    """
    targets, settings = scorer.probe.targets, scorer.settings
    by_count = budget.kind == "modules"
    modules = units.sum(1)
    costs = modules if by_count else units.astype(np.int64) @ np.array([t.lora_params(1) for t in targets])
    left = settings.rank * most if by_count else most
    columns = [_mean(column, units.astype(np.float64)) for column in ratios.T[: RHO * settings.rank]]
    directions = np.array(columns).T  # [U, directions]
    ranks = np.zeros(len(units), dtype=np.int64)
    for index in np.argsort(-directions.ravel(), kind="stable"):
        unit = int(index) // directions.shape[1]
        new = by_count and ranks[unit] == 0 and int(modules[ranks > 0].sum() + modules[unit]) > most
        if np.isnan(directions.flat[index]) or new or costs[unit] > left:
            continue
        ranks[unit] += 1
        left -= int(costs[unit])
    own = {t.name: int(rank) for t, rank in zip(targets, ranks @ units, strict=True) if rank}
    other = {name: rank for name, rank in own.items() if rank != settings.rank}
    alphas = {name: settings.alpha * rank / settings.rank for name, rank in other.items()}
    return Candidate(Selection(EVA, tuple(own)), settings, other, alphas)
