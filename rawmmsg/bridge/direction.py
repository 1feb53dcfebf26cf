"""One direction of the bridge."""

import errno
import math
from time import monotonic

from .._queue import bytes_queued
from .._rawmmsg import PacketBatch
from ..constants import SUPER_FRAME
from .batches import Slot, Stacks
from .drops import (
    SHORTEST,
    Dropped,
    Mark,
    Marked,
    foreign,
    mark,
    short,
    truncated,
)
from .outgoing import Direct, outlet_for
from .ports import Port, PortClosed

__all__ = ["Direction", "Dropped"]

# A frame whose output queue is full is tried again for so many seconds, and so
# many times, without progress. Then the queue is taken for blocked: until it
# has room again, what comes is dropped at once, as a switch does.
PATIENCE = 0.05
ATTEMPTS = 100

# Where nothing tells that it is worth trying again: the queue of an interface
# that is full (ENOBUFS), a socket that is readable without a packet.
PAUSE = 0.001

# ENOBUFS can also be about one frame: it is too long for the far end of a veth
# pair, or a filter of this machine drops it on its way out (tc, nftables).
# Such a frame is refused each time. After so many pauses we therefore try the
# frames behind it, up to so many frames in all. If the kernel takes one of
# them, it has refused those before; if it takes none, the queue is full.
PAUSES = 2
LOOK_AHEAD = 4

# For so many seconds after that, no pause comes first and every frame at hand
# is tried, unless frames of ours are in the queue: a filter that drops one
# frame usually drops many.
REFUSING = 0.5

# Up to so many bytes a frame, on average, a batch of many fits in the cache.
_SMALL = 9216


