"""Pages that are made from results say what the results say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import validity_page

from advisor.cli.app import app

ROOT = Path(__file__).parents[2]


def test_pages_on_real_runs_are_those_of_the_committed_figures() -> None:
    result = json.loads(validity_page.RESULTS.read_text(encoding="utf-8"))
    made = validity_page.tables(result)
    texts = [path.read_text(encoding="utf-8") for path in validity_page.PAGES]
    placed = [found for text in texts for found in re.findall(validity_page.BEGIN, text)]
    assert len(set(placed)) == len(placed)
    assert set(made) <= set(placed)
    for text in texts:
        assert validity_page.filled(text, made) == text
        assert validity_page.filled(text, dict.fromkeys(placed, "")) != text
    assert any(f"{result['rows']} shipped" in text for text in texts)
    assert validity_page.groups_page(result) == validity_page.GROUPS_PAGE.read_text(encoding="utf-8")


def test_the_command_reference_is_that_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, 'docs'); import commands; sys.stdout.write(commands.page())"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert done.stdout == page, "run: python docs/commands.py"
    assert "## advisor profiles check" in page


PAGES = sorted(path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


def slugs(page: Path) -> set[str]:
    """The anchors that a page's headings have, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    if page.name == "README.md":
        assert len(links) > 10
    for link in links:
        place, _, anchor = link.partition("#")
        if re.match(r"https?:", place):
            continue
        target = page.parent / place if place else page
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
            waiting += [(page.parent / link).resolve() for link in links if not link.startswith("http")]
    assert {path.resolve() for path in PAGES} <= seen


def test_commands_in_the_readme_name_options_there_are() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^\$ advisor (\w+)(.*?)(?:#.*)?$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(lines) >= 10
    for name, rest in lines:
        command = commands[name]
        if hasattr(command, "commands"):
            command = command.commands[rest.split()[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)) <= known, (name, rest)
