"""Probes that the command line made once, for the tests of the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Made, advisor, write_data

TASKS = {"bert": "classification", "llama": "causal-lm"}


@pytest.fixture(scope="module")
def made(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, own_folders: Path) -> Callable[[str], Made]:
    """``made("bert")``: model, data, and the probe of both, made by the command line once."""
    found: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in found:
            folder, task = tmp_path_factory.mktemp(name), TASKS[name]
            model, data = tiny_model(name, task), write_data(folder, task)
            ran = advisor("probe", model, "--data", data, "--samples", 24, "--device", "cpu", "--out", folder / "probe", "--json")
            assert ran.code == 0, ran.err
            found[name] = Made(model, data, folder / "probe", task, json.loads(ran.out))
        return found[name]

    return make


@pytest.fixture(scope="module")
def bert(made: Callable[[str], Made]) -> Made:
    return made("bert")
