"""Lines on standard error."""

import contextlib
import os
import select
import sys

__all__ = ["has_room", "is_terminal", "print_line"]


def print_line(text: str) -> None:
    """Prints a line on standard error. Ignores errors: frames still pass if
    the reader of a pipe has gone, a disk is full, or there is no standard
    error."""
    if sys.stderr is None:
        return
    # Not through its buffer: it would keep a line that could not be written,
    # and fail again when the interpreter exits.
    with contextlib.suppress(OSError):
        line = f"{text}\n".encode(sys.stderr.encoding, "backslashreplace")
        os.write(sys.stderr.fileno(), line)


def is_terminal() -> bool:
    """Returns whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def has_room() -> bool:
    """Returns whether there is a standard error to which a line can be written
    without waiting."""
    if sys.stderr is None:
        return False
    poll = select.poll()
    poll.register(sys.stderr.fileno(), select.POLLOUT)
    return bool(poll.poll(0))
