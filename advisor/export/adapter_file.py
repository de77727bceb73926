"""The tensors of a trained adapter beside those that PEFT makes of its config."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from advisor.core.errors import BadInput, reason
from advisor.core.reading import check_regular
from advisor.models.peft import Resolved

WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # PEFT takes the first that there is
PREFIX = "base_model.model."
FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")  # zero: no effect, as before training

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adapter:
    """What a trained adapter's file holds.

    Attributes:
        file: its name.
        shapes: of each tensor, by its name in the file.
        idle: modules whose A or B is all zero, as B is before training, so that LoRA changes nothing.
        broken: tensors with a NaN or an infinity.
        whole: tensors of whole numbers.
    """

    file: str
    shapes: Shapes
    idle: tuple[str, ...]
    broken: tuple[str, ...]
    whole: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """An adapter's tensors beside those of PEFT's model; names without ``PREFIX``, after PEFT's own conversion of old names.

    Attributes:
        held: tensors that fit. beside: others that PEFT loads too, such as embeddings that nothing in the config names.
        missing: tensors that PEFT has and the file does not.
        extra: tensors of the file that PEFT has no place for.
        sizes: the file's and the model's shape of tensors that differ.
        as_named: the first tensor's name in the file and the first that PEFT expects, where none fits; else None.
        is_loadable: PEFT loads what it saves itself of such a config.
    """

    held: Shapes
    beside: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    sizes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    as_named: tuple[str, str] | None
    is_loadable: bool = True

    @property
    def misfits(self) -> int:
        """How many tensors are not in place."""
        return len(self.missing) + len(self.extra) + len(self.sizes)


def read_adapter(folder: Path) -> Adapter | None:
    """The adapter's weights in a folder; None where there are none.

    Raises:
        BadInput: a file that is no safetensors, or a ``.bin`` that holds more than tensors.
    """
    path = next((folder / name for name in WEIGHTS_FILES if os.path.lexists(folder / name)), None)
    if path is None:
        return None
    check_regular(path, "file of weights")
    shapes: Shapes = {}
    idle, broken, whole = [], [], []
    try:
        for key, tensor in _tensors(path):
            name = key.removeprefix(PREFIX)
            shapes[key] = tuple(tensor.shape)
            if not tensor.is_floating_point():
                whole.append(name)
            elif not torch.isfinite(tensor.float()).all():
                broken.append(name)
            if name.endswith(FACTORS) and not tensor.float().any():
                idle.append(name.rpartition(".lora_")[0])
    except pickle.UnpicklingError as error:
        raise BadInput(f"{path}: it holds more than tensors, so it is not read.", "Save it as safetensors.") from error
    except (OSError, SafetensorError, ValueError, RuntimeError, EOFError, KeyError) as error:
        raise BadInput(f"{path}: the adapter's weights cannot be read: {reason(error)}.", "Save the adapter again.") from error
    return Adapter(path.name, shapes, tuple(dict.fromkeys(idle)), tuple(broken), tuple(whole))


def unread_weights(folder: Path) -> list[str]:
    """Files of weights beside a config that PEFT does not load: other names, shards, and a ``.bin`` beside safetensors."""
    there = [name for name in WEIGHTS_FILES if (folder / name).exists()]
    model = (folder / "config.json").exists()  # the base model's own weights lie there too
    found = [path.name for kind in ("*.safetensors", "*.bin", "*.pt") for path in sorted(folder.glob(kind))]
    return [name for name in found if name not in there[:1] and (name.startswith("adapter") or not model)]


def _tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                yield key, file.get_tensor(key)
        return
    content = torch.load(path, map_location="cpu", weights_only=True)  # tensors and plain containers only
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise ValueError("it is no mapping of names to tensors")
    yield from ((str(key), tensor) for key, tensor in content.items())


def difference(adapter: Adapter, model: Any) -> Difference:
    """The adapter beside ``model``, the ``PeftModel`` of its config on the meta device: where PEFT puts each tensor."""
    needed, allowed = _expected(model)
    aside = {name: shape for name, shape in needed.items() if ".lora_" not in name and name not in adapter.shapes}
    wanted = _as_loaded(needed, model)
    found = _as_loaded({**adapter.shapes, **aside}, model)  # PEFT stops at the first module to save that is missing
    for name in _as_loaded(aside, model) if aside else ():
        found.pop(name, None)
    places = {**_as_loaded(allowed, model), **wanted}
    sizes = {name: (found[name], places[name]) for name in found if name in places and found[name] != places[name]}
    for copy in (".modules_to_save.", ".original_module."):  # PEFT may save a module in full under three names
        sizes = {
            n: both for n, both in sizes.items() if copy not in n or n.replace(copy, ".modules_to_save.default.") not in sizes
        }
    missing, extra = [name for name in wanted if name not in found], [name for name in found if name not in places]
    lora = [name for name in wanted if ".lora_" in name]
    as_named = None
    if extra and lora and not any(name in found for name in lora):
        first = next((name for name in adapter.shapes if ".lora_" in name), extra[0])
        as_named = (first, next(name for name in needed if ".lora_" in name))
    return Difference(
        held={_bare(name): shape for name, shape in found.items() if name in wanted},
        beside=tuple(_bare(name) for name in found if name in places and name not in wanted),
        missing=tuple(map(_bare, missing)),
        extra=tuple(map(_bare, extra)),
        sizes={_bare(name): both for name, both in sizes.items()},
        as_named=as_named,
        is_loadable=_loaded(needed, model) is not None,
    )


def _expected(model: Any) -> tuple[Shapes, Shapes]:
    """What PEFT saves of a model: what it must hold, and what it may hold besides, as the embeddings' own weights."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed = get_peft_model_state_dict(model, save_embedding_layers=False)
        try:
            allowed = get_peft_model_state_dict(model, save_embedding_layers=True)
        except NotImplementedError:  # a model without input embeddings
            allowed = needed
    shapes = [{name: tuple(tensor.shape) for name, tensor in found.items()} for found in (needed, {**allowed, **needed})]
    return shapes[0], shapes[1]


