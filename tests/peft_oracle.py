"""Drawn LoRA configs and adapters, and what PEFT itself does with them on really initialised models: no code of the advisor's."""

from __future__ import annotations

import copy
import json
import random
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

SIZES = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT = {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 32, "model_type": "llama"}
_VISION = {**SIZES, "image_size": 8, "patch_size": 4, "projection_dim": 16, "model_type": "clip_vision_model"}
_QWEN_VL = {"embed_dim": 16, "hidden_size": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}


class Kind(NamedTuple):
    """One architecture: its config, the class that is trained, PEFT's name of the task."""

    config: str
    fields: dict[str, Any]
    model: str
    task_type: str


KINDS = {
    "llama": Kind("LlamaConfig", {**SIZES, "num_key_value_heads": 1}, "LlamaForCausalLM", "CAUSAL_LM"),
    "llama-tied": Kind("LlamaConfig", {**SIZES, "tie_word_embeddings": True}, "LlamaForCausalLM", "CAUSAL_LM"),
    "llama-classifier": Kind("LlamaConfig", {**SIZES, "pad_token_id": 0}, "LlamaForSequenceClassification", "SEQ_CLS"),
    "gpt2": Kind("GPT2Config", {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2}, "GPT2LMHeadModel", "CAUSAL_LM"),
    "gpt-neox": Kind("GPTNeoXConfig", SIZES, "GPTNeoXForCausalLM", "CAUSAL_LM"),
    "phi3": Kind("Phi3Config", {**SIZES, "pad_token_id": 0}, "Phi3ForCausalLM", "CAUSAL_LM"),
    "mixtral": Kind(
        "MixtralConfig", {**SIZES, "num_key_value_heads": 1, "num_local_experts": 3}, "MixtralForCausalLM", "CAUSAL_LM"
    ),
    "qwen3-moe": Kind(
        "Qwen3MoeConfig",
        {
            **SIZES,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
        },
        "Qwen3MoeForCausalLM",
        "CAUSAL_LM",
    ),
    "t5": Kind(
        "T5Config",
        {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
        "T5ForConditionalGeneration",
        "SEQ_2_SEQ_LM",
    ),
    "bert": Kind("BertConfig", SIZES, "BertForSequenceClassification", "SEQ_CLS"),
    "bert-features": Kind("BertConfig", SIZES, "BertModel", "FEATURE_EXTRACTION"),
    "bert-tokens": Kind("BertConfig", SIZES, "BertForTokenClassification", "TOKEN_CLS"),
    "roberta-answers": Kind("RobertaConfig", SIZES, "RobertaForQuestionAnswering", "QUESTION_ANS"),
    "vit": Kind("ViTConfig", {**SIZES, "image_size": 8, "patch_size": 4}, "ViTForImageClassification", "SEQ_CLS"),
    "llava": Kind("LlavaConfig", {"text_config": _TEXT, "vision_config": _VISION}, "LlavaForConditionalGeneration", "CAUSAL_LM"),
    "qwen2-vl": Kind(
        "Qwen2VLConfig",
        {
            "text_config": {
                **SIZES,
                "num_key_value_heads": 1,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            },
            "vision_config": _QWEN_VL,
        },
        "Qwen2VLForConditionalGeneration",
        "CAUSAL_LM",
    ),
}
_BART = {
    **{f"{stack}_{what}": size for stack in ("encoder", "decoder") for what, size in (("layers", 2), ("attention_heads", 2))},
    **{"vocab_size": 60, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32},
}
_T5 = KINDS["t5"].fields
MORE_KINDS = {  # for the slow tests
    "gpt2-classifier": Kind(
        "GPT2Config", {**KINDS["gpt2"].fields, "pad_token_id": 0}, "GPT2ForSequenceClassification", "SEQ_CLS"
    ),
    "mixtral-classifier": Kind(
        "MixtralConfig", {**KINDS["mixtral"].fields, "pad_token_id": 0}, "MixtralForSequenceClassification", "SEQ_CLS"
    ),
    "distilbert": Kind(
        "DistilBertConfig",
        {"vocab_size": 60, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
        "DistilBertForSequenceClassification",
        "SEQ_CLS",
    ),
    "deberta": Kind("DebertaV2Config", {**SIZES, "pooler_hidden_size": 16}, "DebertaV2ForSequenceClassification", "SEQ_CLS"),
    "albert": Kind("AlbertConfig", {**SIZES, "embedding_size": 8}, "AlbertForSequenceClassification", "SEQ_CLS"),
    "bart": Kind("BartConfig", _BART, "BartForConditionalGeneration", "SEQ_2_SEQ_LM"),
    "bart-classifier": Kind("BartConfig", _BART, "BartForSequenceClassification", "SEQ_CLS"),
    "t5-untied": Kind("T5Config", {**_T5, "tie_word_embeddings": False}, "T5ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    "t5-classifier": Kind("T5Config", _T5, "T5ForSequenceClassification", "SEQ_CLS"),
    "swin": Kind(
        "SwinConfig",
        {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
        "SwinForImageClassification",
        "SEQ_CLS",
    ),
    "dinov2": Kind("Dinov2Config", {**SIZES, "image_size": 8, "patch_size": 4}, "Dinov2ForImageClassification", "SEQ_CLS"),
    "falcon": Kind("FalconConfig", SIZES, "FalconForCausalLM", "CAUSAL_LM"),
    "mamba": Kind(
        "MambaConfig",
        {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 3, "time_step_rank": 3},
        "MambaForCausalLM",
        "CAUSAL_LM",
    ),
}


class Built(NamedTuple):
    """A really initialised model and the folder with its config."""

    kind: Kind
    model: Any
    folder: Path


class Found(NamedTuple):
    """What PEFT made, counted from the tensors: ranks and scales of modules and weights, the modules trained in full."""

    ranks: dict[str, int]
    weight_ranks: dict[str, int]
    scales: dict[str, float]
    saved: set[str]
    lora_params: int
    saved_params: int
    other_params: int


def build(name: str, folder: Path) -> Built:
    kind = {**KINDS, **MORE_KINDS}[name]
    config = getattr(transformers, kind.config)(**kind.fields)
    config.architectures = [kind.model]
    torch.manual_seed(0)
    model = getattr(transformers, kind.model)(config).eval()
    config.save_pretrained(folder)
    save_file({"none": torch.zeros(4096)}, folder / "model.safetensors")
    return Built(kind, model, folder)


def draw(built: Built, rng: random.Random) -> dict[str, Any]:
    """A config: sound or not, as people and programs write them."""
    modules = {name: m for name, m in built.model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    heads = [name for name, m in built.model.named_modules() if isinstance(m, nn.Embedding | nn.LayerNorm)]
    names = list(modules)
    lasts = sorted({name.rsplit(".", 1)[-1] for name in names if not name.rsplit(".", 1)[-1].isdigit()})
    weights = [n for n, p in built.model.named_parameters() if p.ndim == 3 and "experts" in n]
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": built.kind.task_type, "r": rng.choice((2, 3, 4)), "lora_alpha": 6}
    form = rng.choice(("lasts", "lasts", "names", "tails", "regex", "all", "mixed"))
    few = rng.sample(lasts, min(len(lasts), rng.randint(1, 3)))
    some = rng.sample(names, min(len(names), rng.choice((1, 3, 25))))
    config["target_modules"] = {
        "lasts": few,
        "names": some,
        "tails": [".".join(name.split(".")[-2:]) for name in some],
        "regex": rf".*\.({'|'.join(map(re.escape, few))})",
        "all": "all-linear",
        "mixed": [*few, "nowhere", *some[:1]],
    }[form]
    if rng.random() < 0.4:
        single = rng.choice((*some, *few, "nowhere", some[0].rpartition(".")[0] or "x"))
        config["exclude_modules"] = rng.choice(([single], rf".*{re.escape(single)}"))
    if isinstance(config["target_modules"], list) and rng.random() < 0.3:
        config["layers_to_transform"] = rng.choice((0, [1], [0, 1], [1, 7]))
    if rng.random() < 0.5:
        keys = rng.sample([*few, *(f"^{re.escape(name)}" for name in some), "nowhere", r".*\.0\..*"], 2)
        config["rank_pattern"] = {key: 5 + at for at, key in enumerate(keys)}
        if rng.random() < 0.5:
            config["alpha_pattern"] = {key: 11 + at for at, key in enumerate(keys)}
    if rng.random() < 0.3:
        config["modules_to_save"] = [rng.choice((rng.choice(heads), rng.choice(heads).rsplit(".", 1)[-1], "nowhere"))]
    if weights and rng.random() < 0.6:
        of = {".".join(name.split(".")[-count:]) for name in weights for count in (1, 2, 3)}
        config["target_parameters"] = rng.sample([*sorted(of), "experts.nowhere"], 2)
    for key, chance in (("use_rslora", 0.3), ("use_dora", 0.15), ("lora_bias", 0.05)):
        if rng.random() < chance:
            config[key] = True
    if rng.random() < 0.1:
        config["bias"] = rng.choice(("all", "lora_only"))
    if rng.random() < 0.1 and hasattr(built.model, "get_input_embeddings"):
        config["trainable_token_indices"] = [1, 5, 7]
    return config


def applied(built: Built, config: dict[str, Any]) -> Any:
    """The real ``PeftModel``, or the exception that PEFT raises."""
    torch.manual_seed(1)
    arguments = {key: value for key, value in copy.deepcopy(config).items() if key != "peft_type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return get_peft_model(copy.deepcopy(built.model), LoraConfig(**arguments))
        except Exception as error:
            return error


def counted(model: Any) -> Found:
    """What there is in a ``PeftModel``."""
    base = model.base_model.model
    ranks, weight_ranks, scales = {}, {}, {}
    for name, module in base.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        first = module.lora_A["default"].weight if "default" in module.lora_A else module.lora_embedding_A["default"]
        if isinstance(module, ParamWrapper):
            full = f"{name.replace('.base_layer', '')}.{module.parameter_name}"
            weight_ranks[full] = first.shape[0] // module.num_experts
        else:
            ranks[name] = first.shape[0]
            scales[name] = module.scaling["default"]
    saved = {name for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    saved = {name for name in saved if not any(name.startswith(f"{other}.") for other in saved)}
    sizes = [0, 0, 0]
    for name, parameter in base.named_parameters():
        if parameter.requires_grad:
            of_saved = any(name.startswith(f"{module}.") for module in saved)
            sizes[1 if of_saved else 0 if ".lora_" in name else 2] += parameter.numel()
    return Found(ranks, weight_ranks, scales, saved, *sizes)


def save(model: Any, folder: Path, rng: random.Random) -> None:
    """The adapter as if it were trained."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.01 * torch.randn(parameter.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))


def damage(folder: Path, rng: random.Random) -> str:
    """Change the tensors of an adapter, and say how."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    lora = sorted(key for key in tensors if ".lora_" in key)
    key, how = rng.choice(lora), rng.choice(("drop", "drop module", "rename", "prefix", "rank", "size", "extra", "adapter name"))
    if how == "drop":
        del tensors[key]
    elif how == "drop module":
        tensors = {k: t for k, t in tensors.items() if not k.startswith(key.rpartition(".lora_")[0] + ".")}
    elif how == "rename":
        tensors[key.replace("base_model.model.", "base_model.model.other.")] = tensors.pop(key)
    elif how == "prefix":
        tensors = {k.removeprefix("base_model.model."): t for k, t in tensors.items()}
    elif how == "adapter name":
        tensors = {k.replace(".weight", ".default.weight") if k == key else k: t for k, t in tensors.items()}
    elif how in ("rank", "size"):
        tensors[key] = torch.cat([tensors[key], tensors[key]], 0 if how == "rank" else -1)
    else:
        tensors[key.replace(".lora_", ".more.lora_")] = tensors[key].clone()
    (path).unlink()
    save_file({k: t.contiguous() for k, t in tensors.items()}, path)
    return how


def loads_whole(built: Built, folder: Path) -> bool:
    """Whether PEFT puts every tensor of the file into the model, and finds one for everything that its config trains."""
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(built.model), config)
    before = {name for name, _ in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        except (RuntimeError, KeyError, ValueError):
            return False
    trained = [name for name in result.missing_keys if name in before and (".lora_" in name or ".modules_to_save." in name)]
    # With bias="all" PEFT saves a module's bias under a second name, which it does not read.
    unexpected = [name for name in result.unexpected_keys if not re.search(r"\.modules_to_save\.(weight|bias)$", name)]
    return not trained and not unexpected


def write(config: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
