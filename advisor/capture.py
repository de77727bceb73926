"""Inputs x and output gradients g of chosen modules, from a frozen model, through hooks that are always removed.

Shapes: x is [examples, tokens, a], g is [examples, tokens, b]; a module called twice gives twice the tokens, so that
Σ_t g_t x_tᵀ stays its full weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from advisor.errors import NotFinite, OutOfMemory
from advisor.events import Session


class Capture:
    """Records the calls of ``names`` during one forward pass of a model."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        # Per call x, the output, and where its gradient arrives, which holds if the output is then changed in place.
        self._calls: dict[str, list[tuple[torch.Tensor, torch.Tensor, GradientEdge | None]]] = {}

    def clear(self) -> None:
        self._calls = {name: [] for name in self.names}

    def record(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            if torch.is_grad_enabled() and not output.requires_grad:
                output.requires_grad_(True)  # it does not come from the input embeddings, yet the weight counts
            edge = get_gradient_edge(output) if output.requires_grad else None
            self._calls[name].append((inputs[0].detach(), output, edge))

        return hook

    def inputs(self, examples: int) -> dict[str, torch.Tensor]:
        """x of every module, [examples, tokens, a].

        Raises:
            SharedCall: there is more than one example, and a module was called for all of them at once.
        """
        return {name: _joined([x for x, _, _ in calls], examples) for name, calls in self._calls.items()}

    def gradients(self, scalar: torch.Tensor, examples: int, keep_graph: bool) -> dict[str, torch.Tensor]:
        """d(scalar)/d(output) of every module, [examples, tokens, b]; zero where the scalar does not depend on it."""
        edges = [edge for calls in self._calls.values() for _, _, edge in calls if edge]
        found = iter(torch.autograd.grad(scalar, edges, retain_graph=keep_graph, allow_unused=True))
        result = {}
        for name, calls in self._calls.items():
            parts = []
            for _, out, edge in calls:
                g = next(found) if edge else None
                parts.append(torch.zeros_like(out) if g is None else g)
            result[name] = _joined(parts, examples)
        return result

    def first_not_finite(self) -> str | None:
        """The first module, in order of calling, whose output holds NaN or infinity."""
        for name, calls in self._calls.items():
            if any(not bool(torch.isfinite(out).all()) for _, out, _ in calls):
                return name
        return None

    def require_finite(self, outputs: torch.Tensor) -> None:
        """Raises:
        NotFinite: the outputs hold NaN or infinity; names the first module that does.
        """
        if not bool(torch.isfinite(outputs).all()):
            culprit = self.first_not_finite()
            where = f"module {culprit}" if culprit else "the output layer (all modules before it are finite)"
            raise NotFinite(
                f"The model's output is NaN or infinite; it starts at {where}.",
                "Try --dtype float32, or check the checkpoint.",
            )


def lacks_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, of this machine or of an accelerator, is used up."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error).lower()


class SharedCall(RuntimeError):
    """A module read a tensor that all rows of the batch share, so that its gradient is not one row's. A batch of one row
    has no such trouble."""


def fewer_rows(error: BaseException, rows: int, tokens: int, session: Session) -> int:
    """Half of ``rows``, to try again with, if ``error`` is lack of memory; 1 if it is a :class:`SharedCall`; says so.

    Raises:
        OutOfMemory: one row, of ``tokens`` tokens, does not fit. ``error`` itself, if it is something else.
    """
    if isinstance(error, SharedCall):
        session.note("A module reads something that all rows of a batch share: going on with one row at a time.")
        return 1
    if not lacks_memory(error):
        raise error
    if rows == 1:
        raise OutOfMemory(f"One row of {tokens} tokens does not fit in memory.", "Lower --max-length.") from error
    session.warn(f"Out of memory with {rows} rows at once; going on with {rows // 2}.")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows // 2


def _joined(parts: list[torch.Tensor], examples: int) -> torch.Tensor:
    # Some models flatten [examples, tokens] for their MLP, some heads see [examples, features]. DeBERTa's queries and keys
    # also read the table of relative positions, [1, positions, features], once for all rows.
    if examples > 1 and any((p.dim() > 2 and len(p) != examples) or p.shape[:-1].numel() % examples for p in parts):
        raise SharedCall
    shaped = [p.reshape(examples, -1, p.shape[-1]) for p in parts]
    return shaped[0] if len(shaped) == 1 else torch.cat(shaped, 1)


@contextmanager
def capturing(model: nn.Module, names: Sequence[str]) -> Iterator[Capture]:
    """Hook ``names`` and make gradients flow from the embeddings through the frozen model; restore on leaving."""
    capture = Capture(names)
    capture.clear()
    modules = [model.get_submodule(name) for name in names]

    def start_graph(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.requires_grad_(True)

    embeddings: Any = model
    handles = [embeddings.get_input_embeddings().register_forward_hook(start_graph)]
    try:
        for name, module in zip(names, modules, strict=True):
            handles.append(module.register_forward_hook(capture.record(name)))
        yield capture
    finally:
        for handle in handles:
            handle.remove()
        capture._calls = {}
