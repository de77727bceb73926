"""Values of a LoRA config that PEFT computes with, or drops, without a word: each is refused by its key and its value."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from advisor.core.errors import BadInput

MOST_RANK = 1_000_000  # more is a slip of the pen
# PEFT takes these in any case, and one that its own type does not name; pissa also with a number of iterations.
_ANY_CASE, _UNNAMED = ("gaussian", "olora", "mica"), "lora_ga"


def check_values(arguments: Mapping[str, Any]) -> None:
    """Refuse what ``LoraConfig`` would take and should not.

    Raises:
        BadInput: a rank is no whole number from 1 to ``MOST_RANK``, an alpha no positive finite number, a truth value is a
            text, a choice is none of PEFT's, or a key of a pattern is no regex.
    """
    _check_numbers(arguments)
    _check_kinds(arguments)
    for pattern in ("rank_pattern", "alpha_pattern"):
        for key in arguments.get(pattern) or ():
            _check_regex(pattern, key)


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    def all_of(key: str, pattern: str) -> list[tuple[str, Any]]:
        own = arguments.get(pattern)
        found = [(f"{pattern} of {name!r}", number) for name, number in own.items()] if isinstance(own, Mapping) else []
        return [*([(key, arguments[key])] if key in arguments else []), *found]

    for what, rank in all_of("r", "rank_pattern"):
        if type(rank) is not int or not 1 <= rank <= MOST_RANK:
            raise BadInput(f"{what} is {str(rank)[:40]}, no whole number from 1 to {MOST_RANK:,}.", "Correct it.")
    for what, alpha in all_of("lora_alpha", "alpha_pattern"):
        if type(alpha) not in (int, float) or not 0 < alpha < math.inf or alpha > 1e300:
            raise BadInput(f"{what} is {str(alpha)[:40]}, not a positive number.", "Correct it.")


def _check_kinds(arguments: Mapping[str, Any]) -> None:
    """Truth values and choices, as PEFT's own annotations give them."""
    from peft import LoraConfig

    kinds = get_type_hints(LoraConfig)
    for key, value in arguments.items():
        kind = kinds.get(key)
        if kind is bool and isinstance(value, str | list | dict | float):
            raise BadInput(
                f"{key} is {str(value)[:40]!r}, which is neither true nor false.", "Write true or false without quotes."
            )
        choices = [c for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
        if not choices or isinstance(value, bool) or value is None or _is_choice(value, choices):
            continue
        near = difflib.get_close_matches(str(value).lower(), choices, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(choices)}."
        raise BadInput(f"{key} is {str(value)[:40]!r}, which PEFT does not know.", hint)


def _is_choice(value: Any, choices: list[str]) -> bool:
    if not isinstance(value, str):
        return False
    if "gaussian" in choices:
        return value in (*choices, _UNNAMED) or value.lower() in _ANY_CASE or re.fullmatch(r"pissa_niter_\d+", value) is not None
    return value in choices


def _check_regex(pattern: str, key: Any) -> None:
    try:
        re.compile(rf"(.*\.)?({key})$")  # as PEFT's get_pattern_key
    except re.error as error:
        hint = "Write '.*' for any characters." if "*" in str(key) else "Escape it."
        raise BadInput(f"{pattern}: PEFT takes {str(key)[:60]!r} for a regex, which it is not ({error}).", hint) from error
