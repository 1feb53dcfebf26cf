"""One way through the bridge."""

import errno
import math
from dataclasses import dataclass, fields
from time import monotonic

from .._rawmmsg import SUPER_FRAME, TRUNCATED, PacketBatch
from .outlets import outlet_for
from .port import Port
from .slots import Slot, Stacks

__all__ = ["Direction", "Dropped"]

# A frame whose output queue is full is tried again for so many seconds, and so
# many times, without progress. Then the queue is taken for blocked: until it
# has room again, what comes is dropped at once, as a switch does.
PATIENCE = 0.05
ATTEMPTS = 100

# Where nothing tells that it is worth trying again: the queue of an interface
# that is full (ENOBUFS), a socket that is readable without a packet.
PAUSE = 0.001

# An Ethernet header. What is shorter is no frame, and where it is empty, some
# take it for the end of a connection (QEMU).
_SHORTEST = 14

# There is no such type (linux/virtio_net.h), so no socket sends it.
_NO_GSO_TYPE = 0xFF

# Up to so many bytes a frame, on average, a batch of many fits in the cache.
_SMALL = 9216


@dataclass(slots=True)
class Dropped:
    """Frames that were received and not sent, by reason."""

    queue_full: int = 0
    too_long: int = 0
    link_down: int = 0
    refused: int = 0
    malformed: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


class Direction:
    """Moves frames from `source` to `sink`, without ever waiting itself.

    The other direction may have the same stacks of batches: a batch is on its
    stack unless it holds frames that are still to be sent.

    What the loop must know:

    accepts     a frame at the source can be taken
    needs_room  room at the sink (POLLOUT) is waited for
    due         when to call resume() at the latest
    """

    def __init__(self, source: Port, sink: Port, stacks: Stacks) -> None:
        self.source = source
        self.sink = sink
        self.dropped = Dropped()
        self.bytes_received = 0
        self.accepts = True
        self.needs_room = False
        self.due = math.inf
        self._recvmmsg_into = source.sock.recvmmsg_into
        self._gets_datagrams = not source.is_interface
        self._outlet = outlet_for(source.sock, sink.sock)
        self._few, self._many = stacks
        self._few_are = self._few[-1][0].capacity
        self._stack = self._few
        self._held: Slot | None = None
        self._held_from = self._stack
        self._attempts = 0  # that failed in a row because the queue was full
        self._give_up_at = math.inf

    # The sockets count: one receives for this direction alone, the other
    # sends for it alone.

    @property
    def received(self) -> int:
        return self.source.sock.statistics().packets_received

    @property
    def batches(self) -> int:
        return self.source.sock.statistics().batches_received

    @property
    def kernel_drops(self) -> int | None:
        """Dropped before they were received; None where nothing counts."""
        dropped = self.source.sock.statistics().packets_dropped
        return None if dropped is None else dropped + self.source.lost

    @property
    def sent(self) -> int:
        return self.sink.sock.statistics().packets_sent

    @property
    def gained(self) -> int:
        """Frames that segmentation has made beyond those received."""
        return self._outlet.gained

    def forward(self) -> bool:
        """Takes what waits at the source and sends it. Whether what the loop
        must know has changed."""
        stack = self._stack
        batch, lengths = stack[-1]
        try:
            count = self._recvmmsg_into(batch)
        except OSError as error:
            return self._receive_failed(error)
        sizes = lengths[:count]
        size = sum(sizes)
        self.bytes_received += size
        if size >= SUPER_FRAME and SUPER_FRAME in sizes:
            _refuse_truncated(batch)
        if self._gets_datagrams and min(sizes) < _SHORTEST:
            _refuse_short(batch)
        if size > count * _SMALL:
            self._stack = self._few
        elif count == self._few_are:
            self._stack = self._many
        self._outlet.load(batch)
        if self._push():
            return False
        self._held = stack.pop()
        self._held_from = stack
        self.accepts = False
        return True

    def resume(self) -> bool:
        """Goes on after a wait. Whether what the loop must know has
        changed."""
        self.due = math.inf
        self.needs_room = False
        if self._held is not None:
            if not self._push():
                return True
            self._held_from.append(self._held)
            self._held = None
        self.accepts = True
        return True

    def finish(self) -> None:
        """Gives up what is still to be sent."""
        if self._held is not None:
            self.dropped.queue_full += self._outlet.abandon()
            self._held = None

    def _receive_failed(self, error: OSError) -> bool:
        if self.source.is_interface:
            if error.errno == errno.ENETDOWN:
                return False  # said once; frames come when the link is up
            if error.errno == errno.EINVAL:
                self.source.lost += 1
                return False
            if error.errno != errno.EAGAIN:
                raise error
        # Nothing, although the poll said so; or what has become of a datagram
        # that was sent (ECONNREFUSED).
        self.accepts = False
        self.due = monotonic() + PAUSE
        return True

    def _push(self) -> bool:
        """Sends what is loaded: whether it is all sent or dropped."""
        outlet = self._outlet
        doubted = 0  # the error that the frame which comes next has had
        while True:
            try:
                done = outlet.send()
            except ValueError:
                self.dropped.malformed += 1
                outlet.skip()
            except OSError as error:
                number = error.errno or 0
                if doubted == errno.EINVAL and number != doubted:
                    self.sink.lost += 1
                if number in (errno.EAGAIN, errno.ENOBUFS):
                    return not self._wait_for_room(number)
                if not doubted:
                    # A socket has one error pending, for whichever call comes
                    # next: it may be about what it received (sock_error()).
                    doubted = number
                    continue
                self._drop(error)
            else:
                if doubted == errno.EINVAL:
                    self.sink.lost += 1
                self._attempts = 0
                if done:
                    return True
            doubted = 0

    def _wait_for_room(self, number: int) -> bool:
        """Whether it is worth it; all that is left is dropped otherwise."""
        now = monotonic()
        self._attempts += 1
        if self._attempts == 1:
            self._give_up_at = now + PATIENCE
        if self._attempts > ATTEMPTS or now >= self._give_up_at:
            self.dropped.queue_full += self._outlet.abandon()
            return False
        self.due = self._give_up_at
        self.needs_room = number == errno.EAGAIN
        if not self.needs_room:
            self.due = min(self.due, now + PAUSE)
        return True

    def _drop(self, error: OSError) -> None:
        """Drops the frame that the error is about, and no other: what the
        kernel says of one need not be true of the next."""
        dropped = self.dropped
        if error.errno == errno.ENODEV:
            dropped.link_down += self._outlet.abandon()
            raise error
        if error.errno == errno.EMSGSIZE:
            dropped.too_long += 1
        elif error.errno == errno.ENETDOWN:
            dropped.link_down += 1
        else:
            dropped.refused += 1
        self._outlet.skip()


def _refuse_truncated(batch: PacketBatch) -> None:
    """Frames that did not fit (an administrator can allow longer ones: ip
    link, gso_max_size) are not sent on cut."""
    flags = batch.flags
    assert flags is not None
    _refuse(batch, [i for i in range(len(batch)) if flags[i] & TRUNCATED])


def _refuse_short(batch: PacketBatch) -> None:
    lengths = batch.lengths
    _refuse(batch, [i for i in range(len(batch)) if lengths[i] < _SHORTEST])


def _refuse(batch: PacketBatch, indexes: list[int]) -> None:
    """Has each of these frames be an error when it is to be sent."""
    count = len(batch)
    if indexes and batch.gso_types is None:
        batch.clear()  # zeroes the headers
        batch.set_count(count)
    for i in indexes:
        assert batch.gso_types is not None
        batch.gso_types[i] = _NO_GSO_TYPE
