"""What a probe says of its memory, against what is alive and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

from advisor.models.encode import EncodedRow
from advisor.models.load import LoadedModel, load_model
from advisor.probing import memory_estimate as probe_memory
from advisor.probing.memory_estimate import linearity_bytes, measure_kept, peak_bytes, peers_bytes
from advisor.probing.method import probed_layers
from advisor.probing.outputs import make_outputs
from advisor.probing.spool import Spool

WIDTH, INNER, LAYERS = 24, 40, 3  # of the tiny Llama


def at(growth: tuple[float, float], tokens: int) -> float:
    return growth[0] + growth[1] * tokens


def largest_alive(do: Callable[[], object]) -> int:
    """Most bytes that torch holds at once, on a CPU, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        do()
    changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns())]).max())


@pytest.fixture
def llama(tiny_model: Callable[..., Path]) -> LoadedModel:
    return load_model(str(tiny_model("llama", "causal-lm")), "causal-lm", device="cpu")


@pytest.fixture
def passes(llama: LoadedModel, tmp_path: Path) -> Spool:
    ids = tuple(10 + i % 50 for i in range(20))
    rows = [EncodedRow(ids, None, 0.0, ids)] * 30
    return Spool(tmp_path, rows, probed_layers(llama, 0), make_outputs("causal-lm", 0, 0), 0.0, 1.0, None, None)


def test_what_is_alive_follows_from_two_small_passes(llama: LoadedModel, passes: Spool) -> None:
    kept = measure_kept(llama, passes)
    graph, inputs, own, gradients = probe_memory._alive(llama, passes, passes.rows[:7])
    tokens, outs = 7 * 20, sum(t.out_features for t in llama.targets)
    assert at(kept.graph, tokens) == pytest.approx(graph, rel=0.02)
    assert graph > inputs
    # q, k and v read one tensor, gate and up another
    assert at(kept.inputs, tokens) == pytest.approx(inputs) == LAYERS * (3 * WIDTH + INNER) * tokens * 4
    assert at(kept.own, tokens) == pytest.approx(own) == LAYERS * (6 * WIDTH + INNER) * tokens * 4
    assert at(kept.gradients, tokens) == pytest.approx(gradients) == outs * tokens * 4


def test_exact_passes_hold_all_gradients_and_sketches_one_modules(llama: LoadedModel, passes: Spool) -> None:
    kept = measure_kept(llama, passes)
    outs = sum(t.out_features for t in llama.targets)
    logits = 3 * 4 * llama.model.config.vocab_size
    small = replace(passes, rows=passes.rows[:2], micro_batch=2)  # so that the passes are the peak
    exact, sketch = (peak_bytes(llama, replace(small, sketch_size=size), kept) for size in (None, 1))
    graph = at(kept.graph, 40)
    both = at(kept.own, 40) + 2 * 40 * 4 * outs  # at the end, of two scalars
    assert exact == pytest.approx(max(graph + 40 * (4 * outs + logits), both))
    assert sketch == pytest.approx(graph + 2 * 20 * logits + 2 * 2 * len(llama.targets) * 4)
    recomputed = replace(small, sketch_size=1, recompute=True)
    outside = measure_kept(llama, recomputed)
    assert at(outside.graph, 40) < at(kept.graph, 40) / 2
    own, both = at(kept.own, 40), at(kept.own, 40) + 4 * 40 * outs
    features = 2 * 2 * len(llama.targets) * 4
    block_inputs, block = own / len(llama.targets) * LAYERS, probe_memory.RECOMPUTED_BLOCK * both / LAYERS
    expected = at(outside.graph, 40) + block_inputs + max(block, 40 * logits) + features
    assert peak_bytes(llama, recomputed, outside) == pytest.approx(expected)


def test_linearity_needs_a_float32_copy_and_three_jacobians(llama: LoadedModel, passes: Spool) -> None:
    kept = measure_kept(llama, passes)
    outs = sum(t.out_features for t in llama.targets)
    logits = 3 * 4 * llama.model.config.vocab_size
    wanted = 4 * llama.parameters + at(kept.graph, 160) + 160 * max(4 * outs, logits) + 3 * 4 * 16 * 8 * outs
    assert linearity_bytes(llama, passes, kept, passes.rows[:16], 8, 8) == pytest.approx(wanted)


def test_peers_need_the_inputs_that_eva_looks_at_and_one_output(llama: LoadedModel, passes: Spool) -> None:
    widths = LAYERS * (6 * WIDTH + INNER)
    assert peers_bytes(llama, passes.rows[:5]) == 4 * 100 * (widths + llama.model.config.vocab_size)


@pytest.mark.parametrize("method", [None, 8])
def test_a_pass_holds_as_much_as_is_said(llama: LoadedModel, passes: Spool, method: int | None) -> None:
    some = replace(passes, rows=passes.rows[:16], sketch_size=method)
    estimate = peak_bytes(llama, some, measure_kept(llama, some))
    with some.capturing(llama, some.layers) as capture:
        assert largest_alive(lambda: some._micro_batch(llama, capture, some.rows)) == pytest.approx(estimate, rel=0.1)
