"""What a tool will really train with a given config on a given model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.targets import Target
from advisor.core.text import printable
from advisor.export import surprises as said
from advisor.export.adapter_file import tensor_surprises, unread_weights
from advisor.export.applied import Applied, matches
from advisor.export.read import embeddings
from advisor.export.taken import Taken, take
from advisor.models.modules import find_targets
from advisor.models.peft import CONFIG_FILE
from advisor.models.vision import text_part

# What PEFT adds to modules_to_save by itself, and saves so.
ADDED = {task: ("classifier", "score") for task in ("SEQ_CLS", "TOKEN_CLS")} | {"QUESTION_ANS": ("qa_outputs",)}
NO_FAN_IN = ("llama-factory", "unsloth", "trl")  # formats whose YAML has no key fan_in_fan_out


@dataclass(frozen=True)
class Report:
    """What a config does; module names are full names in the model.

    Attributes:
        config: the file that was read.
        format: whose config it is, a key of ``FORMATS``.
        model: folder or hub id, as given.
        task: ``classification`` (any ``SEQ_CLS``, and models of images), ``causal-lm``, ``seq2seq``, ``images-and-text``,
            ``embedding`` (no head), ``token-classification`` or ``question-answering``.
        model_class: the class of the model on which PEFT applied the config.
        modules: modules that get LoRA.
        by_role: how many of them play which role.
        ranks: how many of them have which rank.
        lora_params: trainable parameters of LoRA.
        parameters: weights, such as stacks of experts, that get LoRA by themselves. parameter_ranks: how many of them have
            which rank.
        tokens: rows of embeddings that are trained, by embedding. token_params: their parameters.
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
    model_class: str
    modules: tuple[str, ...]
    by_role: dict[str, int]
    ranks: dict[int, int]
    lora_params: int
    parameters: tuple[str, ...]
    parameter_ranks: dict[int, int]
    tokens: dict[str, int]
    token_params: int
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
        many = f"{len(self.modules)} modules get" if len(self.modules) != 1 else "1 module gets"
        of = f" ({roles})" if roles else ""
        shown = [f"{many} LoRA{of}; {self.lora_params:,} LoRA parameters ({_at_ranks(self.ranks or self.parameter_ranks)})."]
        if self.parameters:
            ranks = _at_ranks(self.parameter_ranks)
            shown.append(f"{len(self.parameters)} weights (target_parameters) get LoRA by themselves ({ranks}), counted above.")
        if self.saved:
            shown.append(f"Trained in full: {', '.join(self.saved)} ({self.saved_params:,} parameters).")
        for name, count in self.tokens.items():
            shown.append(f"Of {name}, {count} rows (tokens) are trained ({self.token_params:,} parameters in all).")
        shown += [f"Surprise: {surprise}" for surprise in self.surprises]
        shown += [f"Note: {note}" for note in self.notes]
        return [printable(line) for line in shown]


def _at_ranks(ranks: Mapping[int, int]) -> str:
    return ", ".join(f"{count} at rank {rank}" for rank, count in sorted(ranks.items()))


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
        OutOfMemory: there is not enough memory for the model's architecture.
    """
    took = take(Path(config_path), model_name, task, format_name, revision, trust_remote_code)
    it, resolved, arguments = took.applied, took.applied.resolved, took.applied.arguments
    targets = _targets(took)
    entries = arguments.get("target_modules")
    answers = matches(entries, resolved.wrapped) if isinstance(entries, list) else {}
    unmatched = said.unmatched_entries(it)
    outside = tuple(name for name in resolved.wrapped if targets and name not in targets)
    surprises, notes = list(took.surprises), list(took.notes)
    for more_surprises, more_notes in (
        said.image_surprises(it, text_part(it.model)),
        said.rank_surprises(resolved, took.task),
        _warned(took),
    ):
        surprises += more_surprises
        notes += more_notes
    surprises += [
        *said.unmatched_surprises(it, unmatched, took.other_classes()),
        *said.widened_surprises(it),
        *said.suffix_surprises(it, answers, targets),
        *said.outside_surprises(outside),
        *said.layer_surprises(it, targets),
        *said.saved_surprises(_asked(it, surprises), it, took.head),
        *_more_surprises(took),
    ]
    notes += [*_notes(took), *_notes_on_weights(took)]
    suffixes = {entry: sum(name != entry for name in names) for entry, names in answers.items()}
    return Report(
        config=str(took.path),
        format=took.format,
        model=model_name,
        task=took.task,
        model_class=type(it.model).__name__,
        modules=resolved.wrapped,
        by_role=dict(Counter(said.role(name, targets) for name in resolved.wrapped)),
        ranks=dict(Counter(resolved.ranks[name] for name in resolved.wrapped)),
        lora_params=resolved.lora_params,
        parameters=resolved.parameters,
        parameter_ranks=dict(Counter(resolved.ranks[name] for name in resolved.parameters)),
        tokens=dict(resolved.tokens),
        token_params=resolved.token_params,
        saved=resolved.saved,
        saved_params=resolved.saved_params,
        other_params=resolved.other_params,
        unmatched=unmatched,
        by_suffix={entry: count for entry, count in suffixes.items() if count > 1},
        outside=outside,
        surprises=tuple(dict.fromkeys(surprises)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _targets(took: Taken) -> dict[str, Target]:
    """The adaptable modules; none of a model without linear ones."""
    try:
        return {target.name: target for target in find_targets(took.applied.model, took.head)}
    except BadInput:
        return {}


def _asked(it: Applied, surprises: list[str]) -> list[str]:
    """What the user wants trained in full; adds to ``surprises``."""
    to_save = it.arguments.get("modules_to_save") or []
    if isinstance(to_save, str):
        surprises.append(
            f"{it.called('modules_to_save')} is the text {to_save!r}, which PEFT takes apart by character: write a list."
        )
        return []
    added = ADDED.get(str(it.arguments.get("task_type")), ())
    return [entry for entry in to_save if entry not in added]


def _warned(took: Taken) -> tuple[list[str], list[str]]:
    """PEFT's own warnings as surprises and notes."""
    surprises: list[str] = []
    notes: list[str] = []
    for warning in took.applied.resolved.warnings:
        if "_pattern keys did not match" in warning:  # of modules only: PEFT overlooks weights of experts, and its own keys
            continue
        if "low_cpu_mem_usage" in warning:  # of how this function calls PEFT, not of the config
            continue
        # PEFT corrects fan_in_fan_out, and in these tools nobody can.
        corrected = "fan_in_fan_out" in warning and took.format in NO_FAN_IN
        (notes if corrected else surprises).append(f"PEFT warns: {warning}")
    return surprises, notes


