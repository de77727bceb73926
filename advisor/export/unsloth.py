"""unsloth: a Python snippet, and the YAML of its Studio and command line.

Its rules, read off ``FastLlamaModel.get_peft_model`` in ``unsloth/models/llama.py`` and ``unsloth_cli/config.py`` (2026):
the snippet's keywords reach ``LoraConfig``, ``rank_pattern`` and ``exclude_modules`` too, ``layers_pattern`` does not; a
text in ``target_modules`` is iterated by character; ``modules_to_save`` takes ``embed_tokens`` and ``lm_head`` only, and
these two as targets are moved there; with ``num_labels`` the model is a sequence classifier whose head is ``score``. Other
families take a path that reads each entry as the last part of a name, so full names match nothing. Studio splits
``target_modules`` at commas, takes whole alphas, and knows no patterns or classifiers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from advisor.errors import BadInput
from advisor.export import peft
from advisor.export.llama_factory import split, unsplittable
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, call, yaml_body
from advisor.export.read import texts, value

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "cohere", "granite", "falcon_h1"})
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDINGS = ("embed_tokens", "lm_head")
STUDIO_USE = "Run it with `unsloth train --config`, or load it in Studio, after adding your data."


def render(plan: Plan) -> Rendered:
    """``unsloth_train.py`` and ``unsloth_studio.yaml``."""
    snippet, studio = Findings(plan, "unsloth"), Findings(plan, "unsloth Studio")
    for found in (snippet, studio):
        if plan.model_type not in FAMILIES:
            found.add("impossible", f"unsloth takes {plan.model_type or 'this family'} on a path where an entry is the last "
                      "part of a name: full names match nothing there.")  # fmt: skip
    if plan.reads != "text":
        snippet.add("impossible", "FastLanguageModel loads models of text.")
    if plan.head and plan.head != ("score",):
        snippet.add("impossible", f"unsloth trains no head but score, so not {', '.join(plan.head)}.")
    studio.language_models_only()
    unsplittable(studio)
    return Rendered({
        "unsloth_train.py": snippet.file(_snippet(plan), FORMAT.use),
        "unsloth_studio.yaml": studio.file(_studio(plan, studio), STUDIO_USE),
    })  # fmt: skip


def _snippet(plan: Plan) -> str:
    arguments = peft.arguments_of(plan)
    kept = {key: arguments[key] for key in ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora")}
    kept["target_modules"] = list(plan.names)
    if plan.overlaps:  # a text would be iterated by character, so what the names catch besides is excluded
        suffixes = tuple(f".{name}" for name in plan.names)
        caught = [name for name in plan.others if name.endswith(suffixes)]
        kept["exclude_modules"] = "|".join(re.escape(name) for name in caught)
    kept |= {key: arguments[key] for key in ("rank_pattern", "alpha_pattern") if key in arguments}
    load = {"max_seq_length": 2048} | ({"num_labels": plan.outputs} if plan.head else {})
    return (
        "from unsloth import FastLanguageModel\n\nmodel, tokenizer = "
        + call("FastLanguageModel.from_pretrained", (repr(plan.base_model),), load)
        + "model = "
        + call("FastLanguageModel.get_peft_model", ("model",), kept)
    )


def _studio(plan: Plan, found: Findings) -> str:
    settings = found.flat()
    lora = {
        "lora_r": settings.rank,
        "lora_alpha": found.whole(settings.alpha),
        "lora_dropout": 0.0,
        "target_modules": ",".join(plan.names),
        "use_rslora": settings.rslora,
    }
    return yaml_body({"model": plan.base_model, "training": {"training_type": "lora"}, "lora": lora})


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """A causal LM, or with ``num_labels`` a classifier."""
    outputs = value(content, "num_labels", int)
    return ("causal-lm" if outputs is None else "classification"), outputs


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file."""
    studio = "lora" in content
    if studio:
        content = dict(value(content, "lora", dict))
        content["target_modules"] = split(value(content, "target_modules", str, ",".join(PROJECTIONS)))
        content["r"] = value(content, "lora_r", int, 64)
        content["lora_alpha"] = value(content, "lora_alpha", int, 16)
    arguments = {k: v for k, v in content.items() if k not in _DROPPED}
    rank = value(content, "r", int, 16)
    if rank < 1:
        raise BadInput(f"r is {rank}: unsloth wants a positive one.", "Correct it.")
    surprises = []
    listed = value(content, "target_modules", (list, tuple, str), list(PROJECTIONS))
    if isinstance(listed, str):
        surprises.append(f"unsloth takes the text {listed[:60]!r} apart, character by character: write a list of names.")
    targets = texts({"target_modules": list(listed)}, "target_modules") or []
    saved = texts(content, "modules_to_save") or []
    if refused := [name for name in saved if name.rsplit(".", 1)[-1] not in EMBEDDINGS]:
        raise BadInput(f"modules_to_save: unsloth refuses {refused[0]!r}.", f"It takes {' and '.join(EMBEDDINGS)} only.")
    if moved := [name for name in targets if name.rsplit(".", 1)[-1] in EMBEDDINGS]:
        surprises.append(f"unsloth trains {', '.join(moved)} in full, not by LoRA.")
    if content.get("layers_pattern") is not None:
        surprises.append("unsloth does not hand layers_pattern on to PEFT.")
    last = value(content, "finetune_last_n_layers", int)
    if last is not None and content.get("layers_to_transform") is None:
        layers = model.config.num_hidden_layers
        arguments["layers_to_transform"] = list(range(layers - max(1, min(last, layers)), layers))
    family = model.config.model_type
    if family not in FAMILIES:
        surprises.append(f"unsloth takes {family} on a path where an entry is the last part of a name.")
    arguments |= {
        "r": rank,
        "lora_alpha": value(content, "lora_alpha", (int, float), 16),
        "target_modules": [name for name in targets if name not in moved],
        "modules_to_save": [*saved, *moved] or None,
        "task_type": "CAUSAL_LM" if content.get("num_labels") is None else "SEQ_CLS",
    }
    return Passed(arguments, tuple(surprises))


# Keywords of unsloth's own, and of Studio's section, that are none of LoraConfig's.
_DROPPED = frozenset({
    "layers_pattern", "finetune_last_n_layers", "use_gradient_checkpointing", "random_state", "max_seq_length",
    "temporary_location", "qat_scheme", "loftq_config", "num_labels", "lora_r", "vision_all_linear", "use_loftq",
    "finetune_vision_layers", "finetune_language_layers", "finetune_attention_modules", "finetune_mlp_modules",
})  # fmt: skip

FORMAT = Format(
    "unsloth",
    "unsloth",
    "Paste it where your script loads the model.",
    frozenset({"lora"}),
    render,
    loads,
    passed,
)
