"""Load a Hugging Face model for a task and find the modules LoRA can adapt."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from advisor.core.choices import LANGUAGE, VISION
from advisor.core.errors import BadInput, loading
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.targets import Target, block_of
from advisor.data.hub import hub_hint
from advisor.data.images import blank_image, image_batch
from advisor.models.adaptable import kinds
from advisor.models.checkpoint import check_index, fields, misfit, stored_weights
from advisor.models.config import (
    BOTH,
    auto_class,
    check_class,
    language_task_of,
    load_config,
    loaded_as,
    of_images,
    other_class,
    plain_weights,
    quiet,
)
from advisor.models.experts import called_module, open_experts
from advisor.models.identity import model_fingerprint
from advisor.models.modules import (
    QV_NAMES,
    _stacks,
    adapted,
    block_names,
    called,
    experts_notes,
    find_head,
    find_targets,
    input_embeddings,
    left_out_notes,
    profile_of,
    random_parts,
)
from advisor.models.placement import (
    DISK,
    QUANTISED,
    device_map,
    device_of,
    is_offloaded,
    keep_unpacked,
    offload_folder,
    pick_device,
    pick_dtype,
    quantisation,
    quantised_as,
)
from advisor.models.vision import load_processor, short_input

MOST_TIMES, SLACK = 4, 2**24  # how many more weights than are stored a config may describe: packed ones, a new head


@dataclass
class LoadedModel:
    """A frozen model in eval mode with what the advisor knows about it.

    Attributes:
        model: a transformers model, all parameters frozen.
        tokenizer: its tokenizer, with a padding token; None for a model of images alone.
        task: one of ``recipe.TASKS``.
        targets: the adaptable modules, in model order.
        head: names of the modules PEFT trains in full besides LoRA (``modules_to_save``); empty for a language model.
        head_is_new: the checkpoint has no trained weights for the head. head_is_fitted: it now holds a linear probe's.
        name: folder or hub id, as given.
        revision: the hub revision, None for a folder.
        fingerprint: hash of its files, see :func:`advisor.models.identity.model_fingerprint`.
        image_processor: transformers' own of a model of images alone, else None.
        processor: transformers' own of a model of images and text, else None.
        stored: how the checkpoint has the weights, where that is in few bits and they were dequantised on loading.
    """

    model: Any
    tokenizer: Any
    task: str
    targets: tuple[Target, ...]
    head: tuple[str, ...]
    head_is_new: bool
    name: str
    revision: str | None
    fingerprint: str
    image_processor: Any = None
    processor: Any = None
    stored: str | None = None
    head_is_fitted: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    scratch: Any = None  # a temporary folder of weights, which lives as long as this

    @property
    def device(self) -> torch.device:
        """Where inputs are put."""
        return device_of(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not quantised, and of what passes between modules."""
        dtype: torch.dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return dtype

    @property
    def reads(self) -> str:
        """``text``, ``images``, or ``images and text``."""
        if self.processor is not None:
            return "images and text"
        return "text" if self.image_processor is None else "images"

    @cached_property
    def image_tokens(self) -> int:
        """Tokens that the first target sees of an image: patches, and a class token where there is one."""
        first, seen = self.targets[0], [0]
        handle = called_module(self.model, first.name).register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].numel() // first.in_features)
        )
        try:
            with torch.no_grad():
                pixels = image_batch([blank_image(self.model.config)], self.image_processor)
                self.model(pixel_values=pixels.to(self.device, self.dtype))
        finally:
            handle.remove()
        return seen[-1]

    @property
    def offloaded(self) -> bool:
        """Weights are fetched from memory or disk when they are used."""
        return is_offloaded(self.model)

    def require_in_memory(self) -> None:
        """Raises:
        BadInput: the weights are not all in memory, so that real runs cannot be made.
        """
        if self.offloaded:
            raise BadInput(
                f"{self.name}: its weights are not all in memory, which real runs need.", "Use --load-in-4bit or a larger device."
            )

    @property
    def quantised(self) -> str | None:
        """``4bit``, ``8bit``, or None."""
        return quantised_as(self.model)

    @property
    def parameters(self) -> int:
        """How many weights it has, however they are stored."""
        return int(self.model.num_parameters())

    @property
    def blocks(self) -> tuple[str, ...]:
        """The repeated blocks that hold the targets, in model order."""
        return block_names(self.targets)

    @property
    def max_length(self) -> int:
        """Longest input in tokens, from the position table and the tokenizer; of images the only one."""
        if self.reads == "images":
            return self.image_tokens
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or 1_000_000
        if config.model_type in ("roberta", "xlm-roberta"):
            limit -= config.pad_token_id + 1  # RoBERTa numbers positions from pad_token_id + 1
        return int(min(limit, self.tokenizer.model_max_length))

    def qv_roles(self) -> tuple[str, ...]:
        """The roles that stand for "q,v" in this family; without a profile, those that usually mean it."""
        profile = profile_of(self.model.config)
        if profile:
            return tuple(profile["qv"])
        return tuple(dict.fromkeys(t.role for t in self.targets if t.role.rsplit(".", 1)[-1] in QV_NAMES))


