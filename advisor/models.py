"""Load a Hugging Face model for a task and find the modules LoRA can adapt."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from advisor.errors import BadInput
from advisor.placement import (
    DISK,
    QUANTISED,
    device_map,
    device_of,
    fetched,
    is_offloaded,
    offload_folder,
    pick_device,
    pick_dtype,
    quantisation,
    quantised_as,
)
from advisor.profiles import load_profiles
from advisor.targets import Target

AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
}
# What modules that stand for "q,v" are called in families without a profile; where all three are one, that one.
QV_NAMES = (
    *("query", "value", "q_proj", "v_proj", "query_proj", "value_proj", "q_lin", "v_lin", "q", "v"),
    *("query_key_value", "qkv_proj", "qkv", "Wqkv", "c_attn"),
)
EXPERTS = "experts"  # what transformers calls the module that holds them, often as 3-D parameters
# Never adapted in any family: sentence poolers, the routers of mixtures of experts, and the experts, most of which see no
# token of a given row.
NEVER_ADAPTED = ("pooler", "router", "gate", "shared_expert_gate", EXPERTS)


@dataclass
class LoadedModel:
    """A frozen model in eval mode with what the advisor knows about it.

    Attributes:
        model: a transformers model, all parameters frozen.
        tokenizer: its tokenizer, with a padding token.
        task: ``classification``, ``regression`` or ``causal-lm``.
        targets: the adaptable modules, in model order.
        head: names of the modules PEFT trains in full besides LoRA (``modules_to_save``); empty for a causal LM.
        head_is_new: the checkpoint has no trained weights for the head. head_is_fitted: it now holds a linear probe's.
        name: folder or hub id, as given.
        revision: the hub revision, None for a folder.
        fingerprint: hash of the pretrained weights (the head left out when it is new).
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
    def offloaded(self) -> bool:
        """Weights are fetched from memory or disk when they are used."""
        return is_offloaded(self.model)

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
        """Longest input in tokens, from the position table and the tokenizer."""
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
        num_labels: classes (1 for regression; unused for a causal LM).
        device: ``auto`` takes CUDA when there is one, and spreads what does not fit over other GPUs, memory and disk;
            ``disk`` leaves all blocks there.
        dtype: ``auto`` is bfloat16 on CUDA and float32 on CPU.
        quantised: ``4bit`` or ``8bit``, by bitsandbytes.
        seed: draws the weights of a new head.

    Raises:
        BadInput: the folder or id cannot be loaded as such a model, it is an encoder-decoder, or its trained head has
            other labels.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    config = _load_config(name, options)
    if config.is_encoder_decoder:  # two stacks, and outputs that depend on end tokens: nothing here is tested on them
        raise BadInput(f"{name}: {config.model_type} is an encoder-decoder.", "Use an encoder or a decoder, see docs/models.md.")
    if task != "causal-lm":
        _check_trained_head(config, name, num_labels)
        config.num_labels = num_labels
        config.problem_type = "regression" if task == "regression" else "single_label_classification"
    config.use_cache = False  # of keys and values, for generating text
    torch_device = pick_device(device)
    torch_dtype = pick_dtype(dtype, torch_device)
    placed, scratch = {}, None
    if quantised or device in ("auto", DISK):
        empty = _empty(name, config, task, trust_remote_code)
        head = find_head(empty) if task != "causal-lm" else ()
        options["quantization_config"] = quantisation(quantised, torch_dtype, head)
        itemsize = QUANTISED[quantised] / 8 if quantised else torch_dtype.itemsize
        blocks = block_names(find_targets(empty, head))
        placed = device_map(device, torch_device, empty, blocks, itemsize, bool(quantised))
        scratch = offload_folder(placed)
        options |= placed | ({"offload_folder": scratch.name} if scratch else {})
    tokenizer = _load_tokenizer(name, options)
    auto_class = getattr(transformers, AUTO_CLASSES[task])
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, info = auto_class.from_pretrained(
                name, config=config, dtype=torch_dtype, use_safetensors=True, output_loading_info=True, **options
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise BadInput(
                f"{name}: cannot be loaded as a {task} model: {_first_line(error)}",
                "Needed: a folder with config.json, *.safetensors and tokenizer files, or a hub id.",
            ) from error
    model.requires_grad_(False).eval()
    if not placed:
        model.to(torch_device)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise BadInput(f"{name}: the tokenizer has neither a padding nor an end token.", "Add one to its files.")
    where = _places(model) if placed else f"on {torch_device}"
    notes = [
        f"{type(model).__name__}, {torch_dtype}{f', {quantised} weights' if quantised else ''}, {where}".replace("torch.", ""),
        *experts_left_out(model),
    ]
    if model.config.pad_token_id not in (None, tokenizer.pad_token_id):  # a classifier would read a row's padding
        notes.append(
            f"Padding is token {tokenizer.pad_token_id}, as the tokenizer has it, not {model.config.pad_token_id}, as the "
            "config has it. Train with the same."
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    head = find_head(model) if task != "causal-lm" else ()
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
        targets=find_targets(model, head),
        head=head,
        head_is_new=bool(new_head),
        name=name,
        revision=getattr(config, "_commit_hash", None),
        fingerprint=weight_fingerprint(model, head if new_head else ()),
        notes=tuple(notes),
        warnings=tuple(warnings),
        scratch=scratch,
    )


def meta_model(
    name: str, task: str, *, num_labels: int | None = 1, trust_remote_code: bool = False
) -> nn.Module:
    """The same architecture as :func:`load_model` gives, on the meta device: no weights, no memory.

    Args:
        num_labels: classes; None leaves what the model's config says.

    Raises:
        BadInput: no usable config at ``name``, or its family has no model for the task.
    """
    config = _load_config(name, {"trust_remote_code": trust_remote_code})
    if task != "causal-lm" and num_labels is not None:
        config.num_labels = num_labels
    return _empty(name, config, task, trust_remote_code)


def _empty(name: str, config: Any, task: str, trust_remote_code: bool) -> nn.Module:
    try:
        with torch.device("meta"), _quiet():
            model: nn.Module = getattr(transformers, AUTO_CLASSES[task]).from_config(
                copy.deepcopy(config), trust_remote_code=trust_remote_code
            )
    except (ValueError, TypeError) as error:
        raise BadInput(f"{name}: it has no {task} model: {_first_line(error)}", "Check the task.") from error
    return model


def block_names(targets: Sequence[Target]) -> tuple[str, ...]:
    """The modules that hold each layer's targets, such as ``model.layers.0``."""
    inside = [t for t in targets if t.layer is not None]
    return tuple(dict.fromkeys(f"{t.name.split(f'.{t.layer}.', 1)[0]}.{t.layer}" for t in inside))


def _places(model: Any) -> str:
    """In words, where accelerate put the weights."""
    shares: dict[str, int] = {}
    for part, place in model.hf_device_map.items():
        size = sum(p.numel() for p in (model.get_submodule(part) if part else model).parameters())
        shares[str(place)] = shares.get(str(place), 0) + size
    total = sum(shares.values())
    return "weights on " + ", ".join(f"{place} ({size / total:.0%})" for place, size in shares.items())


def find_head(model: nn.Module) -> tuple[str, ...]:
    """The modules beside the base model that hold parameters: what a classifier trains in full."""
    base = model.base_model
    return tuple(
        name for name, child in model.named_children() if child is not base and any(True for _ in child.parameters())
    )


def experts_left_out(model: nn.Module) -> tuple[str, ...]:
    """A sentence on the experts of a mixture, which get no LoRA; empty where there are none."""
    weights = {name: p.numel() for name, p in model.named_parameters()}
    experts = {name: size for name, size in weights.items() if EXPERTS in name.split(".")}
    if not experts:
        return ()
    share = sum(experts.values()) / sum(weights.values())
    return (
        f"Mixture of experts: {len(experts)} expert weights ({share:.0%} of the parameters; first: {next(iter(experts))}) are "
        "not probed and get no LoRA. What is said is about the other modules only.",
    )


def find_targets(
    model: Any, head: tuple[str, ...], profile: dict[str, Any] | None = None
) -> tuple[Target, ...]:
    """What PEFT's ``all-linear`` wraps, less poolers, routers, experts and the head, in model order.

    ``profile`` stands in for the one of the model's family.

    Raises:
        BadInput: the model has none.
    """
    profile = profile or family_profile(model.config.model_type)
    never = NEVER_ADAPTED + tuple(profile["never"] if profile else ())
    output_embeddings = model.get_output_embeddings()
    targets = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or module is output_embeddings:
            continue
        parts = name.split(".")
        if any(name == h or name.startswith(h + ".") for h in head) or any(p in never for p in parts):
            continue
        layer, role, group = _place(name, profile)
        if isinstance(module, Conv1D):
            in_features, out_features, kind = module.weight.shape[0], module.weight.shape[1], "conv1d"
        else:
            in_features, out_features, kind = module.in_features, module.out_features, "linear"
        targets.append(Target(name, layer, role, group, in_features, out_features, kind))
    if not targets:
        raise BadInput(f"{type(model).__name__} has no linear module that LoRA could adapt.", "Use another model.")
    return tuple(targets)


def family_profile(model_type: str) -> dict[str, Any] | None:
    """The profile in ``profiles/models`` for a config's ``model_type``, None for an unlisted family."""
    return next((p for p in load_profiles("models").values() if model_type in p["model_types"]), None)


def weight_fingerprint(model: nn.Module, leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256 over every parameter's name, shape and up to 4,096 evenly spaced values."""
    digest = hashlib.sha256()
    # Tied weights are one parameter, but two where they are fetched.
    tied = getattr(model, "all_tied_weights_keys", {}) if is_offloaded(model) else {}
    for name, _ in model.named_parameters():
        if name in tied or (leave_out and name.startswith(leave_out)):
            continue
        owner, _, own = name.rpartition(".")
        with fetched(model.get_submodule(owner)) as module:
            parameter = getattr(module, own)
            flat = parameter.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 4096)].to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def _place(name: str, profile: dict[str, Any] | None) -> tuple[int | None, str, str]:
    """Layer index, role and group of a module from its name."""
    match = re.search(r"\.(\d+)\.", name)
    if match is None:
        return None, name.rsplit(".", 1)[-1], "other"
    layer, tail = int(match.group(1)), name[match.end() :]
    known = profile["roles"].get(tail) if profile else None
    if known:
        group, role = known.split("/")
        return layer, role, group
    if "attn" in tail or "attention" in tail:
        return layer, tail, "attention"
    return layer, tail, "mlp"


def _load_config(name: str, options: dict[str, Any]) -> Any:
    path = Path(name)
    if path.exists():
        if not (path / "config.json").is_file():
            raise BadInput(f"{name}: no config.json there, so it is not a model folder.", "Give the model's folder.")
        if not any(path.glob("*.safetensors")):
            raise BadInput(
                f"{name}: no *.safetensors file there.", "Save the model with safe_serialization=True (safetensors)."
            )
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BadInput(f"{name}: no such folder.", "Give a model folder or a hub id such as org/name.")
    try:
        with _quiet():
            return transformers.AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise BadInput(
            f"{name}: its config cannot be read: {_first_line(error)}",
            "Check the folder or hub id; hub models need a network or a local cache.",
        ) from error


def _load_tokenizer(name: str, options: dict[str, Any]) -> Any:
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{name}: its tokenizer cannot be loaded: {_first_line(error)}", "Add the files.") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up without any file
        raise BadInput(f"{name}: its tokenizer has no vocabulary.", "Add the tokenizer's files.")
    return tokenizer


def _check_trained_head(config: Any, name: str, num_labels: int) -> None:
    trained = any(a.endswith("ForSequenceClassification") for a in config.architectures or ())
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
