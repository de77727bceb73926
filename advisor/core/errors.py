"""One error tree. Every expected failure says what, where and what to do next, and carries the exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from advisor.core.text import printable

LONGEST_LINE = 500  # characters of an error line; the next step is kept whole where there is room
LONGEST_HINT = 240


class AdvisorError(Exception):
    """An expected failure, shown as one line without a traceback; the line is printable and of at most 500 characters.

    Args:
        what: what went wrong and where, one sentence.
        hint: what to do next, one sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        self.hint = printable(hint, LONGEST_HINT)
        self.what = printable(what, LONGEST_LINE - len(self.hint) - 1)
        super().__init__(f"{self.what} {self.hint}".strip())


class BadInput(AdvisorError):
    """The user's model, data, file or option cannot be used (exit 2)."""

    exit_code = 2


class BudgetTooSmall(AdvisorError):
    """No selection fits the budget (exit 3)."""

    exit_code = 3


class OutOfMemory(AdvisorError):
    """Not even a micro-batch of one fits (exit 4)."""

    exit_code = 4


class NotFinite(AdvisorError):
    """A NaN or infinity appeared, or training diverged; the message names the module, or the run (exit 5)."""

    exit_code = 5


class Interrupted(AdvisorError):
    """Stopped by the user; partial work is kept (exit 130)."""

    exit_code = 130


class UnusableRow(UserWarning):
    """A calibration row of the user's is left out."""


class NotPredicted(UserWarning):
    """A part of what the user's config trains is left out of its prediction."""


def how_to_install(extra: str) -> str:
    """The hint for a missing optional package; the advisor is on no index, so its source folder is what is installed."""
    return f"In the advisor's folder, where its README is: pip install -c constraints.txt '.[{extra}]'"


def check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    """Raises:
    BadInput: ``value`` is none of ``allowed``.
    """
    if value not in allowed:
        raise BadInput(f"{option} {value}: unknown.", f"Use one of {', '.join(allowed)}.")


def reason(error: BaseException) -> str:
    """Of another library's exception the first line that says something, with the next one where it ends in a colon; the kind
    of exception where that says more."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if any(c.isalnum() for c in line)]
    announced = len(lines) > 1 and lines[0].endswith(":")
    line = " ".join(lines[: 1 + announced]).rstrip(".: ")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    terse = isinstance(error, LookupError | AttributeError | ArithmeticError | AssertionError | TypeError) or not line
    return printable(f"{type(error).__name__}: {line}".rstrip(": ") if terse else line, 300)


@contextmanager
def loading(what: str, hint: str | Callable[[BaseException], str] = "") -> Iterator[None]:
    """The boundary to other libraries: within, any exception of theirs, or of a model's own code, becomes one line with exit
    code 2, or 4 where memory is used up.

    Args:
        what: the file, field or step, such as ``model: its tokenizer cannot be loaded``. hint: what to do next, or what
            tells it from the exception.

    Raises:
        BadInput, OutOfMemory: instead of what was raised; the advisor's own errors pass.
    """
    try:
        yield
    except AdvisorError:
        raise
    except BaseException as error:
        if isinstance(error, SystemExit):  # else the advisor would end with an exit code that means something else
            code = printable(repr(error.code), 40)
            raise BadInput(f"{what}: its own code ended the program, by sys.exit({code}).", "Mend that code.") from error
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":  # where a Rust library panics
            raise
        if "trust_remote_code=True" in str(error):
            own = "it comes with Python code of its own, which is not run unasked"
            raise BadInput(f"{what}: {own}.", "If you trust that code, add --trust-remote-code.") from error
        if lacks_memory(error):
            raise OutOfMemory(f"{what}: there is not enough memory.", "Use smaller input, or a machine with more.") from error
        raise BadInput(f"{what}: {reason(error)}.", hint if isinstance(hint, str) else hint(error)) from error


def lacks_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, of this machine or of an accelerator, is used up."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said
