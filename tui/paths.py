"""Paths that complete what is typed (no Textual)."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 5000  # names of a folder that are looked at
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".gz")


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
