"""The import graph in figures: floors, arrows, arrows back up, circles. Prints a row of the table in docs/architecture.md.

    python docs/import_graph.py            # this checkout
    python docs/import_graph.py 85993f0    # another commit

A *unit* is a room (a sub-package of ``advisor``), a single file beside the rooms, or the package ``tui``. An import counts
wherever it stands, also inside a function or for type checkers only. Arrows join two units (or modules) once, however many
imports there are. A circle is a group of units (or modules) that reach one another. Floors count the longest way down.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("advisor", "tui")
OPENS = ("advisor.cli.terminal", "tui.main")  # `advisor tui` opens the app when it runs: the one arrow up that is meant

Arrows = Mapping[str, set[str]]


def graph_of(tree: Path) -> Arrows:
    """For each module what it imports directly."""
    sys.path.insert(0, str(tree))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    sys.path.remove(str(tree))
    found = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    return {module: targets - {OPENS[1]} if module.startswith("advisor") else targets for module, targets in found.items()}


def unit_of(module: str, rooms: set[str]) -> str:
    parts = module.split(".")
    room = ".".join(parts[:2])
    return "tui" if parts[0] == "tui" else room if room in rooms else module


def by_unit(modules: Arrows) -> Arrows:
    rooms = {".".join(name.split(".")[:2]) for name in modules if name.count(".") == 2}
    units: dict[str, set[str]] = {}
    for module, targets in modules.items():
        own = unit_of(module, rooms)
        units.setdefault(own, set()).update(unit_of(target, rooms) for target in targets)
    return {unit: targets - {unit} for unit, targets in units.items() if unit != "advisor"}


def circles(arrows: Arrows) -> list[set[str]]:
    """The groups of more than one node that all reach one another."""
    reached = {node: set(_reached(arrows, node)) for node in arrows}
    groups: list[set[str]] = []
    for node in arrows:
        group = {other for other in reached[node] if node in reached.get(other, ())}
        if len(group) > 1 and group not in groups:
            groups.append(group)
    return groups


def _reached(arrows: Arrows, start: str) -> Iterator[str]:
    seen, waiting = set(), list(arrows[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += arrows.get(node, ())
            yield node


def floors(arrows: Arrows) -> int:
    """Nodes on the longest way down, each circle counted as one node."""
    name = {node: node for node in arrows}
    for group in circles(arrows):
        name |= dict.fromkeys(group, min(group))
    merged: dict[str, set[str]] = {}
    for node, targets in arrows.items():
        merged.setdefault(name[node], set()).update(name[t] for t in targets if t in name and name[t] != name[node])
    depth: dict[str, int] = {}
    for node in TopologicalSorter(merged).static_order():
        depth[node] = 1 + max((depth[target] for target in merged.get(node, ())), default=0)
    return max(depth.values())


def described(arrows: Arrows) -> str:
    groups = circles(arrows)
    named = "; ".join(" ↔ ".join(sorted(group)) for group in groups)
    counts = f"{len(arrows)} | {floors(arrows)} | {sum(map(len, arrows.values()))} | {len(groups)}"
    return counts + (f" ({named})" if named else "")


def main(commit: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = ROOT
        if commit is not None:
            tree = Path(folder)
            archive = subprocess.run(["git", "archive", commit, *PACKAGES], cwd=ROOT, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        modules = graph_of(tree)
    print("| what | nodes | floors | arrows | circles |\n|---|---|---|---|---|")
    print(f"| modules | {described(modules)} |")
    print(f"| rooms and single files | {described(by_unit(modules))} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
