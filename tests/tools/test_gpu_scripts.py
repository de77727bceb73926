"""The checks that are made on a GPU where there is one run on a CPU too, in small shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "checks.py"


@pytest.mark.slow
def test_the_checks_run_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "checks.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--out", str(out)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert "no measurement of a GPU" in found["device"]
    assert all(0 < error < 1e-5 for error in found["exactness"].values())
    assert found["jacrev"]["jacrev_over_probe"] > 0
    assert found["experts"]["probe_over_bare"] > 0
    assert set(found["runs"]) == {"all-linear", "q,v"}
