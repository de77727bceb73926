"""What a user installs: the wheel holds every file the program reads, asks for every package it imports, and runs elsewhere."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import advisor

ROOT = Path(advisor.__file__).resolve().parents[1]
PACKAGES = ("advisor", "tui", "profiles")
SOURCES = (*PACKAGES, "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """In an environment that knows nothing of the checkout, with cache and data folders in ``cwd``."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"XDG_CACHE_HOME": str(cwd / "cache"), "XDG_DATA_HOME": str(cwd / "data"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = run(*pip, "--wheel-dir", out, source, cwd=source)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``installed("tui", "--help")`` runs the program as installed from the wheel into a fresh environment.

    Its other packages are those of the running environment, by a path: the editable install there is made by ``.pth`` files,
    which count only in an environment's own folder.
    """
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    python = home / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    done = run(*pip, wheel, cwd=home)
    assert done.returncode == 0, done.stderr
    (own,) = (home / "venv/lib").glob("python*/site-packages")
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    place = "import advisor, tui, profiles; print(*(m.__file__ for m in (advisor, tui, profiles)), sep='\\n')"
    found = run(python, "-c", place, cwd=home).stdout.split()
    assert len(found) == 3
    assert all(Path(file).is_relative_to(own) for file in found), found
    return lambda *arguments: run(home / "venv/bin/advisor", *arguments, cwd=home)


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    """Beside the modules: templates, profiles, calibration rows, the marks of typed packages, the licence."""
    wanted = {str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert {"advisor/py.typed", "tui/py.typed", "advisor/report/templates/report.html", "profiles/models/llama.yaml"} <= wanted
    assert any(name.startswith("profiles/predictors/") for name in wanted)
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert wanted <= held, sorted(wanted - held)
    others = {name for name in held - wanted if ".dist-info/" not in name}
    assert not others
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_every_imported_package_is_asked_for() -> None:
    """By ``dependencies``, or by an extra that users can name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [entry for name, entries in project["optional-dependencies"].items() if name != "dev" for entry in entries]
    asked = {plain(re.split(r"[^\w.-]", entry)[0]) for entry in [*project["dependencies"], *extras]}
    given = importlib.metadata.packages_distributions()
    missing, seen = {}, set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for name in imported(file) - sys.stdlib_module_names - set(PACKAGES):
            owners = {plain(owner) for owner in given.get(name, [name])}
            seen |= owners
            if not owners & asked:
                missing[name] = str(file.relative_to(ROOT))
    assert {"torch", "textual", "scikit-learn"} <= seen
    assert not missing


def plain(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def imported(file: Path) -> set[str]:
    """The top-level names a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_installed_elsewhere_it_asks_for_help(installed: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for arguments in (["--help"], ["tui", "--help"]):
        done = installed(*arguments)
        assert done.returncode == 0, done.stderr
        assert "recommend" in done.stdout or "--demo" in done.stdout


@pytest.mark.slow
def test_installed_elsewhere_it_recommends(
    installed: Callable[..., subprocess.CompletedProcess[str]], minilm: Path, tmp_path: Path
) -> None:
    done = installed("recommend", "--demo", "--samples", "32", "--out", tmp_path / "recommendation")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "recommendation/lora.yaml").is_file()
