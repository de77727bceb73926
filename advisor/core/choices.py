"""Words that options take, with what the help says of them: plain text, so that showing it loads no NumPy."""

from __future__ import annotations

GRANULARITIES = ("module", "role", "layer")  # what --granularity takes whole
AUTO, AUTO_BASE = "auto", 8  # --rank auto, and the common rank that its budget is counted at
PREDICTED, OBJECTIVE, SPECTRAL_RATIO, CONDITION_NUMBER = "predicted", "objective", "spectral-ratio", "condition-number"
STRATEGIES = {
    PREDICTED: "cheapest selection not predicted worse than the best (default)",
    OBJECTIVE: "smallest V(K) = σz'(K+σI)⁻¹z, the training objective of kernel ridge; always spends the whole budget",
    SPECTRAL_RATIO: "Algorithm 2 of arXiv 2602.08239, smallest λmax(K+S+σI)/λmax(K+σI): the ratio never falls when modules "
    "are added, so only selections that fill the budget are compared, and weak modules win",
    CONDITION_NUMBER: "smallest κ(K+σI), the paper's metric at initialisation; σ decides much of it",
}
