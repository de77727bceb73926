"""What one training step keeps in memory, measured by a few small forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from advisor.core.choices import CONNECTOR, VISION
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.tasks import SPANS
from advisor.models.encode import EncodedRow, collate
from advisor.models.experts import called_module
from advisor.models.forward import autocasts, batch_loss
from advisor.models.load import LoadedModel
from advisor.models.modules import input_embeddings
from advisor.models.placement import tensor_bytes
from advisor.models.tables import output_table
from advisor.theory.training_cost import Growth, TrainingFootprint

TOKENS = 16  # the passes have 1, 2 and 3 times as many
ROLES_ALONE = 12  # roles measured alone, attention's first: a mixture of experts may have hundreds
HEAD_ALONE = -1  # a gradient that starts nowhere: the head's only
BATCHES = ((2, 1), (4, 1), (2, 2), (2, 3))  # rows and multiples of TOKENS: as many as a Growth has numbers
IMAGE_BATCHES = (2, 4)  # rows


def measure_training(loaded: LoadedModel, rows: Sequence[EncodedRow]) -> TrainingFootprint:
    """What a training step on ``loaded`` keeps for its backward pass, as a function of the batch's size.

    Forward passes in train mode, without a backward pass, on 32 to 96 tokens made of ``rows`` repeated or cut; the
    gradient starts at the embeddings and the head is trainable. Every tensor kept is counted once, by its storage;
    parameters and buffers are not. There are four passes, because some of it grows with the batch (activations),
    some with the square of its length (attention), some not at all (weights cast by autocast); and four more for each
    role in the last layer that has it, where the gradient starts at that module alone (the values of an attention
    need not keep its queries), and where only the head has one. Images all have as many tokens: of them there are two
    passes, and what grows grows with the tokens. A source and its target get their usual shares of the tokens. The model
    is left as it was.
    """
    model: Any = loaded.model
    names = [t.name for t in loaded.targets]
    if loaded.reads == "images":
        shapes = [(batch, loaded.image_tokens) for batch in IMAGE_BATCHES]
        batches = [collate([rows[i % len(rows)] for i in range(batch)], loaded) for batch, _ in shapes]
        grows = [0, 2]
    elif any(row.images for row in rows):
        shapes, batches = _with_images(loaded, rows)
        grows = [0, 1, 2, 3]
    else:
        unit = max(2, min(TOKENS, loaded.max_length // 3))
        shapes = [(batch, unit * multiple) for batch, multiple in BATCHES]
        batches = [_batch(loaded, rows, batch, tokens) for batch, tokens in shapes]
        grows = [0, 1, 2, 3]
    design = np.array([[1, b, b * t, b * t * t] for b, t in shapes], dtype=np.float64)[:, grows]

    def fit(counts: list[list[float]]) -> np.ndarray:
        found = np.zeros((len(counts[0]), 4))
        found[:, grows] = np.linalg.solve(design, np.array(counts)).round(6).T
        return found

    attention_first = sorted(enumerate(loaded.targets), key=lambda pair: pair[1].group != "attention")
    last_of = dict(list({t.role: i for i, t in attention_first}.items())[:ROLES_ALONE])
    with _trainable(loaded), _Recorder(loaded, names) as recorder:
        alone = {role: fit([recorder.run(dict(b), start) for b in batches]) for role, start in last_of.items()}
        head_alone = fit([recorder.run(dict(b), HEAD_ALONE) for b in batches])
        fits = fit([recorder.run(dict(b)) for b in batches])
    order = recorder.order()
    spared = {
        role: (fits[order[order.index(last_of[role]) :]].sum(0) - kept[: len(names)].sum(0))
        * (last_of[role] in recorder.inputs)  # an idle expert was never called
        for role, kept in alone.items()
    }
    output = output_table(model) if loaded.task in LANGUAGE_TASKS else None
    return TrainingFootprint(
        weight_bytes=sum(tensor_bytes(t) for t in _tensors(model)),
        weight_itemsize=loaded.dtype.itemsize,
        autocast=autocasts(loaded),
        targets=tuple(names[i] for i in order),
        saved=tuple(_growth(fits[i]) for i in order),
        spared_alone=tuple(_growth(spared.get(loaded.targets[i].role, np.zeros(4))) for i in order),
        head_saved=_growth(fits[-2]),
        head_saved_alone=_growth(head_alone[-2]),
        inputs=tuple(recorder.inputs.get(i, i) for i in order),
        input_kept_by=tuple(order.index(recorder.kept_by[i]) if i in recorder.kept_by else -1 for i in order),
        logits=_growth(fits[-1]),
        other_macs=float(output.weight.numel()) * _shares([s for row in rows for s in row.sequences])[1]
        if output is not None
        else 0.0,
        measured_on=tuple(shapes),
        seen=tuple(recorder.tokens.get(i, 0) / (shapes[-1][0] * shapes[-1][1]) for i in order),
    )


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _growth(fit: np.ndarray) -> Growth:
    once, per_row, per_token, per_pair = (float(v) for v in fit)
    return once, per_row, per_token, per_pair


def _shares(rows: Sequence[EncodedRow]) -> tuple[float, float]:
    """Tokens that are read and that are predicted, as shares of a row's length: 1 and 1 but for a source and its target."""
    longest = sum(row.length for row in rows)
    return sum(len(row.ids) for row in rows) / longest, sum(len(row.token_labels) for row in rows) / longest


