"""One line on stderr and an exit code for whatever went wrong."""

from __future__ import annotations

import errno
import os
import sys

from advisor.core.errors import AdvisorError, BadInput, OutOfMemory
from advisor.core.text import printable

UNEXPECTED = 1
DISK_FULL = ("No space left on device", "os error 28")  # what libraries say that raise no OSError
NO_MEMORY = ("MemoryError", "OutOfMemoryError")  # Python's; torch's, without importing torch


def report(error: BaseException) -> int:
    """Print the line; returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # typer has shown the help
        return BadInput.exit_code
    expected = expected_of(error)
    if expected is not None:
        say_error(str(expected))
        return expected.exit_code
    from advisor.core.crash import write_log

    log = write_log(error)
    what = f"this is a bug in the advisor, not in your input: {type(error).__name__}: {printable(str(error), 200)}"
    say_error(f"{what}. {f'Please report it with {log}.' if log else 'Please report it.'}")
    return UNEXPECTED


def say_error(text: str) -> None:
    print(f"Error: {printable(text, 700)}", file=sys.stderr)


def expected_of(error: BaseException) -> AdvisorError | None:
    """What ``error`` means to a user; None: it is unexpected."""
    if isinstance(error, AdvisorError):
        return error
    if type(error).__module__.partition(".")[0] in ("click", "typer"):
        return BadInput(getattr(error, "format_message", error.__str__)())
    if type(error).__name__ in NO_MEMORY:
        return OutOfMemory("Not enough memory.", "Use fewer --samples, a shorter --max-length or a smaller model.")
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__
    if found is not None and (isinstance(error, OSError) or found.errno == errno.ENOSPC):
        return _of_system(found)
    if any(text in str(error) for text in DISK_FULL):
        return BadInput("A file cannot be written: no space left on the disk.", "Free space, or write elsewhere with --out.")
    return None


def _of_system(error: OSError) -> BadInput:
    """A folder that cannot be made, a full disk, a file without permission."""
    named = isinstance(error.filename, str | bytes | os.PathLike)
    place = os.fsdecode(error.filename) if named else "A file"
    elsewhere = "write elsewhere with --out" if named else "write elsewhere"  # without a name it is what stdout goes to
    hint = f"Free space, or {elsewhere}." if error.errno == errno.ENOSPC else ""
    return BadInput(f"{place}: {error.strerror or error or type(error).__name__}.", hint)
