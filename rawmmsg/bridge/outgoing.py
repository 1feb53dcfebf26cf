"""The frames that are to be sent, and which of them is next.

A send can stop at any frame, and continues there later.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from .._rawmmsg import PacketBatch, RawSocket, _GuestRings
from ..constants import SUPER_FRAME
from .drops import Mark, mark
from .ports import Port

__all__ = ["FromRing", "Outgoing", "OutgoingBatches", "Segmented", "Unchanged"]

# Segments to send with one system call: a super-frame has about 45 of them.
_SEGMENTS = 64


class Outgoing(Protocol):
    """The frames that are being sent.

    A frame can be passed over, to see whether the kernel takes a later one.
    """

    gained: int
    """How many more frames there are after segmentation than before."""
    joined: int
    """How many more frames were sent than the socket has counted, because they
    were merged into super-frames."""
    passed: int
    """How many frames are passed over. Here a super-frame is one."""

    def is_end(self) -> bool:
        """Returns whether there is no next frame."""

    def send(self) -> bool:
        """Makes one system call and returns is_end(). An exception is about
        the next frame."""

    def mark(self) -> int:
        """Returns the gso_types entry of the next frame."""

    def skip(self) -> int:
        """Leaves the next frame out. Returns how many received frames that
        are: more than one if they were merged."""

    def pass_over(self) -> None:
        """Leaves the next frame out for now."""

    def go_back(self) -> None:
        """Makes the first frame that was passed over the next one."""

    def drop_passed(self) -> int:
        """Leaves out the frames that were passed over. Returns how many
        received frames that are."""

    def abandon(self) -> int:
        """Leaves out all frames. Returns how many received frames that
        are."""

    def unmerge(self) -> bool:
        """Replaces the next frame by the frames that it was made of, if the
        kernel does not know its kind. The next frame may then be another one.
        Returns whether it has replaced it."""


class OutgoingBatches(Outgoing, Protocol):
    """The frames of batches."""

    def load(self, batch: PacketBatch) -> None:
        """Continues with this batch, which must not change until it is sent.
        There must be no next frame, but frames may be passed over."""

    def needs(self, batch: PacketBatch) -> bool:
        """Returns whether frames of this batch are still to be sent."""


class Unchanged:
    """Sends frames as they were received, with their offload headers."""

    def __init__(self, sink: Port) -> None:
        self.gained = 0
        self.joined = 0
        self.passed = 0
        self._frames_passed = 0
        self._sendmmsg = sink.sendmmsg
        self._batch = PacketBatch(1, 1)
        self._at = self._count = 0
        # The batch behind this one, after go_back() from it.
        self._more: PacketBatch | None = None
        # The first frame that was passed over.
        self._first = self._batch, 0

    def load(self, batch: PacketBatch) -> None:
        self._batch = batch
        self._at = 0
        self._count = len(batch)

    _continue_with = load  # a subclass may change frames when they are loaded

    def needs(self, batch: PacketBatch) -> bool:
        has_passed = self.passed > 0 and batch is self._first[0]
        return batch is self._batch or batch is self._more or has_passed

    def is_end(self) -> bool:
        return self._at == self._count

    def send(self) -> bool:
        self._at += self._sendmmsg(self._batch, self._at)
        return self._at == self._count and self._is_last_batch()

    def _is_last_batch(self) -> bool:
        """If this is not the last batch, continues with the next."""
        if self._more is None:
            return True
        self._continue_with(self._more)
        self._more = None
        return False

    def _frames_in(self, i: int) -> int:
        """Returns how many received frames the frame at index i is made
        of."""
        return 1

    def mark(self) -> int:
        types = getattr(self._batch, "gso_types", None)
        return 0 if types is None else int(types[self._at])

    def skip(self) -> int:
        frames = self._frames_in(self._at)
        if self.passed:
            # go_back() can make it the next one again.
            mark(self._batch, [(self._at, Mark.DROPPED)])
        self._move_on()
        return frames

    def pass_over(self) -> None:
        if not self.passed:
            self._first = self._batch, self._at
        self.passed += 1
        self._frames_passed += self._frames_in(self._at)
        self._move_on()

    def _move_on(self) -> None:
        self._at += 1
        if self._at == self._count:
            self._is_last_batch()

    def go_back(self) -> None:
        first, at = self._first
        if first is not self._batch:
            self._more = self._batch
        self._continue_with(first)
        self._at = at
        self.passed = self._frames_passed = 0

    def drop_passed(self) -> int:
        dropped = self._frames_passed
        self.passed = self._frames_passed = 0
        return dropped

    def abandon(self) -> int:
        if self.passed:
            self.go_back()
        left = 0
        while not self.is_end():
            if self.mark() != Mark.DROPPED:
                left += self._frames_in(self._at)
            self._move_on()
        return left

    def unmerge(self) -> bool:
        return False


class _InOrder(ABC):
    """Frames of which only the next one can be passed over, and then stays the
    next one: those behind it may not have been made yet, and a ring is used in
    order."""

    def __init__(self) -> None:
        self.gained = 0
        self.joined = 0
        self.passed = 0

    @abstractmethod
    def skip(self) -> int: ...

    def pass_over(self) -> None:
        self.passed = 1

    def go_back(self) -> None:
        self.passed = 0

    def drop_passed(self) -> int:
        dropped, self.passed = self.passed, 0
        if dropped:
            self.skip()
        return dropped

    def unmerge(self) -> bool:
        return False


class Segmented(_InOrder):
    """Cuts super-frames into segments and completes checksums, in C, for a
    peer without offloads."""

    def __init__(self, sink: Port) -> None:
        super().__init__()
        self._sendmmsg = sink.sendmmsg
        self._segments = PacketBatch(_SEGMENTS, SUPER_FRAME)
        self._batch = self._segments
        self._at = self._count = 0
        self._next = 0, 0  # frame of the batch, segment of the frame

    def load(self, batch: PacketBatch) -> None:
        self._batch = batch
        self._count = len(batch)
        self._next = 0, 0
        self._segments.clear()
        self._at = 0

    def needs(self, batch: PacketBatch) -> bool:
        return batch is self._batch

    def send(self) -> bool:
        if self._at == len(self._segments):
            self._refill()
        self._at += self._sendmmsg(self._segments, self._at)
        return self.is_end()

    def is_end(self) -> bool:
        return self._at == len(self._segments) and self._next[0] == self._count

    def _refill(self) -> None:
        frame, segment = self._next
        self._at = 0  # if segment_into() raises, there are no segments
        self._next = self._batch.segment_into(self._segments, frame, segment)
        self.gained += len(self._segments) - (self._next[0] - frame)

    def mark(self) -> int:
        types = getattr(self._batch, "gso_types", None)
        return 0 if types is None else int(types[self._next[0]])

    def skip(self) -> int:
        if self._at < len(self._segments):
            self._at += 1
        else:
            self._next = self._next[0] + 1, 0
        return 1

    def abandon(self) -> int:
        self.passed = 0
        left = len(self._segments) - self._at + self._count - self._next[0]
        self._at = len(self._segments)
        self._next = self._count, 0
        return left


class FromRing(_InOrder):
    """Frames in the memory of a guest."""

    def __init__(self, rings: _GuestRings, sock: RawSocket) -> None:
        super().__init__()
        self._rings = rings
        self._sock = sock

    def is_end(self) -> bool:
        return not self._rings.pending

    def send(self) -> bool:
        self._rings.send(self._sock)
        return not self._rings.pending

    def mark(self) -> int:
        return 0

    def skip(self) -> int:
        self._rings.refuse()
        return 1

    def abandon(self) -> int:
        self.passed = 0
        left = self._rings.pending
        for _ in range(left):
            self._rings.refuse()
        return left
