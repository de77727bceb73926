"""A config file as its tool takes it: the model's class that it loads, and what PEFT gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.recipe import HEADLESS
from advisor.export import FORMATS
from advisor.export.adapter_file import PREFIX, Adapter, Difference, difference, read_adapter
from advisor.export.applied import Applied, apply_config
from advisor.export.hints import refusal_hint
from advisor.export.plan import Format
from advisor.export.read import format_of, read_config, value
from advisor.models.config import only_task, task_of_class, trained_as
from advisor.models.load import meta_model
from advisor.models.modules import find_head
from advisor.models.peft import CONFIG_FILE, without_bitsandbytes
from advisor.models.peft_values import check_values

NO_HEAD = (*HEADLESS, "images-and-text")


@dataclass(frozen=True)
class Taken:
    """What a tool makes of a config file.

    Attributes:
        path, format: the file, and whose it is.
        task: what the model is loaded for. outputs: of its head, where the file says so.
        applied: the config on that model.
        head: the head's modules.
        adapter, difference: the trained weights beside the config, and how they differ from it; None without any.
        surprises, notes: what was found on the way.
        others: the names of modules that other classes of the model have, by class.
    """

    path: Path
    format: str
    task: str
    outputs: int | None
    applied: Applied
    head: tuple[str, ...]
    adapter: Adapter | None
    difference: Difference | None
    surprises: tuple[str, ...]
    notes: tuple[str, ...]
    others: Mapping[str, Any]

    def other_classes(self) -> dict[str, list[str]]:
        """Names of the modules of the model's other classes."""
        return {name: [n for n, _ in model.named_modules() if n] for name, model in self.others.items()}

    @property
    def misfits(self) -> int:
        """How much of the file has no place in this class of the model."""
        from advisor.export.surprises import unmatched_entries

        return (self.difference.misfits if self.difference else 0) + len(unmatched_entries(self.applied))


def take(
    path: Path, model_name: str, task: str | None, format_name: str | None, revision: str | None, trust_remote_code: bool
) -> Taken:
    """Read a config and apply it to the model that its tool loads; see :func:`advisor.export.verify.verify`.

    Where scripts may load one of two classes of the model, the one is taken whose modules the file names.

    Raises:
        BadInput: as ``verify``.
        OutOfMemory: as ``verify``.
    """
    path, content, found = read_config(path)
    adapter = read_adapter(path.parent) if path.name == CONFIG_FILE else None
    try:
        target = format_for(path, content, format_name or found)
        named = value(content, target.revision, str) or value(content, "revision", str)  # the latter in a snippet's LoraConfig
        loading: dict[str, Any] = {"revision": revision or named, "trust_remote_code": trust_remote_code}
        settled, outputs = _task(target, content, model_name, task, loading)
        keys = trained_as(model_name, settled, **loading)
        if target.name in ("llama-factory", "axolotl", "unsloth") or (target.name == "trl" and found is None):
            keys, spare = keys[:1], keys[1:]
        else:
            spare = ()
        make = partial(meta_model, model_name, num_labels=outputs, **loading)
        models = {key: make(task=key) for key in (*keys, *spare)}
        taken, refused = [], []
        for key in keys:
            others = {type(m).__name__: m for k, m in models.items() if k != key}
            again = partial(meta_model, model_name, key, **loading)
            try:
                taken.append(_take(path, target, content, key, outputs, models[key], again, adapter, others))
            except BadInput as error:
                refused.append(error)
        if not taken:
            raise refused[0]
    except BadInput as error:
        raise error if str(path) in error.what else BadInput(f"{path}: {error.what}", error.hint) from error
    best = min(taken, key=lambda one: one.misfits)
    surprises, notes = list(best.surprises), list(best.notes)
    if revision and named and revision != named:
        surprises.append(f"the config is for revision {named} of the model, not for {revision}, on which it was resolved.")
    if loading["revision"] and Path(model_name).is_dir():
        notes.append(f"{model_name} is a folder, which has no revisions: that it is {loading['revision']} was not checked.")
    notes += _class_notes(best, [*keys, *spare])
    return replace(best, surprises=tuple(surprises), notes=tuple(notes))


def format_for(path: Path, content: Mapping[str, Any], known: str | None) -> Format:
    """Whose config a file is; ``known``: its name, where the user or the syntax says so.

    Raises:
        BadInput: it is no config of a known format.
    """
    of = known or ("peft" if path.name == CONFIG_FILE else None)
    return FORMATS[of] if of else format_of(content, FORMATS)


