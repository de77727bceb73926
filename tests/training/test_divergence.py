"""Runs that diverge with a finite loss are none, and runs that learned nothing are runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest

from advisor.core.errors import NotFinite
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Source
from advisor.models.rows import IGNORED, EncodedRow
from advisor.training.divergence import guessing, require_sound
from advisor.training.finetune import Epoch, RunResult
from advisor.training.runner import PlannedRun, Runner

LN2 = math.log(2)
HALVES = [EncodedRow((), label=i % 2) for i in range(6)]


def result(before: float, *after: float) -> RunResult:
    epochs = tuple(Epoch(1.0, loss, 0.5, 1.0) for loss in (before, *after))
    return RunResult(epochs, 1 + after.index(min(after)), 10, 1.0)


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("classification", LN2, [271.0]),
        ("classification", 0.1, [40.0, 0.9]),  # a trained head, worse than guessing at its best epoch
        ("regression", 1.4, [5e4]),
        ("preference", LN2, [9.0]),
    ],
)
def test_far_above_the_start_and_guessing_is_diverged(task: str, before: float, after: list[float]) -> None:
    with pytest.raises(NotFinite, match=r"all: training diverged.* before training.*Lower --lr\.") as caught:
        require_sound(result(before, *after), task, HALVES, "all")
    assert f"{min(after):.3g} at best" in caught.value.what


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("classification", LN2, [LN2]),  # learned nothing
        ("classification", LN2, [50.0, 0.6]),  # only later epochs diverged
        ("classification", 0.1, [LN2]),  # fell back to guessing
        ("classification", 5.0, [5.7]),  # a new head that starts badly
        ("regression", 0.9, [1.14]),
        ("causal-lm", 0.2, [0.45]),  # better than guessing
        ("kto", 0.5, [0.99]),
    ],
)
def test_what_learned_nothing_or_little_is_a_run(task: str, before: float, after: list[float]) -> None:
    require_sound(result(before, *after), task, HALVES, "all")


def test_guessing_is_the_entropy_of_what_is_learned() -> None:
    assert guessing("classification", [EncodedRow((), label=k) for k in (0, 1, 1, 1)]) == pytest.approx(
        -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    )
    tokens = [EncodedRow((1, 2, 3), token_labels=(IGNORED, 7, 8)), EncodedRow((4, 5), token_labels=(9, 6))]
    assert guessing("causal-lm", tokens) == pytest.approx(math.log(4))
    assert (guessing("regression", HALVES), guessing("embedding", HALVES)) == (1.0, LN2)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_run_at_a_rate_far_too_high_makes_no_row(tiny_model: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    task, labels = oracle.TASKS.get(kind, "classification"), oracle.CLASSES.get(kind, 1)
    path, _ = oracle.write_rows(tmp_path, kind)
    source = Source(str(tiny_model("bert", task, labels)), str(path), eval_data=str(path), task=task, device="cpu")

    def run_at(lr: float) -> float:
        runner = Runner(source, TrainingRecipe(train_rows=8, epochs=1, batch_size=4, lr=lr), 6)
        targets = tuple(t.name for t in runner._prepare()[0].loaded.targets)
        loss: float = runner(PlannedRun(Selection("all", targets), LoraSettings(4, 8), 0))["result"]["val_loss"]
        return loss

    assert math.isfinite(run_at(1e-12))
    with pytest.raises(NotFinite, match="Lower --lr"):
        run_at(1e3)
