"""Fixtures of the probe's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
from tangents import ROWS, SETTINGS, Case

from advisor.core.events import Session
from advisor.models.forward import label_scale
from advisor.models.prepare import Prepared, Source, prepare

TinyModel = Callable[..., Path]


@pytest.fixture
def case(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Case]:
    """``case(name, kind, double=True)``: a tiny model and its rows, see :class:`tangents.Case`."""

    def make(name: str, kind: str, double: bool = True, **options: Any) -> Case:
        task, labels = oracle.TASKS.get(kind, "classification"), oracle.CLASSES.get(kind, 1)
        path, rows = oracle.write_rows(tmp_path, kind)
        source = Source(str(tiny_model(name, task, labels)), str(path), eval_data=str(path), task=task, device="cpu")
        prepared: Prepared = prepare(source, Session())
        if double:
            prepared.loaded.model.double()
        texts = oracle.tokenised(prepared.loaded.tokenizer or prepared.loaded.image_processor, rows, kind)[:ROWS]
        scale = label_scale(prepared.train_rows) if task == "regression" else (0.0, 1.0)
        settings = replace(SETTINGS, rslora=name in ("gpt2", "llama"))
        return Case(kind, prepared.loaded, prepared.train_rows[:ROWS], texts, settings, scale)

    return make
