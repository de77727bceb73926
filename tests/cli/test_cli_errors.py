"""What the command line refuses: one line on stderr that names the cause, and an exit code."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import Made, advisor, refused
from safetensors.numpy import load_file, save_file

from advisor.core.errors import UnusableRow
from advisor.core.reading import sealed
from advisor.core.store import read_json, write_json
from advisor.prediction.calibration_rows import user_rows_folder

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recommend"], "MODEL is missing"),
        (["recommend", "nowhere"], "--data is missing"),
        (["recommend", "nowhere", "--data", "x.csv", "--budget", "lots"], "--budget lots"),
        (["recommend", "nowhere", "--data", "x.csv", "--granularity", "head"], "--granularity head"),
        (["recommend", "nowhere", "--data", "no-such.csv"], "no-such.csv"),
        (["recommend", "nowhere", "--data", "x.csv", "--rank", "0"], "--rank"),
        (["recommend", "nowhere", "--data", "x.csv", "--rank", "many"], "--rank"),
        (["recommend", "nowhere", "--data", "x.csv", "--alpha", "inf"], "--alpha"),
        (["recommend", "nowhere", "--data", "x.csv", "--surprise"], "--surprise"),
        (["probe", "nowhere", "--data", "x.csv"], "--out is missing"),
        (["probe"], "MODEL"),
        (["score", "no-such-probe", "--selections", "s.json"], "no-such-probe"),
        (["compare", "no-such-probe"], "no-such-probe"),
        (["compare", "no-such-probe", "--budget", "0%"], "--budget 0%"),
        (["export", "no-such-folder"], "no-such-folder"),
        (["export", "no-such-folder", "--format", "toml"], "--format toml"),
        (["verify", "no-such.json", "--model", "m"], "no-such.json"),
        (["verify", "no-such.json"], "--model"),
        (["calibrate", "nowhere", "--data", "x.csv"], "--out is missing"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said.lower() in refused(2, *arguments).lower()
    assert list(tmp_path.iterdir()) == []


def test_a_shell_sees_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "advisor.cli.main", "compare", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kernel", "ntk"], "--kernel ntk"),
        (["--sigma", "0"], "--sigma"),
        (["--sigma", "inf"], "--sigma"),
        (["--lr", "inf"], "--lr"),
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--train-rows", "0"], "--train-rows"),
        (["--rank", "-1"], "--rank"),
        (["--baseline", "no-such.json"], "no-such.json"),
    ],
)
def test_bad_options_on_a_good_probe(bert: Made, options: list[str], said: str) -> None:
    assert said in refused(2, "compare", bert.probe, *options)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "selection file is damaged: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("[]", "it should have an entry"),
        ('[{"name": "a", "targets": ["model.nope"]}]', "model.nope"),
        ('[{"name": "a", "targets": [], "colour": 1}]', "colour"),
        ('[{"name": "a", "targets": [], "rank": "8"}]', "rank"),
    ],
)
def test_bad_selection_files(bert: Made, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(content)
    line = refused(2, "score", bert.probe, "--selections", path)
    assert said in line
    assert str(path) in line


def test_a_budget_nothing_fits_is_exit_3(bert: Made, tmp_path: Path) -> None:
    common = ["recommend", bert.model, "--data", bert.data, "--samples", 24, "--device", "cpu", "--out", tmp_path / "r"]
    assert "--budget" in refused(3, *common, "--budget", "10")
    assert "needs about 1 MB" in refused(3, *common, "--budget", "0.001MB")
    assert not (tmp_path / "r").exists()


def test_a_stored_block_that_is_not_finite_is_exit_2(bert: Made, tmp_path: Path) -> None:
    shutil.copytree(bert.probe, tmp_path / "p")
    arrays = load_file(tmp_path / "p" / "blocks.safetensors")
    arrays["weight"][3, 0, 0] = np.nan
    save_file(arrays, tmp_path / "p" / "blocks.safetensors")
    assert "SHA-256" in refused(2, "compare", tmp_path / "p")
    info = read_json(tmp_path / "p" / "probe.json", "probe")
    info["files"]["blocks.safetensors"] = hashlib.sha256((tmp_path / "p" / "blocks.safetensors").read_bytes()).hexdigest()
    write_json(tmp_path / "p" / "probe.json", sealed(info))
    name = bert.probe_json["targets"][3]["name"]
    assert f"weight of module {name} holds NaN" in refused(2, "compare", tmp_path / "p")


def test_an_out_that_cannot_be_a_folder_is_exit_2(bert: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    rest = ["--data", bert.data, "--samples", 24, "--device", "cpu"]
    assert "file" in refused(2, "recommend", bert.model, *rest, "--out", tmp_path / "file")
    assert "file" in refused(2, "probe", bert.model, *rest, "--out", tmp_path / "file" / "deeper")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_file_of_own_rows_is_named_and_left_out(bert: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    user_rows_folder().mkdir(parents=True)
    without = advisor("compare", bert.probe, "--json")
    (user_rows_folder() / "mine.jsonl").write_text('{"schema": 1}\n')
    with pytest.warns(UnusableRow, match=r"mine\.jsonl, line 1"):
        ran = advisor("compare", bert.probe, "--json")
    assert ran.code == 0
    assert ran.out == without.out
