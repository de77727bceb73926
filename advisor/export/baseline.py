"""The user's own PEFT config as a candidate."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.store import read_json
from advisor.core.targets import LoraSettings, Selection, in_model_order
from advisor.core.tasks import outputs_of
from advisor.models.config import trained_as
from advisor.models.load import meta_model
from advisor.models.peft import CONFIG_FILE, resolve

# What decides which modules a PEFT config adapts, and how strongly.
PLACEMENT = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
    "target_parameters",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
)


def read_baseline(path: Path, probe: Probe, trust_remote_code: bool) -> Candidate:
    """The user's own PEFT config as a candidate: what PEFT really adapts with it, at the ranks and alphas it does.

    Raises:
        BadInput: no such file, not a LoRA config, it wraps modules that are not adaptable here, or an alpha is no
            positive number.
        OutOfMemory: there is not enough memory for the model's architecture.
    """
    arguments = read_json(path / CONFIG_FILE if path.is_dir() else path, "baseline config")
    if arguments.get("peft_type") != "LORA":
        raise BadInput(f"{path}: peft_type is {arguments.get('peft_type')!r}, not LORA.", "Give a LoRA config.")
    model = empty_model(probe, trust_remote_code)
    try:
        resolved = resolve(model, {key: arguments[key] for key in PLACEMENT if arguments.get(key) is not None})
    except BadInput as error:
        raise BadInput(f"{path}: {error.what}", error.hint) from error
    names = in_model_order(resolved.adapted, probe.targets, str(path))
    settings = LoraSettings(
        int(arguments.get("r", 8)), float(arguments.get("lora_alpha", 8)), bool(arguments.get("use_rslora", False))
    )
    return Candidate(
        Selection("your config", names),
        settings,
        {name: resolved.ranks[name] for name in names if resolved.ranks[name] != settings.rank},
        {name: resolved.alphas[name] for name in names if resolved.alphas[name] != settings.alpha},
    )


def empty_model(probe: Probe, trust_remote_code: bool) -> nn.Module:
    """The probe's model, in the revision that was probed, on the meta device.

    Raises:
        BadInput: the model is not where the probe found it, or cannot be used.
        OutOfMemory: there is not enough memory for its architecture.
    """
    name = probe.path_now(str(probe.info["model"]))
    found = {"revision": probe.info["revision"], "trust_remote_code": trust_remote_code}
    return meta_model(
        name, trained_as(name, probe.task, **found)[0], num_labels=outputs_of(probe.task, len(probe.class_names)), **found
    )