def _batch(loaded: LoadedModel, rows: Sequence[EncodedRow], batch: int, tokens: int) -> dict[str, torch.Tensor]:
    """``batch`` rows of ``tokens`` tokens, the last one token short, so that there is padding to mask as usual."""

    def fitted(values: Sequence[int], length: int) -> tuple[int, ...]:
        return tuple(values[i % len(values)] for i in range(length))

    parts = len(rows[0].sequences)
    rows = [sequence for row in rows for sequence in row.sequences]
    shares = _shares(rows)
    made = []
    for i in range(batch * parts):
        row = rows[i % len(rows)]
        read, predicted = (max(2, round(tokens / parts * share)) - (i == batch * parts - 1) for share in shares)
        labels = fitted(row.token_labels, predicted - 1) if row.token_labels else ()
        labels = (*labels, max(row.token_labels)) if row.token_labels else ()  # at least one token to predict
        made.append(
            EncodedRow(
                fitted(row.ids, read),
                fitted(row.types, read) if row.types is not None else None,
                row.label,
                (0, 1) if loaded.task == SPANS else labels,
            )
        )
    return collate([replace(made[i], others=tuple(made[i + 1 : i + parts])) for i in range(0, len(made), parts)], loaded)


def _with_images(loaded: LoadedModel, rows: Sequence[EncodedRow]) -> tuple[list[tuple[int, int]], list[dict[str, torch.Tensor]]]:
    """Shapes (rows, tokens) and batches of one row with images, of middling length, repeated and with more text behind it."""
    seen = sorted((row for row in rows if row.images), key=lambda row: row.length)
    row = seen[len(seen) // 2]
    unit = max(TOKENS, row.length // 2)
    shapes = [(1, row.length + 1), (2, row.length + 1), (1, row.length + unit), (2, row.length + 2 * unit)]
    batches = []
    for count, tokens in shapes:
        more = tokens - row.length
        longer = replace(
            row,
            ids=(*row.ids, *[row.ids[-1]] * more),
            token_labels=(*row.token_labels, *[row.ids[-1]] * more),
            by_token={key: (*values, *[values[-1]] * more) for key, values in row.by_token.items()},
        )
        batches.append(collate([row, *[longer] * (count - 1)] if count > 1 else [longer], loaded))
    return shapes, batches


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
        self.inputs: dict[int, int] = {}  # target -> the first target that reads the same tensor
        self.kept_by: dict[int, int] = {}  # target whose input the model keeps anyway -> called last before that
        self.tokens: dict[int, int] = {}  # that a target saw, in the last pass
        self._called: list[int] = []
        self._reads: dict[int, torch.Tensor] = {}
        self._current: int | None = None  # what comes before the first target is never kept
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        model: Any = self.loaded.model
        for index, name in enumerate(self.names):
            self._handles.append(called_module(model, name).register_forward_pre_hook(self._enter(index)))
        for name in self.loaded.head:
            self._handles.append(model.get_submodule(name).register_forward_pre_hook(self._enter(len(self.names))))
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
                self.tokens[index] = inputs[0].shape[:-1].numel()

        return hook

    def run(self, batch: dict[str, torch.Tensor], start: int | None = None) -> list[float]:
        """One forward pass: bytes for each target, the head, and the number of logits.

        The gradient starts at the output of target ``start`` (or nowhere: ``HEAD_ALONE``), None: of the embeddings.
        """
        model: Any = self.loaded.model
        logits = 0
        weights = {t.untyped_storage().data_ptr() for t in _tensors(model)}
        counts = [0.0] * (len(self.names) + 1)
        kept: dict[int, tuple[torch.UntypedStorage, int | None]] = {}  # held, so that no address is used twice
        self._current, self._called, self._reads = None, [], {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            fetched = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)  # only while it is used
            if not fetched and address not in weights and address not in kept:
                kept[address] = storage, self._current
                if self._current is not None:
                    counts[self._current] += storage.nbytes()
            return tensor.detach()

        def count_logits(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal logits
            if not torch.is_grad_enabled():  # a pass that only compares
                return
            read = next(output[key] for key in ("start_logits", "logits", "last_hidden_state") if key in output)
            logits = read.numel()

        handles = [model.register_forward_hook(count_logits)]
        if start != HEAD_ALONE:
            first = [*input_embeddings(model), *self._sees()] if start is None else [called_module(model, self.names[start])]
            handles += [module.register_forward_hook(_start_graph) for module in first]
        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                batch_loss(model, self.loaded, batch)
        finally:
            for handle in handles:
                handle.remove()
        self._note_inputs(kept)
        return [*counts, float(logits)]

    def _sees(self) -> list[nn.Module]:
        """The first target of a vision tower, as nothing that is trained comes before it."""
        outside = [t.name for t in self.loaded.targets if t.group in (VISION, CONNECTOR)]
        return [called_module(self.loaded.model, name) for name in outside[:1]]

    def _note_inputs(self, kept: dict[int, tuple[torch.UntypedStorage, int | None]]) -> None:
        first: dict[int, int] = {}
        self.kept_by = {}
        for index in self._called:
            address = self._reads[index].untyped_storage().data_ptr()
            self.inputs[index] = first.setdefault(address, index)
            keeper = kept[address][1] if address in kept else None
            if keeper is not None:
                self.kept_by[index] = keeper
        self._reads = {}

    def order(self) -> list[int]:
        """Targets in calling order; one that was not called (an idle expert) follows its predecessor in the model."""
        order = list(self._called)
        for index in range(len(self.names)):
            if index not in order:
                order.insert(order.index(index - 1) + 1 if index else 0, index)
        return order


def _start_graph(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.requires_grad_(True).clone()  # Falcon adds to it in place, which a leaf does not take
