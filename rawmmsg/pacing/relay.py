"""Passes frames from the thread that iterates over a generator to the thread
that sends them.

A generator may wait, before it yields again, for an answer to what it has
yielded. So another thread sends: as soon as it has sent some frames, it takes
all that have come meanwhile. A fast generator does not wait for it, until
`capacity` frames are waiting.

No Python lock is ever held. Ctrl-C can raise KeyboardInterrupt between any two
steps of threading.Condition, which is written in Python: its lock then stays
locked, or is released although the caller still counts on it. Here only one
thread, or one call into C, changes each field.
"""

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeAlias

from .loads import MOST_BYTES
from .pace import NAP

_Signal: TypeAlias = "SimpleQueue[None]"  # empty, or None to end one wait


class Relay:
    """Holds at most `capacity` frames, each with its time.

    One thread calls put(), another calls take(), and both may call close().
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
        """Waits for room. Returns False if no thread will take the frame."""
        # This runs once for each frame, so it makes no needless call.
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
        """Waits for a frame, and takes all. Returns empty lists if no more
        will come."""
        while True:
            # Checked before the frames, so that no frame put before the end
            # is missed.
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
        """Ends both sides. Frames that wait can still be taken."""
        self._closed = True
        _signal(self._more)
        _signal(self._room)


def _signal(signal: _Signal) -> None:
    if signal.empty():  # one is enough: the other side checks everything
        signal.put(None)


def _wait(signal: _Signal) -> None:
    try:
        signal.get(timeout=NAP)
    except Empty:
        return
