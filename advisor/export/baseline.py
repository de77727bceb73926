"""The user's own config as a candidate."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.targets import LoraSettings, Selection, in_model_order
from advisor.core.tasks import TASKS, outputs_of
from advisor.export.read import read_config
from advisor.export.taken import format_for
from advisor.models.config import trained_as
from advisor.models.load import meta_model
from advisor.models.peft import resolve
from advisor.models.peft_values import check_values

# What decides which modules a config adapts, and how strongly.
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
    """The user's own config, of any format that ``verify`` reads, as a candidate: what PEFT really adapts with it, at the ranks
    and alphas it does.

    Raises:
        BadInput: no such file, not a LoRA config, it is for another task than the probe, its tool or PEFT refuses it, or it wraps
            modules that are not adaptable here.
        OutOfMemory: there is not enough memory for the model's architecture.
    """
    path, content, found = read_config(path)
    try:
        target = format_for(path, content, found)
        _check_task(target.loads(content)[0], probe.task)
        model = empty_model(probe, trust_remote_code)
        passed = target.passed(content, model)
        check_values(passed.arguments, passed.keys)
        arguments = {key: passed.arguments[key] for key in PLACEMENT if passed.arguments.get(key) is not None}
        resolved = resolve(model, arguments, passed.keys)
    except BadInput as error:
        raise error if str(path) in error.what else BadInput(f"{path}: {error.what}", error.hint) from error
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


def _check_task(told: str | None, probed: str) -> None:
    """Raises:
    BadInput: the config is for a model with another head than the one that was probed.
    """
    if told is not None and TASKS[told].task_type != TASKS[probed].task_type:
        raise BadInput(
            f"the config is for {told} (task_type {TASKS[told].task_type}), and the probe is of {probed} "
            f"({TASKS[probed].task_type}).",
            "Give a config for the probe's task.",
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
