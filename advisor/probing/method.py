"""Exact kernel blocks or sketches of them: what a probe passes over, how it is computed, and what that costs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np

from advisor.core.errors import BadInput, lacks_memory
from advisor.core.events import Session
from advisor.core.targets import LoraSettings
from advisor.models.head_input import head_linears
from advisor.models.load import LoadedModel
from advisor.models.prepare import Prepared
from advisor.probing import gram
from advisor.probing.linear_check import few_rows, uncopyable
from advisor.probing.memory_estimate import linearity_bytes, measure_kept, peak_bytes, peers_bytes, resident_bytes, used_now
from advisor.probing.settings import ProbeSettings
from advisor.probing.spool import Layer, Spool
from advisor.probing.tangent import batch_of

SKETCH_FROM_PARAMETERS = 1_000_000_000
ESTIMATE_ERROR_LAYERS = 8


def probed_layers(loaded: LoadedModel, seed: int) -> list[Layer]:
    """The targets, then the head's linear modules, whose biases count."""
    found = [Layer(t.name, t.in_features, t.out_features, False, 0, t.experts, t.slots) for t in loaded.targets]
    for name in head_linears(loaded):
        linear: Any = loaded.model.get_submodule(name)
        found.append(Layer(name, linear.in_features, linear.out_features, linear.bias is not None, 0))
    return [replace(layer, seed=seed * 1_000_003 + index) for index, layer in enumerate(found)]


def choose_method(spool: Spool, settings: ProbeSettings, prepared: Prepared, session: Session) -> Spool:
    """Exact (``sketch_size`` None) or sketch, by model size and disk, and say what the probe will cost.

    Raises:
        BadInput: an exact method was asked for and its spool does not fit on the disk.
    """
    loaded = prepared.loaded
    needed, free = spool.bytes_needed(loaded.dtype.itemsize), shutil.disk_usage(spool.folder).free
    sketch = settings.method == gram.KRONECKER
    begun = spool.files()
    free += sum(path.stat().st_size for path in begun)  # what a resumed probe has written is part of what it needs
    if settings.method == "auto" and begun:
        sketch = spool.is_sketched()
    elif settings.method == "auto":
        # The kernel of many classes is itself a projection, and exact contraction of it by far the largest cost.
        sketch = spool.outputs.projected or loaded.parameters >= SKETCH_FROM_PARAMETERS or needed > free // 2
    elif not sketch and needed > free:
        raise BadInput(
            f"The exact method needs {needed / 1e9:.1f} GB of disk in {spool.folder}, {free / 1e9:.1f} GB are free.",
            "Use --method kronecker, fewer --samples, or a shorter --max-length.",
        )
    tokens = sum(row.length for row in spool.rows)
    flops = (
        2.0 * tokens * (1 + spool.scalars) * sum(layer.slots * layer.in_features * layer.out_features for layer in spool.layers)
    )
    how = f"Kronecker sketch, k = {settings.sketch_size}" if sketch else f"exact, {needed / 1e9:.2f} GB of disk"
    spool = replace(spool, sketch_size=settings.sketch_size if sketch else None)
    session.note(
        f"Probe: {len(spool.rows)} rows, {tokens} tokens, {len(loaded.targets)} modules; one forward and "
        f"{spool.scalars} backward passes, {flops / 1e12:.2f} TFLOP; {how}; {_peak(spool, settings, prepared)}."
    )
    return spool


def _peak(spool: Spool, settings: ProbeSettings, prepared: Prepared) -> str:
    """In words, the estimated peak memory of this process, with what it holds now."""
    loaded = prepared.loaded
    with_linearity = settings.linearity and not uncopyable(loaded)
    try:
        kept = whole = measure_kept(loaded, spool)
        if with_linearity and spool.recompute:  # which the linearity check does not do
            whole = measure_kept(loaded, replace(spool, recompute=False))
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return "more memory than there is for two rows"
    few = few_rows(prepared, settings)
    more = max(peak_bytes(loaded, spool, kept), peers_bytes(loaded, few))
    if with_linearity:
        more = max(more, linearity_bytes(loaded, spool, whole, few, batch_of(loaded, few), LoraSettings().rank))
    peak = used_now(loaded.device) + resident_bytes(loaded.device, more)
    return f"about {peak / 1e9:.2f} GB of {'GPU ' if loaded.device.type == 'cuda' else ''}memory at the peak"


def estimate_error(spool: Spool, loaded: LoadedModel, session: Session) -> float | None:
    """Median measured error of sketched or projected blocks over a few modules, None for exact blocks."""
    if spool.sketch_size is None and not spool.outputs.projected:
        return None
    step = max(1, len(spool.layers) // ESTIMATE_ERROR_LAYERS)
    errors = spool.estimate_errors(loaded, spool.layers[::step])
    median = float(np.median(list(errors.values())))
    session.note(
        f"Blocks are estimates: median error {median:.1%} (relative Frobenius, measured on {len(errors)} modules and "
        "a few rows against exact blocks)."
    )
    return median
