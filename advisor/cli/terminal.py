"""``advisor tui``, and what else ends in the terminal interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.cli import groups
from advisor.core import options
from advisor.core.errors import BadInput
from advisor.core.option import changed, options_of, part

if TYPE_CHECKING:
    from advisor.core.option import Checked


def tui(given: groups.Tui, typed: groups.Typed) -> int:
    """Explore a probe, or make one, in the terminal. Without arguments Setup is as the last session left it."""
    if not has_terminal():
        raise BadInput("The terminal interface needs a terminal.", "Use `advisor recommend` or `advisor explain` instead.")
    return open_interface(part(given, options.Terminal) if typed.anything else None, demo=given.demo)


def has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and sys.stdout.isatty()


def open_interface(asked: options.Terminal | None, demo: bool = False, start: bool = False, writes: bool = False) -> int:
    """Run the terminal interface; returns the exit code.

    Args:
        asked: what holds from the first; None: what the last session asked.
        start: probe at once, where a model and no probe is named. writes: write the recommendation to its folder.
    """
    import gc
    from dataclasses import replace

    from advisor.core.store import is_probe

    gc.disable()  # until the first paint, which comes sooner by a tenth; the app enables it again
    from tui.main import run

    if asked is not None and asked.model is not None and is_probe(probe := Path(asked.model)):
        return run(replace(asked, model=None), probe_folder=probe, demo=demo, writes=writes)
    return run(asked, start=start, demo=demo, writes=writes)


def refuse_beside_tui(given: Checked, printed: groups.Ending) -> None:
    """What a command was given and the terminal interface does not know would be dropped silently.

    Raises:
        BadInput: there is such an option; names it.
    """
    known = {*options_of(groups.Tui), "in_tui", "verbose"}
    beyond = [option.called for name, option in {**changed(given), **changed(printed)}.items() if name not in known]
    rank = getattr(given, "rank", None)
    if isinstance(rank, str):
        beyond.append(f"--rank {rank}")
    if beyond:
        raise BadInput(f"{', '.join(beyond)}: not known to the terminal interface.", "Leave out --tui.")
