"""The tasks that rows can be for: what each is loaded with, learned by, and measured in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForImageClassification")
TOKENS = "token-classification"
PREFERENCE = "preference"
TaskName = Literal["classification", "regression", "token-classification", "causal-lm", "seq2seq", "preference"]
BETA = 0.1  # of DPO: a pair's loss is −log σ(β·(margin − the base model's margin)); TRL's default


@dataclass(frozen=True)
class Task:
    """What is known of a task before any row is.

    Attributes:
        metrics: the first one is the default.
        task_type: PEFT's.
        loaders: auto classes of transformers; the first one that knows the model's family loads it.
        learns_texts: the model's own words are learned, without a new head.
        by_odds: a row has one output, the mean log-odds of all that is to be learned of it, or what DPO compares; elsewhere an
            output for each class, or a value.
        max_length: tokens of a row, unless the user says otherwise.
        epochs, lr, batch_size: of the usual recipe.
    """

    metrics: tuple[str, ...]
    task_type: str
    loaders: tuple[str, ...]
    learns_texts: bool = False
    by_odds: bool = False
    max_length: int = 128
    epochs: int = 6
    lr: float = 1e-3
    batch_size: int = 32


def _of_texts(metric: str, task_type: str, loader: str, lr: float = 2e-4) -> Task:
    return Task((metric,), task_type, (loader,), learns_texts=True, by_odds=True, max_length=512, epochs=3, lr=lr, batch_size=16)


TASKS = {
    "classification": Task(("accuracy", "matthews", "f1"), "SEQ_CLS", CLASSIFIERS),
    "regression": Task(("spearman",), "SEQ_CLS", CLASSIFIERS),
    TOKENS: Task(("token_accuracy", "f1"), "TOKEN_CLS", ("AutoModelForTokenClassification",), by_odds=True),
    "causal-lm": _of_texts("token_accuracy", "CAUSAL_LM", "AutoModelForCausalLM"),
    "seq2seq": _of_texts("token_accuracy", "SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
    PREFERENCE: _of_texts("reward_accuracy", "CAUSAL_LM", "AutoModelForCausalLM", lr=5e-5),
}
CLASSES = ("classification", TOKENS)  # there are names of classes
