"""Paths that complete what is typed, or are meant by it (no Textual)."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

MOST = 5000  # names of a folder that are looked at
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".gz")


def meant(text: str) -> str:
    """What is there by the name that a shell would read in ``text``: a file dragged to the terminal comes in quotes or with
    backslashes. ``text`` itself where there is no such thing, or one called just that."""
    if _is_there(text):
        return text
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that does not end
        return text
    return words[0] if len(words) == 1 and _is_there(words[0]) else text


def _is_there(path: str) -> bool:
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # a NUL in the name of a user
        return False


def completions(text: str, folders_only: bool) -> list[str]:
    """What begins with ``text`` on disk, as it would be typed: folders end in a slash; files only of kinds that hold rows.

    Nothing is offered for an empty text, as a hub id is as likely.
    """
    if not text:
        return []
    head, _, start = text.rpartition("/")
    shown = f"{head}/" if "/" in text else ""
    found = []
    try:
        with os.scandir(Path(shown or ".").expanduser()) as entries:
            for number, each in enumerate(entries):
                if number >= MOST:
                    break
                name = each.name
                if not name.startswith(start) or (name.startswith(".") and not start.startswith(".")) or not name.isprintable():
                    continue
                if each.is_dir():
                    found.append(f"{shown}{name}/")
                elif not folders_only and name.lower().endswith(DATA_SUFFIXES):
                    found.append(f"{shown}{name}")
    except (OSError, ValueError, RuntimeError):  # no such folder; a NUL; no home
        return []
    return sorted(found)
