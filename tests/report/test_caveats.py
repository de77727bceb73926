"""What the program and the README say of data that it was not developed on is what ``benchmarks/validity.py`` found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.core.option import options_of
from advisor.core.option_groups import Confirm
from advisor.report.confirmation import CAVEAT
from advisor.report.verdict import CONFIRM_CAVEAT

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "validity.json").read_text(encoding="utf-8"))


def both(correlations: dict[str, float]) -> str:
    return " / ".join(f"{correlations[key]:+.2f}" for key in ("all", "within"))


def test_the_program_says_what_the_exam_found(found: dict[str, Any]) -> None:
    exam = found["exam"]
    before, after = (exam["after_a_pilot"][stage] for stage in ("before", "after"))
    covers = f"{after['intervals']['coverage']:.0%}"
    assert covers in CONFIRM_CAVEAT
    assert covers in CAVEAT
    assert f"{before['intervals']['coverage']:.0%}" in CAVEAT
    assert f"On {exam['after_a_pilot']['groups']} groups" in CAVEAT
    for key in ("all", "within"):
        assert f"{before['predicted'][key]:+.2f}" in CAVEAT
        assert f"{after['predicted'][key]:+.2f}" in CAVEAT
    assert covers.replace("%", " %") in options_of(Confirm)["confirm"].help


def test_the_readme_says_what_was_found(found: dict[str, Any]) -> None:
    """Its table is compared in tests/cli/test_docs.py; this is its prose."""
    development, models = found["tasks_left_out"], found["models_left_out"]
    assert f"{both(development['second_seed'])} against {both(development['predicted_single_seed_there'])}" in README
    assert f"it ranks at {both(models['predicted'])}" in README
    assert f"are right in {models['told_right']:.0%}".replace("%", " %") in README
    assert f"{found['rows']:,} real runs" in README


def test_what_the_readme_says_of_rows_to_keep_is_what_was_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "keep.json").read_text(encoding="utf-8"))
    means = [np.mean([pair["spearman"]["loss"]["loss"] for pair in found[key]]) for key in ("pairs", "exam_2", "exam_3")]
    assert [len(found[key]) for key in ("pairs", "exam_2", "exam_3")] == [11, 3, 3]
    for page in ("README.md", "docs/keep.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert all(f"{mean:+.2f}" in text for mean in means), page
