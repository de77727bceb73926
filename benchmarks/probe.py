"""What a probe costs, as ratios within one run (docs/design.md 7).

Stages are run interleaved, the minimum over repeats is taken: bare forward and backward passes of the frozen model,
the bare matrix products of the contraction on random numbers, the probe itself, and per-example ``jacrev``.

    python benchmarks/probe.py [--rows 64] [--tokens 64] [--repeats 3] [--jacrev 4]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch.func import functional_call, jacrev

from advisor.core.events import Session
from advisor.data.demo import demo_model_folder
from advisor.models.encode import EncodedRow, collate
from advisor.models.load import LoadedModel, load_model
from advisor.probing import gram
from advisor.probing.method import probed_layers
from advisor.probing.outputs import forward_outputs, loss_slope, make_outputs, targets_of
from advisor.probing.spool import Spool

RESULTS = Path(__file__).parent / "results" / "probe.json"


def rows_of(count: int, tokens: int) -> list[EncodedRow]:
    """Random token ids of equal length, two classes."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (count, tokens), generator=generator).tolist()
    return [EncodedRow(tuple(row), (0,) * tokens, label=i % 2) for i, row in enumerate(ids)]


def spool_of(loaded: LoadedModel, rows: list[EncodedRow], folder: Path, sketch: int | None) -> Spool:
    return Spool(folder, rows, probed_layers(loaded, 0), make_outputs("classification", 2, 0), 0.0, 1.0, sketch, None)


def bare_passes(loaded: LoadedModel, spool: Spool) -> None:
    """Forward and backward of the same micro-batches, nothing captured."""
    start = 0
    handle = loaded.model.get_input_embeddings().register_forward_hook(lambda m, i, o: o.requires_grad_(True))
    first = loaded.targets[0].name
    outputs: list[torch.Tensor] = []
    keep = loaded.model.get_submodule(first).register_forward_hook(lambda m, i, o: outputs.append(o))
    try:
        while start < len(spool.rows):
            rows = spool.rows[start : start + spool._rows_by_tokens(start, loaded)]
            batch = collate(rows, loaded)
            labels = batch.pop("labels")
            outputs.clear()
            values, _, _ = forward_outputs(spool.outputs, loaded.model(**batch).logits, labels)
            torch.autograd.grad(values.sum(), outputs)
            start += len(rows)
    finally:
        handle.remove()
        keep.remove()


def bare_products(shapes: list[tuple[str, list[tuple[int, int, int, int]]]]) -> None:
    """The matrix products of each layer's contraction on ready random tensors, without files or hooks."""
    for method, pieces in shapes:
        made = [(torch.randn(r, t, a), torch.randn(r, t, b)) for r, t, a, b in pieces]
        start = time.perf_counter()
        gram.exact_block(made, method)
        bare_products.seconds += time.perf_counter() - start  # type: ignore[attr-defined]


def layer_shapes(spool: Spool) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
    found = []
    for layer in spool.layers:
        pieces = spool.pieces(layer, torch.device("cpu"))
        sizes = [(x.shape[0], x.shape[1], x.shape[2], g.shape[2]) for x, g in pieces]
        method = gram.cheapest_method([s[1] for s in sizes], [s[0] for s in sizes], sizes[0][2], layer.out_features)
        found.append((method, sizes))
    return found


