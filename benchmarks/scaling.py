"""How the time and memory of a probe grow with layers, width, rows and tokens, and what that means for 7B and 70B.

Random Llamas in float32 on one CPU core; passes and contraction (a sketch, k = 64, as for every large model), without the
peers' scores and the linearity check. Each measurement is a process of its own; time is processor time.

    python benchmarks/scaling.py [--quick] [--page]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import psutil
import shapes
import torch

from advisor.models.placement import ROOM
from advisor.probing.memory_estimate import measure_kept, peak_bytes, resident_bytes, used_now
from advisor.probing.peer_scores import PEER_TOKENS

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scaling.json"
PAGE = HERE.parent / "docs" / "scaling.md"
PLOT = HERE.parent / "docs" / "scaling.svg"
COMMANDS = "## Whole commands\n"
VOCABULARY = 1024  # so that the output layer does not hide the blocks of small models
BASE = {"layers": 4, "width": 256, "rows": 16, "tokens": 64}
SWEEPS: dict[str, tuple[int, ...]] = {
    "layers": (2, 4, 8),
    "width": (128, 256, 512, 1024),
    "rows": (8, 16, 32),
    "tokens": (32, 64, 128),
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)  # of both plots, seconds and GB
LARGEST = ({**BASE, "layers": 8, "width": 1024}, {**BASE, "layers": 16, "width": 2048}, {**BASE, "layers": 24, "width": 2560})
SHAPES = {  # the usual ones: layers, width, inner width, key and value width, vocabulary
    "7B": (32, 4096, 11008, 4096, 32000),
    "70B": (80, 8192, 28672, 1024, 32000),
}
GPUS = (80e9,) * 8  # of the simulated machine


def measure(layers: int, width: int, rows: int, tokens: int) -> dict[str, Any]:
    """In this process: processor seconds of bare passes and of the probe, and memory above the loaded model."""
    loaded = shapes.llama(layers, width, vocabulary=VOCABULARY)
    made = shapes.rows_of(rows, tokens, VOCABULARY)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        spool = shapes.spool_of(loaded, made, Path(folder), 64)
        more = peak_bytes(loaded, spool, measure_kept(loaded, spool))
        estimate = used_now(loaded.device) + resident_bytes(loaded.device, more)
        before = psutil.Process().memory_info().rss
        probe = shapes.processor_seconds(shapes.full_probe, loaded, spool)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        again = shapes.spool_of(loaded, made, Path(other), 64)
        bare = shapes.processor_seconds(shapes.bare_passes, loaded, again)
    return {
        "layers": layers,
        "width": width,
        "rows": rows,
        "tokens": tokens,
        "parameters": loaded.parameters,
        "flops": flops(sum(t.in_features * t.out_features for t in loaded.targets) + VOCABULARY * width, rows * tokens),
        "probe_s": probe,
        "bare_s": bare,
        "before_bytes": before,
        "peak_bytes": peak,
        "estimated_bytes": estimate,
    }


def flops(weights: float, tokens: float, scalars: int = 2) -> float:
    """Of one forward pass and a backward pass for each scalar, frozen weights."""
    return 2.0 * weights * tokens * (1 + scalars)


def in_a_process(shape: dict[str, int]) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:  # this process has computed nothing yet
        found: dict[str, Any] = pool.submit(measure, **shape).result()
    print(
        f"{shape}: {found['probe_s']:.1f} s, {found['probe_s'] / found['bare_s']:.2f} × bare, "
        f"peak {found['peak_bytes'] / 1e9:.2f} GB, estimated {found['estimated_bytes'] / 1e9:.2f}",
        flush=True,
    )
    return found


def exponent(points: list[dict[str, Any]], by: str, of: str) -> float:
    """Slope of log(of) against log(by)."""
    return float(np.polyfit(np.log([p[by] for p in points]), np.log([p[of] for p in points]), 1)[0])


def extrapolated(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Time as seconds a FLOP of the largest measured models, the probe's share above bare passes kept; memory by shape."""
    large = sorted(points, key=lambda p: p["flops"])[-4:]
    rate = float(np.median([p["probe_s"] / p["flops"] for p in large]))
    over_bare = float(np.median([p["probe_s"] / p["bare_s"] for p in large]))
    found: dict[str, Any] = {"seconds_per_tflop": rate * 1e12, "over_bare": over_bare}
    for name, (layers, width, inner, kv, vocabulary) in SHAPES.items():
        a_layer = 2 * width * width + 2 * width * kv + 3 * width * inner
        weights = layers * a_layer
        work = flops(weights + vocabulary * width, 128 * 512)
        found[name] = {
            "parameters": weights + 2 * vocabulary * width,
            "tflop": work / 1e12,
            "hours_on_this_core": work * rate / 3600,
            "minutes_at_200_tflops": work / 200e12 * found["over_bare"] / 60,
            "weights_bf16_bytes": 2 * (weights + 2 * vocabulary * width),
            "weights_4bit_bytes": weights * (0.5 + 1 / 64 * (1 + 4 / 256)) + 4 * vocabulary * width,
            # A row of 512 tokens in bfloat16, blocks recomputed: every block's input, one block's activations, the logits.
            "row_recomputed_bytes": 512 * (2 * layers * width + 30 * width + 10 * inner + 5 * 4 * vocabulary),
            "sketch_disk_bytes": 128 * 2 * layers * 7 * 64 * 64 * 4,
            "exact_disk_bytes": 128 * 512 * 2.0 * layers * (3 * width + inner + 2 * (3 * width + 2 * kv + 2 * inner)),
            "stages": stages(layers, width, inner, kv, vocabulary),
            "gpu_bytes": sharded(layers, width, inner, kv, vocabulary),
        }
    return found


