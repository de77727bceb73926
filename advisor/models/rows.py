"""One example as a model reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from advisor.data.images import ImageFile

IGNORED = -100  # label of a token that is not learned, as in transformers


@dataclass(frozen=True)
class EncodedRow:
    """One example as a model reads it.

    Attributes:
        ids: token ids, not padded; empty for an image.
        types: token type ids, None where the model has none.
        label: class id or value (classification, regression).
        token_labels: per token the id to predict or ``IGNORED``: of ``ids`` (causal LM; token classification: class ids), or the
            target's (seq2seq). Of a span: the places of its first and last token.
        image: decoded only when a batch is made. image_tokens: what a model sees of it.
        rejected: the answer that this row's is preferred to, after the same prompt.
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
    rejected: EncodedRow | None = None

    @property
    def sequences(self) -> tuple[EncodedRow, ...]:
        """What the model reads one by one: the row itself, or a pair's chosen and rejected answer."""
        return (self,) if self.rejected is None else (replace(self, rejected=None), self.rejected)

    @property
    def length(self) -> int:
        """Tokens, of a source and its target those of the longer one: the most that any module sees. Of a pair both answers'
        with padding."""
        longest = max(len(self.ids), len(self.token_labels), self.image_tokens)
        return longest if self.rejected is None else 2 * max(longest, self.rejected.length)