def _as_loaded(shapes: Shapes, model: Any) -> Shapes:
    """As :func:`_loaded`; names that PEFT cannot convert or place stay as they are."""
    loaded = _loaded(shapes, model)
    return dict(shapes) if loaded is None else loaded


def _loaded(shapes: Shapes, model: Any) -> Shapes | None:
    """The shapes by the names under which PEFT loads them into ``model``, old experts converted; nothing is loaded. None where
    PEFT fails."""
    from peft import set_peft_model_state_dict

    caught: dict[str, torch.Tensor] = {}

    def catch(state: Mapping[str, torch.Tensor], **_: Any) -> Any:
        caught.update(state)
        return torch.nn.modules.module._IncompatibleKeys([], [])

    model.load_state_dict = catch  # of this one model, which is thrown away
    try:
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        set_peft_model_state_dict(model, tensors)
    except (ValueError, RuntimeError, KeyError, IndexError):
        return None
    finally:
        del model.load_state_dict
    return {name: tuple(tensor.shape) for name, tensor in caught.items()}


def tensor_surprises(adapter: Adapter, found: Difference, resolved: Resolved, embeddings: Sequence[str]) -> list[str]:
    """Where the file and the config differ, one sentence each.

    Args:
        embeddings: names of the model's input and output embeddings.
    """
    surprises = []
    if not found.is_loadable:
        surprises.append("PEFT loads no adapter of this config, not even one that it has saved itself.")
    if found.as_named:
        there, wanted = found.as_named
        prefix = f": the names lack the prefix {PREFIX!r}" if not there.startswith(PREFIX) else ""
        surprises.append(f"PEFT loads no LoRA from {adapter.file}{prefix}. It holds {there!r}, and PEFT expects {wanted!r}.")
    else:
        surprises += _module_surprises(found, resolved) + _full_surprises(found, resolved)
    surprises += _size_surprises(found, embeddings)
    modules = {name.rpartition(".lora_")[0] for name in adapter.shapes if ".lora_" in name}
    if adapter.idle:
        many = f"{len(adapter.idle)} of {len(modules)}"
        surprises.append(f"A or B is all zero in {many} modules (first: {adapter.idle[0]}): LoRA changes nothing there.")
    if adapter.whole:
        surprises.append(f"{len(adapter.whole)} tensors hold whole numbers, not weights (first: {adapter.whole[0]}).")
    if adapter.broken:
        surprises.append(f"{len(adapter.broken)} tensors hold a NaN or an infinity (first: {adapter.broken[0]}).")
    return surprises


