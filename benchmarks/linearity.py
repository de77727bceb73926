"""Does the linearity verdict say where the regressor's predictions are off?

For the selections of the shipped rows: the measured gap (docs/design.md 2.6) on 32 training rows beside the error of
the prediction made from the other groups' rows, |log loss − predicted log loss| relative to all-linear's, and beside the
real loss itself.

    python benchmarks/linearity.py [--work build/linearity] [--measured-only]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from scipy.stats import spearmanr
from validity import SHIPPED, predict, read, task_of

from advisor.core.events import Session
from advisor.core.targets import LoraSettings, Selection
from advisor.data.demo import demo_model_folder
from advisor.models.prepare import Source, prepare
from advisor.prediction.groups import Group, grouped
from advisor.probing.run import measure_selections
from advisor.probing.settings import ProbeSettings
from advisor.theory.linearity import LINEAR, NOT, PARTLY, Linearity

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"


def source_of(group: Group) -> Source | None:
    """Model and data of a group, None if they are not here."""
    provenance = group.rows[0].provenance
    model = str(demo_model_folder()) if "minilm" in provenance["model"] else str(SHARED / provenance["model"])
    data = SHARED / "data" / provenance["data"]
    if not data.exists() or not Path(model).exists():
        return None
    return Source(model, str(data), max_length=provenance["max_length"])


def measure(group: Group, work: Path, measured_only: bool) -> dict[str, Linearity]:
    """Of every selection of the group, by name; kept in the work folder. Nothing new is measured if ``measured_only``."""
    provenance = group.rows[0].provenance  # one measurement serves all recipes of a model on its data
    path = work / f"{provenance['model']} on {provenance['data']}.json".replace("/", "-")
    if not path.exists():
        source = None if measured_only else source_of(group)
        if source is None:
            return {}
        prepared = prepare(source, Session(), train_limit=512, eval_limit=0)
        masks = {r.selection: r.mask for r in group.rows}
        selections = [
            Selection(name, tuple(t.name for t, m in zip(prepared.loaded.targets, masks[name], strict=True) if m == "1"))
            for name in group.selections
        ]
        settings = LoraSettings(**group.rows[0].settings)
        found = measure_selections(prepared, ProbeSettings(), settings, selections, Session())
        path.write_text(json.dumps([f.as_dict() for f in found]), encoding="utf-8")
    return {f["selection"]: Linearity.from_dict(f) for f in json.loads(path.read_text(encoding="utf-8"))}


def compare(group: Group, linearity: dict[str, Linearity], predicted: np.ndarray) -> dict[str, Any]:
    """Rank correlations within the group over the selections that were measured, and mean errors by verdict.

    Args:
        predicted: [S] log losses, scaled and shifted to the group's real ones: what is left is the order and the spacing.
    """
    known = [i for i, s in enumerate(group.selections) if s in linearity]
    found = [linearity[group.selections[i]] for i in known]
    slope, offset = np.polyfit(predicted[known], group.log_loss[known], 1)
    errors = np.abs(slope * predicted[known] + offset - group.log_loss[known])
    gaps, verdicts = np.array([f.gap for f in found]), np.array([f.verdict for f in found])

    def rank(values: np.ndarray) -> float:
        return float(spearmanr(gaps, values).statistic)

    return {
        "group": group.name,
        "selections": len(known),
        "median_gap": float(np.median(gaps)),
        "mean_error": float(errors.mean()),
        "level_error": float(abs((predicted - group.log_loss)[known].mean())),
        "gap_against_error": rank(errors),
        "gap_against_loss": rank(group.log_loss[known]),
        "mean_error_by_verdict": {
            v: [int((verdicts == v).sum()), float(errors[verdicts == v].mean())]
            for v in (LINEAR, PARTLY, NOT)
            if (verdicts == v).any()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/linearity"))
    parser.add_argument("--measured-only", action="store_true", help="use what the work folder holds")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = read(SHIPPED)
    result = []
    for group in grouped(rows):
        linearity = measure(group, options.work, options.measured_only)
        if linearity:
            others = [r for r in rows if task_of(r) != task_of(group.rows[0])]
            result.append(compare(group, linearity, np.log(predict(others, group).loss.value)))
            print(json.dumps(result[-1]), flush=True)
    gaps = [r["median_gap"] for r in result]
    across = {key: float(spearmanr(gaps, [r[key] for r in result]).statistic) for key in ("mean_error", "level_error")}
    print(f"Across {len(result)} groups, Spearman of the median gap with the groups' errors: {across}")
    path = HERE / "results" / "linearity.json"
    path.write_text(json.dumps({"groups": result, "across_groups": across}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
