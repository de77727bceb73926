"""TRL: keys of its YAML (``trl sft --config``), and a Python snippet.

Its rules, read off ``trl/trainer/model_config.py`` and ``get_peft_config`` in ``trl/trainer/utils.py`` (2026): a list
``lora_target_modules`` of one item becomes that item, a text, which PEFT takes for a regex of the full name; there are no
patterns; alpha is whole; ``lora_dropout`` is 0.05, ``lora_r`` 16 and ``lora_alpha`` 32 unless given. In Python the trainer
takes any ``LoraConfig`` as ``peft_config``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from advisor.core.errors import BadInput
from advisor.export import peft
from advisor.export.hints import Way
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, call, yaml_body
from advisor.export.read import texts, unknown_keys, value

KNOWN = (
    *("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"),
    *("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"),
)


def render(plan: Plan) -> Rendered:
    """``trl.yaml``, and ``trl_sft.py`` which can also say ranks and alphas of single modules.

    Raises:
        BadInput: the plan has no modules.
    """
    found, snippet = Findings(plan, "TRL"), Findings(plan, "TRL")
    found.language_models_only()
    snippet.language_models_only()
    settings = found.flat()
    entries = list(plan.modules)
    if plan.overlaps or len(entries) == 1:  # one item is taken for a regex
        entries = ["|".join(re.escape(name) for name in entries)]
    content = {
        "model_name_or_path": plan.base_model,
        **({FORMAT.revision: plan.revision} if plan.revision else {}),
        "use_peft": True,
        **plan.load_in,
        **({"bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True} if plan.stored == "4bit" else {}),
        "lora_task_type": "CAUSAL_LM",
        "lora_r": settings.rank,
        "lora_alpha": found.whole(settings.alpha),
        "lora_dropout": 0.0,
        "use_rslora": settings.rslora,
        "lora_target_modules": entries,
        **({"lora_target_parameters": list(plan.stacks)} if plan.stacks else {}),
    }
    arguments = peft.arguments_of(plan)
    body = "from peft import LoraConfig\n\npeft_config = " + call(
        "LoraConfig", (), {key: arguments[key] for key in arguments if key not in ("peft_type", "base_model_name_or_path")}
    )
    trainer = plan.method or "SFT"
    return Rendered(
        {
            "trl.yaml": found.file(yaml_body(content), FORMAT.use.replace("trl sft", f"trl {trainer.lower()}")),
            "trl_sft.py": snippet.file(body, f"Hand it over as {trainer}Trainer(model=..., peft_config=peft_config, ...)."),
        }
    )


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """A causal LM, or for ``SEQ_CLS`` the reward trainer's classifier of one output.

    Raises:
        BadInput: a snippet's config is not LoRA's, or its task is none that PEFT knows.
    """
    if _is_snippet(content):
        return peft.loads(content)
    task, _ = peft.loads({"task_type": value(content, "lora_task_type", str, "CAUSAL_LM")})
    return task, 1 if task == "classification" else None


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """See the top of this file; arguments of a snippet's ``LoraConfig`` go to PEFT as they are.

    Raises:
        BadInput: TRL refuses the file, or does not train LoRA with it; names the key.
    """
    if _is_snippet(content):
        return peft.passed(content, model)
    read = {key: _as_argparse(found) for key, found in content.items()}
    if value(read, "use_peft", bool, False) is not True:
        raise BadInput("use_peft is not true, so TRL trains the whole model.", "Write `use_peft: true`.")
    for key, hint in unknown_keys(content, KNOWN).items():
        raise BadInput(f"TRL has no key {key}, and refuses the file.", hint)
    targets = value(content, "lora_target_modules", (list, str))
    if isinstance(targets, list):
        targets = texts(content, "lora_target_modules")
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]  # a regex of the full name
    arguments = {
        "r": value(read, "lora_r", int, 16),
        "lora_alpha": value(read, "lora_alpha", (int, float), 32),
        "lora_dropout": value(read, "lora_dropout", (int, float), 0.05),
        "use_rslora": value(read, "use_rslora", bool, False),
        "use_dora": value(read, "use_dora", bool, False),
        "target_modules": targets,
        "target_parameters": texts(content, "lora_target_parameters"),
        "modules_to_save": texts(content, "lora_modules_to_save"),
        "task_type": value(content, "lora_task_type", str, "CAUSAL_LM"),
    }
    keys = {name: f"lora_{name}" for name in arguments if not name.startswith(("lora", "use"))}
    return Passed(arguments, keys=keys, way=Way("only entry"))


def _as_argparse(found: Any) -> Any:
    """A text that stands for a number or a truth value, as the YAML's texts pass through ``argparse``."""
    if not isinstance(found, str):
        return found
    if found.lower() in ("true", "false", "yes", "no"):
        return found.lower() in ("true", "yes")
    for kind in (int, float):
        with suppress(ValueError):
            return kind(found)
    return found


def _is_snippet(content: Mapping[str, Any]) -> bool:
    return "use_peft" not in content and ("r" in content or "target_modules" in content)


FORMAT = Format(
    "trl",
    "TRL",
    "Merge these keys into the YAML of `trl sft --config`; an only entry is taken for a regex.",
    frozenset({"use_peft", "lora_task_type", "lora_r", "lora_target_modules"}),
    "model_revision",
    render,
    loads,
    passed,
)
