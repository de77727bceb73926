"""From the options of ``advisor tui`` and ``advisor recommend --tui`` to a running app."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from advisor.core.option import values
from advisor.core.options import Terminal
from tui.app import AdvisorApp
from tui.inputs import Inputs
from tui.work import threads_ended

GRACE = 2.0  # seconds that what was told to stop has for it once the app is gone


def run(
    asked: Terminal | None, probe_folder: Path | None = None, start: bool = False, demo: bool = False, writes: bool = False
) -> int:
    """Run the app until the user leaves; returns the exit code.

    Args:
        asked: what holds from the first; None: what the last session asked.
        probe_folder: open this probe. start: probe at once. demo: fill in the embedded model and data. writes: write the
            recommendation to its folder.
    """
    inputs = None if asked is None else Inputs(**values(asked, Terminal))
    confirms = inputs is not None and bool(inputs.real_runs)
    app = AdvisorApp(inputs, probe_folder=probe_folder, start=start, demo=demo, writes=writes, confirms=confirms)
    app.run()
    if app.written:
        print(f"Written to {app.written[0].parent}: {', '.join(path.name for path in app.written)}")
    if app.crash:
        print(app.crash, file=sys.stderr)
    code = app.return_code or 0
    if not threads_ended(GRACE):  # a step of the engine cannot be broken off, and nobody waits for it any more
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
