"""What comments and pages point to is there: sections of docs/design.md, files, modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
FOLDERS = ("advisor", "tui", "tests", "benchmarks", "examples")
# "docs/design.md 2.1, 2.3", "docs/design.md 2.2–2.6", over a line break too.
POINTER = re.compile(r"docs/design\.md,?\s+((?:\d(?:\.\d)?(?:, |–)?)+)")
HEADINGS = set(re.findall(r"^#+ (\d(?:\.\d)?) ", (ROOT / "docs/design.md").read_text(encoding="utf-8"), re.M))


def test_every_pointer_to_the_design_finds_its_section() -> None:
    found = 0
    for file in (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))):
        text = file.read_text(encoding="utf-8")
        if file != Path(__file__).resolve():
            assert not re.search(r"\bDESIGN\b", text), f"{file}: there is no such file"
            for pointer in POINTER.findall(text):
                for section in re.findall(r"\d(?:\.\d)?", pointer):
                    assert section in HEADINGS, f"{file}: docs/design.md has no section {section}"
                    found += 1
    assert found > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(
        r"(?<![\w/.-])(?:advisor|tui|tests|benchmarks|profiles|docs|examples)/[\w./]*\w\.(?:py|md|json|yaml)\b", text
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_changelog_names_modules_that_are_there() -> None:
    rows = re.findall(r"^\| .* \| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    names = [name for row in rows for name in re.findall(r"`(advisor[\w.]+)`", row)]
    assert len(names) > 60
    assert [name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
