"""What all selections of a probe share: logarithms, and the score of guessing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from advisor.prediction.context import context_of, guessing_score
from advisor.prediction.gain import trust


def f1_of(truth: np.ndarray, answer: int, classes: Sequence[int]) -> float:
    """Mean F1 over ``classes`` of always giving one answer."""
    scores = []
    for c in classes:
        hits = np.sum(truth == c) if c == answer else 0
        scores.append(2 * hits / (np.sum(truth == c) + (len(truth) if c == answer else 0)))
    return float(np.mean(scores))


def test_the_score_of_guessing() -> None:
    truth = np.array([0] * 7 + [1] * 3)
    assert guessing_score("accuracy", np.array([0.7, 0.3])) == pytest.approx(0.7)
    assert guessing_score("f1", np.array([0.7, 0.3])) == pytest.approx(f1_of(truth, 1, [1])) == pytest.approx(6 / 13)
    three = np.array([0] * 5 + [1] * 3 + [2] * 2)
    shares = np.array([0.5, 0.3, 0.2])
    assert guessing_score("f1", shares) == pytest.approx(f1_of(three, 0, [0, 1, 2])) == pytest.approx(2 / 9)
    assert guessing_score("token_accuracy", shares) == pytest.approx(0.5)  # of words with classes
    assert guessing_score("reward_accuracy", np.empty(0)) == guessing_score("reward_auc", np.empty(0)) == 0.5
    assert guessing_score("token_accuracy", np.empty(0)) == 0.0
    for metric in ("matthews", "spearman"):
        assert guessing_score(metric, shares) == 0.0


def test_context_is_logarithmic() -> None:
    common = {"train_rows": 100, "steps": 24, "lr": 1e-3, "rank": 4, "start": 0.9, "simulated": 0.5}
    common |= {"aligned": 0.2, "counted": 0.5, "head_loss": 0.8, "model": "fake"}
    context = context_of(task="regression", metric="spearman", shares=np.empty(0), **common)  # type: ignore[arg-type]
    wanted = {
        "log_train_rows": 100,
        "log_steps": 24,
        "log_lr": 1e-3,
        "log_rank": 4,
        "log_start": 0.9,
        "log_simulated": 0.5,
        "log_guess": 1,
    }
    assert {key: math.exp(context[key]) for key in wanted} == pytest.approx(wanted)
    assert (context["task"], context["metric"], context["chance"]) == ("regression", "spearman", 0.0)
    assert (context["aligned"], context["log_counted"]) == (0.2, math.log(0.5))
    assert context["head_gain"] == pytest.approx(-math.log(0.8))
    balanced = context_of(task="classification", metric="accuracy", shares=np.full(4, 0.25), **common)  # type: ignore[arg-type]
    assert (balanced["chance"], math.exp(balanced["log_guess"])) == pytest.approx((0.25, math.log(4)))
    empty_class = context_of(task="classification", metric="accuracy", shares=np.array([0.5, 0.5, 0.0]), **common)  # type: ignore[arg-type]
    assert math.exp(empty_class["log_guess"]) == pytest.approx(math.log(2))
    one_class = context_of(task="classification", metric="accuracy", shares=np.array([1.0, 0.0]), **common)  # type: ignore[arg-type]
    assert math.isfinite(one_class["log_guess"])
    no_head = context_of(task="causal-lm", metric="token_accuracy", shares=np.empty(0), **{**common, "head_loss": None})  # type: ignore[arg-type]
    assert trust(no_head) == 1.0
