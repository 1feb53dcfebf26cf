"""Sends frames, and decides what happens to a frame that the kernel refuses:
it waits (ENOBUFS, EAGAIN), tries the frames behind it (ENOBUFS), sends the
frames that it was made of (EINVAL), or drops it.
"""

import errno
import math
from collections.abc import Callable
from time import monotonic

from .._rawmmsg import PacketBatch
from .drops import Dropped, Mark
from .outgoing import Outgoing, Unchanged
from .ports import Port

__all__ = ["PAUSE", "Sender"]

# If the output queue is full, the sender tries a frame again for this many
# seconds, and this many times. If the kernel takes no frame in that time, the
# queue counts as blocked: until it takes one, frames are dropped at once, as
# in a switch.
PATIENCE = 0.05
ATTEMPTS = 100

# The pause before the next attempt where no event tells that it can succeed:
# an interface's queue is full (ENOBUFS), or a socket was readable but had no
# packet.
PAUSE = 0.001

# ENOBUFS does not always mean a full queue. The kernel returns it also for a
# frame that is too long for the far end of a veth pair, or that a filter of
# this machine drops on its way out (tc, nftables), and refuses that frame each
# time. So after this many pauses the sender tries the frames behind it, up to
# LOOK_AHEAD frames in all. If the kernel takes one of them, it has refused the
# frames before it; if it takes none, the queue is full.
PAUSES = 2
LOOK_AHEAD = 4

# A filter that drops one frame usually drops many. For this many seconds after
# a refused frame, the sender makes no pause and tries every frame at hand,
# unless the queue holds frames of this socket.
REFUSING = 0.5

_REASONS = {errno.EMSGSIZE: "too_long", errno.ENETDOWN: "link_down"}


