"""Load a Hugging Face model for a task and find the modules LoRA can adapt."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from advisor.core.choices import LANGUAGE, VISION
from advisor.core.errors import BadInput, lacks_memory, loading
from advisor.core.recipe import HEADLESS
from advisor.core.targets import Target, left_out_notes
from advisor.core.tasks import EMBEDDING, OF_TOKENS, TASKS
from advisor.data.hub import hub_hint
from advisor.data.images import blank_image, image_batch
from advisor.models.checkpoint import check_index, check_size, fields, misfit
from advisor.models.config import (
    BOTH,
    auto_class,
    check_task,
    check_trained_head,
    load_config,
    loaded_as,
    of_images,
    other_class,
    plain_weights,
    quiet,
)
from advisor.models.embedding import POOLINGS, Embedder, embedder_of
from advisor.models.experts import called_module, open_experts
from advisor.models.identity import model_fingerprint
from advisor.models.left_out import check_blocks, check_left_out, check_tokens, new_weights
from advisor.models.modules import (
    QV_NAMES,
    adapted,
    block_names,
    called,
    experts_notes,
    find_head,
    find_targets,
    not_taken_notes,
    profile_of,
    random_parts,
    stacks_notes,
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
    stored_dtype,
)
from advisor.models.readers import beyond_rounding, check_direction, check_start, load_readers, settle_padding, short_batch

NO_LIMIT = 1_000_000  # tokens, where neither model nor tokenizer has a limit
PADDED = 16  # tokens of padding that show whether they change what stands before them


@dataclass
class LoadedModel:
    """A frozen model in eval mode with what the advisor knows about it.

    Attributes:
        model: a transformers model, all parameters frozen.
        tokenizer: its tokenizer, with a padding token; None for a model of images alone.
        task: one of ``recipe.TASKS``.
        targets: the adaptable modules, in model order.
        head: names of the modules PEFT trains in full besides LoRA (``modules_to_save``); empty where there are none.
        head_is_new: the checkpoint has no trained weights for the head. head_is_fitted: it now holds a linear probe's.
        name: folder or hub id, as given.
        revision: the hub revision, None for a folder.
        fingerprint: hash of its files, see :func:`advisor.models.identity.model_fingerprint`.
        image_processor: transformers' own of a model of images alone, else None.
        processor: transformers' own of a model of images and text, else None.
        embedder: how texts are embedded; None where they are not.
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
    embedder: Embedder | None = None
    head_is_fitted: bool = False
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
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

    @cached_property
    def rows_apart(self) -> bool:
        """Whether each text must be read alone, so that it does not depend on its batch: padding behind it changes what the model
        makes of it, as some mix tokens without a mask (convolutions, Fourier transforms) and some read the last place; or
        modules have tokens in the place of rows (XLNet)."""
        if self.reads != "text":
            return False
        alone = short_batch(self.model, self.tokenizer)
        alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        fills = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
        beside = {key: functional.pad(t, (0, PADDED), value=fills[key]) if key in fills else t for key, t in alone.items()}
        shapes: list[torch.Size] = []
        modules = [called_module(self.model, target.name) for target in self.targets]
        handles = [m.register_forward_hook(lambda m, inputs, output: shapes.append(inputs[0].shape)) for m in modules]
        try:
            with torch.no_grad():
                plain, padded = (self.model(**batch)[0].double() for batch in (alone, beside))
        except Exception:
            return True  # which is right for every model; the pass over the rows says what is wrong
        finally:
            for handle in handles:
                handle.remove()
        apart = plain - padded[tuple(map(slice, plain.shape))]
        changed = bool(apart.abs().max() > beyond_rounding(self.model) * plain.abs().max())
        return changed or any(len(shape) > 2 and shape[0] != 1 for shape in shapes)

    @cached_property
    def runs_in_bf16(self) -> bool:
        """Whether it runs under bfloat16 autocast. DeBERTa's first version does not: it fills with float32's smallest number."""
        batch = short_batch(self.model, self.processor or self.image_processor or self.tokenizer)
        try:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                self.model(**batch)
        except Exception as error:
            return lacks_memory(error)  # then a pass that is asked for says so
        return True

    def try_out(self) -> None:
        """Read a short text now for what is asked of the model later, inside hooks and with adapters, which would disturb it."""
        for name in ("rows_apart", "runs_in_bf16"):
            getattr(self, name)

    def at_once(self, rows: int) -> int:
        """How many rows a pass may read together, where memory has room for ``rows``."""
        return 1 if self.rows_apart else rows

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
        limit = getattr(config, "max_position_embeddings", None) or NO_LIMIT
        limit = NO_LIMIT if limit == -1 else limit  # which XLNet says
        for name, table in self.model.named_modules():
            if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
                limit = table.num_embeddings - table.padding_idx - 1  # RoBERTa and its kin number positions from there
        return int(min(limit, self.tokenizer.model_max_length))

    def qv_roles(self) -> tuple[str, ...]:
        """The roles that stand for "q,v" in this family; without a profile, those that usually mean it.

        Raises:
            BadInput: the family's profile is damaged.
        """
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
        dtype: ``auto``: see :func:`advisor.models.placement.pick_dtype`.
        quantised: ``4bit`` or ``8bit``, by bitsandbytes.
        adapt: of a model of images and text, which parts have targets: one of ``choices.PARTS``.
        seed: draws the weights of a new head.

    Raises:
        BadInput: the folder or id cannot be loaded as such a model, its family does not do the task, or its trained head
            has other labels.
        OutOfMemory: it does not fit in memory.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    config, stored = _config_for(name, task, num_labels, quantised, adapt, options)
    readers = load_readers(name, task, config, options)
    torch_device = pick_device(device)
    torch_dtype = pick_dtype(dtype, torch_device, stored_dtype(config))
    if Path(name).exists():
        check_index(Path(name))
    empty = _empty(name, config, loaded_as(config, task), trust_remote_code)
    check_size(name, empty)
    scratch = None
    if quantised or device in ("auto", DISK):
        head = find_head(empty) if task not in HEADLESS else ()
        placed, scratch = _placed(device, torch_device, torch_dtype, quantised, empty, head)
        options |= placed
    model, missing, unused = _with_weights(name, task, config, empty, {"dtype": torch_dtype, **options}, seed)
    if "device_map" in options:
        where = _places(model)
    else:
        where = f"on {torch_device}"
        model.to(torch_device)
    notes = [
        f"{type(model).__name__}, {torch_dtype}{f', {quantised} weights' if quantised else ''}, {where}".replace("torch.", ""),
        *([f"Its weights are stored as {stored}, and plain numbers were made of them."] if stored else ()),
        *other_class(config, task),
    ]
    embedder = embedder_of(name, options) if task == EMBEDDING else None
    if embedder is not None:
        pooling = embedder.pooling
        notes += [f"A text's embedding is {POOLINGS[pooling]} ({pooling} pooling); train with the same.", *embedder.notes]
    if readers.tokenizer is not None:
        notes += settle_padding(name, readers.tokenizer, model)
        check_start(name, model)
    head = find_head(model) if task not in HEADLESS else ()
    targets, uncalled = _called(name, model, find_targets(model, head), readers.first)
    if TASKS[task].task_type == "CAUSAL_LM" and readers.processor is None:
        check_direction(name, model, readers.tokenizer, task)
    targets, apart = adapted(model, targets, adapt)
    stacks, unseen = experts_notes(model, targets)
    left_out = [*unseen, *not_taken_notes(model, head), *uncalled, *apart]
    notes += [*stacks, *left_out, *stacks_notes(targets)]
    if embedder is not None:
        left_out += embedder.left_out
    new_head = [k for k in missing if k.startswith(head)] if head else []
    frozen_new = [k for k in new_weights(model, missing) if k not in new_head]
    check_blocks(name, model, frozen_new)
    if readers.tokenizer is not None:
        check_tokens(name, model, frozen_new)
    left = check_left_out(name, model, missing, unused)
    loaded = LoadedModel(
        model=model,
        tokenizer=readers.tokenizer,
        task=task,
        targets=targets,
        head=head,
        head_is_new=bool(new_head),
        name=name,
        revision=getattr(config, "_commit_hash", None),
        fingerprint=model_fingerprint(name, getattr(config, "_commit_hash", None), quantised),
        image_processor=readers.image_processor,
        processor=readers.processor,
        stored=stored,
        embedder=embedder,
        notes=tuple(notes),
        left_out=tuple(left_out),
        warnings=(*random_parts(frozen_new, head), *left),
        scratch=scratch,
    )
    loaded.try_out()
    return loaded


