"""A batch through a loaded model: logits, loss, and the precision that real runs use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from advisor.core.errors import AdvisorError, BadInput, lacks_memory, reason
from advisor.core.tasks import AGAINST_BASE, BETA, EMBEDDING, KTO, PREFERENCE, TASKS
from advisor.models.embedding import contrast_losses, pooled
from advisor.models.encode import IGNORED, EncodedRow
from advisor.models.load import LoadedModel


def bf16_autocast(device: torch.device) -> bool:
    """Whether runs use bfloat16 autocast there: always on CUDA, on CPU where AVX512-BF16 makes it faster."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def autocasts(loaded: LoadedModel) -> bool:
    """Whether runs of a model use bfloat16 autocast where it lies."""
    return bf16_autocast(loaded.device) and loaded.runs_in_bf16


def label_scale(train: Sequence[EncodedRow]) -> tuple[float, float]:
    """Mean and standard deviation of the training labels (standard deviation 1 when they are constant)."""
    labels = np.array([row.label for row in train], dtype=np.float64)
    return float(labels.mean()), float(labels.std()) or 1.0


@contextmanager
def passing(loaded: LoadedModel, rows: Sequence[EncodedRow]) -> Iterator[None]:
    """Around a forward pass over ``rows``: where the model's own code fails on them, that is said in one line. Lack of memory
    passes.

    Raises:
        BadInput: it fails.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, AdvisorError) or lacks_memory(error):
            raise
        lengths = sorted(row.length for row in rows)
        tokens = f"{lengths[0]} tokens" if lengths[0] == lengths[-1] else f"{lengths[0]} to {lengths[-1]} tokens"
        raise BadInput(
            f"{loaded.name}: it cannot read a batch of {tokens} a row: {reason(error)}.",
            "Check such rows with transformers itself: leave out rows that are too short for it, or set --max-length.",
        ) from error


def batch_loss(model: nn.Module, loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Mean loss of a batch and the number of terms in the mean."""
    labels = batch.pop("labels")
    baseline = kto_baseline(model, loaded, batch, labels) if loaded.task == KTO else None
    logits = batch_logits(model, loaded, batch)
    if loaded.task == "regression":
        return functional.mse_loss(logits[:, 0], labels), len(labels)
    if loaded.task == "classification":
        return functional.cross_entropy(logits, labels), len(labels)
    if loaded.task in AGAINST_BASE:
        won = rewards(model, loaded, batch, labels, logits)
        return losses_of(won, labels, baseline).mean(), len(won)
    if loaded.task == EMBEDDING:
        return contrast_losses(logits.view(*labels.shape[:2], -1)).mean(), len(labels)
    logits, labels = aligned(loaded.task, logits, labels)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return loss, int((labels != IGNORED).sum())


def batch_logits(model: nn.Module, loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.autocast(loaded.device.type, torch.bfloat16, enabled=autocasts(loaded)):
        logits = logits_of(loaded, model(**batch), batch)
    return logits.float()


def logits_of(loaded: LoadedModel, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A model's logits; of spans [B, 2, T], whether one starts and ends at each token, -∞ at padding; embeddings [texts, h]."""
    if loaded.embedder is not None:
        return pooled(output.last_hidden_state, batch["attention_mask"], loaded.embedder.pooling)
    if not hasattr(output, "start_logits"):
        logits: torch.Tensor = output.logits
        return logits
    both = torch.stack([output.start_logits, output.end_logits], 1)
    return both.masked_fill(batch["attention_mask"][:, None] == 0, -torch.inf)


def log_likelihoods(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log π(answer) of each text [B], summed over its tokens, from logits [B, T, vocabulary]."""
    logits, labels = logits[:, :-1], labels[:, 1:]
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view(labels.shape).sum(1)


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log π(chosen) − log π(rejected) of each pair [B], from the logits [2B, T, vocabulary] of chosen and rejected answers in
    turn."""
    each = log_likelihoods(logits, labels)
    return each[0::2] - each[1::2]


def signs(labels: torch.Tensor) -> torch.Tensor:
    """+1 of a desirable answer, −1 of an undesirable one [B], from the labels of marked answers, see :func:`collate`."""
    return 2.0 * labels[:, 0] - 1


def rewards(
    model: nn.Module, loaded: LoadedModel, batch: dict[str, torch.Tensor], labels: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """How far the model has gone from itself without adapters [B]: β times the change of the margin of a pair (DPO), or of the
    log-likelihood of an answer (KTO)."""
    of = margins if loaded.task == PREFERENCE else log_likelihoods
    with torch.no_grad(), without_adapters(model):
        before = of(batch_logits(model, loaded, batch), labels)
    return BETA * (of(logits, labels) - before)


@torch.no_grad()
def kto_baseline(model: nn.Module, loaded: LoadedModel, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """β·z0 of KTO: the mean reward of answers to another prompt of the batch, which estimates how far the model is from the base
    model (the KL divergence); at least 0."""
    others, aimed = mismatched(batch, labels, loaded.max_length)
    return rewards(model, loaded, others, aimed, batch_logits(model, loaded, others)).mean().clamp(min=0)


def mismatched(batch: dict[str, torch.Tensor], labels: torch.Tensor, limit: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Each prompt with the answer of the row before it, the first one with the last's, as TRL's KTOTrainer has them; and their
    labels. Of what is longer than ``limit`` tokens the answer is cut at the right."""
    learned, real = labels[:, 1:] != IGNORED, batch["attention_mask"].bool()
    learned = functional.pad(learned, (1, 0))  # the first label is the mark
    prompts = [ids[keep] for ids, keep in zip(batch["input_ids"], real & ~learned, strict=True)]
    answers = [ids[keep] for ids, keep in zip(batch["input_ids"], learned, strict=True)]
    pairs = list(zip(prompts, [answers[-1], *answers[:-1]], strict=True))

    def padded(rows: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
        return pad_sequence([row[:limit] for row in rows], batch_first=True, padding_value=fill)

    made = {
        "input_ids": padded([torch.cat(pair) for pair in pairs], 0),
        "attention_mask": padded([torch.ones_like(torch.cat(pair)) for pair in pairs], 0),
    }
    return made, padded([torch.cat([torch.full_like(prompt, IGNORED), answer]) for prompt, answer in pairs], IGNORED)


def losses_of(won: torch.Tensor, labels: torch.Tensor, baseline: torch.Tensor | None) -> torch.Tensor:
    """Losses [B] of rewards: −log σ(reward) of pairs; with a ``baseline`` KTO's, 1 − σ(±(reward − baseline)), + of a desirable
    answer."""
    return functional.softplus(-won) if baseline is None else torch.sigmoid(-signs(labels) * (won - baseline))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Within, no adapter adds to what its module computes; which of them are at work, and how strongly, is the same after."""
    from peft.tuners.lora import LoraLayer  # loads bitsandbytes, where that is installed

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling.update(scale)


def aligned(task: str, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, T, vocabulary or classes] and the id [B, T] that each predicts: a causal LM's the next token of what it reads;
    those of words, and of a decoder behind an encoder, come with theirs."""
    return (logits[:, :-1], labels[:, 1:]) if TASKS[task].task_type == "CAUSAL_LM" else (logits, labels)
