"""Frames from the thread that iterates over a generator to the one that sends.

A generator may wait before it yields again, for an answer to what it has
yielded. So another thread sends: it takes what is there as soon as it has sent
what was there before. A fast generator is not held up: meanwhile it goes on,
until `capacity` frames wait.
"""

import threading
from collections.abc import Callable
from typing import Final

MOST_BYTES: Final = 1 << 20
"""Once so many wait, no further frame is accepted."""

_NAP: Final = 0.05
"""Seconds until `stopped` is looked at again."""


class Relay:
    """At most `capacity` frames, each with the time that goes with it."""

    def __init__(self, capacity: int, stopped: Callable[[], bool]) -> None:
        self._capacity = capacity
        self._stopped = stopped
        # `with` of a Lock, and not of a Condition: Ctrl-C cannot come between
        # its being taken and the block.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._frames: list[bytes] = []
        self._times: list[float] = []
        self._size = 0
        self._closed = False

    def put(self, frame: bytes, when: float) -> bool:
        """Waits for room. Returns False when nobody takes it any more."""
        with self._lock:
            while self._is_full():
                if self._closed or self._stopped():
                    return False
                self._changed.wait(_NAP)
            self._frames.append(frame)
            self._times.append(when)
            self._size += len(frame)
            self._changed.notify()
            return not self._closed

    def take(self) -> tuple[list[bytes], list[float]]:
        """Waits for a frame, and takes all. Returns none when no more will
        come."""
        with self._lock:
            while not (self._frames or self._closed or self._stopped()):
                self._changed.wait(_NAP)
            taken = self._frames, self._times
            self._frames, self._times, self._size = [], [], 0
            self._changed.notify()
            return taken

    def close(self) -> None:
        """Either side has come to its end. What waits can still be taken."""
        with self._lock:
            self._closed = True
            self._changed.notify()

    def _is_full(self) -> bool:
        return len(self._frames) >= self._capacity or self._size >= MOST_BYTES
