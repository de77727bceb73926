"""Comments that point to a section of docs/design.md point to one that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
