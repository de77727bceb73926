"""Plans on tiny architectures without weights, and what each tool hands to PEFT: not by the advisor's own readers."""

from __future__ import annotations

import copy
import random
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from advisor.core.targets import LoraSettings, Selection, Target
from advisor.export.plan import Plan
from advisor.models.load import meta_model
from advisor.models.modules import find_head, find_targets

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "bert": ("BertConfig", SIZES, "classification"),
    "llama-classifier": ("LlamaConfig", SIZES, "classification"),
    "gpt2": ("GPT2Config", {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 4}, "causal-lm"),
    "gpt-neox": ("GPTNeoXConfig", SIZES, "causal-lm"),  # query_key_value is one module
    "phi3": ("Phi3Config", {**SIZES, "pad_token_id": 0}, "causal-lm"),  # qkv_proj and gate_up_proj are
    "llama": ("LlamaConfig", {**SIZES, "num_key_value_heads": 2, "num_hidden_layers": 3}, "causal-lm"),
}


@dataclass(frozen=True)
class Made:
    """An architecture on the meta device and the folder of its config."""

    folder: Path
    model: Any
    task: str
    targets: tuple[Target, ...]
    head: tuple[str, ...]

    def plan(self, names: list[str] | tuple[str, ...], settings: LoraSettings, **fields: Any) -> Plan:
        return Plan(
            Selection("some", tuple(names)),
            settings,
            self.targets,
            self.task,
            self.head,
            str(self.folder),
            self.model.config.model_type,
            0 if self.task == "causal-lm" else 2,
            **fields,
        )


def make(name: str, folder: Path) -> Made:
    config, fields, task = CONFIGS[name]
    getattr(transformers, config)(**fields).save_pretrained(folder)
    save_file({"unread": torch.zeros(4096)}, folder / "model.safetensors")  # as large as a model's of these sizes; none reads it
    model = meta_model(str(folder), task, num_labels=2)
    head = () if task == "causal-lm" else find_head(model)
    return Made(folder, model, task, find_targets(model, head), head)


class Nested(nn.Module):
    """One module's name is the end of another's; some names hold characters that a regex reads differently."""

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.LlamaConfig(num_hidden_layers=1)
        self.prepare_inputs_for_generation = None
        self.block = nn.ModuleDict({"proj": nn.Linear(4, 6), "p+oj": nn.Linear(4, 6)})
        self.outer = nn.ModuleDict({"block": nn.ModuleDict({"proj": nn.Linear(4, 6), "ppoj": nn.Linear(4, 6)})})
        self.blockxproj = nn.Linear(4, 6)


def nested(folder: Path) -> Made:
    with torch.device("meta"):
        model = Nested()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return Made(folder, model, "causal-lm", tuple(Target(n, None, n, "other", 4, 6) for n in names), ())


def tool_arguments(file: str, text: str) -> dict[str, Any]:
    """What the file's tool calls ``LoraConfig`` with."""
    if file.endswith(".py"):
        return _run_snippet(text)
    content = yaml.safe_load(text)
    if file in ("lora.yaml", "adapter_config.json"):
        return content
    if file == "axolotl.yaml":
        assert content.pop("adapter") == "lora"
        content.pop("base_model")
        renamed = {"peft_use_rslora": "use_rslora", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
        found = {renamed.get(key, key.removeprefix("lora_")): value for key, value in content.items()}
        for number in (found["r"], found["lora_alpha"], *found.get("alpha_pattern", {}).values()):
            assert type(number) is int  # its schema has no other
        return found | {"task_type": "CAUSAL_LM"}
    if file == "llama_factory.yaml":
        assert content["finetuning_type"] == "lora"
        assert (type(content["lora_rank"]), type(content["lora_alpha"])) == (int, int)
        return {
            "r": content["lora_rank"],
            "lora_alpha": content["lora_alpha"],
            "use_rslora": content["use_rslora"],
            "target_modules": [t.strip() for t in content["lora_target"].split(",")],
            "task_type": "CAUSAL_LM",
        }
    if file == "unsloth_studio.yaml":
        lora = content["lora"]
        assert type(lora["lora_alpha"]) is int
        return {
            "r": lora["lora_r"],
            "lora_alpha": lora["lora_alpha"],
            "use_rslora": lora["use_rslora"],
            "target_modules": [t.strip() for t in lora["target_modules"].split(",")],
            "task_type": "CAUSAL_LM",
        }
    assert file == "trl.yaml"
    assert content["use_peft"] is True
    assert type(content["lora_alpha"]) is int
    modules = content["lora_target_modules"]
    return {
        "r": content["lora_r"],
        "lora_alpha": content["lora_alpha"],
        "use_rslora": content["use_rslora"],
        "target_modules": modules[0] if len(modules) == 1 else modules,
        "task_type": content["lora_task_type"],
    }


def _run_snippet(text: str) -> dict[str, Any]:
    """Runs a snippet of ours beside a stand-in for unsloth, whose ``get_peft_model`` hands its keywords on."""
    seen: dict[str, Any] = {}

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(name: str, *, max_seq_length: int, num_labels: int | None = None) -> tuple[Any, Any]:
            seen["task_type"] = "CAUSAL_LM" if num_labels is None else "SEQ_CLS"
            return None, None

        @staticmethod
        def get_peft_model(model: Any, **keywords: Any) -> None:
            assert isinstance(keywords["target_modules"], list)
            assert keywords.pop("finetune_vision_layers", True)  # else the list would be read as last parts of names
            seen.update(keywords)

    module = types.ModuleType("unsloth")
    module.FastLanguageModel = FastLanguageModel  # type: ignore[attr-defined]
    scope: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "unsloth", module)
        exec(text, scope)
    return seen or scope["peft_config"].to_dict()


def trained(model: Any, arguments: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Rank and scale of every module with LoRA, read off the tensors and layers of the wrapped model."""
    arguments = {key: value for key, value in arguments.items() if key not in ("peft_type", "auto_mapping")}
    wrapped: Any = get_peft_model(copy.deepcopy(model), LoraConfig(**arguments), low_cpu_mem_usage=True)
    return {
        name: (layer.lora_A["default"].weight.shape[0], layer.scaling["default"])
        for name, layer in wrapped.base_model.model.named_modules()
        if hasattr(layer, "lora_A")
    }


def own_ranks(plan: Plan, seed: int = 0) -> Plan:
    """Every other module at a rank of its own, at the same scale."""
    draw = random.Random(seed)
    ranks = {name: draw.choice([1, 2, 3, 8]) for name in plan.names[::2]}
    return replace(plan, ranks=ranks, alphas={name: plan.settings.at_rank(rank).alpha for name, rank in ranks.items()})
