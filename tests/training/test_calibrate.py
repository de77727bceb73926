"""Planning, resuming and refusing calibrations; one small real one end to end."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oracle
import pytest
import torch
from fakes import bert_targets, one_thread, run_row

from advisor.core.errors import AdvisorError, BadInput, Interrupted, NotFinite, OutOfMemory
from advisor.core.events import Event, Progress, Session, Warn
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import HEAD_ONLY
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Source, prepare
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.groups import grouped
from advisor.training import runs as module
from advisor.training.runner import PlannedRun, Runner, short_name
from advisor.training.runs import (
    FAILED_FILE,
    RUNS_FILE,
    calibrate,
    plan_runs,
    read_failures,
    read_runs,
)

TARGETS = bert_targets(4)
SETTINGS = LoraSettings(4, 8)
SOURCE = Source("model", "data.jsonl")
RECIPE = TrainingRecipe(train_rows=10)
QV = ("query", "value")


def plan(runs: int, **options: Any) -> list[PlannedRun]:
    return plan_runs(TARGETS, TARGETS, QV, SETTINGS, runs=runs, **options)


def test_another_folder_is_refused_before_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor import real_runs

    loaded = SimpleNamespace(made_of={}, loaded=SimpleNamespace(task="classification"))
    monkeypatch.setattr(real_runs, "prepare", lambda *_, **__: loaded)
    (tmp_path / RUNS_FILE).write_text("mine", encoding="utf-8")
    options: dict[str, Any] = {"train_rows": 8, "runs": 4, "seeds": 1, "workers": 1, "eval_rows": 6}
    with pytest.raises(BadInput, match="belongs to no runs of ours"):
        real_runs.calibrate_folder(SOURCE, SETTINGS, lambda task: RECIPE, tmp_path, Session(), **options)
    assert [path.name for path in tmp_path.iterdir()] == [RUNS_FILE]


def test_key_tells_runs_apart() -> None:
    run = PlannedRun(Selection("a", ("m",)), SETTINGS, 0)
    assert run.key == PlannedRun(Selection("another name", ("m",)), SETTINGS, 0).key
    others = [
        replace(run, seed=1),
        replace(run, selection=Selection("a", ("n",))),
        replace(run, settings=LoraSettings(8, 8)),
        replace(run, settings=LoraSettings(4, 8, True)),
    ]
    assert len({run.key, *(o.key for o in others)}) == 5


FAILS: dict[str, AdvisorError] = {}  # by the name of the selection


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs take no time; the keys of those begun."""
    begun: list[str] = []

    def do(run: PlannedRun) -> dict[str, Any]:
        begun.append(run.key)
        if run.selection.name in FAILS:
            raise FAILS[run.selection.name]
        return run_row(run)

    monkeypatch.setattr(module, "Runner", lambda *given: do)
    monkeypatch.setattr(module, "processes", one_thread)
    monkeypatch.setattr("test_calibrate.FAILS", {})
    return begun


MADE_OF = {"model_fingerprint": "m", "data_fingerprint": "d", "eval_fingerprint": "e"}


def go(out: Path, planned: list[PlannedRun], session: Session | None = None, **changes: Any) -> list[dict[str, Any]]:
    source = changes.pop("source", SOURCE)
    recipe = changes.pop("recipe", RECIPE)
    return calibrate(source, planned, recipe, out, session or Session(), eval_rows=5, **{"made_of": MADE_OF, **changes})


def test_finished_runs_are_not_done_again(tmp_path: Path, fake_runs: list[str]) -> None:
    planned = plan(6)
    go(tmp_path, planned[:4])
    text = (tmp_path / RUNS_FILE).read_bytes()
    rows = go(tmp_path, planned)
    assert fake_runs == [p.key for p in planned]
    assert (tmp_path / RUNS_FILE).read_bytes().startswith(text)
    assert [r["key"] for r in rows] == [p.key for p in planned]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_cut_off_is_done_again(tmp_path: Path, fake_runs: list[str], cut: int) -> None:
    planned = plan(5)
    go(tmp_path, planned)
    path = tmp_path / RUNS_FILE
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    path.write_bytes(whole[: start + cut] if cut > 0 else whole[:cut])
    fake_runs.clear()
    assert len(go(tmp_path, planned)) == 5
    assert fake_runs == [planned[-1].key]
    assert path.read_bytes() == whole


