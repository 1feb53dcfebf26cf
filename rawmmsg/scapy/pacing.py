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
in RawSocket.sendall(), whose longest pause is 10 ms."""

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

    def push(self, first: int, last: int) -> None:
        """Sends these frames of the load; those that the kernel refuses are
        skipped. Ends early when stopped."""
        assert self._load is not None
        batch = self._load.batch
        send = self._sock.sendmmsg
        batch.set_count(last)
        failing_since: float | None = None
        pause = SHORTEST_PAUSE
        while first < last and not self.stopped():
            try:
                taken = send(batch, first)
            except TimeoutError:
                continue  # the device is busy: wait on, as a socket does
            except OSError as error:
                if error.errno in _REFUSALS:
                    self._refused.add(first)
                    self.errors += 1
                    self.refusal = self.refusal or error
                    first += 1
                    continue
                if error.errno != errno.ENOBUFS:
                    raise
                now = time.monotonic()
                failing_since = failing_since or now
                if now - failing_since > PATIENCE:
                    raise
                self.retries += 1
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            first += taken
            failing_since, pause = None, SHORTEST_PAUSE
            if self._report is not None:
                self._report(taken)


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
            first = 0
            while first < load.frames and pacer.wait(
                shift + load.positions[first]
            ):
                last = pacer.due(load.positions, first, shift)
                outlet.push(first, last)
                first = last
        outlet.settle()
        end = shift + load.positions[-1]
        if outlet.stopped():
            break
    return end
