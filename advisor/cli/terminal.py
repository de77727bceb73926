"""``advisor tui``, and what else ends in the terminal interface."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advisor.cli import groups
from advisor.core import options
from advisor.core.errors import BadInput
from advisor.core.option import given_to, options_of, part

if TYPE_CHECKING:
    from advisor.core.option import Checked


def tui(given: groups.Tui) -> int:
    """Explore a probe, or make one, in the terminal. Without arguments Setup is as the last session left it."""
    if not has_terminal():
        raise BadInput("The terminal interface needs a terminal.", "Use `advisor recommend` or `advisor explain` instead.")
    return open_interface(part(given, options.Terminal) if given_to(given) else None, demo=given.demo)


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

    probe = None if asked is None else options.probe_of(asked)
    gc.disable()  # until the first paint, which comes sooner by a tenth; the app enables it again
    from tui.main import run

    if asked is not None and probe is not None:
        return run(replace(asked, model=None), probe_folder=probe, demo=demo, writes=writes)
    return run(asked, start=start, demo=demo, writes=writes)


def refuse_beside_tui(given: Checked, printed: groups.Ending) -> None:
    """What a command was given and the terminal interface does not know would be dropped silently.

    Raises:
        BadInput: there is such an option; names it.
    """
    known = {*options_of(groups.Tui), "in_tui", "verbose"}
    named = {**options_of(type(given)), **options_of(type(printed))}
    beyond = [named[name].called for name in {**given_to(given), **given_to(printed)} if name not in known]
    rank = getattr(given, "rank", None)
    if isinstance(rank, str):
        beyond.append(f"--rank {rank}")
    if beyond:
        raise BadInput(f"{', '.join(beyond)}: not known to the terminal interface.", "Leave out --tui.")
