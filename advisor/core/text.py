"""Text from outside — names of files, columns, classes, modules — made fit for a terminal, a report or an error line."""

from __future__ import annotations

import re
import unicodedata

MARKDOWN = re.compile(r"[\\`*<]|\](?=\()|(?<!\w)_|_(?!\w)")  # what would start code, emphasis, HTML or a link
CUT = " … "


def printable(text: str, limit: int | None = None) -> str:
    """``text`` as one line in which every character can be seen.

    Control characters, line breaks, bidi and zero-width marks, surrogates and unassigned code points come out as their
    Python escape (``\\n``, ``\\x1b``, ``\\u202e``); every other space becomes an ordinary one. Markup is left alone: what
    prints markup (rich, HTML, Markdown) escapes it.

    Args:
        limit: most characters of the result; a longer text loses its middle. None: no limit.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _shown(c) for c in text)
    if limit is None or len(text) <= limit:
        return text
    room = max(limit - len(CUT), 0)
    tail = room // 3
    return (text[: room - tail] + CUT + (text[-tail:] if tail else ""))[:limit]


def markdown(text: str) -> str:
    """:func:`printable`, with what Markdown would read as markup escaped."""
    return MARKDOWN.sub(r"\\\g<0>", printable(text))


def _shown(character: str) -> str:
    """What stands for a character that Python does not count as printable: no-break and thin spaces are among those."""
    return " " if unicodedata.category(character) == "Zs" else character.encode("unicode_escape").decode("ascii")
