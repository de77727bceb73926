"""The real runs of ``--confirm``: made by workers, resumed, some of them failing; and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from command import advisor, refused, write_data
from fakes import candidate, make_probe, one_thread, run_row

from advisor import real_runs
from advisor.advice import recommend as recommend_module
from advisor.core.candidate import Candidate, RealRun
from advisor.core.errors import BadInput, Interrupted, NotFinite
from advisor.core.events import Event, Session, Warn
from advisor.core.recipe import TrainingRecipe
from advisor.models.prepare import Source
from advisor.training import runs as calibrate_module
from advisor.training.runner import PlannedRun

pytestmark = pytest.mark.usefixtures("own_folders")

# --- through calibrate's machinery ------------------------------------------------------------------------------------


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Runs take no time, and end with the error that is put here by the name of their selection."""
    fails: dict[str, Exception] = {}
    numbers: dict[str, int] = {}

    def do(run: PlannedRun) -> dict[str, Any]:
        if run.selection.name in fails:
            raise fails[run.selection.name]
        loss = numbers.setdefault(run.key, len(numbers) + 1) / 10
        return run_row(run, val_loss=loss)

    monkeypatch.setattr(calibrate_module, "Runner", lambda *_: do)
    monkeypatch.setattr(calibrate_module, "processes", one_thread)
    return fails


@pytest.fixture(scope="module")
def three() -> list[Candidate]:
    probe = make_probe(n=32, layers=2)
    return [candidate(probe, [i], name=name) for i, name in enumerate("abc")]


@pytest.mark.parametrize("error", [NotFinite("b: the training loss is nan in epoch 1."), BrokenProcessPool("ended")])
def test_a_run_that_fails_stops_no_other(
    three: list[Candidate], tmp_path: Path, fake_runs: dict[str, Exception], error: Exception
) -> None:
    events: list[Event] = []
    fake_runs["b"] = error
    run_all = real_runs.real_runs(Source("m", "d"), {}, TrainingRecipe(), tmp_path, 2, Session(emit=events.append))
    a, b, c = run_all(three)
    assert isinstance(a, RealRun)
    assert isinstance(c, RealRun)
    assert (a.candidate.selection.name, c.candidate.selection.name) == ("a", "c")
    assert a.loss != c.loss
    assert isinstance(b, str)
    assert ("nan in epoch 1" in b) if isinstance(error, NotFinite) else ("process died" in b)
    (warning,) = (e for e in events if isinstance(e, Warn))
    assert "The real run of b failed and is left out" in warning.text
    fake_runs.clear()
    assert run_all(three) == [a, b, c]  # resumed, the failure too


def test_other_errors_and_stopping_are_not_swallowed(
    three: list[Candidate], tmp_path: Path, fake_runs: dict[str, Exception]
) -> None:
    for error in (Interrupted("Stopped."), BadInput("another model")):
        fake_runs["b"] = error
        with pytest.raises(type(error)):
            real_runs.real_runs(Source("m", "d"), {}, TrainingRecipe(), tmp_path, 1, Session())(three)