def _more_surprises(took: Taken) -> list[str]:
    """Surprises that need no more than what was taken."""
    it, resolved = took.applied, took.applied.resolved
    surprises = [
        *said.parameter_surprises(it),
        *said.pattern_surprises(it),
        *said.exclude_surprises(it),
        *said.token_surprises(it),
        *said.tied_surprises(_tied(it.model), resolved),
    ]
    if took.adapter and took.difference:
        surprises += tensor_surprises(took.adapter, took.difference, resolved, embeddings(it.model))
    if resolved.other_params and not _asked_biases(took):
        surprises.append(f"{resolved.other_params:,} parameters outside LoRA and modules_to_save are trained.")
    return surprises


def _asked_biases(took: Taken) -> bool:
    return str(took.applied.arguments.get("bias", "none")) != "none"


def _notes(took: Taken) -> list[str]:
    """What is worth knowing about the targets and the head."""
    it, arguments = took.applied, took.applied.arguments
    notes = []
    if arguments.get("target_modules") is None and not it.resolved.parameters:
        notes.append(f"There are no {it.called('target_modules')}: PEFT takes its own default for this family.")
    if it.resolved.other_params and _asked_biases(took):
        notes.append(f"bias: {arguments['bias']} trains {it.resolved.other_params:,} parameters beside LoRA.")
    if experts := said.converted(it):
        notes.append(
            f"PEFT adapts the weights of experts, {', '.join(experts)}, in place of the modules that their old names stand for; "
            "where two of these became one, its rank and alpha are doubled."
        )
    if (
        took.adapter is None
        and took.outputs is None
        and took.task == "classification"
        and set(took.head) & set(it.resolved.saved)
    ):
        labels = getattr(it.model.config, "num_labels", None)
        notes.append(f"The head is counted with num_labels {labels}, as in the model's config; your data may have others.")
    return notes


def _notes_on_weights(took: Taken) -> list[str]:
    """What is worth knowing about the trained weights beside the config."""
    notes = []
    if took.adapter and took.difference:
        lora = {name.rpartition(".lora_")[0] for name in took.adapter.shapes if ".lora_" in name}
        notes.append(f"{took.adapter.file} holds LoRA for {len(lora)} modules.")
        own = tuple(f"{name}." for name in embeddings(took.applied.model))
        if beside := [name for name in took.difference.beside if name.startswith(own)]:
            notes.append(f"{took.adapter.file} also holds {', '.join(beside)} in full, which PEFT loads over the model's own.")
    elif took.applied.arguments.get("inference_mode") is True:
        notes.append("The config is a trained adapter's, and none of its weights are beside it: nothing was compared.")
    if unread := unread_weights(took.path.parent) if took.path.name == CONFIG_FILE else []:
        notes.append(f"Not compared: {said.some(unread)}, which PEFT does not load as the adapter's weights.")
    return notes


def _tied(model: Any) -> tuple[str, ...]:
    """The input and output embeddings, where they share their weight."""
    found = embeddings(model) if getattr(model.config, "tie_word_embeddings", False) else ()
    return found if len(found) > 1 else ()
