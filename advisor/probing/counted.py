"""What a count of word pairs loses on the texts to be learned: how much of them format and wording alone tell.

A model before training may not know how answers look: that they are SQL, or one of two words. Any adapter learns that, whatever
it is made of. A bigram count learns it as well, so where it loses less than the model, all modules win the difference at least.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from advisor.models.rows import IGNORED, EncodedRow

START = -1  # before the first token of a target
PAIR_PRIOR = 2.0  # tokens that a token's own count of what follows is worth, of all tokens together
WORD_PRIOR = 0.5  # times that each token is taken to have been seen


def counted_loss(rows: Sequence[EncodedRow], from_source: bool) -> float:
    """Mean loss of a token to be learned, nats: each row predicted from the counts of the others.

        p(b | a) = (n(a, b) + PAIR_PRIOR·p(b)) / (n(a) + PAIR_PRIOR),    p(b) = (n(b) + WORD_PRIOR) / (n + WORD_PRIOR·V)

    a is the token before b, and V one more than there are different tokens.

    Args:
        from_source: the target is a text of its own (seq2seq), and does not lie among the row's tokens.
    """
    read = [list(_pairs(row, from_source)) for row in rows]
    pairs = Counter(pair for row in read for pair in row)
    before, words = _marginals(pairs)
    kinds, total, loss = len(words) + 1, sum(words.values()), 0.0
    for row in read:
        own = Counter(row)
        own_before, own_words = _marginals(own)
        for a, b in row:
            word = (words[b] - own_words[b] + WORD_PRIOR) / (total - len(row) + WORD_PRIOR * kinds)
            seen = before[a] - own_before[a]
            loss -= math.log((pairs[a, b] - own[a, b] + PAIR_PRIOR * word) / (seen + PAIR_PRIOR))
    return loss / total


def mean_of_tokens(losses: Sequence[float], rows: Sequence[EncodedRow], from_source: bool) -> float:
    """Mean loss of a token to be learned, as runs are evaluated, from each row's mean over its own."""
    tokens = [sum(1 for _ in _pairs(row, from_source)) for row in rows]
    return sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)


def _pairs(row: EncodedRow, from_source: bool) -> Iterator[tuple[int, int]]:
    """Each token to be learned, after the one before it. Of a text that goes on, the first one is never predicted."""
    labels = row.token_labels
    before = (START, *labels[:-1]) if from_source else row.ids[: len(labels) - 1]
    learned = labels if from_source else labels[1:]
    return ((a, b) for a, b in zip(before, learned, strict=True) if b != IGNORED)


def _marginals(pairs: Counter[tuple[int, int]]) -> tuple[Counter[int], Counter[int]]:
    """How often each token comes first in a pair, and second."""
    before: Counter[int] = Counter()
    words: Counter[int] = Counter()
    for (a, b), count in pairs.items():
        before[a] += count
        words[b] += count
    return before, words