def jacrev_seconds(loaded: LoadedModel, rows: list[EncodedRow], lora: bool, contracted_rows: int) -> float:
    """Per-example jacrev over the full target weights (or over LoRA parameters), and the Gram matrix; per row."""
    if lora:
        import copy

        from peft import LoraConfig, get_peft_model

        model = get_peft_model(copy.deepcopy(loaded.model), LoraConfig(target_modules=[t.name for t in loaded.targets]))
        model.eval()
        parameters = {n: p.detach() for n, p in model.named_parameters() if "lora_" in n}
    else:
        model = loaded.model
        names = {f"{t.name}.weight" for t in loaded.targets}
        parameters = {n: p.detach() for n, p in model.named_parameters() if n in names}

    def margin(p: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = functional_call(model, p, (), batch).logits[0]
        difference: torch.Tensor = logits[1] - logits[0]
        return difference

    start = time.perf_counter()
    for row in rows:
        batch = collate([row], loaded)
        batch.pop("labels")
        jacrev(margin)(parameters, batch)
    passes = (time.perf_counter() - start) / len(rows)
    gram = 0.0
    for p in parameters.values():
        j = torch.randn(min(contracted_rows, 64), p.numel())
        start = time.perf_counter()
        j @ j.T
        gram += (time.perf_counter() - start) * contracted_rows / len(j)  # per row of the block: linear in n
    return passes + gram


def peak_memory(mode: str, rows: int, tokens: int) -> int:
    """Peak resident bytes of a fresh process that loads the model and does ``mode``."""
    command = [sys.executable, __file__, "--rows", str(rows), "--tokens", str(tokens), "--child", mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(mode: str, rows: int, tokens: int) -> None:
    loaded = load_model(str(demo_model_folder()), "classification", num_labels=2)
    with tempfile.TemporaryDirectory() as folder:
        spool = spool_of(loaded, rows_of(rows, tokens), Path(folder), None)
        if mode == "bare":
            bare_passes(loaded, spool)
        elif mode == "probe":
            full_probe(loaded, spool)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def full_probe(loaded: LoadedModel, spool: Spool) -> None:
    """Passes and contraction, as ``advisor probe`` does them."""
    spool.fill(loaded, Session())
    y = targets_of(spool.outputs, spool.read("labels").numpy())
    slopes = torch.from_numpy(loss_slope(spool.outputs, y, spool.read("f0").double().numpy())).float()
    spool.contract(slopes, "auto", loaded.device, Session())


def measure(rows: int, tokens: int, repeats: int, jacrev_rows: int) -> dict[str, float | int]:
    loaded = load_model(str(demo_model_folder()), "classification", num_labels=2)
    made = rows_of(rows, tokens)
    best: dict[str, float] = {}

    def timed(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, float("inf")), seconds)

    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            spool, sketch = spool_of(loaded, made, Path(folder), None), spool_of(loaded, made, Path(other), 64)
            start = time.perf_counter()
            bare_passes(loaded, spool)
            timed("bare_passes_s", time.perf_counter() - start)
            start = time.perf_counter()
            full_probe(loaded, spool)
            timed("probe_s", time.perf_counter() - start)
            bare_products.seconds = 0.0  # type: ignore[attr-defined]
            bare_products(layer_shapes(spool))
            timed("bare_products_s", bare_products.seconds)  # type: ignore[attr-defined]
            start = time.perf_counter()
            full_probe(loaded, sketch)
            timed("sketch_s", time.perf_counter() - start)
        if jacrev_rows:
            timed("jacrev_full_s", jacrev_seconds(loaded, made[:jacrev_rows], False, rows) * rows)
            timed("jacrev_lora_s", jacrev_seconds(loaded, made[:jacrev_rows], True, rows) * rows)
    bare, probe = peak_memory("bare", rows, tokens), peak_memory("probe", rows, tokens)
    block_bytes = 2 * (len(loaded.targets) + 1) * rows * rows * 4
    floor = best["bare_passes_s"] + best["bare_products_s"]
    result: dict[str, float | int] = {
        "rows": rows,
        "tokens": tokens,
        "probe_over_bare": best["probe_s"] / floor,
        "passes_share_of_bare": best["bare_passes_s"] / floor,
        "sketch_over_bare_passes": best["sketch_s"] / best["bare_passes_s"],
        "peak_over_bare_plus_blocks": probe / (bare + block_bytes),
        "peak_bare_bytes": bare,
        "peak_probe_bytes": probe,
    }
    if jacrev_rows:
        result["jacrev_full_over_probe"] = best["jacrev_full_s"] / best["probe_s"]
        result["jacrev_lora_over_sketch"] = best["jacrev_lora_s"] / best["sketch_s"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jacrev", type=int, default=4, help="rows timed with jacrev; 0: leave it out")
    parser.add_argument("--child", choices=("bare", "probe"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.rows[0], options.tokens)
        return
    results = [measure(rows, options.tokens, options.repeats, options.jacrev) for rows in options.rows]
    for result in results:
        for key, value in result.items():
            print(f"{key:28s} {value:.3g}" if isinstance(value, float) else f"{key:28s} {value}")
        print()
    report = {
        "model": "all-MiniLM-L6-v2",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": options.repeats,
        "results": results,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
