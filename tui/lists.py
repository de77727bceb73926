"""Lists to choose from."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from textual.widgets import OptionList
from textual.widgets._select import SelectOverlay


class Options(OptionList):
    """A page up or down before the list is laid out does nothing, where Textual's fails."""

    def _move_page(self, direction: Literal[-1, 1]) -> None:
        with suppress(KeyError):
            super()._move_page(direction)


class Choices(SelectOverlay, Options):
    """The list that a field to choose in opens."""
