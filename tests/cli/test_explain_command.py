"""``advisor explain`` as a command: its options, the model it can measure, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import advisor, refused, write_data

from advisor.core.reading import sealed
from advisor.theory.bounds import DOES_NOT_APPLY

pytestmark = pytest.mark.usefixtures("own_folders")


@dataclass(frozen=True)
class Made:
    model: Path
    data: Path
    probe: Path
    names: list[str]


CASES = {"bert": "classification", "llama": "causal-lm"}


@pytest.fixture(scope="module")
def made(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    found: dict[str, Made] = {}

    def make_one(name: str) -> Made:
        if name not in found:
            folder, task = tmp_path_factory.mktemp(name), CASES[name]
            model, data = tiny_model(name, task), write_data(folder, task)
            rest = ["--samples", 24, "--device", "cpu", "--linearity", "--out", folder / "probe", "--json"]
            ran = advisor("probe", model, "--data", data, *rest)
            assert ran.code == 0, ran.err
            found[name] = Made(model, data, folder / "probe", [t["name"] for t in json.loads(ran.out)["targets"]])
        return found[name]

    return make_one


MakeProbe = Callable[[str], Made]


def selections(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "s.json"
    path.write_text(json.dumps(entries))
    return path


def explain_json(*arguments: object) -> list[dict[str, Any]]:
    ran = advisor("explain", *arguments, "--json")
    assert ran.code == 0, ran.err
    return list(json.loads(ran.out, parse_constant=pytest.fail)["selections"])


@pytest.mark.parametrize("name", CASES)
def test_the_usual_recipes_by_default_at_the_rank_given(made: MakeProbe, name: str) -> None:
    it = made(name)
    shown = explain_json(it.probe, "--rank", 4)
    assert [(s["name"], s["rank"]) for s in shown] == [("all-linear", 4), ("q,v", 4)]
    assert shown[0]["targets"] == it.names
    ran = advisor("explain", it.probe)
    assert ran.code == 0
    assert ran.out.count("Measured at rank 8") == 2  # a probe stores these two
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "═══ q,v ═══" in ran.out


def test_kernel_sigma_and_budget_are_heard(made: MakeProbe) -> None:
    (first, second) = explain_json(made("bert").probe, "--kernel", "weight", "--sigma", 7, "--budget", "50%")
    assert (first["kernel"], first["spectrum"]["kernel"], first["spectrum"]["sigma"]) == ("weight", "weight", 7)
    budget = {s["name"]: [b["status"] for b in s["bounds"] if b["added"] == "budget"] for s in (first, second)}
    assert budget == {"all-linear": [DOES_NOT_APPLY] * 2, "q,v": ["applies"] * 2}


@pytest.mark.parametrize("name", CASES)
def test_model_measures_what_the_probe_did_not(made: MakeProbe, tmp_path: Path, name: str) -> None:
    """Also a selection of nothing, which trains the head where there is one; equal settings give the probe's numbers."""
    it = made(name)
    file = selections(
        tmp_path,
        {"name": "two", "targets": it.names[:2], "rank": 2, "rank_pattern": {it.names[0]: 4}},
        {"name": "none", "targets": []},
        {"name": "all", "targets": it.names},
        {"name": "two at rank 8", "targets": it.names[:2]},
    )
    stored = explain_json(it.probe, "--selections", file)
    assert [s["linearity"] is not None for s in stored] == [False, False, True, False]
    ran = advisor("explain", it.probe, "--selections", file, "--model", it.model, "--json")
    assert ran.code == 0, ran.err
    two, none, everything, eight = json.loads(ran.out, parse_constant=pytest.fail)["selections"]
    assert "Linearity" in ran.err
    assert two["linearity"]["targets"] == it.names[:2]
    assert eight["linearity"]["gaps"] != two["linearity"]["gaps"]
    assert (none["linearity"] is None) == (name == "llama")
    assert everything["linearity"]["gaps"] == pytest.approx(stored[2]["linearity"]["gaps"], rel=1e-3, abs=1e-6)
    assert "Thm 2" in {b["id"] for b in two["bounds"]}


def test_another_model_or_other_data_is_exit_2(made: MakeProbe, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    it = made("bert")
    other = tiny_model("bert", "classification", seed=1)
    line = refused(2, "explain", it.probe, "--model", other)
    assert str(other) in line
    assert "model that was probed" in line
    refused(2, "explain", it.probe, "--model", tmp_path / "nowhere")
    before = it.data.read_text()
    try:
        it.data.write_text(before.replace("good", "fine"))
        assert "data that was probed" in refused(2, "explain", it.probe, "--model", it.model)
    finally:
        it.data.write_text(before)


def test_a_probe_that_does_not_say_how_it_was_made_is_exit_2(made: MakeProbe, tmp_path: Path) -> None:
    it = made("bert")
    for path in it.probe.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    info = json.loads((tmp_path / "probe.json").read_text())
    del info["source"]
    (tmp_path / "probe.json").write_text(json.dumps(sealed(info)))
    assert "source" in refused(2, "explain", tmp_path, "--model", it.model)


def test_bad_input_is_exit_2(made: MakeProbe, tmp_path: Path) -> None:
    probe = made("bert").probe
    bad = selections(tmp_path, {"name": "a", "targets": ["model.nope"]})
    assert "model.nope" in refused(2, "explain", probe, "--selections", bad)
    assert "no-such.json" in refused(2, "explain", probe, "--selections", tmp_path / "no-such.json")
    assert "no-such-probe" in refused(2, "explain", tmp_path / "no-such-probe")
    assert "--kernel ntk" in refused(2, "explain", probe, "--kernel", "ntk")
    assert "--budget lots" in refused(2, "explain", probe, "--budget", "lots")
    assert "24GB" in refused(2, "explain", probe, "--budget", "24GB")
    assert "--rank" in refused(2, "explain", probe, "--rank", 0)


def test_without_model_no_torch_is_loaded(made: MakeProbe) -> None:
    code = (
        "import sys\nfrom advisor.cli.main import main\n"
        f"sys.argv = ['advisor', 'explain', {str(made('bert').probe)!r}]\n"
        "try: main()\nexcept SystemExit as exit: assert not exit.code, exit.code\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("[]\n"), done.stderr
    assert done.stderr == ""
