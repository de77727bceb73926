"""How much memory a probe will need at its peak, from two small forward passes; said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from advisor.core.recipe import LANGUAGE_TASKS
from advisor.models.encode import EncodedRow
from advisor.models.load import LoadedModel
from advisor.models.tables import output_table
from advisor.probing import gram
from advisor.probing.peer_scores import BATCH_TOKENS, EVA_BYTES, EVA_TOKENS
from advisor.probing.spool import Spool

RECOMPUTED_BLOCK = 2.0  # what a block keeps while it runs again, as a multiple of its modules' x and g: a guess
HEAP = 1.6  # resident bytes for each that is alive, on a CPU: the allocator keeps part of what is freed (benchmarks/memory.py)


@dataclass(frozen=True)
class Kept:
    """What a forward pass leaves, in bytes: once, and for each padded token.

    Attributes:
        graph: all that is kept for the backward pass, captured inputs among it; only outside the blocks if these are
            recomputed.
        inputs: the captured inputs, those that modules share once. own: the same, one for each module.
        gradients: of all modules' outputs, for one scalar.
    """

    graph: tuple[float, float]
    inputs: tuple[float, float]
    own: tuple[float, float]
    gradients: tuple[float, float]


def measure_kept(loaded: LoadedModel, spool: Spool) -> Kept:
    """By a pass of one row of middling length and one of two."""
    middle = max(0, min(len(spool.rows) // 2, len(spool.rows) - 2))
    one, two = spool.rows[middle : middle + 1], spool.rows[middle : middle + 2]
    if len(two) == 1:  # there are no two rows
        two = [*one, *one]
    found = np.array([_alive(loaded, spool, rows) for rows in (one, two)], dtype=np.float64)
    tokens = [_padded(len(rows), rows[-1].length) for rows in (one, two)]
    per_token = (found[1] - found[0]) / (tokens[1] - tokens[0])
    once = found[0] - per_token * tokens[0]
    return Kept(*zip(once.tolist(), per_token.tolist(), strict=True))


def _padded(rows: int, longest: int) -> int:
    return rows * max(1, longest)


def _alive(loaded: LoadedModel, spool: Spool, rows: Sequence[EncodedRow]) -> tuple[int, int, int, int]:
    """After a forward pass over ``rows``: the numbers of :class:`Kept`."""
    weights = {t.untyped_storage().data_ptr() for t in (*loaded.model.parameters(), *loaded.model.buffers())}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        fetched = isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter)
        storage = tensor.untyped_storage()
        if not fetched and storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor.detach()

    with (
        spool.capturing(loaded, spool.layers) as capture,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        outputs = spool.forward(loaded, capture, rows)
        inputs = capture.held()
        total = sum(storage.nbytes() for storage in {**held, **inputs}.values())
        del outputs
        return total, sum(storage.nbytes() for storage in inputs.values()), *capture.sizes()


def peak_bytes(loaded: LoadedModel, spool: Spool, kept: Kept) -> float:
    """Bytes above what is used now: the larger of the passes over the largest micro-batch and the contraction.

    While the backward pass goes on, what the graph keeps becomes less and the gradients more; those of further scalars
    come on top. A sketch keeps one module's at a time.
    """
    item, layers = loaded.dtype.itemsize, spool.layers
    most = 0.0
    for rows, longest in spool.micro_batches(loaded):
        tokens = _padded(rows, longest)
        graph, inputs, own, gradients = (once + each * tokens for once, each in _growths(kept))
        short_lived = _logit_copies(loaded, tokens)
        if spool.recompute or loaded.offloaded:  # then the graph is what lies outside the blocks
            count = max(1, len(loaded.blocks))
            graph += own / len(layers) * count
            block = RECOMPUTED_BLOCK * (own + gradients) / count + (_weights_of_a_block(loaded) if loaded.offloaded else 0)
            short_lived = max(short_lived, block)
        if spool.sketch_size is None:
            gradients *= spool.scalars
            # A token that learns nothing is left out of x, which then is no longer shared.
            left = own if loaded.task in LANGUAGE_TASKS else inputs
            passes = max(graph + gradients * (spool.scalars - 1) / spool.scalars + short_lived, left + gradients)
        else:
            passes = graph + short_lived + 4 * rows * spool.scalars * len(layers) * spool.sketch_size**2
        most = max(most, passes)
    n, tokens = len(spool.rows), sum(row.length for row in spool.rows)
    stored = 2 * 4 * n * n * len(layers)
    if spool.sketch_size is None:
        widest = max(layer.slots * (layer.in_features + spool.scalars * layer.out_features) for layer in layers)
        tile = min(gram.TILE_FLOATS, n * max(layer.in_features * layer.out_features for layer in layers))
        contraction = tokens * widest * (item + (4 if item != 4 else 0)) + 4 * tile + 4 * n * n
    else:
        contraction = 2 * 4 * n * spool.scalars * spool.sketch_size**2
    return float(max(most, contraction + stored))


def linearity_bytes(loaded: LoadedModel, spool: Spool, kept: Kept, rows: Sequence[EncodedRow], batch: int, rank: int) -> float:
    """Bytes above what is used now while linearity is measured on ``rows``, ``batch`` at once: a float32 copy of the model,
    three Jacobians in LoRA's B of all modules and the head, and one pass, whose graph stays for all directions."""
    directions = spool.outputs.count
    tokens = _padded(batch, max(row.length for row in rows))
    moved = sum(t.b_params(rank) for t in loaded.targets)
    moved += sum(p.numel() for name in loaded.head for p in loaded.model.get_submodule(name).parameters())
    graph, _, _, gradients = (once + each * tokens for once, each in _growths(kept))
    one_pass = graph + max(gradients * directions, _logit_copies(loaded, tokens))
    return float(4 * loaded.parameters + one_pass + 3 * 4 * len(rows) * directions * moved)


def peers_bytes(loaded: LoadedModel, rows: Sequence[EncodedRow]) -> float:
    """Bytes above what is used now while the peers' scores are measured on ``rows``: the inputs that EVA looks at, and the
    output of one forward pass."""
    read = sum(row.length for row in rows)
    inputs = 4 * min(read, EVA_TOKENS) * sum(t.in_features for t in loaded.targets if not t.experts)
    return float(min(inputs, EVA_BYTES) + loaded.dtype.itemsize * min(read, BATCH_TOKENS) * _logits(loaded))


def resident_bytes(device: torch.device, alive: float) -> float:
    """What ``alive`` bytes make the process hold; on a GPU, where it was not measured, the same."""
    return alive if device.type == "cuda" else HEAP * alive


def _weights_of_a_block(loaded: LoadedModel) -> float:
    """Bytes of what is fetched at once, at most."""
    return loaded.dtype.itemsize * loaded.parameters / max(1, len(loaded.blocks))


def _growths(kept: Kept) -> tuple[tuple[float, float], ...]:
    return kept.graph, kept.inputs, kept.own, kept.gradients


def used_now(device: torch.device) -> int:
    """Bytes that this process holds: of GPU memory where it computes there, else of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _logit_copies(loaded: LoadedModel, tokens: int) -> float:
    """Bytes of the logits' gradients and short-lived copies."""
    return 3 * 4 * tokens * _logits(loaded)


def _logits(loaded: LoadedModel) -> int:
    """Outputs of a token: the vocabulary of a language model, else next to none."""
    output = output_table(loaded.model) if loaded.task in LANGUAGE_TASKS else None
    return 0 if output is None else int(output.weight.shape[0])
