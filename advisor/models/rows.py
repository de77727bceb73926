"""One example as a model reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from advisor.data.images import ImageFile

IGNORED = -100  # label of a token that is not learned, as in transformers


@dataclass(frozen=True)
class EncodedRow:
    """One example as a model reads it.

    Attributes:
        ids: token ids, not padded; empty for an image.
        types: token type ids, None where the model has none.
        label: class id or value (classification, regression), or the mark of an answer (KTO).
        token_labels: per token the id to predict or ``IGNORED``: of ``ids`` (causal LM; token classification: class ids), or the
            target's (seq2seq). Of a span: the places of its first and last token.
        image: decoded only when a batch is made. image_tokens: what a model sees of it.
        others: what is compared with this text, as many in each row: the answer that it is preferred to, after the same
            prompt; or of an anchor its positive and the negatives.
        pulls: [1 + others, h + 1] of the texts to be embedded: the slope of the batch's losses in each one's embedding, then the
            row's own loss; None where they are not known.
        images: those beside the text, likewise. text: with their marks, as the processor takes it. by_token: what else the model
            reads of each token of ``ids``, by its name in the batch.
        fed: the target that a decoder reads, where it is not the one that it is to predict (seq2seq).
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None
    label: int | float = 0
    token_labels: tuple[int, ...] = ()
    image: ImageFile | None = None
    image_tokens: int = 0
    images: tuple[ImageFile, ...] = ()
    text: str = ""
    by_token: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fed: tuple[int, ...] = ()
    others: tuple[EncodedRow, ...] = ()
    pulls: np.ndarray | None = field(default=None, compare=False)

    @property
    def sequences(self) -> tuple[EncodedRow, ...]:
        """What the model reads one by one: the row itself, or all texts that are compared."""
        return (replace(self, others=(), pulls=None), *self.others) if self.others else (self,)

    @property
    def length(self) -> int:
        """Tokens, of a source and its target those of the longer one: the most that any module sees. Of texts that are
        compared those of all, with padding."""
        longest = max(len(self.ids), len(self.token_labels), self.image_tokens)
        return (1 + len(self.others)) * max(longest, *(other.length for other in self.others)) if self.others else longest
