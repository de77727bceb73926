"""Every option, defined once, in groups; :mod:`advisor.core.options` says which of them a function or command takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advisor.core.amounts import read_budget
from advisor.core.choices import (
    DEVICES,
    DTYPES,
    EFFORTS,
    FORMAT_NAMES,
    GRANULARITIES,
    HEADS,
    KERNELS,
    LANGUAGE,
    METHODS,
    NO_RUN,
    PARTS,
    PILOT_ONLY,
    PREDICTED,
    STRATEGIES,
)
from advisor.core.errors import BadInput
from advisor.core.option import REQUIRED, Checked, flag, names, path, place, real, text, whole
from advisor.core.recipe import FEWEST_ROWS, METRICS, TASKS

# Panels of the help, in this order; what has none comes first.
DATA, LORA, RECIPE, RUNS, PROBE, OUTPUT = "Data", "LoRA", "Training recipe to predict", "Real runs", "Model and probe", "Output"
PANELS = ("", DATA, LORA, RECIPE, RUNS, PROBE, OUTPUT)

MOST_SEED = 2**31 - 1
MOST_ROWS = 10**9
MOST_RANK = 65_536
Place = str | os.PathLike[str]

# --- model and data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named(Checked):
    """Model and data; the only options that Python functions take by position."""

    model: Place | None = place(REQUIRED, "Model folder or hub id.", is_argument=True, blank="folder or hub id")
    data: Any = place(
        None,
        "Training rows: a CSV, TSV, JSONL or Parquet file, a folder with train.* or with images, or a hub id such as glue/sst2.",
        panel=DATA,
        blank="file, folder or hub id",
    )


@dataclass(frozen=True)
class ModelOrProbe(Named):
    model: Place | None = place(
        None,
        "Model folder or hub id, or the folder of a probe, which names its own model and data.",
        is_argument=True,
        blank="folder or hub id",
    )


@dataclass(frozen=True, kw_only=True)
class Columns(Checked):
    """How the rows are read."""

    task: str = text("auto", "Task of the model; auto infers it from the columns.", panel=DATA, choices=("auto", *TASKS))
    text_column: str | Sequence[str] | None = names(
        None,
        "Column to read the text from; give it twice for pairs of texts.",
        panel=DATA,
        unset="inferred",
        label="Text columns",
    )
    label_column: str | None = text(None, "Column of the label, or of the answer to learn.", panel=DATA, unset="inferred")
    metric: str | None = text(
        None,
        "Evaluation metric.",
        panel=DATA,
        unset="by the task",
        choices=tuple(dict.fromkeys(metric for metrics in METRICS.values() for metric in metrics)),
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        return tuple(self.text_column or ())


@dataclass(frozen=True, kw_only=True)
class Rows(Columns):
    """Evaluation rows, and how rows are cut."""

    eval_data: Any = place(
        None,
        "Evaluation rows, which are never probed.",
        panel=DATA,
        unset="the evaluation part of --data, else 10 % split off",
        blank="its test part, or 10 %",
        label="Evaluation",
    )
    max_length: int | None = whole(
        None,
        "Maximum number of tokens per row; longer rows are cut.",
        2,
        1_000_000,
        panel=DATA,
        unset="128; language models 512, with images 2048",
        blank="128; LLMs 512",
        label="Max tokens",
    )


@dataclass(frozen=True, kw_only=True)
class Trust(Checked):
    trust_remote_code: bool = flag("Run Python code that comes with the model. Use it only for models you trust.", panel=PROBE)


@dataclass(frozen=True, kw_only=True)
class Loading(Trust):
    """How the model is loaded."""

    device: str = text(
        "auto",
        "Where the model runs. auto uses CUDA if there is one and moves what does not fit to other GPUs, to memory or to disk; "
        "disk reads one block after the other from the disk.",
        panel=PROBE,
        choices=DEVICES,
        pattern="cuda:[0-9]{1,3}|mps|xpu",
    )
    dtype: str = text(
        "auto",
        "Floating-point type of the weights; auto is bfloat16 on CUDA, and for a bfloat16 checkpoint on a CPU made for it; "
        "else float32.",
        panel=PROBE,
        choices=DTYPES,
    )
    load_in_4bit: bool = flag("Quantise the weights to 4 bits (bitsandbytes NF4, as in QLoRA).", panel=PROBE)
    load_in_8bit: bool = flag("Quantise the weights to 8 bits (bitsandbytes).", panel=PROBE)
    adapt: str = text(
        LANGUAGE,
        "Of a model of images and text, what may get LoRA: the language model, the vision tower with the connector, or all.",
        panel=LORA,
        choices=PARTS,
    )
    revision: str | None = text(None, "Revision of a hub model: branch, tag or commit.", panel=PROBE, unset="main")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load_in_4bit and self.load_in_8bit:
            raise BadInput("--load-in-4bit and --load-in-8bit: weights can only have one size.", "Leave one out.")


@dataclass(frozen=True, kw_only=True)
class Probing(Checked):
    """How the model is probed."""

    samples: int | None = whole(
        None,
        "Number of examples to probe; more make the result steadier and the probe slower.",
        8,
        16_384,
        panel=PROBE,
        unset="max(128, 4 × classes)",
        label="Probe rows",
    )
    head: str = text(
        "probed",
        "Classification head that the kernels see: probed (fitted to the frozen features) or fresh (newly initialised).",
        panel=PROBE,
        choices=HEADS,
    )
    method: str = text(
        "auto",
        "How the kernels are computed: exactly (materialise, token-gram), from a sketch (kronecker), or auto: by the model's "
        "size.",
        panel=PROBE,
        choices=METHODS,
    )
    linearity: bool = flag(
        "Also measure how linear the model is in its LoRA weights, which takes about as long again. Real runs showed that this "
        "does not say where predictions are off.",
        panel=PROBE,
    )
    recompute: bool = flag(
        "Recompute activations in the backward pass instead of keeping them: less memory, one more forward pass, the same "
        "result. Enabled automatically if a single row does not fit in memory.",
        panel=PROBE,
    )


@dataclass(frozen=True, kw_only=True)
class Keep(Checked):
    keep: Any = place(
        None,
        "Rows that the model should still do well after training, in any form that --data has: how much each selection is "
        "predicted to disturb them is shown. Classifiers and regressors only read them; their drift is shown, but nothing is "
        "chosen by it.",
        panel=DATA,
        blank="file, folder or hub id",
        label="To keep",
    )


@dataclass(frozen=True, kw_only=True)
class Ceiling(Checked):
    max_forgetting: float | None = real(
        None,
        "With rows to keep: pick only among selections that are predicted to raise their loss by at most this much, in nats per "
        "target token. Not for classifiers and regressors, whose predicted drift ranked real runs unevenly. Real changes were "
        "mostly larger than predicted, see docs/keep.md.",
        0,
        1e3,
        unset="none",
    )


@dataclass(frozen=True, kw_only=True)
class Seed(Checked):
    seed: int = whole(0, "Random seed; the same seed gives the same answer.", 0, MOST_SEED)


@dataclass(frozen=True, kw_only=True)
class ModelAndData(Loading, Rows, Named):
    """What :class:`advisor.models.prepare.Source` is made from, but for the seed."""


# --- what is predicted ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lora(Checked):
    """LoRA's settings, common to all modules."""

    rank: int = whole(8, "LoRA rank; each adapted a×b matrix gets rank·(a+b) parameters.", 1, MOST_RANK, panel=LORA)
    alpha: float = real(16, "LoRA alpha; the update is scaled by alpha/rank.", 1e-6, 1e6, panel=LORA)
    rslora: bool = flag("Scale the update by alpha/√rank instead (rsLoRA).", panel=LORA)


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """The training that predictions are for."""

    train_rows: int | None = whole(
        None, "Number of training rows.", FEWEST_ROWS, MOST_ROWS, panel=RECIPE, unset="all", label="Training rows"
    )
    epochs: int | None = whole(
        None, "Passes over the training rows.", 1, 10_000, panel=RECIPE, unset="6; language models and embeddings 3"
    )
    lr: float | None = real(
        None,
        "Peak learning rate.",
        1e-12,
        10,
        panel=RECIPE,
        unset="1e-3; language models and embeddings 2e-4, preference and kto 5e-5",
        blank="1e-3; LLMs 2e-4",
        label="Learning rate",
    )
    batch_size: int | None = whole(None, "Rows per training step.", 1, 65_536, panel=RECIPE, unset="32; language models 16")


