"""Regexes from outside: what they fit, and an end where they backtrack."""

from __future__ import annotations

import re
import subprocess

import pytest

from advisor.core import matching
from advisor.core.matching import fits

NAMES = ["model.layers.0.q_proj", "model.layers.1.v_proj", "lm_head", "\ud800", "x" * 80]


def test_what_fits_is_what_fullmatch_says() -> None:
    patterns = ["q_proj", r".*\.q_proj", r".*\.(q|v)_proj", "(?i).*HEAD|x+", "x{80}", "[^a]?.*", "\ud800|é", ""]
    assert fits(patterns, NAMES) == [[re.fullmatch(pattern, name) is not None for name in NAMES] for pattern in patterns]
    assert fits([], NAMES) == []


@pytest.mark.parametrize("slow", ["(.*)*(.*)*(.*)*y", "(x+)+y", "(x|x)*y", "x?" * 40 + "y" * 80])
def test_one_that_backtracks_ends(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SECONDS", 1)
    found = fits(["x", "(x)+", slow, "(x)+|y"], NAMES)
    assert found[:2] == [[False] * 5, [False] * 4 + [True]]
    assert found[2:] == [None, None]


def test_the_clock_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "CLOCK_SECONDS", 1)
    assert fits(["(x)+|y", "(x+)+y", "x|(x)+"], NAMES) == [[False] * 4 + [True], None, None]


def test_a_child_that_fails_is_not_taken_for_a_slow_regex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_CHILD", "raise MemoryError")
    with pytest.raises(subprocess.CalledProcessError):
        fits(["(x)+|y"], NAMES)


def test_no_regex_is_said() -> None:
    with pytest.raises(re.error):
        fits(["("], NAMES)
