"""The command line, in this process and in others: help, whole runs, interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from command import Made, advisor, refused
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from advisor.cli import main as program
from advisor.cli.app import app
from advisor.core import folders
from advisor.core.folders import WRITTEN_FILE
from advisor.core.reading import sealed
from advisor.core.store import write_text
from advisor.probing.spool import Spool

TinyModel = Callable[..., Path]
COMMANDS = ("recommend", "probe", "score", "explain", "compare", "export", "verify", "calibrate", "profiles", "tui")


pytestmark = pytest.mark.usefixtures("own_folders")


CASES = ("bert", "llama")


# --- help --------------------------------------------------------------------------------------------------------


def test_help_of_every_command_loads_no_torch_and_names_only_options_there_are() -> None:
    """Every command, one process; widths as on a wide terminal so that no option is wrapped."""
    code = (
        "import sys, io, json, contextlib\n"
        "from advisor.cli.main import main\n"
        "shown = {}\n"
        f"for command in {('', *COMMANDS)!r}:\n"
        "    sys.argv = ['advisor', *([command] if command else []), '--help']\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n"
        "        try: main()\n"
        "        except SystemExit as exit: assert not exit.code, (command, exit.code)\n"
        "    shown[command] = out.getvalue()\n"
        "heavy = [m for m in ('torch', 'transformers', 'peft', 'sklearn') if m in sys.modules]\n"
        "print(json.dumps([shown, heavy]))\n"
    )
    environment = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    shown, heavy = json.loads(done.stdout)
    assert heavy == []
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(COMMANDS)
    for name in COMMANDS:
        assert name in shown[""]
        options = {o for parameter in commands[name].params for o in parameter.opts if o.startswith("--")}
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", shown[name])) - {"--help"}
        assert mentioned == options - {"--help"}, name


def test_messages_name_only_options_there_are() -> None:
    """Every ``--option`` in a text of the engine exists in some command, or is another program's."""
    others = {"--max-lora-rank", "--config"}  # of vLLM, and of TRL and unsloth
    others |= {"--version", "--help"}  # of the program itself
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {option for command in commands for parameter in command.params for option in parameter.opts}
    folder = Path(program.__file__).parents[1]
    mentioned = {
        (path.name, option)
        for path in (*folder.rglob("*.py"), *folder.rglob("*.html"))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", path.read_text(encoding="utf-8"))
    }
    assert len(mentioned) > 30
    assert {(file, option) for file, option in mentioned if option not in options | others} == set()


