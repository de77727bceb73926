"""Exported configs adapt exactly what was selected; PEFT on a real copy of the model is the oracle."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from architectures import ARCHITECTURES
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

from advisor.core.errors import AdvisorError, BadInput
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.export.peft import adapter_config_json, lora_yaml
from advisor.models.load import load_model, meta_model
from advisor.models.peft import lora_arguments, prove, resolve

TinyModel = Callable[..., Path]
SETTINGS = LoraSettings(rank=4, alpha=8)


def load(folder: Path, task: str = "classification") -> Any:
    return load_model(str(folder), task, num_labels=2, device="cpu")


def arguments_for(loaded: Any, selection: Selection, settings: LoraSettings = SETTINGS) -> dict[str, Any]:
    return lora_arguments(
        selection,
        settings,
        task=loaded.task,
        head=loaded.head,
        targets=loaded.targets,
        base_model=loaded.model.name_or_path,
    )


def selections(loaded: Any, seed: int) -> list[Selection]:
    """One module, everything, and three random subsets."""
    draw = random.Random(seed)
    names = [t.name for t in loaded.targets]
    sizes = [1, len(names), *(draw.randint(2, len(names) - 1) for _ in range(3))]
    chosen = [set(draw.sample(names, size)) for size in sizes]
    return [Selection(f"{len(s)} modules", tuple(n for n in names if n in s)) for s in chosen]


def adapted(model: Any) -> tuple[set[str], int]:
    """Modules with LoRA and trainable LoRA parameters, read off the adapted model itself."""
    names = {n.removesuffix(".lora_A") for n, _ in model.base_model.model.named_modules() if n.endswith(".lora_A")}
    count = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n and p.requires_grad)
    return names, count


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("form", ["yaml", "get_peft_config", "adapter_config.json"])
def test_the_file_adapts_exactly_the_selection(tiny_model: TinyModel, tmp_path: Path, name: str, form: str) -> None:
    folder = tiny_model(name)
    for selection in selections(load(folder), seed=len(name)):
        loaded = load(folder)
        arguments = arguments_for(loaded, selection)
        (tmp_path / "lora.yaml").write_text(lora_yaml(arguments, ["made by a test"]))
        (tmp_path / "adapter_config.json").write_text(adapter_config_json(arguments))
        read = yaml.safe_load((tmp_path / "lora.yaml").read_text())
        config: PeftConfig
        if form == "yaml":
            config = LoraConfig(**read)
        elif form == "get_peft_config":
            config = peft.get_peft_config(read)
        else:
            config = PeftConfig.from_pretrained(str(tmp_path))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # such as a wrong fan_in_fan_out
            model: Any = get_peft_model(loaded.model, config)
        assert adapted(model) == (set(selection.targets), selection.params(loaded.targets, 4))
        trained = {n for n, p in model.base_model.model.named_parameters() if p.requires_grad and "lora_" not in n}
        assert trained
        assert all(n.startswith(f"{loaded.head[0]}.modules_to_save.") for n in trained)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_language_model_trains_lora_only(tiny_model: TinyModel, name: str) -> None:
    folder = tiny_model(name, "causal-lm")
    loaded = load(folder, "causal-lm")
    selection = selections(loaded, seed=1)[2]
    arguments = arguments_for(loaded, selection)
    proved = prove(meta_model(str(folder), "causal-lm"), arguments, selection, loaded.targets, 4)
    assert proved.saved == ()
    model = get_peft_model(loaded.model, LoraConfig(**arguments))
    assert model.get_nb_trainable_parameters()[0] == selection.params(loaded.targets, 4) == proved.lora_params


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_meta_device_says_what_a_real_model_does(tiny_model: TinyModel, name: str) -> None:
    folder = tiny_model(name)
    loaded, meta = load(folder), meta_model(str(folder), "classification", num_labels=2)
    before = [n for n, _ in meta.named_modules()]
    selection = selections(loaded, seed=2)[3]
    arguments = arguments_for(loaded, selection)
    kept = json.dumps(arguments)
    proved = prove(meta, arguments, selection, loaded.targets, 4)
    assert [n for n, _ in meta.named_modules()] == before
    assert json.dumps(arguments) == kept
    assert proved.wrapped == selection.targets
    assert proved.saved == loaded.head
    assert proved.saved_params == sum(p.numel() for p in loaded.model.get_submodule(loaded.head[0]).parameters())
    assert proved.other_params == 0
    assert proved.warnings == ()


def test_twenty_or_more_modules_stay_exact_when_peft_shortens_them(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model("llama"))
    kept = tuple(t.name for t in loaded.targets[:-1])
    assert len(kept) == 20
    model: Any = get_peft_model(loaded.model, LoraConfig(**arguments_for(loaded, Selection("20", kept))))
    shortened = model.peft_config["default"].target_modules
    assert len(shortened) < 20
    assert adapted(model)[0] == set(kept)


def test_rank_alpha_and_rslora_give_the_stated_scale(tiny_model: TinyModel) -> None:
    for settings in (LoraSettings(4, 8), LoraSettings(3, 0.5), LoraSettings(9, 6, rslora=True)):
        loaded = load(tiny_model("bert"))
        arguments = yaml.safe_load(lora_yaml(arguments_for(loaded, all_linear(loaded.targets), settings), []))
        model: Any = get_peft_model(loaded.model, LoraConfig(**arguments))
        layer = model.base_model.model.get_submodule(loaded.targets[0].name)
        assert layer.scaling["default"] == pytest.approx(settings.scale)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_conv1d_is_written_as_fan_in_fan_out(tiny_model: TinyModel, name: str) -> None:
    loaded = load(tiny_model(name))
    arguments = arguments_for(loaded, all_linear(loaded.targets))
    assert arguments["fan_in_fan_out"] is (name == "gpt2")


def test_one_training_step_lowers_the_loss(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model("gpt2"))
    torch.manual_seed(0)
    model = get_peft_model(loaded.model, LoraConfig(**arguments_for(loaded, all_linear(loaded.targets)))).eval()
    batch = loaded.tokenizer(["a good film", "a bad film"], padding=True, return_tensors="pt")
    batch["labels"] = torch.tensor([1, 0])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = model(**batch).loss
    before.backward()
    optimizer.step()
    assert model(**batch).loss < before


class Nested(nn.Module):
    """The name of one module is the suffix of another's, and holds characters that mean something in a regex."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"proj": nn.Linear(4, 6), "p+oj": nn.Linear(4, 6)})
        self.outer = nn.ModuleDict({"block": nn.ModuleDict({"proj": nn.Linear(4, 6), "ppoj": nn.Linear(4, 6)})})
        self.blockxproj = nn.Linear(4, 6)


