"""What commands print on stdout: lines, JSON, a result's short answer or all of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advisor.core.errors import NotFinite
from advisor.core.text import printable

if TYPE_CHECKING:
    from advisor.report.tables import TextTable


def say(line: str) -> None:
    """One line, whatever names it holds."""
    print(printable(line))


def say_json(value: Any) -> None:
    """The machine-readable result.

    Raises:
        NotFinite: a number in it is NaN or infinite, which JSON has not.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise NotFinite("A number of the result is not finite.", "Try --dtype float32 or a smaller --lr.") from error
    print(text)


def say_report(lines: Sequence[str], tables: Sequence[TextTable], after: Sequence[str] = ()) -> None:
    """Sentences, tables, sentences."""
    from rich.console import Console

    from advisor.report.tables import print_report

    print_report(Console(highlight=False), lines, tables, after)
