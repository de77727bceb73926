"""Regexes from outside, matched within a limit of time: one that backtracks may never end, and nothing in Python stops it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 5  # of processor time, so that a busy machine makes no regex slow
CLOCK_SECONDS = 60
_REPEATS = re.compile(r"[*+?{|]")
_CHILD = """
import json, re, sys
patterns, names, seconds = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
except ImportError:
    pass  # Windows has none: there the clock alone ends it
for pattern in patterns:
    found = re.compile(pattern)
    print(json.dumps([found.fullmatch(name) is not None for name in names]), flush=True)
"""


def fits(patterns: Sequence[str], names: Sequence[str]) -> list[list[bool] | None]:
    """For each regex which of the names it fits as a whole; None for the one that took too long, and for those after it.

    Raises:
        re.error: one is no regex.
    """
    found: list[list[bool] | None] = [None] * len(patterns)
    slow: list[int] = []
    for at, pattern in enumerate(patterns):
        compiled = re.compile(pattern)
        if len(_REPEATS.findall(pattern)) > 1:
            slow.append(at)
        else:  # it tries no more than some powers of a name's length
            found[at] = [compiled.fullmatch(name) is not None for name in names]
    if slow:
        asked = json.dumps([[patterns[at] for at in slow], list(names), SECONDS])
        for at, line in zip(slow, _printed(asked), strict=False):  # fewer lines where time was up
            found[at] = json.loads(line)
    return found


def _printed(asked: str) -> list[bytes]:
    """Lines of the child, until it ends or one of its limits ends it.

    Raises:
        subprocess.CalledProcessError: it failed for another reason.
    """
    child = [sys.executable, "-I", "-S", "-c", _CHILD]
    try:
        done = subprocess.run(child, input=asked.encode(), capture_output=True, timeout=CLOCK_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").split(b"\n")[:-1]
    if done.returncode > 0:  # below 0: its limit of processor time
        done.check_returncode()
    return done.stdout.split(b"\n")[:-1]
