"""axolotl: keys of its YAML.

Its rules, read off ``src/axolotl/loaders/adapter.py`` and ``src/axolotl/utils/schemas/peft.py`` (2026): the keys go to
``LoraConfig`` one by one, after pydantic has made numbers of texts and truth values of words; a text in
``lora_target_modules`` stays one, so it is a regex; ``lora_target_linear`` adds the last name parts of all linear modules;
alphas are whole numbers; the model is a causal LM, or with ``reward_model`` a sequence classifier of one output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import PositiveInt, TypeAdapter, ValidationError

from advisor.core.errors import BadInput
from advisor.export.peft import arguments_of
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, yaml_body
from advisor.export.read import linear_names, unknown_keys

RENAMED = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_fan_in_fan_out": "fan_in_fan_out",
    "lora_modules_to_save": "modules_to_save",
    "lora_rank_pattern": "rank_pattern",
    "lora_alpha_pattern": "alpha_pattern",
    "peft_use_rslora": "use_rslora",
    "peft_use_dora": "use_dora",
    "peft_layers_to_transform": "layers_to_transform",
    "peft_layers_pattern": "layers_pattern",
    "peft_layer_replication": "layer_replication",
    "peft_init_lora_weights": "init_lora_weights",
    "peft_trainable_token_indices": "trainable_token_indices",
    "peft_ensure_weight_tying": "ensure_weight_tying",
}
KINDS: dict[str, Any] = {
    **dict.fromkeys(("lora_r", "lora_alpha"), int),
    "lora_dropout": float,
    **dict.fromkeys(("lora_target_modules", "lora_target_parameters"), str | list[str]),
    "lora_modules_to_save": list[str],
    **dict.fromkeys(("lora_rank_pattern", "lora_alpha_pattern"), dict[str, PositiveInt]),
    "peft_layers_to_transform": list[int],
    "peft_layers_pattern": list[str],
    "peft_layer_replication": list[tuple[int, int]],
    "peft_init_lora_weights": bool | str,
    "peft_trainable_token_indices": list[int] | dict[str, list[int]],
    **dict.fromkeys(("lora_fan_in_fan_out", "peft_use_rslora", "peft_use_dora", "peft_ensure_weight_tying"), bool),
    **dict.fromkeys(("lora_target_linear", "load_in_4bit", "load_in_8bit", "merge_lora", "reward_model"), bool),
}
OUTPUTS = {"gpt_neox": "embed_out"}  # what it takes for the output embedding; of other families lm_head
# Keys that the schema has besides, none of which changes what gets LoRA.
OTHERS = (
    *("adapter", "lora_model_dir", "lora_target_linear", "lora_on_cpu", "loraplus_lr_ratio", "loraplus_lr_embedding"),
    *("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "peft", "merge_lora"),
    *("peft_autocast_adapter_dtype", "qlora_sharded_model_loading", "relora", "relora_prune_ratio", "relora_prune_method"),
    *("relora_cpu_offload", "optim_target_modules"),
)


def render(plan: Plan) -> Rendered:
    """One YAML file to merge into a training config.

    Raises:
        BadInput: the plan has no modules.
    """
    found = Findings(plan, "axolotl")
    found.language_models_only()
    alphas = {name: found.whole(alpha, f"alpha of {name}") for name, alpha in plan.alphas.items()}
    arguments = arguments_of(replace(plan, alphas=alphas))
    arguments["lora_alpha"] = found.whole(plan.settings.alpha)
    entries = arguments["target_modules"]
    if isinstance(entries, list) and not all(_compiles(entry) for entry in entries):
        arguments["target_modules"] = "^(" + "|".join(re.escape(name) for name in plan.modules) + ")$"
    content: dict[str, Any] = {"base_model": plan.base_model} | ({FORMAT.revision: plan.revision} if plan.revision else {})
    content |= {"adapter": "qlora" if plan.stored == "4bit" else "lora", **plan.load_in}
    if plan.reads == "images and text":  # else it loads the language model alone
        content["processor_type"] = "AutoProcessor"
    content |= {key: arguments[name] for key, name in RENAMED.items() if name == "lora_dropout" or arguments.get(name)}
    return Rendered({"axolotl.yaml": found.file(yaml_body(content), FORMAT.use)})


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """See the top of this file.

    Raises:
        BadInput: axolotl refuses a value; names the key.
    """
    return ("classification", 1) if _read(content).get("reward_model") else ("causal-lm", None)


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file.

    Raises:
        BadInput: axolotl refuses the file, or does not train LoRA with it; names the key.
    """
    adapter = content.get("adapter")
    if adapter is None:
        raise BadInput("there is no key adapter, so axolotl trains the whole model.", "Add `adapter: lora`.")
    if adapter not in ("lora", "qlora"):
        raise BadInput(f"adapter is {adapter!r}.", "Only lora and qlora can be verified.")
    unknown = unknown_keys(content, (*RENAMED, *OTHERS))
    surprises = [f"axolotl has no key {key}, and drops it. {hint}" for key, hint in unknown.items()]
    read = _read(content)
    for key in ("lora_r", "lora_alpha"):
        if key not in read:
            raise BadInput(f"there is no {key}, which axolotl has no default for.", f"Add {key}.")
    if adapter == "qlora" and not read.get("merge_lora") and (read.get("load_in_8bit") or not read.get("load_in_4bit")):
        raise BadInput("adapter is qlora without load_in_4bit: true, which axolotl refuses.", "Add it, or write `adapter: lora`.")
    if content.get("rl") == "kto" and content.get("remove_unused_columns") is not False:
        raise BadInput("rl is kto without remove_unused_columns: false, which axolotl refuses.", "Add it.")
    if read.get("lora_target_parameters") and read.get("lora_dropout"):
        raise BadInput("lora_target_parameters with a lora_dropout is refused by axolotl.", "Write `lora_dropout: 0`.")
    if content.get("lora_model_dir"):
        surprises.append("With lora_model_dir axolotl goes on with that adapter, whose own config decides what gets LoRA.")
    if content.get("unfrozen_parameters"):
        surprises.append("unfrozen_parameters trains further weights in full, which are not counted here.")
    arguments = {name: read[key] for key, name in RENAMED.items() if key in read}
    entries = read.get("lora_target_modules", [])
    for entry in entries if isinstance(entries, list) else []:
        if not _compiles(entry):
            raise BadInput(f"lora_target_modules: axolotl takes {entry!r} for a regex, which it is not.", "Escape it.")
    if read.get("lora_target_linear"):
        linear = linear_names(model, OUTPUTS.get(model.config.model_type, "lm_head"))
        surprises.append(f"lora_target_linear adds every linear module: {', '.join(linear)}.")
        entries = sorted({*(entries if isinstance(entries, list) else [entries]), *linear})
    arguments["target_modules"] = entries
    arguments["task_type"] = "SEQ_CLS" if read.get("reward_model") else "CAUSAL_LM"
    return Passed(arguments, tuple(surprises), {name: key for key, name in RENAMED.items()})


def _read(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values as axolotl's pydantic schema makes them of the file's; what is not there, or null, is left out.

    Raises:
        BadInput: it refuses one; names the key.
    """
    read = {}
    for key, kind in KINDS.items():
        if content.get(key) is not None:
            try:
                read[key] = TypeAdapter(kind).validate_python(content[key])
            except ValidationError as error:
                said = error.errors(include_url=False)[0]["msg"].replace("Input should", "it should")
                raise BadInput(f"{key} is {repr(content[key])[:60]}: {said}.", "Correct it.") from error
    return read


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


FORMAT = Format(
    "axolotl",
    "axolotl",
    "Merge these keys into your training YAML; leave lora_target_linear out, it would add every linear module.",
    frozenset({"adapter", "base_model", "lora_target_linear", "lora_r"}),  # lora_r is a key of TRL too
    "revision_of_model",
    render,
    loads,
    passed,
)
