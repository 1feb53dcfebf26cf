"""Batches of frames sent at a pace; nothing here knows of Scapy.

Every frame has a position on an axis of its own: packets, bits or seconds of
a recording. Pacer says when a position is due, Outlet sends frames and counts
them, and send() joins the two:

    wait until the next frame is due  ->  send, in one call, all that are due

Time is compared with where the frames should be, never added up from sleeps,
so the rate is exact however late each sleep returns.
"""

import errno
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from .. import PacketBatch, RawSocket
from .._queue import bytes_queued

TICK: Final = 0.0002
"""Seconds. What is due within a tick leaves in one call: a pace has gaps of
this size at high rates, and none of them costs more than a wake-up."""

MOST_DEBT: Final = 1.0
"""Seconds behind the pace that are made up for."""

NAP: Final = 0.05
"""Seconds that a sleep or a wait for the device lasts at most, before the stop
handle is looked at."""

SHORTEST_PAUSE: Final = 50e-6
LONGEST_PAUSE: Final = 5e-3
PATIENCE: Final = 1.0
"""Pauses after ENOBUFS, and how long without a frame until it is an error, as
in RawSocket.sendmmsg_all(), whose longest pause is 10 ms."""

SUSPICION: Final = 0.002
"""Seconds of ENOBUFS until the frame may be the reason, and not the queue."""

LOOK_AHEAD: Final = 4
"""Other frames that are tried then. If none of them passes, the queue is
full. So many frames in a row that have no others to compare them with are
refused on suspicion."""

# What a frame draws by itself (packet(7)): longer than the MTU allows, shorter
# than the link header. The next one may pass.
_REFUSALS: Final = frozenset({errno.EMSGSIZE, errno.EINVAL})


@dataclass(frozen=True)
class Load:
    """A batch ready to send: its bytes in all, and `positions`, rising: of
    each frame, and of what follows the last."""

    batch: PacketBatch
    size: int
    positions: Sequence[float]

    @property
    def frames(self) -> int:
        return len(self.positions) - 1

    def repeated(self, times: int) -> "Load":
        """One load that is this one so many times over."""
        frames = self.batch.tolist()
        batch = PacketBatch(len(frames) * times, max(1, *map(len, frames)))
        *starts, end = self.positions
        positions = [i * end + start for i in range(times) for start in starts]
        for _ in range(times):
            batch.extend(frames)
        return Load(batch, self.size * times, [*positions, times * end])


class Pacer:
    """Says when positions are due, `rate` of them to the second.

    A delay of up to MOST_DEBT, as a busy machine has, is made up for, at no
    more than twice the rate; the rest of a longer one is let go.
    """

    def __init__(self, rate: float, stopped: Callable[[], bool]) -> None:
        self._rate = rate
        self._stopped = stopped
        self._start: float | None = None  # when position 0 was due
        self._earliest = -math.inf  # for the next frames, whatever is due
        self._now = 0.0  # when the last wait() ended

    def wait(self, position: float) -> bool:
        """Sleeps until the position is due; False when stopped before.

        The first position is due at once.
        """
        now = time.monotonic()
        if self._start is None:
            self._start = now - position / self._rate
        due = self._start + position / self._rate
        self._start += max(0.0, now - due - MOST_DEBT)
        due = max(due, self._earliest)
        while now < due:
            if self._stopped():
                return False
            time.sleep(min(due - now, NAP))
            now = time.monotonic()
        self._now = now
        return True

    def due(self, positions: Sequence[float], first: int, shift: float) -> int:
        """Where the frames that may leave now end, after wait() for the frame
        `first`, which is one of them. `shift` is added to positions."""
        assert self._start is not None
        here = positions[first]
        reached = (self._now - self._start) * self._rate - shift
        allowed = here + 2 * TICK * self._rate
        end = len(positions) - 1
        last = bisect_right(positions, min(reached, allowed), first + 1, end)
        spent = (positions[last] - here) / (2 * self._rate)
        self._earliest = self._now + max(spent, TICK)
        return last


