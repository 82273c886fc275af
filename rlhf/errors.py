"""What the user sees when something goes wrong: one clear line, what to do about it, and no traceback unless asked."""

import difflib
import errno
import sys
import traceback
from collections.abc import Callable, Iterable

from rlhf.output import output_always_gets_through

MAX_UNUSABLE = 0.05  # of the rows of a data set, for all reasons together

# Beyond this many, a list of accepted names hides the answer rather than giving it.
_FEW = 12

_DISK_TROUBLE = {
    errno.ENOSPC: ("the disk is full", "free some space, or write elsewhere with --output_dir"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write elsewhere with --output_dir"),
    errno.EROFS: ("the file system is read-only", "write elsewhere with --output_dir"),
    errno.ENAMETOOLONG: ("the name of a file is too long", "choose a shorter one (of the run: --output_dir)"),
    errno.EACCES: ("permission denied", "check who owns it, or write elsewhere with --output_dir"),
    errno.EPERM: ("operation not permitted", "check who owns it, or write elsewhere with --output_dir"),
}


# What gloo says when the process at the other end is gone.
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class UserError(Exception):
    """A mistake the user can mend: what is wrong, and (optional) what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ServerGoneError(UserError):
    """A server that a run needs has not come back while it was waited for. A run that has done steps is saved."""


class IdleError(UserError, ValueError):
    """A setting that is given and would act on nothing. As a ValueError it may come from a config's own validator."""

    def __init__(self, key: str, *, because: str, cure: str) -> None:
        super().__init__(f"{key}: it would act on nothing: {because}", cure)


class UnusableError(UserError, ValueError):
    """A row of data that cannot be used. Readers of data count it as any ValueError; elsewhere it ends the command."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """The accepted name that `name` was probably meant to be, as a phrase for the end of an error message.

    Case is ignored. With nothing similar, a short list of names is given whole, and of a long one nothing ("").
    """
    by_lower = {a.lower(): a for a in accepted}
    lower = name.lower()
    begins_so = [a for a in by_lower if lower and a.startswith(lower)]
    if close := difflib.get_close_matches(lower, by_lower, n=1) or begins_so[:1]:
        return f"did you mean {by_lower[close[0]]!r}?"
    return "accepted: " + ", ".join(by_lower.values()) if 0 < len(by_lower) <= _FEW else ""


def run_main(main: Callable[[], int | None], *, debug: bool) -> int:
    """Call `main` and return the exit code of the process: `sys.exit(run_main(main, debug="--debug" in sys.argv))`.

    0 or what `main` returned; 2 for a UserError; 1 for any other failure; 130 for Ctrl-C, as in a shell. Output that
    cannot be written is no failure (see rlhf/output.py).
    """
    with output_always_gets_through():
        try:
            return main() or 0
        except KeyboardInterrupt:
            _say("interrupted", None)
            return 130
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            _say(*_explain(error))
            return 2 if isinstance(error, UserError) else 1


def _explain(error: Exception) -> tuple[str, str | None]:
    """Message and hint for any exception."""
    if isinstance(error, UserError):
        return error.message, error.hint
    if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
        trouble, hint = _DISK_TROUBLE[error.errno]
        # A failed write, unlike a failed open, does not know its file.
        return f"{trouble}: {error.filename or 'while writing a file'}", hint
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST_PEER):
        return "another process of this run has ended, so this one ends too", "What ended it is in its own message."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{str(error.filename)[:200]}: {error.strerror}", "--debug shows the traceback"
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first_line}".rstrip(": "), "run again with --debug for the traceback"


def _say(message: str, hint: str | None) -> None:
    # Plain text: a message may hold square brackets, which rich would read as markup.
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)