def nested_targets() -> tuple[Target, ...]:
    names = [n for n, m in Nested().named_modules() if isinstance(m, nn.Linear)]
    return tuple(Target(n, None, n, "other", 4, 6) for n in names)


@pytest.mark.parametrize("chosen", [("block.proj",), ("block.proj", "block.p+oj"), ("block.p+oj",), ("outer.block.proj",)])
def test_a_name_that_is_the_suffix_of_another_stays_exact(chosen: tuple[str, ...]) -> None:
    selection = Selection("nested", chosen)
    targets = nested_targets()
    arguments = lora_arguments(selection, SETTINGS, task="causal-lm", head=(), targets=targets, base_model="nested")
    assert isinstance(arguments["target_modules"], str) is ("block.proj" in chosen)
    plain = {**arguments, "task_type": None, "base_model_name_or_path": None}  # no transformers model
    with torch.device("meta"):
        model = Nested()
    assert prove(model, plain, selection, targets, 4).wrapped == chosen
    read = yaml.safe_load(lora_yaml(plain, []))
    assert adapted(get_peft_model(Nested(), LoraConfig(**read)))[0] == set(chosen)


def test_both_of_two_such_names_chosen_need_no_regex() -> None:
    selection = Selection("both", ("block.proj", "outer.block.proj"))
    arguments = lora_arguments(selection, SETTINGS, task="causal-lm", head=(), targets=nested_targets(), base_model="nested")
    assert arguments["target_modules"] == ["block.proj", "outer.block.proj"]


def test_an_empty_selection_has_no_config(tiny_model: TinyModel) -> None:
    with pytest.raises(BadInput, match="head-only"):
        arguments_for(load(tiny_model("bert")), Selection("head-only", ()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target_modules": ["query"]}, "PEFT adapts 2 modules, not 1"),
        ({"target_modules": ["nowhere"]}, "PEFT refuses"),
        ({"target_modules": "("}, "target_modules: PEFT takes"),
        ({"r": 5}, "with rank 5, not 4"),
        ({"rank_pattern": {"query": 2}}, "with rank 2, not 4"),
        ({"bias": "all"}, "parameters outside the head"),
        ({"modules_to_save": ["pooler"]}, "other modules are trained in full"),
        ({"modules_to_save": []}, "other modules are trained in full"),
    ],
)
def test_a_config_that_does_something_else_is_not_proved(tiny_model: TinyModel, change: dict[str, Any], says: str) -> None:
    folder = tiny_model("bert")
    loaded = load(folder)
    selection = Selection("one", (loaded.targets[0].name,))
    arguments = {**arguments_for(loaded, selection), **change}
    meta = meta_model(str(folder), "classification", num_labels=2)
    with pytest.raises(AdvisorError, match=says) as caught:
        prove(meta, arguments, selection, loaded.targets, 4)
    assert caught.value.exit_code == 1
    assert "bug" in caught.value.hint