class Sender:
    """Sends the frames of `outgoing` and counts those that it drops.

    `look_ahead` receives another batch while the one before still waits, and
    returns None if it cannot.

    If send() returns False, call resume() when the descriptor `room` is
    writable (-1: none), and at the time `due` at the latest. If neither is
    set, the sink is a guest: call it when the guest has buffers again.
    """

    def __init__(
        self,
        sink: Port,
        outgoing: Outgoing,
        dropped: Dropped,
        look_ahead: Callable[[], PacketBatch | None],
    ) -> None:
        self.room = -1
        self.due = math.inf
        self._sink = sink
        self._dropped = dropped
        self._look_ahead = look_ahead
        self._outgoing = outgoing
        self._attempts = 0  # pauses since the kernel took a frame
        self._give_up_at = math.inf
        self._blocked = False  # a wait ended without success
        self._blocked_as = "queue_full"
        self._refusing_until = -math.inf

    @property
    def is_calm(self) -> bool:
        """Whether the kernel took the last frames without a pause."""
        return not self._attempts

    def resume(self) -> bool:
        """Continues after a wait, as send()."""
        self.room, self.due = -1, math.inf
        return self.send()

    def send(self) -> bool:
        """Returns whether all frames have been sent or dropped."""
        outgoing = self._outgoing
        is_second_try = False
        while True:
            try:
                done = outgoing.send()
            except ValueError:
                self._drop_marked()
                done = outgoing.is_end()
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return not self._wait_for_room()
                if error.errno == errno.ENOBUFS:
                    if not is_second_try and self._is_refusing():
                        # The queue may have been full and be empty by now.
                        is_second_try = True
                        continue
                    outgoing.pass_over()
                elif error.errno != errno.EINVAL or not outgoing.unmerge():
                    self._drop(error)
                done = outgoing.is_end()
            else:
                if self._attempts or outgoing.passed:
                    self._kernel_took_one()
            is_second_try = False
            if outgoing.passed and not self._can_look_ahead(done):
                if self._wait_for_queue():
                    return False
                done = outgoing.is_end()
            if done and not outgoing.passed:
                return True

    def abandon(self) -> None:
        """Drops all frames that are still to be sent."""
        self._dropped.queue_full += self._outgoing.abandon()

    # ENOBUFS: the queue is full, or the kernel refuses this frame

    def _kernel_took_one(self) -> None:
        """So the queue is not full, and the frames passed over were refused
        for another reason."""
        refused = self._outgoing.drop_passed()
        if refused:
            self._drop_as(
                self._blocked_as if self._blocked else "refused", refused
            )
            self._refusing_until = monotonic() + REFUSING
        elif not self._blocked:
            self._refusing_until = -math.inf  # the queue had been full
        self._attempts = 0
        self._blocked = False

    def _can_look_ahead(self, done: bool) -> bool:
        """Returns whether one more frame should be tried and there is one."""
        outgoing = self._outgoing
        if not isinstance(outgoing, Unchanged):
            return False
        if not self._blocked and not self._is_refusing():
            limit = LOOK_AHEAD if self._attempts >= PAUSES else 1
            if outgoing.passed >= limit:
                return False
        if not done:
            return True
        batch = None if self._blocked else self._look_ahead()
        if batch is not None:
            outgoing.load(batch)
        return batch is not None

    def _is_refusing(self) -> bool:
        """Returns whether the queue is probably not full: frames were refused
        lately, and the queue holds none of this socket."""
        return (
            monotonic() < self._refusing_until
            and self._sink.bytes_queued() == 0
        )

    def _wait_for_queue(self) -> bool:
        """The kernel took none of the frames that were tried. Returns whether
        to wait. If not, it has dropped one frame, or all that were tried if
        the queue is blocked."""
        outgoing = self._outgoing
        if self._blocked:
            self._drop_as(self._blocked_as, outgoing.drop_passed())
            return False
        is_alone = outgoing.passed == 1
        outgoing.go_back()
        now = monotonic()
        if self._has_patience(now):
            self.due = min(self._give_up_at, now + PAUSE)
            return True
        # If there was no other frame to try, the queue may not be full. That
        # is likely if it holds no frame of this socket.
        is_refused = is_alone and not self._sink.bytes_queued()
        self._blocked_as = "refused" if is_refused else "queue_full"
        self._blocked = True
        self._drop_as(self._blocked_as, outgoing.skip())
        return False

    # EAGAIN: the socket's send buffer, or the peer's queue, is full

    def _wait_for_room(self) -> bool:
        """poll(2) tells when there is room again, and no single frame is the
        cause. Returns whether to wait; if not, it has dropped all frames."""
        outgoing = self._outgoing
        if outgoing.passed:
            outgoing.go_back()
        if self._sink.is_guest:
            return True  # the frames wait for its buffers: `BatchedToGuest`
        if not self._has_patience(monotonic()):
            self._blocked = True
            self._blocked_as = "queue_full"
            self.abandon()
            return False
        self.due = self._give_up_at
        self.room = self._sink.room_descriptor()
        return True

    def _has_patience(self, now: float) -> bool:
        """Returns whether one more attempt is allowed."""
        self._attempts += 1
        if self._attempts == 1:
            self._give_up_at = now + PATIENCE
        return self._attempts <= ATTEMPTS and now < self._give_up_at

    # Frames that cannot be sent

    def _drop_marked(self) -> None:
        """Drops the next frame, which cannot be sent as it is."""
        value = self._outgoing.mark()
        if value == Mark.TOO_LONG:
            self._dropped.too_long += 1
        elif value == Mark.FROM_STRANGER:
            self._dropped.from_strangers += 1
        elif value != Mark.DROPPED:
            self._dropped.malformed += 1
        self._outgoing.skip()

    def _drop(self, error: OSError) -> None:
        """Drops the frame that the error is about, and only that one, because
        the kernel may take the next."""
        if error.errno == errno.ENODEV:
            self._dropped.link_down += self._outgoing.abandon()
            raise error
        reason = _REASONS.get(error.errno or 0, "refused")
        self._drop_as(reason, self._outgoing.skip())

    def _drop_as(self, reason: str, count: int) -> None:
        dropped = self._dropped
        setattr(dropped, reason, getattr(dropped, reason) + count)
