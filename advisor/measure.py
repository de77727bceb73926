"""What one training step keeps in memory, measured by a few small forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from advisor.cost import Growth, TrainingFootprint
from advisor.encode import IGNORED, Row, collate
from advisor.finetune import _loss, bf16_autocast
from advisor.models import LoadedModel

TOKENS = 16  # the passes have 1, 2 and 3 times as many
BATCHES = ((2, 1), (4, 1), (2, 2), (2, 3))  # rows and multiples of TOKENS: as many as a Growth has numbers


def measure_training(loaded: LoadedModel, rows: Sequence[Row]) -> TrainingFootprint:
    """What a training step on ``loaded`` keeps for its backward pass, as a function of the batch's size.

    Four forward passes in train mode, without a backward pass, on at most 4 × 48 tokens made of ``rows`` repeated or
    cut; the gradient starts at the embeddings and the head is trainable. Every tensor kept is counted once, by its
    storage; parameters and buffers are not. Four passes, because some of it grows with the batch (activations),
    some with the square of its length (attention), some not at all (weights cast by autocast). The model is left
    as it was.
    """
    model: Any = loaded.model
    names = [t.name for t in loaded.targets]
    unit = max(2, min(TOKENS, loaded.max_length // 3))
    shapes = [(batch, unit * multiple) for batch, multiple in BATCHES]
    counts = []
    with _trainable(loaded), _Recorder(loaded, names) as recorder:
        for batch, tokens in shapes:
            counts.append(recorder.run(_batch(loaded, rows, batch, tokens)))
    design = np.array([[1, b, b * t, b * t * t] for b, t in shapes], dtype=np.float64)
    fits = np.linalg.solve(design, np.array(counts, dtype=np.float64)).round(6).T + 0.0
    growths = [_growth(fit) for fit in fits]
    order = recorder.order()
    output = model.get_output_embeddings() if loaded.task == "causal-lm" else None
    return TrainingFootprint(
        weight_bytes=sum(t.numel() * t.element_size() for t in _tensors(model)),
        weight_itemsize=loaded.dtype.itemsize,
        autocast=bf16_autocast(loaded.device),
        targets=tuple(names[i] for i in order),
        saved=tuple(growths[i] for i in order),
        head_saved=growths[-2],
        inputs=tuple(recorder.inputs.get(i, len(names) + i) for i in order),
        logits=growths[-1],
        other_macs=float(output.weight.numel()) if output is not None else 0.0,
        measured_on=tuple(shapes),
    )


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _growth(fit: np.ndarray) -> Growth:
    once, per_row, per_token, per_pair = (float(v) for v in fit)
    return once, per_row, per_token, per_pair


def _batch(loaded: LoadedModel, rows: Sequence[Row], batch: int, tokens: int) -> dict[str, torch.Tensor]:
    """``batch`` rows of ``tokens`` tokens, the last one token short, so that there is padding to mask as usual."""

    def fitted(values: Sequence[int], length: int) -> tuple[int, ...]:
        return tuple(values[i % len(values)] for i in range(length))

    made = []
    for i in range(batch):
        row, length = rows[i % len(rows)], tokens - (i == batch - 1)
        labels = fitted(row.token_labels, length - 1) if row.token_labels else ()
        made.append(
            Row(
                fitted(row.ids, length),
                fitted(row.types, length) if row.types is not None else None,
                row.label,
                (*labels, row.ids[-1]) if labels else (),  # at least one token to predict
            )
        )
    assert all(r.token_labels == () or any(v != IGNORED for v in r.token_labels[1:]) for r in made)
    return collate(made, loaded)


@contextmanager
def _trainable(loaded: LoadedModel) -> Iterator[None]:
    """Train mode, and a head that takes gradients; modes, flags and random state are restored."""
    modes = {module: module.training for module in loaded.model.modules()}
    head = [p for name in loaded.head for p in loaded.model.get_submodule(name).parameters()]
    flags = [p.requires_grad for p in head]
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            loaded.model.train()
            for parameter in head:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, flag in zip(head, flags, strict=True):
                parameter.requires_grad_(flag)
            for module, mode in modes.items():
                module.training = mode


class _Recorder:
    """Counts bytes saved for the backward pass, by the target called last; the head comes after all targets."""

    def __init__(self, loaded: LoadedModel, names: Sequence[str]) -> None:
        self.loaded = loaded
        self.names = names
        self.inputs: dict[int, int] = {}  # target -> which tensor its A would keep, -1: kept anyway
        self._called: list[int] = []
        self._reads: dict[int, torch.Tensor] = {}
        self._current: int | None = None  # what comes before the first target is never kept
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        model: Any = self.loaded.model
        for index, name in enumerate(self.names):
            self._handles.append(model.get_submodule(name).register_forward_pre_hook(self._enter(index)))
        for name in self.loaded.head:
            self._handles.append(model.get_submodule(name).register_forward_pre_hook(self._enter(len(self.names))))
        self._handles.append(model.get_input_embeddings().register_forward_hook(_start_graph))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._current = index
            if index < len(self.names) and index not in self._called:
                self._called.append(index)
                self._reads[index] = inputs[0]

        return hook

    def run(self, batch: dict[str, torch.Tensor]) -> list[float]:
        """One forward pass: bytes for each target, the head, and the number of logits."""
        model, logits = self.loaded.model, 0
        weights = {t.untyped_storage().data_ptr() for t in _tensors(model)}
        counts = [0.0] * (len(self.names) + 1)
        kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice
        self._current, self._called, self._reads = None, [], {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if address not in weights and address not in kept:
                kept[address] = storage
                if self._current is not None:
                    counts[self._current] += storage.nbytes()
            return tensor.detach()

        def count_logits(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal logits
            logits = output.logits.numel()

        handle = model.register_forward_hook(count_logits)
        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                _loss(model, self.loaded, batch)
        finally:
            handle.remove()
        self.inputs = self._shared_inputs(kept)
        self._reads = {}
        return [*counts, float(logits)]

    def _shared_inputs(self, kept: dict[int, torch.UntypedStorage]) -> dict[int, int]:
        """PEFT hands A its input in float32: where that needs no cast, the tensor itself is kept, once."""
        groups: dict[int, int] = {}
        found = {}
        for index, x in self._reads.items():
            address = x.untyped_storage().data_ptr()
            if bf16_autocast(self.loaded.device) or x.dtype != torch.float32:
                found[index] = index
            else:
                found[index] = -1 if address in kept else groups.setdefault(address, index)
        return found

    def order(self) -> list[int]:
        """Targets in calling order; one that was not called (an idle expert) follows its predecessor in the model."""
        order = list(self._called)
        for index in range(len(self.names)):
            if index not in order:
                order.insert(order.index(index - 1) + 1 if index else 0, index)
        return order


def _start_graph(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.requires_grad_(True)
