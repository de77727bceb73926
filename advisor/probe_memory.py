"""How much memory a probe will need at its peak, from a few small forward passes; said before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch

from advisor import blocks
from advisor.capture import capturing
from advisor.cost import Growth, amount
from advisor.encode import Row
from advisor.models import LoadedModel
from advisor.spool import Spool

UNIT = 16  # tokens
SHAPES = ((2, 1), (4, 1), (2, 2), (2, 3))  # rows and multiples of UNIT: as many as a Growth has numbers


@dataclass(frozen=True)
class Kept:
    """Bytes alive after a forward pass: ``graph`` and captured inputs together, the inputs alone, of them."""

    graph: Growth
    inputs: Growth


def measure_kept(loaded: LoadedModel, spool: Spool) -> Kept:
    """By four forward passes of at most 96 tokens, the rows' own repeated or cut."""
    unit = max(2, min(UNIT, loaded.max_length // 3))
    shapes = [(rows, unit * multiple) for rows, multiple in SHAPES]
    found = np.array([_alive(loaded, spool, b, t) for b, t in shapes])
    design = np.array([[1, b, b * t, b * t * t] for b, t in shapes], dtype=np.float64)
    fits = np.linalg.solve(design, found).T
    graph, inputs = ((float(f[0]), float(f[1]), float(f[2]), float(f[3])) for f in fits)
    return Kept(graph, inputs)


def _alive(loaded: LoadedModel, spool: Spool, batch: int, tokens: int) -> tuple[int, int]:
    def cut(row: Row, length: int) -> Row:
        ids = (row.ids * (length // len(row.ids) + 1))[:length]
        types = None if row.types is None else (0,) * length
        return replace(row, ids=ids, types=types, token_labels=ids if row.token_labels else ())

    rows = [cut(spool.rows[i % len(spool.rows)], tokens - (i == batch - 1)) for i in range(batch)]
    weights = {t.untyped_storage().data_ptr() for t in (*loaded.model.parameters(), *loaded.model.buffers())}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        fetched = isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter)
        storage = tensor.untyped_storage()
        if not fetched and storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor.detach()

    with (
        capturing(loaded.model, [layer.name for layer in spool.layers]) as capture,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        kept = spool.forward(loaded, capture, rows)
        inputs = capture.held()
        total = sum(storage.nbytes() for storage in {**held, **inputs}.values())
        del kept
        return total, sum(storage.nbytes() for storage in inputs.values())


def peak_bytes(loaded: LoadedModel, spool: Spool, kept: Kept) -> float:
    """Bytes above what is used now: the larger of the passes over the largest micro-batch and the contraction.

    While the backward pass goes on, what the graph keeps becomes less and the gradients more; those of further scalars
    come on top. A sketch keeps one module's at a time.
    """
    item = loaded.dtype.itemsize
    widest = max(layer.in_features + layer.out_features for layer in spool.layers)
    outs = sum(layer.out_features for layer in spool.layers)
    ins = sum(layer.in_features for layer in spool.layers)
    most = 0.0
    for rows, tokens in spool.micro_batches(loaded):
        graph, inputs = (amount(growth, rows, tokens) for growth in (kept.graph, kept.inputs))
        if spool.recompute or loaded.offloaded:  # what one block keeps; of the others their inputs
            graph = graph / max(1, len(loaded.blocks)) + inputs
            inputs = 0.0
        logits = 3 * 4 * rows * tokens * _logits(loaded)  # gradients and short-lived copies
        if spool.sketch_size is None:
            gradients = rows * tokens * outs * item * spool.scalars
            # A token that learns nothing is left out of x, which then is no longer shared.
            own = rows * tokens * ins * item if loaded.task == "causal-lm" else inputs
            passes = max(graph + gradients * (spool.scalars - 1) / spool.scalars + logits, own + gradients)
        else:
            features = rows * spool.scalars * len(spool.layers) * 4 * spool.sketch_size**2
            passes = graph + features + logits + 4 * rows * tokens * widest
        most = max(most, passes)
    n, tokens = len(spool.rows), sum(len(row.ids) for row in spool.rows)
    stored = 2 * 4 * n * n * len(spool.layers)
    if spool.sketch_size is None:
        one = max(layer.in_features + spool.scalars * layer.out_features for layer in spool.layers)
        contraction = tokens * one * (item + (4 if item != 4 else 0)) + 4 * blocks.TILE_FLOATS + 4 * n * n
    else:
        contraction = 2 * 4 * n * spool.scalars * spool.sketch_size**2
    return float(max(most, contraction + stored))


def linearity_bytes(loaded: LoadedModel, spool: Spool, kept: Kept, rows: int, batch: int, rank: int) -> float:
    """Bytes above what is used now while linearity is measured on ``rows`` rows: a float32 copy of the model, and three
    Jacobians in LoRA's B of all modules and the head."""
    directions = spool.outputs.count
    longest = max(len(row.ids) for row in spool.rows)
    moved = sum(rank * t.out_features for t in loaded.targets)
    moved += sum(p.numel() for name in loaded.head for p in loaded.model.get_submodule(name).parameters())
    outs = sum(layer.out_features for layer in spool.layers)
    passes = amount(kept.graph, batch, longest) + batch * longest * outs * 4 * directions
    return float(4 * loaded.parameters + passes + 3 * 4 * rows * directions * moved)


def used_now(device: torch.device) -> int:
    """Bytes that this process holds: of GPU memory where it computes there, else of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _logits(loaded: LoadedModel) -> int:
    """Outputs of a token: the vocabulary of a language model, else next to none."""
    output = loaded.model.get_output_embeddings() if loaded.task == "causal-lm" else None
    return 0 if output is None else int(output.weight.shape[0])
