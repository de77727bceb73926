"""What is kept of an error that nobody expected: a file with the traceback, readable by its user only."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

import platformdirs

from advisor.core.store import APP
from advisor.core.version import __version__


def write_log(error: BaseException) -> Path | None:
    """Write the traceback to a new file in the platform's log folder; None where that cannot be done either."""
    folder = Path(platformdirs.user_log_dir(APP))
    path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    lines = [
        f"lora-layer-advisor {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"Command: {sys.argv!r}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".error-", dir=folder)  # mode 0600
        try:
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError:
        return None
    return path