def test_reading_leaves_a_line_that_is_being_written(tmp_path: Path, fake_runs: list[str]) -> None:
    go(tmp_path, plan(3))
    path = tmp_path / RUNS_FILE
    path.write_bytes(path.read_bytes()[:-5])
    before = path.read_bytes()
    assert len(read_runs(tmp_path)) == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("written", [0, 7])
def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, fake_runs: list[str], monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    go(tmp_path, plan(2))
    before = (tmp_path / RUNS_FILE).read_bytes()

    class Full(io.FileIO):
        def write(self, line: Any) -> int:
            return super().write(line[:written])

    with monkeypatch.context() as patch:
        patch.setattr(module, "open", lambda path, mode, buffering: Full(path, mode), raising=False)
        with pytest.raises(BadInput, match=r"runs\.jsonl: cannot be written: No space left on device: [\d,]+ bytes are needed"):
            go(tmp_path, plan(3))
    assert (tmp_path / RUNS_FILE).read_bytes() == before
    assert len(go(tmp_path, plan(3))) == 3


def test_several_at_one_folder_do_each_run_once(tmp_path: Path, fake_runs: list[str]) -> None:
    found: list[list[str]] = []
    work = lambda: found.append([row["key"] for row in go(tmp_path, plan(6))])  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[run.key for run in plan(6)]] * 3
    assert sorted(fake_runs) == sorted(run.key for run in plan(6))


@pytest.mark.parametrize("name", [RUNS_FILE, FAILED_FILE])
def test_lines_that_are_not_ours_are_left_alone(tmp_path: Path, fake_runs: list[str], name: str) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(BadInput, match=f"{name}: is there already"):
        go(tmp_path, plan(2))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: '{"mine": 1}'}


def test_stopping_keeps_what_is_finished(tmp_path: Path, fake_runs: list[str]) -> None:
    session = Session()

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 3:
            session.cancel.set()

    session.emit = stop
    with pytest.raises(Interrupted):
        go(tmp_path, plan(6), session)
    kept = [row["key"] for row in read_runs(tmp_path)]
    assert 3 <= len(kept) < 6
    fake_runs.clear()
    go(tmp_path, plan(6))
    assert [*kept, *fake_runs] == [p.key for p in plan(6)]


def test_a_run_that_fails_stops_no_other_and_is_not_repeated(tmp_path: Path, fake_runs: list[str]) -> None:
    events: list[Event] = []
    planned = plan(6)
    FAILS.update(
        {
            planned[1].selection.name: NotFinite("The training loss is nan.", "Lower --lr."),
            planned[4].selection.name: OutOfMemory("It does not fit.", "Buy more."),
        }
    )
    rows = go(tmp_path, planned, Session(emit=events.append))
    assert [r["key"] for r in rows] == [planned[i].key for i in (0, 2, 3, 5)]
    failed = read_failures(tmp_path)
    assert list(failed) == [planned[1].key, planned[4].key]
    assert [type(error) for error in failed.values()] == [NotFinite, OutOfMemory]
    assert [(error.what, error.hint) for error in failed.values()] == [
        ("The training loss is nan.", "Lower --lr."),
        ("It does not fit.", "Buy more."),
    ]
    warned = [event.text for event in events if isinstance(event, Warn)]
    assert len(warned) == 2
    assert f"real run of {planned[1].selection.name} failed and is left out: The training loss is nan." in warned[0]
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(7))
    assert fake_runs.count(planned[4].key) == 2  # again alone
    fake_runs.clear()
    assert go(tmp_path, planned) == rows
    assert fake_runs == []
    FAILS.clear()
    (tmp_path / FAILED_FILE).unlink()
    assert len(go(tmp_path, planned)) == 6
    assert fake_runs == [planned[1].key, planned[4].key]


