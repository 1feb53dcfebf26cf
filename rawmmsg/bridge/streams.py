"""Directions that begin at a stream socket.

One system call may receive the frames of several batches. poll(2) does not
tell of those that are left, so a direction goes on until there are none.
"""

import math

from .batched import Batched
from .guests import BatchedToGuest
from .ports import StreamSocket

__all__ = ["FromStream", "StreamToGuest"]

# How many batches are sent before others get their turn.
_BATCHES = 4


class FromStream(Batched):
    """Sends frames that a stream socket has received."""

    source: StreamSocket

    def forward(self) -> bool:
        self._receive_again_at = math.inf
        for _ in range(_BATCHES):
            if super().forward():
                return True
            if not self.source.has_frames:
                return False
        self._receive_again_at = -math.inf
        return True

    def _receive_failed(self, error: OSError) -> bool:
        return True  # the connection may have been closed

    def resume(self) -> None:
        super().resume()
        if self.accepts and self.source.has_frames:
            self.forward()


class StreamToGuest(FromStream, BatchedToGuest):
    """Copies frames that a stream socket has received into the memory of a
    guest."""