def _task(
    target: Format, content: Mapping[str, Any], model_name: str, task: str | None, loading: Mapping[str, Any]
) -> tuple[str, int | None]:
    """What the tool loads the model for, and the outputs that the file gives it."""
    said, outputs = target.loads(content)
    mapping = content.get("auto_mapping")
    if said is None and isinstance(mapping, dict) and isinstance(mapping.get("base_model_class"), str):
        said = task_of_class(model_name, mapping["base_model_class"], **loading)
    settled = said or task or only_task(model_name, **loading)
    if settled is None:
        raise BadInput("it has no task_type.", "Add one to it, or say --task.")
    return settled, outputs


def _take(
    path: Path,
    target: Format,
    content: Mapping[str, Any],
    key: str,
    outputs: int | None,
    model: Any,
    again: Any,
    adapter: Adapter | None,
    others: Mapping[str, Any],
) -> Taken:
    """The config on one class of the model; ``again(num_labels=)`` makes it with another head."""
    head = find_head(model) if key not in NO_HEAD else ()
    notes = []
    if adapter and (labels := _labels(adapter, model, head)):
        model = again(num_labels=labels)
        notes.append(f"The head was trained with {labels} labels: load the model with num_labels={labels}.")
    passed = target.passed(content, model)
    arguments, surprises = known_arguments(passed.arguments, path)
    surprises += passed.surprises
    check_values(arguments, passed.keys)
    try:
        applied = apply_config(model, arguments, passed)
    except BadInput as error:
        if error.hint:  # the advisor's own refusal, of a key that it names
            raise
        hint = refusal_hint(
            arguments,
            [name for name, _ in model.named_modules() if name],
            {name: [n for n, _ in other.named_modules()] for name, other in others.items()},
            passed.way,
        )
        hint = f"{passed.keys.get('target_modules', 'target_modules')}: {hint}" if hint else ""
        raise BadInput(error.what, " ".join([*surprises, hint]).strip()) from error
    if arguments.get("layer_replication"):
        count = sum(end - start for start, end in arguments["layer_replication"])
        notes.append(f"layer_replication makes {count} layers of the model's own, and copies share their weights.")
    return Taken(
        path=path,
        format=target.name,
        task=key,
        outputs=outputs,
        applied=applied,
        head=head,
        adapter=adapter,
        difference=difference(adapter, applied.peft_model) if adapter else None,
        surprises=tuple(surprises),
        notes=tuple(notes),
        others=others,
    )


def known_arguments(arguments: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """What this PEFT's ``LoraConfig`` takes, and what is to be said of the rest, which of a JSON file PEFT drops.

    Raises:
        BadInput: PEFT refuses an argument.
    """
    with without_bitsandbytes():
        import peft

    known = signature(peft.LoraConfig).parameters
    unknown = [key for key in arguments if key not in known]
    if unknown and path.suffix != ".json":
        raise BadInput(f"{path}: peft {peft.__version__} has no argument {unknown[0]!r}.", "Correct it.")
    kept = {key: value for key, value in arguments.items() if key in known}
    return kept, [f"{key} is unknown to peft {peft.__version__} and ignored." for key in unknown]


def _labels(adapter: Adapter, model: Any, head: tuple[str, ...]) -> int | None:
    """The number of labels of an adapter's head, where it is another than the model's."""
    outputs = getattr(model.config, "num_labels", None)
    for name, shape in adapter.shapes.items():
        bare = name.removeprefix(PREFIX)
        if not bare.startswith(tuple(f"{part}." for part in head)) or ".lora_" in bare or not bare.endswith("weight"):
            continue
        try:
            own = tuple(model.get_parameter(bare).shape)
        except AttributeError:
            continue
        if len(own) == len(shape) == 2 and own[0] == outputs and own[1] == shape[1] and shape[0] != own[0]:
            return shape[0]
    return None


def _class_notes(taken: Taken, keys: list[str]) -> list[str]:
    """Which of two classes the model was taken as."""
    name = type(taken.applied.model).__name__
    if len(keys) > 1:
        other = ", ".join(taken.others)
        return [
            f"The model is taken as {name}. Its config also knows {other}, for "
            f"{'text alone' if taken.task == 'images-and-text' else 'images and text'}, whose modules have other names."
        ]
    return [f"The model reads images and text: it is taken as {name}."] if taken.task == "images-and-text" else []
