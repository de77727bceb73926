"""Models in float64 beside their tangent, the oracle's Jacobian of them, and models in which nothing bends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import oracle
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pytorch_utils import Conv1D

from advisor.core.selections import all_linear, target_sets
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.models.encode import EncodedRow
from advisor.models.load import LoadedModel
from advisor.probing.outputs import make_outputs
from advisor.probing.tangent import Tangent

ROWS = 12
SETTINGS = LoraSettings(4, 8)
NOTHING = Selection("head alone", ())


@dataclass(frozen=True)
class Case:
    """A float64 model with its rows, and the same rows for the oracle."""

    kind: str
    loaded: LoadedModel
    rows: Sequence[EncodedRow]
    texts: Sequence[oracle.Text]
    settings: LoraSettings
    scale: tuple[float, float]

    def tangent(self, seed: int = 3, settings: LoraSettings | None = None) -> Tangent:
        classes = oracle.CLASSES.get(self.kind, 0)
        outputs = make_outputs(oracle.TASKS.get(self.kind, "classification"), classes, 0)
        return Tangent.of(self.loaded, self.rows, outputs, settings or self.settings, *self.scale, seed=seed)

    @property
    def everything(self) -> Selection:
        return all_linear(self.loaded.targets)

    def some(self) -> list[Selection]:
        """All, q,v, one module and none."""
        targets, roles = self.loaded.targets, self.loaded.qv_roles()
        qv = next(s for s in target_sets(targets, roles) if s.name == "q,v")
        return [self.everything, qv, Selection("one", (targets[-1].name,)), NOTHING]


Make = Callable[..., Case]


def oracle_jacobian(case: Case, tangent: Tangent) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """f [n, P] and J [n, P, size] of every parameter that moves, at the tangent's present θ.

    LoRA is put into the weights of the plain model: W + scale·BA, so that dB is scale·dW Aᵀ; no PEFT, no hook, no padding.
    P counts logits, not directions.
    """
    model = copy.deepcopy(case.loaded.model)
    scale = case.settings.scale
    parameters = {}
    with torch.no_grad():
        for target in case.loaded.targets:
            a, b = tangent.layers[target.name][1], tangent.movable[target.name]
            weight = model.get_submodule(target.name).weight
            weight += scale * ((b @ a).T if target.kind == "conv1d" else b @ a)
            parameters[target.name] = f"{target.name}.weight"
        for name in (n for n in tangent.movable if "/" in n):
            parameters[name] = name.replace("/", ".")
            model.get_parameter(parameters[name]).copy_(tangent.movable[name])
    found = oracle.reference(model, list(parameters.values()), case.texts, *oracle.scalars_of(case.kind))
    jacobians = {name: found.jacobians[parameter] for name, parameter in parameters.items()}
    for target in case.loaded.targets:
        a = tangent.layers[target.name][1]
        whole = jacobians[target.name]
        shape = (target.in_features, target.out_features)
        whole = whole.unflatten(2, shape).mT if target.kind == "conv1d" else whole.unflatten(2, shape[::-1])
        jacobians[target.name] = (scale * whole @ a.T).flatten(2)
    return found.outputs, jacobians


def in_directions(tangent: Tangent, jacobian: torch.Tensor) -> torch.Tensor:
    """[n, C, size] → [n·P, size]."""
    if tangent.outputs.directions is not None:
        jacobian = torch.einsum("cp,nca->npa", tangent.outputs.directions.double(), jacobian)
    return jacobian.flatten(0, 1)


def random_step(tangent: Tangent, size: float = 0.1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: size * torch.randn(p.shape, generator=generator).to(p) for n, p in tangent.movable.items()}


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return oracle.relative(found.reshape(wanted.shape), wanted)


class StandIn(nn.Module):
    """Embeds, ``through`` (adapted), ``score`` of every token, then averages over tokens. Nothing in it bends."""

    def __init__(self, through: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0, model_type="custom", tie_word_embeddings=False, is_encoder_decoder=False)
        self.embed, self.through = nn.Embedding(300, 6), through
        self.score = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        mask = attention_mask[..., None].to(self.embed.weight)
        scores = self.score(self.through(self.embed(input_ids)))
        return SequenceClassifierOutput(logits=(scores * mask).sum(1) / mask.sum(1))


class Fused(nn.Module):
    """GPT-2's: one Conv1D for three parts, which are then added up unequally."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = Conv1D(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.c_attn(x).split(4, -1)
        return q - 2 * k + 0.5 * v


STAND_INS: dict[str, tuple[Callable[[], nn.Module], Target, int]] = {
    "linear": (lambda: nn.Linear(6, 4), Target("through", 0, "up", "mlp", 6, 4), 4),
    "conv1d": (lambda: Conv1D(4, 6), Target("through", 0, "up", "mlp", 6, 4, "conv1d"), 4),
    "fused": (Fused, Target("through.c_attn", 0, "qkv", "attention", 6, 12, "conv1d"), 4),
}


def stand_in(loaded: LoadedModel, which: str, classes: int, head: bool) -> LoadedModel:
    through, target, width = STAND_INS[which]
    model = StandIn(through(), width, classes)
    return replace(loaded, model=model, targets=(target,), head=("score",) if head else ())


def on_rows(loaded: LoadedModel, classes: int, **options: Any) -> Tangent:
    rows = [EncodedRow(tuple(1 + (7 * i + 3 * t) % 29 for t in range(2 + i % 5)), label=i % classes) for i in range(10)]
    return Tangent.of(loaded, rows, make_outputs("classification", classes, 0), LoraSettings(2, 4), **options)
