"""What a count of word pairs loses, beside the same by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from advisor.models.rows import IGNORED, EncodedRow
from advisor.probing.counted import PAIR_PRIOR, WORD_PRIOR, counted_loss


def prompted(prompt: list[int], answer: list[int]) -> EncodedRow:
    return EncodedRow((*prompt, *answer), token_labels=(*[IGNORED] * len(prompt), *answer))


def by_hand(texts: list[list[tuple[int, int]]]) -> float:
    """Each row from all other rows, counted anew, by the formula."""
    losses = []
    kinds = len({b for pairs in texts for _, b in pairs}) + 1
    for i, own in enumerate(texts):
        others = [pair for j, pairs in enumerate(texts) if j != i for pair in pairs]
        for a, b in own:
            word = (sum(y == b for _, y in others) + WORD_PRIOR) / (len(others) + WORD_PRIOR * kinds)
            seen = sum(x == a for x, _ in others)
            losses.append(-math.log((others.count((a, b)) + PAIR_PRIOR * word) / (seen + PAIR_PRIOR)))
    return float(np.mean(losses))


def test_the_loss_is_that_of_counting_all_other_rows() -> None:
    rng = np.random.default_rng(0)
    texts = [(rng.integers(0, 5, 3).tolist(), rng.integers(0, 6, rng.integers(1, 7)).tolist()) for _ in range(9)]
    rows = [prompted(*text) for text in texts]
    pairs = [list(zip([p[-1], *a], a, strict=False)) for p, a in texts]
    assert counted_loss(rows, from_source=False) == pytest.approx(by_hand(pairs))
    targets = [EncodedRow(tuple(p), token_labels=tuple(a)) for p, a in texts]
    pairs = [list(zip([-1, *a], a, strict=False)) for _, a in texts]
    assert counted_loss(targets, from_source=True) == pytest.approx(by_hand(pairs))


def test_the_first_token_of_a_text_is_not_counted() -> None:
    """It is never predicted."""
    rows = [EncodedRow((7, 1, 2), token_labels=(7, 1, 2)), EncodedRow((8, 1, 2), token_labels=(8, 1, 2))]
    assert counted_loss(rows, from_source=False) == pytest.approx(by_hand([[(7, 1), (1, 2)], [(8, 1), (1, 2)]]))


def test_two_answers_by_chance_cost_what_guessing_between_them_does() -> None:
    answers = np.random.default_rng(0).permutation([3, 4] * 200)
    rows = [prompted([1, 2], [int(answer)]) for answer in answers]
    assert counted_loss(rows, from_source=False) == pytest.approx(math.log(2), abs=0.02)
    fixed = [prompted([i, 2], [5, 6, 7]) for i in range(100)]
    assert counted_loss(fixed, from_source=False) < 0.05


def test_parts_that_are_not_learned_count_nothing() -> None:
    """Of a conversation, the answers alone; the token before one may be the user's."""
    row = EncodedRow((1, 2, 3, 4, 5), token_labels=(IGNORED, 2, IGNORED, IGNORED, 5))
    assert counted_loss([row, row], from_source=False) == pytest.approx(by_hand([[(1, 2), (4, 5)]] * 2))
