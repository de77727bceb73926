"""What PEFT will really train with a given config on a given model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from advisor.errors import BadInput
from advisor.export.peft import Resolved, resolve
from advisor.models import find_head, find_targets, meta_model
from advisor.store import read_json
from advisor.targets import Target

TASKS = {"SEQ_CLS": "classification", "CAUSAL_LM": "causal-lm"}

@dataclass(frozen=True)
class Report:
    """What a config does; module names are full names in the model.

    Attributes:
        config: the file that was read.
        model: folder or hub id, as given.
        task: ``classification`` (any ``SEQ_CLS``) or ``causal-lm``.
        modules: modules that get LoRA.
        by_role: how many of them play which role.
        lora_params: trainable parameters of LoRA.
        saved: modules trained in full.
        saved_params: their parameters.
        other_params: everything else that is trainable, such as biases.
        unmatched: entries of ``target_modules`` that no module with LoRA answers to.
        by_suffix: entries that answer for several modules as a suffix, with the number.
        outside: modules that get LoRA but are not adaptable ones: poolers, heads, embeddings, routers.
        surprises: what the author of the config probably did not mean, one sentence each.
    """

    config: str
    model: str
    task: str
    modules: tuple[str, ...]
    by_role: dict[str, int]
    lora_params: int
    saved: tuple[str, ...]
    saved_params: int
    other_params: int
    unmatched: tuple[str, ...]
    by_suffix: dict[str, int]
    outside: tuple[str, ...]
    surprises: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0: as intended; 1: there are surprises."""
        return 1 if self.surprises else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for ``--json``."""
        return asdict(self)


def verify(
    config_path: str, model_name: str, *, task: str | None = None, trust_remote_code: bool = False
) -> Report:
    """Apply a PEFT config to the model's architecture, without weights, and report what is trained.

    Args:
        config_path: an ``adapter_config.json``, a folder that holds one, or a YAML file of LoRA arguments.
        task: stands in for a ``task_type`` that the config does not have.

    Raises:
        BadInput: the config or the model cannot be read, the config is not LoRA's, or PEFT refuses it.
    """
    path, arguments = _read_config(Path(config_path))
    task = _task(arguments, task, path)
    arguments, surprises = _known_arguments(arguments, path)
    model = meta_model(model_name, task, num_labels=None, trust_remote_code=trust_remote_code)
    head = find_head(model) if task != "causal-lm" else ()
    targets = {t.name: t for t in find_targets(model, head)}
    resolved = resolve(model, arguments)
    entries = arguments.get("target_modules")
    matches = _matches(entries, resolved.wrapped) if isinstance(entries, list) else {}
    outside = tuple(name for name in resolved.wrapped if name not in targets)
    unmatched = tuple(entry for entry, names in matches.items() if not names)
    suffixes = {entry: sum(name != entry for name in names) for entry, names in matches.items()}
    surprises += [f"target_modules: {entry!r} matches no module that gets LoRA." for entry in unmatched]
    surprises += _suffix_surprises(matches, targets)
    surprises += [f"{name} gets LoRA but is not one of the adaptable modules." for name in outside]
    surprises += _layer_surprises(arguments.get("layers_to_transform"), resolved, targets)
    surprises += _saved_surprises(arguments.get("modules_to_save") or [], resolved, head)
    if resolved.other_params:
        surprises.append(f"{resolved.other_params:,} parameters outside LoRA and modules_to_save are trained.")
    surprises += [f"PEFT warns: {warning}" for warning in resolved.warnings]
    return Report(
        config=str(path),
        model=model_name,
        task=task,
        modules=resolved.wrapped,
        by_role=dict(Counter(_role(name, targets) for name in resolved.wrapped)),
        lora_params=resolved.lora_params,
        saved=resolved.saved,
        saved_params=resolved.saved_params,
        other_params=resolved.other_params,
        unmatched=unmatched,
        by_suffix={entry: count for entry, count in suffixes.items() if count > 1},
        outside=outside,
        surprises=tuple(surprises),
    )


def _read_config(path: Path) -> tuple[Path, dict[str, Any]]:
    if path.is_dir():
        path = path / "adapter_config.json"
    if path.suffix not in (".yaml", ".yml"):
        return path, read_json(path, "PEFT config")
    try:
        arguments = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: the config cannot be read: {error.strerror}.", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise BadInput(f"{path}: the config is not valid YAML: {where}.", "Correct it.") from error
    if not isinstance(arguments, dict):
        raise BadInput(f"{path}: the config is no mapping of arguments.", "Write `r: 8` and so on.")
    return path, arguments


def _task(arguments: Mapping[str, Any], given: str | None, path: Path) -> str:
    """The task that ``task_type`` stands for."""
    if arguments.get("peft_type", "LORA") != "LORA":
        raise BadInput(f"{path}: peft_type is {arguments['peft_type']}.", "Only LORA can be verified.")
    task_type = arguments.get("task_type")
    if task_type is None:
        if given is None:
            raise BadInput(f"{path}: it has no task_type.", "Add one to it, or say --task.")
        return given
    if str(task_type) not in TASKS:
        raise BadInput(f"{path}: task_type is {task_type}.", f"Known are {' and '.join(TASKS)}.")
    return TASKS[task_type]


def _known_arguments(arguments: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """What this PEFT's ``LoraConfig`` takes; of a JSON file PEFT drops the rest, in YAML it refuses it."""
    import peft

    known = signature(peft.LoraConfig).parameters
    unknown = [key for key in arguments if key not in known]
    if unknown and path.suffix != ".json":
        raise BadInput(f"{path}: peft {peft.__version__} has no argument {unknown[0]!r}.", "Correct it.")
    kept = {key: value for key, value in arguments.items() if key in known}
    return kept, [f"{key} is unknown to peft {peft.__version__} and ignored." for key in unknown]


