"""``--keep`` and ``--max-forgetting``: from the command line to the files, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import advisor, refused, write_data

TinyModel = Callable[..., Path]
QUICK = ("--samples", 16, "--device", "cpu")

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def llama(tiny_model: TinyModel) -> Path:
    return tiny_model("llama", "causal-lm")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path, "causal-lm")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.jsonl"
    turns = [("user", "a good story"), ("assistant", "a fine film")]
    rows = [{"messages": [{"role": role, "content": f"{text} {i}"} for role, text in turns]} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_pick_says_what_it_disturbs(llama: Path, data: Path, old: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    given = (llama, "--data", data, "--keep", old, "--max-forgetting", 1000, *QUICK)
    ran = advisor("recommend", *given, "--out", out, "--verbose")
    assert ran.code == 0, ran.err
    assert "disturbs" in ran.out
    assert "at most +1000 was allowed" in ran.out
    shown = json.loads((out / "recommendation.json").read_text())
    assert shown["max_forgetting"] == 1000
    for entry in (shown["pick"], *shown["equal_budget"], *shown["front"]):
        assert entry["disturbs"]["kl"] > 0
    assert "Rows to keep" in (out / "lora.yaml").read_text()
    assert advisor("export", out, "--format", "peft", "--out", tmp_path / "e").code == 0


def test_a_probe_brings_its_rows_to_keep(llama: Path, data: Path, old: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "p", ("--out", tmp_path / "r")
    ran = advisor("probe", llama, "--data", data, "--keep", old, *QUICK, "--out", folder)
    assert ran.code == 0, ran.err
    assert json.loads((folder / "probe.json").read_text())["keep"]["rows"] == 9
    slow, fast = (advisor("recommend", folder, "--lr", rate, "--json", "--out", tmp_path / f"r{rate}") for rate in (1e-5, 1e-3))
    disturbed = [json.loads(ran.out)["pick"]["disturbs"]["kl"] for ran in (slow, fast)]
    assert disturbed[0] < 0.01 * disturbed[1]
    assert "--keep" in refused(2, "recommend", folder, "--keep", old, *out)


def test_what_has_nothing_to_keep_is_refused(llama: Path, data: Path, old: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "r")
    assert "needs rows to keep" in refused(2, "recommend", llama, "--data", data, "--max-forgetting", 1, *QUICK, *out)
    labelled = write_data(tmp_path, "classification")
    error = refused(2, "recommend", tiny_model("bert"), "--data", labelled, "--keep", old, *QUICK, *out)
    assert "--keep" in error
    error = refused(2, "recommend", llama, "--data", data, "--keep", tmp_path / "none.jsonl", *QUICK, *out)
    assert "none.jsonl" in error
    assert "--data" not in error
