"""The targets of docs/design.md 7 on one GPU: a 7B-shaped random Llama, bfloat16 and 4-bit, 128 rows × 512 tokens, sketch.

Asked for: at most 2 × the bare passes (forward, and a backward pass for each of the two scalars), in the memory of the model
and one micro-batch. Besides, with blocks recomputed. The minimum over repeats counts; the JSON names the device.

    python benchmarks/gpu/probe_7b.py                  # on one CUDA GPU with 24 GB or more (4-bit alone: --only 4bit)
    python benchmarks/gpu/probe_7b.py --small          # the same on a CPU and a tiny model: shows that the script runs
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import shapes
import torch

from advisor.core.events import Session
from advisor.probing.memory_estimate import measure_kept, peak_bytes, used_now

RESULTS = Path(__file__).resolve().parent.parent / "results"
CASES: dict[str, dict[str, Any]] = {
    "bfloat16": {"quantised": None, "recompute": False},
    "4bit": {"quantised": "4bit", "recompute": False},
    "bfloat16 recomputed": {"quantised": None, "recompute": True},
    "4bit recomputed": {"quantised": "4bit", "recompute": True},
}
SEVEN_B = {"layers": 32, "width": 4096, "inner": 11008, "heads": 32, "vocabulary": 32000}
SMALL = {"layers": 2, "width": 128, "inner": 352, "heads": 4, "vocabulary": 512}


def measure(shape: dict[str, int], rows: int, tokens: int, repeats: int, device: str, case: dict[str, Any]) -> dict[str, Any]:
    on_gpu = device.startswith("cuda")
    loaded = shapes.llama(**shape, device=device, dtype=torch.bfloat16, quantised=case["quantised"])
    made = shapes.rows_of(rows, tokens, shape["vocabulary"])
    best: dict[str, float] = {}
    found: dict[str, Any] = {}
    for repeat in range(repeats + 1):  # the first warms up
        with tempfile.TemporaryDirectory() as folder:
            spool = shapes.spool_of(loaded, made, Path(folder), 64, recompute=case["recompute"])
            if not repeat:
                held = used_now(loaded.device)
                said = held + peak_bytes(loaded, spool, measure_kept(loaded, spool))
                found = {"held_bytes": held, "estimated_peak_bytes": said}
            works: dict[str, tuple[Any, ...]] = {
                "bare": (shapes.bare_passes, loaded, spool),
                "passes": (spool.fill, loaded, Session()),
                "contraction": (spool.contract, None, "auto", loaded.device, Session()),
            }
            for name, work in works.items():
                seconds, peak = timed(on_gpu, *work)
                if repeat:
                    best[f"{name}_s"] = min(best.get(f"{name}_s", float("inf")), seconds)
                found[f"{name}_peak_bytes"] = peak
    best["probe_over_bare"] = (best["passes_s"] + best["contraction_s"]) / best["bare_s"]
    return {"parameters": loaded.parameters, "modules": len(loaded.targets), **best, **found}


def timed(on_gpu: bool, work: Any, *arguments: Any) -> tuple[float, int]:
    """Seconds, and on a GPU peak bytes (else what the process holds afterwards)."""
    gc.collect()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work(*arguments)
    if on_gpu:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss
    return time.perf_counter() - start, int(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny model on the CPU")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=tuple(CASES), help="one case")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        sys.exit("No CUDA GPU here. --small runs the same on a CPU with a tiny model.")
    device = "cpu" if options.small else "cuda:0"
    rows, tokens = (8, 32) if options.small else (options.rows, options.tokens)
    shape = SMALL if options.small else SEVEN_B
    cases = {name: case for name, case in CASES.items() if options.only in (None, name)}
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if not options.small else "CPU, tiny model: no measurement of the targets",
        "torch": torch.__version__,
        "shape": shape,
        "rows": rows,
        "tokens": tokens,
        "cases": {},
    }
    for name, case in cases.items():
        found = measure(shape, rows, tokens, options.repeats, device, case)
        report["cases"][name] = found
        print(
            f"{name:20s} probe {found['probe_over_bare']:.2f} × bare passes ({found['bare_s']:.2f} s); peak of passes "
            f"{found['passes_peak_bytes'] / 1e9:.2f} GB, bare {found['bare_peak_bytes'] / 1e9:.2f}, said before "
            f"{found['estimated_peak_bytes'] / 1e9:.2f}"
        )
        gc.collect()
        if not options.small:
            torch.cuda.empty_cache()
    path = RESULTS / ("gpu_small.json" if options.small else "gpu.json")
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
