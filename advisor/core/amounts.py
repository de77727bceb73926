"""Numbers and budgets as people write them (no NumPy): ``2,500``, ``1e-4``; ``25%``, ``2M``, ``12modules``, ``24GB``."""

from __future__ import annotations

import re

from advisor.core.errors import BadInput
from advisor.core.text import printable

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
BYTES = {"mb": 1e6, "gb": 1e9, "gib": 2.0**30}
MOST = 1e15  # parameters, modules or bytes: more than any model has
LONGEST_NUMBER = 40  # characters
GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:_[0-9]{3})+)(?:\.[0-9]*)?")
PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_number(text: str, *, whole: bool = False) -> int | float | None:
    """A number as typed; None for what is none or needlessly long.

    Commas, or underscores, are taken between thousands only, as much of the world writes 0.001 as ``0,001``. A number with an
    exponent has none.
    """
    plain = text.strip()
    if len(plain) > LONGEST_NUMBER:
        return None
    if GROUPED.fullmatch(plain):
        plain = plain.replace(",", "").replace("_", "")
    elif not PLAIN.fullmatch(plain):
        return None
    try:
        return int(plain) if whole else float(plain)
    except ValueError:  # it is not whole
        return None


def comma_hint(text: str) -> str:
    """What to do about a number that was refused, if it has a comma."""
    return "Write decimals with a point (0.001); commas stand between thousands only (10,000)." if "," in text else ""


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
    match = re.fullmatch(r"([0-9.,_]+)\s*(%|modules?|gb|gib|mb|[kmb]?)", text.strip().lower())
    number = read_number(match[1]) if match else None
    if match is None or not number:
        hint = comma_hint(text) or "Write 25%, 2M (LoRA parameters), 12modules or 24GB."
        raise BadInput(f"{called} {shown}: not understood.", hint)
    unit = match[2]
    if unit == "%":
        if number > 100:
            raise BadInput(f"{called} {shown}: above 100 %.", "100% is every adaptable module at this rank.")
        return "share", number / 100
    kind = "modules" if unit.startswith("module") else "memory" if unit in BYTES else "params"
    amount = number * {**COUNTS, **BYTES}.get(unit, 1.0)
    if amount > MOST:
        raise BadInput(f"{called} {shown}: too large.", "100% is every adaptable module at this rank.")
    return kind, amount
