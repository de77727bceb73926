"""axolotl: keys of its YAML.

Its rules, read off ``src/axolotl/loaders/adapter.py`` and ``src/axolotl/utils/schemas/peft.py`` (2026): the keys go to
``LoraConfig`` one by one; a text in ``lora_target_modules`` stays one, so it is a regex; ``lora_target_linear`` adds the
last name parts of all linear modules; alphas are whole numbers; the model is a causal LM, or with ``reward_model`` a
sequence classifier of one output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from advisor.core.errors import BadInput
from advisor.export.peft import arguments_of
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, yaml_body
from advisor.export.read import linear_names, texts, unknown_keys, value

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
# Keys that the schema has besides, none of which changes what gets LoRA.
OTHERS = (
    *("adapter", "lora_model_dir", "lora_target_linear", "lora_on_cpu", "loraplus_lr_ratio", "loraplus_lr_embedding"),
    *("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "peft", "merge_lora"),
    *("peft_autocast_adapter_dtype", "qlora_sharded_model_loading", "relora", "relora_prune_ratio", "relora_prune_method"),
    *("relora_cpu_offload", "optim_target_modules"),
)


def render(plan: Plan) -> Rendered:
    """One YAML file to merge into a training config."""
    found = Findings(plan, "axolotl")
    found.language_models_only()
    alphas = {name: found.whole(alpha, f"alpha of {name}") for name, alpha in plan.alphas.items()}
    arguments = arguments_of(replace(plan, alphas=alphas))
    arguments["lora_alpha"] = found.whole(plan.settings.alpha)
    entries = arguments["target_modules"]
    if isinstance(entries, list) and not all(_compiles(entry) for entry in entries):
        arguments["target_modules"] = "^(" + "|".join(re.escape(name) for name in plan.modules) + ")$"
    content = {"base_model": plan.base_model} | ({FORMAT.revision: plan.revision} if plan.revision else {}) | {"adapter": "lora"}
    content |= {key: arguments[name] for key, name in RENAMED.items() if name == "lora_dropout" or arguments.get(name)}
    return Rendered({"axolotl.yaml": found.file(yaml_body(content), FORMAT.use)})


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """See the top of this file."""
    return ("classification", 1) if value(content, "reward_model", bool, False) else ("causal-lm", None)


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file."""
    adapter = content.get("adapter")
    if adapter is None:
        raise BadInput("there is no key adapter, so axolotl trains the whole model.", "Add `adapter: lora`.")
    if adapter not in ("lora", "qlora"):
        raise BadInput(f"adapter is {adapter!r}.", "Only lora and qlora can be verified.")
    unknown = unknown_keys(content, (*RENAMED, *OTHERS))
    surprises = [f"axolotl has no key {key}, and drops it. {hint}" for key, hint in unknown.items()]
    for key in ("lora_r", "lora_alpha"):
        if content.get(key) is None:
            raise BadInput(f"there is no {key}, which axolotl has no default for.", f"Add {key}.")
    if content.get("lora_model_dir"):
        surprises.append("With lora_model_dir axolotl goes on with that adapter, whose own config decides what gets LoRA.")
    if content.get("unfrozen_parameters"):
        surprises.append("unfrozen_parameters trains further weights in full, which are not counted here.")
    arguments = {name: content[key] for key, name in RENAMED.items() if content.get(key) is not None}
    for key in ("lora_r", "lora_alpha"):
        value(content, key, int)
    entries = value(content, "lora_target_modules", (str, list), [])
    for entry in texts(content, "lora_target_modules") or [] if isinstance(entries, list) else []:
        if not _compiles(entry):
            raise BadInput(f"lora_target_modules: axolotl takes {entry!r} for a regex, which it is not.", "Escape it.")
    if value(content, "lora_target_linear", bool, False):
        linear = linear_names(model)
        surprises.append(f"lora_target_linear adds every linear module: {', '.join(linear)}.")
        entries = sorted({*(entries if isinstance(entries, list) else [entries]), *linear})
    arguments["target_modules"] = entries
    for key in ("lora_rank_pattern", "lora_alpha_pattern"):
        numbers = value(content, key, dict, {}).values()
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in numbers):
            raise BadInput(f"{key} takes positive whole numbers only.", "Correct it.")
    arguments["task_type"] = "CAUSAL_LM" if loads(content)[0] == "causal-lm" else "SEQ_CLS"
    return Passed(arguments, tuple(surprises))


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
    frozenset({"adapter", "base_model", "lora_target_linear"}),  # lora_r is a key of TRL too
    "revision_of_model",
    render,
    loads,
    passed,
)
