"""From the options of ``advisor tui`` and ``advisor recommend --tui`` to a running app."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from tui.app import AdvisorApp
from tui.form import problems_of
from tui.inputs import Inputs
from tui.work import threads_ended

GRACE = 2.0  # seconds that what was told to stop has for it once the app is gone


def inputs_of(options: Mapping[str, Any]) -> Inputs | None:
    """The options that say something; None where all are at their defaults, so that the last session's are kept.

    Raises:
        BadInput: a value that Setup would refuse.
    """
    named = {field.name: options[field.name] for field in fields(Inputs) if options.get(field.name) is not None}
    inputs = Inputs(**{**named, "text_columns": tuple(options.get("text_column") or ())})
    for problem in problems_of(inputs).values():
        raise BadInput(problem, "Correct that option.")
    return None if inputs == Inputs() else inputs


def run(options: Mapping[str, Any], probe_folder: Path | None = None, start: bool = False, writes: bool = False) -> int:
    """Run the app until the user leaves; returns the exit code.

    Args:
        options: by their names in :mod:`advisor.cli.main`; ``demo`` fills in the embedded model and data.
        probe_folder: open this probe. start: probe at once. writes: write the recommendation to its folder.
    """
    demo = bool(options.get("demo"))
    app = AdvisorApp(inputs_of(options), probe_folder=probe_folder, start=start, demo=demo, writes=writes)
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
