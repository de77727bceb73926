"""Does a gradient normalised by its covariance rank selections better than the simulated recipe, alone or beside it?

Layer Card (arXiv 2602.04019) scores layers by a covariance-normalised gradient with a term for their coupling. In kernel space,
with the summed block K of a selection's per-example loss gradients, that is 1ᵀK(K + λI)⁻¹1: the step of natural gradient that
all of its modules take together. Groups of the committed rows with 15 selections or more; correlations with single runs.

    python benchmarks/normalised_gradient.py WORK
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from linearity import source_of
from ranking import budget_of, by_seed, correlations
from validity import RESULTS, SHIPPED, read

from advisor.core.events import Session
from advisor.core.probe import Probe
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings
from advisor.models.prepare import prepare
from advisor.prediction.groups import Group, grouped
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.kernels import lora_constant

FEWEST = 15
RIDGES = (0.01, 0.1, 1.0)  # times the mean of the diagonal


def probe_of(group: Group, work: Path) -> Probe | None:
    source, row = source_of(group), group.rows[0]
    if source is None:
        return None
    name = f"{row.provenance['model']} on {row.provenance['data']}".replace("/", "-")
    prepared = prepare(source, Session(), train_limit=row.recipe["train_rows"], eval_limit=0)
    return run_probe(prepared, ProbeSettings(), work / name, Session())


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def scores(group: Group, probe: Probe) -> dict[str, np.ndarray]:
    """Per selection [S], lower is better: the simulated recipe, the normalised gradient, and the sum of the ranks of both."""
    constants = np.array([lora_constant(t, LoraSettings()) for t in probe.targets])
    blocks = constants[:, None, None] * probe.gradient_blocks
    masks = {row.selection: row.mask for row in group.rows}
    chosen = np.array([[on == "1" for on in masks[s]] for s in group.selections], dtype=float)
    ones, scale = np.ones(probe.samples), float(np.einsum("mii->", blocks)) / probe.samples
    found = {"simulated": group.simulated}
    for ridge in RIDGES:
        steps = []
        for mask in chosen:
            kernel = np.einsum("m,mij->ij", mask, blocks)
            steps.append(-float(ones @ np.linalg.solve(kernel + ridge * scale * np.eye(probe.samples), kernel @ ones)))
        found[f"normalised gradient, λ {ridge:g}"] = np.array(steps)
        found[f"ranks of both, λ {ridge:g}"] = ranks(group.simulated) + ranks(np.array(steps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of probes, which are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for group in grouped(read(SHIPPED)):
        if len(group.selections) < FEWEST or (probe := probe_of(group, options.work)) is None:
            continue
        budgets = np.array([budget_of(s) for s in group.selections])
        seeds = by_seed(group, lambda row: math.log(row.val_loss)).values()
        for name, score in scores(group, probe).items():
            of_seeds = [correlations(score, loss, budgets) for loss in seeds]
            own: dict[str, Any] = {"group": group.name}
            for key in ("all", "within"):
                known = [value for c in of_seeds if (value := c[key]) is not None]
                own[key] = float(np.mean(known)) if known else None
            found.setdefault(name, []).append(own)
    for name, of_groups in found.items():
        every, within = ([g[key] for g in of_groups if g[key] is not None] for key in ("all", "within"))
        print(
            f"{name:30s} all {np.mean(every):+.2f} ({len(every)} groups)  within a budget {np.mean(within):+.2f} ({len(within)})"
        )
    write_json(RESULTS.with_name("normalised_gradient.json"), found)


if __name__ == "__main__":
    main()
