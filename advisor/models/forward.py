"""A batch through a loaded model: logits, loss, and the precision that real runs use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from advisor.models.encode import IGNORED, EncodedRow
from advisor.models.load import LoadedModel


def bf16_autocast(device: torch.device) -> bool:
    """Whether runs use bfloat16 autocast: always on CUDA, on CPU where AVX512-BF16 makes it faster."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def label_scale(train: Sequence[EncodedRow]) -> tuple[float, float]:
    """Mean and standard deviation of the training labels (standard deviation 1 when they are constant)."""
    labels = np.array([row.label for row in train], dtype=np.float64)
    return float(labels.mean()), float(labels.std()) or 1.0


def batch_loss(model: nn.Module, loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Mean loss of a batch and the number of terms in the mean."""
    labels = batch.pop("labels")
    logits = batch_logits(model, loaded, batch)
    if loaded.task == "regression":
        return functional.mse_loss(logits[:, 0], labels), len(labels)
    if loaded.task == "classification":
        return functional.cross_entropy(logits, labels), len(labels)
    logits, labels = aligned(loaded.task, logits, labels)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return loss, int((labels != IGNORED).sum())


def batch_logits(model: nn.Module, loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    device = loaded.device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16_autocast(device)):
        logits: torch.Tensor = model(**batch).logits
    return logits.float()


def aligned(task: str, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A language model's logits [B, T, vocabulary] and the token [B, T] that each predicts: a causal LM's the next one of
    what it reads; those of a decoder behind an encoder come with theirs."""
    return (logits[:, :-1], labels[:, 1:]) if task == "causal-lm" else (logits, labels)
