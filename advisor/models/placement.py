"""Where the weights of a model lie and in which numbers: device, type, quantisation, and what to do if they do not fit."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import transformers
from accelerate.utils import align_module_device
from torch import nn

from advisor.core.errors import BadInput, how_to_install

QUANTISED = {"4bit": 4, "8bit": 8}  # bits a weight
OPTIONS = {"4bit": "--load-in-4bit", "8bit": "--load-in-8bit"}
ROOM = 0.7  # the share of a device's free memory that weights may take; the rest is for activations
DISK = "disk"


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA when there is one, ``disk`` the same: where the weights that lie on the disk are used.

    Raises:
        BadInput: torch cannot use it.
    """
    if device in ("auto", DISK):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.zeros(1, device=picked).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"--device {device}: torch cannot use it here: {reason}", "Use auto, cpu, cuda or disk.") from error
    return picked


def pick_dtype(dtype: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """``auto`` is bfloat16 on CUDA, and of a checkpoint in bfloat16 on a CPU that computes in it; else float32.

    Args:
        stored: what the checkpoint's config says it is in, None where it does not.

    Raises:
        BadInput: there is no such type.
    """
    if dtype == "auto":
        native = device.type == "cpu" and stored == torch.bfloat16 and computes_in_bfloat16()
        return torch.bfloat16 if device.type == "cuda" or native else torch.float32
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in names:
        raise BadInput(f"--dtype {dtype}: unknown.", "Use auto, " + ", ".join(names) + ".")
    return names[dtype]


def computes_in_bfloat16() -> bool:
    """Whether the CPU has instructions for it; where it has none, float32 is faster."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every torch
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def stored_dtype(config: Any) -> torch.dtype | None:
    """What a model's config says its weights are stored in."""
    found = getattr(config, "dtype", None)
    return getattr(torch, found, None) if isinstance(found, str) else found


def quantisation(quantised: str | None, dtype: torch.dtype, head: Sequence[str]) -> Any:
    """The ``quantization_config`` for bitsandbytes, None for none: 4 bits as QLoRA has it (NF4, doubly quantised), 8 bits
    as LLM.int8.

    Args:
        dtype: of everything else, and of the products. head: modules that are trained in full, so they stay as they are.

    Raises:
        BadInput: bitsandbytes is missing.
    """
    if quantised is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(f"{OPTIONS[quantised]} needs bitsandbytes, which is not installed.", how_to_install("quant"))
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # warns at every product in 8 bits
    kept = list(head) or None  # None: transformers keeps the output embeddings
    config: Any = transformers.BitsAndBytesConfig
    if quantised == "8bit":
        return config(load_in_8bit=True, llm_int8_skip_modules=kept)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def device_map(
    device: str, used: torch.device, empty: nn.Module, blocks: Sequence[str], itemsize: float, quantised: bool
) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that lay the weights where there is room; empty: all of them on ``used``.

    ``auto`` does so where they take more than ``ROOM`` of what is free on ``used``: accelerate's ``device_map="auto"``
    fills all GPUs, then memory, then the disk. ``disk`` leaves every block on the disk.

    Args:
        empty: the architecture on the meta device. blocks: its repeated blocks. itemsize: bytes a weight.

    Raises:
        BadInput: ``disk``, and the model has no blocks.
    """
    if device == DISK:
        if not blocks:
            raise BadInput("--device disk: the model has no blocks to fetch one after the other.", "Use another device.")
        place = (used.index or 0) if used.type == "cuda" else used.type  # safetensors takes no torch.device
        outside = {
            name: place
            for name, module in empty.named_modules()
            if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
            and not f"{name}.".startswith(tuple(f"{block}." for block in blocks))
        }
        return {"device_map": {**dict.fromkeys(blocks, DISK), **outside}}
    needed = itemsize * sum(p.numel() for p in empty.parameters())
    if device == "auto" and needed > ROOM * free_memory(used):
        most = {index: int(ROOM * free_memory(torch.device("cuda", index))) for index in range(torch.cuda.device_count())}
        return {"device_map": "auto", "max_memory": {**most, "cpu": int(ROOM * free_memory(torch.device("cpu")))}}
    if quantised and used.type == "cuda":  # it quantises there
        return {"device_map": {"": used}}
    return {}


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that this machine's memory can still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def offload_folder(placed: dict[str, Any]) -> tempfile.TemporaryDirectory[str] | None:
    """A folder for weights that cannot stay in the checkpoint's own files, as transformers rearranges them."""
    return tempfile.TemporaryDirectory(prefix="advisor-weights-") if "device_map" in placed else None


def is_offloaded(model: nn.Module) -> bool:
    """Whether weights are fetched from memory or disk when they are used."""
    return any(p.is_meta for p in model.parameters())


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its inputs and leaves its outputs."""
    resident = (p.device for p in model.parameters() if not p.is_meta)
    return next(resident, torch.device("cpu"))


@contextmanager
def fetched(module: nn.Module) -> Iterator[nn.Module]:
    """Within, a single module's own weights are where they are used, if accelerate keeps them elsewhere."""
    with align_module_device(module):
        yield module


def plain_weight(module: Any) -> torch.Tensor | None:
    """A module's weight as float32 numbers, fetched and dequantised; None where this is not possible."""
    with fetched(module), torch.no_grad():
        weight = module.weight.detach()
        if type(module.weight).__name__ == "Params4bit":
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(weight, module.weight.quant_state)
        elif type(module.weight).__name__ == "Int8Params":
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB  # after a forward pass there
            weight = weight.float() * (scale.float() / 127)[:, None]
        return weight.float() if weight.is_floating_point() and not weight.is_meta else None


def keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first product on a CPU with AVX512-BF16.

    That form serves inference alone: its product has no backward pass and takes output widths of whole 32s only.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 -- mypy knows no such attribute


def quantised_as(model: nn.Module) -> str | None:
    """``4bit``, ``8bit``, or None."""
    return next((name for name in QUANTISED if getattr(model, f"is_loaded_in_{name}", False)), None)


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a parameter or buffer, of the scales beside quantised weights too."""
    beside = 4 * len(tensor) if type(tensor).__name__ == "Int8Params" else 0
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        scales = [state.absmax, state.code, getattr(state, "offset", None)]
        beside += sum(s.numel() * s.element_size() for s in scales if isinstance(s, torch.Tensor))
        state = getattr(state, "state2", None)
    return tensor.numel() * tensor.element_size() + beside
