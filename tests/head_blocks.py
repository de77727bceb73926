"""Blocks of a probe with a new head beside those of autograd, for tests of every task whose head reads all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracle

from advisor.core.events import Session
from advisor.core.probe import Probe
from advisor.models.head_input import head_linears
from advisor.models.prepare import Prepared
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings


def assert_blocks_of_autograd(prepared: Prepared, texts: Sequence[Any], kind: str, head: str, folder: Path) -> Probe:
    """Blocks of modules and head, and losses, equal those of float64 autograd, one row at a time; returns the probe."""
    probe = run_probe(prepared, ProbeSettings(head=head, method="materialise", micro_batch=5), folder, Session())
    loaded = prepared.loaded
    heads = tuple(f"{part}." for part in head_linears(loaded))
    own = [n for n, _ in loaded.model.named_parameters() if n.startswith(heads)]
    weights = [f"{t.name}.weight" for t in loaded.targets]
    wanted = oracle.looped_reference(loaded.model, [*weights, *own], texts, *oracle.scalars_of(kind))
    for block, gradient, weight in zip(probe.weight_blocks, probe.gradient_blocks, weights, strict=True):
        assert oracle.relative(block, wanted.weight_block([weight])) < 1e-5
        assert oracle.relative(gradient, wanted.gradient_block([weight])) < 1e-5
    assert probe.head is not None
    assert oracle.relative(probe.head.weight, wanted.weight_block(own)) < 1e-5
    assert np.allclose(probe.losses, wanted.losses, rtol=1e-4)
    return probe