def load_model(
    name: str,
    task: str,
    *,
    num_labels: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantised: str | None = None,
    adapt: str = LANGUAGE,
    seed: int = 0,
) -> LoadedModel:
    """Load ``name`` (a local folder or a hub id) with the right head for ``task``.

    Args:
        num_labels: classes (1 for regression; unused for a language model).
        device: ``auto`` takes CUDA when there is one, and spreads what does not fit over other GPUs, memory and disk;
            ``disk`` leaves all blocks there.
        dtype: ``auto`` is bfloat16 on CUDA and float32 on CPU.
        quantised: ``4bit`` or ``8bit``, by bitsandbytes.
        adapt: of a model of images and text, which parts have targets: one of ``choices.PARTS``.
        seed: draws the weights of a new head.

    Raises:
        BadInput: the folder or id cannot be loaded as such a model, its family does not do the task, or its trained head
            has other labels.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    config = load_config(name, options)
    _check_task(config, name, task)
    stored = plain_weights(config, name, quantised)
    reads_images, both = of_images(config), loaded_as(config, task) == BOTH
    if adapt == VISION and not both:
        raise BadInput(f"--adapt {adapt}: {name} is no model of images and text.", "Leave it out.")
    if task not in LANGUAGE_TASKS:
        _check_trained_head(config, name, num_labels)
        config.num_labels = num_labels
        config.problem_type = "regression" if task == "regression" else "single_label_classification"
    image_processor = _load_image_processor(name, options) if reads_images else None
    processor = load_processor(name, config, options) if both else None
    tokenizer = None if reads_images else getattr(processor, "tokenizer", None) or _load_tokenizer(name, options)
    config.use_cache = config.get_text_config().use_cache = False  # of keys and values, for generating text
    torch_device = pick_device(device)
    torch_dtype = pick_dtype(dtype, torch_device)
    placed, scratch = {}, None
    if Path(name).exists():
        check_index(Path(name))
    empty = _empty(name, config, loaded_as(config, task), trust_remote_code)
    _check_size(name, empty)
    if quantised or device in ("auto", DISK):
        head = find_head(empty) if task not in LANGUAGE_TASKS else ()
        options["quantization_config"] = quantisation(quantised, torch_dtype, head)
        itemsize = QUANTISED[quantised] / 8 if quantised else torch_dtype.itemsize
        blocks = block_names(find_targets(empty, head))
        placed = device_map(device, torch_device, empty, blocks, itemsize, bool(quantised))
        scratch = offload_folder(placed)
        options |= placed | ({"offload_folder": scratch.name} if scratch else {})
    needed = f"Needed: a folder with config.json, *.safetensors and {'image processor' if reads_images else 'tokenizer'} files."
    hint = needed if Path(name).exists() else hub_hint
    with loading(f"{name}: cannot be loaded as a {task} model", hint), quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, info = auto_class(config, loaded_as(config, task)).from_pretrained(
                name, config=config, dtype=torch_dtype, use_safetensors=True, output_loading_info=True, **options
            )
        except RuntimeError as error:  # transformers names the tensors in a log only
            found = misfit(Path(name), empty) if Path(name).exists() else None
            if found is None and "ignore_mismatched_sizes" in str(error):
                found = "tensors of the *.safetensors files have other shapes than the model of config.json"
            if found is None:
                raise
            raise BadInput(f"{name}: {found}.", "Give the config.json that belongs to these weights.") from error
    model.requires_grad_(False).eval()
    keep_unpacked(model)
    open_experts(model)
    if not placed:
        model.to(torch_device)
    where = _places(model) if placed else f"on {torch_device}"
    notes = [
        f"{type(model).__name__}, {torch_dtype}{f', {quantised} weights' if quantised else ''}, {where}".replace("torch.", ""),
        *([f"Its weights are stored as {stored}, and plain numbers were made of them."] if stored else ()),
        *other_class(config, task),
    ]
    if tokenizer is not None:
        notes += _settle_padding(name, tokenizer, model)
    head = find_head(model) if task not in LANGUAGE_TASKS else ()
    reader = processor or image_processor or tokenizer
    targets, left_out = _called(name, model, find_targets(model, head), reader)
    targets, apart = adapted(model, targets, adapt)
    notes += [*experts_notes(model, targets), *left_out_notes(model, head), *left_out, *apart, *_stacks(targets)]
    missing = sorted(info["missing_keys"])
    new_head = [k for k in missing if k.startswith(head)] if head else []
    frozen_new = [k for k in missing if k not in new_head and not k.endswith("lm_head.weight")]
    _check_blocks(name, model, frozen_new)
    warnings = random_parts(frozen_new, head)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        task=task,
        targets=targets,
        head=head,
        head_is_new=bool(new_head),
        name=name,
        revision=getattr(config, "_commit_hash", None),
        fingerprint=model_fingerprint(name, getattr(config, "_commit_hash", None), quantised),
        image_processor=image_processor,
        processor=processor,
        stored=stored,
        notes=tuple(notes),
        warnings=tuple(warnings),
        scratch=scratch,
    )


def _check_task(config: Any, name: str, task: str) -> None:
    """Raises:
    BadInput: the model does not do the task, its class or its weights cannot be read, or its folder holds an adapter too.
    """
    if task != language_task_of(config) and (task in LANGUAGE_TASKS or config.is_encoder_decoder):
        kind = "an encoder-decoder" if config.is_encoder_decoder else "no encoder-decoder"
        labels = "" if task in LANGUAGE_TASKS else " with --label-column to learn the labels as texts, or another model"
        raise BadInput(
            f"{name}: {config.model_type} is {kind}, so {task} is not its task.",
            f"Use --task {language_task_of(config)}{labels}.",
        )
    if of_images(config) and task in LANGUAGE_TASKS:
        raise BadInput(f"{name}: {config.model_type} reads images, so {task} is not its task.", "Use --task classification.")
    check_class(config, task, name)
    if (Path(name) / "adapter_config.json").exists():
        raise BadInput(
            f"{name}: it also holds adapter_config.json, and transformers would apply that adapter to the model.",
            "If it is merged already, move the adapter's files elsewhere; if not, merge it first.",
        )


def _called(name: str, model: Any, targets: tuple[Target, ...], reader: Any) -> tuple[tuple[Target, ...], list[str]]:
    """The targets that a forward pass calls, and a sentence on the others; LoRA has no effect on these.

    Raises:
        BadInput: the pass fails.
    """
    with loading(f"{name}: a pass over a short text or blank image fails", "Check the model's files with transformers itself."):
        found = called(model, targets, _short_input(model, reader))
    names = {t.name for t in found}
    if not (idle := [t.name for t in targets if t.name not in names]):
        return found, []
    why = "whose weights are read without calling them, where LoRA has no effect"
    note = f"Left out: {len(idle)} modules {why}: {kinds(idle)}."
    return found, [note]


def meta_model(
    name: str, task: str, *, num_labels: int | None = 1, revision: str | None = None, trust_remote_code: bool = False
) -> nn.Module:
    """The same architecture as :func:`load_model` gives, on the meta device: no weights, no memory.

    Args:
        task: or a key of ``config.AUTO_CLASSES``. num_labels: classes; None leaves what the model's config says. revision: of a
            hub model.

    Raises:
        BadInput: no usable config at ``name``, or its family has no model for the task.
    """
    config = load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    if task not in LANGUAGE_TASKS and num_labels is not None:
        config.num_labels = num_labels
    return _empty(name, config, task, trust_remote_code)


def _empty(name: str, config: Any, task: str, trust_remote_code: bool) -> nn.Module:
    auto = auto_class(config, task)
    if type(config) not in auto._model_mapping and auto.__name__ not in (getattr(config, "auto_map", None) or {}):
        raise BadInput(f"{name}: transformers has no {task} model of the family {config.model_type}.", "Check the task.")
    with loading(f"{name}: no {task} model can be built from its config.json", "Check its fields, and the task."):
        try:
            with torch.device("meta"), quiet():
                model: nn.Module = auto.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
        except LookupError as error:  # names the value only
            values = fields(config.to_dict())
            field = next((f for f, value in values if error.args and isinstance(value, str) and value == error.args[0]), None)
            if field is None:
                raise
            raise BadInput(f"{name}: config.json: {field} is {error.args[0]!r}, which is not known.", "Correct it.") from error
    return model


def _check_size(name: str, empty: nn.Module) -> None:
    """Raises:
    BadInput: config.json describes a far larger model than the weights beside it.
    """
    if Path(name).exists():
        described, stored = sum(p.numel() for p in empty.parameters()), stored_weights(Path(name))
        if described > MOST_TIMES * stored + SLACK:
            raise BadInput(
                f"{name}: config.json describes {described:,} weights, and the *.safetensors files hold {stored:,}.",
                "Give the config.json that belongs to these weights.",
            )


def _check_blocks(name: str, model: nn.Module, missing: list[str]) -> None:
    """Raises:
    BadInput: whole blocks have no weights in the checkpoint.
    """
    weights: dict[str, list[str]] = {}
    for key, _ in model.named_parameters():
        if place := block_of(key):
            weights.setdefault(f"{place[0]}.{place[1]}", []).append(key)
    without = [block for block, keys in weights.items() if set(keys) <= set(missing)]
    if without:
        raise BadInput(
            f"{name}: {len(without)} of the {len(weights)} blocks in config.json have no weights in the *.safetensors files "
            f"(first: {without[0]}).",
            "Give the config.json that belongs to these weights, or all files of them.",
        )


def _short_input(model: Any, reader: Any) -> dict[str, torch.Tensor]:
    """A batch of one short text or blank image, or both, as its tokenizer or processor makes it."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    if isinstance(reader, transformers.ProcessorMixin):
        made = short_input(reader, blank_image(model.config))
        return {key: t.to(device_of(model), dtype if t.is_floating_point() else None) for key, t in made.items()}
    if not isinstance(reader, transformers.PreTrainedTokenizerBase):
        return {"pixel_values": image_batch([blank_image(model.config)], reader).to(device_of(model), dtype)}
    encoded = reader("a b", return_tensors="pt")
    batch = {
        key: encoded[key].to(device_of(model)) for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded
    }
    if model.config.is_encoder_decoder and model.get_output_embeddings() is not None:
        batch["decoder_input_ids"] = batch["input_ids"]
    return batch


