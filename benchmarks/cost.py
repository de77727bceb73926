"""Estimated against measured cost of training: ``python benchmarks/cost.py [--repeats N]``.

Real PEFT training steps through the code of ``advisor.training.finetune``, for MiniLM (classification) and, when present,
TinyTalk (causal LM). Memory: what ``saved_tensors_hooks`` sees in a step's forward pass, plus the sizes of the trained
parameters, their gradients and the optimizer's state. Time: processor time of whole steps, interleaved over the
selections, median of the ratios to all-linear. Prints a table and writes ``benchmarks/results/cost.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe, default_recipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.data.demo import demo_dataset_file, demo_model_folder
from advisor.models.descent import CLIP_NORM
from advisor.models.encode import EncodedRow, collate
from advisor.models.forward import batch_loss
from advisor.models.load import LoadedModel
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probing.footprint import measure_training
from advisor.theory.training_cost import TrainingFootprint, activation_bytes, estimate_cost, loss_bytes, trained_bytes
from advisor.training.finetune import _adapted_copy

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cost.json"
SHARED = ROOT.parent / "shared"
ROWS = 512
SETTINGS = LoraSettings()
RSS_CHECKED = ("all-linear", "last-2-layers")  # in a process each


@dataclass(frozen=True)
class Case:
    """One model with data: what is trained, and how."""

    name: str
    prepared: Prepared
    footprint: TrainingFootprint
    recipe: TrainingRecipe

    @property
    def loaded(self) -> LoadedModel:
        return self.prepared.loaded

    @property
    def head_params(self) -> int:
        return sum(p.numel() for n in self.loaded.head for p in self.loaded.model.get_submodule(n).parameters())


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        sources = {"MiniLM": (str(demo_model_folder()), str(demo_dataset_file(Path(folder))))}
        talk, chat = SHARED / "models" / "tinytalk3m", SHARED / "data" / "tiny_chat" / "train.jsonl"
        if talk.is_dir() and chat.is_file():
            sources["TinyTalk"] = (str(talk), str(chat))
        for name, (model, data) in sources.items():
            prepared = prepare(Source(model, data), Session(), train_limit=ROWS, eval_limit=8)
            footprint = measure_training(prepared.loaded, prepared.train_rows)
            yield Case(name, prepared, footprint, default_recipe(prepared.loaded.task))


def selections(loaded: LoadedModel) -> list[Selection]:
    """all-linear first, the reference of every time ratio."""
    targets = loaded.targets
    qv, last = set(loaded.qv_roles()), max(t.layer for t in targets if t.layer is not None)
    roles = list(dict.fromkeys(t.role for t in targets))

    def pick(name: str, keep: Any) -> Selection:
        def kept(t: Target) -> bool:
            return bool(keep(t))

        return Selection(name, tuple(t.name for t in targets if kept(t)))

    found = [
        all_linear(targets),
        pick("q,v", lambda t: t.role in qv),
        pick("mlp", lambda t: t.group == "mlp"),
        pick("attention", lambda t: t.group == "attention"),
        pick("last-2-layers", lambda t: t.layer >= last - 1),
        pick("q,v, last half", lambda t: t.role in qv and t.layer > last // 2),
        pick("one module, first layer", lambda t: t.role == roles[0] and t.layer == 0),
        pick("one module, middle", lambda t: t.role == roles[-1] and t.layer == last // 2),
        pick("one module, last layer", lambda t: t.role == roles[2] and t.layer == last),
    ]
    return found + ([Selection("head-only", ())] if loaded.head else [])


class Run:
    """A real fine-tune of one selection, step by step."""

    def __init__(self, loaded: LoadedModel, selection: Selection) -> None:
        torch.manual_seed(0)
        self.loaded, self.selection = loaded, selection
        self.model = _adapted_copy(loaded, selection, SETTINGS).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.0)

    def step(self, rows: list[EncodedRow]) -> float:
        """Processor seconds of one training step."""
        batch = collate(rows, self.loaded)
        start = time.process_time()
        loss, _ = batch_loss(self.model, self.loaded, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start

    def saved_bytes(self, rows: list[EncodedRow]) -> int:
        """Bytes that the forward pass of a step keeps, less weights."""
        weights = {t.untyped_storage().data_ptr() for t in [*self.model.parameters(), *self.model.buffers()]}
        kept: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            batch_loss(self.model, self.loaded, collate(rows, self.loaded))
        return sum(storage.nbytes() for storage in kept.values())

    def trained_bytes(self, rows: list[EncodedRow]) -> int:
        """Bytes of everything but activations, less those of the model as loaded."""
        loss, _ = batch_loss(self.model, self.loaded, collate(rows, self.loaded))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = sum(p.grad.nbytes for p in self.trained if p.grad is not None)
        self.optimizer.step()
        state = sum(v.nbytes for s in self.optimizer.state.values() for v in s.values() if v.numel() > 1)
        self.optimizer.zero_grad(set_to_none=True)
        weights = sum(t.nbytes for t in [*self.model.parameters(), *self.model.buffers()])
        before = sum(t.nbytes for t in [*self.loaded.model.parameters(), *self.loaded.model.buffers()])
        return int(weights - before + gradients + state)


def bench(case: Case, repeats: int) -> list[dict[str, Any]]:
    loaded, recipe, footprint = case.loaded, case.recipe, case.footprint
    targets, size = loaded.targets, recipe.batch_size
    by_length = sorted(case.prepared.train_rows, key=lambda row: row.length)
    longest, middle = by_length[-size:], by_length[len(by_length) // 2 :][:size]
    tokens, usual = longest[-1].length, middle[-1].length
    runs = [Run(loaded, s) for s in selections(loaded)]
    results: list[dict[str, Any]] = []
    for run in runs:
        s = run.selection
        cost = estimate_cost(s, targets, SETTINGS, recipe, footprint, case.head_params, usual, tokens)
        saved, trained = run.saved_bytes(longest), run.trained_bytes(longest)
        guess_saved = activation_bytes(s, targets, SETTINGS, footprint, size, tokens)
        guess_trained = trained_bytes(s, targets, SETTINGS, footprint, case.head_params)
        expected = footprint.weight_bytes + guess_saved + guess_trained + loss_bytes(footprint, size, tokens)
        assert cost.memory_bytes == round(expected)
        count = sum(p.numel() for p in run.trained)
        assert count == cost.params_with_head, (s.name, count, cost)
        results.append(
            {
                "selection": s.name,
                "modules": len(s.targets),
                "params_with_head": count,
                "tokens": tokens,
                "saved_bytes": {"measured": saved, "estimated": round(guess_saved)},
                "trained_bytes": {"measured": trained, "estimated": round(guess_trained)},
                "loss_bytes": {"estimated": round(loss_bytes(footprint, size, tokens))},
                "memory_error": (guess_saved + guess_trained) / (saved + trained) - 1,
                "time_tokens": usual,
                "time": {"estimated": cost.time_vs_all_linear},
            }
        )
    times = np.array([[run.step(middle) for run in runs] for _ in range(repeats + 2)])[2:]
    ratios = np.median(times / times[:, :1], 0)
    spread = np.percentile(times / times[:, :1], [25, 75], 0)
    for i, result in enumerate(results):
        result["time"] |= {"measured": ratios[i], "quartiles": spread[:, i].tolist()}
        result["time_error"] = result["time"]["estimated"] / ratios[i] - 1
    return results


def peak_growth(index: int, name: str) -> int:
    """In a process of its own (Linux): growth of the peak resident memory, in bytes, over two training steps."""
    case = next(c for c in cases() if c.name == name)
    size = case.recipe.batch_size
    rows = sorted(case.prepared.train_rows, key=lambda row: row.length)[-size:]
    run = Run(case.loaded, selections(case.loaded)[index])
    run.step(rows[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    run.step(rows)
    run.step(rows)
    return _resident("VmHWM") - before


def _output(command: list[str]) -> str:
    prompt_return = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # glibc: no free pages held
    environment = os.environ | prompt_return
    return subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout


def _resident(field: str) -> int:
    """``VmRSS`` or its peak ``VmHWM``, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-rss", action="store_true", help="leave the peak-RSS check out")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "INDEX"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(peak_growth(int(arguments.peak[1]), arguments.peak[0]))
        return
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "models": {},
    }
    for case in cases():
        results = bench(case, arguments.repeats)
        print(f"\n{case.name}: batch {case.recipe.batch_size}, autocast {case.footprint.autocast}")
        print(
            f"{'selection':26s}{'saved MB':>10s}{'est.':>9s}{'trained':>9s}{'est.':>9s}{'error':>8s}{'time':>8s}"
            f"{'est.':>7s}{'error':>8s}{'RSS MB':>8s}{'est.':>7s}"
        )
        for i, r in enumerate(results):
            if not arguments.no_rss and r["selection"] in RSS_CHECKED:
                command = [sys.executable, __file__, "--peak", case.name, str(i)]
                r["peak_rss_growth"] = int(_output(command).split()[-1])
            values = [r[k][w] / 1e6 for k in ("saved_bytes", "trained_bytes") for w in ("measured", "estimated")]
            print(
                f"{r['selection']:26s}{values[0]:10.1f}{values[1]:9.1f}{values[2]:9.2f}{values[3]:9.2f}"
                f"{r['memory_error']:8.1%}{r['time']['measured']:8.3f}{r['time']['estimated']:7.3f}"
                f"{r['time_error']:8.1%}{r.get('peak_rss_growth', 0) / 1e6:8.0f}"
                f"{(r['saved_bytes']['estimated'] + r['loss_bytes']['estimated']) / 1e6:7.0f}"
            )
        report["models"][case.name] = {"autocast": case.footprint.autocast, "selections": results}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