def test_scoring_and_comparing_load_no_torch(bert: Made, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"name": "a", "targets": [bert.probe_json["targets"][0]["name"]]}]))
    code = (
        "import sys\nfrom advisor.cli.main import main\n"
        "for argv in (['compare', {p!r}], ['score', {p!r}, '--selections', {s!r}]):\n"
        "    sys.argv = ['advisor', *argv]\n"
        "    try: main()\n"
        "    except SystemExit as exit: assert not exit.code, exit.code\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])\n"
    ).format(p=str(bert.probe), s=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("[]\n"), done.stderr


def test_no_arguments_show_help() -> None:
    done = subprocess.run([sys.executable, "-m", "advisor.cli.main"], capture_output=True, text=True, timeout=60)
    assert "Usage" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_probe_and_score(made: Callable[[str], Made], tmp_path: Path, name: str) -> None:
    it = made(name)
    targets = [t["name"] for t in it.probe_json["targets"]]
    assert it.probe_json["task"] == it.task
    assert it.probe_json["samples"] == 24
    entries = [
        {"name": "last", "targets": targets[-3:]},
        {"name": "everything", "targets": targets},
        {"name": "mixed", "targets": targets[:2], "rank": 2, "rank_pattern": {targets[0]: 4}},
    ]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(entries))
    ran = advisor("score", it.probe, "--selections", path, "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out, parse_constant=pytest.fail)
    assert [s["name"] for s in shown["selections"]] == ["last", "everything", "mixed"]
    assert shown["selections"][1]["relative"]["value"] == pytest.approx(0, abs=1e-6)
    sizes = {t["name"]: t["in_features"] + t["out_features"] for t in it.probe_json["targets"]}
    assert shown["selections"][2]["params"] == 4 * sizes[targets[0]] + 2 * sizes[targets[1]]
    assert advisor("score", it.probe, "--selections", path, "--json").out == ran.out
    table = advisor("score", it.probe, "--selections", path)
    assert table.code == 0
    assert "everything" in table.out


def test_probing_again_finds_the_probe(bert: Made) -> None:
    before = (bert.probe / "probe.json").read_bytes()
    ran = advisor("probe", bert.model, "--data", bert.data, "--samples", 24, "--device", "cpu", "--out", bert.probe)
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert str(bert.probe) in ran.out
    assert "nothing to compute" in ran.err
    assert (bert.probe / "probe.json").read_bytes() == before
    rest = ["--device", "cpu", "--out", bert.probe]
    assert "another settings" in refused(2, "probe", bert.model, "--data", bert.data, "--samples", 30, *rest)


@pytest.mark.parametrize("name", CASES)
def test_compare(made: Callable[[str], Made], name: str) -> None:
    it = made(name)
    ran = advisor("compare", it.probe, "--budget", "40%", "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)["selections"]
    total = sum(8 * (t["in_features"] + t["out_features"]) for t in it.probe_json["targets"])
    assert len(shown) >= 4
    assert all(0 < s["params"] <= 0.4 * total for s in shown)
    assert any(s["name"].startswith("q,v") for s in shown)
    assert "40%" in advisor("compare", it.probe, "--budget", "40%").out


@dataclass(frozen=True)
class Recommended:
    made: Made
    folder: Path
    json: dict[str, Any]
    err: str


@pytest.fixture(scope="module")
def recommended(made: Callable[[str], Made], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recommended]:
    found: dict[str, Recommended] = {}

    def make(name: str) -> Recommended:
        if name not in found:
            it, folder = made(name), tmp_path_factory.mktemp("out") / "rec"
            ran = advisor(
                "recommend",
                it.model,
                "--data",
                it.data,
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
                "--out",
                folder,
                "--json",
            )
            assert ran.code == 0, ran.err
            found[name] = Recommended(it, folder, json.loads(ran.out, parse_constant=pytest.fail), ran.err)
        return found[name]

    return make


Recommend = Callable[[str], Recommended]


@pytest.mark.parametrize("name", CASES)
def test_recommendation_folder(recommended: Recommend, name: str) -> None:
    it = recommended(name)
    assert sorted(p.name for p in it.folder.iterdir()) == [
        WRITTEN_FILE,
        "adapter_config.json",
        "lora.yaml",
        "recommendation.json",
        "report.html",
        "report.md",
    ]
    assert json.loads((it.folder / "recommendation.json").read_text()) == sealed(it.json)
    pick = it.json["pick"]
    assert it.json["resolved"] == {"modules": len(pick["targets"]), "lora_params": pick["params"]}
    total = sum(4 * (t["in_features"] + t["out_features"]) for t in it.made.probe_json["targets"])
    assert 0 < pick["params"] <= 0.35 * total
    assert "Recipe:" in it.err
    report = (it.folder / "report.md").read_text()
    assert yaml.safe_load(re.search(r"```yaml\n(.*?)```", report, re.S)[1]) == it.json["peft"]  # type: ignore[index]


@pytest.mark.parametrize("name", CASES)
def test_peft_applies_the_yaml_exactly(recommended: Recommend, name: str) -> None:
    """A fresh copy of the same model, wrapped by PEFT with what the YAML says, is what was recommended."""
    it = recommended(name)
    auto = AutoModelForCausalLM if name == "llama" else AutoModelForSequenceClassification
    config = LoraConfig(**yaml.safe_load((it.folder / "lora.yaml").read_text()))
    model = get_peft_model(auto.from_pretrained(it.made.model), config)
    wrapped = {n.removesuffix(".lora_A") for n, _ in model.base_model.model.named_modules() if n.endswith(".lora_A")}
    assert wrapped == set(it.json["pick"]["targets"])
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert lora == it.json["pick"]["params"]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == it.json["pick"]["params_with_head"]
    assert {type(m.lora_A["default"]).__name__ for m in model.modules() if hasattr(m, "lora_A")} == {"Linear"}
    assert all(m.r["default"] == 4 for m in model.modules() if hasattr(m, "lora_A"))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("name", CASES)
def test_export_and_verify(recommended: Recommend, tmp_path: Path, name: str) -> None:
    it = recommended(name)
    ran = advisor("export", it.folder, "--out", tmp_path / "there")
    assert ran.code == 0, ran.err
    assert sorted(ran.out.splitlines()) == [
        f"{tmp_path / 'there' / 'adapter_config.json'}: exact",
        f"{tmp_path / 'there' / 'lora.yaml'}: exact",
    ]
    assert (tmp_path / "there" / "adapter_config.json").read_bytes() == (it.folder / "adapter_config.json").read_bytes()
    assert (tmp_path / "there" / "lora.yaml").read_bytes() == (it.folder / "lora.yaml").read_bytes()
    for config in (it.folder, tmp_path / "there" / "lora.yaml"):
        ran = advisor("verify", config, "--model", it.made.model, "--json")
        assert ran.code == 0, ran.out + ran.err
        shown = json.loads(ran.out)
        assert shown["modules"] == it.json["pick"]["targets"]
        assert shown["lora_params"] == it.json["pick"]["params"]


def test_verify_exits_1_on_surprises_and_takes_a_task(bert: Made, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "target_modules": ["query", "q_proj"]}
    path.write_text(json.dumps(config))
    ran = advisor("verify", path, "--model", bert.model)
    assert ran.code == 1
    assert "Surprise: target_modules: 'q_proj'" in ran.out
    del config["task_type"]
    path.write_text(json.dumps({**config, "target_modules": ["query"], "modules_to_save": ["classifier"]}))
    assert "--task" in refused(2, "verify", path, "--model", bert.model)
    ran = advisor("verify", path, "--model", bert.model, "--task", "classification")
    assert ran.code == 0, ran.out + ran.err
    assert "--task poetry" in refused(2, "verify", path, "--model", bert.model, "--task", "poetry")


def test_the_cache_answers_the_second_time_and_the_answer_is_the_same(recommended: Recommend, tmp_path: Path) -> None:
    it = recommended("bert")
    ran = advisor(
        "recommend",
        it.made.model,
        "--data",
        it.made.data,
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
        "--out",
        tmp_path / "again",
        "--json",
        "--verbose",
    )
    assert "nothing to compute" in ran.err
    assert json.loads(ran.out) == it.json
    for path in it.folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_default_answer_fits_one_screen(recommended: Recommend, tmp_path: Path) -> None:
    it = recommended("bert")
    common = ["recommend", it.made.model, "--data", it.made.data, "--samples", 24, "--device", "cpu", "--budget", "35%"]
    ran = advisor(*common, "--out", tmp_path / "r")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert 8 < len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Adapt ")
    assert any(line.startswith("Written to") for line in lines)
    assert any(line.startswith("Next: ") for line in lines)
    assert len(advisor(*common, "--out", tmp_path / "r", "--verbose").out.splitlines()) > 24


def test_a_baseline_is_shown_beside_the_pick(bert: Made, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 16, "lora_alpha": 32, "target_modules": ["query"]}
    path.write_text(json.dumps(config))
    ran = advisor("compare", bert.probe, "--baseline", path, "--json")
    assert ran.code == 0, ran.err
    own = json.loads(ran.out)["selections"][0]
    assert (own["name"], own["rank"], own["alpha"]) == ("your config", 16, 32)
    assert own["params"] == 2 * 16 * (24 + 24)
    path.write_text(json.dumps({"peft_type": "IA3"}))
    assert "IA3" in refused(2, "compare", bert.probe, "--baseline", path)
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["nothing_like_it"]}))
    refused(2, "compare", bert.probe, "--baseline", path)
    path.write_text(json.dumps({"peft_type": "LORA", "r": "eight", "target_modules": ["query"]}))
    refused(2, "compare", bert.probe, "--baseline", path)


