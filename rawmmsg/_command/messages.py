"""Messages to the user, and signals."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from .terminal import print_line

__all__ = [
    "fail",
    "keep_quiet",
    "name_file",
    "name_port",
    "say",
    "signals",
]


def say(message: str) -> None:
    """Prints a message on standard error, after the name of the program."""
    print_line(f"rawmmsg: {message}")


def keep_quiet(_: str) -> None:
    """Prints nothing."""


def fail(error: OSError) -> int:
    """Prints the error. Returns the exit status."""
    say(error.strerror or str(error))
    for note in getattr(error, "__notes__", ()):
        print_line(note)
    return 1


def name_file(error: OSError) -> None:
    """Makes the message of an error name its file, unless it does already."""
    if error.filename and error.filename not in (error.strerror or ""):
        error.strerror = f"{error.filename}: {error.strerror}"


def name_port(name: str, error: OSError) -> None:
    """Makes the message of an error name the port that could not be
    opened."""
    reason = error.strerror
    if error.errno == errno.ENODEV:
        reason = "No such device; `ip link` lists the interfaces"
        # The name of an interface may have a comma, but no colon.
        if "," in name and ":" not in name:
            reason += f", and one with options is interface:{name}"
    error.strerror = f"{name}: {reason}"


@contextmanager
def signals(*more: int) -> Iterator[int]:
    """Gives a descriptor from which the numbers of signals can be read, from
    the moment when SIGINT, SIGTERM or one of `more` arrives."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # Before the handlers, which do nothing: a signal in between would be
    # lost.
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    numbers = (signal.SIGINT, signal.SIGTERM, *more)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield reader
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)
