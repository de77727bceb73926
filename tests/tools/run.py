"""Exported files as the tools themselves take them: which modules really get adapters, at which ranks and scales.

    python tests/tools/run.py [trl] [axolotl] [llama-factory] [unsloth]      # `make test-tools` runs all

Each tool runs in an environment of its own under ``.tools/``, made on the first run, on CPU. It gets the exported file as it is,
with what a run needs besides (data, two steps): ``../shared/models/stories260K`` and ``../shared/data/tiny_chat``.
Exit 1 where a tool wraps something else than what was chosen, or ``advisor verify`` reads its adapter otherwise.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, replace
from pathlib import Path

from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.plan import Plan
from advisor.export.verify import verify
from advisor.models.load import meta_model
from advisor.models.modules import find_targets

ROOT = Path(__file__).resolve().parents[2]
HERE, TOOLS, SHARED = Path(__file__).resolve().parent, ROOT / ".tools", ROOT.parent / "shared"
MODEL, DATA = SHARED / "models" / "stories260K", SHARED / "data" / "tiny_chat" / "train.jsonl"
TORCH = "torch==2.13.0"
CHOSEN, STEPS = 14, 2


@dataclass(frozen=True)
class Tool:
    """One tool: what is installed, by itself and with its dependencies, the file it is given and the script that runs it."""

    name: str
    version: str
    alone: tuple[str, ...]
    with_dependencies: tuple[str, ...]
    file: str
    driver: str


# What a tool pins and LoRA does not need (web interfaces, GPU kernels) is left out: it would be gigabytes.
INSTALLED = {
    "trl": Tool("trl", "1.16.0", (), ("trl==1.16.0", "peft==0.21.2", "transformers==5.23.0"), "trl.yaml", "drive_trl.py"),
    "axolotl": Tool(
        "axolotl",
        "0.19.0",
        ("axolotl==0.19.0",),
        (
            *("packaging==26.0", "huggingface_hub==1.17.0", "peft==0.20.0", "tokenizers==0.23.1", "transformers==5.16.1"),
            *("accelerate==1.13.0", "datasets==4.8.4", "trl==1.9.0", "pydantic==2.12.5", "addict", "fire", "PyYAML==6.0.3"),
            *("requests", "einops", "colorama", "numpy", "typer==0.25.1", "scipy", "art", "python-dotenv==1.0.1", "fastcore"),
            *("posthog==6.7.11", "sentencepiece", "pillow", "numba", "zstandard", "schedulefree==1.4.1", "bitsandbytes==0.50.2"),
        ),
        "axolotl.yaml",
        "drive_axolotl.py",
    ),
    "llama-factory": Tool(
        "llama-factory",
        "0.9.5",
        ("llamafactory==0.9.5",),
        (
            *("accelerate<=1.11.0", "datasets<=4.0.0", "einops", "fire", "numpy", "omegaconf", "packaging", "pandas"),
            *("peft==0.18.1", "protobuf", "pydantic", "pyyaml", "safetensors", "scipy", "sentencepiece", "tiktoken"),
            "pillow",
            *("transformers==5.6.0", "trl==0.24.0", "tyro<0.9.0", "fastapi", "uvicorn", "sse-starlette", "av<=16.0.0"),
        ),
        "llama_factory.yaml",
        "drive_llama_factory.py",
    ),
}


def environment(tool: Tool) -> Path:
    """The Python of the tool's environment, made where it is missing."""
    folder = TOOLS / tool.name
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, TORCH], check=True)
        if tool.alone:
            subprocess.run([*pip, "--no-deps", *tool.alone], check=True)
        subprocess.run([*pip, TORCH, *tool.with_dependencies], check=True)
        done.touch()
    return python


def plan(exact_ranks: bool) -> Plan:
    """14 modules drawn from the model's 35, half of them at another rank where the tool can say that."""
    targets = find_targets(meta_model(str(MODEL), "causal-lm"), ())
    names = sorted(random.Random(0).sample([t.name for t in targets], CHOSEN), key=[t.name for t in targets].index)
    one = Plan(Selection("drawn", tuple(names)), LoraSettings(4, 8), targets, "causal-lm", (), str(MODEL), "llama")
    halves = dict.fromkeys(names[::2], 6)
    return replace(one, ranks=halves, alphas=dict.fromkeys(names[::2], 12)) if exact_ranks else one


def run(tool: Tool, work: Path) -> tuple[str, bool]:
    """A line on what the tool did, and whether that was what was chosen."""
    python = environment(tool)
    chosen = plan(exact_ranks=tool.name == "axolotl")
    file = FORMATS[tool.name].render(chosen).files[tool.file]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / tool.file).write_text(file.text)
    settings = {"file": tool.file, "model": str(MODEL), "data": str(DATA), "steps": STEPS, "out": "adapter"}
    (work / "settings.json").write_text(json.dumps(settings))
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_DISABLED": "true", "AXOLOTL_DO_NOT_TRACK": "1"}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | offline | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    log = work / "log.txt"
    with log.open("w") as out:
        code = subprocess.run([python, HERE / tool.driver], cwd=work, env=env, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        return f"exit {code}, see {log}", False
    found = {name: tuple(pair) for name, pair in json.loads((work / "found.json").read_text()).items()}
    own = {name: chosen.module_settings(name) for name in chosen.names}
    wanted = {name: (settings.rank, settings.scale) for name, settings in own.items()}
    right = found == wanted and file.fidelity == "exact"
    line = (
        f"{len(wanted)} asked, {len(found)} wrapped, {len(set(found.items()) & set(wanted.items()))} as asked with rank and scale"
    )
    if (work / "adapter" / "adapter_config.json").exists():
        report = verify(str(work / "adapter"), str(MODEL))
        agrees = set(report.modules) == set(found) and not report.surprises
        right, line = right and agrees, f"{line}; verify of its adapter: {'agrees' if agrees else report.surprises}"
    return line, right


def main() -> int:
    if not MODEL.is_dir() or not DATA.is_file():
        print(f"skipped: {MODEL} or {DATA} is not there")
        return 0
    asked = sys.argv[1:] or [*INSTALLED, "unsloth"]
    failed = False
    for name in asked:
        if name == "unsloth":
            print("unsloth: not run: it refuses to be imported without a GPU; tests/export/test_unsloth.py calls PEFT as it does")
            continue
        tool = INSTALLED[name]
        line, right = run(tool, TOOLS / f"work-{name}")
        failed |= not right
        print(f"{name} {tool.version}: {'ok' if right else 'WRONG'}: {line}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
