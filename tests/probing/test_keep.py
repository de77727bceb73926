"""Rows whose targets the model draws itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from advisor.models.encode import IGNORED, EncodedRow
from advisor.probing.keep import target_tokens, with_sampled_targets


def test_only_targets_change_and_a_seed_repeats_them(encoded: Callable[..., Any]) -> None:
    prepared, rows = encoded("llama", "causal-lm")
    drawn = with_sampled_targets(prepared.loaded, rows, 0)
    assert drawn == with_sampled_targets(prepared.loaded, rows, 0)
    assert drawn != with_sampled_targets(prepared.loaded, rows, 1)
    for row, other in zip(rows, drawn, strict=True):
        assert other.ids == row.ids
        assert target_tokens(other) == target_tokens(row) > 0
        places = [t for t, label in enumerate(row.token_labels) if t and label != IGNORED]
        assert places == [t for t, label in enumerate(other.token_labels) if label != IGNORED]


def test_targets_are_drawn_from_the_models_own_prediction(encoded: Callable[..., Any]) -> None:
    """Of many copies of one row, against its probabilities with the row alone, without padding."""
    prepared, rows = encoded("llama", "causal-lm")
    loaded, count = prepared.loaded, 1500
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(20)  # else an untrained model likes all tokens alike
    ids = rows[0].ids[:5]
    row = EncodedRow(ids, token_labels=(IGNORED, *ids[1:]))
    longer = EncodedRow((*ids, ids[0]), token_labels=(IGNORED,) * 5 + (ids[0],))
    drawn = with_sampled_targets(loaded, [row] * count + [longer], 0)[:count]
    with torch.no_grad():
        p = torch.softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0].double(), -1).numpy()
    for t in range(1, 5):
        counts = np.bincount([other.token_labels[t] for other in drawn], minlength=p.shape[1])
        expected = p[t - 1] * count
        large = expected > 5
        assert large.any()
        assert (np.abs(counts - expected)[large] < 5 * np.sqrt(expected[large])).all()
