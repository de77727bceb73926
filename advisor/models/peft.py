"""What PEFT makes of a LoRA config on a real architecture."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.core.errors import AdvisorError, BadInput
from advisor.core.targets import LoraSettings, Selection, Target

if TYPE_CHECKING:
    from torch import nn

CONFIG_FILE = "adapter_config.json"  # what PEFT itself calls it
TASK_TYPES = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "causal-lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
# What PEFT raises over values it cannot use; it has no error class of its own for them.
MOST_RANK = 1_000_000  # more is a slip of the pen
_PEFT_ERRORS = (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError, re.error)


def lora_arguments(
    selection: Selection,
    settings: LoraSettings,
    *,
    task: str,
    head: Sequence[str],
    targets: Sequence[Target],
    base_model: str,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    reads: str = "text",
    revision: str | None = None,
) -> dict[str, Any]:
    """Plain arguments: ``LoraConfig(**arguments)`` adapts exactly ``selection`` and trains ``head`` in full.

    Full module names are emitted. PEFT matches list entries exactly or as a ``.``-suffix; where a chosen name
    is such a suffix of a target that is not chosen, one anchored regex is emitted instead.

    Args:
        ranks, alphas: of single modules by full name, where they differ from the settings'.
        revision: of the base model.
        reads: ``images``: without a ``task_type``, each of which stands for texts and hands their arguments to the model.

    Raises:
        BadInput: the selection is empty, which PEFT has no config for.
    """
    if not selection.targets:
        raise BadInput(f"{selection.name}: it has no modules, so there is no LoRA config.", "Select some.")
    chosen = set(selection.targets)
    others = [t.name for t in targets if t.name not in chosen]
    arguments: dict[str, Any] = {
        "peft_type": "LORA",
        **({"task_type": TASK_TYPES[task]} if reads == "text" else {}),
        "base_model_name_or_path": base_model,
        **({"revision": revision} if revision else {}),
        "r": settings.rank,
        "lora_alpha": _whole(settings.alpha),
        "lora_dropout": 0.0,
        "use_rslora": settings.rslora,
        "bias": "none",
        "fan_in_fan_out": any(t.kind == "conv1d" for t in targets if t.name in chosen),
        "target_modules": _target_modules(selection.targets, others),
    }
    if ranks:
        arguments["rank_pattern"] = {_pattern_key(name): rank for name, rank in ranks.items()}
    if alphas:
        arguments["alpha_pattern"] = {_pattern_key(name): _whole(alpha) for name, alpha in alphas.items()}
    if head:
        arguments["modules_to_save"] = list(head)
    return arguments


def _whole(alpha: float) -> float:
    """As an int where it is one, as axolotl wants it."""
    return int(alpha) if float(alpha).is_integer() else alpha


def _pattern_key(name: str) -> str:
    """A pattern that is this module alone: PEFT matches ``(.*\\.)?({key})$``, and takes the first key that does."""
    return f"^{re.escape(name)}"


def _target_modules(chosen: Sequence[str], others: Sequence[str]) -> list[str] | str:
    suffixes = tuple(f".{name}" for name in chosen)
    if any(other.endswith(suffixes) for other in others):
        return "^(" + "|".join(re.escape(name) for name in chosen) + ")$"
    return list(chosen)


@dataclass(frozen=True)
class Resolved:
    """What PEFT does with a config on one model; names are relative to the base model.

    Attributes:
        wrapped: modules that get LoRA, in model order.
        lora_params: trainable parameters of LoRA.
        saved: modules trained in full (``modules_to_save`` and what PEFT adds to it), in model order.
        saved_params: their parameters.
        other_params: everything else that is trainable, such as biases.
        warnings: what PEFT warned of.
        ranks, alphas: of each wrapped module.
        rslora: the scale is alpha/√rank.
        parameters: full names of 3-D expert parameters that get LoRA (``target_parameters``).
    """

    wrapped: tuple[str, ...]
    lora_params: int
    saved: tuple[str, ...]
    saved_params: int
    other_params: int
    warnings: tuple[str, ...]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    parameters: tuple[str, ...]

    @property
    def scales(self) -> dict[str, float]:
        """PEFT's scaling of each wrapped module."""
        return {n: LoraSettings(r, self.alphas[n], self.rslora).scale for n, r in self.ranks.items()}


