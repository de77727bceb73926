"""Whole commands as a user types them, beside two bare runs: the imports, and the passes over the same rows.

Each command is a process of its own, with a cache folder of its own: ``advisor recommend`` cold, then with the probe
cached: the same settings, another budget, another rank, another learning rate. Before and after them two bare processes are
timed: ``import torch, transformers`` with the model's class, and the forward passes over the training rows that the head is
fitted on with one forward and one backward pass over the probe rows, in batches of one length as the advisor makes them. Times
are processor times (user and system) of the process and its children, because the machine may be busy; seconds by the clock
stand beside them. The peak of memory is measured from outside. A last cold and a last warm run say where the time goes.

    python benchmarks/command.py [--only sst2]
    python benchmarks/command.py --big FOLDER    # a random Llama of 1.9 B parameters, made there: one cold command
    python benchmarks/command.py --page          # the section of docs/scaling.md anew, nothing measured
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "command.json", HERE.parent / "docs" / "scaling.md"
CASES: dict[str, dict[str, Any]] = {
    "MiniLM on sst2": {"model": "minilm", "data": "sst2/train.jsonl", "options": ["--train-rows", "512"]},
    "tinytalk3m on tiny_chat": {
        "model": "models/tinytalk3m",
        "data": "tiny_chat/train.jsonl",
        "options": ["--train-rows", "512", "--max-length", "256"],
    },
    "stories260K on tiny_chat": {
        "model": "models/stories260K",
        "data": "tiny_chat/train.jsonl",
        "options": ["--train-rows", "512", "--max-length", "256"],
    },
}
WARM = {"same": [], "budget": ["--budget", "10%"], "rank": ["--rank", "4"], "rate": ["--lr", "0.0005"]}
KINDS = {"cold_stages": "cold", "warm_stages": "other budget"}
IMPORTS = "import torch, transformers; from transformers import {name}, AutoTokenizer"
# All that a warm command imports, imported as it does.
START_UP = "import gc, sys; gc.set_threshold(50_000, 20, 100); sys.modules['bitsandbytes'] = None; "
START_UP += "import advisor.cli.app, advisor.workflow, peft; gc.freeze()"
# Where the work is called from, and what it is called in the table; what is within another counts for itself only.
STAGES = {
    "advisor.probe_cache:prepare_for_probe": "config and identity",
    "advisor.models.prepare:_with_model": "model and rows",
    "advisor.models.prepare:read_data": "data",
    "advisor.probing.run:_fit_head": "head's fit",
    "advisor.probing.run:head_features": "frozen features",
    "advisor.probing.spool:Spool.fill": "passes",
    "advisor.probing.spool:Spool.contract": "kernel blocks",
    "advisor.probing.run:measure_training": "training's memory",
    "advisor.probing.method:measure_kept": "probe's memory",
    "advisor.probing.run:measure_peers": "peers' scores",
    "advisor.probing.run:check_linearity": "linearity",
    "advisor.workflow:load_rows": "calibration rows",
    "advisor.workflow:Predictor.fit": "predictor's fit",
    "advisor.workflow:decide": "search",
    "advisor.advice.recommend:_stability": "stability",
    "advisor.workflow:peer_picks": "peers' picks",
    "advisor.workflow:prove": "proof by PEFT",
    "advisor.workflow:describe": "verdict and bounds",
    "advisor.workflow:write": "files",
    "advisor.probing.run:save_probe": "probe's files",
}


# --- in the processes that are timed -------------------------------------------------------------------------------


def bare(model: str, data: str, options: list[str]) -> None:
    """The passes alone: prints the processor seconds they take."""
    import torch

    from advisor.core.events import Session
    from advisor.models.encode import collate
    from advisor.models.prepare import Source
    from advisor.probe_cache import prepare_for_probe
    from advisor.probing.outputs import forward_outputs, make_outputs
    from advisor.probing.spool import tokens_at_once

    given = dict(zip(options[::2], options[1::2], strict=True))
    length = int(given["--max-length"]) if "--max-length" in given else None
    prepared = prepare_for_probe(Source(model, data, max_length=length), Session(), None)
    loaded, rows = prepared.loaded, sorted(prepared.train_rows, key=lambda row: row.length)
    sample = rows[:: max(1, len(rows) // 128)][:128]
    outputs = make_outputs(loaded.task, len(prepared.train.schema.class_names), 0)
    limit = tokens_at_once(loaded.device)

    def batches(some: list[Any]) -> Any:
        start = 0
        while start < len(some):
            count = 1
            while start + count < len(some) and (count + 1) * some[start + count].length <= limit:
                count += 1
            yield collate(some[start : start + count], loaded)
            start += count

    begun = time.process_time()
    if loaded.head:
        with torch.no_grad():
            for batch in batches(rows):
                batch.pop("labels")
                loaded.model(**batch)
    forward = time.process_time() - begun
    loaded.model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    for batch in batches(sample):
        labels = batch.pop("labels")
        embedded: list[torch.Tensor] = []
        handle = loaded.model.get_input_embeddings().register_forward_hook(lambda m, i, output: embedded.append(output))  # noqa: B023
        values, _, _ = forward_outputs(outputs, loaded.model(**batch).logits, labels)
        torch.autograd.grad(values[:, 0].sum(), embedded)
        handle.remove()
    print(json.dumps({"passes": time.process_time() - begun, "forward": forward}))


def staged(arguments: list[str]) -> None:
    """A command in this process; prints to stderr what each stage took, each without those within it."""
    begun = time.process_time()
    for name in dict.fromkeys(place.split(":")[0] for place in STAGES):
        importlib.import_module(name)
    spent: dict[str, float] = {"imports": time.process_time() - begun}
    open_: list[list[Any]] = []

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            open_.append([time.process_time(), 0.0])
            try:
                return function(*args, **kwargs)
            finally:
                since, within = open_.pop()
                whole = time.process_time() - since
                spent[stage] = spent.get(stage, 0.0) + whole - within
                if open_:
                    open_[-1][1] += whole

        return call

    for place, stage in STAGES.items():
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, timed(getattr(owner, name), stage))
    from advisor.cli.main import main

    sys.argv = ["advisor", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    spent["the rest"] = time.process_time() - sum(spent.values())
    print("STAGES " + json.dumps(spent), file=sys.stderr)


# --- timing them ---------------------------------------------------------------------------------------------------


def timed_process(arguments: list[str], environment: dict[str, str]) -> tuple[dict[str, float], str, str]:
    """Processor and clock seconds and peak memory, in MB, of a process; what it wrote."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    peak = "import os,sys,resource,subprocess; r=subprocess.run(sys.argv[1:]).returncode; "
    peak += "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(r)"
    done = subprocess.run([sys.executable, "-S", "-c", peak, *arguments], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kilobytes = int(done.stderr.rsplit("PEAK", 1)[1])
    found = {"cpu_s": round(cpu, 2), "clock_s": round(time.monotonic() - begun, 2), "peak_mb": round(kilobytes / 1024)}
    return found, done.stdout, done.stderr


def measure(case: dict[str, Any], shared: Path, repeats: int) -> dict[str, Any]:
    """All figures of one model on one data set."""
    from advisor.data.demo import demo_model_folder

    model = str(demo_model_folder()) if case["model"] == "minilm" else str(shared / case["model"])
    data, options = str(shared / "data" / case["data"]), case["options"]
    kind = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    program = [sys.executable, "-m", "advisor.cli.main"]
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        for place in ("CACHE", "DATA", "STATE"):
            environment[f"XDG_{place}_HOME"] = str(Path(folder) / place.lower())

        def command(*more: str) -> list[str]:
            return ["recommend", model, "--data", data, *options, "--out", str(Path(folder) / "out"), *more]

        def imports() -> dict[str, float]:
            return timed_process([sys.executable, "-c", IMPORTS.format(name=kind)], environment)[0]

        def passes() -> dict[str, float]:
            found, out, _ = timed_process([sys.executable, __file__, "--bare", model, data, *options], environment)
            printed: dict[str, float] = json.loads(out.splitlines()[-1])
            return printed | {"peak_mb": found["peak_mb"]}

        found: dict[str, Any] = {"help": timed_process([*program, "--help"], environment)[0]}

        def start_up() -> dict[str, float]:
            return timed_process([sys.executable, "-c", START_UP], environment)[0]

        found["imports"], found["start_up"] = [imports()], [start_up()]
        found["lazy_imports"] = timed_process([sys.executable, "-c", "import torch, transformers"], environment)[0]
        found["bare"] = [passes()]
        for _ in range(repeats):
            subprocess.run(["rm", "-rf", folder + "/cache"], check=True)
            found.setdefault("cold", []).append(timed_process([*program, *command()], environment)[0])
        for name, more in WARM.items():
            found[name] = [timed_process([*program, *command(*more)], environment)[0] for _ in range(repeats)]
        found["imports"].append(imports())
        found["start_up"].append(start_up())
        found["bare"].append(passes())
        for name, more in (("warm_stages", WARM["budget"]), ("cold_stages", [])):
            if name == "cold_stages":
                subprocess.run(["rm", "-rf", folder + "/cache"], check=True)
            _, _, err = timed_process([sys.executable, __file__, "--staged", *command(*more)], environment)
            line = next(line for line in err.splitlines() if line.startswith("STAGES "))
            found[name] = {key: round(value, 2) for key, value in json.loads(line[7:]).items()}
    return found


def big(folder: Path, shared: Path) -> dict[str, Any]:
    """One cold command on a random Llama of 1.9 B parameters in bfloat16, 32 probe rows of 64 tokens."""
    model = folder / "llama-1.9b"
    if not (model / "config.json").exists():
        make_big(model, shared / "models" / "stories260K")
    with tempfile.TemporaryDirectory() as other:
        environment = dict(os.environ)
        for place in ("CACHE", "DATA", "STATE"):
            environment[f"XDG_{place}_HOME"] = str(Path(other) / place.lower())
        options = ["--train-rows", "256", "--samples", "32", "--max-length", "64", "--out", str(Path(other) / "out")]
        given = ["recommend", str(model), "--data", str(shared / "data" / "tiny_chat" / "train.jsonl"), *options]
        found, _, err = timed_process([sys.executable, __file__, "--staged", *given], environment)
    line = next(line for line in err.splitlines() if line.startswith("STAGES "))
    return {**found, "stages": {key: round(value, 1) for key, value in json.loads(line[7:]).items()}}


def make_big(folder: Path, tokenizer: Path) -> None:
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(
        vocab_size=512, hidden_size=2560, intermediate_size=6912, num_hidden_layers=24, num_attention_heads=20,
        max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)


def least(found: Any, key: str = "cpu_s") -> float:
    """The least disturbed of the repeats."""
    return min(float(each[key]) for each in (found if isinstance(found, list) else [found]))


def table(results: dict[str, Any]) -> list[str]:
    """Processor seconds, and what they are in units of the bare runs."""
    lines = [
        "| | imports | start-up | bare | cold | (cold − imports) / bare | same again | other budget | other rank | other rate | "
        "peak, MB | × bare's |",
        "| --- |" + " ---: |" * 11,
    ]
    for name, found in results.items():
        start, passes, cold = least(found["imports"]), least(found["bare"], "passes"), least(found["cold"])
        numbers = [start, passes, cold, (cold - start) / passes, *(least(found[kind]) for kind in WARM)]
        peak, bare_peak = (max(each["peak_mb"] for each in found[kind]) for kind in ("cold", "bare"))
        cells = [*(f"{number:.1f}" for number in numbers), f"{peak}", f"{peak / bare_peak:.2f}"]
        cells.insert(1, f"{least(found['start_up']):.1f}" if "start_up" in found else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def stages(results: dict[str, Any]) -> list[str]:
    """Where a cold command and one at another budget spend their processor seconds."""
    names = dict.fromkeys(stage for found in results.values() for stage in found["cold_stages"])
    columns = [(found[kind], f"{name}, {label}") for name, found in results.items() for kind, label in KINDS.items()]
    lines = ["| | " + " | ".join(label for _, label in columns) + " |", "| --- |" + " ---: |" * len(columns)]
    return [*lines, *(f"| {name} | " + " | ".join(f"{spent.get(name, 0):.1f}" for spent, _ in columns) + " |" for name in names)]


def write_page(report: dict[str, Any]) -> None:
    """The section of docs/scaling.md, which is its last."""
    text, title = PAGE.read_text(encoding="utf-8"), "## Whole commands\n"
    now = report["now"]
    lines = [
        title,
        "Written by `benchmarks/command.py`: `advisor recommend` as a user types it, on one core of a busy 2-core machine, in",
        "processor seconds. *Imports* are a process that imports `torch`, `transformers` and the model's class; *start-up* is",
        "one that imports all that a warm command does, and ends as it does: what was imported is not looked through once more,",
        "which saves most of a second. *Bare* is one forward pass over the",
        "training rows that a new head is fitted on, and one forward and backward pass over the probe's rows. *Cold* probes; the",
        "columns after it find the probe in the cache, and load no model. The peak is the cold command's, Python and torch with",
        f"about {round(max(least(found['imports'], 'peak_mb') for found in now.values()), -1):.0f} MB among it; beside it as a "
        "multiple of the bare process's, which",
        "holds the model and a micro-batch.",
        "",
        *table(now),
        "",
        "Before the changes of this version:",
        "",
        *table({name: report["before"][name] for name in now if name in report["before"]}),
        "",
        "Where the time goes now, each stage without those within it:",
        "",
        *stages(now),
    ]
    if found := report.get("big"):
        longest = sorted(found["stages"].items(), key=lambda each: -each[1])[:6]
        lines += [
            "",
            "**1.9 B parameters** (a random Llama in bfloat16, 24 layers of width 2560; 32 probe rows of 64 tokens, so few that",
            f"what does not grow with them weighs much): cold in {found['cpu_s']:.0f} processor seconds, "
            f"{found['clock_s'] / 60:.0f} minutes by the clock beside other work, {found['peak_mb'] / 1000:.1f} GB at the peak.",
            "Most of it: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in longest) + ".",
        ]
    head = text[: text.index(title)] if title in text else text.rstrip() + "\n\n"
    PAGE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    if sys.argv[1:2] == ["--bare"]:
        return bare(sys.argv[2], sys.argv[3], sys.argv[4:])
    if sys.argv[1:2] == ["--staged"]:
        return staged(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="the section of the page anew, nothing measured")
    parser.add_argument("--big", type=Path, help="folder for a model of 1.9 B parameters; nothing else is measured")
    given = parser.parse_args()
    report: dict[str, Any] = (
        json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"now": {}, "before": {}}
    )
    for name, case in CASES.items():
        if given.only in name and not given.page and given.big is None:
            report["now"][name] = measure(case, given.shared, given.repeats)
            given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if given.big is not None:
        report["big"] = big(given.big, given.shared)
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*table(report["now"]), "", *stages(report["now"])]))
    if given.out == RESULTS:
        write_page(report)


if __name__ == "__main__":
    main()