def _config_for(
    name: str, task: str, num_labels: int, quantised: str | None, adapt: str, options: dict[str, Any]
) -> tuple[Any, str | None]:
    """The config as it is loaded for ``task``, and how the checkpoint has the weights where they are dequantised on loading.

    Raises:
        BadInput: it cannot be read, or the model cannot be used for the task, in this way.
    """
    config = load_config(name, options)
    check_task(config, name, task)
    stored = plain_weights(config, name, quantised)
    if adapt == VISION and loaded_as(config, task) != BOTH:
        raise BadInput(f"--adapt {adapt}: {name} is no model of images and text.", "Leave it out.")
    if task not in HEADLESS:
        check_trained_head(config, name, num_labels)
        config.num_labels = num_labels
        if task not in OF_TOKENS:
            config.problem_type = "regression" if task == "regression" else "single_label_classification"
    config.use_cache = config.get_text_config().use_cache = False  # of keys and values, for generating text
    config.return_dict = config.get_text_config().return_dict = True  # outputs are taken by name
    return config, stored


def _placed(
    device: str, used: torch.device, dtype: torch.dtype, quantised: str | None, empty: nn.Module, head: tuple[str, ...]
) -> tuple[dict[str, Any], Any]:
    """Arguments of ``from_pretrained`` that quantise the weights and lay them where there is room, and the folder that some lie
    in, which is removed with its object.

    Raises:
        BadInput: bitsandbytes is missing, or the model has no blocks to leave on the disk.
    """
    itemsize = QUANTISED[quantised] / 8 if quantised else dtype.itemsize
    quantising = {"quantization_config": quantisation(quantised, dtype, head)}
    placed = device_map(device, used, empty, block_names(find_targets(empty, head)), itemsize, bool(quantised))
    scratch = offload_folder(placed)
    return quantising | placed | ({"offload_folder": scratch.name} if scratch else {}), scratch