class Direction:
    """Moves frames from `source` to `sink`, without ever waiting itself.

    The other direction may have the same stacks of batches: a batch is on its
    stack unless it holds frames that are still to be sent.

    What the loop must know:

    accepts     a frame at the source can be taken
    room        descriptor that POLLOUT is waited for on; -1: none
    due         when to call resume() at the latest
    """

    def __init__(self, source: Port, sink: Port, stacks: Stacks) -> None:
        self.source = source
        self.sink = sink
        self.dropped = Dropped()
        self.bytes_received = 0
        self.accepts = True
        self.room = -1
        self.due = math.inf
        self._recvmmsg_into = source.sock.recvmmsg_into
        self._strangers = 0
        self._has_end = source.has_end
        self._ends = 0  # empty messages that were received
        self._gets_datagrams = not source.is_interface
        self._outlet = outlet_for(source, sink)
        self._few, self._many = stacks
        self._few_are = self._few[-1][0].capacity
        self._stack = self._few  # the next batch is from
        self._used = self._few  # the last one is from
        # Batches that are not on their stacks: the one that is being sent, if
        # that has to wait, and one more, received meanwhile to look ahead.
        self._held: list[tuple[list[Slot], Slot]] = []
        self._attempts = 0  # pauses since the kernel took a frame
        self._give_up_at = math.inf
        self._blocked = False  # the last wait was given up
        self._blocked_as = "queue_full"
        self._refusing_until = -math.inf

    # The sockets count: one receives for this direction alone, the other
    # sends for it alone.

    @property
    def received(self) -> int:
        return self.source.sock.statistics().packets_received - self._ends

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
        slot = stack[-1]
        try:
            self._receive(slot)
        except OSError as error:
            return self._receive_failed(error)
        self._outlet.load(slot[0])
        self._used = stack
        if self._push():
            if self._held or self._ends:
                self._release()
            return False
        if not self._held:
            self._hold()
        self.accepts = False
        return True

    def resume(self) -> bool:
        """Goes on after a wait. Whether what the loop must know has
        changed."""
        self.due = math.inf
        self.room = -1
        if self._held:
            if not self._push():
                return True
            self._release()
        self.accepts = True
        return True

    def finish(self) -> None:
        """Gives up what is still to be sent."""
        if self._held:
            self.dropped.queue_full += self._outlet.abandon()
            self._held.clear()

    def _hold(self) -> None:
        self._held.append((self._used, self._used.pop()))

    def _release(self) -> None:
        """Everything that was received is sent or dropped."""
        while self._held:
            stack, slot = self._held.pop()
            stack.append(slot)
        if self._ends:
            raise PortClosed(f"{self.source.name}: the peer has closed")

    def _release_first(self) -> None:
        """Of two, if nothing of it is left."""
        stack, slot = self._held[0]
        if self._outlet.batch is not slot[0]:
            stack.append(slot)
            del self._held[0]

    def _receive(self, slot: Slot) -> None:
        batch, lengths = slot
        count = self._recvmmsg_into(batch)
        sizes = lengths[:count]
        if self._has_end and 0 in sizes:
            sizes = self._cut_at_end(batch, sizes)
        size = sum(sizes)
        self.bytes_received += size
        marked: list[Marked] = []
        if size >= SUPER_FRAME and SUPER_FRAME in sizes:
            marked += truncated(batch)
        if self._gets_datagrams:
            if min(sizes, default=SHORTEST) < SHORTEST:
                marked += short(batch)
            strangers = self.source.sock.strangers
            if strangers != self._strangers:
                self._strangers = strangers
                marked += foreign(batch, self.source.is_peer)
        if marked:
            mark(batch, marked)
        if size > count * _SMALL:
            self._stack = self._few
        elif count == self._few_are:
            self._stack = self._many

    def _cut_at_end(
        self, batch: PacketBatch, sizes: "memoryview[int]"
    ) -> "memoryview[int]":
        """Keeps the frames before the end of the connection."""
        count = sizes.tolist().index(0)
        self._ends += len(sizes) - count
        batch.set_count(count)
        return sizes[:count]

    def _receive_failed(self, error: OSError) -> bool:
        if self._is_said_once(error):
            return False
        # Nothing, although the poll said so; or what has become of a datagram
        # that was sent (ECONNREFUSED).
        self.accepts = False
        self.due = monotonic() + PAUSE
        return True

    def _is_said_once(self, error: OSError) -> bool:
        """Whether the next call can receive. Raises what ends the bridge."""
        if not self.source.is_interface:
            return False
        if error.errno == errno.EINVAL:
            self.source.lost += 1
        elif error.errno == errno.EAGAIN:
            return False
        elif error.errno != errno.ENETDOWN:  # frames come when it is up
            raise error
        return True

    def _push(self) -> bool:
        """Sends what is loaded. Returns whether it is all sent or dropped."""
        outlet = self._outlet
        is_second_try = False
        while True:
            try:
                done = outlet.send()
            except ValueError:
                self._drop_marked()
                done = outlet.is_end()
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return not self._wait_for_room()
                if error.errno == errno.ENOBUFS:
                    if not is_second_try and self._is_refusing():
                        # The queue may have been full, and be empty by now.
                        is_second_try = True
                        continue
                    outlet.pass_over()
                else:
                    self._drop(error)
                done = outlet.is_end()
            else:
                if self._attempts or outlet.passed:
                    self._kernel_has_taken_one()
            is_second_try = False
            if outlet.passed and not self._can_look_ahead(done):
                if self._wait_for_queue():
                    return False
                done = outlet.is_end()
            if done and not outlet.passed:
                return True

    def _kernel_has_taken_one(self) -> None:
        """The frames that were passed over were refused for their own
        sake."""
        refused = self._outlet.give_up_passed()
        if refused:
            reason = self._blocked_as if self._blocked else "refused"
            self._drop_as(reason, refused)
            self._refusing_until = monotonic() + REFUSING
            if len(self._held) > 1:
                self._release_first()
        elif not self._blocked:
            self._refusing_until = -math.inf  # the queue had been full
        self._attempts = 0
        self._blocked = False

    def _can_look_ahead(self, done: bool) -> bool:
        """Whether one more frame should be tried, and there is one."""
        if not isinstance(self._outlet, Direct):
            return False
        if not self._blocked and not self._is_refusing():
            limit = LOOK_AHEAD if self._attempts >= PAUSES else 1
            if self._outlet.passed >= limit:
                return False
        return not done or self._receive_more(self._outlet)

    def _is_refusing(self) -> bool:
        """Whether the queue is not likely to be full: frames have been refused
        lately, and none of ours waits in it."""
        return (
            monotonic() < self._refusing_until
            and bytes_queued(self.sink.sock) == 0
        )

    def _receive_more(self, outlet: Direct) -> bool:
        """Loads what waits at the source behind the frames that were passed
        over. Returns whether there is something."""
        if self._blocked or len(self._held) > 1:
            return False
        if not self._held:
            self._hold()
        stack = self._stack
        try:
            self._receive(stack[-1])
        except OSError as error:
            self._is_said_once(error)
            return False
        self._used = stack
        self._hold()
        outlet.load(self._held[-1][1][0])
        return True

    def _wait_for_queue(self) -> bool:
        """None of the frames that were tried has been taken. Returns whether
        it is worth waiting; otherwise one is dropped, or all that were tried
        if the queue is known to be blocked."""
        outlet = self._outlet
        if self._blocked:
            self._drop_as(self._blocked_as, outlet.give_up_passed())
            return False
        is_alone = outlet.passed == 1
        outlet.go_back()
        now = monotonic()
        if self._has_patience(now):
            self.due = min(self._give_up_at, now + PAUSE)
            return True
        # There may have been no other frame to try. Then it is not known that
        # the queue is full, and it is unlikely if no frame of ours is in it.
        is_refused = is_alone and not bytes_queued(self.sink.sock)
        self._blocked_as = "refused" if is_refused else "queue_full"
        self._blocked = True
        self._drop_as(self._blocked_as, 1)
        outlet.skip()
        return False

    def _wait_for_room(self) -> bool:
        """The same where poll(2) tells of room, and so nothing depends on the
        frame: all that is left is dropped, if it is not worth waiting."""
        outlet = self._outlet
        if outlet.passed:
            outlet.go_back()
        if not self._has_patience(monotonic()):
            self._blocked = True
            self._blocked_as = "queue_full"
            self.dropped.queue_full += outlet.abandon()
            return False
        self.due = self._give_up_at
        self.room = self.sink.room_descriptor()
        return True

    def _has_patience(self, now: float) -> bool:
        self._attempts += 1
        if self._attempts == 1:
            self._give_up_at = now + PATIENCE
        return self._attempts <= ATTEMPTS and now < self._give_up_at

    def _drop_marked(self) -> None:
        """Drops a frame that cannot be sent as it is."""
        value = self._outlet.mark()
        if value == Mark.TOO_LONG:
            self.dropped.too_long += 1
        elif value == Mark.FROM_STRANGER:
            self.dropped.from_strangers += 1
        elif value != Mark.DROPPED:
            self.dropped.malformed += 1
        self._outlet.skip()

    def _drop(self, error: OSError) -> None:
        """Drops the frame that the error is about, and no other: what the
        kernel says of one need not be true of the next."""
        if error.errno == errno.ENODEV:
            self.dropped.link_down += self._outlet.abandon()
            raise error
        reasons = {errno.EMSGSIZE: "too_long", errno.ENETDOWN: "link_down"}
        self._drop_as(reasons.get(error.errno or 0, "refused"), 1)
        self._outlet.skip()

    def _drop_as(self, reason: str, count: int) -> None:
        dropped = self.dropped
        setattr(dropped, reason, getattr(dropped, reason) + count)
