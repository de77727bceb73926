"""Which head's kernels predict real runs better, the probed or the fresh one? (docs/design.md 2.1)

For every shipped group whose model is the embedded MiniLM and whose data lies in ``../shared/data``: probe with both heads,
and rank the real validation losses of the same selections by the simulated recipe.

    python benchmarks/head.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import HEAD_ONLY
from advisor.core.targets import LoraSettings
from advisor.data.demo import demo_model_folder
from advisor.models.prepare import Source, prepare
from advisor.prediction.calibration_rows import CalibrationRow, parse_rows
from advisor.prediction.probe_view import FEATURE_KERNELS, probe_view
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.features import Weights, feature_table

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
RESULTS = HERE / "results" / "head.json"
NAMES = ("recipe_loss", "adam.simulated", "adam.alignment", "lora-expected.simulated", "lora-expected.leave_one_out")


def correlations(rows: list[CalibrationRow], data: Path, head: str) -> dict[str, float]:
    """Spearman of each score with the first seed's validation loss."""
    source = Source(str(demo_model_folder()), str(data), max_length=rows[0].provenance["max_length"])
    prepared = prepare(source, Session(), train_limit=rows[0].recipe["train_rows"], eval_limit=0)
    with tempfile.TemporaryDirectory() as folder:
        probe = run_probe(prepared, ProbeSettings(head=head), Path(folder) / "probe", Session())
    settings = LoraSettings(**rows[0].settings)
    view = probe_view(probe, settings, TrainingRecipe(**rows[0].recipe))
    masks = np.array([[float(c) for c in row.mask] for row in rows])
    params = masks * np.array([t.lora_params(settings.rank) for t in probe.targets])
    table = feature_table(view, Weights(params, dict.fromkeys(FEATURE_KERNELS, masks)), NAMES)
    losses = [row.val_loss for row in rows]
    return {name: float(spearmanr(table[:, i], losses).statistic) for i, name in enumerate(NAMES)}


def main() -> None:
    groups: dict[str, list[CalibrationRow]] = {}
    for path in sorted((HERE.parent / "profiles" / "predictors").glob("minilm-*.jsonl")):
        for row in parse_rows(path.read_text(encoding="utf-8").splitlines(), path.name):
            if row.seed == 0 and row.selection != HEAD_ONLY:
                groups.setdefault(row.provenance["data"], []).append(row)
    result = {}
    for data, rows in groups.items():
        if not (DATA / data).exists():
            print(f"{data}: not here, left out")
            continue
        result[data] = {head: correlations(rows, DATA / data, head) for head in ("probed", "fresh")}
        for name in NAMES:
            print(f"{data:20s} {name:28s} " + "  ".join(f"{h} {result[data][h][name]:+.2f}" for h in result[data]))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
