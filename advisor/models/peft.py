"""What PEFT makes of a LoRA config on a real architecture."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.core.errors import AdvisorError, BadInput
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.core.tasks import TASKS
from advisor.models.peft_values import check_matching, check_values

if TYPE_CHECKING:
    from torch import nn

CONFIG_FILE = "adapter_config.json"  # what PEFT itself calls it
# What PEFT raises over values it cannot use; it has no error class of its own for them.
MORE_ENTRIES = 1_000  # of a list in a config than the model has modules
NEED_MORE = ("corda", "loftq")  # ways to initialise that need what a script prepares, or the weights themselves
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
    is such a suffix of a target that is not chosen, one anchored regex is emitted instead. Stacks of experts go into
    ``target_parameters``.

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
    stacks = [t.name for t in targets if t.name in chosen and t.experts]
    modules = [name for name in selection.targets if name not in set(stacks)]
    others = [t.name for t in targets if t.name not in chosen and not t.experts]
    arguments: dict[str, Any] = {
        "peft_type": "LORA",
        **({"task_type": TASKS[task].task_type} if reads != "images" else {}),
        "base_model_name_or_path": base_model,
        **({"revision": revision} if revision else {}),
        "r": settings.rank,
        "lora_alpha": _whole(settings.alpha),
        "lora_dropout": 0.0,
        "use_rslora": settings.rslora,
        "bias": "none",
        "fan_in_fan_out": any(t.kind == "conv1d" for t in targets if t.name in chosen),
        "target_modules": _target_modules(modules, others),
    }
    if stacks:
        arguments["target_parameters"] = stacks
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
        ranks, alphas: of each wrapped module, and of each of ``parameters``.
        rslora: the scale is alpha/√rank.
        parameters: full names of weights, such as stacks of experts, that get LoRA by themselves (``target_parameters``).
        tokens: how many rows are trained (``trainable_token_indices``) of which embeddings.
        token_params: their parameters; embeddings that share a weight share these.
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
    tokens: Mapping[str, int]
    token_params: int

    @property
    def adapted(self) -> tuple[str, ...]:
        """Modules and single weights that get LoRA."""
        return self.wrapped + self.parameters

    @property
    def scales(self) -> dict[str, float]:
        """PEFT's scaling of each wrapped module and parameter."""
        return {n: LoraSettings(r, self.alphas[n], self.rslora).scale for n, r in self.ranks.items()}


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """PEFT finds no bitsandbytes here, and does again afterwards; unless it is loaded already, as for quantised weights.

    Where it is installed PEFT would import it, and that torch's compiler, which takes longer than PEFT itself; for plain
    weights it does nothing.
    """
    if "bitsandbytes" in sys.modules:
        yield
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        from peft import import_utils

        for asked in (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available):
            asked.cache_clear()  # else PEFT remembers the answer


