"""Reference rows beside the training rows of a probe: what stands for them, and what is kept of all blocks (docs/keep.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.probe import PROJECTIONS, DriftBlocks, KeepBlocks
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.forward import aligned
from advisor.models.head_input import at_read_token, first_linear
from advisor.models.load import LoadedModel
from advisor.probing.capture import fewer_rows
from advisor.probing.head import layer_inputs


@dataclass(frozen=True)
class ProjectedRow(EncodedRow):
    """A reference row of a classifier or regressor; ``direction`` [h]: what of its representation is differentiated."""

    direction: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)


def beside(loaded: LoadedModel, kept: Sequence[EncodedRow], seed: int, session: Session) -> list[EncodedRow]:
    """The rows that are probed for the rows to keep: of a language model these and as many with sampled targets, else
    ``PROJECTIONS`` times these with random directions.

    Raises:
        BadInput: the model reads all of them alike. OutOfMemory: one row does not fit. NotFinite: names the module.
    """
    if loaded.task in LANGUAGE_TASKS:
        return [*kept, *with_sampled_targets(loaded, kept, seed, session)]
    return [*projected_rows(loaded, kept, seed, session)]


# --- language models -------------------------------------------------------------------------------------------------


def target_places(task: str, row: EncodedRow) -> list[int]:
    """Where in its ``token_labels`` a language model's row has a loss; the first token of a causal model is never predicted."""
    first = 1 if task == "causal-lm" else 0
    return [t for t, label in enumerate(row.token_labels) if t >= first and label != IGNORED]


@torch.no_grad()
def with_sampled_targets(loaded: LoadedModel, rows: Sequence[EncodedRow], seed: int, session: Session) -> list[EncodedRow]:
    """The same rows of a language model, every target token drawn from what the model predicts there; what it reads
    stays. Their loss gradients are score gradients: their outer product has the Fisher matrix as its expectation. A row whose
    outputs are not finite stays as it is: the passes over it will name the module.

    Raises:
        OutOfMemory: one row does not fit. Interrupted: cancelled.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for row in rows:
        session.check()
        batch = collate([row], loaded)
        labels = batch.pop("labels")
        places = target_places(loaded.task, row)
        try:
            logits, aimed = aligned(loaded.task, loaded.model(**batch).logits, labels)
            probabilities = torch.softmax(logits[0, aimed[0] != IGNORED].float(), -1).cpu()
        except (MemoryError, RuntimeError) as error:
            fewer_rows(error, 1, row.length, session)
            raise
        if not bool(torch.isfinite(probabilities).all()):
            drawn.append(row)
            continue
        tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
        sampled = dict(zip(places, tokens, strict=True))
        labels_drawn = tuple(sampled.get(t, IGNORED) for t in range(len(row.token_labels)))
        drawn.append(replace(row, token_labels=labels_drawn, fed=row.token_labels if loaded.task == "seq2seq" else ()))
    return drawn


# --- classifiers and regressors --------------------------------------------------------------------------------------


def projected_rows(loaded: LoadedModel, rows: Sequence[EncodedRow], seed: int, session: Session) -> list[ProjectedRow]:
    """``PROJECTIONS`` times the rows, each with a Gaussian direction v: the mean square of ⟨v, δh⟩ over draws is the squared
    change of the row's representation h as a share of its variance between the rows.

    Raises:
        BadInput: the model reads all of them alike. OutOfMemory: one row does not fit. NotFinite: names the module.
    """
    features = layer_inputs(loaded, rows, session, (first_linear(loaded),))[0]
    variance = float(features.var(0).sum())
    if variance <= 1e-12 * float((features**2).mean(0).sum()):
        raise BadInput(
            f"Rows to keep: {loaded.name} reads all {len(rows)} of them alike, so no change can be measured by them.",
            "Name a file of different rows with --keep.",
        )
    drawn = np.random.default_rng(seed).standard_normal((PROJECTIONS, *features.shape)) / np.sqrt(variance)
    return [
        ProjectedRow(**vars(row), direction=direction.astype(np.float32))
        for directions in drawn
        for row, direction in zip(rows, directions, strict=True)
    ]


@dataclass
class Projected:
    """The projections of some rows' representations, once the model has read them.

    Attributes:
        directions: [rows, h], NaN for rows that have none. representation: [rows, h].
    """

    directions: torch.Tensor | None = None
    representation: torch.Tensor | None = None

    def in_place_of(
        self, values: torch.Tensor, f0: torch.Tensor, losses: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs [rows, P], f0 and losses [rows] with the first output and the loss of projected rows replaced."""
        if self.directions is None:
            return values, f0, losses
        assert self.representation is not None
        own = self.directions.isnan().any(1)
        found = (self.representation.to(values.dtype) * self.directions.nan_to_num().to(values.dtype)).sum(1)
        first = torch.where(own, values[:, 0], found)
        return torch.cat([first[:, None], values[:, 1:]], 1), f0, torch.where(own, losses, found)


@contextmanager
def reading(loaded: LoadedModel, rows: Sequence[EncodedRow], batch: Mapping[str, torch.Tensor]) -> Iterator[Projected]:
    """While the model reads ``batch``, which is of ``rows``: the representation of those with a direction is taken."""
    found = Projected()
    widths = {len(row.direction) for row in rows if isinstance(row, ProjectedRow)}
    if not widths:
        yield found
        return
    none = np.full(widths.pop(), np.nan, dtype=np.float32)
    stacked = np.stack([row.direction if isinstance(row, ProjectedRow) else none for row in rows])

    def take(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.representation = at_read_token(inputs[0], batch, loaded.model)
        found.directions = torch.from_numpy(stacked).to(inputs[0].device)

    handle = first_linear(loaded).register_forward_pre_hook(take)
    try:
        yield found
    finally:
        handle.remove()


# --- blocks ------------------------------------------------------------------------------------------------------------


def keep_blocks(
    task: str, of_all_rows: np.ndarray, losses: np.ndarray, rows: Sequence[EncodedRow], train: int, kept: int
) -> KeepBlocks | DriftBlocks:
    """From blocks of all ``rows``: ``train`` training rows, then those that :func:`beside` gave for ``kept`` ones.

    Args:
        of_all_rows: [M, N, N], of outputs where a row has but one, else of losses. losses: [N] at θ0.
    """
    own = np.einsum("mii->mi", of_all_rows)
    if task not in LANGUAGE_TASKS:
        return DriftBlocks(np.ascontiguousarray(of_all_rows[:, train:, :train]), np.ascontiguousarray(own[:, train:]))
    scores = slice(train + kept, train + 2 * kept)
    return KeepBlocks(
        loss=np.ascontiguousarray(of_all_rows[:, train : train + kept, :train]),
        score=np.ascontiguousarray(of_all_rows[:, scores, :train]),
        energies=np.ascontiguousarray(own[:, scores]),
        losses=losses[train : train + kept],
        tokens=np.array([len(target_places(task, row)) for row in rows[scores]], dtype=np.float64),
    )
