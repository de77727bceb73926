"""Does the probe predict what real runs forget? Judged by the runs of ``benchmarks/keep_runs.py``; figures of docs/keep.md.

Of each pair the training rows of the probe, the first reference rows and two draws of score rows are probed together. Real
forgetting is measured on other reference rows. Results go to ``results/keep.json``.

    python benchmarks/keep.py WORK [--pairs TEXT …]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keep_runs import PAIRS, PROBED, Pair, prepared_pair, recipe, selections_of
from scipy.stats import spearmanr

from advisor.advice.peer_picks import GRADIENT_NORM, KAPPATUNE, gradient_norms, selection_scores
from advisor.core.events import Session
from advisor.core.probe import Probe
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings
from advisor.data.dataset import sample_rows
from advisor.models.encode import encode
from advisor.prediction.probe_view import probe_view
from advisor.probing.keep import target_tokens, with_sampled_targets
from advisor.probing.outputs import make_outputs
from advisor.probing.run import DEFAULT_SAMPLES, ProbeSettings, _layers, run_probe
from advisor.probing.spool import Spool
from advisor.theory.features import adam_scales, recipe_loss
from advisor.theory.forgetting import drift_cap, fisher_traces, kl_drift, moves, pulls
from advisor.theory.kernels import Array, lora_constant

RESULTS = Path(__file__).parent / "results" / "keep.json"
DRAWS = 2


def probed(pair: Pair, work: Path) -> tuple[Probe, dict[str, Array]]:
    """The pair's probe, and blocks of training, reference and score rows together: G [M, N, N], losses [N], tokens [N]."""
    prepared, reference = prepared_pair(pair)
    loaded = prepared.loaded
    probe = run_probe(prepared, ProbeSettings(), work / f"{pair.name}-probe", Session())
    path = work / f"{pair.name}.npz"
    if not path.exists():
        train, _ = encode(sample_rows(prepared.train, DEFAULT_SAMPLES, 0), loaded, prepared.max_length)
        kept = reference[:PROBED]
        rows = [*train, *kept, *(row for seed in range(DRAWS) for row in with_sampled_targets(loaded, kept, seed))]
        order = sorted(range(len(rows)), key=lambda i: (rows[i].length, i))
        with tempfile.TemporaryDirectory() as folder:
            layers = _layers(loaded, 0)
            outputs = make_outputs(loaded.task, 0, 0)
            spool = Spool(Path(folder), [rows[i] for i in order], layers, outputs, 0.0, 1.0, None, None)
            spool.fill(loaded, Session())
            _, gradient, _ = spool.contract(None, "auto", loaded.device, Session())
            losses = spool.read("losses").double().numpy()
        back = np.argsort(order)
        tokens = np.array([target_tokens(row) for row in rows], dtype=np.float64)
        np.savez(path, blocks=gradient.numpy()[:, back][:, :, back], losses=losses[back], tokens=tokens)
    return probe, dict(np.load(path))


def predictions(probe: Probe, arrays: dict[str, Array], masks: Array) -> dict[str, Array]:
    """Every quantity [S] that may say how much a selection forgets: the larger, the more."""
    settings, n = LoraSettings(), probe.samples
    view = probe_view(probe, settings, recipe(probe.task))
    np.testing.assert_allclose(arrays["losses"][:n], probe.losses, rtol=1e-3)
    constants = np.array([lora_constant(t, settings) for t in probe.targets])
    blocks = constants[:, None, None] * arrays["blocks"].astype(np.float64)
    own = blocks[:, :n, :n]
    parameters = np.array([settings.rank * t.out_features for t in probe.targets], dtype=np.float64)
    batch = recipe(probe.task).batch_size
    scales = adam_scales(own.sum((1, 2)), np.einsum("mii->m", own), parameters, n, batch)[:, None, None]
    kernels = np.tensordot(masks, scales * own, 1)
    pulled = pulls(kernels, probe.losses, view.schedule)
    cross_loss, cross_score = scales * blocks[:, n : n + PROBED, :n], scales * blocks[:, n + PROBED :, :n]
    tokens = arrays["tokens"][n + PROBED :]
    loss = moves(masks, cross_loss, pulled).mean(1)
    kl = kl_drift(moves(masks, cross_score, pulled), tokens)
    fisher = constants * fisher_traces(np.einsum("mii->mi", arrays["blocks"])[:, n + PROBED :], tokens)
    peers = selection_scores(probe, masks)
    return {
        "loss": loss,
        "kl": kl,
        "loss + kl": loss + kl,
        "cap": drift_cap(masks, cross_score, tokens, pulled),
        "fisher trace": masks @ fisher,
        "parameters": masks @ np.array([t.lora_params(settings.rank) for t in probe.targets]),
        "kappatune": -peers[KAPPATUNE],
        "gradient norm (peer)": peers[GRADIENT_NORM],
        "gradient norm": np.sqrt(masks @ (constants * gradient_norms(probe) ** 2)),
        "kernel trace": np.einsum("sii->s", view.kernels["adam"].of(masks)),
        "simulated gain": -recipe_loss(view, masks),
    }


def judged(pair: Pair, work: Path) -> dict[str, Any]:
    """The figures of one pair so far."""
    lines = [json.loads(line) for line in (work / f"{pair.name}.jsonl").read_text(encoding="utf-8").splitlines()]
    probe, arrays = probed(pair, work)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(line["selection"], []).append(line)
    selections = [s for s in selections_of(probe.targets, LoraSettings().rank) if s.name in by_name]
    masks = np.array([[t.name in s.targets for t in probe.targets] for s in selections], dtype=np.float64)
    predicted = predictions(probe, arrays, masks)

    def real(take: Any, seed: int | None = None) -> Array:
        return np.array(
            [np.mean([take(line) for line in by_name[s.name] if seed is None or line["seed"] == seed]) for s in selections]
        )

    measured = {
        "loss": real(lambda line: line["held"]["after"] - line["held"]["before"]),
        "kl": real(lambda line: line["held"]["kl"]),
        "learned": real(lambda line: line["task_loss"][0] - min(line["task_loss"][1:])),
    }
    return {
        "pair": pair.name,
        "selections": len(selections),
        "seeds": sorted({line["seed"] for line in lines}),
        "loss_before": lines[0]["held"]["before"],
        "real": {name: [round(float(v), 6) for v in values] for name, values in measured.items()},
        "predicted": {name: [float(f"{v:.6g}") for v in values] for name, values in predicted.items()},
        "spearman": {kind: {name: rank(values, measured[kind]) for name, values in predicted.items()} for kind in measured},
        "learned_against_forgotten": rank(measured["learned"], measured["loss"]),
    }


def rank(a: Array, b: Array) -> float | None:
    value = float(spearmanr(a, b).statistic)
    return round(value, 3) if np.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of the runs, and of probes")
    parser.add_argument("--pairs", nargs="*", default=[""], help="parts of pair names; all that have runs by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {} if not RESULTS.exists() else {entry["pair"]: entry for entry in json.loads(RESULTS.read_text())["pairs"]}
    for pair in PAIRS:
        if (options.work / f"{pair.name}.jsonl").exists() and any(part in pair.name for part in options.pairs):
            found[pair.name] = judged(pair, options.work)
            write_json(RESULTS, {"pairs": [found[p.name] for p in PAIRS if p.name in found]})
            print(pair.name, json.dumps(found[pair.name]["spearman"], indent=1), flush=True)


if __name__ == "__main__":
    main()
