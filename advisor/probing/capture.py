"""Inputs x and output gradients g of chosen modules, from a frozen model, through hooks that are always removed.

Shapes: x is [examples, tokens, a], g is [examples, tokens, b]; a module called twice gives twice the tokens, so that
Σ_t g_t x_tᵀ stays its full weight gradient. A stack of experts sees a token once for each expert that it goes through.
Both are handed over, module by module, as soon as the backward pass has them, so that they need not all be held at once.
Blocks may be recomputed in the backward pass instead of keeping what it needs of them: the memory of one block at a time,
for one more forward pass; x and g are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from advisor.core.choices import LANGUAGE
from advisor.core.errors import NotFinite, OutOfMemory, lacks_memory
from advisor.core.events import Session
from advisor.models.experts import called_module
from advisor.models.modules import input_embeddings
from advisor.models.vision import part_of

Take = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Receives a module's name, x and g."""


@dataclass
class _Call:
    """One call of a module.

    Attributes:
        x: its input; None where it was handed over, or will be recomputed. g: the gradient of its output, once it is known.
        x_like, g_like: tensors without memory, of their shapes.
        size: largest absolute output, NaN or infinite where an output is.
        experts: of a stack, the expert of each token.
        recomputed: its block runs again in every backward pass, which brings x.
    """

    x: torch.Tensor | None
    g: torch.Tensor | None
    x_like: torch.Tensor
    g_like: torch.Tensor
    size: torch.Tensor
    recomputed: bool
    experts: torch.Tensor | None = None


