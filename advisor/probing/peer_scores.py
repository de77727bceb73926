"""What other methods of choosing LoRA targets look at, measured on the loaded model (their picks: ``peer_picks``).

Spectrum and KappaTune read singular values of the weights, PLoP and EVA the modules' inputs on a few rows of the user's
data. Formulas follow the methods' published definitions or PEFT's implementation; each function names its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from advisor.core.choices import CONNECTOR, VISION
from advisor.core.errors import OutOfMemory
from advisor.core.events import Session, Stage
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.targets import Target
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.load import LoadedModel
from advisor.models.placement import fetched, plain_weight
from advisor.probing.capture import fewer_rows

MAX_DIMENSION = 16_384  # KappaTune's own limit
SVD_FREE = 3e10  # Σ a·b·min(a, b) of weights whose singular values take some five seconds on one core of a CPU
SVD_SHARE = 0.1  # of the passes' time, the most that they may take there if they take longer
SVD_COST = 16.0  # operations of a pass that take as long there as one of that sum (MiniLM)
DIRECTIONS = 64  # leading directions of the inputs that a probe stores
EVA_TOKENS = 2048  # tokens the inputs' variance is taken from, evenly spaced
EVA_BYTES = 1 << 30  # of inputs held at once; the modules take turns
BATCH_TOKENS = 2048
PEER_TOKENS = 16_384  # of rows that pass through the model for PLoP and EVA, unless one row has more


def measure_peers(loaded: LoadedModel, rows: Sequence[EncodedRow], session: Session) -> dict[str, Any]:
    """The ``peers`` field of a probe: ``spectrum``, ``kappatune`` and ``plop``, a number or None for each target, and
    ``eva``: ``ratios`` (None or [64] a target) and the number of ``tokens`` they come from.

    None: the weight is too large, or all of them together for a CPU (:func:`_affordable`), or it is not plain numbers, the number
    is not finite, or it is a stack of experts, which none of these methods knows. PLoP and EVA are for tokens of texts, not for
    what a vision tower reads.

    Raises:
        Interrupted: cancelled.
    """
    targets = loaded.targets
    passed = sum(row.length for row in rows)  # tokens of the probe's passes
    rows = _some([sequence for row in rows for sequence in row.sequences])
    keep = _kept_tokens(rows, EVA_TOKENS, loaded.task in LANGUAGE_TASKS)
    kept = sum(sum(row) for row in keep)
    turns = list(_turns(targets, kept))
    stage = Stage(session, "Peers' scores (modules)", len(targets) + sum(map(len, turns)))
    spectrum: list[float | None] = []
    kappas: list[float | None] = []
    norms: list[float] = []
    affordable = loaded.device.type != "cpu" or _affordable(targets, passed)
    for target in targets:
        session.check()
        weight = None if target.experts else plain_weight(loaded.model.get_submodule(target.name))
        norms.append(math.nan if weight is None else float(weight.norm()))
        values = _singular_values(weight) if affordable else None
        spectrum.append(None if values is None else _finite(spectrum_score(values, target.in_features, target.out_features)))
        kappas.append(None if values is None else _finite(condition_number(values)))
        stage.advance()
    if skipped := sum(kappa is None and not t.experts for kappa, t in zip(kappas, targets, strict=True)):
        session.note(
            f"Peers: no singular values of {skipped} of {len(targets)} weights (too long to compute here, or not plain numbers)."
        )
    found: dict[str, _Inputs] = {}
    plop: list[float | None] = [None] * len(targets)
    ratios: list[list[float] | None] = [None] * len(targets)
    try:
        for turn in turns:
            found = _pass(loaded, {targets[i]: norms[i] for i in turn}, rows, keep, session)
            known: dict[bytes, list[float] | None] = {}  # projections of one layer share their input
            for i in turn:
                inputs = found[targets[i].name]
                plop[i] = _finite(inputs.ratios / inputs.tokens) if inputs.tokens else None
                x = torch.cat(inputs.kept)
                key = sha256(x.cpu().numpy().tobytes()).digest()
                if key not in known:
                    known[key] = _explained_variance(x)
                ratios[i] = known[key]
                stage.advance()
    except OutOfMemory as error:
        session.warn(f"Peers: PLoP and EVA not measured. {error.what}")
    return {"spectrum": spectrum, "kappatune": kappas, "plop": plop, "eva": {"ratios": ratios, "tokens": kept}}


def spectrum_score(values: torch.Tensor, in_features: int, out_features: int) -> float:
    """Spectrum's signal-to-noise ratio of a weight: (Σ s above the edge / Σ s up to it) / largest s.

    Edge = σ(1 + √β), β = min(a, b)/max(a, b), σ = interquartile range of s / 1.349: Hartford et al., arXiv 2406.06623,
    as released, which sets the Marchenko–Pastur edge on singular values without a factor √max(a, b). With nothing below
    the edge the noise is 1, as released.

    Args:
        values: singular values s, descending.
    """
    quarter, three_quarters = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    beta = min(in_features, out_features) / max(in_features, out_features)
    edge = (three_quarters - quarter) / 1.349 * (1 + math.sqrt(beta))
    above = values > edge
    noise = float(values[~above].sum()) if not above.all() else 1.0
    largest = float(values[0])
    return float(values[above].sum()) / noise / largest if noise and largest else math.nan


def condition_number(values: torch.Tensor) -> float:
    """KappaTune's κ = s_max/(s_min + 1e-8), as ``peft.helpers.KappaTuneSelector`` (arXiv 2506.16289)."""
    return float(values[0] / (values[-1] + 1e-8))