@pytest.mark.usefixtures("fake_runs")
def test_runs_are_told_apart_by_their_keys(three: list[Candidate], tmp_path: Path) -> None:
    """Rows of earlier runs in the folder are not mistaken for those asked for now."""
    run_all = real_runs.real_runs(Source("m", "d", seed=3), {}, TrainingRecipe(), tmp_path, 1, Session())
    first, second, third = three
    (a,) = run_all([first])
    (b,) = run_all([second])
    again = run_all([third, first])
    assert isinstance(a, RealRun)
    assert isinstance(b, RealRun)
    assert [r.candidate.selection.name for r in again if isinstance(r, RealRun)] == ["c", "a"]
    assert (a.metric, a.wall_s) == (0.9, 3.0)
    assert a.loss != b.loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confirm", "-1"], "--confirm must be a whole number from 0"),
        (["--confirm", "2", "--confirm-rows", "0"], "--confirm-rows must be a whole number from 4"),
        (["--confirm", "2", "--workers", "0"], "--workers must be a whole number from 1"),
        (["--confirm-rows", "8"], "--confirm-rows needs real runs"),
        (["--confirm", "2", "--strategy", "objective"], "--strategy objective"),
    ],
)
def test_bad_options(arguments: list[str], message: str) -> None:
    assert message in refused(2, "recommend", "nowhere", "--data", "x.csv", *arguments)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The worker is a thread of this process; names of the runs begun. Everything else is as in real ones."""
    begun: list[str] = []
    one_run = calibrate_module.Runner._row

    def noted(self: calibrate_module.Runner, run: PlannedRun) -> dict[str, Any]:
        begun.append(run.selection.name)
        return one_run(self, run)

    monkeypatch.setattr(calibrate_module.Runner, "_row", noted)
    monkeypatch.setattr(calibrate_module, "processes", one_thread)
    monkeypatch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    return begun


@pytest.fixture(scope="module")
def bert_command(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    data = write_data(tmp_path_factory.mktemp("data"), "classification")
    return [
        "recommend",
        tiny_model("bert"),
        "--data",
        data,
        "--samples",
        24,
        "--device",
        "cpu",
        "--budget",
        "35%",
        "--rank",
        4,
        "--alpha",
        8,
        "--epochs",
        2,
    ]


def test_from_the_command_line(bert_command: list[object], in_this_process: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r"
    command = [*bert_command, "--confirm", 2, "--confirm-rows", 16, "--out", out]
    ran = advisor(*command, "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out, parse_constant=pytest.fail)
    written = json.loads((out / "recommendation.json").read_text())
    assert written.pop("checksum")
    assert written == shown
    found = shown["confirm"]
    assert [r["role"] for r in found["runs"]] == ["pilot", "pick"]
    assert found["runs"][0]["measured"] >= len(found["finalists"])
    assert [r["name"] for r in found["runs"]] == in_this_process
    assert found["train_rows"] == 16
    assert not found["same_recipe"]
    assert found["recipe"]["epochs"] == 2
    runs = [json.loads(line) for line in (out / "confirm" / "runs.jsonl").read_text().splitlines()]
    assert [r["result"]["val_loss"] for r in runs] == [r["loss"] for r in found["runs"]]
    assert [r["result"]["metric"] for r in runs] == [r["metric"] for r in found["runs"]]
    assert all(r["provenance"]["train_rows"] == 16 and r["seed"] == 0 for r in runs)
    assert shown["pick"]["name"] == found["pick_after"]
    report = (out / "report.md").read_text()
    assert "2 real runs of" in report
    assert "Real runs on 16 training rows" in report
    assert shown["recipe"]["train_rows"] is None
    # the same again: nothing is run twice, the answer is the same
    in_this_process.clear()
    again = advisor(*command, "--verbose")
    assert again.code == 0, again.err
    assert in_this_process == []
    repeated = json.loads((out / "recommendation.json").read_text())
    assert repeated == written | {"checksum": repeated["checksum"]}
    assert shown["linearity"] is None  # nobody asked for it
    assert "Real runs on 16 training rows" in again.out
    assert "Up to 2 real LoRA runs of" in again.err
    # a folder of other runs is refused, not mixed
    assert "another model, data or setting" in refused(2, *command, "--lr", 0.01)
    plain = advisor(*bert_command, "--out", tmp_path / "plain", "--json")
    assert json.loads(plain.out)["confirm"] is None
    assert not (tmp_path / "plain" / "confirm").exists()


def test_at_the_full_recipe_the_numbers_follow_and_a_stop_resumes(
    bert_command: list[object], in_this_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    command = [*bert_command, "--confirm", 2, "--out", out]
    one_run = calibrate_module.Runner._row

    def stopped(self: calibrate_module.Runner, run: PlannedRun) -> dict[str, Any]:
        if in_this_process:
            raise KeyboardInterrupt
        return one_run(self, run)

    monkeypatch.setattr(calibrate_module.Runner, "_row", stopped)
    refused(130, *command)
    assert not (out / "recommendation.json").exists()
    kept = (out / "confirm" / "runs.jsonl").read_bytes()
    assert kept.count(b"\n") == 1
    monkeypatch.setattr(calibrate_module.Runner, "_row", one_run)
    in_this_process.clear()
    ran = advisor(*command, "--json")
    assert ran.code == 0, ran.err
    assert len(in_this_process) == 1
    assert (out / "confirm" / "runs.jsonl").read_bytes().startswith(kept)
    shown = json.loads(ran.out)
    assert shown["confirm"]["same_recipe"]
    picked = shown["pick"]["name"]
    assert shown["pick"]["predicted"]["loss"] == pytest.approx(shown["confirm"]["finalists"][0]["after"])
    assert shown["confirm"]["finalists"][0]["name"] == picked


def test_runs_that_diverge_are_reported_and_the_advice_is_written(
    bert_command: list[object], in_this_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_run = calibrate_module.Runner._row

    def diverging(self: calibrate_module.Runner, run: PlannedRun) -> dict[str, Any]:
        if run.selection.name != "all-linear":
            return one_run(self, run)
        raise NotFinite(f"{run.selection.name}: the training loss is nan in epoch 1.", "Lower --lr.")

    monkeypatch.setattr(calibrate_module.Runner, "_row", diverging)
    out = tmp_path / "r"
    ran = advisor(*bert_command, "--confirm", 2, "--out", out)
    assert ran.code == 0, ran.err
    shown = json.loads((out / "recommendation.json").read_text())
    failed = shown["confirm"]["failed"]
    assert failed
    assert ran.err.count("failed and is left out") == len(failed)
    assert len(failed) + len(shown["confirm"]["runs"]) == 2
    for f in failed:
        assert "loss is" in f["reason"]
        assert f"Left out: the real run of {f['name']} failed" in (out / "report.md").read_text()
        assert shown["pick"]["name"] != f["name"]
    assert (out / "lora.yaml").exists()


@pytest.mark.slow
def test_with_real_workers(bert_command: list[object], tmp_path: Path) -> None:
    ran = advisor(*bert_command, "--confirm", 3, "--workers", 2, "--out", tmp_path / "r", "--json")
    assert ran.code == 0, ran.err
    assert 2 <= len(json.loads(ran.out)["confirm"]["runs"]) <= 3