class Capture:
    """Records the calls of modules during one forward pass of a model, and hands over x and g in backward passes.

    ``recompute`` may be changed between forward passes, and so may ``sequences``, which an example has one after the other along
    the batch: their tokens are put side by side. ``apart`` says which modules do not see examples but the images of all of
    them, one after the other; of a row without images they may not be called.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], recompute: bool = False, apart: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.names = tuple(modules)
        self.recompute = recompute
        self.sequences = 1
        self._modules, self._apart = dict(modules), apart
        self.clear()

    def clear(self) -> None:
        """Forget the pass before."""
        self._calls: dict[str, list[_Call]] = {name: [] for name in self.names}
        self._leaves: list[torch.Tensor] = []  # where the graph starts: outputs that come from no captured module
        self._block: list[_Call] | None = None  # calls of the block that runs, if it will be recomputed
        self._again: Iterator[_Call] | None = None  # the same while it is
        self._take: Take | None = None
        self._waiting: set[str] = set()
        self._examples, self._last = 1, True

    # --- forward -------------------------------------------------------------------------------------------------

    def record(self, name: str) -> Callable[..., torch.Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            x = inputs[0].detach()
            leaf = output
            if starts := torch.is_grad_enabled() and not output.requires_grad:
                output = leaf.requires_grad_(True).clone()  # a leaf must not be changed in place
            if self._again is not None:
                call = next(self._again)
                call.x = x
                self._offer(name)
                return output
            kept = None if self._block is not None else x
            size = torch.linalg.vector_norm(leaf.detach(), torch.inf)
            call = _Call(kept, None, _without_memory(x), _without_memory(leaf), size, self._block is not None, *inputs[1:2])
            self._calls[name].append(call)
            if self._block is not None:
                self._block.append(call)
            if starts:
                self._leaves.append(leaf)
            if output.requires_grad:
                # What made the output sees its gradient even if the output is changed in place later. A tensor's own hooks do
                # not where it is a view, as that of a biased layer is: its graph is another one then (Longformer's queries).
                whole = output._base
                made: Any = output.grad_fn if whole is None or whole.grad_fn is None else whole.grad_fn
                made.register_prehook(lambda g: self._arrived(name, call, g[0]))
            return output

        return hook

    def recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A block's ``forward`` that runs again in the backward pass, while ``recompute`` is on."""

        def block(*args: Any, **kwargs: Any) -> Any:
            if not (self.recompute and torch.is_grad_enabled()):
                return forward(*args, **kwargs)
            calls: list[_Call] = []
            seen = False

            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                before = self._block, self._again
                self._block, self._again = calls, iter(calls) if seen else None
                seen = True
                try:
                    return forward(*args, **kwargs)
                finally:
                    self._block, self._again = before

            # Without early stop, so that the last module's hook runs too.
            return checkpoint(run, *args, use_reentrant=False, early_stop=False, **kwargs)

        return block

    # --- backward ------------------------------------------------------------------------------------------------

    def backward(self, scalar: torch.Tensor, examples: int, keep_graph: bool, take: Take) -> None:
        """One backward pass from ``scalar``: ``take(name, x, g)`` once for every module, as soon as both are there.

        g is zero where the scalar does not depend on the module.

        Raises:
            SharedCall: there is more than one example, and a module was called for all of them at once.
        """
        self._take, self._examples, self._last = take, examples, not keep_graph
        self._waiting = {name for name, calls in self._calls.items() if calls}
        if scalar.requires_grad and self._leaves:
            torch.autograd.grad(scalar, self._leaves, retain_graph=keep_graph, allow_unused=True)
        for name in [name for name in self.names if name in self._waiting]:
            for call in self._calls[name]:
                call.g = torch.zeros_like(call.g_like) if call.g is None else call.g
                call.x = torch.zeros_like(call.x_like) if call.x is None else call.x
            self._offer(name)
        for name in self.names:
            if not self._calls[name] and self._apart(name):
                take(name, *_idle(self._modules[name], examples))
        self._take = None

    def pairs(self, scalar: torch.Tensor, examples: int, keep_graph: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """x and g of every module, all of them at once."""
        found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def take(name: str, x: torch.Tensor, g: torch.Tensor) -> None:
            found[name] = x, g

        self.backward(scalar, examples, keep_graph, take)
        return found

    def experts(self, name: str, examples: int) -> torch.Tensor | None:
        """Of a stack of experts, the expert of each token, [examples, tokens] as in its x; of a module None."""
        parts = [call.experts for call in self._calls[name] if call.experts is not None]
        return torch.cat([part.reshape(examples, -1) for part in parts], 1) if parts else None

    def _arrived(self, name: str, call: _Call, g: torch.Tensor | None) -> None:
        call.g = torch.zeros_like(call.g_like) if g is None else g.detach().reshape(call.g_like.shape)  # None: autograd's zero
        self._offer(name)

    @torch.no_grad()
    def _offer(self, name: str) -> None:
        """Hand over x and g if those of all calls are there."""
        calls = self._calls[name]
        if self._take is None or name not in self._waiting or any(c.x is None or c.g is None for c in calls):
            return
        if self._examples > 1 and self._apart(name):
            raise SharedCall
        self._waiting.remove(name)
        x = _joined([c.x for c in calls if c.x is not None], self._examples, self.sequences)
        g = _joined([c.g for c in calls if c.g is not None], self._examples, self.sequences)
        for call in calls:
            call.g = None
            if self._last or call.recomputed:
                call.x = None
        self._take(name, x.to(g.device), g)  # where two devices meet, the module's input may lie on the one before

    def held(self) -> dict[int, torch.UntypedStorage]:
        """The memory of the inputs that are kept, by address."""
        kept = [call.x.untyped_storage() for calls in self._calls.values() for call in calls if call.x is not None]
        return {storage.data_ptr(): storage for storage in kept}

    def sizes(self) -> tuple[int, int]:
        """Bytes of all inputs, and of all output gradients of one scalar, each module's its own."""
        calls = [call for calls in self._calls.values() for call in calls]
        return sum(c.x_like.nbytes for c in calls), sum(c.g_like.nbytes for c in calls)

    # --- checks --------------------------------------------------------------------------------------------------

    def first_not_finite(self) -> str | None:
        """The first module, in order of calling, whose output holds NaN or infinity."""
        for name, calls in self._calls.items():
            if any(not bool(torch.isfinite(call.size)) for call in calls):
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


class SharedCall(RuntimeError):
    """A module read a tensor that all rows of the batch share, or the images of them all, so that its gradient is not one row's.
    A batch of one row has no such trouble."""


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
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if rows == 1:
        raise OutOfMemory(f"One row of {tokens} tokens does not fit in memory.", "Lower --max-length.") from error
    session.warn(f"Out of memory with {rows} rows at once; going on with {rows // 2}.")
    return rows // 2


def _joined(parts: list[torch.Tensor], examples: int, sequences: int = 1) -> torch.Tensor:
    # Some models flatten [examples, tokens] for their MLP, some heads see [examples, features]. DeBERTa's queries and keys
    # also read the table of relative positions, [1, positions, features], once for all rows.
    if examples > 1 and any((p.dim() > 2 and len(p) != examples * sequences) or p.shape[:-1].numel() % examples for p in parts):
        raise SharedCall
    shaped = [p.reshape(examples, -1, p.shape[-1]) for p in parts]
    return shaped[0] if len(shaped) == 1 else torch.cat(shaped, 1)


def _idle(module: Any, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and g of a linear module that was not called."""
    like = next(module.parameters())
    like = like if like.is_floating_point() else torch.empty(0, device=like.device)
    return like.new_zeros(examples, 1, module.in_features), like.new_zeros(examples, 1, module.out_features)


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Of the same shape, type and device: one zero, expanded."""
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


@contextmanager
def capturing(model: nn.Module, names: Sequence[str], blocks: Sequence[str] = (), recompute: bool = False) -> Iterator[Capture]:
    """Hook ``names`` and let the graph of the frozen model start at the first of them; restore on leaving.

    Args:
        blocks: modules that are recomputed in the backward pass while ``Capture.recompute`` is on; they must not nest.
        recompute: whether it is at first.
    """
    modules = [called_module(model, name) for name in names]
    tower = part_of(model)
    capture = Capture(dict(zip(names, modules, strict=True)), recompute, lambda name: tower(name) != LANGUAGE)
    parts: list[Any] = [model.get_submodule(name) for name in blocks]
    own = [part.__dict__.get("forward") for part in parts]  # accelerate puts one there
    # Nothing above the first captured module takes part, even if someone (PEFT does) made the embeddings require gradients.
    handles = [
        embeddings.register_forward_hook(lambda module, inputs, output: output.detach()) for embeddings in input_embeddings(model)
    ]
    try:
        for part in parts:
            part.forward = capture.recomputed(part.forward)
        for name, module in zip(names, modules, strict=True):
            handles.append(module.register_forward_hook(capture.record(name)))
        yield capture
    finally:
        for handle in handles:
            handle.remove()
        for part, forward in zip(parts, own, strict=True):
            if forward is None:
                part.__dict__.pop("forward", None)
            else:
                part.forward = forward
        capture.clear()