def explained_variance(x: torch.Tensor) -> list[float]:
    """EVA's explained-variance ratios of a module's inputs: λ_k(X̄ᵀX̄)/tr(X̄ᵀX̄) of the leading 64 directions, X̄ the
    inputs less their mean (Paischer et al., arXiv 2410.07170; PEFT's incremental PCA, here in one step). In float32, so right to
    about 1e-6.

    Args:
        x: [tokens, a].
    """
    centred = x - x.mean(0)
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0.0)[:DIRECTIONS]
    total, rounding = float(gram.trace()), 1e-12 * float(x.square().sum())
    shares = (values / total).tolist() if total > rounding else []
    return [float(f"{share:.6g}") for share in shares] + [0.0] * (DIRECTIONS - len(shares))


def norm_ratios(x: torch.Tensor, features: torch.Tensor, weight_norm: float) -> torch.Tensor:
    """PLoP's normalised feature norms ‖Wx‖/‖Wx̃‖ of tokens, x̃ Gaussian of the size of x (Hayou et al., arXiv 2506.20629).

    The random input enters by its root mean square, √E‖Wx̃‖² = ‖x‖‖W‖_F/√a, so that nothing is drawn. Tokens whose
    input is zero are left out.

    Args:
        x: [tokens, a]. features: Wx, [tokens, b], without bias. weight_norm: ‖W‖_F.
    """
    sizes = x.norm(dim=1)
    moving = sizes > 0
    ratios: torch.Tensor = features.norm(dim=1)[moving] * math.sqrt(x.shape[1]) / (sizes[moving] * weight_norm)
    return ratios


# --- weights -------------------------------------------------------------------------------------------------------


def _affordable(targets: Sequence[Target], tokens: int) -> bool:
    """Whether a CPU may compute all singular values, beside one forward and backward pass over so many tokens."""
    shapes = [(t.in_features, t.out_features) for t in targets if not t.experts]
    svd, passes = sum(a * b * min(a, b) for a, b in shapes), 6.0 * tokens * sum(a * b for a, b in shapes)
    return svd <= max(SVD_FREE, SVD_SHARE * passes / SVD_COST)


def _singular_values(weight: torch.Tensor | None) -> torch.Tensor | None:
    """Descending, O(a·b·min(a, b)); None where that is too much or fails."""
    if weight is None or max(weight.shape) > MAX_DIMENSION:
        return None
    try:
        values: torch.Tensor = torch.linalg.svdvals(weight)
        return values
    except (MemoryError, RuntimeError):  # no room for it, or no convergence
        return None