# --- interruption ------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_finished_work_and_the_result_is_the_same(
    bert: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["probe", bert.model, "--data", bert.data, "--samples", 24, "--device", "cpu", "--out", tmp_path / "p"]
    contract = Spool.contract

    def interrupted(self: Spool, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return contract(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "contract", interrupted)
        line = refused(130, *command)
    assert "resume" in line
    assert not (tmp_path / "p" / "probe.json").exists()
    assert "probe" in refused(2, "compare", tmp_path / "p")
    again = advisor(*command)
    assert again.code == 0
    assert "Resuming" in again.err
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"probe.json", "blocks.safetensors"}
    arrays = load_file(tmp_path / "p" / "blocks.safetensors")
    for key, value in load_file(bert.probe / "blocks.safetensors").items():
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)


@pytest.mark.parametrize("files_written", [0, 1, 2])
def test_being_stopped_while_writing_leaves_nothing(
    recommended: Recommend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_written: int
) -> None:
    it = recommended("bert")
    written: list[Path] = []

    def stop(path: Path, text: str) -> None:
        if len(written) == files_written:
            raise KeyboardInterrupt
        written.append(path)
        write_text(path, text)

    monkeypatch.setattr(folders, "write_text", stop)
    line = refused(
        130,
        "recommend",
        it.made.model,
        "--data",
        it.made.data,
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
        "--out",
        tmp_path / "r",
    )
    assert "kept" in line
    assert len(written) == files_written
    assert list((tmp_path / "r").iterdir()) == []
