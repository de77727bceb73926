"""What a run did to rows to keep, measured on a model that was moved by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from advisor.core.events import Session
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models.encode import encode
from advisor.models.prepare import with_kept
from advisor.training.finetune import _adapted_copy
from advisor.training.kept import change_of


@pytest.fixture
def kept_path(tmp_path: Path) -> Path:
    path = tmp_path / "keep.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(oracle.WORDS[i : i + 2 + i % 4])}) + "\n" for i in range(11)))
    return path


def moved(prepared: Any) -> Any:
    """An adapted copy whose B is random, with a head of its own."""
    torch.manual_seed(0)
    model = _adapted_copy(prepared.loaded, all_linear(prepared.loaded.targets), LoraSettings(), None, None).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return model


def test_loss_and_divergence_of_a_language_model_row_by_row(ready: Callable[..., Any], kept_path: Path) -> None:
    prepared = with_kept(ready("llama", "causal-lm"), str(kept_path), Session())
    rows, _ = encode(prepared.kept.data, prepared.loaded, prepared.max_length)
    trained = moved(prepared)
    found = change_of(prepared.loaded, trained, rows)
    wanted = []
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            p, q = (torch.log_softmax(m(input_ids=ids).logits[0].double(), -1) for m in (prepared.loaded.model, trained))
        places = [t for t in range(1, len(row.ids)) if row.token_labels[t] >= 0]
        before = -np.mean([float(p[t - 1, row.token_labels[t]]) for t in places])
        after = -np.mean([float(q[t - 1, row.token_labels[t]]) for t in places])
        wanted.append((before, after, np.mean([float((p[t - 1].exp() * (p[t - 1] - q[t - 1])).sum()) for t in places])))
    assert list(found) == ["before", "after", "kl"]
    np.testing.assert_allclose([*found.values()], np.mean(wanted, 0), rtol=1e-4, atol=1e-6)
    assert found["kl"] > 0


def test_a_head_trained_alone_leaves_what_it_reads(ready: Callable[..., Any], kept_path: Path) -> None:
    prepared = with_kept(ready("bert", "binary"), str(kept_path), Session())
    rows, _ = encode(prepared.kept.data, prepared.loaded, prepared.max_length)
    trained = _adapted_copy(prepared.loaded, Selection("head", ()), LoraSettings(), None, None).eval()
    assert change_of(prepared.loaded, trained, rows) == {"drift": 0.0}


@pytest.mark.parametrize(("name", "kind"), [("bert", "binary"), ("roberta", "three"), ("llama", "regression")])
def test_drift_of_what_the_head_reads(ready: Callable[..., Any], kept_path: Path, name: str, kind: str) -> None:
    """The base models' own last states, at the first token of an encoder and at the last one of a decoder."""
    prepared = with_kept(ready(name, kind), str(kept_path), Session())
    loaded = prepared.loaded
    rows, _ = encode(prepared.kept.data, loaded, prepared.max_length)
    trained = moved(prepared)
    read = []
    for model in (loaded.model, trained.base_model.model):
        base, states = model.base_model, []
        for row in rows:
            given = {"input_ids": torch.tensor([row.ids])}
            if row.types is not None:
                given["token_type_ids"] = torch.tensor([row.types])
            with torch.no_grad():
                out = base(**given)
            pooled = getattr(out, "pooler_output", None)
            state = pooled[0] if pooled is not None else out.last_hidden_state[0, -1 if name == "llama" else 0]
            states.append(state.double())
        read.append(torch.stack(states))
    variance = read[0].var(0, correction=0).sum()
    wanted = float(((read[1] - read[0]) ** 2).sum(1).mean() / variance)
    assert change_of(loaded, trained, rows) == {"drift": pytest.approx(wanted, rel=1e-4)}
    assert wanted > 0
