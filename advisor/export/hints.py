"""Why an entry of a LoRA config stands for nothing in a model, where it can be guessed (no torch)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from advisor.core.matching import fits

ALL_LINEAR = "all-linear"
MOST_COMPARED = 5_000  # ends of names
_WEIGHTS = (".weight", ".bias")
_REGEX = re.compile(r"[\\^$*+?()\[\]{}|]")


@dataclass(frozen=True)
class Way:
    """How a key of a config may be written.

    Attributes:
        regex: how it says a regex of full names: as a text in place of a list, as the only entry of a list, by every entry, or
            never, since entries are names.
        everything: its word for every linear module; empty where it has none.
    """

    regex: Literal["text", "only entry", "every entry", "never"] = "text"
    everything: str = ALL_LINEAR


NAMES_ONLY = Way("never", "")
WAYS = {
    "exclude_modules": Way(everything=""),
    "modules_to_save": NAMES_ONLY,
    "target_parameters": NAMES_ONLY,
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), Way("every entry", "")),
}  # of PEFT's own arguments; of target_modules the format says


def reason(entry: str, names: Sequence[str], others: Mapping[str, Sequence[str]] | None = None, way: Way = Way()) -> str:
    """One sentence on an entry of a list that is no name of a module or end of one; empty where nothing is likely.

    Args:
        names: the model's modules (or parameters).
        others: names of modules that other classes of the same model have, by class.
        way: how the entry's key may be written.
    """
    if re.sub(r"[\s_-]+", "-", entry.strip().lower()) in (ALL_LINEAR, "all"):
        return _of_everything(way)
    if entry != entry.strip() or re.search(r"[,;\s]", entry.strip()):
        parts = [part for part in re.split(r"[,;\s]+", entry) if part]
        return f"Names are {'keys' if way.regex == 'every entry' else 'entries'} of their own: write {parts!r}."
    if _REGEX.search(entry):
        return _of_regex(entry, names, way)
    if not entry.replace(".", ""):
        return "It is no name."
    if found := [name for name in names if name == entry or name.endswith(f".{entry}")]:
        return "It names what only holds modules." if any(name.startswith(f"{found[0]}.") for name in names) else ""
    if other := _with_other_start(entry, names):
        return other
    if entry.endswith(_WEIGHTS) and not any(name.endswith(_WEIGHTS) for name in names):
        return f"It names a weight: write the module, {entry.rpartition('.')[0]!r}."
    for class_name, theirs in (others or {}).items():
        if any(name == entry or name.endswith(f".{entry}") for name in theirs):
            return f"{class_name} has a module of this name, this class does not."
    if containing := [name for name in names if entry in name.rsplit(".", 1)[-1]]:
        last = containing[0].rsplit(".", 1)[-1]
        return f"It is a part of {last!r}: an entry must be a whole name, or the end of one after a dot."
    return _near(entry, names)


def _near(entry: str, names: Sequence[str]) -> str:
    """The end of a name, of as many parts, that looks most like the entry."""
    parts = entry.count(".") + 1
    ends = {".".join(name.split(".")[-parts:]) for name in names if not name.rsplit(".", 1)[-1].isdigit()}
    near = difflib.get_close_matches(entry.lower(), sorted(ends)[:MOST_COMPARED], 1, 0.75)
    return f"Did you mean {near[0]!r}?" if near else ""


def _of_everything(way: Way) -> str:
    if way.everything == ALL_LINEAR:
        return f"For every linear module write the text {ALL_LINEAR!r} in place of the list."
    if way.everything:
        return f"For every linear module write {way.everything!r} alone."
    return "For every module write '.*'." if way.regex == "every entry" else "No word stands for every module here: write names."


def reason_of_text(text: str, names: Sequence[str], way: Way = Way()) -> str:
    """One sentence on a text in place of a list, which PEFT takes for a regex of the full name, that fits nothing."""
    if way.everything and re.sub(r"[\s_-]+", "-", text.strip().lower()) in (ALL_LINEAR, "all", "linear"):
        return f"For every linear module write {way.everything!r}."
    parts = [part.strip("()[]'\" ") for part in re.split(r"[|,;\s]+", text) if part.strip("()[]'\" ")]
    plain = bool(parts) and all(re.fullmatch(r"[\w.]+", part) for part in parts)
    if plain and any(name == part or name.endswith(f".{part}") for part in parts for name in names):
        if way.regex == "only entry" and len(parts) == 1:
            regex = rf".*\.{re.escape(parts[0])}"
            return f"An only entry is taken for a regex of the full name: write {regex!r}."
        return f"PEFT takes a text for a regex of the full name: write the list {parts!r}."
    if text.startswith("*") or re.search(r"(?<![.\])}\w\\])\*", text):
        return "It is a glob: a regex of any characters is '.*', and it must fit the full name."
    longer = f".*{text}"
    if _fitted(longer, names):
        return f"PEFT takes a text for a regex of the full name, and this is only a part of one: write {longer!r}."
    return "PEFT takes a text for a regex of the full name, which this fits none of."


def old_or_other(first: str, names: Sequence[str]) -> str | None:
    """The name that ends as ``first`` does, with another start."""
    parts = first.split(".")
    for cut in range(1, len(parts)):
        tail = ".".join(parts[cut:])
        if "." in tail and (found := next((n for n in names if n == tail or n.endswith(f".{tail}")), None)):
            return found
    return None


def _of_regex(entry: str, names: Sequence[str], way: Way) -> str:
    if way.regex == "every entry":
        found = _fitted(rf"(.*\.)?({entry})", names)
        return (
            f"As a regex it fits only modules without LoRA, such as {found[0]!r}."
            if found
            else "As a regex it fits no name: correct it or leave it out."
        )
    kind = "a glob" if entry.startswith("*") else "a regular expression (regex)"
    never = "An entry is" if way.regex == "never" else "An entry of a list is"
    meant = next((r for r in (entry, f".*{entry}", _of_glob(entry)) if _fitted(r, names)), None)
    if way.regex == "never":
        found = _fitted(meant, names) if meant else []
        parts = 2 if found and found[0].endswith(_WEIGHTS) else 1
        short = list(dict.fromkeys(".".join(name.split(".")[-parts:]) for name in found))
        write = f"write {found if len(found) < 3 else short[:5]!r}" if found else "write names"
    else:
        place = "as a text in place of the list" if way.regex == "text" else "as the only entry of the list"
        write = f"write {'it' if meant == entry else repr(meant) if meant else 'a regex of the full name'} {place}"
    return f"{never} a name or the end of one, never {kind}: {write}."


def _of_glob(text: str) -> str:
    """The regex that a glob stands for."""
    return re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")


def _with_other_start(entry: str, names: Sequence[str]) -> str:
    bare = entry
    for prefix in ("base_model.model.", "module.", "_orig_mod.", "model."):
        bare = bare.removeprefix(prefix)
        if bare != entry and any(name == bare or name.endswith(f".{bare}") for name in names):
            return f"Without the prefix {entry[: -len(bare)]!r} it is a name here: write {bare!r}."
    other = old_or_other(entry, names)
    return f"Here a module of that end is called {other!r}." if other else ""


def _fitted(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a regex fits; none where it is no regex, or takes too long."""
    try:
        found = fits([pattern], names)[0]
    except (re.error, RecursionError, OverflowError):
        return []
    return [name for name, fit in zip(names, found or (), strict=False) if fit]


def refusal_hint(
    arguments: dict[str, Any], names: Sequence[str], others: Mapping[str, Sequence[str]] | None = None, way: Way = Way()
) -> str:
    """What is likely wrong with the targets of a config that PEFT refuses; empty where nothing stands out.

    Args:
        way: how the targets may be written.
    """
    targets = arguments.get("target_modules")
    if isinstance(targets, str):
        return "" if targets.lower() == ALL_LINEAR or _fitted(targets, names) else reason_of_text(targets, names, way)
    if isinstance(targets, list):
        for entry in targets:
            if isinstance(entry, str) and not any(n == entry or n.endswith(f".{entry}") for n in names):
                return f"{entry!r}: {why}" if (why := reason(entry, names, others, way)) else ""
    return ""
