"""Pages that are made from results say what the results say."""

import json
from pathlib import Path

import validity_page

ROOT = Path(__file__).parents[1]


def test_the_validity_page_is_that_of_the_committed_figures() -> None:
    result = json.loads(validity_page.RESULTS.read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "validity.md").read_text(encoding="utf-8")
    assert validity_page.page(text, result) == text
    assert f"{result['rows']} shipped" in text