def resolve(model: nn.Module, arguments: Mapping[str, Any]) -> Resolved:
    """Apply ``LoraConfig(**arguments)`` to a copy of ``model``, which should be on the meta device.

    Only what decides the placement is taken from the config: weights are not initialised as it says, since
    there are none, and no Python module that it names is imported.

    Raises:
        BadInput: a rank or alpha is none, PEFT refuses the config, or nothing in the model matches it.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.utils import ModulesToSaveWrapper

    _check_numbers(arguments)
    with warnings.catch_warnings(record=True) as caught, torch.device("meta"):
        warnings.simplefilter("ignore")  # deprecations are no concern of the user's
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", RuntimeWarning)
        try:
            config = LoraConfig(**copy.deepcopy(dict(arguments)))  # a copy, since PEFT writes into its lists
            config.inference_mode = False  # a trained adapter's config is saved frozen, and would count as nothing trained
            config.init_lora_weights = True
            config.base_model_name_or_path = None
            config.megatron_config = None
            tuner: Any = get_peft_model(copy.deepcopy(model), config, low_cpu_mem_usage=True).base_model
        except _PEFT_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise BadInput(f"PEFT refuses the config on {type(model).__name__}: {reason}") from error
    saved: list[str] = []
    for name, module in tuner.model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and not _within(name, saved):
            saved.append(name)  # PEFT also wraps what matches inside such a module
    lora_params = saved_params = other_params = 0
    for name, parameter in tuner.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if _within(name, saved):
            saved_params += parameter.numel()
        elif f".{tuner.prefix}" in name:
            lora_params += parameter.numel()
        else:
            other_params += parameter.numel()
    layers = {name: tuner.model.get_submodule(name) for name in tuner.targeted_module_names}
    return Resolved(
        wrapped=tuple(layers),
        lora_params=lora_params,
        saved=tuple(saved),
        saved_params=saved_params,
        other_params=other_params,
        warnings=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
        ranks={name: layer.r["default"] for name, layer in layers.items()},
        alphas={name: layer.lora_alpha["default"] for name, layer in layers.items()},
        rslora=bool(config.use_rslora),
        parameters=tuple(tuner.targeted_parameter_names),
    )


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    """PEFT computes with whatever stands for a rank or an alpha.

    Raises:
        BadInput: a rank is no whole number from 1 to ``MOST_RANK``, or an alpha no positive finite number.
    """

    def all_of(key: str, pattern: str) -> list[tuple[str, Any]]:
        own = arguments.get(pattern)
        found = [(f"{pattern} of {name!r}", number) for name, number in own.items()] if isinstance(own, Mapping) else []
        return [*([(key, arguments[key])] if key in arguments else []), *found]

    for what, rank in all_of("r", "rank_pattern"):
        if type(rank) is not int or not 1 <= rank <= MOST_RANK:
            raise BadInput(f"{what} is {str(rank)[:40]}, no whole number from 1 to {MOST_RANK:,}.", "Correct it.")
    for what, alpha in all_of("lora_alpha", "alpha_pattern"):
        if type(alpha) not in (int, float) or not 0 < alpha < math.inf or alpha > 1e300:
            raise BadInput(f"{what} is {str(alpha)[:40]}, not a positive number.", "Correct it.")


def _within(name: str, modules: Sequence[str]) -> bool:
    return name.startswith(tuple(f"{module}." for module in modules))


def prove(
    model: nn.Module,
    arguments: Mapping[str, Any],
    selection: Selection,
    targets: Sequence[Target],
    rank: int,
    ranks: Mapping[str, int] | None = None,
) -> Resolved:
    """What PEFT does with ``arguments`` on a meta-device ``model``: exactly ``selection``, at these ranks, and the head.

    Raises:
        AdvisorError: it does something else, which is a fault of the advisor's and not of the user's.
    """
    try:
        resolved = resolve(model, arguments)
    except BadInput as error:
        raise _fault(selection, error.what) from error
    if differing := sorted(set(resolved.wrapped) ^ set(selection.targets)):
        counts = f"{len(resolved.wrapped)} modules, not {len(selection.targets)}"
        raise _fault(selection, f"PEFT adapts {counts} (first that differs: {differing[0]})")
    if differing := sorted(set(resolved.saved) ^ set(arguments.get("modules_to_save", ()))):
        raise _fault(selection, f"other modules are trained in full (first that differs: {differing[0]})")
    own = ranks or {}
    for name in resolved.wrapped:
        if (found := resolved.ranks[name]) != (wanted := own.get(name, rank)):
            raise _fault(selection, f"PEFT adapts {name} with rank {found}, not {wanted}")
    expected = selection.params(targets, rank, own)
    if (resolved.lora_params, resolved.other_params) != (expected, 0):
        trained = resolved.lora_params + resolved.other_params
        raise _fault(selection, f"PEFT trains {trained:,} parameters outside the head, not {expected:,}")
    return resolved


def _fault(selection: Selection, what: str) -> AdvisorError:
    return AdvisorError(
        f"{selection.name}: the exported config does not do what was selected: {what}.",
        "This is a bug in the advisor: please report it with the model's name.",
    )
