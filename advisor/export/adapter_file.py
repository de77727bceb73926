"""The tensors of a trained adapter beside what its config says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from advisor.core.errors import BadInput
from advisor.models.peft import Resolved

WEIGHTS_FILE, PREFIX = "adapter_model.safetensors", "base_model.model."
FIRST, SECOND = (".lora_A.weight", ".lora_embedding_A"), (".lora_B.weight", ".lora_embedding_B")


@dataclass(frozen=True)
class AdapterTensors:
    """What a trained adapter's file holds.

    Attributes:
        ranks: of each module with LoRA tensors, by full name.
        others: sizes of the parameters that are not LoRA's.
        untrained: modules whose B is all zero, so that LoRA changes nothing.
        broken: tensors with a NaN or an infinity.
    """

    ranks: dict[str, int]
    others: dict[str, int]
    untrained: tuple[str, ...]
    broken: tuple[str, ...]


def read_adapter(path: Path) -> AdapterTensors:
    """Read an ``adapter_model.safetensors``.

    Raises:
        BadInput: it is no safetensors file.
    """
    ranks: dict[str, int] = {}
    others: dict[str, int] = {}
    untrained, broken = [], []
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                name, tensor = key.removeprefix(PREFIX), file.get_tensor(key)
                if not torch.isfinite(tensor).all():
                    broken.append(name)
                if name.endswith(FIRST):
                    ranks[_module(name, FIRST)] = int(tensor.shape[0])
                elif name.endswith(SECOND):
                    if not tensor.any():
                        untrained.append(_module(name, SECOND))
                elif ".lora_" not in name:
                    others[name] = tensor.numel()
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{path}: the adapter's weights cannot be read: {error}.", "Save the adapter again.") from error
    return AdapterTensors(ranks, others, tuple(untrained), tuple(broken))


def tensor_surprises(found: AdapterTensors, resolved: Resolved) -> list[str]:
    """Where the file and the config differ. Expert parameters are left out: the file names them by module."""
    surprises = []
    experts = {name.rpartition(".")[0] for name in resolved.parameters}
    held = {name for name in found.ranks if not name.startswith(tuple(experts)) or not experts}
    if extra := sorted(held - set(resolved.wrapped)):
        surprises.append(f"The weights hold LoRA for {len(extra)} modules that the config leaves out (first: {extra[0]}).")
    if missing := [name for name in resolved.wrapped if name not in found.ranks]:
        surprises.append(f"The weights hold nothing for {len(missing)} modules of the config (first: {missing[0]}).")
    other = [name for name in resolved.wrapped if found.ranks.get(name, resolved.ranks[name]) != resolved.ranks[name]]
    if other:
        surprises.append(
            f"{len(other)} modules have another rank in the weights than in the config "
            f"(first: {other[0]}, {found.ranks[other[0]]} and {resolved.ranks[other[0]]})."
        )
    strays = [name for name in found.others if not name.startswith(tuple(f"{saved}." for saved in resolved.saved))]
    if strays:
        surprises.append(f"The weights hold {len(strays)} full tensors that the config does not name (first: {strays[0]}).")
    unsaved = [saved for saved in resolved.saved if not any(name.startswith(f"{saved}.") for name in found.others)]
    surprises += [f"The weights hold no {name}, which the config trains in full." for name in unsaved]
    if found.untrained:
        many = f"{len(found.untrained)} of {len(found.ranks)}"
        surprises.append(f"B is all zero in {many} modules (first: {found.untrained[0]}): LoRA changes nothing there.")
    if found.broken:
        surprises.append(f"{len(found.broken)} tensors hold a NaN or an infinity (first: {found.broken[0]}).")
    return surprises


def _module(name: str, ends: tuple[str, ...]) -> str:
    return next(name.removesuffix(end) for end in ends if name.endswith(end))