def stages(layers: int, width: int, inner: int, kv: int, vocabulary: int, rows: int = 128, tokens: int = 512) -> dict[str, float]:
    """TFLOP of each stage of a probe with a sketch and of the advice, by count."""
    weights = layers * (2 * width * width + 2 * width * kv + 3 * width * inner) + vocabulary * width
    widths = layers * (2 * width * 4 + 2 * kv + 2 * (width + inner) + width + inner)  # a + b, over a layer's seven modules
    modules, k, seen = 7 * layers, 64, rows * tokens
    roles, passes, simulated, steps = 7, 4, 400, 34  # selections scored by a whole command, steps of a simulated run
    found = {
        "passes": flops(weights, seen) / 1e12,
        "sketch of inputs and gradients": 2 * seen * widths * k / 1e12 + 2 * seen * modules * k * k / 1e12,
        "kernel blocks": 2 * modules * rows * rows * k * k / 1e12,
        "peers' inputs (a forward pass of some rows)": 2 * weights * min(seen, PEER_TOKENS) / 1e12,
        "training's memory (forward passes of 96 tokens at most)": 2 * weights * 96 * passes * (roles + 2) / 1e12,
        "predictions, search and stability": 2 * simulated * rows * rows * (modules + 4 * steps) / 1e12,
    }
    return {stage: float(f"{value:.3g}") for stage, value in found.items()}


def sharded(layers: int, width: int, inner: int, kv: int, vocabulary: int) -> list[float]:
    """Bytes of bfloat16 weights on each of ``GPUS``, and then in memory and on disk, as transformers' ``device_map="auto"`` lays
    them: the model itself on the meta device, with the share of each GPU that the advisor lets weights take."""
    from accelerate import infer_auto_device_map, init_empty_weights
    from accelerate.utils import compute_module_sizes, get_balanced_memory
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 128, num_key_value_heads=kv // 128, tie_word_embeddings=False,
    )  # fmt: skip
    with init_empty_weights():
        model = LlamaForCausalLM(config)
    most: dict[Any, int] = {index: int(ROOM * size) for index, size in enumerate(GPUS)} | {"cpu": 0}
    whole = {"dtype": torch.bfloat16, "no_split_module_classes": list(model._no_split_modules)}
    placed = infer_auto_device_map(model, max_memory=get_balanced_memory(model, most, **whole), **whole)
    sizes = compute_module_sizes(model, dtype=torch.bfloat16)
    return [float(sum(sizes[name] for name, at in placed.items() if at == where)) for where in (*range(len(GPUS)), "cpu", "disk")]