def _with_weights(
    name: str, task: str, config: Any, empty: nn.Module, options: dict[str, Any], seed: int
) -> tuple[Any, list[str], set[str]]:
    """The model, frozen and in eval mode, the names of the tensors that its checkpoint does not have, and of those that are in
    it and not used.

    Raises:
        BadInput: transformers cannot load it; names the tensor where it is one.
    """
    reader = "image processor" if of_images(config) else "tokenizer"
    needed = f"Needed: a folder with config.json, *.safetensors and {reader} files."
    hint = needed if Path(name).exists() else hub_hint
    with loading(f"{name}: cannot be loaded as a {task} model", hint), quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, info = auto_class(config, loaded_as(config, task)).from_pretrained(
                name, config=config, use_safetensors=True, output_loading_info=True, **options
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
    return model, sorted(info["missing_keys"]), info["unexpected_keys"]


def _called(name: str, model: Any, targets: tuple[Target, ...], reader: Any) -> tuple[tuple[Target, ...], list[str]]:
    """The targets that a forward pass calls as linear modules, and sentences on the others.

    Raises:
        BadInput: the pass fails.
    """
    with loading(f"{name}: a pass over a short text or blank image fails", "Check the model's files with transformers itself."):
        found, others = called(model, targets, short_batch(model, reader))
    return found, left_out_notes(others)


def meta_model(
    name: str, task: str, *, num_labels: int | None = 1, revision: str | None = None, trust_remote_code: bool = False
) -> nn.Module:
    """The same architecture as :func:`load_model` gives, on the meta device: no weights, no memory.

    Args:
        task: or a key of ``config.AUTO_CLASSES``. num_labels: classes; None leaves what the model's config says. revision: of a
            hub model.

    Raises:
        BadInput: no usable config at ``name``, or its family has no model for the task.
        OutOfMemory: there is not enough memory for the architecture.
    """
    config = load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    if task not in HEADLESS and num_labels is not None:
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


def _places(model: Any) -> str:
    """In words, where accelerate put the weights."""
    shares: dict[str, int] = {}
    for part, place in model.hf_device_map.items():
        size = sum(p.numel() for p in (model.get_submodule(part) if part else model).parameters())
        shares[str(place)] = shares.get(str(place), 0) + size
    total = sum(shares.values())
    return "weights on " + ", ".join(f"{place} ({size / total:.0%})" for place, size in shares.items())
