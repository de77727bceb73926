"""What a tool will really train with a given config on a given model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from advisor.core.errors import BadInput
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.text import printable
from advisor.export import FORMATS
from advisor.export.adapter_file import WEIGHTS_FILE, read_adapter, tensor_surprises
from advisor.export.plan import Format
from advisor.export.read import format_of, read_config, value
from advisor.export.surprises import (
    exclude_surprises,
    layer_surprises,
    matches,
    outside_surprises,
    pattern_surprises,
    rank_surprises,
    role,
    saved_surprises,
    suffix_surprises,
    tied_surprises,
    unmatched_surprises,
)
from advisor.models.config import only_task
from advisor.models.load import meta_model
from advisor.models.modules import find_head, find_targets
from advisor.models.peft import CONFIG_FILE, resolve

SEQ_CLS_HEADS = ("classifier", "score")  # PEFT adds both to modules_to_save by itself, and saves them so
NO_FAN_IN = ("llama-factory", "unsloth", "trl")  # formats whose YAML has no key fan_in_fan_out


@dataclass(frozen=True)
class Report:
    """What a config does; module names are full names in the model.

    Attributes:
        config: the file that was read.
        format: whose config it is, a key of ``FORMATS``.
        model: folder or hub id, as given.
        task: ``classification`` (any ``SEQ_CLS``, and models of images), ``causal-lm`` or ``seq2seq``.
        modules: modules that get LoRA.
        by_role: how many of them play which role.
        ranks: how many of them have which rank.
        lora_params: trainable parameters of LoRA.
        parameters: expert parameters that get LoRA.
        saved: modules trained in full.
        saved_params: their parameters.
        other_params: everything else that is trainable, such as biases.
        unmatched: entries of ``target_modules`` that no module with LoRA answers to.
        by_suffix: entries that answer for several modules as a suffix, with the number.
        outside: modules that get LoRA but are not adaptable ones: poolers, heads, embeddings, routers.
        surprises: what the author of the config probably did not mean, one sentence each.
        notes: what is worth knowing and no surprise.
    """

    config: str
    format: str
    model: str
    task: str
    modules: tuple[str, ...]
    by_role: dict[str, int]
    ranks: dict[int, int]
    lora_params: int
    parameters: tuple[str, ...]
    saved: tuple[str, ...]
    saved_params: int
    other_params: int
    unmatched: tuple[str, ...]
    by_suffix: dict[str, int]
    outside: tuple[str, ...]
    surprises: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0: as intended; 1: there are surprises."""
        return 1 if self.surprises else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for ``--json``."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person: counts a role, then what stands out; control characters are escaped."""
        roles = ", ".join(f"{count} {role}" for role, count in self.by_role.items())
        ranks = ", ".join(f"{count} at rank {rank}" for rank, count in sorted(self.ranks.items()))
        many = f"{len(self.modules)} modules get" if len(self.modules) != 1 else "1 module gets"
        shown = [f"{many} LoRA ({roles}); {self.lora_params:,} LoRA parameters ({ranks})."]
        if self.parameters:
            shown.append(f"{len(self.parameters)} expert parameters get LoRA too, counted above.")
        if self.saved:
            shown.append(f"Trained in full: {', '.join(self.saved)} ({self.saved_params:,} parameters).")
        shown += [f"Surprise: {surprise}" for surprise in self.surprises]
        shown += [f"Note: {note}" for note in self.notes]
        return [printable(line) for line in shown]


