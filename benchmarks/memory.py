"""Peak memory of whole probes against what they say before they start (the note "… GB of memory at the peak").

Each is a process that prepares model and data, then runs the probe with everything (head, linearity, peers' scores); the
peak is the resident set's after loading, the highest from then on. The table goes into ``docs/big-models.md``.

    python benchmarks/memory.py [--only sketch]
    python benchmarks/memory.py --page    # the table anew, nothing measured
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import psutil
import torch
import transformers

from advisor.core.events import Event, Note, Progress, Session
from advisor.data.demo import demo_model_folder
from advisor.models.prepare import Source
from advisor.probe_cache import prepare_for_probe
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "memory.json", HERE.parent / "docs" / "big-models.md"
BEGIN, END = "<!-- memory: made by benchmarks/memory.py -->", "<!-- end of memory -->"
SAID = r"(?:exact, ([\d.]+) GB of disk|sketch.*?); about ([\d.]+) GB of (?:GPU )?memory"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "MiniLM, 2 classes, 128 × 64, exact": {"model": "minilm", "data": "classes", "tokens": 64},
    "MiniLM, 6 classes, 64 × 32, exact": {"model": "minilm", "data": "six", "tokens": 32, "samples": 64},
    "Llama, 4 × 512, 16 × 128, exact": {
        "model": "llama",
        "layers": 4,
        "width": 512,
        "data": "text",
        "tokens": 128,
        "samples": 16,
    },
    "Llama, 4 × 512, 16 × 128, sketch, recomputed, no linearity": {
        "model": "llama",
        "layers": 4,
        "width": 512,
        "data": "text",
        "tokens": 128,
        "samples": 16,
        "method": "kronecker",
        "recompute": True,
        "linearity": False,
    },
    "Llama, 4 × 512, 16 × 128, sketch, fetched from disk": {
        "model": "llama",
        "layers": 4,
        "width": 512,
        "data": "text",
        "tokens": 128,
        "samples": 16,
        "method": "kronecker",
        "device": "disk",
    },
    "Llama, 6 × 1024, 8 × 64, sketch, no linearity": {
        "model": "llama",
        "layers": 6,
        "width": 1024,
        "data": "text",
        "tokens": 64,
        "samples": 8,
        "method": "kronecker",
        "linearity": False,
    },
}


def write_model(folder: Path, layers: int, width: int) -> Path:
    """A random Llama with MiniLM's tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model_folder())
    tokenizer.add_special_tokens({"eos_token": "[SEP]", "bos_token": "[CLS]"})
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_data(folder: Path, kind: str, words: int) -> Path:
    names = ("river", "stone", "cloud", "lamp", "paper", "garden", "winter", "glass", "bread", "song")
    rows = []
    for i in range(600):
        text = " ".join(names[(i * 7 + j * (i % 9 + 1)) % len(names)] for j in range(words))
        if kind == "text":
            rows.append({"prompt": text[: len(text) // 4], "completion": text[len(text) // 4 :]})
        else:
            rows.append({"text": text, "label": f"c{i % (2 if kind == 'classes' else 6)}"})
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def measure(configuration: dict[str, Any], folder: Path) -> dict[str, Any]:
    """In this process."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    settings = {k: configuration[k] for k in ("samples", "method", "recompute", "linearity") if k in configuration}
    tokens = configuration["tokens"]
    data = write_data(folder, configuration["data"], tokens)
    source = Source(configuration["path"], str(data), device=configuration.get("device", "cpu"), max_length=tokens)
    notes: list[str] = []
    at: dict[str, int] = {}  # most that the process held in each stage
    stage = ""

    def listen(event: Event) -> None:
        nonlocal stage
        if isinstance(event, Note):
            notes.append(event.text)
        elif isinstance(event, Progress):
            stage = event.stage
            at[stage] = max(at.get(stage, 0), psutil.Process().memory_info().rss)

    session = Session(listen)
    prepared = prepare_for_probe(source, session, configuration.get("samples"))
    held, peak, done = psutil.Process().memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            now = psutil.Process().memory_info().rss
            peak = max(peak, now)
            at[stage] = max(at.get(stage, 0), now)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    probe = run_probe(prepared, ProbeSettings(**settings), folder / "probe", session)
    done.set()
    watcher.join()
    said = next(m for note in notes if (m := re.search(SAID, note)))
    stored = sum(p.stat().st_size for p in (folder / "probe").glob("*.safetensors"))
    return {
        "held_bytes": held,
        "peak_bytes": peak,
        "estimated_bytes": float(said[2]) * 1e9,
        "estimated_disk_bytes": None if said[1] is None else float(said[1]) * 1e9,
        "stages": at,
        "probe_file_bytes": stored,
        "modules": len(probe.targets),
        "parameters": probe.info["model_parameters"],
    }


def write_page(configurations: dict[str, dict[str, Any]]) -> None:
    lines = ["| configuration | held after loading | peak | in | said before | |", "| --- | ---: | ---: | --- | ---: | ---: |"]
    for name, found in configurations.items():
        stage = max(found["stages"], key=found["stages"].__getitem__).split(" (")[0].lower()
        off = found["estimated_bytes"] / found["peak_bytes"] - 1
        held, peak, said = (f"{found[key] / 1e9:.2f} GB" for key in ("held_bytes", "peak_bytes", "estimated_bytes"))
        lines.append(f"| {name} | {held} | {peak} | {stage} | {said} | {off:+.0%} |")
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text("\n".join([before, *lines, after]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="configurations with this in their name; the others stay as measured")
    parser.add_argument("--page", action="store_true", help="only write the table from the committed results")
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))["configurations"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as made:
        for number, (name, configuration) in enumerate(CONFIGURATIONS.items()):
            if options.page or options.only not in name:
                continue
            folder = Path(made) / str(number)
            folder.mkdir()
            if configuration["model"] == "llama":
                shape = f"llama-{configuration['layers']}-{configuration['width']}"
                path = Path(made) / shape
                if not path.exists():
                    in_a_process(write_model, path, configuration["layers"], configuration["width"])
            else:
                path = demo_model_folder()
            found = in_a_process(measure, {**configuration, "path": str(path)}, folder)
            stored[name] = found
            print(
                f"{name:60s} peak {found['peak_bytes'] / 1e9:.2f} GB, said {found['estimated_bytes'] / 1e9:.2f} "
                f"({found['estimated_bytes'] / found['peak_bytes'] - 1:+.0%})",
                flush=True,
            )
            report = {"device": "cpu", "configurations": {name: stored[name] for name in CONFIGURATIONS if name in stored}}
            RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_page(stored)


def in_a_process(work: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:  # this process has computed nothing yet
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    main()
