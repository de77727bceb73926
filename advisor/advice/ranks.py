"""Ranks of their own for the modules of a selection, under the parameters that the common rank would take (no torch).

Which spectrum says what rank a module needs? What LoRA has to realise there is a weight change D = Σ_t g_t x_tᵀ = GᵀX, X
[tokens, a] the module's inputs and G [tokens, b] its output gradients, weighted by whatever training makes of the examples.
Rank r leaves out at least Σ_{k>r} σ_k(D)² of ‖D‖² (Eckart and Young), so the singular values of D decide.

- The Gram block G_m over examples does not know them. One example whose tokens differ has an effective rank of 1 there and a
  D of rank up to its tokens; n examples with orthogonal inputs and one common output gradient have an effective rank of n
  there and a D of rank 1. It bounds the rank of D in neither direction. What it does know is the size: 1ᵀG_m1 = ‖D‖² of
  the mean loss.
- The spectrum of the inputs does: σ_k(GᵀX) ≤ σ_1(G)·σ_k(X) (Horn), for every G at once, so also for the ones that come
  later in training. λ_k(XᵀX) bounds how fast the singular values of D may fall. The probe holds it for EVA (centred, which
  moves it by at most one direction).

So rank k of module m is worth u_m·ρ_mk: ρ_mk the share of direction k in the variance of the inputs, and u_m = √(b/a)·‖D_m‖,
the first-order decrease of the loss by a step of Adam that moves B alone (docs/design.md 2.3: |⟨K̃_m, ∇ℓ∇ℓᵀ⟩| at any rank, up to a
factor common to all modules). A greedy choice by worth a parameter is best up to the last rank, as ρ_mk falls with k. EVA's
own redistribution is the same with u_m·/(a+b) left out: it cannot tell a module that the loss never asks to move.

What that is worth is another matter. Under Adam with the same alpha the first-order kernel does not depend on the rank
(without rsLoRA): ranks matter by capacity alone. With the same scale alpha/r, which is what is kept here, the kernel of a module
grows with its rank, so its weights also move faster. In 48 real runs (``benchmarks/ranks.py``: MiniLM, two tasks, two
selections, three seeds) capacity alone changed nothing, log loss +0.00 (95 % interval -0.02 to +0.03); with the scale kept it
fell by 0.05 (0.00 to 0.09), all of it on one task, and accuracy did not move. So one rank stays the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from advisor.advice.peer_picks import EVA, gradient_norms, measured
from advisor.core.candidate import Candidate
from advisor.core.choices import AUTO
from advisor.core.errors import BadInput
from advisor.core.probe import PROBE_AGAIN, Probe
from advisor.core.targets import Target
from advisor.core.tasks import TASKS
from advisor.theory.kernels import Array

MOST = 4  # times the common rank
SERVED, SERVED_AT_MOST = (8, 16, 32, 64, 128, 256, 320, 512), 16  # vLLM's --max-lora-rank, and its default


def auto_ranks(probe: Probe) -> Callable[[Candidate], Candidate]:
    """A function that gives the modules of a candidate ranks of their own, at no more parameters than it has.

    Every module keeps a rank of at least 1, and its scale: alpha follows.

    Raises:
        BadInput: the probe holds no spectra of inputs.
    """
    values = rank_values(probe)
    index = {t.name: i for i, t in enumerate(probe.targets)}

    def spread(candidate: Candidate) -> Candidate:
        names, settings = candidate.selection.targets, candidate.settings
        chosen = [index[name] for name in names]
        costs = rank_costs([probe.targets[i] for i in chosen])
        budget = sum(candidate.module_settings(name).rank * int(cost) for name, cost in zip(names, costs, strict=True))
        found = dict(zip(names, allocate(values[chosen, : MOST * settings.rank], costs, budget).tolist(), strict=True))
        ranks = {name: rank for name, rank in found.items() if rank != settings.rank}
        alphas = {name: settings.at_rank(rank).alpha for name, rank in ranks.items()}
        return replace(candidate, ranks=ranks, alphas=alphas)

    return spread


def rank_values(probe: Probe) -> Array:
    """u_m·ρ_mk of every module and rank, [M, 64], falling along k; see the module's docstring.

    A module whose inputs were not measured gets the mean spectrum of the others.

    Raises:
        BadInput: no module's were.
    """
    shares = measured(probe, EVA)
    if shares is None:
        raise BadInput(f"--rank {AUTO}: the probe holds no spectra of the modules' inputs.", f"Give a number. Or: {PROBE_AGAIN}")
    shares = np.where(np.isnan(shares), np.nanmean(shares, axis=0), shares)
    full = np.array([min(t.in_features, t.out_features) for t in probe.targets])
    shares = np.where(np.arange(shares.shape[1]) < full[:, None], shares, 0.0)  # no weight has a higher rank
    shape = np.array([t.out_features / t.in_features for t in probe.targets])
    return np.asarray((np.sqrt(shape) * gradient_norms(probe))[:, None] * shares)


def rank_costs(targets: Sequence[Target]) -> NDArray[np.int64]:
    """LoRA parameters of one rank of each module, a + b."""
    return np.array([t.lora_params(1) for t in targets], dtype=np.int64)


def allocate(values: Array, costs: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Ranks [M] of at least 1 that spend at most ``budget``, greedily by value a parameter.

    A module whose values rise gets no lower rank for it. Among equals the lowest rank comes first, then the first module.

    Args:
        values: of rank k of module m, [M, K], falling along k, not negative. costs: of one rank, [M].

    Raises:
        ValueError: the budget is below one rank a module.
    """
    ranks = np.ones(len(costs), dtype=np.int64)
    left = budget - int(costs.sum())
    if left < 0:
        raise ValueError(f"{budget} is below one rank a module, {int(costs.sum())}")
    worth = values / costs[:, None]
    modules, directions = np.indices(worth.shape)
    order = np.lexsort((modules.ravel(), directions.ravel(), -worth.ravel()))
    for module, direction in zip(modules.ravel()[order], directions.ravel()[order], strict=True):
        if direction and direction == ranks[module] and costs[module] <= left:
            ranks[module] += 1
            left -= int(costs[module])
    return ranks


def serving_note(largest: int, task: str) -> str | None:
    """What serving an adapter of this largest rank with vLLM takes; None where its default does.

    Of decoders only: vLLM takes no adapter that trains a head in full, as those of classifiers do, and no encoder-decoder.
    """
    if task not in TASKS or TASKS[task].task_type != "CAUSAL_LM" or largest <= SERVED_AT_MOST:  # verify knows a task more
        return None
    limit = next((rank for rank in SERVED if rank >= largest), None)
    if limit is None:
        return f"The largest rank is {largest}: vLLM serves none above {SERVED[-1]}."
    return f"The largest rank is {largest}: vLLM serves up to {SERVED_AT_MOST} by default, so give it --max-lora-rank {limit}."