@dataclass(frozen=True, kw_only=True)
class Kernel(Checked):
    """What bounds and shares are computed from."""

    kernel: str = text("adam", "Kernel of bounds and shares.", panel=PROBE, choices=KERNELS)
    sigma: float | None = real(None, "Ridge of the certificate.", 1e-12, 1e12, panel=PROBE, unset="1e-2·tr(K)/n")


@dataclass(frozen=True, kw_only=True)
class Scoring(Kernel, Recipe, Lora):
    """All that the score of a selection depends on."""


@dataclass(frozen=True, kw_only=True)
class Budget(Checked):
    budget: str = text(
        "25%",
        "Maximum cost of a selection: 25% of the LoRA parameters of all modules, 2M LoRA parameters, 12modules, or 24GB of "
        "training memory.",
        meaning=read_budget,
    )
    granularity: str = text("module", "Unit of selection.", choices=GRANULARITIES, label="Choose by")


@dataclass(frozen=True, kw_only=True)
class Strategy(Checked):
    strategy: str = text(
        PREDICTED,
        "How to choose. " + " ".join(f"{name}: {words}." for name, words in STRATEGIES.items()),
        choices=tuple(STRATEGIES),
    )


@dataclass(frozen=True, kw_only=True)
class Baseline(Checked):
    baseline: Place | None = path(None, "Your current config, in any file that advisor verify reads; every table shows it.")


