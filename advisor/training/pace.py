"""How long a training step takes on this machine, before one is made."""

from __future__ import annotations

import time

import torch

from advisor.core.recipe import PASSES_A_STEP
from advisor.core.tasks import TASKS
from advisor.models.encode import collate
from advisor.models.forward import batch_logits, label_scale
from advisor.models.prepare import Prepared


def step_seconds(prepared: Prepared, batch_size: int) -> float:
    """Seconds of a training step of all modules, roughly: three times a forward pass over a batch on one thread, as workers
    have; adapters come on top.

    Raises:
        BadInput: a row's images cannot be read.
    """
    rows, loaded = prepared.train_rows[:batch_size], prepared.loaded
    mean, std = label_scale(rows) if loaded.task == "regression" else (0.0, 1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(2):  # the first one warms up
                batch = collate(rows, loaded, mean, std)
                del batch["labels"]
                start = time.perf_counter()
                batch_logits(loaded.model, loaded, batch).sum().item()
                seconds = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    passes = PASSES_A_STEP + TASKS[loaded.task].extra_passes
    return passes * seconds * batch_size / len(rows)
