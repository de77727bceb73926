"""The published JSON Schemas are those of the program, and the examples of docs/files.md fit them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

from advisor.prediction.selection_file import SelectionFile

DOCS = Path(__file__).parents[2] / "docs"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_schemas", DOCS / "schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_schemas_are_current() -> None:
    wanted = script().schemas()
    assert {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "schemas").glob("*.json")} == wanted


def test_the_example_of_the_docs_is_a_selection_file() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (DOCS / "files.md").read_text(encoding="utf-8"), re.S)
    assert [entry.name for entry in SelectionFile.validate_python(json.loads(example))] == ["mine", "mine, rank 4", "two ranks"]


def test_every_schema_is_linked() -> None:
    page = (DOCS / "files.md").read_text(encoding="utf-8")
    assert set(re.findall(r"schemas/([\w-]+\.json)", page)) == set(script().schemas())