def page(report: dict[str, Any]) -> str:
    points, far = report["points"], report["extrapolated"]
    lines = [
        "# How a probe grows",
        "",
        "Written by `benchmarks/scaling.py`. Random Llamas in float32 on one core of a 2-core machine (time is",
        "processor time), passes and contraction of a sketch with k = 64, without the peers' scores and the linearity check.",
        "",
        "| layers | width | parameters | rows | tokens | bare passes, s | probe, s | probe / bare | peak, GB | said before, GB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for p in points:
        lines.append(
            f"| {p['layers']} | {p['width']} | {p['parameters'] / 1e6:.0f} M | {p['rows']} | {p['tokens']} | "
            f"{p['bare_s']:.2f} | {p['probe_s']:.2f} | {p['probe_s'] / p['bare_s']:.2f} | "
            f"{p['peak_bytes'] / 1e9:.2f} | {p['estimated_bytes'] / 1e9:.2f} |"
        )
    lines += ["", "![Seconds and memory against layers, width, rows and tokens](scaling.svg)", ""]
    words = ", ".join(f"{by} {value:.2f}" for by, value in report["exponents"].items())
    narrow, wide = (sweep(points, "width")[i] for i in (0, -1))
    lines += [
        f"Time grows as a power of: {words} (slopes of logarithms over each sweep). By count it must be 1 for layers, rows and",
        "short rows, and 2 for width; small models lie below, as fixed costs and narrow matrices weigh more there.",
        "What a sketch adds to the passes grows with the width, they with its square: the probe takes "
        f"{narrow['probe_s'] / narrow['bare_s']:.1f} × "
        f"the bare passes at width {narrow['width']}",
        f"and {wide['probe_s'] / wide['bare_s']:.1f} × at {wide['width']}. Memory is the process's, Python and torch "
        "with about 0.5 GB among it. Times of a busy machine are",
        "noisy: read the ratios.",
        "",
        "## On paper: 7B and 70B",
        "",
        "128 rows of 512 tokens, one forward and two backward passes. Of the models above the four largest take "
        f"{far['seconds_per_tflop']:.1f} s a TFLOP",
        f"on this core and {far['over_bare']:.2f} × the bare passes; both are carried over. Nothing in this table was run.",
        "",
        "| | 7B | 70B |",
        "| --- | ---: | ---: |",
    ]
    rows: list[tuple[str, str, float, str]] = [
        ("work", "tflop", 1, "{:.0f} TFLOP"),
        ("time on one core like this", "hours_on_this_core", 1, "{:.0f} h"),
        ("time where passes reach 200 TFLOP/s", "minutes_at_200_tflops", 1, "{:.1f} min"),
        ("weights, bfloat16", "weights_bf16_bytes", 1e9, "{:.0f} GB"),
        ("weights, 4 bits", "weights_4bit_bytes", 1e9, "{:.1f} GB"),
        ("besides, one row at a time, blocks recomputed", "row_recomputed_bytes", 1e9, "{:.2f} GB"),
        ("disk of the sketch", "sketch_disk_bytes", 1e9, "{:.2f} GB"),
        ("disk of exact blocks (not offered by itself above 1 B parameters)", "exact_disk_bytes", 1e9, "{:.0f} GB"),
    ]
    for label, key, unit, form in rows:
        lines.append(f"| {label} | " + " | ".join(form.format(far[name][key] / unit) for name in SHAPES) + " |")
    lines += [
        "",
        "Which stage grows how, in TFLOP by count: all but the last grow with the weights or with their widths, so the passes",
        "stay by far the largest. Singular values for the peers are left out where they would take more than a tenth as long.",
        "",
        "| | 7B | 70B |",
        "| --- | ---: | ---: |",
    ]
    for stage in far["7B"]["stages"]:
        lines.append(f"| {stage} | " + " | ".join(f"{far[name]['stages'][stage]:,.5g}" for name in SHAPES) + " |")
    on_gpus = far["70B"]["gpu_bytes"]
    spread = sorted(size / 1e9 for size in on_gpus[: len(GPUS)])
    outside = "nothing is left outside" if not any(on_gpus[len(GPUS) :]) else "the rest is fetched in every pass"
    lines += [
        "",
        f"**In simulation**, the 70B model's own modules on the meta device, laid by accelerate on {len(GPUS)} GPUs of "
        f"{GPUS[0] / 1e9:.0f} GB of which weights",
        f"may take {ROOM:.0%}: {spread[0]:.1f} to {spread[-1]:.1f} GB of weights on each, {outside}. GPUs take turns in a pass, "
        "so its time is that of one GPU;",
        "a micro-batch's inputs and gradients are sketched where they arise, and leave the GPU as k·k numbers a row and module.",
    ]
    return "\n".join(lines) + "\n"


def draw(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "scaling"
    figure, axes = plt.subplots(2, 4, figsize=(12, 5.6), sharey="row", layout="constrained")
    for column, by in enumerate(SWEEPS):
        mine = sweep(points, by)
        x = [p[by] for p in mine]
        top, bottom = axes[0, column], axes[1, column]
        top.plot(x, [p["probe_s"] for p in mine], "o-", label="probe")
        top.plot(x, [p["bare_s"] for p in mine], "s--", label="bare passes")
        bottom.plot(x, [p["peak_bytes"] / 1e9 for p in mine], "o-", label="measured peak")
        bottom.plot(x, [p["estimated_bytes"] / 1e9 for p in mine], "s--", label="said before")
        for axis in (top, bottom):
            axis.set(xscale="log", yscale="log", xlabel=by)
            axis.set_xticks(x, [str(v) for v in x])
            axis.set_yticks(TICKS, [f"{v:g}" for v in TICKS])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylim(0.09, 11)
    axes[1, 0].set_ylim(0.45, 2.2)
    axes[0, 0].set_ylabel("processor seconds")
    axes[1, 0].set_ylabel("memory, GB")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def sweep(points: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The points that differ from the base in ``by`` at most."""
    fixed = {key: value for key, value in BASE.items() if key != by}
    return sorted((p for p in points if all(p[k] == v for k, v in fixed.items())), key=lambda p: p[by])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the largest models")
    parser.add_argument("--page", action="store_true", help="only write page and plot from the committed results")
    options = parser.parse_args()
    if options.page:
        report = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        wanted = [{**BASE, by: value} for by, values in SWEEPS.items() for value in values]
        wanted += () if options.quick else LARGEST
        unique = [json.loads(text) for text in dict.fromkeys(json.dumps(w) for w in wanted)]
        points = [in_a_process(shape) for shape in unique]
        report = {"points": points, "device": "cpu", "threads": os.environ.get("OMP_NUM_THREADS")}
    points = report["points"]
    report["exponents"] = {by: exponent(sweep(points, by), by, "probe_s") for by in SWEEPS}
    report["extrapolated"] = extrapolated(points)
    assert all(math.isfinite(v) for v in report["exponents"].values())
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    before = PAGE.read_text(encoding="utf-8")
    commands = before[before.index(COMMANDS) :]  # made by benchmarks/command.py
    PAGE.write_text(page(report).rstrip() + "\n\n" + commands, encoding="utf-8")
    draw(points, PLOT)


if __name__ == "__main__":
    main()