def _matches(entries: Sequence[str], wrapped: Sequence[str]) -> dict[str, list[str]]:
    """The modules with LoRA that each entry stands for: exactly, or as a ``.``-suffix."""
    return {entry: [n for n in wrapped if n == entry or n.endswith(f".{entry}")] for entry in entries}


def _suffix_surprises(matches: Mapping[str, Sequence[str]], targets: Mapping[str, Target]) -> list[str]:
    """Entries that are one module's full name and another's suffix, or that stand for several roles."""
    surprises = []
    for entry, names in matches.items():
        roles = list(dict.fromkeys(_role(name, targets) for name in names))
        if entry in names and len(names) > 1:
            surprises.append(f"target_modules: {entry!r} is a full name, and also matches {names[-1]}.")
        elif len(roles) > 1:
            surprises.append(f"target_modules: {entry!r} matches several roles: {', '.join(roles)}.")
    return surprises


def _layer_surprises(layers: Any, resolved: Resolved, targets: Mapping[str, Target]) -> list[str]:
    """Modules with LoRA outside ``layers_to_transform``, which a full name bypasses."""
    if layers is None or layers == []:
        return []
    meant = {layers} if isinstance(layers, int) else set(layers)
    beyond = [name for name in resolved.wrapped if name in targets and targets[name].layer not in meant]
    return [f"{name} gets LoRA although layers_to_transform leaves its layer out." for name in beyond]


def _saved_surprises(asked: Sequence[str], resolved: Resolved, head: Sequence[str]) -> list[str]:
    """Parts of the head that stay as they are, entries that match nothing, and modules nobody asked for."""
    surprises = [f"{name}, a head module, is not trained." for name in head if name not in resolved.saved]
    for entry in asked:
        if not any(name.endswith(entry) for name in resolved.saved):
            surprises.append(f"modules_to_save: {entry!r} matches no module.")
    for name in resolved.saved:
        if name not in head and not any(name == entry or name.endswith(f".{entry}") for entry in asked):
            surprises.append(f"{name} is trained in full, which modules_to_save does not name.")
    return surprises


def _role(name: str, targets: Mapping[str, Target]) -> str:
    return targets[name].role if name in targets else name.rsplit(".", 1)[-1]
