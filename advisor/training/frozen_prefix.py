"""Hidden states that leave the frozen blocks of a model, kept so that real runs need not compute them at every epoch.

The blocks below the lowest adapted module give a row the same states in every epoch and in every run. With the states at
hand the model runs as it is, but its frozen blocks hand them over instead of working. Evaluation may always do so,
training where the frozen blocks draw no random numbers: their dropout, where they have any, belongs to the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from advisor.core.targets import Selection, block_of
from advisor.core.tasks import COMPARED
from advisor.models.encode import EncodedRow, length_bucketed
from advisor.models.load import LoadedModel

KEPT_BYTES = 2_000_000_000  # of one process, for all its runs
RECORD_BATCH = 64
CHECKED_ROWS = 8
CLOSE, CLOSE_BF16 = 1e-4, 3e-2  # relative differences that may be rounding, of float32 and of bfloat16 products

Forward = Callable[[Sequence[EncodedRow]], torch.Tensor]
"""Outputs of the frozen model for some rows, [rows, …], computed with the precision that runs have."""


@dataclass(frozen=True)
class States:
    """What the last of ``depth`` frozen blocks returns for each row: [tokens, width], without padding, in host memory.

    ``returned``: how many values that block returns in a tuple, the states first; 0 where it returns the states alone.
    """

    container: str
    depth: int
    values: list[torch.Tensor]
    returned: int

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for value in self.values)

    @contextmanager
    def replayed(self, model: nn.Module, indices: Sequence[int]) -> Iterator[None]:
        """Within, the frozen blocks of ``model`` (the frozen one or a trained copy) only return these rows' states.

        Rows are padded on the right with zeros: no other token attends to padding.
        """
        padded = pad_sequence([self.values[i] for i in indices], batch_first=True)
        padded = padded.to(next(model.parameters()).device)
        output = (padded, *[None] * (self.returned - 1)) if self.returned else padded
        blocks: list[Any] = list(model.get_submodule(self.container).children())[: self.depth]
        for block in blocks:
            block.forward = lambda *_, **__: output
        try:
            yield
        finally:
            for block in blocks:
                del block.forward  # its class's own is seen again


class PrefixStates:
    """The states of one frozen model's rows, kept between runs in at most ``limit`` bytes; 0 keeps none."""

    def __init__(self, loaded: LoadedModel, limit: int = KEPT_BYTES) -> None:
        self.loaded, self.limit = loaded, limit
        self._kept: dict[tuple[int, int, bool], States | None] = {}  # by depth, identity of the rows, training
        self._pinned: list[Sequence[EncodedRow]] = []  # so that no identity is used twice
        containers = {place[0] for t in loaded.targets if t.layer is not None and (place := block_of(t.name))}
        self._container = containers.pop() if len(containers) == 1 else ""

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return sum(states.bytes for states in self._kept.values() if states is not None)

    def depth(self, selection: Selection) -> int:
        """How many blocks lie below every adapted module; 0 where it has not one list of blocks, or texts are compared."""
        if self.loaded.task in COMPARED:
            return 0
        blocks = self.loaded.model.get_submodule(self._container)
        if not isinstance(blocks, nn.ModuleList):
            return 0
        chosen = set(selection.targets)
        layers = [t.layer or 0 for t in self.loaded.targets if t.name in chosen]  # outside the blocks: 0
        return min(layers, default=len(blocks))

    @torch.no_grad()
    def of(self, depth: int, rows: Sequence[EncodedRow], forward: Forward, training: bool = False) -> States | None:
        """The states of ``rows`` where ``depth`` blocks are frozen, or None: then the whole model must run.

        None where they and others of this depth take more than ``limit`` bytes, where the outputs of the model that
        starts from them are not its own, and in training where the frozen blocks draw random numbers. What was asked for
        at other depths makes no difference: a run's result does not depend on the runs before it.
        """
        if not depth or not self.limit:
            return None
        key = depth, id(rows), training
        if key not in self._kept:
            self._pinned.append(rows)
            drawn = training and self._draws(depth, rows, forward)
            self._kept[key] = None if drawn else self._recorded(depth, rows, forward)
        return self._kept[key]

    def _recorded(self, depth: int, rows: Sequence[EncodedRow], forward: Forward) -> States | None:
        values = [torch.empty(0)] * len(rows)
        tokens = sum(row.length for row in rows)
        for indices in length_bucketed([row.length for row in rows], RECORD_BATCH):
            batch = [rows[i] for i in indices]
            output, tolerance = self._leaving(depth, forward, batch)
            hidden = _states_in(output)
            if not isinstance(hidden, torch.Tensor) or hidden.shape[:2] != (len(batch), max(r.length for r in batch)):
                return None
            if not self._room(depth, tokens * hidden.shape[2] * hidden.element_size()):
                return None
            for i, row, states in zip(indices, batch, hidden, strict=True):
                values[i] = states[: row.length].to("cpu", copy=True)
        found = States(self._container, depth, values, len(output) if isinstance(output, tuple) else 0)
        return found if self._replays(found, rows, forward, tolerance) else None

    def _replays(self, states: States, rows: Sequence[EncodedRow], forward: Forward, tolerance: float) -> bool:
        """Whether states are the same with other padding, and the outputs that follow from them the model's own.

        Of rows of all lengths together, and of the shortest without any padding. Outputs may nearly cancel, so that
        rounding of states would show in them too much: they are compared given the very states of the same batch.
        """
        mixed = _of_all_lengths(rows)
        for indices in (mixed, mixed[:1]):
            batch = [rows[i] for i in indices]
            hidden = _states_in(self._leaving(states.depth, forward, batch)[0])
            kept = pad_sequence([states.values[i] for i in indices], batch_first=True).to(hidden.device)
            fresh = [one[: row.length].cpu() for one, row in zip(hidden, batch, strict=True)]
            expected = forward(batch)
            try:
                with replace(states, values=fresh).replayed(self.loaded.model, range(len(batch))):
                    found = forward(batch)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
                return False  # its blocks share more than states
            if not _close(kept, hidden, batch, tolerance) or not _close(found, expected, batch, CLOSE):
                return False
        return True

    def _draws(self, depth: int, rows: Sequence[EncodedRow], forward: Forward) -> bool:
        """Whether the frozen blocks draw random numbers in training, or do anything else that evaluation does not."""
        model, device = self.loaded.model, self.loaded.device
        batch = [rows[i] for i in _of_all_lengths(rows)]
        still, tolerance = self._leaving(depth, forward, batch)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            before = _random_state(device)
            model.train()
            try:
                trained, _ = self._leaving(depth, forward, batch)
            finally:
                model.eval()
            if not torch.equal(_random_state(device), before):
                return True
        return not _close(_states_in(trained), _states_in(still), batch, tolerance)

    def _leaving(self, depth: int, forward: Forward, batch: Sequence[EncodedRow]) -> tuple[Any, float]:
        """What the last frozen block returns, and the relative difference that may be rounding."""
        block = self.loaded.model.get_submodule(self._container)[depth - 1]
        handle = block.register_forward_hook(_stop)
        try:
            forward(batch)
        except _Reached as reached:
            rough = torch.bfloat16 if reached.autocast else self.loaded.dtype
            return reached.output, CLOSE if rough in (torch.float32, torch.float64) else CLOSE_BF16
        finally:
            handle.remove()
        return None, 0.0  # the block was never called

    def _room(self, depth: int, needed: int) -> bool:
        """Whether ``needed`` bytes more fit; makes room by dropping the states of other depths, the oldest first."""
        sizes = {key: states.bytes for key, states in self._kept.items() if states is not None}
        if sum(size for key, size in sizes.items() if key[0] == depth) + needed > self.limit:
            return False
        for key in [key for key in sizes if key[0] != depth]:
            if sum(sizes.values()) + needed > self.limit:
                del self._kept[key], sizes[key]
        return True


class _Reached(Exception):
    """Ends a forward pass after the last frozen block."""

    def __init__(self, output: Any, autocast: bool) -> None:
        self.output, self.autocast = output, autocast


def _states_in(output: Any) -> Any:
    """The hidden states in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output, torch.is_autocast_enabled(next(module.parameters()).device.type))


def _of_all_lengths(rows: Sequence[EncodedRow]) -> list[int]:
    """Indices of a few rows, from the shortest to the longest."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].length)
    last = len(order) - 1
    return [order[i] for i in sorted({k * last // (CHECKED_ROWS - 1) for k in range(CHECKED_ROWS)})]


def _close(found: Any, expected: Any, batch: Sequence[EncodedRow], tolerance: float) -> bool:
    """Whether two [rows, tokens, …] or [rows, classes] tensors agree; what stands at padding has no meaning."""
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    if expected.ndim == 3:
        real = torch.tensor([[t < row.length for t in range(expected.shape[1])] for row in batch])
        found, expected = found[real.to(found.device)], expected[real.to(found.device)]
    return bool((found - expected).norm() <= tolerance * expected.norm())


def _random_state(device: torch.device) -> torch.Tensor:
    """Of every generator that a forward pass on ``device`` may draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
