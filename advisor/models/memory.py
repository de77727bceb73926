"""Lack of memory: how it is recognised."""

from __future__ import annotations

import torch


def lacks_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, of this machine or of an accelerator, is used up."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error).lower()
