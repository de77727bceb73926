"""The user's own config as a candidate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput, NotPredicted
from advisor.core.probe import Probe
from advisor.core.targets import LoraSettings, Selection, in_model_order
from advisor.core.tasks import TASKS, outputs_of
from advisor.export.read import read_config
from advisor.export.taken import format_for, known_arguments
from advisor.models.config import trained_as
from advisor.models.load import meta_model
from advisor.models.peft import Resolved, resolve
from advisor.models.peft_values import check_values

# What trains more than plain LoRA, or less, of which nothing is predicted; with the value that does not.
BESIDE = {
    "modules_to_save": None,
    "trainable_token_indices": None,
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "init_lora_weights": True,
}


def read_baseline(path: Path, probe: Probe, trust_remote_code: bool) -> Candidate:
    """The user's own config, of any format that ``verify`` reads, as a candidate: what PEFT really adapts with it, at the ranks
    and alphas it does. Where it trains more than plain LoRA and the head, that is warned of (``NotPredicted``).

    Raises:
        BadInput: no such file, not a LoRA config, it is for another task than the probe, its tool or PEFT refuses it, or it wraps
            modules that are not adaptable here or replicates layers.
        OutOfMemory: there is not enough memory for the model's architecture.
    """
    path, content, found = read_config(path)
    try:
        target = format_for(path, content, found)
        _check_task(target.loads(content)[0], probe.task)
        model = empty_model(probe, trust_remote_code)
        passed = target.passed(content, model)
        check_values(passed.arguments, passed.keys)
        arguments, _ = known_arguments(passed.arguments, path)
        if arguments.get("layer_replication"):
            raise BadInput(
                f"{passed.keys.get('layer_replication', 'layer_replication')} makes layers that the probed model does not have.",
                "Leave it out, or save the model with these layers and probe that.",
            )
        resolved = resolve(model, arguments, passed.keys)
    except BadInput as error:
        raise error if str(path) in error.what else BadInput(f"{path}: {error.what}", error.hint) from error
    names = in_model_order(resolved.adapted, probe.targets, str(path))
    settings = LoraSettings(
        int(arguments.get("r", 8)), float(arguments.get("lora_alpha", 8)), bool(arguments.get("use_rslora", False))
    )
    own = Candidate(
        Selection("your config", names),
        settings,
        {name: resolved.ranks[name] for name in names if resolved.ranks[name] != settings.rank},
        {name: resolved.alphas[name] for name in names if resolved.alphas[name] != settings.alpha},
    )
    plain = own.selection.params(probe.targets, settings.rank, own.ranks)
    if (trained := _trained(resolved, model, probe.info["head"])) == plain:
        return own
    keys = ", ".join(key for key, usual in BESIDE.items() if arguments.get(key) not in (None, usual))
    warnings.warn(
        f"{path}: PEFT trains {trained:,} parameters with it{f' ({keys})' if keys else ''}, the head not among them. "
        f"Only its LoRA on modules is counted and predicted: {plain:,} parameters.",
        NotPredicted,
        stacklevel=2,
    )
    return replace(own, selection=Selection("your config, LoRA alone", names))


def _trained(resolved: Resolved, model: nn.Module, head: Sequence[str]) -> int:
    """All parameters that are trained, but for those of the head."""
    of_head = sum(p.numel() for name in resolved.saved if name in head for p in model.get_submodule(name).parameters())
    return resolved.lora_params + resolved.saved_params + resolved.token_params + resolved.other_params - of_head


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
