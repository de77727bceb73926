"""verify says what PEFT really trains, and what about it is surprising."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from architectures import ARCHITECTURES

from advisor.core.errors import BadInput
from advisor.core.targets import LoraSettings, Selection
from advisor.export.peft import adapter_config_json, lora_yaml
from advisor.export.verify import Report, verify
from advisor.models.load import load_model
from advisor.models.peft import lora_arguments

TinyModel = Callable[..., Path]
Check = Callable[..., Report]


@pytest.fixture
def check(tiny_model: TinyModel, tmp_path: Path) -> Check:
    """``check(family, **arguments)``: verify an ``adapter_config.json`` with these arguments."""

    def run(name: str, **arguments: Any) -> Report:
        config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, **arguments}
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(config))
        return verify(str(path), str(tiny_model(name)))

    return run


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("form", ["folder", "lora.yaml"])
def test_our_own_exports_hold_no_surprise(tiny_model: TinyModel, tmp_path: Path, name: str, form: str) -> None:
    folder = tiny_model(name)
    loaded = load_model(str(folder), "classification", num_labels=2, device="cpu")
    selection = Selection("odd", tuple(t.name for t in loaded.targets[1::2]))
    arguments = lora_arguments(
        selection,
        LoraSettings(4, 8),
        task="classification",
        head=loaded.head,
        targets=loaded.targets,
        base_model=str(folder),
    )
    (tmp_path / "adapter_config.json").write_text(adapter_config_json(arguments))
    (tmp_path / "lora.yaml").write_text(lora_yaml(arguments, ["a comment"]))
    report = verify(str(tmp_path if form == "folder" else tmp_path / form), str(folder))
    assert (report.surprises, report.exit_code) == ((), 0)
    assert report.modules == selection.targets
    assert report.lora_params == selection.params(loaded.targets, 4)
    assert (report.saved, report.other_params) == (loaded.head, 0)
    assert report.unmatched == report.outside == ()
    assert report.by_suffix == {}
    assert sum(report.by_role.values()) == len(selection.targets)


def test_short_names_of_one_role_are_what_people_mean(check: Check) -> None:
    report = check("bert", target_modules=["query", "value"])
    assert report.exit_code == 0
    assert report.by_role == {"query": 2, "value": 2}
    assert report.by_suffix == {"query": 2, "value": 2}
    assert report.lora_params == 4 * 4 * (24 + 24)
    assert report.saved_params == 24 * 2 + 2


def test_a_trained_adapter_s_frozen_config_counts_as_what_was_trained(check: Check) -> None:
    """PEFT saves inference_mode true, under which nothing requires a gradient."""
    plain, saved = (check("bert", target_modules=["query"], inference_mode=frozen) for frozen in (False, True))
    assert saved.lora_params == plain.lora_params > 0
    assert saved.saved_params == plain.saved_params > 0


def test_the_report_is_plain_data(check: Check) -> None:
    report = check("bert", target_modules=["query"])
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["modules"] == list(report.modules)
    assert plain["task"] == "classification"


def test_entries_that_match_nothing(check: Check) -> None:
    report = check("bert", target_modules=["query", "q_proj"])
    assert report.unmatched == ("q_proj",)
    assert any("'q_proj' matches no module" in s for s in report.surprises)
    assert report.exit_code == 1


def test_an_entry_of_several_roles_that_catches_the_pooler(check: Check) -> None:
    report = check("bert", target_modules=["dense"])
    assert report.outside == ("bert.pooler.dense",)
    assert report.by_role == {"output": 2, "up": 2, "down": 2, "dense": 1}
    assert any("'dense' matches several roles: output, up, down" in s for s in report.surprises)
    assert any(s.startswith("bert.pooler.dense gets LoRA") for s in report.surprises)


def test_all_linear_catches_the_pooler(check: Check) -> None:
    assert check("bert", target_modules="all-linear").outside == ("bert.pooler.dense",)
    assert check("roberta", target_modules="all-linear").exit_code == 0


def test_a_language_model_with_its_head_and_embeddings_adapted(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"task_type": "CAUSAL_LM", "target_modules": ["lm_head", "embed_tokens"]}))
    report = verify(str(path), str(tiny_model("llama", "causal-lm")))
    assert set(report.outside) == {"lm_head", "model.embed_tokens"}
    assert report.task == "causal-lm"


def test_a_missing_fan_in_fan_out_is_peft_s_own_warning(check: Check) -> None:
    (surprise,) = check("gpt2", target_modules=["c_attn"]).surprises
    assert "fan_in_fan_out" in surprise
    assert check("gpt2", target_modules=["c_attn"], fan_in_fan_out=True).exit_code == 0


def test_biases_are_counted_apart(check: Check) -> None:
    report = check("bert", target_modules=["query"], bias="lora_only")
    assert report.other_params == 2 * 24
    assert report.notes[0] == "bias: lora_only trains 48 parameters beside LoRA."
    assert report.exit_code == 0  # it was asked for


def test_a_config_for_eva_is_not_blamed_for_how_peft_is_called(check: Check) -> None:
    assert check("llama", target_modules=["q_proj"], init_lora_weights="eva", eva_config={}).exit_code == 0


def test_a_full_name_bypasses_layers_to_transform(check: Check) -> None:
    full = "model.layers.0.self_attn.q_proj"
    report = check("llama", target_modules=[full, "v_proj"], layers_to_transform=[1])
    assert report.modules == (full, "model.layers.1.self_attn.v_proj")
    (surprise,) = report.surprises
    assert surprise.startswith(full)
    assert check("llama", target_modules=["v_proj"], layers_to_transform=1).exit_code == 0


def test_modules_to_save_that_match_nothing_or_more_than_they_name(check: Check) -> None:
    (surprise,) = check("bert", target_modules=["query"], modules_to_save=["nowhere"]).surprises
    assert "'nowhere' matches no module" in surprise
    report = check("bert", target_modules=["query"], modules_to_save=["embeddings"])
    assert report.saved == ("bert.embeddings", "classifier")
    assert report.exit_code == 0
    report = check("bert", target_modules=["query"], modules_to_save=["type_embeddings"])  # PEFT asks for no dot
    assert report.saved == ("bert.embeddings.token_type_embeddings", "classifier")
    (surprise,) = report.surprises
    assert surprise.startswith("bert.embeddings.token_type_embeddings is trained in full")


def test_a_head_that_is_not_trained(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"target_modules": ["query"]}))
    report = verify(str(path), str(tiny_model("bert")), task="classification")
    assert report.saved == ()
    assert "classifier, a head module, is not trained." in report.surprises


def test_labels_come_from_the_model_s_config(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"task_type": "SEQ_CLS", "target_modules": ["query"]}))
    report = verify(str(path), str(tiny_model("bert", num_labels=3, with_head=True)))
    assert report.saved_params == 24 * 3 + 3


def test_keys_of_another_peft_are_reported_in_json_and_refused_in_yaml(
    check: Check, tiny_model: TinyModel, tmp_path: Path
) -> None:
    (surprise,) = check("bert", target_modules=["query"], from_the_future=1).surprises
    assert "from_the_future is unknown to peft" in surprise
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"task_type": "SEQ_CLS", "target_modules": ["query"], "from_the_future": 1}))
    with pytest.raises(BadInput, match="no argument 'from_the_future'"):
        verify(str(path), str(tiny_model("bert")))


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_modules": ["nowhere"]},
        {"target_modules": "("},
        {"target_modules": 5},
        {"target_modules": ["attention"]},
        {"target_modules": ["query"], "r": 0},
        {"target_modules": ["query"], "r": "x"},
        {"target_modules": ["query"], "modules_to_save": 5},
        {"target_modules": ["query"], "peft_type": "IA3"},
        {"target_modules": ["query"], "task_type": "SEQ_2_SEQ_LM"},
        {"target_modules": ["query"], "task_type": ["SEQ_CLS"]},
        {"target_modules": ["query"], "task_type": None},
    ],
)
def test_configs_that_cannot_be_applied_are_bad_input(check: Check, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        check("bert", **arguments)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", b"{"),
        ("c.json", b"[]"),
        ("c.yaml", b"a: [1"),
        ("c.yaml", b"\xff\xfe\xff"),
        ("c.yaml", b"just words"),
        ("c.yaml", b"x: !!python/object/apply:os.system ['exit 3']"),
        ("c.yml", b""),
        ("c.yaml", None),
        ("c.json", None),
    ],
)
def test_files_that_cannot_be_read_are_named(tiny_model: TinyModel, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=name) as caught:
        verify(str(tmp_path / name), str(tiny_model("bert")))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_config_and_a_model_that_is_none(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        verify(str(tmp_path), str(tiny_model("bert")))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"task_type": "SEQ_CLS", "target_modules": ["query"]}))
    with pytest.raises(BadInput, match=r"config\.json"):
        verify(str(tmp_path), str(tmp_path))
