"""A selection as a PEFT ``LoraConfig``, and what PEFT makes of such a config on a real architecture."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from advisor.core.errors import BadInput
from advisor.export.plan import Findings, Format, Passed, Plan, Rendered, RenderedFile, comment_lines, yaml_body
from advisor.models.peft import CONFIG_FILE, lora_arguments

TASKS = {
    "SEQ_CLS": "classification",
    "CAUSAL_LM": "causal-lm",
    "SEQ_2_SEQ_LM": "seq2seq",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "embedding",
}


def lora_yaml(arguments: Mapping[str, Any], comments: Sequence[str]) -> str:
    """``arguments`` as YAML under one ``#`` line per comment.

    Both ``LoraConfig(**yaml.safe_load(file))`` and ``peft.get_peft_config(yaml.safe_load(file))`` read it.
    """
    return comment_lines(comments) + yaml_body(arguments)


def adapter_config_json(arguments: Mapping[str, Any]) -> str:
    """``arguments`` as ``adapter_config.json``; what is not in it, any version of PEFT fills in with its own default."""
    return json.dumps(dict(arguments), indent=2, sort_keys=True) + "\n"


def arguments_of(plan: Plan) -> dict[str, Any]:
    """:func:`lora_arguments` of a plan.

    Raises:
        BadInput: the plan has no modules.
    """
    return lora_arguments(
        plan.selection,
        plan.settings,
        task=plan.task,
        head=plan.head,
        targets=plan.targets,
        base_model=plan.base_model,
        ranks=plan.ranks,
        alphas=plan.alphas,
        reads=plan.reads,
        revision=plan.revision,
    )


YAML_FILE = "lora.yaml"


def render(plan: Plan) -> Rendered:
    """``lora.yaml`` and ``adapter_config.json``: PEFT can say everything.

    Raises:
        BadInput: the plan has no modules.
    """
    found, arguments = Findings(plan, "PEFT"), arguments_of(plan)
    return Rendered(
        {
            YAML_FILE: found.file(lora_yaml(arguments, []), FORMAT.use),
            CONFIG_FILE: RenderedFile(adapter_config_json(arguments), "exact", ()),
        }
    )


def loads(content: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The task that ``task_type`` stands for.

    Raises:
        BadInput: the config is not LoRA's, or its task is none that PEFT knows.
    """
    if content.get("peft_type", "LORA") != "LORA":
        kind = str(content["peft_type"])[:40]
        raise BadInput(f"peft_type is {kind!r}.", "Write LORA." if kind.upper() == "LORA" else "Only LORA can be verified.")
    task_type = content.get("task_type")
    if task_type is not None and str(task_type) not in TASKS:
        near = difflib.get_close_matches(str(task_type).upper(), TASKS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(TASKS)}."
        raise BadInput(f"task_type is {str(task_type)[:40]!r}, which PEFT does not know.", hint)
    return None if task_type is None else TASKS[task_type], None


def passed(content: Mapping[str, Any], model: Any) -> Passed:
    """The file's content is what ``LoraConfig`` gets (``PeftConfig.from_pretrained``, ``get_peft_config``)."""
    return Passed(dict(content))


FORMAT = Format(
    "peft",
    "PEFT",
    "LoraConfig(**yaml.safe_load(open('lora.yaml'))) reads it; PeftConfig.from_pretrained reads adapter_config.json.",
    frozenset({"peft_type", "target_modules", "task_type"}),
    "revision",
    render,
    loads,
    passed,
)
