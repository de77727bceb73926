"""From the options of ``advisor tui`` and ``advisor recommend --tui`` to a running app."""

from __future__ import annotations

import sys
from pathlib import Path

from advisor.core.option import changed, values
from advisor.core.options import Terminal
from tui.app import AdvisorApp
from tui.inputs import Inputs


def inputs_of(asked: Terminal) -> Inputs | None:
    """What was asked for; None where all is at its default, so that the last session's inputs are kept."""
    return Inputs(**values(asked, Terminal)) if changed(asked) else None


def run(asked: Terminal, probe_folder: Path | None = None, start: bool = False, demo: bool = False) -> int:
    """Run the app until the user leaves; returns the exit code.

    Args:
        probe_folder: open this probe. start: probe at once. demo: fill in the embedded model and data.
    """
    app = AdvisorApp(inputs_of(asked), probe_folder=probe_folder, start=start, demo=demo)
    app.run()
    if app.log_path is not None and app.return_code:
        print(f"Details of the error: {app.log_path}. Your session was kept: `advisor tui` opens it.", file=sys.stderr)
    return app.return_code or 0
