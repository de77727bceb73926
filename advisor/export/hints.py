"""Why an entry of a LoRA config stands for nothing in a model, where it can be guessed (no torch)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

ALL_LINEAR = "all-linear"
MOST_COMPARED = 5_000  # ends of names
_WEIGHTS = (".weight", ".bias")
_REGEX = re.compile(r"[\\^$*+?()\[\]{}|]")


def reason(entry: str, names: Sequence[str], others: Mapping[str, Sequence[str]] | None = None) -> str:
    """One sentence on an entry of a list that is no name of a module or end of one; empty where nothing is likely.

    Args:
        names: the model's modules (or parameters).
        others: names of modules that other classes of the same model have, by class.
    """
    if re.sub(r"[\s_-]+", "-", entry.strip().lower()) in (ALL_LINEAR, "all"):
        return f"For every linear module write the text {ALL_LINEAR!r} in place of the list."
    if entry != entry.strip() or re.search(r"[,;\s]", entry.strip()):
        parts = [part for part in re.split(r"[,;\s]+", entry) if part]
        return f"Names are entries of their own: write {parts!r}."
    if _REGEX.search(entry):
        return _of_regex(entry, names)
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


def reason_of_text(text: str, names: Sequence[str]) -> str:
    """One sentence on a text in place of a list, which PEFT takes for a regex of the full name, that fits nothing."""
    if re.sub(r"[\s_-]+", "-", text.strip().lower()) in (ALL_LINEAR, "all", "linear"):
        return f"For every linear module write {ALL_LINEAR!r}."
    parts = [part.strip("()[]'\" ") for part in re.split(r"[|,;\s]+", text) if part.strip("()[]'\" ")]
    plain = bool(parts) and all(re.fullmatch(r"[\w.]+", part) for part in parts)
    if plain and any(name == part or name.endswith(f".{part}") for part in parts for name in names):
        return f"PEFT takes a text for a regex of the full name: write the list {parts!r}."
    if text.lstrip(".").startswith("*") or re.search(r"(?<![.\])}\w\\])\*", text):
        return "It is a glob: a regex of any characters is '.*', and it must fit the full name."
    if _searches(text, names):
        longer = f".*{text}"
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


def _of_regex(entry: str, names: Sequence[str]) -> str:
    fix = "write it as a text in place of the list" if _full(entry, names) else "write a regex of the full name as a text"
    kind = "a glob" if entry.startswith("*") else "a regular expression (regex)"
    return f"An entry of a list is a name or the end of one, never {kind}: {fix}."


def _with_other_start(entry: str, names: Sequence[str]) -> str:
    bare = entry
    for prefix in ("base_model.model.", "module.", "_orig_mod.", "model."):
        bare = bare.removeprefix(prefix)
        if bare != entry and any(name == bare or name.endswith(f".{bare}") for name in names):
            return f"Without the prefix {entry[: -len(bare)]!r} it is a name here: write {bare!r}."
    other = old_or_other(entry, names)
    return f"Here a module of that end is called {other!r}." if other else ""


def _full(pattern: str, names: Sequence[str]) -> bool:
    try:
        compiled = re.compile(pattern)
    except re.error:
        return False
    return any(compiled.fullmatch(name) for name in names)


def _searches(pattern: str, names: Sequence[str]) -> bool:
    try:
        compiled = re.compile(rf".*(?:{pattern})")
    except re.error:
        return False
    return any(compiled.fullmatch(name) for name in names)


def refusal_hint(arguments: dict[str, Any], names: Sequence[str], others: Mapping[str, Sequence[str]] | None = None) -> str:
    """What is likely wrong with the targets of a config that PEFT refuses; empty where nothing stands out."""
    targets = arguments.get("target_modules")
    if isinstance(targets, str):
        found = False
        try:
            found = any(re.fullmatch(targets, name) for name in names)
        except re.error:
            found = False
        return "" if found or targets.lower() == ALL_LINEAR else reason_of_text(targets, names)
    if isinstance(targets, list):
        for entry in targets:
            if isinstance(entry, str) and not any(n == entry or n.endswith(f".{entry}") for n in names):
                return f"{entry!r}: {why}" if (why := reason(entry, names, others)) else ""
    return ""