def verify(
    config_path: str,
    model_name: str,
    *,
    task: str | None = None,
    format_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Report:
    """Apply a config to the model's architecture, without weights, as its tool would, and report what is trained.

    Args:
        config_path: a file of any of ``FORMATS``, or a folder with ``adapter_config.json``; trained weights beside it
            are compared with it.
        task: stands in for a ``task_type`` that the config does not have.
        format_name: key of ``FORMATS``; None: told by the file's keys.
        revision: of a hub model; None: what the config says, else the newest.

    Raises:
        BadInput: the config or the model cannot be read, the config is not LoRA's, or its tool or PEFT refuses it.
    """
    path, content, found = read_config(Path(config_path))
    model: nn.Module
    try:
        target = _format(path, content, format_name or found)
        said, outputs = target.loads(content)
        named = value(content, target.revision, str) or value(content, "revision", str)  # the latter in a snippet's LoraConfig
        loading: dict[str, Any] = {"revision": revision or named, "trust_remote_code": trust_remote_code}
        settled = said or task or only_task(model_name, **loading)
        if settled is None:
            raise BadInput("it has no task_type.", "Add one to it, or say --task.")
        model = meta_model(model_name, settled, num_labels=outputs, **loading)
        passed = target.passed(content, model)
    except BadInput as error:
        raise error if str(path) in error.what else BadInput(f"{path}: {error.what}", error.hint) from error
    arguments, surprises = _known_arguments(passed.arguments, path)
    surprises += passed.surprises
    if revision and named and revision != named:
        surprises.append(f"the config is for revision {named} of the model, not for {revision}, on which it was resolved.")
    try:
        resolved = resolve(model, arguments)
    except BadInput as error:
        raise BadInput(f"{path}: {error.what}", " ".join(surprises) or error.hint) from error
    head = find_head(model) if settled not in LANGUAGE_TASKS else ()
    targets = {t.name: t for t in find_targets(model, head)}
    every = [name for name, _ in model.named_modules() if name]
    added = SEQ_CLS_HEADS if arguments.get("task_type") == "SEQ_CLS" else ()
    to_save = arguments.get("modules_to_save") or []
    if isinstance(to_save, str):
        surprises.append(f"modules_to_save is the text {to_save!r}, which PEFT takes apart by character: write a list.")
    asked = [entry for entry in to_save if entry not in added] if isinstance(to_save, list) else []
    entries, layers = arguments.get("target_modules"), arguments.get("layers_to_transform")
    answers = matches(entries, resolved.wrapped) if isinstance(entries, list) else {}
    outside = tuple(name for name in resolved.wrapped if name not in targets)
    unmatched = tuple(entry for entry, names in answers.items() if not names)
    too_large, notes = rank_surprises(resolved, settled)
    if entries is None and not resolved.parameters:
        notes.append("There are no target_modules: PEFT takes its own default for this family.")
    surprises += [
        *unmatched_surprises(unmatched, every, layers),
        *suffix_surprises(answers, targets),
        *outside_surprises(outside),
        *layer_surprises(layers, resolved, targets),
        *saved_surprises(asked, resolved, head),
        *pattern_surprises(arguments, resolved),
        *exclude_surprises(arguments.get("exclude_modules"), every),
        *tied_surprises(_tied(model), resolved),
        *too_large,
    ]
    if loading["revision"] and Path(model_name).is_dir():
        notes.append(f"{model_name} is a folder, which has no revisions: that it is {loading['revision']} was not checked.")
    if resolved.other_params:
        surprises.append(f"{resolved.other_params:,} parameters outside LoRA and modules_to_save are trained.")
    for warning in resolved.warnings:  # PEFT corrects fan_in_fan_out, and in these tools nobody can
        corrected = "fan_in_fan_out" in warning and target.name in NO_FAN_IN
        (notes if corrected else surprises).append(f"PEFT warns: {warning}")
    saved_params = resolved.saved_params
    if path.name == CONFIG_FILE and (weights := path.with_name(WEIGHTS_FILE)).exists():
        adapter = read_adapter(weights)
        surprises += tensor_surprises(adapter, resolved)
        notes.append(f"{WEIGHTS_FILE} holds LoRA for {len(adapter.ranks)} modules.")
        saved_params = sum(adapter.others.values()) or saved_params  # a head has the size that it was trained with
    elif outputs is None and settled == "classification" and set(head) & set(resolved.saved):
        labels = getattr(model.config, "num_labels", None)
        notes.append(f"The head is counted with num_labels {labels}, as in the model's config; your data may have others.")
    suffixes = {entry: sum(name != entry for name in names) for entry, names in answers.items()}
    return Report(
        config=str(path),
        format=target.name,
        model=model_name,
        task=settled,
        modules=resolved.wrapped,
        by_role=dict(Counter(role(name, targets) for name in resolved.wrapped)),
        ranks=dict(Counter(resolved.ranks.values())),
        lora_params=resolved.lora_params,
        parameters=resolved.parameters,
        saved=resolved.saved,
        saved_params=saved_params,
        other_params=resolved.other_params,
        unmatched=unmatched,
        by_suffix={entry: count for entry, count in suffixes.items() if count > 1},
        outside=outside,
        surprises=tuple(surprises),
        notes=tuple(notes),
    )


def _format(path: Path, content: Mapping[str, Any], name: str | None) -> Format:
    """The format named, else PEFT's for its own file, else what the keys say."""
    return FORMATS[name or "peft"] if name or path.name == CONFIG_FILE else format_of(content, FORMATS)


def _known_arguments(arguments: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """What this PEFT's ``LoraConfig`` takes; of a JSON file PEFT drops the rest, elsewhere it refuses it."""
    import peft

    known = signature(peft.LoraConfig).parameters
    unknown = [key for key in arguments if key not in known]
    if unknown and path.suffix != ".json":
        raise BadInput(f"{path}: peft {peft.__version__} has no argument {unknown[0]!r}.", "Correct it.")
    kept = {key: value for key, value in arguments.items() if key in known}
    return kept, [f"{key} is unknown to peft {peft.__version__} and ignored." for key in unknown]


def _tied(model: Any) -> tuple[str, ...]:
    """The input and output embeddings, where they share their weight."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return ()
    pair = (model.get_input_embeddings(), model.get_output_embeddings())
    return tuple(name for name, module in model.named_modules() if None not in pair and any(module is m for m in pair))
