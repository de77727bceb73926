"""Ranks and scales of what a tool adapted: plain PEFT, in the tool's environment."""

import json
import math
from pathlib import Path

from safetensors import safe_open


def layers_of(model) -> dict[str, tuple[int, float]]:
    """Of a ``PeftModel``: rank (rows of A) and scale of each module, by the base model's name."""
    found = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            found[name] = (module.lora_A["default"].weight.shape[0], module.scaling["default"])
    return found


def adapter_of(folder: Path) -> dict[str, tuple[int, float]]:
    """Of a saved adapter with one rank and alpha: from its tensors and config."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    found = {}
    with safe_open(folder / "adapter_model.safetensors", framework="np") as file:
        for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            if key.endswith(".lora_A.weight"):
                rank = file.get_slice(key).get_shape()[0]
                name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                found[name] = (rank, config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank))
    return found
