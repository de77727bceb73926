"""Content of files, checked field by field: pydantic models say what is allowed, and an error is one short line.

Loading pydantic takes a while, so nothing that ``advisor --help`` needs imports this.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, WrapValidator

from advisor.core.errors import BadInput

MOST_RANK = 65_536
MOST_MODULES = 1_000_000


def _as_given(value: Any, check: Any) -> Any:
    """Keep a whole number whole where any number is allowed: 16 stays 16, not 16.0."""
    checked = check(value)
    return value if isinstance(value, int) else checked


Text = Annotated[str, StringConstraints(max_length=4096)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300), WrapValidator(_as_given)]
NotNegative = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e300), WrapValidator(_as_given)]
Logarithm = Annotated[float, Field(allow_inf_nan=False, ge=-1000, le=1000), WrapValidator(_as_given)]  # or a share
Rank = Annotated[int, Field(ge=1, le=MOST_RANK)]
Alpha = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6), WrapValidator(_as_given)]
Names = Annotated[list[Name], Field(max_length=MOST_MODULES)]


class Written(BaseModel):
    """An object that a user writes: each field is of the very type named, and no other field is allowed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Own(BaseModel):
    """An object that we wrote: the same, but a newer version may have written more fields, which are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


T = TypeVar("T")

_PLAINER = (
    ("a valid integer", "a whole number"),
    ("a valid string, unable to parse raw data as a unicode string", "a text of valid Unicode"),
    ("a valid string", "a text"),
    ("a valid number", "a number"),
    ("a valid boolean", "true or false"),
    ("a valid list", "a list"),
    ("a valid dictionary", "an object"),
    ("list should have at least 1 item after validation, not 0", "it should have an entry"),
    ("dictionary should have at least 1 item after validation, not 0", "it should have an entry"),
    ("string should have at least 1 character", "it should not be empty"),
    ("string should have", "it should have"),
)


def check(kind: type[T] | TypeAdapter[T], content: Any, where: str, hint: str, entry: str = "entry") -> T:
    """``content``, as JSON or YAML gave it, as an instance of ``kind``.

    Args:
        kind: a pydantic model, or a ``TypeAdapter`` of what holds models.
        where: file, and line where it applies, for messages.
        hint: what to do next, where no better hint is found.
        entry: what an element of a list at the top is called.

    Raises:
        BadInput: something is missing, unknown, of another type, or out of bounds; names file and field.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = next((e for e in errors if e["type"] in ("extra_forbidden", "invalid_key")), errors[0])  # a slip of the pen?
        loc = tuple(part for part in first["loc"] if part != "[key]")
        if loc and isinstance(loc[0], int):
            where, loc = f"{where}, {entry} {loc[0] + 1}", loc[1:]
        what, near = _explained(first, loc, adapter)
        more = f" ({len(errors) - 1} more such {'error' if len(errors) == 2 else 'errors'})" if len(errors) > 1 else ""
        raise BadInput(f"{where}: {what}{more}.", near or hint) from None
    except RecursionError:
        raise BadInput(f"{where}: it is nested too deeply.", hint) from None


def _explained(error: Mapping[str, Any], loc: tuple[int | str, ...], adapter: TypeAdapter[Any]) -> tuple[str, str]:
    """The sentence on an error at ``loc``, and a better hint where there is one."""
    kind, place = error["type"], _place(loc)
    if kind == "missing":
        return f"the field {place} is missing", ""
    if kind == "extra_forbidden":
        known = _fields(adapter)
        close = difflib.get_close_matches(str(loc[-1])[:100], known, 1)
        meant = f"Did you mean {close[0]}?" if close else f"Known fields: {', '.join(known)}." if len(known) < 16 else ""
        parent = f"{_place(loc[:-1])}: " if loc[1:] else ""
        return f"{parent}the field {short(loc[-1])} is unknown", meant
    if kind == "value_error":  # of a validator of ours, which says it all
        return (f"{place}: " if place else "") + error["msg"].removeprefix("Value error, ")[:300], ""
    message = re.sub(r" or instance of \w+", "", error["msg"]).replace("Input should", "it should")
    message = message[:1].lower() + message[1:300]
    for theirs, ours in _PLAINER:
        message = message.replace(theirs, ours)
    return f"{place or 'the content'} is {short(error['input'])}: {message}", ""


def _place(loc: tuple[int | str, ...]) -> str:
    """A path in the content such as ``targets[3].name``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_word(part)}" for part in loc).removeprefix(".")


def _word(part: str) -> str:
    plain = part.replace(".", "").replace("_", "").replace("-", "")
    return part if len(part) <= 80 and part.isascii() and plain.isalnum() else short(part)


def _fields(adapter: TypeAdapter[Any]) -> list[str]:
    """Names of the fields of all models that ``adapter`` looks for."""
    schema = adapter.json_schema()
    models = [schema, *schema.get("$defs", {}).values()]
    return list(dict.fromkeys(name for model in models for name in model.get("properties", {})))


class _Short(reprlib.Repr):
    """A value in at most a line, control characters escaped."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 2, 3, 3, 3

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 200:  # writing out a number of many digits is slow, and refused by Python
            return f"a whole number of {x.bit_length() * 0.30103:.0f} digits"
        return super().repr_int(x, level)

    repr_bool = staticmethod(lambda x, level: "true" if x else "false")
    repr_NoneType = staticmethod(lambda x, level: "null")


def short(value: Any) -> str:
    """``value`` for a message: cut, on one line."""
    return _Short().repr(value)
