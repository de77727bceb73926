"""unsloth: a Python snippet, and the YAML of its Studio and command line.

Its rules, read off ``FastLlamaModel.get_peft_model`` in ``unsloth/models/llama.py``, ``FastBaseModel.get_peft_model`` in
``unsloth/models/vision.py``, ``get_peft_regex`` in ``unsloth_zoo/peft_utils.py`` and ``unsloth_cli/config.py`` (2026): the
snippet's keywords reach ``LoraConfig``, ``rank_pattern`` and ``exclude_modules`` too, ``layers_pattern`` does not; a
text in ``target_modules`` is iterated by character; ``modules_to_save`` takes ``embed_tokens`` and ``lm_head`` only, and
these two as targets are moved there; with ``num_labels`` the model is a sequence classifier whose head is ``score``. Families
other than ``FAMILIES`` take another path: there ``FastLanguageModel`` leaves ``finetune_vision_layers`` out, and while one of
the four ``finetune_…`` is off, a list is read as last parts of names within blocks called attention, mlp and the like; with
all four on it reaches PEFT as it is. It trains experts unasked, and no head. Studio splits ``target_modules`` at commas, takes
whole alphas, and knows no patterns or classifiers; of models of text it hands on none of the four.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.tasks import EMBEDDING, OF_TOKENS
from advisor.export import peft
from advisor.export.hints import NAMES_ONLY, Way
from advisor.export.llama_factory import split, unsplittable
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, call, yaml_body
from advisor.export.read import texts, value

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "cohere", "granite", "falcon_h1"})
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDINGS = ("embed_tokens", "lm_head")
EXPERTS = ("moe", "mixtral", "deepseek", "gpt_oss", "llama4", "jamba", "dbrx")  # parts of model types with experts
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")  # fields of configs of other families with experts
# What a list is read within, outside of FAMILIES: (a keyword, whether FastLanguageModel sets it, parts of names it stands for).
MODEL_PARTS = (
    ("finetune_vision_layers", False, ("vision", "image", "visual", "patch")),
    ("finetune_language_layers", True, ("language", "text")),
)
BLOCK_PARTS = (
    ("finetune_attention_modules", True, ("self_attn", "attention", "attn", "mixer")),
    ("finetune_mlp_modules", True, ("mlp", "feed_forward", "ffn", "dense", "mixer")),
)
STUDIO_USE = "Run it with `unsloth train --config`, or load it in Studio, after adding your data."


def render(plan: Plan) -> Rendered:
    """``unsloth_train.py`` and ``unsloth_studio.yaml``.

    Raises:
        BadInput: the plan has no modules.
    """
    snippet, studio = Findings(plan, "unsloth"), Findings(plan, "unsloth Studio")
    other = plan.model_type not in FAMILIES
    if other and (any(target.experts for target in plan.targets) or any(part in plan.model_type for part in EXPERTS)):
        for found in (snippet, studio):
            found.add("impossible", f"unsloth adapts the experts of {plan.model_type} by itself.")
    if plan.task == "seq2seq":
        snippet.add("impossible", "unsloth trains decoders, no encoder-decoder; use format peft.")
    if plan.reads == "images and text":
        studio.add("impossible", "unsloth Studio reads entries as last parts of names, in the vision tower too.")
    if plan.task in (*OF_TOKENS, EMBEDDING):
        snippet.add("impossible", f"FastLanguageModel loads no model for {plan.task}; use format peft.")
    if plan.reads == "images":
        snippet.add("impossible", "FastLanguageModel loads models of text.")
    if plan.head and (other or plan.head != ("score",)):
        head = ", ".join(plan.head)
        snippet.add(
            "impossible",
            f"unsloth trains no head of {plan.model_type or 'this family'}, so not {head}."
            if other
            else f"unsloth trains no head but score, so not {head}.",
        )
    studio.language_models_only()
    studio.no_comparison()
    if plan.revision:
        studio.add("lossy", f"unsloth Studio has no key for a revision: it trains the newest commit, not {plan.revision}.")
    entries = _last_parts(plan, studio) if other else plan.names
    unsplittable(studio)
    return Rendered(
        {
            "unsloth_train.py": snippet.file(_snippet(plan), FORMAT.use),
            "unsloth_studio.yaml": studio.file(_studio(plan, entries, studio), STUDIO_USE),
        }
    )


def _snippet(plan: Plan) -> str:
    arguments = peft.arguments_of(plan)
    kept = {key: arguments[key] for key in ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora")}
    kept["target_modules"] = list(plan.names)
    if plan.overlaps:  # a text would be iterated by character, so what the names catch besides is excluded
        suffixes = tuple(f".{name}" for name in plan.names)
        caught = [name for name in plan.others if name.endswith(suffixes)]
        kept["exclude_modules"] = "|".join(re.escape(name) for name in caught)
    kept |= {key: arguments[key] for key in ("rank_pattern", "alpha_pattern") if key in arguments}
    if plan.model_type not in FAMILIES:
        kept["finetune_vision_layers"] = True  # with all four on, the list reaches PEFT as it is
    pinned = {"revision": plan.revision} if plan.revision else {}
    load = {"max_seq_length": 2048} | plan.load_in | pinned | ({"num_labels": plan.outputs} if plan.head else {})
    loader = "FastVisionModel" if plan.reads == "images and text" else "FastLanguageModel"
    return (
        f"from unsloth import {loader}\n\nmodel, tokenizer = "
        + call(f"{loader}.from_pretrained", (repr(plan.base_model),), load)
        + "model = "
        + call(f"{loader}.get_peft_model", ("model",), kept)
    )


def _last_parts(plan: Plan, found: Findings) -> tuple[str, ...]:
    """The chosen modules by the last parts of their names; notes where these stand for others too."""
    entries = tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in plan.names))
    linear = [target.name for target in plan.targets if target.kind == "linear"]
    suffixed = {target.name for target in plan.targets if target.name.rsplit(".", 1)[-1] in entries}
    if not linear:
        found.add("impossible", f"{found.label} finds no linear module in {plan.model_type}, whose projections are Conv1D.")
    elif not suffixed == set(read_within(linear, entries, {})) == set(plan.names):
        found.add(
            "impossible",
            f"{found.label} takes {plan.model_type or 'this family'} on a path where an entry is the last "
            "part of names in all layers, so that it trains whole roles only.",
        )
    return entries


def read_within(linear: Sequence[str], entries: Sequence[str], content: Mapping[str, Any]) -> list[str]:
    """Which of a model's ``linear`` modules a list of last parts stands for, outside of ``FAMILIES``.

    Args:
        content: keywords of the call; what it leaves out is as ``FastLanguageModel`` sets it.

    Raises:
        BadInput: unsloth finds no module for them.
    """

    def parts(of: Sequence[tuple[str, bool, tuple[str, ...]]]) -> str:
        return "|".join(part for key, usual, found in of if value(content, key, bool, usual) for part in found)

    if not (parts(MODEL_PARTS) and parts(BLOCK_PARTS)):
        return []
    last, block = "|".join(map(re.escape, entries)), parts(BLOCK_PARTS)
    pattern = f".*(?:{parts(MODEL_PARTS)}).*(?:{block}).*(?:{last})"
    if value(content, "finetune_language_layers", bool, True):
        pattern += rf"|\bmodel\.layers\.\d+\.(?:{block})\.(?:{last})"
    if not any(re.search(pattern, name) for name in linear):
        pattern = f".*(?:{block}).*(?:{last})"
    return [name for name in linear if re.fullmatch(pattern, name)]


def _studio(plan: Plan, entries: Sequence[str], found: Findings) -> str:
    settings = found.flat()
    lora = {
        "lora_r": settings.rank,
        "lora_alpha": found.whole(settings.alpha),
        "lora_dropout": 0.0,
        "target_modules": ",".join(entries),
        "use_rslora": settings.rslora,
    }
    return yaml_body({"model": plan.base_model, "training": {"training_type": "lora"}, "lora": lora})


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """A causal LM, or with ``num_labels`` a classifier.

    Raises:
        BadInput: ``num_labels`` is no number of labels.
    """
    outputs = value(content, "num_labels", int)
    if outputs is not None and outputs < 1:
        raise BadInput(f"num_labels is {outputs}.", "Give 1 or more.")
    return ("causal-lm" if outputs is None else "classification"), outputs


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file.

    Raises:
        BadInput: unsloth refuses the file, or does not train LoRA with it; names the key.
    """
    family, studio = model.config.model_type, "lora" in content
    other = family not in FAMILIES
    surprises = []
    if studio:
        training = value(content, "training", dict, {})
        if (kind := training.get("training_type", "lora")) not in ("lora", "qlora"):
            raise BadInput(f"training_type is {str(kind)[:40]!r}.", "Only lora can be verified.")
        content = dict(value(content, "lora", dict, {}))
        surprises += [f"unsloth Studio has no key {key} for LoRA." for key in content if key not in _STUDIO]
        content = {key: content[key] for key in content if key in _STUDIO}
        content["target_modules"] = split(value(content, "target_modules", str, ",".join(PROJECTIONS)))
        content["r"] = value(content, "lora_r", int, 64)
        content["lora_alpha"] = value(content, "lora_alpha", int, 16)
    arguments = {k: v for k, v in content.items() if k not in _DROPPED and (k != "layers_pattern" or other)}
    rank = value(content, "r", int, 16)
    if rank < 1:
        raise BadInput(f"r is {rank}: unsloth wants a positive one.", "Correct it.")
    listed = value(content, "target_modules", (list, tuple, str), list(PROJECTIONS))
    if isinstance(listed, str) and not other:
        surprises.append(f"unsloth takes the text {listed[:60]!r} apart, character by character: write a list of names.")
    text = listed if other and isinstance(listed, str) else None  # a regex, which reaches PEFT
    targets = texts({"target_modules": [] if text else list(listed)}, "target_modules") or []
    saved = texts(content, "modules_to_save") or []
    if refused := [name for name in saved if name.rsplit(".", 1)[-1] not in EMBEDDINGS]:
        raise BadInput(f"modules_to_save: unsloth refuses {refused[0]!r}.", f"It takes {' and '.join(EMBEDDINGS)} only.")
    if moved := [name for name in targets if name.rsplit(".", 1)[-1] in EMBEDDINGS]:
        surprises.append(f"unsloth trains {', '.join(moved)} in full, not by LoRA.")
    if content.get("layers_pattern") is not None and not other:
        surprises.append("unsloth does not hand layers_pattern on to PEFT.")
    last = value(content, "finetune_last_n_layers", int)
    if last is not None and content.get("layers_to_transform") is None:
        layers = model.config.num_hidden_layers
        arguments["layers_to_transform"] = list(range(layers - max(1, min(last, layers)), layers))
    targets = [name for name in targets if name not in moved]
    if other and text is None:
        targets = _read(targets, {} if studio else content, model, surprises)
    counted = any(getattr(model.config.get_text_config(), field, None) for field in EXPERT_COUNTS)
    if other and (counted or any(part in family for part in EXPERTS)):
        surprises.append(f"unsloth adapts the experts of {family} by itself.")
    arguments |= {
        "r": rank,
        "lora_alpha": value(content, "lora_alpha", (int, float), 16),
        "target_modules": targets if text is None else text,
        "modules_to_save": [*saved, *moved] or None,
        "task_type": "CAUSAL_LM" if content.get("num_labels") is None else "SEQ_CLS",
    }
    return Passed(arguments, tuple(surprises), way=Way() if other and not studio else NAMES_ONLY)


