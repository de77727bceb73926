"""What tests of commands share: ``advisor ARGUMENTS`` in this process, and small data files."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.cli import main as cli
from advisor.core.recipe import LANGUAGE_TASKS

WORDS = ("film", "movie", "story", "book", "good", "great", "fine", "nice", "bad", "poor", "dull", "awful", "red")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Made:
    """A model and data, and the folder of the probe of both with what ``probe --json`` printed."""

    model: Path
    data: Path
    probe: Path
    task: str
    probe_json: dict[str, Any]


def advisor(*arguments: object) -> Ran:
    """``advisor ARGUMENTS`` in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["advisor", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit:
            cli.main()
    finally:
        sys.argv = argv
    return Ran(int(exit.value.code or 0), out.getvalue(), err.getvalue())


def refused(code: int, *arguments: object) -> str:
    """The error line of a command that must fail with ``code`` and leave stdout empty."""
    ran = advisor(*arguments)
    assert ran.code == code, (ran.code, ran.err)
    assert ran.out == ""
    errors = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, ran.err
    assert ran.err.endswith(errors[0] + "\n"), ran.err
    assert "Traceback" not in ran.err
    return errors[0]


def write_data(folder: Path, kind: str, count: int = 60) -> Path:
    rng = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for i in range(count):
        words = [WORDS[int(w)] for w in rng.integers(0, len(WORDS), int(rng.integers(3, 9)))]
        if kind in LANGUAGE_TASKS:
            rows.append({"prompt": " ".join(words), "completion": " ".join(reversed(words[:3]))})
        else:
            words.append("good" if i % 2 else "bad")
            rows.append({"text": " ".join(words), "label": ("negative", "positive")[i % 2]})
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
