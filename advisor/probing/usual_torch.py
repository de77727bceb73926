"""Torch as it is when nothing is set, whatever the script or notebook that calls the advisor has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Within: gradients, no inference mode, no autocast, float32 and the CPU where no type or device is named. Afterwards torch
    is set as it was before.

    A probe made under other settings would hold other numbers, and the cache would hand them on.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_no_autocast())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def _no_autocast() -> Iterator[None]:
    """As outside of any ``torch.autocast``: the advisor's own then forgets its casts of the weights when it is left, as only the
    outermost does."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = {"cpu", *([accelerator.type] if accelerator else [])}
    on = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    outer = torch.autocast_increment_nesting()  # one more than there are
    for _ in range(outer):
        torch.autocast_decrement_nesting()
    for kind in on:
        torch.set_autocast_enabled(kind, False)
    try:
        yield
    finally:
        for kind in on:
            torch.set_autocast_enabled(kind, True)
        for _ in range(outer - 1):
            torch.autocast_increment_nesting()
