"""Words that options take, with what the help says of them: plain text, so that showing it loads no NumPy."""

from __future__ import annotations

from typing import Literal

GRANULARITIES = ("module", "role", "layer")  # units of selection
AUTO, AUTO_BASE = "auto", 8  # --rank auto, and the common rank that its budget is counted at
KERNELS = ("adam", "lora-expected", "weight")
HEADS = ("probed", "fresh")
METHODS = ("auto", "materialise", "token-gram", "kronecker")
DEVICES = ("auto", "cpu", "cuda", "disk")
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
LANGUAGE, VISION, CONNECTOR = "language", "vision", "connector"  # parts of a model of images and text
PARTS = (LANGUAGE, VISION, "all")  # which of them --adapt takes; the connector goes with the vision tower
FORMAT_NAMES = ("peft", "axolotl", "llama-factory", "unsloth", "trl")  # the keys of advisor.export.FORMATS
PREDICTED, OBJECTIVE, SPECTRAL_RATIO, CONDITION_NUMBER = "predicted", "objective", "spectral-ratio", "condition-number"
NO_RUN, PILOT_ONLY, SOME_RUNS = "probe", "pilot", "runs"
EFFORTS = {NO_RUN: 0, PILOT_ONLY: 1, SOME_RUNS: 4}  # and how many real runs each makes at most
STRATEGIES = {
    PREDICTED: "the cheapest selection that is not predicted to be worse than the best",
    OBJECTIVE: "smallest V(K) = σz'(K+σI)⁻¹z, the training objective of kernel ridge regression; "
    "it always spends the whole budget",
    SPECTRAL_RATIO: "Algorithm 2 of arXiv 2602.08239, smallest λmax(K+S+σI)/λmax(K+σI); the ratio never falls when modules "
    "are added, so only selections that fill the budget are compared, and weak modules win",
    CONDITION_NUMBER: "smallest κ(K+σI), the paper's metric at initialisation; σ decides much of it",
}
Beside = Literal["apart", "alike", "not known"]  # what is known of one selection beside another
APART: Beside = "apart"
ALIKE: Beside = "alike"
NOT_KNOWN: Beside = "not known"
LEVEL = 0.9  # of all intervals: they should hold the truth so often
ALIKE_SURE = 0.8  # probability from which two selections are called alike: on development data over nine in ten such claims hold
ALIKE_WITHIN = 0.05  # share of the loss: where two selections differ by less, it hardly matters which one is trained