def _module_surprises(found: Difference, resolved: Resolved) -> list[str]:
    """LoRA tensors that are missing, or have no place."""
    surprises = []
    held = {_module(name) for name in (*found.held, *found.sizes)}
    extra = [name for name in found.extra if ".lora_" in name]
    expected = {_module(name) for name in (*found.held, *found.missing, *found.sizes) if ".lora_" in name}
    if beyond := sorted({_module(name) for name in extra} - expected):
        surprises.append(f"The weights hold LoRA for {len(beyond)} modules that the config leaves out (first: {beyond[0]}).")
    if within := [name for name in extra if _module(name) in expected]:
        kinds = ", ".join(dict.fromkeys(name.rpartition(".lora_")[2] for name in within))
        why = " (use_dora is not set)" if "magnitude" in kinds else ""
        surprises.append(f"The weights hold {len(within)} tensors that the config has none for, lora_{kinds}{why}.")
    missing = [name for name in found.missing if ".lora_" in name]
    if nothing := list(dict.fromkeys(_module(name) for name in missing if _module(name) not in held)):
        surprises.append(f"The weights hold nothing for {len(nothing)} modules of the config (first: {nothing[0]}).")
    if partly := [name for name in missing if _module(name) in held]:
        surprises.append(f"The weights lack {len(partly)} tensors of modules that they hold others of (first: {partly[0]}).")
    return surprises


def _full_surprises(found: Difference, resolved: Resolved) -> list[str]:
    """Tensors of modules that are trained in full, or of tokens."""
    surprises = []
    if strays := [name for name in found.extra if ".lora_" not in name]:
        surprises.append(f"The weights hold {len(strays)} full tensors that the config does not name (first: {strays[0]}).")
    for name in (*resolved.saved, *resolved.tokens):
        lacking = [key for key in found.missing if key.startswith(f"{name}.")]
        if lacking and not any(key.startswith(f"{name}.") for key in (*found.held, *found.sizes)):
            what = "trains in full" if name in resolved.saved else "trains tokens of"
            surprises.append(f"The weights hold no {name}, which the config {what}.")
        elif lacking:
            surprises.append(f"The weights lack {', '.join(lacking)}, which the config trains.")
    return surprises


def _size_surprises(found: Difference, embeddings: Sequence[str]) -> list[str]:
    """Tensors of another shape: PEFT refuses to load them."""
    ranks = {name: both for name, both in found.sizes.items() if _is_rank(name, *both)}
    surprises = []
    if modules := {_module(name): (name, *both) for name, both in ranks.items()}:
        first, (name, there, here) = next(iter(modules.items()))
        side = 0 if "_A" in name.rpartition(".lora_")[2] or name.endswith("lora_A.weight") else 1
        surprises.append(
            f"{len(modules)} modules have another rank in the weights than in the config "
            f"(first: {first}, {there[side]} and {here[side]})."
        )
    others = {name: both for name, both in found.sizes.items() if name not in ranks}
    rows = {name: both for name, both in others.items() if name.startswith(tuple(f"{e}." for e in embeddings))}
    rows = {name: both for name, both in rows.items() if ".token_adapter." not in name}
    if rows:
        name, (there, here) = next(iter(rows.items()))
        surprises.append(
            f"{len(rows)} tensors are of another vocabulary: {name} is {_by(there)} in the weights, {_by(here)} in the model. "
            "Give the model the same tokens first (resize_token_embeddings)."
        )
    if rest := {name: both for name, both in others.items() if name not in rows}:
        name, (there, here) = next(iter(rest.items()))
        surprises.append(
            f"{len(rest)} tensors have another size than in the model, so that PEFT cannot load them: {name} is {_by(there)} in "
            f"the weights, {_by(here)} in the model."
        )
    return surprises


def _is_rank(name: str, there: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Only the side of a LoRA tensor that is the rank differs."""
    if ".lora_" not in name or not len(there) == len(here) == 2:  # a magnitude (DoRA) has one axis
        return False
    side = 0 if ".lora_A" in name or ".lora_embedding_A" in name else 1
    return there[side] != here[side] and there[1 - side] == here[1 - side]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _module(name: str) -> str:
    return name.rpartition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]


def _bare(name: str) -> str:
    """A name without PEFT's prefix and the adapter's own."""
    return name.removeprefix(PREFIX).replace(".modules_to_save.default.", ".").replace(".default", "")
