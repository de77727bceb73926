"""Probes that are found again: in the cache, in a folder that was moved, from another folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import write_data
from safetensors.torch import load_file, save_file

import advisor
from advisor.core.errors import BadInput
from advisor.core.events import Note, Session, Warn
from advisor.core.probe import load_probe
from advisor.models.load import load_model
from advisor.results import ProbeResult

SAMPLES = 24

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture(scope="module")
def bert(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), "classification")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded since."""
    found: list[str] = []

    def load(name: str, *given: Any, **named: Any) -> Any:
        found.append(name)
        return load_model(name, *given, **named)

    monkeypatch.setattr("advisor.models.prepare.load_model", load)
    return found


def test_another_question_to_a_cached_probe_loads_no_model(bert: Path, data: Path, tmp_path: Path, loads: list[str]) -> None:
    """And says of model and rows what was said when it was loaded."""
    said: list[list[str]] = []
    for number, question in enumerate(({}, {"budget": "10%"}, {"rank": 4}, {"lr": 1e-3}, {"baseline": None, "seed": 0})):
        said.append([])
        session = Session(lambda event: said[-1].append(event.text) if isinstance(event, Note | Warn) else None)
        out = tmp_path / str(number)
        advisor.recommend(bert, data, samples=SAMPLES + 1, device="cpu", max_length=32, out=out, session=session, **question)
        assert len(loads) == 1
    of_the_model = [text for text in said[0] if "torch" in text or "float32" in text or text.startswith("Training data")]
    assert of_the_model
    for later in said[1:]:
        assert set(of_the_model) <= set(later)


@pytest.mark.parametrize("changed", ["weights", "tokenizer", "rows", "length", "type", "samples"])
def test_what_a_probe_was_made_of_and_is_another_now(
    changed: str, bert: Path, data: Path, tmp_path: Path, loads: list[str]
) -> None:
    model, rows = shutil.copytree(bert, tmp_path / "model"), Path(shutil.copy(data, tmp_path / data.name))
    given: dict[str, Any] = {"samples": SAMPLES, "device": "cpu", "max_length": 32}
    folder = advisor.probe(model, rows, session=Session(), **given).folder
    loads.clear()
    assert advisor.probe(model, rows, session=Session(), **given).folder == folder
    assert not loads
    if changed == "weights":
        (path,) = model.glob("*.safetensors")
        tensors = load_file(path)
        tensors[min(tensors)] += 1e-3
        save_file(tensors, path, metadata={"format": "pt"})
    elif changed == "tokenizer":
        path = model / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 24}))
    elif changed == "rows":
        rows.write_text("\n".join(rows.read_text().splitlines()[:-1]) + "\n")
    else:
        given |= {"length": {"max_length": 24}, "type": {"dtype": "bfloat16"}, "samples": {"samples": SAMPLES + 2}}[changed]
    assert advisor.probe(model, rows, session=Session(), **given).folder != folder
    assert len(loads) == 1


def test_a_model_that_moved_is_named_where_it_lies_now(bert: Path, data: Path, tmp_path: Path) -> None:
    here, there = shutil.copytree(bert, tmp_path / "here"), tmp_path / "there"
    first = advisor.recommend(here, data, samples=SAMPLES, out=tmp_path / "r1", session=Session())
    here.rename(there)
    notes: list[str] = []
    session = Session(lambda event: notes.append(str(getattr(event, "text", ""))))
    second = advisor.recommend(there, data, samples=SAMPLES, out=tmp_path / "r2", session=session)
    assert any("nothing to compute" in note for note in notes)
    assert second.target_modules == first.target_modules
    assert second.json["peft"]["base_model_name_or_path"] == str(there)
    opened = ProbeResult.open(advisor.probe(there, data, samples=SAMPLES, session=Session()).folder)
    assert opened.probe.info["model"] == str(there)


def test_a_probe_with_relative_paths_is_used_from_anywhere(
    bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the model's path would be taken for a hub id."""
    shutil.copytree(bert, tmp_path / "here" / "model")
    shutil.copy(data, tmp_path / "here" / "rows.csv")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = advisor.probe("model", "rows.csv", samples=SAMPLES, out="probe", session=Session())
    assert made.probe.info["model"] == "model"
    here = advisor.recommend("probe", session=Session())
    monkeypatch.chdir(tmp_path / "there")
    there = advisor.recommend(tmp_path / "here" / "probe", session=Session())
    assert there.target_modules == here.target_modules
    assert there.json["peft"]["base_model_name_or_path"] == str(tmp_path / "here" / "model")
    shutil.copytree(bert, tmp_path / "there" / "model")  # one of that name here goes first
    assert load_probe(tmp_path / "here" / "probe").path_now("model") == "model"


@pytest.mark.parametrize("gone", ["model", "rows.csv"])
def test_what_a_probe_was_made_from_and_is_gone_is_told_where_it_lies_now(
    gone: str, bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name without a folder may be one on the hub, and was taken for another model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert, "model")
    shutil.copy(data, "rows.csv")
    advisor.probe("model", "rows.csv", samples=SAMPLES, out="probe", session=Session())
    now = f"moved-{gone}"
    Path(gone).rename(now)
    for runs in (0, 1):
        with pytest.raises(BadInput, match=f"cannot be read again: .*{gone}.*advisor probe MODEL --data DATA --out PROBE"):
            advisor.recommend("probe", confirm=runs, session=Session())
    names = [now if name == gone else name for name in ("model", "rows.csv")]
    advisor.probe(*names, samples=SAMPLES, out="probe", session=Session())
    assert advisor.recommend("probe", session=Session()).target_modules
