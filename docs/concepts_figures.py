"""Draws the figures of docs/concepts.md from a probe of the demo: ``python docs/concepts_figures.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from advisor import probe
from advisor.core.candidate import Candidate
from advisor.core.selections import ALL_LINEAR, QV, target_sets
from advisor.probe_cache import demo_inputs
from advisor.results import ProbeResult
from advisor.theory.spectrum import Spectrum

FOLDER = Path(__file__).parent


def kernels(result: ProbeResult) -> Figure:
    """Centred blocks of two modules and of all modules together, examples sorted by class: entries as cosines."""
    found = result.probe
    order = np.argsort(found.labels, kind="stable")
    edges = np.flatnonzero(np.diff(found.labels[order])) + 0.5
    first, last = (next(t for t in ts if t.role == "value") for ts in (found.targets, found.targets[::-1]))
    blocks = {f"{t.role} of layer {t.layer}": found.weight_blocks[found.targets.index(t)] for t in (first, last)}
    blocks["all modules: the sum"] = found.weight_blocks.sum(0)
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    centre = np.eye(found.samples) - 1 / found.samples
    for axis, (title, whole) in zip(axes, blocks.items(), strict=True):
        block = centre @ whole @ centre  # what all examples share teaches no difference between them
        size = np.sqrt(np.diag(block))
        image = axis.imshow((block / np.outer(size, size))[np.ix_(order, order)], cmap="RdBu_r", vmin=-0.5, vmax=0.5)
        for edge in edges:
            axis.axhline(edge, color="black", linewidth=0.4)
            axis.axvline(edge, color="black", linewidth=0.4)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=axes, shrink=0.8, label="agreement of two examples", extend="both")
    return figure


def spectra(result: ProbeResult) -> Figure:
    """Eigenvalues of the kernels of all modules and of q,v, and the ridge."""
    scorer = result.scorer()
    usual = [s for s in target_sets(result.probe.targets, result.probe.info["qv_roles"]) if s.name in (ALL_LINEAR, QV)]
    figure = Figure(figsize=(6, 3.3), layout="constrained")
    axes = figure.subplots()
    for selection, style in zip(usual, ("-", "--"), strict=True):
        weights = scorer.block_weights([Candidate(selection, scorer.settings)], scorer.kernels.kind)
        values = Spectrum.of(scorer.kernels.of(weights, with_head=False)[0]).values[::-1]
        shown = np.maximum(values, scorer.sigma / 100)
        axes.semilogy(range(1, len(values) + 1), shown, style, color="black", label=selection.name)
    axes.axhline(scorer.sigma, color="tab:blue", linestyle=":", label="ridge σ")
    axes.set_xlabel("direction in the space of examples, strongest first")
    axes.set_ylabel("eigenvalue of the kernel")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    result = probe(*demo_inputs())
    for name, figure in (("kernels", kernels(result)), ("spectra", spectra(result))):
        figure.savefig(FOLDER / f"concepts-{name}.png", dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
