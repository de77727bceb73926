"""Values of a LoRA config that PEFT computes with, drops, or stumbles over far from the cause: each is refused by its key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from advisor.core.errors import BadInput
from advisor.core.matching import fits

MOST_RANK = 1_000_000  # more is a slip of the pen
# PEFT takes these in any case, and one that its own type does not name; pissa also with a number of iterations.
_ANY_CASE, _UNNAMED = ("gaussian", "olora", "mica"), "lora_ga"
_CHECKED = ("r", "lora_alpha", "layer_replication", "task_type", "peft_type")  # elsewhere, with better words
_NO_NULL = ("bias", "rank_pattern", "alpha_pattern", "runtime_config")  # PEFT stumbles over it, whatever its annotation says
PLAIN_NAME = re.compile(r"[\w.-]*")  # always a regex; there may be very many
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object", list: "a list"}


def check_values(arguments: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> None:
    """Refuse what ``LoraConfig`` would take and should not.

    Args:
        keys: what the user's file calls an argument, where that is not its own name.

    Raises:
        BadInput: a rank is no whole number from 1 to ``MOST_RANK``, an alpha no positive finite number, a dropout no number
            from 0 to 1, a value is null or of another type against PEFT's own annotation, a choice is none of PEFT's, or what
            PEFT takes for a regex is none.
    """
    called = {key: (keys or {}).get(key, key) for key in arguments}
    _check_kinds(arguments, called)
    _check_numbers(arguments, called)
    for key, text, regex in expressions(arguments):
        if not PLAIN_NAME.fullmatch(text):
            _check_regex(called[key], text, regex)


def check_matching(arguments: Mapping[str, Any], names: Sequence[str], keys: Mapping[str, str] | None = None) -> None:
    """Refuse a regex that PEFT would match against a model's ``names`` almost for ever.

    Args:
        keys: as of :func:`check_values`, which has passed.

    Raises:
        BadInput: matching takes too long; names the key.
    """
    found = list(expressions(arguments))
    fitted = fits([regex for _, _, regex in found], names)
    if None in fitted:
        key, text, _ = found[fitted.index(None)]
        what = f"{(keys or {}).get(key, key)}: matching {text[:60]!r} takes too long"
        raise BadInput(f"{what}: it repeats what repeats itself.", "Write a simpler regex.")


def expressions(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every text of a config that PEFT takes for a regex: its argument, the text, and what it becomes for a full name."""
    for key in ("target_modules", "exclude_modules"):
        text = arguments.get(key)
        if isinstance(text, str) and (key, text.lower()) != ("target_modules", "all-linear"):
            yield key, text, text
    around = {
        "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\..*",  # as check_target_module_exists
        "modules_to_save": r"(^|.*\.){}($|\..*)",  # as there
        "rank_pattern": r"(.*\.)?({})$",  # as get_pattern_key
        "alpha_pattern": r"(.*\.)?({})$",
    }
    for key, form in around.items():
        found = arguments.get(key) or ()
        for text in [found] if key == "layers_pattern" and isinstance(found, str) else found:
            yield key, str(text), form.replace("{}", str(text))


def _check_numbers(arguments: Mapping[str, Any], called: Mapping[str, str]) -> None:
    def all_of(key: str, pattern: str) -> list[tuple[str, Any]]:
        own = arguments.get(pattern)
        found = [(f"{called[pattern]} of {name!r}", number) for name, number in own.items()] if isinstance(own, Mapping) else []
        return [*([(called[key], arguments[key])] if key in arguments else []), *found]

    for what, rank in all_of("r", "rank_pattern"):
        if type(rank) is not int or not 1 <= rank <= MOST_RANK:
            raise BadInput(f"{what} is {repr(rank)[:40]}, no whole number from 1 to {MOST_RANK:,}.", "Correct it.")
    for what, alpha in all_of("lora_alpha", "alpha_pattern"):
        if type(alpha) not in (int, float) or not 0 < alpha < math.inf or alpha > 1e300:
            raise BadInput(f"{what} is {repr(alpha)[:40]}, not a positive number.", "Correct it.")
    dropout = arguments.get("lora_dropout")
    if dropout is not None and not 0 <= dropout < 1:  # PEFT takes a negative one, or a NaN, for none
        what = f"{called['lora_dropout']} is {dropout}"
        raise BadInput(f"{what}, which is not from 0 to 1 and below 1.", "Correct it.")


def _check_kinds(arguments: Mapping[str, Any], called: Mapping[str, str]) -> None:
    """Types, truth values and choices, as PEFT's own annotations give them."""
    from peft import LoraConfig

    kinds = get_type_hints(LoraConfig)
    for key, value in arguments.items():
        kind = kinds.get(key)
        if value is None and key not in _CHECKED and (key in _NO_NULL or not _fits(value, kind)):
            raise BadInput(f"{called[key]} is null, which this option cannot be.", "Leave it out.")
        if kind is bool and isinstance(value, str | list | dict | float):
            raise BadInput(
                f"{called[key]} is {str(value)[:40]!r}, which is neither true nor false.", "Write true or false without quotes."
            )
        choices = [c for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
        apart = key == "modules_to_save" and isinstance(value, str)  # PEFT takes it, character by character; verify says so
        if not (choices or apart or key in _CHECKED or _fits(value, kind)):
            raise BadInput(f"{called[key]} is {repr(value)[:60]}, not {_in_words(kind)}.", "Correct it.")
        if not choices or isinstance(value, bool) or value is None or _is_choice(value, choices):
            continue
        near = difflib.get_close_matches(str(value).lower(), choices, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(choices)}."
        raise BadInput(f"{called[key]} is {str(value)[:40]!r}, which PEFT does not know.", hint)


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value``, as JSON, YAML or a script gives it, is of an annotated type; of PEFT's own classes None, or an object.

    A whole number is also a number or a truth value, and a tuple or set a list.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is list:
        return isinstance(value, list | tuple | set) and all(_fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if kind is bool:
        return isinstance(value, bool) or value in (0, 1)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind in (str, dict, type(None)):
        return isinstance(value, kind)
    return value is None or isinstance(value, dict | str) or not isinstance(kind, type) or isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """A type such as ``list[str] | None`` as a user calls it; null, which leaves a key out, goes without saying."""
    parts = [part for part in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)) if part is not type(None)]
    words = []
    for part in parts:
        origin, inner = get_origin(part), get_args(part)
        of = f" of {_WORDS[inner[-1]].removeprefix('a ')}s" if origin is list and inner[-1] in (int, str) else ""
        words.append(f"{_WORDS.get(origin or part, 'such an object')}{of}")
    return " or ".join(words)


def _is_choice(value: Any, choices: list[str]) -> bool:
    if not isinstance(value, str):
        return False
    if "gaussian" in choices:
        return value in (*choices, _UNNAMED) or value.lower() in _ANY_CASE or re.fullmatch(r"pissa_niter_\d+", value) is not None
    return value in choices


def _check_regex(key: str, text: str, regex: str) -> None:
    try:
        re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        glob = "repeat" in str(error)  # a star with nothing before it
        hint = "Write '.*' for any characters." if glob else "Correct it, or write a backslash before what stands for itself."
        raise BadInput(f"{key}: PEFT takes {text[:60]!r} for a regex, which it is not ({error}).", hint) from error
