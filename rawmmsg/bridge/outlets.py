"""How a batch leaves through a port: resumed wherever the queue was full."""

from typing import Protocol

from .._rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

__all__ = ["Direct", "Outlet", "Segmented", "outlet_for"]

# Segments to send with one system call: a super-frame has some 45 of them.
_SEGMENTS = 64


class Outlet(Protocol):
    """Sends what is loaded. `gained` counts the frames that were made on the
    way, beyond those loaded."""

    gained: int

    def load(self, batch: PacketBatch) -> None:
        """Begins with another batch, which is to stay as it is until it has
        left."""

    def send(self) -> bool:
        """Makes one system call: whether all is gone. What it raises is about
        the frame that comes next."""

    def skip(self) -> None:
        """Passes over the frame that comes next."""

    def abandon(self) -> int:
        """Passes over all that is left, and tells how many frames."""


class Direct:
    """Frames leave as they came, with their offload headers."""

    def __init__(self, sock: RawSocket) -> None:
        self.gained = 0
        self._sendmmsg = sock.sendmmsg
        self._batch = PacketBatch(1, 1)
        self._at = self._count = 0

    def load(self, batch: PacketBatch) -> None:
        self._batch = batch
        self._at = 0
        self._count = len(batch)

    def send(self) -> bool:
        self._at += self._sendmmsg(self._batch, self._at)
        return self._at == self._count

    def skip(self) -> None:
        self._at += 1

    def abandon(self) -> int:
        left = self._count - self._at
        self._at = self._count
        return left


class Segmented:
    """For a peer without offloads: checksums complete, super-frames cut, in
    C."""

    def __init__(self, sock: RawSocket) -> None:
        self.gained = 0
        self._sendmmsg = sock.sendmmsg
        self._target = PacketBatch(_SEGMENTS, SUPER_FRAME)
        self._batch = self._target
        self._at = self._count = 0
        self._next = 0, 0  # frame of the batch, segment of the frame

    def load(self, batch: PacketBatch) -> None:
        self._batch = batch
        self._count = len(batch)
        self._next = 0, 0
        self._target.clear()
        self._at = 0

    def send(self) -> bool:
        if self._at == len(self._target):
            self._refill()
        self._at += self._sendmmsg(self._target, self._at)
        return self._at == len(self._target) and self._next[0] == self._count

    def _refill(self) -> None:
        frame, segment = self._next
        self._at = 0  # of a target that is empty where this raises
        self._next = self._batch.segment_into(self._target, frame, segment)
        self.gained += len(self._target) - (self._next[0] - frame)

    def skip(self) -> None:
        if self._at < len(self._target):
            self._at += 1
        else:
            self._next = self._next[0] + 1, 0

    def abandon(self) -> int:
        left = len(self._target) - self._at + self._count - self._next[0]
        self._at = len(self._target)
        self._next = self._count, 0
        return left


def outlet_for(source: RawSocket, sink: RawSocket) -> Outlet:
    """What has offload headers, and none to go to, is segmented."""
    if source.vnet_hdr and not sink.vnet_hdr:
        return Segmented(sink)
    return Direct(sink)
