"""What all selections of a probe share, as the predictor and the calibration rows hold it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def context_of(
    *,
    task: str,
    metric: str,
    shares: Array,
    train_rows: int,
    steps: int,
    lr: float,
    rank: int,
    start: float,
    simulated: float,
    head_loss: float | None,
    aligned: float,
    counted: float | None,
    model: str,
    head_layers: int = 1,
    reads: str = "text",
) -> dict[str, Any]:
    """What all selections of a probe share.

    Args:
        shares: of the classes among the examples or their words, or of the texts of a batch, [C]; empty where there are none.
        steps: of the optimizer. model: its fingerprint. head_layers: linear modules of its head.
        reads: ``text``, ``images``, or ``images and text``.
        start, simulated: loss in the simulated recipe of training no module, and of all-linear; nats or squared errors.
        aligned: alignment of the kernel of all modules with the labels, over that of the head alone.
        counted: loss of a count of word pairs on the examples (:mod:`advisor.probing.counted`), None where no texts are learned.
        head_loss: cross-validated loss of a linear probe on frozen features, None where there is none (causal LMs).
    """
    log_guess = math.log(max(float(-(shares * np.log(shares.clip(1e-12))).sum()), 1e-3)) if len(shares) else 0.0
    return {
        "task": task,
        "reads": reads,
        "model": model,
        "head_layers": head_layers,
        "metric": metric,
        "chance": guessing_score(metric, shares),
        "log_guess": log_guess,
        "head_gain": 1.0 if head_loss is None else log_guess - math.log(max(head_loss, 1e-12)),
        "log_train_rows": math.log(train_rows),
        "log_steps": math.log(steps),
        "log_lr": math.log(lr),
        "log_rank": math.log(rank),
        "log_start": math.log(start),
        "log_simulated": math.log(simulated),
        "aligned": aligned,
        "log_counted": math.log(start if counted is None else max(counted, 1e-12)),
    }


def guessing_score(metric: str, shares: Array) -> float:
    """The metric of always answering the commonest class (binary F1: the second one), or of ranking texts by chance; else 0.

    Args:
        shares: of the classes, [C]; empty where there are none.
    """
    if metric in ("accuracy", "retrieval_accuracy") or (metric == "token_accuracy" and len(shares)):
        return float(shares.max())
    if metric == "f1":
        share = float(shares[1] if len(shares) == 2 else shares.max())
        return 2 * share / (1 + share) / (1 if len(shares) == 2 else len(shares))
    return 0.5 if metric in ("reward_accuracy", "reward_auc") else 0.0


SIGNED_METRICS = ("matthews", "spearman")  # 0 for guessing
