"""How a batch leaves through a port: resumed wherever the queue was full."""

from typing import Protocol

from .._rawmmsg import PacketBatch
from ..constants import SUPER_FRAME
from .drops import Mark, mark
from .ports import Port

__all__ = ["Direct", "Outlet", "Segmented", "outlet_for"]

# Segments to send with one system call: a super-frame has some 45 of them.
_SEGMENTS = 64


class Outlet(Protocol):
    """Sends what is loaded.

    Frames can be passed over for now, to see whether the kernel takes a later
    one. `passed` counts them.
    """

    gained: int
    """Frames that were made on the way, beyond those loaded."""
    passed: int
    batch: PacketBatch
    """Where the frame that comes next is."""

    def load(self, batch: PacketBatch) -> None:
        """Goes on with another batch, which is to stay as it is until it has
        left. Nothing comes next, but frames may have been passed over."""

    def is_end(self) -> bool:
        """Whether no frame comes next."""

    def send(self) -> bool:
        """Makes one system call. Returns what is_end() would; what it raises
        is about the frame that comes next."""

    def mark(self) -> int:
        """The gso_types entry of the frame that comes next."""

    def skip(self) -> None:
        """Leaves out the frame that comes next."""

    def pass_over(self) -> None:
        """Leaves out the frame that comes next, for now."""

    def go_back(self) -> None:
        """Returns to the first frame that was passed over."""

    def give_up_passed(self) -> int:
        """Leaves out the frames that were passed over. Returns how many."""

    def abandon(self) -> int:
        """Leaves out all that is left. Returns how many frames."""


class Direct:
    """Frames leave as they came, with their offload headers."""

    def __init__(self, sink: Port) -> None:
        self.gained = 0
        self.passed = 0
        self._sendmmsg = sink.sendmmsg
        self.batch = PacketBatch(1, 1)
        self._at = self._count = 0
        self._more: PacketBatch | None = None
        # Where the first frame that was passed over is.
        self._first = self.batch, 0

    def load(self, batch: PacketBatch) -> None:
        self.batch = batch
        self._at = 0
        self._count = len(batch)

    def is_end(self) -> bool:
        return self._at == self._count

    def send(self) -> bool:
        self._at += self._sendmmsg(self.batch, self._at)
        return self._at == self._count and self._is_last_batch()

    def _is_last_batch(self) -> bool:
        """If it is not, goes on with the other one."""
        if self._more is None:
            return True
        self.load(self._more)
        self._more = None
        return False

    def mark(self) -> int:
        types = getattr(self.batch, "gso_types", None)
        return 0 if types is None else int(types[self._at])

    def skip(self) -> None:
        if self.passed:
            # It may come next again.
            mark(self.batch, [(self._at, Mark.DROPPED)])
        self._move_on()

    def pass_over(self) -> None:
        if not self.passed:
            self._first = self.batch, self._at
        self.passed += 1
        self._move_on()

    def _move_on(self) -> None:
        self._at += 1
        if self._at == self._count:
            self._is_last_batch()

    def go_back(self) -> None:
        first, at = self._first
        if first is not self.batch:
            self._more = self.batch
        self.load(first)
        self._at = at
        self.passed = 0

    def give_up_passed(self) -> int:
        given_up, self.passed = self.passed, 0
        return given_up

    def abandon(self) -> int:
        if self.passed:
            self.go_back()
        left = 0
        while not self.is_end():
            left += self.mark() != Mark.DROPPED
            self._move_on()
        return left


class Segmented:
    """For a peer without offloads: checksums complete, super-frames cut, in
    C."""

    def __init__(self, sink: Port) -> None:
        self.gained = 0
        self.passed = 0  # 1: the frame that comes next
        self._sendmmsg = sink.sendmmsg
        self._target = PacketBatch(_SEGMENTS, SUPER_FRAME)
        self.batch = self._target
        self._at = self._count = 0
        self._next = 0, 0  # frame of the batch, segment of the frame

    def load(self, batch: PacketBatch) -> None:
        self.batch = batch
        self._count = len(batch)
        self._next = 0, 0
        self._target.clear()
        self._at = 0

    def send(self) -> bool:
        if self._at == len(self._target):
            self._refill()
        self._at += self._sendmmsg(self._target, self._at)
        return self.is_end()

    def is_end(self) -> bool:
        return self._at == len(self._target) and self._next[0] == self._count

    def _refill(self) -> None:
        frame, segment = self._next
        self._at = 0  # of a target that is empty where this raises
        self._next = self.batch.segment_into(self._target, frame, segment)
        self.gained += len(self._target) - (self._next[0] - frame)

    def mark(self) -> int:
        types = getattr(self.batch, "gso_types", None)
        return 0 if types is None else int(types[self._next[0]])

    def skip(self) -> None:
        if self._at < len(self._target):
            self._at += 1
        else:
            self._next = self._next[0] + 1, 0

    def pass_over(self) -> None:
        # The next segments may not have been made yet: it stays the next.
        self.passed = 1

    def go_back(self) -> None:
        self.passed = 0

    def give_up_passed(self) -> int:
        given_up, self.passed = self.passed, 0
        if given_up:
            self.skip()
        return given_up

    def abandon(self) -> int:
        self.passed = 0
        left = len(self._target) - self._at + self._count - self._next[0]
        self._at = len(self._target)
        self._next = self._count, 0
        return left


def outlet_for(source: Port, sink: Port) -> Outlet:
    """What has offload headers, and none to go to, is segmented."""
    if source.sock.vnet_hdr and not sink.sock.vnet_hdr:
        return Segmented(sink)
    return Direct(sink)