class Outlet:
    """Sends frames of batches on a socket, and knows what became of them.

    frames, size    that the kernel took, and their bytes
    retries         calls repeated because the queue was full (ENOBUFS)
    errors          frames that the kernel refused; `refusal` is the first
    """

    def __init__(
        self,
        sock: RawSocket,
        stopped: Callable[[], bool],
        report: Callable[[int], object] | None = None,
    ) -> None:
        sock.settimeout(NAP)
        self._sock = sock
        self.stopped = stopped
        self._report = report
        self.retries = 0
        self.errors = 0
        self.refusal: OSError | None = None
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
        """Counts what the load has become so far.

        By the socket's own count: Ctrl-C comes between a call and anything
        that would be done with its result. May be interrupted and repeated.
        """
        if self._load is None:
            return
        frames, size = self._totals
        sent = self._sock.statistics().packets_sent
        if sent - frames == self._load.frames:
            size += self._load.size
        else:
            # What was refused was passed over.
            lengths = self._load.batch.lengths
            taken = (i for i in count() if i not in self._refused)
            size += sum(lengths[next(taken)] for _ in range(sent - frames))
        self._totals, self._load = (sent, size), None

    def push(self, first: int, last: int) -> int:
        """Sends these frames of the load; those that the kernel refuses are
        skipped. Returns the frame to go on with: an earlier one than `last`
        when stopped, or where only the frames after it can tell whether it is
        refused."""
        assert self._load is not None
        batch = self._load.batch
        send = self._sock.sendmmsg
        while first < last and not self.stopped():
            batch.set_count(last)
            try:
                taken = send(batch, first)
            except TimeoutError:
                continue  # the device is busy: wait on, as a socket does
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
                continue
            self._passed()
            first += taken
            if self._report is not None:
                self._report(taken)
        return first

    def _wait_or_refuse(self, first: int, last: int, error: OSError) -> int:
        """After ENOBUFS, which is said of a full queue and of a frame that
        something on the way out drops (net/core/dev.c:dev_queue_xmit()).
        Returns the frame to go on with; `first` if it is still open.

        A queue that our own frames wait in is full, and tried again. Where
        none of them waits and another frame passes, the first was refused.
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
                self._passed()
                return first + 1
            ours = bytes_queued(self._sock) > 0
            if waited > PATIENCE or (
                not ours and (self._refusing or waited > SUSPICION)
            ):
                passed = self._look_ahead(first, last)
                if passed is not None:
                    return self._refuse_again(first, passed)
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

    def _passed(self) -> None:
        """The kernel has taken a frame without being asked again, or after
        it was full. Nothing is suspected any more."""
        self._refusing = False
        if self._suspicions:
            self._suspicions = LOOK_AHEAD

    def _look_ahead(self, first: int, last: int) -> int | None:
        """The first of the next frames that the kernel takes."""
        for i in range(first + 1, min(first + 1 + LOOK_AHEAD, last)):
            self._refused.add(i - 1)  # until it is known
            if self._try(i) is None:
                return i
        self._refused.difference_update(range(first, last))
        return None

    def _refuse_again(self, first: int, passed: int) -> int:
        """The frames before `passed`, which the kernel has taken, get a last
        chance: the queue may have been full until then."""
        for i in range(first, passed):
            self._refused.discard(i)
            error = self._try(i)
            if error is not None:
                self._refuse(i, error)
        self._suspicions = LOOK_AHEAD
        return passed + 1

    def _try(self, i: int) -> OSError | None:
        """Sends this frame alone; the error, if it is about the frame or the
        queue."""
        assert self._load is not None
        self._load.batch.set_count(i + 1)
        while True:
            try:
                self._sock.sendmmsg(self._load.batch, i)
            except TimeoutError as error:
                if self.stopped():
                    return error
            except OSError as error:
                if error.errno not in {errno.ENOBUFS, *_REFUSALS}:
                    raise
                return error
            else:
                break
        if self._report is not None:
            self._report(1)
        return None

    def _refuse(self, i: int, error: OSError) -> None:
        self._refused.add(i)
        self.errors += 1
        self.refusal = self.refusal or error


def send(
    loads: Iterable[Load], outlet: Outlet, pacer: Pacer | None, shift: float
) -> float:
    """Sends the loads, paced or as fast as they go, and returns the position
    of what follows them. `shift` is added to all positions."""
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
