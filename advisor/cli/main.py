"""The program: how it starts, how it ends, and what becomes of errors.

Nothing but this is imported before :func:`main` runs, so that Ctrl-C while the rest is imported ends the program quietly.
"""

from __future__ import annotations

import gc
import os
import sys

STOPPED = 130
STOPPED_AT_ONCE = "Error: stopped at once; finished work is kept.\n"


def main() -> None:
    """Entry point: expected errors become one line on stderr and their exit code, unexpected ones a file as well."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # for what its encoding lacks
        code = _run(sys.argv[1:])
        _flush()
    except SystemExit:
        raise
    except BaseException as error:
        code = _failed(error)
    gc.freeze()  # Python would look for cycles in all that was imported once more, which takes most of a second
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command; returns the exit code."""
    import logging
    import warnings

    gc.set_threshold(50_000, 20, 100)  # looking for cycles among what is imported takes a fifth of the imports' time
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's matrices are small here: more threads wait for each other
    os.environ.setdefault("TEXTUAL_FPS", "120")  # what changed on the screen is drawn at the next tick
    warnings.formatwarning = _warning
    # PEFT imports bitsandbytes where it is installed, which misses a kernel for inference that nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if arguments[:1] == ["tui"] and len(arguments) <= 2 and not any(text.startswith("-") for text in arguments):
        from advisor.cli.groups import Tui
        from advisor.cli.terminal import tui

        return tui(Tui(*arguments[1:]))  # typer takes a third of the time to the first paint to find out as much
    from advisor.cli.app import app

    code = app(standalone_mode=False) or 0
    if code == STOPPED:  # what typer makes of a KeyboardInterrupt
        raise KeyboardInterrupt
    return code


def _failed(error: BaseException) -> int:
    """Say what went wrong on stderr, in one line; returns the exit code."""
    try:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as in `| head -1`
            code = 1
        elif isinstance(error, KeyboardInterrupt) or (not hasattr(error, "exit_code") and _was_stopped(error)):
            sys.stderr.write(STOPPED_AT_ONCE)
            code = STOPPED
        else:
            from advisor.cli.failure import report

            code = report(error)
        _flush()
        return code
    except KeyboardInterrupt:
        return STOPPED
    except OSError:  # nobody reads, or the disk is full; Python would complain once more on exit
        _drop_output()
        return 1


def _was_stopped(error: BaseException | None) -> bool:
    """Whether there was a Ctrl-C, of which a library made another error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _drop_output() -> None:
    """What is still to be written goes nowhere."""
    from contextlib import suppress

    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or no file
            os.dup2(nowhere, stream.fileno())


def _unraisable(event: sys.UnraisableHookArgs) -> None:
    """Ctrl-C may arrive where Python cannot raise it, as in the clean-up of a finished import, and would be lost."""
    if isinstance(event.exc_value, KeyboardInterrupt):
        os.write(2, STOPPED_AT_ONCE.encode())
        os._exit(STOPPED)
    sys.__unraisablehook__(event)


def _warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours as the program prints them; others as Python does."""
    from advisor.core.text import printable

    text = printable(str(message), 2000)
    ours = category.__module__.startswith("advisor.")
    return f"Warning: {text}\n" if ours else f"{filename}:{lineno}: {category.__name__}: {text}\n"


if __name__ == "__main__":
    main()