def _places(model: Any) -> str:
    """In words, where accelerate put the weights."""
    shares: dict[str, int] = {}
    for part, place in model.hf_device_map.items():
        size = sum(p.numel() for p in (model.get_submodule(part) if part else model).parameters())
        shares[str(place)] = shares.get(str(place), 0) + size
    total = sum(shares.values())
    return "weights on " + ", ".join(f"{place} ({size / total:.0%})" for place, size in shares.items())


def _load_tokenizer(name: str, options: dict[str, Any]) -> Any:
    hint = "Check the tokenizer's files." if Path(name).exists() else hub_hint
    with loading(f"{name}: its tokenizer cannot be loaded", hint), quiet():
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, **options)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up without any file
            raise BadInput(f"{name}: its tokenizer has no vocabulary.", "Add the tokenizer's files.")
        float(tokenizer.model_max_length)
    return tokenizer


def _load_image_processor(name: str, options: dict[str, Any]) -> Any:
    with loading(f"{name}: its image processor cannot be loaded", "Check its preprocessor_config.json."), quiet():
        return transformers.AutoImageProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]


def embedded_tokens(model: Any) -> int | None:
    """How many tokens the model embeds; None where it cannot be told."""
    weight = getattr(input_embeddings(model)[0], "weight", None)
    return None if weight is None else int(weight.shape[0])


