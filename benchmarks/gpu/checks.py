"""What is to be checked on a GPU besides the 7B probe: exactness, the price of ``jacrev``, a mixture of experts, real LoRA runs.

Each section is written as it ends, so that what was measured stays if time runs out; the JSON names the device. Together with
``probe_7b.py`` under ten minutes on one GPU.

    python benchmarks/gpu/checks.py [--only exactness]
    python benchmarks/gpu/checks.py --small       # the same on a CPU: shows that the script runs
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import shapes
import torch
from probe_7b import RESULTS, timed
from torch.func import functional_call, jacrev

from advisor.core.events import Session
from advisor.core.recipe import recipe_for
from advisor.core.selections import target_sets
from advisor.core.targets import LoraSettings
from advisor.data.demo import demo_dataset_file, demo_model_folder
from advisor.models.load import LoadedModel
from advisor.models.prepare import Source, prepare
from advisor.probing.gram import relative_error
from advisor.probing.outputs import forward_outputs
from advisor.training.finetune import finetune


def blocks(loaded: LoadedModel, rows: int, tokens: int) -> torch.Tensor:
    """Exact weight blocks [modules, rows, rows] on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        spool = shapes.spool_of(loaded, shapes.rows_of(rows, tokens, 512), Path(folder), None)
        spool.fill(loaded, Session())
        return spool.contract(None, "auto", loaded.device, Session())[0]


def exactness(device: str, small: bool) -> dict[str, float]:
    """Largest relative error of a module's float32 block against float64 on the CPU: here, on ``device``, and with TF32."""
    here = shapes.llama(2, 128 if small else 512, vocabulary=512)
    there = replace(here, model=copy.deepcopy(here.model).to(device))
    shape = (8, 16) if small else (32, 64)
    wanted = blocks(replace(here, model=copy.deepcopy(here.model).double()), *shape)
    found = {"cpu": blocks(here, *shape), "device": blocks(there, *shape)}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found["device, TF32"] = blocks(there, *shape)
    finally:
        torch.set_float32_matmul_precision(before)
    return {name: max(map(relative_error, got, wanted)) for name, got in found.items()}


def price_of_jacrev(device: str, small: bool) -> dict[str, float]:
    """Seconds a row of a whole probe, and of ``jacrev`` over the same weights; their ratio."""
    loaded = shapes.llama(2, 128 if small else 1024, vocabulary=512, device=device)
    rows = shapes.rows_of(8 if small else 64, 16 if small else 128, 512)
    on_gpu = device.startswith("cuda")
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        shapes.full_probe(loaded, shapes.spool_of(loaded, rows, Path(warm), None))
        spool = shapes.spool_of(loaded, rows, Path(folder), None)
        probe = timed(on_gpu, shapes.full_probe, loaded, spool)[0] / len(rows)
    names = [f"{t.name}.weight" for t in loaded.targets]
    weights = {name: loaded.model.get_parameter(name).detach() for name in names}

    def outputs(chosen: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        logits = functional_call(loaded.model, chosen, (ids[None],)).logits
        return forward_outputs(spool.outputs, logits, ids[None])[0][0]

    ids = torch.tensor([row.ids for row in rows[:4]], device=device)
    jacobian = jacrev(outputs)
    jacobian(weights, ids[0])
    other = timed(on_gpu, lambda: [jacobian(weights, each) for each in ids])[0] / len(ids)
    return {"probe_s_a_row": probe, "jacrev_s_a_row": other, "jacrev_over_probe": other / probe}


def experts(device: str, small: bool) -> dict[str, float]:
    """Passes and contraction of a mixture's sketch over its bare passes."""
    shape = {"layers": 1, "width": 128, "inner": 64, "experts": 4, "active": 2, "vocabulary": 512}
    if not small:
        shape = {"layers": 4, "width": 2048, "inner": 1024, "experts": 64, "active": 8, "vocabulary": 32000}
    loaded = shapes.olmoe(**shape, device=device, dtype=torch.bfloat16)
    rows = shapes.rows_of(4 if small else 64, 16 if small else 256, shape["vocabulary"])
    best = {"bare": float("inf"), "probe": float("inf")}
    for _ in range(3):  # the first warms up
        with tempfile.TemporaryDirectory() as folder:
            spool = shapes.spool_of(loaded, rows, Path(folder), 64)
            for name, work in (("bare", shapes.bare_passes), ("probe", shapes.full_probe)):
                best[name] = min(best[name], timed(device.startswith("cuda"), work, loaded, spool)[0])
    return {"parameters": loaded.parameters, "bare_s": best["bare"], "probe_over_bare": best["probe"] / best["bare"]}


def real_runs(device: str, small: bool) -> dict[str, dict[str, float]]:
    """Of the embedded model and data: what real runs of the usual target sets reach, and their seconds."""
    with tempfile.TemporaryDirectory() as folder:
        return runs_on(
            Source(str(demo_model_folder()), str(demo_dataset_file(Path(folder))), device=device.partition(":")[0]), small
        )


def runs_on(source: Source, small: bool) -> dict[str, dict[str, float]]:
    prepared = prepare(source, Session(), train_limit=48 if small else 512, eval_limit=32 if small else 200)
    loaded, settings = prepared.loaded, LoraSettings()
    recipe = replace(recipe_for(loaded.task, None, None, 1e-3, None), epochs=1 if small else 3)
    found = {}
    for selection in target_sets(loaded.targets, loaded.qv_roles())[: 2 if small else None]:
        metric = prepared.train.schema.metric
        run = finetune(loaded, selection, settings, recipe, prepared.train_rows, prepared.eval_rows, metric, 0)
        found[selection.name] = {"loss": run.at_best.val_loss, "metric": run.at_best.metric, "seconds": round(run.wall_s, 2)}
    return found


SECTIONS: dict[str, Callable[[str, bool], Any]] = {
    "exactness": exactness,
    "jacrev": price_of_jacrev,
    "experts": experts,
    "runs": real_runs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small shapes on the CPU")
    parser.add_argument("--only", choices=tuple(SECTIONS), help="one section")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        sys.exit("No CUDA GPU here. --small runs the same on a CPU.")
    path = options.out or RESULTS / ("gpu_checks_small.json" if options.small else "gpu_checks.json")
    name = "CPU, small shapes: no measurement of a GPU" if options.small else torch.cuda.get_device_name(0)
    report: dict[str, Any] = {"device": name, "torch": torch.__version__}
    for section, measure in SECTIONS.items():
        if options.only in (None, section):
            report[section] = measure("cpu" if options.small else "cuda:0", options.small)
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            print(section, json.dumps(report[section]), flush=True)


if __name__ == "__main__":
    main()