def test_a_failure_cut_off_is_tried_again(tmp_path: Path, fake_runs: list[str]) -> None:
    planned = plan(2)
    FAILS[planned[0].selection.name] = NotFinite("nan")
    go(tmp_path, planned)
    path = tmp_path / FAILED_FILE
    path.write_bytes(path.read_bytes()[:-3])
    fake_runs.clear()
    go(tmp_path, planned)
    assert fake_runs == [planned[0].key]
    assert list(read_failures(tmp_path)) == [planned[0].key]


def test_lack_of_memory_in_a_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(SOURCE, RECIPE, 5)
    errors: list[Exception] = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ]

    def fail(run: PlannedRun) -> dict[str, Any]:
        raise errors[0]

    monkeypatch.setattr(runner, "_row", fail)
    run = plan(2)[1]
    for words in ("CUDA out of memory. Tried to allocate 2 GiB.", "out of memory", "can't allocate memory"):
        with pytest.raises(OutOfMemory, match=f"all-linear: .*{words}") as caught:
            runner(run)
        assert "More" not in caught.value.what
        assert caught.value.__context__ is None
        del errors[0]
    errors.append(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        runner(run)


@pytest.mark.parametrize(
    "change",
    [
        {"made_of": {**MADE_OF, "model_fingerprint": "other"}},
        {"made_of": {**MADE_OF, "data_fingerprint": "other"}},
        {"made_of": {**MADE_OF, "eval_fingerprint": "other"}},
        {"source": replace(SOURCE, seed=1)},
        {"source": replace(SOURCE, quantised="4bit")},
        {"recipe": replace(RECIPE, lr=0.5)},
        {"recipe": replace(RECIPE, train_rows=None)},
        {"recipe": replace(RECIPE, pull=1.0)},
    ],
)
def test_a_folder_of_other_runs_is_refused(tmp_path: Path, fake_runs: list[str], change: dict[str, Any]) -> None:
    go(tmp_path, plan(2))
    with pytest.raises(BadInput, match="another model, data or setting"):
        go(tmp_path, plan(3), **change)
    assert len(fake_runs) == 2


@pytest.mark.parametrize(
    "change",
    [{"made_of": {**MADE_OF, "keep_fingerprint": "k"}}, {"source": replace(SOURCE, adapt="vision")}],
    ids=["rows to keep", "parts to adapt"],
)
@pytest.mark.parametrize("first", [True, False])
def test_runs_with_and_without_an_option_share_no_folder(
    tmp_path: Path, fake_runs: list[str], change: dict[str, Any], first: bool
) -> None:
    go(tmp_path, plan(2), **(change if first else {}))
    with pytest.raises(BadInput, match="another model, data or setting"):
        go(tmp_path, plan(3), **({} if first else change))
    assert len(fake_runs) == 2


def test_a_model_that_moved_is_the_same(tmp_path: Path, fake_runs: list[str]) -> None:
    go(tmp_path, plan(2))
    assert len(go(tmp_path, plan(2), source=replace(SOURCE, model="elsewhere/model", data="moved.jsonl"))) == 2
    assert len(fake_runs) == 2


def test_a_folder_from_before_there_were_these_options_resumes_without_them(tmp_path: Path, fake_runs: list[str]) -> None:
    recipe = {"train_rows": 10, "epochs": 6, "lr": 1e-3, "batch_size": 32, "warmup": 0.06}
    source = {key: value for key, value in SOURCE.as_dict().items() if key != "quantised"}
    identity = {"source": source, "recipe": recipe, "eval_rows": 5}
    (tmp_path / "calibration.json").write_text(json.dumps(identity))
    with pytest.raises(BadInput, match="another model, data or setting"):
        go(tmp_path, plan(2), recipe=replace(RECIPE, pull=1.0))
    assert len(go(tmp_path, plan(2))) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_identity_is_named(tmp_path: Path, fake_runs: list[str], text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(BadInput, match=r"calibration\.json"):
        go(tmp_path, plan(2))


@pytest.mark.parametrize("line", ["{", "[1]", "null", '{"schema": 9}', "{}"])
def test_a_damaged_line_is_named(tmp_path: Path, fake_runs: list[str], line: str) -> None:
    go(tmp_path, plan(3))
    path = tmp_path / RUNS_FILE
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match=r"runs\.jsonl, line 2"):
        read_runs(tmp_path)


@pytest.mark.parametrize(("name", "line"), [("calibration.json", 0), (RUNS_FILE, 0), (RUNS_FILE, 1), (FAILED_FILE, 0)])
def test_what_a_damaged_folder_says_to_do_helps(tmp_path: Path, fake_runs: list[str], name: str, line: int) -> None:
    FAILS[plan(4)[3].selection.name] = NotFinite("The training loss is nan.", "Lower --lr.")
    folder = tmp_path / "out"
    whole = go(folder, plan(4))
    path = folder / name
    lines = path.read_text().splitlines()
    lines[line] = "{x"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput) as caught:
        go(folder, plan(4))
    if caught.value.hint.startswith("Remove that line"):
        assert f"line {line + 1}:" in caught.value.what
        del lines[line]
        path.write_text("".join(f"{each}\n" for each in lines))
    else:
        assert caught.value.hint == "Use another --out."
        folder = tmp_path / "other"
    assert sorted(row["key"] for row in go(folder, plan(4))) == sorted(row["key"] for row in whole)
    assert len(read_failures(folder)) == 1


