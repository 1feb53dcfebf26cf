"""Frames on their way into a socket: sent, counted, tried again or refused."""

import errno
import select
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

from .. import RawSocket
from .._queue import bytes_queued
from .loads import Load
from .pace import NAP, Pacer

SHORTEST_PAUSE: Final = 50e-6
LONGEST_PAUSE: Final = 5e-3
"""Seconds between two tries after ENOBUFS, at first and at most."""

PATIENCE: Final = 1.0
"""Seconds of ENOBUFS, without a frame sent, until it is an error, as in
RawSocket.sendmmsg_all()."""

SUSPICION: Final = 0.002
"""Seconds of ENOBUFS after which the frame may be the reason, and not the
queue."""

LOOK_AHEAD: Final = 4
"""How many of the next frames are then tried. If none of them passes, the
queue is full. If there are no other frames to compare with, so many frames in
a row are refused on suspicion."""

# Errors that the frame itself causes (packet(7)): it is longer than the MTU
# allows, or shorter than the link header. The next frame may pass.
_REFUSALS: Final = frozenset({errno.EMSGSIZE, errno.EINVAL})


class Outlet:
    """Sends the frames of loads over a socket, and knows what became of them.

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
        self._totals = (0, 0)  # frames and bytes, of loads that are settled
        self._load: Load | None = None
        self._refused: set[int] = set()  # frames of the load
        self._refusing = False  # the last frame that was tried was refused
        # Frames that may still be refused on suspicion; none once the queue
        # has been seen full.
        self._suspicions = LOOK_AHEAD

    @property
    def frames(self) -> int:
        return self._totals[0]

    @property
    def size(self) -> int:
        return self._totals[1]

    def take(self, load: Load) -> None:
        """Settles the load before, and turns to this one."""
        self.settle()
        self._refused, self._load = set(), load

    def settle(self) -> None:
        """Counts what has been sent of the load, which is done with.

        The count is the socket's own, because Ctrl-C can come between a system
        call and any use of its result. May be interrupted and repeated.
        """
        if self._load is None:
            return
        frames, size = self._totals
        sent = self._sock.statistics().packets_sent - self._sent_before
        if sent - frames == self._load.frames:
            size += self._load.size
        else:
            lengths = self._load.batch.lengths
            taken = (i for i in count() if i not in self._refused)
            size += sum(lengths[next(taken)] for _ in range(sent - frames))
        self._totals, self._load = (sent, size), None

    def push(self, first: int, last: int) -> int:
        """Sends these frames of the load, and skips those that the kernel
        refuses. Returns the frame to continue with: one before `last` if the
        call was stopped, or if only the frames from `last` on can tell whether
        this one is refused."""
        while first < last and not self.stopped():
            try:
                taken = self._send(first, last)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    before = first
                    first = self._wait_or_refuse(first, last, error)
                    if first == before:
                        return first
                elif error.errno in _REFUSALS:
                    self._refuse(first, error)
                    first += 1
                else:
                    raise
            else:
                if taken:
                    self._note_passed()
                first += taken
        return first

    def _send(self, first: int, last: int) -> int:
        """Makes one call of sendmmsg(), and returns how many frames it took; 0
        if the device stays busy for a NAP.

        Never waits longer, although the socket may have any timeout: that
        belongs to the user, whose other threads may be receiving.
        """
        assert self._load is not None
        if self._may_block and not self._is_writable():
            return 0
        try:
            taken = self._sock.sendmmsg(self._load.batch, first, last)
        except (BlockingIOError, TimeoutError):
            self._is_writable()
            return 0
        if self._report is not None:
            self._report(taken)
        return taken

    def _is_writable(self) -> bool:
        """Waits until the socket takes a frame, or has an error to report, for
        a NAP at most."""
        # A closed socket gives no event, if its number is used again by then.
        return bool(self._poller.poll(NAP * 1000)) or self._sock.closed

    def _wait_or_refuse(self, first: int, last: int, error: OSError) -> int:
        """Finds out what ENOBUFS means: the kernel reports it both for a full
        queue and for a frame that something on the way out drops
        (net/core/dev.c:dev_queue_xmit()). Returns the frame to continue with,
        which is `first` if that is still open.

        While frames of this socket wait in the queue, it is full, and the
        frame is tried again. If none waits and another frame passes, the
        kernel has refused this one.
        """
        assert self._load is not None
        few = last - first <= LOOK_AHEAD
        begin = time.monotonic()
        pause = SHORTEST_PAUSE
        while not self.stopped():
            self.retries += 1
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            waited = time.monotonic() - begin
            if self._try(first) is None:
                if waited > SUSPICION:  # it was full
                    self._suspicions = 0
                self._note_passed()
                return first + 1
            ours = bytes_queued(self._sock) > 0
            if waited > PATIENCE or (
                not ours and (self._refusing or waited > SUSPICION)
            ):
                passed = self._look_ahead(first, last)
                if passed is not None:
                    return self._try_again(first, passed)
                if waited > PATIENCE:
                    if ours:
                        raise error
                    self._refusing = True
                    self._suspicions = LOOK_AHEAD
                elif few and last < self._load.frames:
                    return first
                elif few and self._suspicions:
                    self._suspicions -= 1
                elif not self._refusing:
                    continue
                self._refuse(first, error)
                return first + 1
        return first

    def _note_passed(self) -> None:
        """The kernel has taken a frame at the first try, or the queue was
        full: no frame is suspected any more."""
        self._refusing = False
        if self._suspicions:
            self._suspicions = LOOK_AHEAD

    def _look_ahead(self, first: int, last: int) -> int | None:
        """Tries the frames after `first`, and returns the first that the
        kernel takes."""
        for i in range(first + 1, min(first + 1 + LOOK_AHEAD, last)):
            self._refused.add(i - 1)  # until it is known
            if self._try(i) is None:
                return i
        self._refused.difference_update(range(first, last))
        return None

    def _try_again(self, first: int, passed: int) -> int:
        """Gives the frames before `passed`, which the kernel has taken, a last
        chance: the queue may have been full until then."""
        for i in range(first, passed):
            self._refused.discard(i)
            error = self._try(i)
            if error is not None:
                self._refuse(i, error)
        self._suspicions = LOOK_AHEAD
        return passed + 1

    def _try(self, i: int) -> OSError | None:
        """Sends this frame alone; returns the error if it is about the frame
        or the queue."""
        try:
            while not self._send(i, i + 1):
                if self.stopped():
                    return TimeoutError(errno.ETIMEDOUT, "stopped")
        except OSError as error:
            if error.errno not in {errno.ENOBUFS, *_REFUSALS}:
                raise
            return error
        return None

    def _refuse(self, i: int, error: OSError) -> None:
        self._refused.add(i)
        self.errors += 1
        self.refusal = self.refusal or error


def send_loads(
    loads: Iterable[Load], outlet: Outlet, pacer: Pacer | None, shift: float
) -> float:
    """Sends the loads, at a pace or as fast as possible, and returns the
    position of what follows them. `shift` is added to each position."""
    end = shift
    for load in loads:
        outlet.take(load)
        if pacer is None:
            outlet.push(0, load.frames)
        else:
            first = last = 0
            while last < load.frames and pacer.wait(
                shift + load.positions[last]
            ):
                last = pacer.due(load.positions, last, shift)
                first = outlet.push(first, last)
        outlet.settle()
        end = shift + load.positions[-1]
        if outlet.stopped():
            break
    return end
