"""What importing and asking for help may load, and which parts may know of which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import advisor

ROOT = Path(advisor.__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "peft", "datasets", "textual")
# the maths: plain arrays and data
PLAIN = (
    "targets", "recipe", "errors", "events", "kernels", "spectrum", "simulate", "bounds", "features", "predictor",
    "rows", "search", "selections", "cost", "budget", "store", "probe_folder", "scoring", "advice", "report",
    "posterior", "confirm", "api", "results", "explain", "explain_report", "plots", "peer_picks", "probe_cost", "ranks",
    "html_report", "figures",
)  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("code", ["import advisor", "import advisor.cli", "import advisor.console"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    done = python(f"import sys; {code}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_loads_nothing_heavy() -> None:
    done = python(
        "import sys\n"
        "from advisor.cli import main\n"
        "sys.argv = ['advisor', '--help']\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n"
        f"print([m for m in {(*HEAVY, 'numpy', 'sklearn')!r} if m in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.strip() == "[]"
    assert "recommend" in done.stdout


def test_the_maths_does_not_load_torch() -> None:
    modules = ", ".join(f"advisor.{name}" for name in PLAIN)
    done = python(f"import sys; import {modules}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_matplotlib_is_loaded_only_to_write_a_report() -> None:
    done = python("import sys; import advisor.report, advisor.workflow, tui.engine; print('matplotlib' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_import_contracts_hold() -> None:
    """The contracts of pyproject.toml, by import-linter."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed (extra `dev`)")
    done = subprocess.run([str(program), "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_engine_never_imports_the_terminal_interface() -> None:
    """Also inside functions, where a contract on the import graph would see it too."""
    seen = 0
    for path in (ROOT / "advisor").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            seen += len(names)
            assert not [n for n in names if n.split(".")[0] == "textual"], path
            if path.name != "cli.py":
                assert not [n for n in names if n.split(".")[0] == "tui"], path
    assert seen > 100
