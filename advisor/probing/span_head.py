"""A linear probe for the two ends of a span: each a softmax over the tokens of a row (docs/design.md 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from advisor.core.probe import FOLDS
from advisor.probing.head import INVERSE_PENALTIES, HeadFit

STEPS = 60


def fit_span_head(states: Sequence[np.ndarray], places: np.ndarray) -> HeadFit:
    """L2-penalised, the penalty by the loss on every fourth row, left out.

    Args:
        states: [tokens, h] of each row. places: [rows, 2] of the first and last token.

    Returns:
        The loss and score are those of the rows left out: nats an end, and the share of ends found. The bias is zero: it
        moves all tokens alike.
    """
    every = np.concatenate(states)
    centre, scale = every.mean(0), every.std(0)
    scale[scale == 0] = 1.0
    x = pad_sequence([torch.from_numpy((each - centre) / scale).float() for each in states], batch_first=True)
    padding = torch.tensor([[t >= len(each) for t in range(x.shape[1])] for each in states])
    wanted = torch.from_numpy(places)
    out = torch.arange(len(states)) % FOLDS == 0
    losses, scores = [], []
    for inverse in INVERSE_PENALTIES:
        weight = _fitted(x[~out], padding[~out], wanted[~out], inverse)
        logits = _logits(x[out], padding[out], weight)
        losses.append(float(functional.cross_entropy(logits.flatten(0, 1), wanted[out].flatten())))
        scores.append(float((logits.argmax(-1) == wanted[out]).float().mean()))
    best = int(np.argmin(losses))
    weight = _fitted(x, padding, wanted, INVERSE_PENALTIES[best]).double().numpy() / scale
    return HeadFit(weight, np.zeros(2), losses[best], scores[best], INVERSE_PENALTIES[best])


def _logits(x: torch.Tensor, padding: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[rows, 2, tokens]."""
    return (x @ weight.T).transpose(1, 2).masked_fill(padding[:, None], -torch.inf)


def _fitted(x: torch.Tensor, padding: torch.Tensor, wanted: torch.Tensor, inverse: float) -> torch.Tensor:
    weight = torch.zeros(2, x.shape[2], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(_logits(x, padding, weight).flatten(0, 1), wanted.flatten(), reduction="sum")
        loss = loss + weight.square().sum() / (2 * inverse)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach()


def fresh_span_gradient(states: Sequence[np.ndarray], places: np.ndarray, use_bias: bool) -> tuple[float, float, int]:
    """As :func:`advisor.probing.head.fresh_head_gradient`: at a zero head every token of a row is as likely as any other."""
    gradients = np.stack([(each.mean(0) - each[ends]) / 2 for each, ends in zip(states, places, strict=True)])  # [rows, 2, h]
    size = 2 * (gradients.shape[2] + use_bias)
    return float(np.linalg.norm(gradients.sum(0))), float((gradients**2).sum()), size