def own_ranks(targets: Sequence[Target], settings: LoraSettings, seed: int) -> tuple[dict[str, int], dict[str, float]]:
    """Ranks and alphas of every other module, at the settings' scale."""
    draw = random.Random(seed)
    ranks = {t.name: draw.choice([1, 2, 3, 8]) for t in targets[::2]}
    return ranks, {name: settings.at_rank(rank).alpha for name, rank in ranks.items()}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("form", ["yaml", "adapter_config.json"])
def test_each_module_gets_its_own_rank_at_the_same_scale(
    tiny_model: TinyModel, tmp_path: Path, name: str, form: str, rslora: bool
) -> None:
    folder = tiny_model(name)
    loaded, settings = load(folder), LoraSettings(4, 8, rslora)
    selection = all_linear(loaded.targets)
    ranks, alphas = own_ranks(loaded.targets, settings, seed=len(name))
    arguments = lora_arguments(
        selection,
        settings,
        task=loaded.task,
        head=loaded.head,
        targets=loaded.targets,
        base_model=str(folder),
        ranks=ranks,
        alphas=alphas,
    )
    meta = meta_model(str(folder), "classification", num_labels=2)
    proved = prove(meta, arguments, selection, loaded.targets, 4, ranks)
    if form == "yaml":
        config: Any = LoraConfig(**yaml.safe_load(lora_yaml(arguments, [])))
    else:
        (tmp_path / "adapter_config.json").write_text(adapter_config_json(arguments))
        config = PeftConfig.from_pretrained(str(tmp_path))
    model: Any = get_peft_model(loaded.model, config)
    layers = {n: model.base_model.model.get_submodule(n) for n in selection.targets}
    for target in loaded.targets:
        a, b = (getattr(layers[target.name], part)["default"].weight for part in ("lora_A", "lora_B"))
        rank = ranks.get(target.name, 4)
        assert tuple(a.shape) == (rank, target.in_features)
        assert tuple(b.shape) == (target.out_features, rank)
        assert layers[target.name].scaling["default"] == pytest.approx(settings.scale)
        assert proved.ranks[target.name] == rank
    assert adapted(model) == (set(selection.targets), selection.params(loaded.targets, 4, ranks))
    assert proved.lora_params == selection.params(loaded.targets, 4, ranks)
    if not rslora:
        assert all(isinstance(alpha, int) and alpha > 0 for alpha in arguments["alpha_pattern"].values())


def test_a_pattern_is_its_own_module_alone() -> None:
    names = [t.name for t in nested_targets()]
    selection = Selection("nested", tuple(names))
    for name in names:
        arguments = lora_arguments(
            selection,
            SETTINGS,
            task="causal-lm",
            head=(),
            targets=nested_targets(),
            base_model="nested",
            ranks={name: 2},
            alphas={name: 2.5},
        )
        found = resolve(Nested(), {**arguments, "task_type": None})
        assert found.ranks == {other: 2 if other == name else 4 for other in names}
        assert found.alphas == {other: 2.5 if other == name else 8 for other in names}


def test_ranks_that_a_config_leaves_out_are_not_proved(tiny_model: TinyModel) -> None:
    folder = tiny_model("bert")
    loaded = load(folder)
    selection = all_linear(loaded.targets)
    meta = meta_model(str(folder), "classification", num_labels=2)
    with pytest.raises(AdvisorError, match="with rank 4, not 3"):
        prove(meta, arguments_for(loaded, selection), selection, loaded.targets, 4, {loaded.targets[1].name: 3})


def test_comments_cannot_become_content() -> None:
    nasty = ["x\nr: 999", "\u2028r: 999\r\x85", "bell \a, lone \udc80, naïve π"]
    text = lora_yaml({"r": 8, "target_modules": ["a"]}, nasty)
    assert yaml.safe_load(text.encode()) == {"r": 8, "target_modules": ["a"]}
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header == ["# x\\nr: 999", "# \\u2028r: 999\\r\\x85", "# bell \\x07, lone \\udc80, naïve π"]


def test_values_survive_yaml() -> None:
    arguments = {"base_model_name_or_path": "no: #\n'\"é", "lora_alpha": 1e-05, "target_modules": "^(a\\.b)$"}
    assert yaml.safe_load(lora_yaml(arguments, [])) == arguments


def test_peft_reads_adapter_config_json_as_the_arguments(tiny_model: TinyModel, tmp_path: Path) -> None:
    loaded = load(tiny_model("bert"))
    arguments = arguments_for(loaded, all_linear(loaded.targets))
    (tmp_path / "adapter_config.json").write_text(adapter_config_json(arguments))
    read, given = PeftConfig.from_pretrained(str(tmp_path)).to_dict(), LoraConfig(**arguments).to_dict()
    assert {**read, "inference_mode": None} == {**given, "inference_mode": None}


def test_resolving_imports_nothing_that_a_config_names(tiny_model: TinyModel) -> None:
    meta = meta_model(str(tiny_model("bert")), "classification", num_labels=2)
    arguments = {"r": 2, "target_modules": ["query"], "megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    assert len(resolve(meta, arguments).wrapped) == 2
