"""One call of sendmmsg(), and the exact count of what was sent."""

import errno
import select
from collections.abc import Callable
from itertools import count
from typing import Final

from .. import PacketBatch, RawSocket
from .._queue import bytes_queued
from .loads import Load
from .pace import NAP

REFUSALS: Final = frozenset({errno.EMSGSIZE, errno.EINVAL})
"""Errors that the frame itself causes (packet(7)): it is longer than the MTU
allows, or shorter than the link header. The next frame may pass."""


class Sender:
    """Sends the frames of loads over a socket, and counts them.

    frames, size    that the kernel took, and their bytes
    retries         calls that were repeated because the queue was full
                    (ENOBUFS)
    errors          frames that the kernel refused; `refusal` is the first
                    error
    """

    def __init__(
        self,
        sock: RawSocket,
        stopped: Callable[[], bool],
        report: Callable[[int], object] | None = None,
    ) -> None:
        self._sock = sock
        self._may_block = sock.gettimeout() != 0
        self._poller = select.poll()
        if not sock.closed:
            self._poller.register(sock.fileno(), select.POLLOUT)
        self.stopped = stopped
        self._report = report
        self.retries = 0
        self.errors = 0
        self.refusal: OSError | None = None
        self._sent_before = sock.statistics().packets_sent
        self._totals = (0, 0)  # frames and bytes of the earlier loads
        self._load: Load | None = None
        self._batch: PacketBatch  # that send() sends from
        self.refused: set[int] = set()  # frames of the load

    @property
    def frames(self) -> int:
        return self._totals[0]

    @property
    def size(self) -> int:
        return self._totals[1]

    @property
    def load(self) -> Load:
        """The load that is being sent."""
        assert self._load is not None
        return self._load

    def take(self, load: Load) -> None:
        """Counts the load before, and continues with this one."""
        self.settle()
        self.refused, self._load, self._batch = set(), load, load.batch

    def settle(self) -> None:
        """Counts what has been sent of the load, which is then finished. May
        be interrupted and repeated."""
        self._totals, self._load = self.counts(), None

    def counts(self) -> tuple[int, int]:
        """How many frames have been sent so far, and their bytes."""
        if self._load is None:
            return self._totals
        frames, size = self._totals
        sent = self._count_sent()
        if sent - frames == self._load.frames:
            return sent, size + self._load.size
        lengths = self._load.batch.lengths
        taken = (i for i in count() if i not in self.refused)
        size += sum(lengths[next(taken)] for _ in range(sent - frames))
        return sent, size

    def _count_sent(self) -> int:
        """How many frames have been sent.

        The count is the socket's own, because Ctrl-C can come between a system
        call and any use of its result.
        """
        return self._sock.statistics().packets_sent - self._sent_before

    def send(self, first: int, last: int) -> int:
        """Makes one call of sendmmsg() with these frames of the load, and
        returns how many it took; 0 if the device stays busy for a NAP.

        Never waits longer, whatever the socket's timeout is. The timeout
        belongs to the user, whose other threads may be receiving.
        """
        if self._may_block and not self._is_writable():
            return 0
        try:
            taken = self._sock.sendmmsg(self._batch, first, last)
        except (BlockingIOError, TimeoutError):
            self._is_writable()
            return 0
        if self._report is not None:
            self._report(taken)
        return taken

    def _is_writable(self) -> bool:
        """Waits until the socket takes a frame, or has an error to report, for
        a NAP at most."""
        # There is no event if the socket was closed and another one has got
        # its number.
        return bool(self._poller.poll(NAP * 1000)) or self._sock.closed

    def has_queued(self) -> bool:
        """Whether frames of this socket wait in the queue of the device."""
        return bytes_queued(self._sock) > 0

    def refuse(self, i: int, error: OSError) -> None:
        """Counts this frame of the load as refused by the kernel."""
        self.refused.add(i)
        self.errors += 1
        self.refusal = self.refusal or error
