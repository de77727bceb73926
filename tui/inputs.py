"""What the user asks for, as plain values: the options of :class:`advisor.core.options.Terminal`, filled in on Setup or on the
command line.

Nothing here imports the engine, so that Setup is on screen before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.option import options_of, values
from advisor.core.options import Terminal


@dataclass(frozen=True)
class Inputs(Terminal):
    """Checked values; None: the engine's default."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values(self).items()}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Inputs:
        """The inverse, for what an older or newer program wrote: unknown fields and values that are not allowed fall back to
        defaults."""
        found: dict[str, Any] = {}
        for name, option in options_of(cls).items():
            if kept.get(name) is not None:
                try:
                    found[name] = option.check(kept[name])
                except BadInput:
                    continue
        try:
            return cls(**found)
        except BadInput:  # two that exclude each other
            return cls()
