"""LLaMA-Factory: keys of its YAML.

Its rules, read off ``src/llamafactory/hparams/finetuning_args.py`` and ``src/llamafactory/model/adapter.py`` (2026):
``lora_target`` and ``additional_target`` are split at commas and stripped, so every entry is a name and never a regex;
``all`` alone is every linear module; rank, alpha (whole, default twice the rank), dropout and rsLoRA go to ``LoraConfig``
with task ``CAUSAL_LM``; there are no patterns, layers, exclusions or expert parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advisor.core.errors import BadInput
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, yaml_body
from advisor.export.read import linear_names, value

ALL = "all"


def render(plan: Plan) -> Rendered:
    """One YAML file to merge into a training config."""
    found = Findings(plan, "LLaMA-Factory")
    found.language_models_only()
    unsplittable(found)
    if plan.names == (ALL,):
        found.add("impossible", f"A module named {ALL!r} alone stands for every linear module.")
    settings = found.flat()
    content = {
        "model_name_or_path": plan.base_model,
        **({FORMAT.revision: plan.revision} if plan.revision else {}),
        "finetuning_type": "lora",
        "lora_rank": settings.rank,
        "lora_alpha": found.whole(settings.alpha),
        "lora_dropout": 0.0,
        "use_rslora": settings.rslora,
        "lora_target": ",".join(plan.names),
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
    """As LLaMA-Factory does."""
    return [item.strip() for item in text.split(",")]


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Always a causal LM."""
    return "causal-lm", None


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file."""
    kind = content.get("finetuning_type", "lora")
    if kind != "lora":
        raise BadInput(f"finetuning_type is {kind!r}.", "Only lora can be verified.")
    surprises = []
    rank = value(content, "lora_rank", int, 8)
    targets = split(value(content, "lora_target", str, ALL))
    if targets == [ALL]:
        targets = linear_names(model)
        surprises.append(f"lora_target: {ALL} stands for every linear module: {', '.join(targets)}.")
    for key in ("lora_rank_pattern", "lora_alpha_pattern", "lora_exclude_modules", "layers_to_transform", "rank_pattern"):
        if key in content:
            raise BadInput(f"LLaMA-Factory has no key {key}.", "Use format peft or axolotl.")
    saved = value(content, "additional_target", str)
    arguments = {
        "r": rank,
        "lora_alpha": value(content, "lora_alpha", int) or 2 * rank,
        "lora_dropout": value(content, "lora_dropout", (int, float), 0.0),
        "use_rslora": value(content, "use_rslora", bool, False),
        "use_dora": value(content, "use_dora", bool, False),
        "target_modules": targets,
        "modules_to_save": None if saved is None else split(saved),
        "task_type": "CAUSAL_LM",
    }
    return Passed(arguments, tuple(surprises))


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