@pytest.mark.parametrize("repeat", [0, 1, 2])
def test_a_line_that_is_repeated_counts_once(tmp_path: Path, fake_runs: list[str], repeat: int) -> None:
    FAILS[plan(4)[3].selection.name] = NotFinite("The training loss is nan.", "Lower --lr.")
    runs = go(tmp_path, plan(4))
    for name in (RUNS_FILE, FAILED_FILE):
        path = tmp_path / name
        lines = path.read_text().splitlines()
        again = json.loads(lines[min(repeat, len(lines) - 1)])
        again.pop("checksum")  # as an older version wrote it
        path.write_text("\n".join([*lines, lines[0], lines[-1], json.dumps(again)]) + "\n")
    fake_runs.clear()
    assert read_runs(tmp_path) == go(tmp_path, plan(4)) == runs
    assert (len(runs), len(read_failures(tmp_path)), fake_runs) == (3, 1, [])


@pytest.mark.parametrize("name", [RUNS_FILE, FAILED_FILE])
def test_two_results_of_one_run_are_refused(tmp_path: Path, fake_runs: list[str], name: str) -> None:
    FAILS[plan(4)[3].selection.name] = NotFinite("The training loss is nan.", "Lower --lr.")
    go(tmp_path, plan(4))
    path = tmp_path / name
    text = path.read_text()
    other = json.loads(text.splitlines()[0])
    other.pop("checksum")
    other.update({"result": {**other["result"], "val_loss": 0.25}} if name == RUNS_FILE else {"what": "Another reason."})
    path.write_text(text + json.dumps(other) + "\n")
    place = f"line {len(text.splitlines()) + 1}: it is of the run of line 1, and says something else"
    with pytest.raises(BadInput, match=rf"{name}, {place}\. Remove one of the two lines\."):
        go(tmp_path, plan(4))


def test_names_do_not_give_a_machine_away() -> None:
    assert short_name("/home/someone/secret/models/bert") == "models/bert"
    assert short_name("org/model") == "org/model"
    assert short_name("model") == "model"


