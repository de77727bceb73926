"""The tasks that rows can be for: what each is loaded with, learned by, and measured in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForImageClassification")
TOKENS = "token-classification"
PREFERENCE = "preference"
KTO = "kto"
SPANS = "question-answering"
EMBEDDING = "embedding"
TaskName = Literal[
    "classification",
    "regression",
    "token-classification",
    "question-answering",
    "causal-lm",
    "seq2seq",
    "preference",
    "kto",
    "embedding",
]
BETA = 0.1  # of DPO: a pair's loss is −log σ(β·(margin − the base model's margin)), and of KTO; TRL's default for both
SCALE = 20.0  # of embeddings: a row's loss is the cross-entropy of its positive by SCALE·cosine; sentence-transformers' default


@dataclass(frozen=True)
class Task:
    """What is known of a task before any row is.

    Attributes:
        metrics: the first one is the default.
        task_type: PEFT's.
        loaders: auto classes of transformers; the first one that knows the model's family loads it.
        texts: the fewest and the most columns that a row's texts are read from; None: any number.
        labelled: a column beside them says what is to be learned of a row: a label, tags, an answer or a mark.
        learns_texts: the model's own words are learned.
        headless: nothing is trained beside LoRA; elsewhere a head is, in full.
        by_odds: a row has one output, the mean log-odds of all that is to be learned of it, or what it compares; elsewhere an
            output for each class, or a value.
        extra_passes: forward passes beside a training step's own forward and backward pass: that of DPO's reference; of KTO the
            reference's, and both models' of the mismatched answers.
        max_length: tokens of a row, unless the user says otherwise.
        epochs, lr, batch_size: of the usual recipe.
    """

    metrics: tuple[str, ...]
    task_type: str
    loaders: tuple[str, ...]
    texts: tuple[int, int | None] = (1, 2)
    labelled: bool = True
    learns_texts: bool = False
    headless: bool = False
    by_odds: bool = False
    extra_passes: int = 0
    max_length: int = 128
    epochs: int = 6
    lr: float = 1e-3
    batch_size: int = 32


def _of_texts(metric: str, task_type: str, loader: str, lr: float = 2e-4) -> Task:
    return Task(
        (metric,),
        task_type,
        (loader,),
        texts=(1, None),
        labelled=False,
        learns_texts=True,
        headless=True,
        by_odds=True,
        max_length=512,
        epochs=3,
        lr=lr,
        batch_size=16,
    )


TASKS = {
    "classification": Task(("accuracy", "matthews", "f1"), "SEQ_CLS", CLASSIFIERS),
    "regression": Task(("spearman",), "SEQ_CLS", CLASSIFIERS),
    TOKENS: Task(("token_accuracy", "f1"), "TOKEN_CLS", ("AutoModelForTokenClassification",), texts=(1, 1), by_odds=True),
    SPANS: Task(("exact_match",), "QUESTION_ANS", ("AutoModelForQuestionAnswering",), texts=(2, 2), by_odds=True, max_length=384),
    "causal-lm": _of_texts("token_accuracy", "CAUSAL_LM", "AutoModelForCausalLM"),
    "seq2seq": _of_texts("token_accuracy", "SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
    PREFERENCE: replace(
        _of_texts("reward_accuracy", "CAUSAL_LM", "AutoModelForCausalLM", lr=5e-5), texts=(2, None), extra_passes=1
    ),
    KTO: replace(_of_texts("reward_auc", "CAUSAL_LM", "AutoModelForCausalLM", lr=5e-5), labelled=True, extra_passes=3),
    EMBEDDING: Task(
        ("retrieval_accuracy",),
        "FEATURE_EXTRACTION",
        ("AutoModel",),
        texts=(2, None),
        labelled=False,
        headless=True,
        by_odds=True,
        epochs=3,
        lr=2e-4,
        batch_size=32,
    ),
}
OF_TOKENS = (TOKENS, SPANS)  # the head reads every token of a text
CLASSES = ("classification", TOKENS)  # there are names of classes
AGAINST_BASE = (PREFERENCE, KTO)  # learned by how far the model has gone from the base model
SEVERAL_TEXTS = (PREFERENCE, EMBEDDING)  # in each row
COMPARED = (PREFERENCE, KTO, EMBEDDING)  # what is differentiated compares, texts or models: it is 0 at the start


def columns_taken(task: str, count: int) -> str:
    """How many columns of text the task takes, where ``count`` are too few or too many; else empty."""
    fewest, most = TASKS[task].texts
    if fewest <= count and (most is None or count <= most):
        return ""
    return f"{fewest} or more" if most is None else str(fewest) if fewest == most else f"{fewest} or {most}"


def outputs_of(task: str, classes: int) -> int:
    """Outputs of a head: one a class, of a span its first and its last token, else one."""
    return 2 if task == SPANS else classes or 1
