"""Rows for tests of reading: made up, and written to files by the fixture ``write``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Write = Callable[[str, Any], str]


def labelled(labels: list[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text number {i}", "label": label, **more} for i, label in enumerate(labels)]
