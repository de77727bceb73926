"""A config as PEFT applied it to a model without weights, and questions about what each of its entries did."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from advisor.core.errors import BadInput
from advisor.export.hints import WAYS, reason
from advisor.export.plan import Passed
from advisor.models.peft import Resolved, apply, read_off, resolve

if TYPE_CHECKING:
    from torch import nn

MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Applied:
    """A config on one model.

    Attributes:
        model: the base model on the meta device, its layers replicated where the config says so.
        arguments: what ``LoraConfig`` got.
        peft_model: what ``get_peft_model`` made.
        resolved: what there is to train.
        passed: what the tool made of the config.
    """

    model: Any
    arguments: Mapping[str, Any]
    peft_model: Any
    resolved: Resolved
    passed: Passed

    def called(self, key: str) -> str:
        """What the user's file calls an argument."""
        return self.passed.keys.get(key, key)

    def why(self, key: str, entry: str, names: Sequence[str] = (), others: Mapping[str, Sequence[str]] | None = None) -> str:
        """Why an entry stands for nothing among ``names``, which are the model's modules unless given; see :func:`reason`."""
        return reason(entry, names or self.names, others, WAYS.get(key, self.passed.way))

    @property
    def config(self) -> Any:
        """The config as PEFT completed it: defaults, ``all-linear`` and old names of experts are resolved."""
        return self.peft_model.peft_config["default"]

    @cached_property
    def names(self) -> list[str]:
        """Every module of the base model."""
        return [name for name, _ in self.model.named_modules() if name]

    @cached_property
    def kept_tied(self) -> list[str]:
        """Modules trained in full that share a weight, as ``ensure_weight_tying`` has it."""
        wrappers = [(name, self.peft_model.base_model.model.get_submodule(name)) for name in self.resolved.saved]
        weights = [(name, id(p)) for name, wrapper in wrappers for p in wrapper.modules_to_save.parameters()]
        times = Counter(weight for _, weight in weights)
        return [name for name, weight in weights if times[weight] > 1]

    def taken(self, **changes: Any) -> list[str]:
        """The modules that PEFT's own rule takes with some fields of its config changed."""
        from peft.tuners.tuners_utils import check_target_module_exists

        config = copy.copy(self.config)
        for key, value in changes.items():
            setattr(config, key, value)
        return [name for name in self.names if check_target_module_exists(config, name)]

    def changes_without(self, key: str, entry: str) -> bool:
        """Whether PEFT makes something else, or refuses, when one entry of a list is left out."""
        left = [other for other in self.arguments[key] if other != entry]
        try:
            found = resolve(self.model, {**self.arguments, key: left})
        except BadInput:
            return True
        return (found.wrapped, found.ranks, found.saved) != (self.resolved.wrapped, self.resolved.ranks, self.resolved.saved)


def apply_config(model: nn.Module, arguments: Mapping[str, Any], passed: Passed) -> Applied:
    """Apply ``LoraConfig(**arguments)``, those of ``passed`` that it knows, to a meta-device model; see
    :func:`advisor.models.peft.apply`.

    Raises:
        BadInput: PEFT refuses it.
    """
    left = dict(arguments)
    if layers := left.pop("layer_replication", None):
        model = _replicated(model, layers)
    peft_model, warned = apply(model, left, passed.keys)
    return Applied(model, left, peft_model, read_off(peft_model, warned), passed)


def _replicated(model: nn.Module, layers: Any) -> nn.Module:
    """A copy whose layers are replicated, as PEFT does it."""
    from peft.tuners.tuners_utils import replicate_layers

    what = "layer_replication is no list of pairs (first layer, layer after the last) that the model has"
    try:
        sizes = [end - start for start, end in layers]
        if any(size < 1 for size in sizes) or sum(sizes) > MOST_LAYERS or any(start < 0 for start, _ in layers):
            raise ValueError("a pair is empty, below 0 or too long")
        model = copy.deepcopy(model)
        replicate_layers(model, layers)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise BadInput(f"{what}: {str(error)[:200]}", "Write such as [[0, 2], [1, 3]].") from error
    return model


def matches(entries: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """The names that each entry of a list stands for in PEFT: exactly, or as a ``.``-suffix."""
    return {entry: [n for n in names if n == entry or n.endswith(f".{entry}")] for entry in entries}
