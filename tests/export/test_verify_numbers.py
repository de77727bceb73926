"""verify on numbers, texts and files that no tool can use: one line each that names what is wrong, and no memory taken."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import refused

from advisor.core import matching
from advisor.core.errors import BadInput
from advisor.export.verify import Report, verify

TinyModel = Callable[..., Path]
HUGE = 10**400


@pytest.fixture
def check(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Report]:
    def run(**fields: Any) -> Report:
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps({"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **fields}))
        return verify(str(path), str(tiny_model("llama", "causal-lm")))

    return run


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, None, "8", [8], 10**7, 10**30])
@pytest.mark.parametrize("where", ["r", "rank_pattern"])
def test_a_rank_is_a_whole_number(check: Callable[..., Report], where: str, rank: Any) -> None:
    with pytest.raises(BadInput, match=rf"adapter_config\.json: {where}.* no whole number from 1 to") as caught:
        check(**{where: rank if where == "r" else {"q_proj": rank}})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("alpha", [0, -5, True, None, "16", HUGE])
@pytest.mark.parametrize("where", ["lora_alpha", "alpha_pattern"])
def test_an_alpha_is_a_positive_number(check: Callable[..., Report], where: str, alpha: Any) -> None:
    with pytest.raises(BadInput, match=rf"adapter_config\.json: {where}.* not a positive number") as caught:
        check(**{where: alpha if where == "lora_alpha" else {"q_proj": alpha}})
    assert len(str(caught.value)) < 300


def test_a_large_rank_takes_no_memory(check: Callable[..., Report]) -> None:
    """At rank 1,000,000 this tiny model's LoRA would be 600 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = check(r=1_000_000, target_modules="all-linear")
    assert report.lora_params * 4 > 600e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert any("vLLM serves none above 512" in surprise for surprise in report.surprises)


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "modules_to_save", "rank_pattern"])
def test_far_more_entries_than_modules_are_refused_at_once(check: Callable[..., Report], key: str) -> None:
    """PEFT compares each entry with every other."""
    names = [f"m{i}" for i in range(100_000)]
    with pytest.raises(BadInput, match=f"{key} has 100,000 entries, and LlamaForCausalLM has"):
        check(**{key: dict.fromkeys(names, 4) if key == "rank_pattern" else names})


def test_a_text_for_modules_to_save_is_taken_apart(check: Callable[..., Report]) -> None:
    report = check(modules_to_save="lm_head")
    assert report.exit_code == 1
    assert sum("by character" in surprise for surprise in report.surprises) == 1
    assert not any("matches no module" in surprise for surprise in report.surprises)


def test_no_target_modules_is_noted(check: Callable[..., Report]) -> None:
    report = check(target_modules=None)
    assert report.exit_code == 0
    assert any("its own default" in note for note in report.notes)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": [1, 2]},
        {"target_modules": ["q_proj", None]},
        {"target_modules": ["q_proj", ["v_proj"]]},
        {"target_modules": []},
        {"target_modules": [""]},
        {"target_modules": "*q_proj"},
        {"target_modules": "q_proj"},
        {"rank_pattern": {"(": 4}},
        {"rank_pattern": [1]},
        {"exclude_modules": "("},
        {"exclude_modules": 5},
        {"modules_to_save": [5]},
        {"modules_to_save": ["["]},
        {"layers_to_transform": ["x"]},
        {"layers_to_transform": [99]},
        {"layers_pattern": "(", "layers_to_transform": [0]},
        {"lora_dropout": "x"},
        {"lora_dropout": 1.5},
        {"bias": "x"},
    ],
)
def test_what_peft_cannot_use_is_bad_input(check: Callable[..., Report], fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"adapter_config\.json") as caught:
        check(**fields)
    assert str(caught.value).isprintable()


NO_REGEX = [
    ({"target_modules": ".*(q_proj"}, "target_modules", "Correct it"),
    ({"target_modules": "*q_proj"}, "target_modules", r"Write '\.\*'"),
    ({"exclude_modules": ".*(q_proj"}, "exclude_modules", "Correct it"),
    ({"exclude_modules": "*.lm_head"}, "exclude_modules", r"Write '\.\*'"),
    ({"layers_pattern": "(", "layers_to_transform": [0]}, "layers_pattern", "Correct it"),
    ({"layers_pattern": ["layers", "h)"], "layers_to_transform": [0]}, "layers_pattern", "Correct it"),
    ({"modules_to_save": ["lm_head["]}, "modules_to_save", "Correct it"),
    ({"rank_pattern": {"a{99999999999999999999}": 4}}, "rank_pattern", "Correct it"),
    ({"alpha_pattern": {"(?<x": 4}}, "alpha_pattern", "Correct it"),
]


@pytest.mark.parametrize(("fields", "key", "hint"), NO_REGEX)
def test_what_is_no_regex_is_refused_by_its_key(
    check: Callable[..., Report], fields: dict[str, Any], key: str, hint: str
) -> None:
    with pytest.raises(BadInput, match=rf"adapter_config\.json: {key}: PEFT takes .* which it is not.*{hint}"):
        check(**fields)


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "rank_pattern"])
def test_a_regex_that_backtracks_is_refused_by_its_key(
    check: Callable[..., Report], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "SECONDS", 1)
    text = "(.*)*(.*)*(.*)*x"
    kinds: dict[str, Any] = {"modules_to_save": [text], "rank_pattern": {text: 4}}
    with pytest.raises(BadInput, match=rf"adapter_config\.json: {key}: matching .* takes too long"):
        check(**{"layers_to_transform": [0], key: kinds.get(key, text)})