def _settle_padding(name: str, tokenizer: Any, model: Any) -> list[str]:
    """Let tokenizer and config agree on a padding token that the model embeds; a sentence where they did not.

    Raises:
        BadInput: the tokenizer has no token for it.
    """
    notes, config = [], model.config
    rows = embedded_tokens(model)
    if rows is not None and tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        notes.append(f"The padding token {tokenizer.pad_token!r} is beyond the {rows:,} tokens that the model embeds: not used.")
        tokenizer.pad_token = None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise BadInput(f"{name}: the tokenizer has neither a padding nor an end token.", "Add one to its files.")
    if getattr(config, "pad_token_id", None) not in (None, tokenizer.pad_token_id):  # a classifier would read a row's padding
        notes.append(
            f"Padding is token {tokenizer.pad_token_id}, as the tokenizer has it, not {config.pad_token_id}, as the "
            "config has it. Train with the same."
        )
    config.pad_token_id = tokenizer.pad_token_id
    return notes


def _check_trained_head(config: Any, name: str, num_labels: int) -> None:
    trained = any(a.endswith(("ForSequenceClassification", "ForImageClassification")) for a in config.architectures or ())
    if trained and config.num_labels != num_labels:
        raise BadInput(
            f"{name}: its trained head has {config.num_labels} outputs, the data needs {num_labels}.",
            "Use the base model, or data with the labels that head was trained for.",
        )
