"""LLaMA-Factory: keys of its YAML.

Its rules, read off ``src/llamafactory/hparams/finetuning_args.py`` and ``src/llamafactory/model/adapter.py`` (2026):
``lora_target`` and ``additional_target`` are lists, or split at commas and stripped, so every entry is a name and never a regex;
``all`` alone is every linear module; rank, alpha (whole, default twice the rank), dropout and rsLoRA go to ``LoraConfig``
with task ``CAUSAL_LM``; there are no patterns, layers, exclusions or expert parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from advisor.core.choices import CONNECTOR, VISION
from advisor.core.errors import BadInput
from advisor.export.hints import Way
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, yaml_body
from advisor.export.read import embeddings, linear_names, texts, unknown_keys, value

ALL = "all"
FROZEN = {"freeze_vision_tower": VISION, "freeze_multi_modal_projector": CONNECTOR}  # true unless given
KNOWN = (
    *("finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "additional_target", "use_rslora", "use_dora"),
    *("loraplus_lr_ratio", "loraplus_lr_embedding", "pissa_init", "pissa_iter", "pissa_convert", "create_new_adapter"),
    *("adapter_name_or_path", "adapter_folder", "ref_model_adapters", "reward_model_adapters"),
)


def render(plan: Plan) -> Rendered:
    """One YAML file to merge into a training config.

    Raises:
        BadInput: the plan has no modules.
    """
    found = Findings(plan, "LLaMA-Factory")
    found.language_models_only()
    unsplittable(found)
    if plan.stacks:
        found.add("impossible", f"LLaMA-Factory has no key for weights of experts, such as {plan.stacks[0]}.")
    if plan.names == (ALL,):
        found.add("impossible", f"A module named {ALL!r} alone stands for every linear module.")
    settings = found.flat()
    chosen = {t.group for t in plan.targets if t.name in set(plan.names)}
    thawed = {key: False for key, part in FROZEN.items() if part in chosen}
    content = {
        "model_name_or_path": plan.base_model,
        **({FORMAT.revision: plan.revision} if plan.revision else {}),
        "finetuning_type": "lora",
        **({"quantization_bit": int(str(plan.stored)[0])} if plan.load_in else {}),
        "lora_rank": settings.rank,
        "lora_alpha": found.whole(settings.alpha),
        "lora_dropout": 0.0,
        "use_rslora": settings.rslora,
        "lora_target": ",".join(plan.names),
        **thawed,
    }
    return Rendered({"llama_factory.yaml": found.file(yaml_body(content), FORMAT.use)})


def unsplittable(found: Findings) -> None:
    """Notes what a comma-separated list of names cannot say."""
    if found.plan.overlaps:
        found.add(
            "impossible",
            f"A chosen name is the end of another module's name, and {found.label} has no regex: a list "
            "of names would train both.",
        )
    if broken := [name for name in found.plan.names if "," in name or name != name.strip()]:
        found.add("impossible", f"{found.label} splits at commas and strips blanks, which breaks the name {broken[0]!r}.")


def split(text: str) -> list[str]:
    """As LLaMA-Factory does.

    Raises:
        BadInput: something else than a comma stands between two names.
    """
    entries = [item.strip() for item in text.split(",")]
    for entry in entries:
        if len(parts := [part for part in re.split(r"[\s;|]+", entry) if part]) > 1:
            raise BadInput(f"{entry[:60]!r} is read as one name: names have a comma between.", f"Write '{','.join(parts)}'.")
    return entries


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Always a causal LM."""
    return "causal-lm", None


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file.

    Raises:
        BadInput: LLaMA-Factory refuses the file, or does not train LoRA with it; names the key.
    """
    kind = content.get("finetuning_type", "lora")
    if kind != "lora":
        raise BadInput(f"finetuning_type is {kind!r}.", "Only lora can be verified.")
    for key, hint in unknown_keys(content, KNOWN).items():
        more = " For what LLaMA-Factory cannot say use format peft or axolotl." if "Did" not in hint else ""
        raise BadInput(f"LLaMA-Factory has no key {key}, and refuses the file.", hint + more)
    surprises = []
    rank = value(content, "lora_rank", int, 8)
    given = _names(content, "lora_target")
    targets = [ALL] if given is None else given
    if targets == [ALL]:
        targets = linear_names(model)
        surprises.append(f"lora_target: {ALL} stands for every linear module: {', '.join(targets)}.")
    targets = _of_images(targets, content, model, surprises)
    saved = _names(content, "additional_target")
    if saved is None and content.get("resize_vocab"):
        saved = sorted({name.rsplit(".", 1)[-1] for name in embeddings(model)})
        surprises.append(f"With resize_vocab LLaMA-Factory trains {', '.join(saved)} in full.")
    _check_stage(content, surprises)
    if content.get("use_llama_pro"):
        surprises.append("use_llama_pro narrows lora_target to every few layers, which is not shown here.")
    if content.get("adapter_name_or_path") and not content.get("create_new_adapter"):
        surprises.append(
            "With adapter_name_or_path LLaMA-Factory goes on with that adapter, whose own config decides what gets LoRA."
        )
    arguments = {
        "r": rank,
        "lora_alpha": value(content, "lora_alpha", (int, float)) or 2 * rank,
        "lora_dropout": value(content, "lora_dropout", (int, float), 0.0),
        "use_rslora": value(content, "use_rslora", bool, False),
        "use_dora": value(content, "use_dora", bool, False),
        "target_modules": targets,
        "modules_to_save": saved,
        "task_type": "CAUSAL_LM",
    }
    keys = {"r": "lora_rank", "target_modules": "lora_target", "modules_to_save": "additional_target"}
    return Passed(arguments, tuple(surprises), keys, Way("never", ALL))


def _names(content: Mapping[str, Any], key: str) -> list[str] | None:
    found = value(content, key, (str, list))
    return split(found) if isinstance(found, str) else texts(content, key)


def _check_stage(content: Mapping[str, Any], surprises: list[str]) -> None:
    """Adds to ``surprises`` what a stage or another library trains besides.

    Raises:
        BadInput: LLaMA-Factory refuses the keys together.
    """
    stage = content.get("stage", "sft")
    if found := [key for key in ("use_galore", "use_apollo", "use_badam") if content.get(key)]:
        raise BadInput(f"LLaMA-Factory refuses {found[0]} with LoRA.", "Leave one out.")
    if stage == "ppo" and content.get("reward_model") is None:
        raise BadInput("stage is ppo, and there is no reward_model.", "Add one.")
    reference = stage == "dpo" and content.get("pref_loss") not in ("orpo", "simpo")
    if content.get("pissa_init") and (stage in ("ppo", "kto") or reference):
        raise BadInput(f"LLaMA-Factory refuses pissa_init in stage {stage}.", "Leave it out.")
    if stage in ("rm", "ppo"):
        surprises.append(f"In stage {stage} LLaMA-Factory also trains a value head, v_head, which is not counted here.")
    if content.get("use_unsloth"):
        surprises.append("With use_unsloth the names go to unsloth, whose own rules are not shown here.")


def _of_images(targets: list[str], content: Mapping[str, Any], model: Any, surprises: list[str]) -> list[str]:
    """What a list becomes of a model of images and text: every module whose name holds an entry, outside what is frozen."""
    from advisor.models.vision import part_of, text_part

    if not text_part(model):
        return targets
    part, frozen = part_of(model), [part for key, part in FROZEN.items() if value(content, key, bool, True)]
    found = [name for name, _ in model.named_modules() if any(entry in name for entry in targets) and part(name) not in frozen]
    beside = [name for name in found if not any(name == entry or name.endswith(f".{entry}") for entry in targets)]
    if beside:
        surprises.append(f"LLaMA-Factory takes every name that holds an entry in such a model: {beside[0]} too.")
    if not found:
        raise BadInput(f"lora_target: no module's name holds {' or '.join(targets)}.", "Give names that the model has.")
    return found


FORMAT = Format(
    "llama-factory",
    "LLaMA-Factory",
    "Merge these keys into your training YAML.",
    frozenset({"lora_target", "finetuning_type", "lora_rank"}),
    "model_revision",
    render,
    loads,
    passed,
)
