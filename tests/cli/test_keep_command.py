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
    assert "at most +1000 was allowed for the pick" in ran.out
    shown = json.loads((out / "recommendation.json").read_text())
    assert shown["max_forgetting"] == 1000
    for entry in (shown["pick"], *shown["equal_budget"], *shown["front"]):
        assert entry["disturbs"]["kl"] > 0
    assert shown["trade_off"]
    assert "at most +1000 was allowed for the pick" in (out / "lora.yaml").read_text()
    page = (out / "report.html").read_text()
    assert "Task against rows to keep" in page
    assert '<th scope="col">disturbs</th>' in page
    assert "Task against rows to keep" in (out / "report.md").read_text()
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


def test_a_classifier_keeps_rows_of_another_kind(tiny_model: TinyModel, old: Path, tmp_path: Path) -> None:
    data, out = write_data(tmp_path, "classification"), tmp_path / "r"
    given = (tiny_model("bert"), "--data", data, "--keep", old, *QUICK)
    assert "ranked real runs too unevenly" in refused(2, "recommend", *given, "--max-forgetting", 1000, "--out", out)
    ran = advisor("recommend", *given, "--out", out)
    assert ran.code == 0, ran.err
    assert "disturbs" in ran.out
    shown = json.loads((out / "recommendation.json").read_text())
    picks = [peer for peer in shown["peers"].values() if "reason" not in peer]
    for entry in (shown["pick"], shown["all_linear"], *shown["equal_budget"], *shown["front"], *picks):
        assert entry["disturbs"]["drift"] > 0
        assert entry["disturbs"]["cap"] >= 0
    assert "of its variance between the rows" in (out / "lora.yaml").read_text()
    assert "trade_off" not in shown
    assert '<th scope="col">disturbs</th>' in (out / "report.html").read_text()
    assert "nothing is chosen by it" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("name", "task", "fields"), [("bert", "classification", 1), pytest.param("llama", "causal-lm", 3, marks=pytest.mark.slow)]
)
def test_calibration_measures_what_runs_forget(
    tiny_model: TinyModel, old: Path, tmp_path: Path, name: str, task: str, fields: int
) -> None:
    data, out = write_data(tmp_path, task), tmp_path / "c"
    given = (tiny_model(name, task), "--data", data, "--epochs", 1, "--train-rows", 16, "--eval-rows", 8, "--device", "cpu")
    ran = advisor("calibrate", *given, "--keep", old, "--runs", 4, "--out", out)
    assert ran.code == 0, ran.err
    assert "No interval: it takes 19 selections." in ran.err
    results = [json.loads(line)["result"] for line in (out / "runs.jsonl").read_text().splitlines()]
    assert [len(result["kept"]) for result in results] == [fields] * 4
    found = json.loads((out / "forgetting.json").read_text())
    assert len(found["names"]) == len(found["predicted"]) == len(found["real"]) == 3  # one adapts nothing
    assert found["errors"] is None
    if task == "classification":
        assert results[0]["kept"]["drift"] < 1e-9
        assert all(result["kept"]["drift"] > 0 for result in results[1:])
    else:
        assert found["real"][0] == pytest.approx(results[1]["kept"]["after"] - results[1]["kept"]["before"])
    assert "keep fingerprint" in refused(2, "calibrate", *given, "--keep", data, "--runs", 4, "--out", out)


def test_what_has_nothing_to_keep_is_refused(llama: Path, data: Path, old: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "r")
    assert "needs rows to keep" in refused(2, "recommend", llama, "--data", data, "--max-forgetting", 1, *QUICK, *out)
    alike = tmp_path / "alike.jsonl"
    alike.write_text('{"text": "a film"}\n' * 5)
    labelled = write_data(tmp_path, "classification")
    error = refused(2, "recommend", tiny_model("bert"), "--data", labelled, "--keep", alike, *QUICK, *out)
    assert "alike" in error
    assert "--keep" in error
    error = refused(2, "recommend", llama, "--data", data, "--keep", tmp_path / "none.jsonl", *QUICK, *out)
    assert "none.jsonl" in error
    assert "--data" not in error