@dataclass(frozen=True, kw_only=True)
class Demo(Checked):
    demo: bool = flag("Use the embedded model and data; this needs no network.")


# --- real runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Workers(Checked):
    workers: int = whole(1, "Number of worker processes, one thread each.", 1, 1024, panel=RUNS)


@dataclass(frozen=True, kw_only=True)
class Confirm(Workers):
    """Real runs of ``recommend``."""

    effort: str = text(
        NO_RUN,
        "How much to spend. probe: no training. pilot: one real run of all modules, which also measures what the best candidates "
        "are worth alone. runs: the pilot, then real runs of the best candidates.",
        panel=RUNS,
        choices=tuple(EFFORTS),
    )
    confirm: int | None = whole(
        None,
        "Make up to this many real runs, the pilot included, and correct the predictions by the results; 0: none. On data "
        "kept back a pilot made the ranking better in six tests of ten. 90 % intervals after it last held 92 % of losses of "
        "models that runs were of, and 68 % where most models were new. "
        "With 2 the pick is run too, which tells best how it compares with all modules.",
        0,
        1000,
        panel=RUNS,
        unset="as many as --effort says: probe 0, pilot 1, runs 4",
    )
    confirm_rows: int | None = whole(
        None, "Number of training rows of each of these runs.", FEWEST_ROWS, MOST_ROWS, panel=RUNS, unset="at most 2048"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confirm is not None and (self.effort == PILOT_ONLY or (self.effort != NO_RUN and not self.confirm)):
            raise BadInput(f"--effort {self.effort} and --confirm {self.confirm} contradict each other.", "Leave one out.")

    @property
    def real_runs(self) -> int:
        """How many real runs may be made."""
        return EFFORTS[self.effort] if self.confirm is None else self.confirm


@dataclass(frozen=True, kw_only=True)
class Pull(Checked):
    """The ℓ2 pull of a paper's training."""

    pull: float | None = real(
        None,
        "Pull towards the initial weights, Eq. 8 of arXiv 2602.08239: each step also shrinks θ−θ0 by λ·lr in every tensor where "
        "⟨gradient, θ−θ0⟩ ≥ 0.",
        0,
        1e6,
        metavar="LAMBDA",
    )
    pull_always: bool = flag("With --pull: shrink every tensor in every step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pull_always and self.pull is None:
            raise BadInput("--pull-always needs --pull.", "Add --pull LAMBDA.")


# --- output ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Out(Checked):
    out: Place | None = path(None, "Folder to write to.", panel=OUTPUT)


@dataclass(frozen=True, kw_only=True)
class Formats(Checked):
    format: str | Sequence[str] = names(
        "peft", "Formats to write, separated by commas.", panel=OUTPUT, choices=FORMAT_NAMES, commas=True
    )

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(self.format)
