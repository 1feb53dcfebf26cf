"""The end of a recording to a pipe whose reader takes nothing."""

import errno
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["not_for_ever"]

# For so many seconds after a signal, the recording may wait for the reader.
# What has arrived before the signal is recorded for one second at most.
_PATIENCE: Final = 3.0

_WHY: Final = "its reader takes nothing; the end is missing"


@contextmanager
def not_for_ever(file: str) -> Iterator[None]:
    """Ends a write that still waits some time after SIGINT or SIGTERM: raises
    OSError (ETIMEDOUT) in it. Otherwise only SIGKILL would end the process,
    because the write is repeated after a signal.

    `file`: what is written; "-" for standard output. Does nothing if it is a
    regular file.
    """
    if not _may_stall(file):
        yield
        return

    name = "standard output" if file == "-" else file

    def give_up(_: int, __: FrameType | None) -> None:
        raise TimeoutError(errno.ETIMEDOUT, _WHY, name)

    def begin(_: int, __: FrameType | None) -> None:
        if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE, _PATIENCE)

    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGALRM, give_up),
            (signal.SIGINT, begin),
            (signal.SIGTERM, begin),
        )
    }
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _may_stall(file: str) -> bool:
    try:
        mode = os.fstat(1).st_mode if file == "-" else os.stat(file).st_mode
    except (OSError, ValueError):  # it does not exist yet, or cannot
        return False
    return not stat.S_ISREG(mode)
