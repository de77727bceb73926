"""A selection as a PEFT ``LoraConfig``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advisor.targets import LoraSettings, Selection, Target

TASK_TYPES = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "causal-lm": "CAUSAL_LM"}


def lora_arguments(
    selection: Selection,
    settings: LoraSettings,
    *,
    task: str,
    head: Sequence[str],
    targets: Sequence[Target],
    base_model: str,
) -> dict[str, Any]:
    """Plain arguments: ``LoraConfig(**arguments)`` adapts exactly ``selection`` and trains ``head`` in full.

    Full module names are emitted, because PEFT matches list entries exactly or as a ``.``-suffix.
    """
    chosen = set(selection.targets)
    arguments: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[task],
        "base_model_name_or_path": base_model,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if float(settings.alpha).is_integer() else settings.alpha,
        "lora_dropout": 0.0,
        "use_rslora": settings.rslora,
        "bias": "none",
        "fan_in_fan_out": any(t.kind == "conv1d" for t in targets if t.name in chosen),
        "target_modules": list(selection.targets),
    }
    if head:
        arguments["modules_to_save"] = list(head)
    return arguments