@pytest.mark.slow
def test_a_real_calibration_becomes_rows(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.real_runs import calibrate_folder

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shipped = len(load_rows())
    path, _ = oracle.write_rows(tmp_path, "binary")
    source = Source(str(tiny_model("bert")), str(path), eval_data=str(path), device="cpu")
    progress: list[Progress] = []
    session = Session(emit=lambda event: progress.append(event) if isinstance(event, Progress) else None)

    def again() -> tuple[Path, int]:
        recipe = TrainingRecipe(train_rows=8, epochs=1, batch_size=4)
        return calibrate_folder(
            source,
            SETTINGS,
            lambda task: recipe,
            tmp_path / "out",
            session,
            train_rows=8,
            runs=6,
            seeds=2,
            workers=1,
            eval_rows=6,
        )

    file, count = again()
    assert count == 6
    runs = read_runs(tmp_path / "out")
    assert [r["seed"] for r in runs] == [0, 0, 0, 1, 1, 1]
    assert [r["selection"]["name"] for r in runs[:2]] == [HEAD_ONLY, "all-linear"]
    for run in runs:
        assert run["result"]["val_loss"] > 0
        assert run["provenance"]["train_rows"] == 8
        assert run["provenance"]["eval_rows"] == 6
        assert len(run["result"]["epochs"]) == 2
        assert len(run["result"]["distances"]) == 2
        assert str(tmp_path) not in json.dumps(run)
    rows = load_rows()[shipped:]
    assert [row.val_loss for row in rows] == [r["result"]["val_loss"] for r in runs]
    (group,) = grouped(rows)
    assert group.selections[0] == "all-linear"
    assert group.simulated[0] == pytest.approx(0, abs=1e-6)
    assert (group.seeds == 2).all()
    assert str(tmp_path) not in file.read_text()
    before = file.read_bytes(), (tmp_path / "out" / RUNS_FILE).read_bytes()
    progress.clear()
    assert again() == (file, count)
    assert (file.read_bytes(), (tmp_path / "out" / RUNS_FILE).read_bytes()) == before
    assert any(p.stage == "Real LoRA runs" and p.done == 6 for p in progress)


@pytest.mark.slow
def test_all_runs_diverging_is_an_error_and_some_are_not(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.real_runs import calibrate_folder

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(module, "processes", one_thread)
    path, _ = oracle.write_rows(tmp_path, "regression")
    source = Source(str(tiny_model("bert", "regression", 1)), str(path), eval_data=str(path), task="regression", device="cpu")
    events: list[Event] = []

    def go_on(lr: float, out: str, runs: int) -> int:
        recipe = TrainingRecipe(train_rows=8, epochs=1, batch_size=4, lr=lr)
        return calibrate_folder(
            source,
            SETTINGS,
            lambda task: recipe,
            tmp_path / out,
            Session(emit=events.append),
            train_rows=8,
            runs=runs,
            seeds=1,
            workers=1,
            eval_rows=6,
        )[1]

    real = Runner._row
    monkeypatch.setattr(Runner, "_row", lambda self, run: diverged())
    for _ in range(2):  # also when resumed
        with pytest.raises(NotFinite, match="loss is"):
            go_on(1e-3, "all", 2)
    assert len(read_failures(tmp_path / "all")) == 2
    monkeypatch.setattr(Runner, "_row", lambda self, run: real(self, run) if run.selection.targets else diverged())
    events.clear()
    assert go_on(1e-3, "some", 3) == 2
    said = next(e.text for e in events if isinstance(e, Warn) and "1 of 3 runs failed" in e.text)
    assert "delete" in said
    assert said.endswith("Lower --lr.")


def diverged() -> dict[str, Any]:
    raise NotFinite("The loss is nan.", "Lower --lr.")


@pytest.mark.slow
def test_a_cluster_gives_the_rows_that_processes_give(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # as installed on the node
    path, _ = oracle.write_rows(tmp_path, "binary")
    source = Source(str(tiny_model("llama")), str(path), eval_data=str(path), device="cpu")
    model = prepare(source, Session(), train_limit=8, eval_limit=0).loaded
    planned = plan_runs(model.targets, model.targets, model.qv_roles(), SETTINGS, runs=5)
    recipe = TrainingRecipe(train_rows=8, epochs=1, batch_size=4)
    found = []
    for ray in (None, "local"):
        rows = calibrate(
            source, planned, recipe, tmp_path / str(ray), Session(), eval_rows=6, made_of=MADE_OF, workers=1, ray=ray
        )
        for row in rows:
            del row["result"]["wall_s"]
        found.append(sorted(rows, key=lambda row: str(row["key"])))
    assert len(found[0]) == 5
    assert found[0] == found[1]
