"""A short part of `make faults`: real commands are killed, raced, and their disk is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the campaign looks for processes in /proc")
def test_disturbed_probes_end_as_undisturbed_ones(tmp_path: Path) -> None:
    script = Path(__file__).with_name("faults.py")
    few = ("--kills", "3", "--full", "1", "--races", "1", "--scenarios", "probe")
    command = [sys.executable, str(script), *few, "--failures", str(tmp_path / "failed")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " cases, 0 wrong" in done.stdout
    assert not (tmp_path / "failed").exists()
