"""Budgets as people write them (no NumPy): ``25%``, ``2M``, ``12modules``, ``24GB``."""

from __future__ import annotations

import re

from advisor.core.errors import BadInput
from advisor.core.text import printable

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
BYTES = {"mb": 1e6, "gb": 1e9, "gib": 2.0**30}
MOST = 1e15  # parameters, modules or bytes: more than any model has


def read_budget(text: str, called: str = "--budget") -> tuple[str, float]:
    """Kind and amount of a budget.

    Args:
        called: what the message calls the option.

    Returns:
        ``share`` of the LoRA parameters of all adaptable modules, ``params``, ``modules``, or ``memory`` in bytes.

    Raises:
        BadInput: none of these, not positive, or too much.
    """
    shown = printable(text, 40)
    plain = text.strip().lower().replace(",", "").replace("_", "")
    match = re.fullmatch(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*(%|modules?|gb|gib|mb|[kmb]?)", plain)
    if match is None or float(match[1]) <= 0:
        raise BadInput(f"{called} {shown}: not understood.", "Write 25%, 2M (LoRA parameters), 12modules or 24GB.")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        if number > 100:
            raise BadInput(f"{called} {shown}: above 100 %.", "100% is every adaptable module at this rank.")
        return "share", number / 100
    kind = "modules" if unit.startswith("module") else "memory" if unit in BYTES else "params"
    amount = number * {**COUNTS, **BYTES}.get(unit, 1.0)
    if amount > MOST:
        raise BadInput(f"{called} {shown}: too large.", "100% is every adaptable module at this rank.")
    return kind, amount
