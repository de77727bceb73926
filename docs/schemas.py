"""Writes docs/schemas/*.json from the program: ``python docs/schemas.py`` (a test fails when one is stale)."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from advisor.core.probe_schema import ProbeFile
from advisor.core.profile_schema import ModelProfile, TaskProfile
from advisor.core.store import write_text
from advisor.export.plan_schema import RecommendationFields
from advisor.prediction.calibration_rows import RowFields
from advisor.prediction.selection_file import SelectionFile
from advisor.training.run_schema import CalibrationFields, FailureFields, RunFields

FOLDER = Path(__file__).with_name("schemas")
KINDS: dict[str, type[BaseModel] | TypeAdapter[object]] = {
    "selections": SelectionFile,  # type: ignore[dict-item]
    "model-profile": ModelProfile,
    "task-profile": TaskProfile,
    "calibration-row": RowFields,
    "probe": ProbeFile,
    "recommendation": RecommendationFields,
    "run": RunFields,
    "failed-run": FailureFields,
    "calibration": CalibrationFields,
}


def schemas() -> dict[str, str]:
    """The text of each file by its name."""
    found = {}
    for name, kind in KINDS.items():
        schema = kind.json_schema() if isinstance(kind, TypeAdapter) else kind.model_json_schema()
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        found[f"{name}.json"] = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in schemas().items():
        write_text(FOLDER / name, text)