@pytest.mark.parametrize("key", ["bias", "runtime_config", "rank_pattern", "lora_dropout", "use_dora"])
def test_null_is_refused_by_its_key(check: Callable[..., Report], key: str) -> None:
    with pytest.raises(BadInput, match=rf"adapter_config\.json: {key} is null"):
        check(**{key: None})


@pytest.mark.parametrize("key", ["r", "rank_pattern", "lora_alpha", "alpha_pattern"])
def test_a_number_in_quotes_is_shown_with_them(check: Callable[..., Report], key: str) -> None:
    with pytest.raises(BadInput, match=rf"{key}.* is '8', no"):
        check(**{key: {"q_proj": "8"} if "pattern" in key else "8"})


def test_tokens_of_no_module_are_refused_by_their_key(check: Callable[..., Report]) -> None:
    with pytest.raises(BadInput, match=r"trainable_token_indices: 'foo' is no module .* Write 'model\.embed_tokens'"):
        check(trainable_token_indices={"embed_tokens": [0], "foo": [0]})
    assert check(trainable_token_indices={"embed_tokens": [0]}).tokens == {"model.embed_tokens": 1}


def test_brackets_in_names_are_no_markup(check: Callable[..., Report]) -> None:
    report = check(target_modules=["q_proj", "[bold]q_proj[/bold]"])
    assert report.unmatched == ("[bold]q_proj[/bold]",)
    assert any("'[bold]q_proj[/bold]'" in line for line in report.lines())


def test_one_module_is_one(check: Callable[..., Report]) -> None:
    assert check(target_modules=["model.layers.0.self_attn.q_proj"]).lines()[0].startswith("1 module gets LoRA (1 query)")


AXOLOTL = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8}
UNSLOTH = "m, t = FastLanguageModel.from_pretrained('m'{})\nm = FastLanguageModel.get_peft_model(m, {})\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.yaml", "", "no mapping"),
        ("c.py", "", "0 calls"),
        ("c.json", "", "cannot be understood"),
        ("c.yaml", "\tlora_r: 5", "cannot be understood"),
        ("c.yaml", "a: b: c", "cannot be understood"),
        ("c.toml", "r = 5", "cannot be understood"),
        ("c.json", '{"r": ' + "9" * 5000 + "}", "cannot be understood"),
        ("c.yaml", yaml.safe_dump({**AXOLOTL, "lora_target_modules": ["q_proj", 5]}), "it should be a valid"),
        ("c.yaml", yaml.safe_dump({**AXOLOTL, "lora_target_modules": "["}), "lora_target_modules: PEFT takes"),
        ("c.yaml", yaml.safe_dump({**AXOLOTL, "lora_r": 10**30, "lora_target_modules": ["q_proj"]}), "whole number"),
        ("c.yaml", yaml.safe_dump({"adapter": "lora", "lora_r": 4, "lora_target_modules": ["q_proj"]}), "no lora_alpha"),
        ("c.yaml", yaml.safe_dump({"base_model": "m", "lora_r": 4, "lora_alpha": 8}), "no key adapter"),
        ("c.yaml", yaml.safe_dump({"finetuning_type": "lora", "lora_target": " , "}), "PEFT refuses"),
        ("c.yaml", yaml.safe_dump({"finetuning_type": "lora", "lora_alpha": -8, "lora_target": "q_proj"}), "positive"),
        ("c.yaml", yaml.safe_dump({"use_peft": "maybe", "lora_target_modules": ["q_proj"]}), "use_peft is of type str"),
        ("c.py", UNSLOTH.format("", "r=0, target_modules=['q_proj']"), "r is 0"),
        ("c.py", UNSLOTH.format("", "r=4, target_modules=[1]"), "not a text"),
        ("c.py", UNSLOTH.format(", num_labels=-2", "r=4, target_modules=['q_proj']"), "num_labels is -2"),
    ],
)
def test_files_of_every_format(tiny_model: TinyModel, tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=says) as caught:
        verify(str(tmp_path / name), str(tiny_model("llama", "causal-lm")))
    assert name in str(caught.value)


def test_models_and_folders_that_there_are_none_of(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}')
    assert "no such folder" in refused(2, "verify", tmp_path / "c.json", "--model", tmp_path / "none")
    assert "[bold]x[/bold]" in refused(2, "verify", tmp_path / "c.json", "--model", "[bold]x[/bold]")
    assert "adapter_config.json" in refused(2, "verify", tmp_path, "--model", tmp_path)
    assert "no such file" in refused(2, "export", tmp_path, "--format", "trl")


def test_a_weight_that_is_no_stack_is_not_called_experts(check: Callable[..., Report]) -> None:
    shown = "\n".join(check(target_modules=[], target_parameters=["q_proj.weight"]).lines())
    assert "weights (target_parameters) get LoRA by themselves" in shown
    assert "expert" not in shown