def _read(entries: list[str], content: Mapping[str, Any], model: Any, surprises: list[str]) -> list[str]:
    """What a list becomes outside of ``FAMILIES``; adds to ``surprises``.

    Raises:
        BadInput: nothing would be trained.
    """
    if not entries or all(value(content, key, bool, usual) for key, usual, _ in (*MODEL_PARTS, *BLOCK_PARTS)):
        return entries
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    family, read = model.config.model_type, read_within(linear, entries, content)
    if not read:
        raise BadInput(
            f"unsloth finds nothing to train in {family}: it reads target_modules as last parts of names in attention "
            "and mlp blocks.",
            "Give such parts, or finetune_vision_layers=True with full names.",
        )
    for entry in entries:
        if not any(name.endswith(entry) for name in read):
            surprises.append(f"{entry!r} matches no module: of {family}, unsloth reads it as the last part of a name.")
    return read


_STUDIO = (
    *("lora_r", "lora_alpha", "lora_dropout", "target_modules", "vision_all_linear", "use_rslora", "use_loftq"),
    *(key for key, _, _ in (*MODEL_PARTS, *BLOCK_PARTS)),
)
# Keywords of unsloth's own, and of Studio's section, that are none of LoraConfig's.
_DROPPED = frozenset(
    {
        "revision",
        "finetune_last_n_layers",
        "use_gradient_checkpointing",
        "random_state",
        "max_seq_length",
        "temporary_location",
        "qat_scheme",
        "loftq_config",
        "num_labels",
        "lora_r",
        "vision_all_linear",
        "use_loftq",
        "finetune_vision_layers",
        "finetune_language_layers",
        "finetune_attention_modules",
        "finetune_mlp_modules",
    }
)

FORMAT = Format(
    "unsloth",
    "unsloth",
    "Paste it where your script loads the model.",
    frozenset({"lora"}),
    "revision",
    render,
    loads,
    passed,
)