def _finite(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _explained_variance(x: torch.Tensor) -> list[float] | None:
    """None where there are no tokens, a number is not finite, or there is no room for it."""
    try:
        return explained_variance(x) if len(x) and bool(torch.isfinite(x).all()) else None
    except (MemoryError, RuntimeError):
        return None


# --- inputs --------------------------------------------------------------------------------------------------------


@dataclass
class _Inputs:
    """Of one module: the sum of PLoP's ratios over so many ``tokens``, and the inputs ``kept`` for EVA, [·, a] each."""

    ratios: float = 0.0
    tokens: int = 0
    kept: list[torch.Tensor] = field(default_factory=list)

    def add(self, other: _Inputs) -> None:
        self.ratios += other.ratios
        self.tokens += other.tokens
        self.kept += other.kept


def _some(rows: Sequence[EncodedRow]) -> Sequence[EncodedRow]:
    """Evenly spread ones of about ``PEER_TOKENS`` in all: means over tokens need no more."""
    count = max(1, PEER_TOKENS * len(rows) // max(1, sum(row.length for row in rows)))
    return rows if count >= len(rows) else [rows[i * len(rows) // count] for i in range(count)]


def _kept_tokens(rows: Sequence[EncodedRow], most: int, language: bool = True) -> list[list[bool]]:
    """Which tokens of each row EVA looks at: of a language model those it is trained on, as PEFT does; at most ``most``,
    evenly spaced. Of a source and its target any."""
    learned = [[label != IGNORED for label in row.token_labels] if language else [] for row in rows]
    eligible = [row if len(row) == whole.length else [True] * whole.length for row, whole in zip(learned, rows, strict=True)]
    step = math.ceil(sum(map(sum, eligible)) / most)
    counts = iter(range(sum(map(sum, eligible))))
    return [[token and next(counts) % step == 0 for token in row] for row in eligible]


def _turns(targets: Sequence[Target], tokens: int) -> Iterator[list[int]]:
    """Consecutive modules whose kept inputs fit into ``EVA_BYTES`` together, at least one a turn; stacks of experts have none."""
    turn: list[int] = []
    held = 0
    for i, target in enumerate(targets):
        if target.experts or target.group in (VISION, CONNECTOR):
            continue
        needed = 4 * tokens * target.in_features
        if turn and held + needed > EVA_BYTES:
            yield turn
            turn, held = [], 0
        turn.append(i)
        held += needed
    if turn:
        yield turn


@torch.no_grad()
def _pass(
    loaded: LoadedModel,
    targets: Mapping[Target, float],
    rows: Sequence[EncodedRow],
    keep: Sequence[Sequence[bool]],
    session: Session,
) -> dict[str, _Inputs]:
    """One forward pass over the rows with ``targets`` hooked, whose weights have these norms; of a source and its target one
    row at a time, as some modules see the one and some the other.

    Raises:
        OutOfMemory: not even one row fits.
    """
    found = {target.name: _Inputs() for target in targets}
    most = 1 if loaded.task == "seq2seq" else loaded.at_once(max(1, BATCH_TOKENS // max(row.length for row in rows)))
    start = 0
    while start < len(rows):
        session.check()
        some = rows[start : start + most]
        batch = collate(some, loaded)
        batch.pop("labels")
        longest = max(row.length for row in some)
        real = torch.tensor([[t < row.length for t in range(longest)] for row in some], device=loaded.device)
        kept = torch.tensor([[*k, *[False] * (longest - len(k))] for k in keep[start : start + most]], device=loaded.device)
        try:
            with _hooked(loaded.model, targets, real, kept) as seen:
                loaded.model(**batch)
        except (MemoryError, RuntimeError) as error:
            most = fewer_rows(error, len(some), max(row.length for row in some), session)
            continue
        for name, inputs in seen.items():
            found[name].add(inputs)
        start += len(some)
    return found


@contextmanager
def _hooked(
    model: nn.Module, targets: Mapping[Target, float], real: torch.Tensor, kept: torch.Tensor
) -> Iterator[Mapping[str, _Inputs]]:
    """Collects what each target sees in one forward pass; ``real`` and ``kept`` [examples, tokens] say which tokens are no
    padding, and which of them EVA looks at. A module that sees other tokens than these, as an expert does, counts them all; of
    a single row it may see fewer.
    """
    seen = {target.name: _Inputs() for target in targets}

    def hook(target: Target) -> Any:
        def record(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].reshape(-1, target.in_features).float()
            if module.bias is not None:
                with fetched(module):
                    output = output - module.bias
            features = output.reshape(-1, target.out_features).float()
            seen_of = len(x) if len(real) == 1 else None
            used, wanted = real[:, :seen_of].flatten().to(x.device), kept[:, :seen_of].flatten().to(x.device)
            if len(x) != len(used):
                used = wanted = torch.ones(len(x), dtype=torch.bool, device=x.device)
            ratios = norm_ratios(x[used], features[used], targets[target])
            seen[target.name].add(_Inputs(float(ratios.double().sum()), len(ratios), [x[wanted]]))

        return record

    handles = [model.get_submodule(target.name).register_forward_hook(hook(target)) for target in targets]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
