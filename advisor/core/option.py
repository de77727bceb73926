"""What an option is: what it takes, what the help says of it, and the check of a value.

A group of options is a frozen dataclass under :class:`Checked` whose fields are made by the functions below, so that an object of
it holds checked values only. :mod:`advisor.core.option_groups` has the groups; the command line, the Python functions and the
terminal interface read what they need off :func:`options_of`.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Self, TypeVar

from advisor.core.amounts import comma_hint, read_number
from advisor.core.errors import BadInput
from advisor.core.text import printable

TEXT, WHOLE, REAL, FLAG, NAMES, PATH, PLACE = "text", "whole", "real", "flag", "names", "path", "place"
LONGEST_TEXT = 4096  # characters, as paths on Linux
REQUIRED: Any = MISSING  # as a default: there is none


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        kind: ``text``, ``whole`` or ``real`` number, ``flag``, ``names`` (several texts), ``path``, or ``place`` (a text, or from
            Python also an object that is read elsewhere).
        help: what it does, in a sentence or two. unset: what holds while it is not given, where that depends.
        low, high: bounds of a number, which are taken too.
        choices: the texts there are; ``pattern`` matches others that are taken too.
        word: a text that is taken in place of a number.
        commas: one text may hold several names. meaning: raises BadInput for a text without meaning, given the option's name.
        name, default: of the field. flags: on the command line. label: in the terminal interface. blank: what an empty field
            shows there, where that is not ``unset``.
        is_argument: it has no flag but a place on the command line.
    """

    kind: str
    help: str
    panel: str = ""
    unset: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: str = ""
    word: str = ""
    commas: bool = False
    meaning: Callable[[str, str], object] | None = None
    flags: tuple[str, ...] = ()
    metavar: str = ""
    label: str = ""
    blank: str = ""
    is_argument: bool = False
    name: str = ""
    default: Any = None

    @property
    def called(self) -> str:
        """What messages call it: its long flag, or an argument's name in capitals."""
        return self.metavar.strip("[]") if self.is_argument else self.flags[0]

    @property
    def allowed(self) -> str:
        """What it takes, to follow "must be"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind == FLAG:
            return "True or False"
        if self.kind not in (WHOLE, REAL):
            return f"a text of 1 to {LONGEST_TEXT:,} characters"
        low, high = f"{self.low:.12g}", f"{self.high:.12g}"
        what = "a whole number" if self.kind == WHOLE else "a number"
        return f"{what} from {low} to {high}" + (f", or {self.word}" if self.word else "")

    def check(self, given: Any, called: str = "") -> Any:
        """The value that ``given`` stands for, a text as typed or a Python object.

        Args:
            called: what a message calls the option; empty: as :attr:`called`.

        Raises:
            BadInput: it is none; names the option and what it takes.
        """
        called = called or self.called
        if self.kind == FLAG:
            if not isinstance(given, bool):
                raise self._refused(given, called)
            return given
        if self.kind in (WHOLE, REAL):
            return self._number(given, called)
        if self.kind == NAMES:
            return self._several(given, called)
        if isinstance(given, str):
            text = self._text(given, called)
            return Path(text) if self.kind == PATH else text
        if self.kind == PLACE or (self.kind == PATH and isinstance(given, os.PathLike)):
            return given
        raise self._refused(given, called)

    def _number(self, given: Any, called: str) -> Any:
        if self.word and given == self.word:
            return given
        number = read_number(given, whole=self.kind == WHOLE) if isinstance(given, str) else given
        try:
            if isinstance(number, bool) or not isinstance(number, Real):
                raise TypeError
            number = operator.index(number) if self.kind == WHOLE else float(number)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):  # no number, or no float has its size
            raise self._refused(given, called) from None
        if not self.low <= number <= self.high:  # a NaN is in no range
            raise self._refused(given, called)
        return number

    def _several(self, given: Any, called: str) -> tuple[str, ...] | None:
        """Each once; None for none. Of a text with commas empty parts do not count."""
        if isinstance(given, str):
            given = [part.strip() for part in given.split(",") if part.strip()] if self.commas else [given]
        if not isinstance(given, Sequence) or (self.default is not None and not given):
            raise self._refused(given or "", called)
        return tuple(dict.fromkeys(self._text(each, called) for each in given)) or None

    def _text(self, text: Any, called: str) -> str:
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT or "\0" in text:
            raise self._refused(text, called)
        if self.choices and text not in self.choices and not re.fullmatch(self.pattern, text):
            raise BadInput(f"{called} {_shown(text)}: unknown.", f"Use {self.allowed}.")
        if self.meaning is not None:
            self.meaning(text, called)
        return text

    def _refused(self, given: Any, called: str) -> BadInput:
        hint = comma_hint(given) if self.kind in (WHOLE, REAL) and isinstance(given, str) else ""
        return BadInput(f"{called} must be {self.allowed}, got {_shown(given)}.", hint)


def _shown(given: Any) -> str:
    text = given if isinstance(given, str) else repr(given) if isinstance(given, bool | float | None) else _safely(given)
    return printable(text, 60) or "nothing"


def _safely(given: Any) -> str:
    """Python refuses to write an integer of thousands of digits."""
    try:
        return str(given)
    except ValueError:
        return "a number of thousands of digits"


# --- fields ---------------------------------------------------------------------------------------------------------


def _option(kind: str, default: Any, help: str, **rest: Any) -> Any:
    return field(default=default, metadata={"option": Option(kind, help, default=default, **rest)})


def text(default: str | None, help: str, **rest: Any) -> Any:
    """A text; with ``choices`` one of them."""
    return _option(TEXT, default, help, **rest)


def whole(default: int | None, help: str, low: int, high: int, **rest: Any) -> Any:
    """A whole number from ``low`` to ``high``."""
    return _option(WHOLE, default, help, low=low, high=high, **rest)


def real(default: float | None, help: str, low: float, high: float, **rest: Any) -> Any:
    """A number from ``low`` to ``high``."""
    return _option(REAL, default, help, low=low, high=high, **rest)


def flag(help: str, **rest: Any) -> Any:
    """Off unless given."""
    return _option(FLAG, False, help, **rest)


def names(default: str | None, help: str, **rest: Any) -> Any:
    """One or more texts: a tuple once checked."""
    return _option(NAMES, default, help, **rest)


def path(default: str | None, help: str, **rest: Any) -> Any:
    """A file or folder: a ``Path`` once checked."""
    return _option(PATH, default, help, **rest)


def place(default: str | None, help: str, **rest: Any) -> Any:
    """A file, a folder or a hub id; from Python also an object."""
    return _option(PLACE, default, help, **rest)


# --- groups ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """Base of all groups: every value is checked when an object is made, which remembers what it was given (:func:`given_to`).

    Raises:
        BadInput: an option has a value that it does not take.
    """

    def __new__(cls, *given: Any, **named: Any) -> Self:
        made = super().__new__(cls)
        by_place = [each.name for each in fields(cls) if not each.kw_only]
        object.__setattr__(made, "_given", frozenset([*by_place[: len(given)], *named]))
        return made

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, option.check(value))


def options_of(group: type[Checked]) -> dict[str, Option]:
    """The options of a group by the names of its fields."""
    found = {}
    for each in fields(group):
        option: Option | None = each.metadata.get("option")
        if option is not None:
            flags = option.flags or (f"--{each.name.replace('_', '-')}",)
            metavar = option.metavar or (each.name.upper() if option.is_argument else "")
            label = option.label or each.name.replace("_", " ").capitalize()
            found[each.name] = replace(option, name=each.name, flags=flags, metavar=metavar, label=label)
    return found


Group = TypeVar("Group", bound=Checked)


def values(given: Checked, group: type[Checked] | None = None) -> dict[str, Any]:
    """What ``given`` has of the options of ``group`` (default: all of its own), by name."""
    return {name: getattr(given, name) for name in options_of(group or type(given))}


def shared(given: Checked, kind: type[Any]) -> dict[str, Any]:
    """What ``given`` has of the fields of another dataclass, by name."""
    return {each.name: getattr(given, each.name) for each in fields(kind) if each.name in options_of(type(given))}


def part(given: Checked, group: type[Group]) -> Group:
    """A group made of what ``given`` was given of its options."""
    return group(**{name: value for name, value in given_to(given).items() if name in options_of(group)})


def given_to(made: Checked) -> dict[str, Any]:
    """The options that an object was made with, by name, also at what holds without them; None is as good as not given."""
    given: frozenset[str] = made._given  # type: ignore[attr-defined]
    return {name: value for name, value in values(made).items() if name in given and value is not None}
