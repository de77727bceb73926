"""Hub models at a revision: verify resolves against the one that was asked for or that the config names; files carry it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import advisor
from exporting import SIZES, Made, make
from huggingface_hub import constants
from transformers import LlamaConfig

from advisor.core.errors import BadInput
from advisor.core.targets import LoraSettings
from advisor.export import FORMATS
from advisor.export.plan import Plan
from advisor.export.verify import verify

OLD, NEW = "a" * 40, "b" * 40  # commits: the old model has two layers, the newest three
NAME = "owner/model"
LAYER_2 = "model.layers.2.self_attn.q_proj"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with two commits of one model, ``main`` the second."""
    cache = tmp_path / "hub"
    repository = cache / "models--owner--model"
    for commit, layers in ((OLD, 2), (NEW, 3)):
        config = LlamaConfig(**{**SIZES, "num_hidden_layers": layers, "num_key_value_heads": 2})
        config.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def config_at(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))
    return path


def peft_config(folder: Path, **fields: Any) -> Path:
    return config_at(folder, "adapter_config.json", {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **fields})


def test_the_revision_asked_for_is_resolved(hub: Path, tmp_path: Path) -> None:
    path = peft_config(tmp_path)
    assert len(verify(str(path), NAME).modules) == 3
    for revision in (OLD, "v1"):
        report = verify(str(path), NAME, revision=revision)
        assert (len(report.modules), report.exit_code) == (2, 0)
    ran = advisor("verify", path, "--model", NAME, "--revision", "v1", "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["modules"]) == 2


def test_the_revision_that_a_config_names_is_honoured(hub: Path, tmp_path: Path) -> None:
    report = verify(str(peft_config(tmp_path, revision=OLD)), NAME)
    assert (len(report.modules), report.surprises) == (2, ())
    own = {
        "axolotl": {
            "adapter": "lora",
            "revision_of_model": OLD,
            "lora_target_modules": ["q_proj"],
            "lora_r": 8,
            "lora_alpha": 16,
        },
        "llama-factory": {"finetuning_type": "lora", "model_revision": OLD, "lora_target": "q_proj"},
        "trl": {"use_peft": True, "model_revision": OLD, "lora_target_modules": ["q_proj", "v_proj"]},
    }
    for name, content in own.items():
        report = verify(str(config_at(tmp_path, f"{name}.yaml", content)), NAME)
        assert {module.split(".")[2] for module in report.modules} == {"0", "1"}, name
        assert report.format == name
    snippet = tmp_path / "train.py"
    snippet.write_text(
        f"model, t = FastLanguageModel.from_pretrained('{NAME}', revision='{OLD}')\n"
        "model = FastLanguageModel.get_peft_model(model, r=8, target_modules=['q_proj'])\n"
    )
    assert len(verify(str(snippet), NAME).modules) == 2


def test_two_revisions_that_differ_are_a_surprise(hub: Path, tmp_path: Path) -> None:
    report = verify(str(peft_config(tmp_path, revision=OLD)), NAME, revision="main")
    assert len(report.modules) == 3
    (surprise,) = report.surprises
    assert "for revision aaaa" in surprise
    assert report.exit_code == 1


def test_full_names_of_another_revision_match_nothing(hub: Path, tmp_path: Path) -> None:
    path = peft_config(tmp_path, target_modules=["q_proj", LAYER_2])
    assert verify(str(path), NAME).exit_code == 0
    report = verify(str(path), NAME, revision=OLD)
    assert report.unmatched == (LAYER_2,)
    assert report.exit_code == 1


def test_a_revision_that_there_is_none_of(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"adapter_config\.json.*owner/model"):
        verify(str(peft_config(tmp_path)), NAME, revision="nowhere")
    with pytest.raises(BadInput, match="revision is of type int"):
        verify(str(peft_config(tmp_path, revision=5)), NAME)


def test_a_folder_has_no_revisions(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    report = verify(str(peft_config(tmp_path, revision=OLD)), str(tiny_model("llama", "causal-lm")))
    assert report.exit_code == 0
    assert any("no revisions" in note for note in report.notes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("llama", tmp_path_factory.mktemp("llama"))


def test_files_carry_the_revision(llama: Made, hub: Path, tmp_path: Path) -> None:
    """What a plan was made for is what its files train; Studio, which has no key for it, says so."""
    plan = llama.plan([t.name for t in llama.targets if t.layer != 2][::2], LoraSettings(4, 8), revision=OLD)
    plan = Plan.from_dict({**json.loads(json.dumps(plan.as_dict())), "base_model": NAME}, "here")
    assert plan.revision == OLD
    for target in FORMATS.values():
        for name, file in target.render(plan).files.items():
            (tmp_path / name).write_text(file.text)
            if name == "unsloth_studio.yaml":
                assert (file.fidelity, "no key for a revision" in file.text) == ("lossy", True)
                continue
            assert OLD in file.text, name
            assert file.fidelity == "exact", name
            report = verify(str(tmp_path / name), NAME)
            assert (report.modules, report.surprises) == (plan.names, ()), name