def resolve(model: nn.Module, arguments: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> Resolved:
    """What ``LoraConfig(**arguments)`` does with ``model``, which should be on the meta device; see :func:`apply`."""
    return read_off(*apply(model, arguments, keys))


def apply(model: nn.Module, arguments: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> tuple[Any, tuple[str, ...]]:
    """``get_peft_model`` on a copy of ``model`` with ``LoraConfig(**arguments)``, and what PEFT warned of.

    Weights are initialised as the config says, as far as that is possible without any: some ways refuse a rank or a kind of
    module. No Python module that the config names is imported.

    Args:
        keys: what the user's file calls an argument, where that is not its own name.

    Raises:
        BadInput: a value is none that PEFT knows, PEFT refuses the config (then without a hint), nothing in the model matches it,
            or matching takes too long.
    """
    import torch

    with without_bitsandbytes():
        from peft import LoraConfig, get_peft_model

    check_values(arguments, keys)
    called = {key: (keys or {}).get(key, key) for key in arguments}
    _check_lengths(arguments, model, called)
    _check_tokens(arguments, model, called)
    names = [name for of in (model.named_modules(), model.named_parameters()) for name, _ in of]
    check_matching(arguments, names, keys)
    with without_bitsandbytes(), warnings.catch_warnings(record=True) as caught, torch.device("meta"):
        warnings.simplefilter("ignore")  # deprecations are no concern of the user's
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", RuntimeWarning)
        try:
            config = LoraConfig(**copy.deepcopy(dict(arguments)))  # a copy, since PEFT writes into its lists
            config.inference_mode = False  # a trained adapter's config is saved frozen, and would count as nothing trained
            if str(config.init_lora_weights).startswith(NEED_MORE):
                config.init_lora_weights = True
            config.base_model_name_or_path = None
            config.megatron_config = None
            wrapped: Any = get_peft_model(copy.deepcopy(model), config)
        except _PEFT_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise BadInput(f"PEFT refuses the config on {type(model).__name__}: {reason}") from error
    _check_token_rows(wrapped, called)
    return wrapped, tuple(dict.fromkeys(str(warning.message) for warning in caught))


def _check_lengths(arguments: Mapping[str, Any], model: nn.Module, called: Mapping[str, str]) -> None:
    """Raises:
    BadInput: there are far more entries than modules that they could name; PEFT compares each with every other.
    """
    most = MORE_ENTRIES + sum(1 for _ in model.modules())
    for key in ("target_modules", "target_parameters", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"):
        entries = arguments.get(key)
        if isinstance(entries, Sized) and not isinstance(entries, str) and len(entries) > most:
            raise BadInput(
                f"{called[key]} has {len(entries):,} entries, and {type(model).__name__} has {most - MORE_ENTRIES:,} modules.",
                "Name modules of this model.",
            )


def _check_tokens(arguments: Mapping[str, Any], model: nn.Module, called: Mapping[str, str]) -> None:
    """Raises:
    BadInput: a name in ``trainable_token_indices`` is no end of a module's.
    """
    from torch import nn

    embeddings = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    tokens = arguments.get("trainable_token_indices")
    for entry in tokens if isinstance(tokens, dict) else ():
        if not any(name.endswith(entry) for name, _ in model.named_modules(remove_duplicate=False)):  # as PEFT's _set_trainable
            key, known = called["trainable_token_indices"], " or ".join(map(repr, embeddings[:3]))
            raise BadInput(
                f"{key}: {entry[:60]!r} is no module of {type(model).__name__}.", f"Write {known}." if known else "Leave it out."
            )


def _check_token_rows(wrapped: Any, called: Mapping[str, str]) -> None:
    """Raises:
    BadInput: a token to train is beyond the vocabulary, which PEFT finds only where there are weights.
    """
    from peft.utils.other import TrainableTokensWrapper

    for name, module in wrapped.base_model.model.named_modules():
        if isinstance(module, TrainableTokensWrapper):
            rows = module.original_module.weight.shape[0]
            beyond = [token for token in module.token_adapter.token_indices["default"] if not -rows <= token < rows]
            if beyond:
                raise BadInput(
                    f"{called['trainable_token_indices']}: {name} has {rows:,} rows, and no token {beyond[0]}.",
                    f"Name tokens from 0 to {rows - 1:,}, or enlarge the vocabulary first.",
                )


def read_off(model: Any, warned: tuple[str, ...] = ()) -> Resolved:
    """What there is to train in a ``PeftModel``."""
    from peft.tuners.lora.layer import ParamWrapper
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    tuner = model.base_model
    saved: list[str] = []
    tokens: dict[str, int] = {}
    layers = {name: tuner.model.get_submodule(name) for name in tuner.targeted_module_names}
    experts: dict[str, Any] = {}
    for name, module in tuner.model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and not _within(name, saved):
            saved.append(name)  # PEFT also wraps what matches inside such a module
        elif isinstance(module, TrainableTokensWrapper):
            tokens[name] = len(module.token_adapter.token_indices["default"])
        elif isinstance(module, ParamWrapper):  # one inside the other, where a module has several such parameters
            experts[f"{name.replace('.base_layer', '')}.{module.parameter_name}"] = module
    counts = {"lora": 0, "saved": 0, "tokens": 0, "other": 0}
    for name, parameter in tuner.model.named_parameters():
        if not parameter.requires_grad:
            continue
        within_saved, within_tokens = _within(name, saved), _within(name, list(tokens))
        lora = f".{tuner.prefix}" in name
        kind = "saved" if within_saved else "tokens" if within_tokens else "lora" if lora else "other"
        counts[kind] += parameter.numel()
    parts = {**layers, **{name: experts[name] for name in tuner.targeted_parameter_names if name in experts}}
    return Resolved(
        wrapped=tuple(layers),
        lora_params=counts["lora"],
        saved=tuple(saved),
        saved_params=counts["saved"],
        other_params=counts["other"],
        warnings=warned,
        ranks={name: layer.r["default"] for name, layer in parts.items()},
        alphas={name: layer.lora_alpha["default"] for name, layer in parts.items()},
        rslora=bool(tuner.peft_config["default"].use_rslora),
        parameters=tuple(name for name in parts if name not in layers),
        tokens=tokens,
        token_params=counts["tokens"],
    )


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
        raise _fault(selection, error.what.rstrip(".")) from error
    if differing := sorted(set(resolved.adapted) ^ set(selection.targets)):
        counts = f"{len(resolved.adapted)} modules, not {len(selection.targets)}"
        raise _fault(selection, f"PEFT adapts {counts} (first that differs: {differing[0]})")
    if differing := sorted(set(resolved.saved) ^ set(arguments.get("modules_to_save", ()))):
        raise _fault(selection, f"other modules are trained in full (first that differs: {differing[0]})")
    own = ranks or {}
    for name in resolved.adapted:
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
