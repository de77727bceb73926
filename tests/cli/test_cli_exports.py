"""--format of recommend and export: the same bytes, files that verify finds sound, and docs that are current."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command import advisor, refused, write_data

from advisor.core.folders import WRITTEN_FILE
from advisor.export import FORMATS

TinyModel = Callable[..., Path]
FILES = {
    "lora.yaml",
    "adapter_config.json",
    "axolotl.yaml",
    "llama_factory.yaml",
    "unsloth_train.py",
    "unsloth_studio.yaml",
    "trl.yaml",
    "trl_sft.py",
}


@pytest.fixture(scope="module", params=["llama", "bert"])
def made(
    request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory, own_folders: Path
) -> tuple[str, Path, Path]:
    """Family, model and a recommendation in all formats with ranks of its own."""
    name, folder = request.param, tmp_path_factory.mktemp("exports")
    task = "causal-lm" if name == "llama" else "classification"
    model, data = tiny_model(name, task), write_data(folder, task)
    ran = advisor(
        "recommend",
        model,
        "--data",
        data,
        "--samples",
        24,
        "--device",
        "cpu",
        "--budget",
        "60%",
        "--rank",
        "auto",
        "--format",
        ",".join(FORMATS),
        "--out",
        folder / "r",
    )
    assert ran.code == 0, ran.err
    return name, model, folder / "r"


def test_export_writes_the_same_bytes(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, _, folder = made
    alternatives = {p.name for p in folder.glob("alternative-*")}  # of files that cannot say the pick
    assert {p.name for p in folder.iterdir()} - alternatives == FILES | {
        "recommendation.json",
        "report.md",
        "report.html",
        WRITTEN_FILE,
    }
    ran = advisor("export", folder, "--format", " trl, axolotl,peft,unsloth,llama-factory,trl", "--out", tmp_path, "--json")
    assert ran.code == 0, ran.err
    assert {p.name for p in tmp_path.iterdir()} == FILES | alternatives | {WRITTEN_FILE}
    for name in FILES | alternatives:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    shown, said = json.loads(ran.out), json.loads((folder / "recommendation.json").read_text())["formats"]
    assert {n: (f["fidelity"], f["reasons"]) for n, f in shown.items()} == {
        n: (f["fidelity"], f["reasons"]) for n, f in said.items()
    }


def test_every_written_file_is_verified(made: tuple[str, Path, Path]) -> None:
    name, model, folder = made
    pick = json.loads((folder / "recommendation.json").read_text())["pick"]
    assert pick["rank_pattern"]
    for file in sorted(FILES):
        ran = advisor("verify", folder / file, "--model", model, "--json")
        if name == "bert" and file not in ("lora.yaml", "adapter_config.json"):
            assert ran.code == 2
            assert "Impossible" in (folder / file).read_text()
            continue
        assert ran.code == 0, ran.out + ran.err
        assert json.loads(ran.out)["modules"] == pick["targets"]


def test_formats_and_folders_that_there_are_none_of(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, _, folder = made
    assert "--format poetry" in refused(2, "export", folder, "--format", "peft,poetry", "--out", tmp_path)
    assert "--format must be one of" in refused(2, "export", folder, "--format", " , ", "--out", tmp_path)
    assert "recommendation.json" in refused(2, "export", tmp_path)
    (tmp_path / "recommendation.json").write_text(json.dumps({"plan": {"selection": 5}}))
    assert "plan.selection is 5" in refused(2, "export", tmp_path)
    (tmp_path / "recommendation.json").write_text("{}")
    assert "the field plan is missing" in refused(2, "export", tmp_path)


def test_the_tables_of_the_docs_are_current() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "exports.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_exports", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.DOCS.read_text(encoding="utf-8")
    assert module.rewritten(page) == page
    for name in FILES:
        assert page.count(f"`{name}` |") == 2


def test_a_lossy_file_says_what_it_is_predicted_to_cost(
    tiny_model: Callable[..., Path], tmp_path: Path, own_folders: Path
) -> None:
    """LLaMA-Factory has one rank for all; the loss is that of the file's rank, as `advisor score` predicts it."""
    model, data = tiny_model("llama", "causal-lm"), write_data(tmp_path, "causal-lm")
    common = ("--data", data, "--samples", 24, "--device", "cpu")
    assert advisor("probe", model, *common, "--out", tmp_path / "p").code == 0
    formats = ("--format", "llama-factory,trl", "--out", tmp_path / "r")
    ran = advisor("recommend", model, *common, "--rank", "auto", "--budget", "80%", *formats)
    assert ran.code == 0, ran.err
    said = re.findall(r"LLaMA-Factory: lossy.*?validation loss (\S+) \(chosen: (\S+)\)", ran.err)
    assert len(said) == 1, ran.err
    assert "TRL: lossy" not in ran.err  # its snippet is exact
    content = yaml.safe_load((tmp_path / "r" / "llama_factory.yaml").read_text())
    names = content["lora_target"].split(",")
    selection = {"name": "file", "targets": names, "rank": content["lora_rank"], "alpha": content["lora_alpha"]}
    (tmp_path / "s.json").write_text(json.dumps([selection]))
    scored = json.loads(advisor("score", tmp_path / "p", "--selections", tmp_path / "s.json", "--json").out)["selections"][0]
    assert said[0][0] == f"{scored['predicted']['loss']['value']:.3g}"
    shown = json.loads((tmp_path / "r" / "recommendation.json").read_text())
    assert said[0][1] == f"{shown['pick']['predicted']['loss']['value']:.3g}"
