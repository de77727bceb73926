"""Load a Hugging Face model for a task and find the modules LoRA can adapt."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from advisor.core.errors import BadInput
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.targets import Target
from advisor.data.hub import hub_hint
from advisor.data.images import blank_image, image_batch
from advisor.models.identity import model_fingerprint
from advisor.models.modules import (
    QV_NAMES,
    _stacks,
    block_names,
    experts_left_out,
    family_profile,
    find_head,
    find_targets,
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

IMAGE_CLASS = "AutoModelForImageClassification"
AUTO_CLASSES = {  # the first one that knows the config's family
    "classification": ("AutoModelForSequenceClassification", IMAGE_CLASS),
    "regression": ("AutoModelForSequenceClassification", IMAGE_CLASS),
    "causal-lm": ("AutoModelForCausalLM",),
    "seq2seq": ("AutoModelForSeq2SeqLM",),
    # What PEFT adapts besides, and the advisor only verifies.
    "images-and-text": ("AutoModelForImageTextToText",),
    "features": ("AutoModel",),
    "token-classification": ("AutoModelForTokenClassification",),
    "question-answering": ("AutoModelForQuestionAnswering",),
}


@dataclass
class LoadedModel:
    """A frozen model in eval mode with what the advisor knows about it.

    Attributes:
        model: a transformers model, all parameters frozen.
        tokenizer: its tokenizer, with a padding token; None for a model of images.
        task: one of ``recipe.TASKS``.
        targets: the adaptable modules, in model order.
        head: names of the modules PEFT trains in full besides LoRA (``modules_to_save``); empty for a language model.
        head_is_new: the checkpoint has no trained weights for the head. head_is_fitted: it now holds a linear probe's.
        name: folder or hub id, as given.
        revision: the hub revision, None for a folder.
        fingerprint: hash of its files, see :func:`advisor.models.identity.model_fingerprint`.
        image_processor: transformers' own of a model of images, else None.
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
        """``text`` or ``images``."""
        return "text" if self.image_processor is None else "images"

    @cached_property
    def image_tokens(self) -> int:
        """Tokens that the first target sees of an image: patches, and a class token where there is one."""
        first, seen = self.targets[0], [0]
        handle = self.model.get_submodule(first.name).register_forward_hook(
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
        config = self.model.config
        limit = getattr(config, "max_position_embeddings", None) or 1_000_000
        if config.model_type in ("roberta", "xlm-roberta"):
            limit -= config.pad_token_id + 1  # RoBERTa numbers positions from pad_token_id + 1
        return int(min(limit, self.tokenizer.model_max_length))

    def qv_roles(self) -> tuple[str, ...]:
        """The roles that stand for "q,v" in this family; without a profile, those that usually mean it."""
        profile = family_profile(self.model.config.model_type)
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
    seed: int = 0,
) -> LoadedModel:
    """Load ``name`` (a local folder or a hub id) with the right head for ``task``.

    Args:
        num_labels: classes (1 for regression; unused for a language model).
        device: ``auto`` takes CUDA when there is one, and spreads what does not fit over other GPUs, memory and disk;
            ``disk`` leaves all blocks there.
        dtype: ``auto`` is bfloat16 on CUDA and float32 on CPU.
        quantised: ``4bit`` or ``8bit``, by bitsandbytes.
        seed: draws the weights of a new head.

    Raises:
        BadInput: the folder or id cannot be loaded as such a model, its family does not do the task, or its trained head
            has other labels.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    config = _load_config(name, options)
    if task != _language_task(config) and (task in LANGUAGE_TASKS or config.is_encoder_decoder):
        kind = "an encoder-decoder" if config.is_encoder_decoder else "no encoder-decoder"
        labels = "" if task in LANGUAGE_TASKS else " with --label-column to learn the labels as texts, or another model"
        raise BadInput(
            f"{name}: {config.model_type} is {kind}, so {task} is not its task.", f"Use --task {_language_task(config)}{labels}."
        )
    of_images = _of_images(config)
    if of_images and task in LANGUAGE_TASKS:
        raise BadInput(f"{name}: {config.model_type} reads images, so {task} is not its task.", "Use --task classification.")
    auto_class = _auto_class(config, task)
    if task not in LANGUAGE_TASKS:
        _check_trained_head(config, name, num_labels)
        config.num_labels = num_labels
        config.problem_type = "regression" if task == "regression" else "single_label_classification"
    image_processor = _load_image_processor(name, options) if of_images else None
    tokenizer = None if of_images else _load_tokenizer(name, options)
    config.use_cache = False  # of keys and values, for generating text
    torch_device = pick_device(device)
    torch_dtype = pick_dtype(dtype, torch_device)
    placed, scratch = {}, None
    if quantised or device in ("auto", DISK):
        empty = _empty(name, config, task, trust_remote_code)
        head = find_head(empty) if task not in LANGUAGE_TASKS else ()
        options["quantization_config"] = quantisation(quantised, torch_dtype, head)
        itemsize = QUANTISED[quantised] / 8 if quantised else torch_dtype.itemsize
        blocks = block_names(find_targets(empty, head))
        placed = device_map(device, torch_device, empty, blocks, itemsize, bool(quantised))
        scratch = offload_folder(placed)
        options |= placed | ({"offload_folder": scratch.name} if scratch else {})
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, info = auto_class.from_pretrained(
                name, config=config, dtype=torch_dtype, use_safetensors=True, output_loading_info=True, **options
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise BadInput(
                f"{name}: cannot be loaded as a {task} model: {_first_line(error)}",
                f"Needed: a folder with config.json, *.safetensors and {'image processor' if of_images else 'tokenizer'} files, "
                "or a hub id."
                if Path(name).exists()
                else hub_hint(error),
            ) from error
    model.requires_grad_(False).eval()
    keep_unpacked(model)
    if not placed:
        model.to(torch_device)
    where = _places(model) if placed else f"on {torch_device}"
    notes = [
        f"{type(model).__name__}, {torch_dtype}{f', {quantised} weights' if quantised else ''}, {where}".replace("torch.", ""),
        *experts_left_out(model),
        *_other_class(config, task),
    ]
    if tokenizer is not None:
        notes += _settle_padding(name, tokenizer, model.config)
    head = find_head(model) if task not in LANGUAGE_TASKS else ()
    targets = find_targets(model, head)
    notes += _stacks(targets)
    missing = sorted(info["missing_keys"])
    new_head = [k for k in missing if k.startswith(head)] if head else []
    frozen_new = [k for k in missing if k not in new_head and not k.endswith("lm_head.weight")]
    warnings = []
    if frozen_new:
        warnings.append(
            f"{len(frozen_new)} tensors outside the head are not in the checkpoint and stay at random values "
            f"(first: {frozen_new[0]})."
        )
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
        notes=tuple(notes),
        warnings=tuple(warnings),
        scratch=scratch,
    )


def language_task(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """What a model is trained on that predicts tokens: ``seq2seq`` for an encoder-decoder, else ``causal-lm``.

    Raises:
        BadInput: no usable config at ``name``.
    """
    return _language_task(_load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision}))


def only_task(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str | None:
    """``classification`` for a model of images, which PEFT has no ``task_type`` for; None where there is a choice.

    Raises:
        BadInput: no usable config at ``name``.
    """
    config = _load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    return "classification" if _of_images(config) else None


def _of_images(config: Any) -> bool:
    return _auto_class(config, "classification") is getattr(transformers, IMAGE_CLASS)


def _language_task(config: Any) -> str:
    return "seq2seq" if config.is_encoder_decoder else "causal-lm"


def _auto_class(config: Any, task: str) -> Any:
    """The first auto class of the task that knows the config's family; of none (a family's own code), the first."""
    classes = [getattr(transformers, name) for name in AUTO_CLASSES[task]]
    return next((c for c in classes if type(config) in c._model_mapping), classes[0])


def trained_as(name: str, task: str, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[str, ...]:
    """Keys of ``AUTO_CLASSES`` that trainers may load for ``task``, the likeliest first; two have other names of modules.

    Trainers load the class that the config names. Of a model of images and text this is not the class for text alone,
    which scripts may load.

    Raises:
        BadInput: no usable config at ``name``.
    """
    config = _load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    both = "images-and-text"
    if task != "causal-lm" or type(config) not in getattr(transformers, AUTO_CLASSES[both][0])._model_mapping:
        return (task,)
    classes = {key: _class_name(config, key) for key in (both, task)}
    if classes[task] in (None, classes[both]):
        return (both,)
    return (task, both) if classes[task] in (config.architectures or ()) else (both, task)


def task_of_class(name: str, class_name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str | None:
    """The key of ``AUTO_CLASSES`` that gives a class of transformers for the model at ``name``; None: none does."""
    config = _load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    return next((key for key in AUTO_CLASSES if _class_name(config, key) == class_name), None)


def _other_class(config: Any, task: str) -> list[str]:
    """A sentence on a model of images and text that is taken as one of text alone; empty of any other."""
    both, own = (_class_name(config, key) for key in ("images-and-text", task))
    if task != "causal-lm" or both in (None, own):
        return []
    return [
        f"Its config also stands for {both}, of images and text, which trainers such as TRL and LLaMA-Factory load and whose "
        f"modules may have other names than those of {own}: train with {own}, or check the file with `advisor verify`."
    ]


def _class_name(config: Any, key: str) -> str | None:
    """The class that an auto class gives for a config."""
    auto = _auto_class(config, key)
    return auto._model_mapping[type(config)].__name__ if type(config) in auto._model_mapping else None


def meta_model(
    name: str, task: str, *, num_labels: int | None = 1, revision: str | None = None, trust_remote_code: bool = False
) -> nn.Module:
    """The same architecture as :func:`load_model` gives, on the meta device: no weights, no memory.

    Args:
        num_labels: classes; None leaves what the model's config says. revision: of a hub model.

    Raises:
        BadInput: no usable config at ``name``, or its family has no model for the task.
    """
    config = _load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    if task not in LANGUAGE_TASKS and num_labels is not None:
        config.num_labels = num_labels
    return _empty(name, config, task, trust_remote_code)


def _empty(name: str, config: Any, task: str, trust_remote_code: bool) -> nn.Module:
    try:
        with torch.device("meta"), _quiet():
            model: nn.Module = _auto_class(config, task).from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{name}: it has no {task} model: {_first_line(error)}", "Check the task.") from error
    return model


def _places(model: Any) -> str:
    """In words, where accelerate put the weights."""
    shares: dict[str, int] = {}
    for part, place in model.hf_device_map.items():
        size = sum(p.numel() for p in (model.get_submodule(part) if part else model).parameters())
        shares[str(place)] = shares.get(str(place), 0) + size
    total = sum(shares.values())
    return "weights on " + ", ".join(f"{place} ({size / total:.0%})" for place, size in shares.items())


def _load_config(name: str, options: dict[str, Any]) -> Any:
    path = Path(name)
    if path.exists():
        if not (path / "config.json").is_file():
            raise BadInput(f"{name}: no config.json there, so it is not a model folder.", "Give the model's folder.")
        if not any(path.glob("*.safetensors")):
            raise BadInput(f"{name}: no *.safetensors file there.", "Save the model with safe_serialization=True (safetensors).")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BadInput(f"{name}: no such folder.", "Give a model folder or a hub id such as org/name.")
    try:
        with _quiet():
            return transformers.AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise BadInput(
            f"{name}: its config cannot be read: {_first_line(error)}",
            "Check the folder's config.json." if path.exists() else hub_hint(error),
        ) from error


def _load_tokenizer(name: str, options: dict[str, Any]) -> Any:
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "Add the files." if Path(name).exists() else hub_hint(error)
        raise BadInput(f"{name}: its tokenizer cannot be loaded: {_first_line(error)}", hint) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up without any file
        raise BadInput(f"{name}: its tokenizer has no vocabulary.", "Add the tokenizer's files.")
    return tokenizer


def _load_image_processor(name: str, options: dict[str, Any]) -> Any:
    try:
        with _quiet():
            return transformers.AutoImageProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise BadInput(
            f"{name}: its image processor cannot be loaded: {_first_line(error)}", "Add its preprocessor_config.json."
        ) from error


def _settle_padding(name: str, tokenizer: Any, config: Any) -> list[str]:
    """Let tokenizer and config agree on a padding token; a sentence where they did not.

    Raises:
        BadInput: the tokenizer has no token for it.
    """
    notes = []
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise BadInput(f"{name}: the tokenizer has neither a padding nor an end token.", "Add one to its files.")
    if config.pad_token_id not in (None, tokenizer.pad_token_id):  # a classifier would read a row's padding
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' load report and progress bars: the advisor says what matters itself."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    dispatch = getLogger("accelerate.big_modeling")  # says where weights went
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    dispatch.setLevel("ERROR")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        dispatch.setLevel("NOTSET")
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
