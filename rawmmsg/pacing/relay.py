"""Frames from the thread that iterates over a generator to the one that sends.

A generator may wait before it yields again, for an answer to what it has
yielded. So another thread sends: it takes what is there as soon as it has sent
what was there before. A fast generator is not held up: meanwhile it goes on,
until `capacity` frames wait.

No lock of Python's is held at any time. Ctrl-C can raise KeyboardInterrupt
between any two steps of threading.Condition, which is written in Python: its
lock then stays locked, or has been released where the caller still counts on
it. Here each field is changed by one thread alone, or by one call into C.
"""

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

MOST_BYTES: Final = 1 << 20
"""Once so many wait, no further frame is accepted."""

_NAP: Final = 0.05
"""Seconds until `stopped` is looked at again."""

_Signal: TypeAlias = "SimpleQueue[None]"  # empty, or None to end one wait


class Relay:
    """At most `capacity` frames, each with the time that goes with it.

    One thread calls put(), another take(); both may call close().
    """

    def __init__(self, capacity: int, stopped: Callable[[], bool]) -> None:
        self._capacity = capacity
        self._stopped = stopped
        self._frames: deque[tuple[bytes, float]] = deque()
        self._put = 0  # bytes so far; changed by put() alone
        self._taken = 0  # bytes so far; changed by take() alone
        self._closed = False
        self._more: _Signal = SimpleQueue()  # ends the wait of take()
        self._room: _Signal = SimpleQueue()  # ends the wait of put()

    def put(self, frame: bytes, when: float) -> bool:
        """Waits for room. Returns False when nobody takes it any more."""
        # Each frame comes by here: no call that is not needed.
        while (
            len(self._frames) >= self._capacity
            or self._put - self._taken >= MOST_BYTES
        ):
            if self._closed or self._stopped():
                return False
            _wait(self._room)
        if self._closed:
            return False
        self._put += len(frame)
        self._frames.append((frame, when))
        if self._more.empty():
            self._more.put(None)
        return True

    def take(self) -> tuple[list[bytes], list[float]]:
        """Waits for a frame, and takes all. Returns none when no more will
        come."""
        while True:
            # Asked first: what was put before the end is then seen below.
            ended = self._closed or self._stopped()
            if self._frames or ended:
                break
            _wait(self._more)
        taken = [self._frames.popleft() for _ in range(len(self._frames))]
        frames = [frame for frame, _ in taken]
        self._taken += sum(map(len, frames))
        _signal(self._room)
        return frames, [when for _, when in taken]

    def close(self) -> None:
        """Either side has come to its end. What waits can still be taken."""
        self._closed = True
        _signal(self._more)
        _signal(self._room)


def _signal(signal: _Signal) -> None:
    if signal.empty():  # one is enough: the other side looks at all there is
        signal.put(None)


def _wait(signal: _Signal) -> None:
    try:
        signal.get(timeout=_NAP)
    except Empty:
        return
