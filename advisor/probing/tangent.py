"""The real model beside its tangent in LoRA space: what :class:`advisor.theory.linearity.Linearity` reports.

Moved are B of every adapted module and the head; A stays at one draw of PEFT's own initialisation, the same for every
selection. A selection's tangent is that of all modules with the others' B left at zero.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from advisor.core.events import Session
from advisor.core.recipe import BY_ODDS
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models.encode import EncodedRow, collate
from advisor.models.experts import lora_layer
from advisor.models.forward import logits_of
from advisor.models.head_input import head_linears
from advisor.models.load import LoadedModel
from advisor.models.modules import input_embeddings
from advisor.models.peft import lora_arguments
from advisor.probing.capture import capturing, fewer_rows
from advisor.probing.outputs import Outputs, forward_outputs
from advisor.probing.spool import tokens_at_once
from advisor.theory.linearity import Linearity

STEPS = (1 / 16, 1 / 4, 1.0)
TANGENT_STEPS = tuple(2.0**-k for k in (5, 7, 9, 11, 13))  # of Δθ, for the central differences that give JΔθ
TANGENT_AGREES = 1e-3
INPUT_STEP = 1e-2  # of the embeddings' norm
BATCH = 16  # rows at once, at most

Vector = dict[str, torch.Tensor]  # one tensor a trainable parameter that moves; the others stay
T = TypeVar("T")


@dataclass
class Tangent:
    """A copy of the model with LoRA on every target, and the rows it is looked at on.

    Attributes:
        model: the transformers model with PEFT's layers injected, in eval mode, float32 or float64.
        movable: trainable parameters by name: B of each target, and the head's. start: their values at θ0.
        layers: what is hooked: name in ``model``, LoRA's A and scale (None for a head's linear module).
        session: told when memory runs out. batch: rows at once, halved then.
    """

    loaded: LoadedModel
    model: Any
    rows: Sequence[EncodedRow]
    outputs: Outputs
    label_mean: float
    label_std: float
    movable: dict[str, nn.Parameter]
    layers: dict[str, tuple[str, torch.Tensor | None, float]]
    start: Vector = field(default_factory=dict)
    session: Session = field(default_factory=Session)
    batch: int = BATCH

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        rows: Sequence[EncodedRow],
        outputs: Outputs,
        settings: LoraSettings,
        label_mean: float = 0.0,
        label_std: float = 1.0,
        seed: int = 0,
    ) -> Tangent:
        """Copy ``loaded`` and draw A with ``seed``; quantised weights become plain, half-precision ones float32."""
        from peft import LoraConfig, get_peft_model  # here, so that a probe without this check does not load it

        model = copy.deepcopy(loaded.model)
        if loaded.quantised:
            model = model.dequantize()
        if loaded.dtype.itemsize < 4:
            model = model.float()
        arguments = lora_arguments(
            all_linear(loaded.targets),
            settings,
            task=loaded.task,
            head=loaded.head,
            targets=loaded.targets,
            base_model=loaded.name,
            reads=loaded.reads,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers, not the user's
            torch.manual_seed(seed)
            base: Any = get_peft_model(model, LoraConfig(**arguments)).eval().get_base_model()
        base.to(next(model.parameters()).dtype)  # PEFT keeps new weights in float32
        base.requires_grad_(False)
        layers: dict[str, tuple[str, torch.Tensor | None, float]] = {}
        movable: dict[str, nn.Parameter] = {}
        for target in loaded.targets:
            wrapped = lora_layer(base, target.name)
            inner = target.name if target.experts else f"{target.name}.base_layer"
            layers[target.name] = (inner, wrapped.lora_A["default"].weight, wrapped.scaling["default"])
            movable[target.name] = wrapped.lora_B["default"].weight
        for name in head_linears(loaded):
            owner = next(head for head in loaded.head if name == head or name.startswith(f"{head}."))
            inner = f"{owner}.modules_to_save.default{name[len(owner) :]}"
            layers[name] = (inner, None, 1.0)
            linear = base.get_submodule(inner)
            movable[f"{name}/weight"] = linear.weight
            if linear.bias is not None:
                movable[f"{name}/bias"] = linear.bias
        start = {name: parameter.detach().clone() for name, parameter in movable.items()}
        return cls(loaded, base, rows, outputs, label_mean, label_std, movable, layers, start, batch=batch_of(loaded, rows))

    # --- the model at θ0 + sΔθ -----------------------------------------------------------------------------------

    def move(self, direction: Mapping[str, torch.Tensor], step: float = 1.0) -> None:
        """Set θ = θ0 + step·direction; parameters that ``direction`` lacks return to θ0."""
        with torch.no_grad():
            for name, parameter in self.movable.items():
                change = direction.get(name)
                parameter.copy_(self.start[name] if change is None else self.start[name] + step * change)

    def values(self) -> torch.Tensor:
        """f at the present θ, float64 [n, 1 or C]: margin, value, centred logits or mean log-odds."""
        with torch.no_grad():
            return torch.cat(self._each_batch(lambda batch, _: self._full(batch).double()))

    def labels(self) -> np.ndarray:
        """As :func:`advisor.probing.outputs.targets_of` takes them."""
        if self.outputs.task in BY_ODDS:
            return np.zeros(len(self.rows))
        labels: torch.Tensor = self._collated(0, len(self.rows))["labels"]
        return labels.cpu().double().numpy()

    def pull_back(self, weights: torch.Tensor, names: Sequence[str]) -> Vector:
        """Jᵀ·weights at the present θ for the named parameters: one backward pass; weights [n, 1 or C]."""
        parameters = [self.movable[name] for name in names]
        total = [torch.zeros_like(p) for p in parameters]
        if not names:
            return {}

        def gradients(batch: dict[str, torch.Tensor], start: int) -> tuple[torch.Tensor | None, ...]:
            full = self._full(batch)
            part = weights[start : start + len(full)].to(full)
            return torch.autograd.grad((full * part).sum(), parameters, allow_unused=True)

        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for found in self._each_batch(gradients):
                for so_far, gradient in zip(total, found, strict=True):
                    if gradient is not None:
                        so_far += gradient
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
        return dict(zip(names, total, strict=True))

    def jacobian(self, names: Sequence[str]) -> Vector:
        """J at the present θ, [n·P, its size] for each of the named parameters, P the outputs' directions."""
        if not names:
            return {}
        wanted = {name.split("/")[0] for name in names}
        hooked = {name: layer for name, layer in self.layers.items() if name in wanted}
        stacks = {t.name: t.experts for t in self.loaded.targets}
        with capturing(self.model, [inner for inner, _, _ in hooked.values()]) as capture:
            capture.sequences = len(self.rows[0].sequences)

            def rows_of(batch: dict[str, torch.Tensor], _: int) -> Vector:
                capture.clear()
                labels = batch.pop("labels")
                values = forward_outputs(self.outputs, logits_of(self.loaded, self.model(**batch), batch), labels)[0]
                count = len(values)
                passes = [capture.pairs(values[:, p].sum(), count, True) for p in range(values.shape[1])]
                found: Vector = {}
                for name, (inner, a, scale) in hooked.items():
                    g = torch.stack([each[inner][1] for each in passes], 1)  # [B, P, T, b]
                    x = passes[0][inner][0]
                    x = x if a is None else scale * _through(a, x, capture.experts(inner, count), stacks.get(name, 0))
                    weight = torch.einsum("bpto,bti->bpoi", g, x).flatten(2).flatten(0, 1)
                    found[name if a is not None else f"{name}/weight"] = weight
                    if a is None:
                        found[f"{name}/bias"] = g.sum(2).flatten(0, 1)
                return {name: found[name] for name in names}

            parts = self._each_batch(rows_of)
        return {name: torch.cat([part[name] for part in parts]) for name in names}

    # --- what is measured ----------------------------------------------------------------------------------------

    def names(self, selection: Selection) -> list[str]:
        """The parameters that training ``selection`` moves: its B, and the head's."""
        chosen = set(selection.targets)
        return [name for name in self.movable if name in chosen or "/" in name]

    def linearity(
        self, selection: Selection, sigma: float, kernel: np.ndarray, z: np.ndarray, seed: int | None = None
    ) -> Linearity:
        """Move to the ridge solution of ``selection`` and back.

        Args:
            kernel: K_S [n, n] of this draw. z: residual target [n, 1 or C]. seed: measure the Lipschitz constants
                too, one random direction drawn with it; None leaves them out.
        """
        names = self.names(selection)
        self.move({})
        f0 = self.values()
        alpha = np.linalg.lstsq(kernel + sigma * np.eye(len(z)), z)[0]  # σ = 0 where LoRA changes nothing
        direction = self.pull_back(torch.from_numpy(alpha), names)
        lora = {name: change for name, change in direction.items() if "/" not in name}
        gaps = self._gaps(direction, f0, STEPS)
        lora_gaps = self._gaps(lora, f0, (1.0,)) if lora else [None]
        found = Linearity(
            selection=selection.name,
            targets=selection.targets,
            rows=len(self.rows),
            sigma=sigma,
            residual=float(np.linalg.norm(z)),
            distance=_norm(direction),
            lora_distance=_norm(lora),
            steps=STEPS,
            gaps=tuple(gap or 0.0 for gap in gaps),
            lora_gap=lora_gaps[0],
        )
        if seed is not None and direction:
            found = self._with_constants(found, direction, seed)
        self.move({})
        return found

    def _gaps(self, direction: Vector, f0: torch.Tensor, steps: Sequence[float]) -> list[float | None]:
        """The gap at each step, None where the tangent does not change at all."""
        tangent = self._tangent(direction)
        size = float(tangent.norm())
        if size == 0:
            return [None for _ in steps]
        return [float((self._values_at(direction, s) - f0 - s * tangent).norm()) / (s * size) for s in steps]

    def _tangent(self, direction: Vector) -> torch.Tensor:
        """JΔθ by central differences: the step is shortened until two in a row agree, else those that agree best count.

        Δθ can be so far that a fixed share of it is no small step; a short one costs digits where the model is linear.
        """
        found: list[torch.Tensor] = []
        apart: list[float] = []
        for step in TANGENT_STEPS:
            ahead, behind = (self._values_at(direction, sign * step) for sign in (1, -1))
            found.append((ahead - behind) / (2 * step))
            if len(found) > 1:
                apart.append(float((found[-1] - found[-2]).norm()) / (float(found[-1].norm()) or 1.0))
                if apart[-1] <= TANGENT_AGREES:
                    break
        return found[int(np.argmin(apart))]

    def _values_at(self, direction: Vector, step: float) -> torch.Tensor:
        self.move(direction, step)
        return self.values()

    def _with_constants(self, found: Linearity, direction: Vector, seed: int) -> Linearity:
        names = list(direction)
        self.move({})
        f0, origin = self.values(), self.jacobian(names)
        lipschitz, gradient_lipschitz = _spectral_norm(origin), 0.0
        if found.distance > 0:
            for point in (direction, _random_like(direction, found.distance, seed)):
                self.move(point)
                there = self.jacobian(names)
                lipschitz = max(lipschitz, _spectral_norm(there))
                gradient_lipschitz = max(gradient_lipschitz, _spectral_norm(_minus(there, origin)) / found.distance)
        self.move({})
        with self._shifted_inputs(seed) as shift:
            values = self.values()
            value_shift = shift.pop()
        with self._shifted_inputs(seed) as shift:
            jacobian = self.jacobian(names)
            jacobian_shift = shift.pop()
        return replace(
            found,
            lipschitz=lipschitz,
            gradient_lipschitz=gradient_lipschitz,
            input_lipschitz=float((values - f0).norm()) / value_shift,
            input_gradient_lipschitz=_spectral_norm(_minus(jacobian, origin)) / jacobian_shift,
        )

    @contextmanager
    def _shifted_inputs(self, seed: int) -> Iterator[list[float]]:
        """Add noise of 1 % of their norm to the input embeddings; yields the size of what was added so far."""
        generator = torch.Generator().manual_seed(seed)
        added = [0.0]

        @torch.no_grad()
        def shift(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(output.shape, generator=generator).to(output)
            noise *= INPUT_STEP * output.norm() / noise.norm()
            added[0] = math.hypot(added[0], float(noise.norm()))
            return output + noise

        handles = [module.register_forward_hook(shift) for module in input_embeddings(self.model)]
        try:
            yield added
        finally:
            for handle in handles:
                handle.remove()

    def _each_batch(self, compute: Callable[[dict[str, torch.Tensor], int], T]) -> list[T]:
        """``compute`` of each batch and the index of its first row, in order; smaller batches where memory runs out."""
        found: list[T] = []
        start = 0
        while start < len(self.rows):
            end = min(start + self.batch, len(self.rows))
            try:
                found.append(compute(self._collated(start, end), start))
                start = end
            except (MemoryError, RuntimeError) as error:
                longest = max(row.length for row in self.rows[start:end])
                self.batch = fewer_rows(error, end - start, longest, self.session)
        return found

    def _collated(self, start: int, end: int) -> dict[str, torch.Tensor]:
        return collate(self.rows[start:end], self.loaded, self.label_mean, self.label_std)

    def _full(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Differentiable f of one batch, [B, 1 or C]."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = logits_of(self.loaded, self.model(**inputs), inputs)
        if self.outputs.classes > 2:
            return torch.as_tensor(logits - logits.mean(1, keepdim=True))
        return forward_outputs(self.outputs, logits, batch["labels"])[0]


def _through(a: torch.Tensor, x: torch.Tensor, experts: torch.Tensor | None, count: int) -> torch.Tensor:
    """What LoRA's B reads, A·x [B, T, rank]. Of a stack of ``count`` experts PEFT's A holds one expert's rows after another's,
    and B's columns go by rank, then expert: [B, T, rank·count], zero but for each token's own expert."""
    if experts is None:
        return x @ a.T
    own = torch.stack([x @ part.T for part in a.chunk(count)], -1)  # [B, T, rank, count]
    return (own * functional.one_hot(experts, count)[:, :, None]).flatten(2)


def batch_of(loaded: LoadedModel, rows: Sequence[EncodedRow]) -> int:
    """Rows at once: no more tokens than in a pass of a probe, and at most ``BATCH``."""
    return loaded.at_once(max(1, min(BATCH, len(rows), tokens_at_once(loaded.device) // max(row.length for row in rows))))


def gram_of(matrix: torch.Tensor) -> np.ndarray:
    """Inner products of its rows, in double precision."""
    double = matrix.double()
    return np.asarray((double @ double.T).cpu().numpy())


def _norm(vector: Vector) -> float:
    return float(torch.sqrt(torch.stack([(v.double() ** 2).sum() for v in vector.values()]).sum())) if vector else 0.0


def _random_like(vector: Vector, size: float, seed: int) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(v.shape, generator=generator).to(v) for name, v in vector.items()}
    factor = size / _norm(drawn)
    return {name: factor * v for name, v in drawn.items()}


def _minus(one: Vector, other: Vector) -> Vector:
    return {name: tensor - other[name] for name, tensor in one.items()}


def _spectral_norm(jacobian: Vector) -> float:
    """Of the matrix whose column blocks these are."""
    gram = sum((gram_of(part) for part in jacobian.values()), np.zeros((1, 1)))
    if not np.isfinite(gram).all():
        return math.inf
    return math.sqrt(max(float(np.linalg.eigvalsh(gram)[-1]), 0.0))
