"""Descriptors that came from another process, which may be hostile."""

import errno
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from .messages import RefusedRequest

__all__ = [
    "MOST_WAITING",
    "Closer",
    "check_eventfd",
    "read_kick",
]

# While so many descriptors wait to be closed, no front end of that server is
# served: only a hostile one makes them wait. One message can add 253 more, and
# a process may have 1,024 open, unless the limit was raised.
MOST_WAITING: Final = 64

_EVENTFD: Final = "anon_inode:[eventfd]"
# Python has it only if the C library has preadv2().
_RWF_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)


def check_eventfd(descriptor: int) -> None:
    """Makes an eventfd non-blocking. Refuses any other descriptor: reading it
    or writing to it could wait, or do something else than to notify.

    The name in /proc tells it. No file has that name, because the path of a
    file begins with a slash, and no file system is asked for it.
    """
    try:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        raise RefusedRequest(
            "cannot tell whether the descriptor is an eventfd: /proc:"
            f" {error.strerror}"
        ) from None
    if name != _EVENTFD:
        # A path may be anything, even control characters of a terminal.
        what = "a file" if name.startswith("/") else name
        raise RefusedRequest(f"the descriptor is not an eventfd but {what}")
    os.set_blocking(descriptor, False)


def read_kick(descriptor: int) -> None:
    """Resets the counter of an eventfd. Does not wait, even if the other
    process has meanwhile made the descriptor blocking and has read it: since
    Linux 5.8, if the C library has preadv2()."""
    with suppress(BlockingIOError):
        if not _RWF_NOWAIT:
            os.read(descriptor, 8)
            return
        try:
            os.preadv(descriptor, [bytearray(8)], -1, _RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # An eventfd before Linux 5.8 knows O_NONBLOCK alone.
            os.read(descriptor, 8)


class Closer:
    """Closes descriptors of which nothing is known, without waiting.

    close(2) can wait as long as another process likes: a file of a FUSE file
    system asks its server first (fs/fuse/file.c:fuse_flush()), and a TCP
    socket may linger (SO_LINGER). So only a thread of its own waits; the
    process can end without it.

    Each server has its own closer, so that a hostile front end does not keep
    the others from being served.
    """

    def __init__(self) -> None:
        # How many descriptors each thread closes.
        self._threads: dict[threading.Thread, int] = {}
        self._left: list[int] = []

    def close(self, descriptors: Iterable[int]) -> None:
        doubtful = [one for one in descriptors if not _closes_at_once(one)]
        self._left += doubtful
        if not self._left:
            return
        thread = threading.Thread(
            target=_close_all,
            args=(self._left,),
            daemon=True,
            name="rawmmsg-close",
        )
        try:
            thread.start()
        except RuntimeError:
            # Too many threads are running. The next call tries again.
            return
        self._threads[thread] = len(self._left)
        self._left = []

    @property
    def is_full(self) -> bool:
        """Whether so many descriptors wait that the front end must not pass
        any more."""
        for thread in [one for one in self._threads if not one.is_alive()]:
            del self._threads[thread]
        waiting = sum(self._threads.values()) + len(self._left)
        return waiting >= MOST_WAITING


def _closes_at_once(descriptor: int) -> bool:
    """Closes an eventfd."""
    with suppress(OSError):
        if os.readlink(f"/proc/self/fd/{descriptor}") == _EVENTFD:
            os.close(descriptor)
            return True
    return False


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        # NFS and others report errors of writing here.
        with suppress(OSError):
            os.close(descriptor)
