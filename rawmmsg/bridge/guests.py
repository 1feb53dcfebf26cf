"""Directions that begin or end in the memory of a guest.

Between a guest and an interface, frames are not copied here: the buffers of
the guest are those of sendmmsg(2) and recvmmsg(2). All other directions copy
them into a batch.

A guest has no descriptor that says whether it has frames. It kicks (writes to
an eventfd) only if it was asked to, and only when it makes frames available.
So a direction takes frames until there are none, then asks for a kick, looks
again, and only then waits.
"""

import errno
import math

from .batched import Batched
from .batches import Stacks
from .direction import Direction
from .merging import Merging
from .outgoing import FromRing
from .ports import Port, SocketPort, VhostUser
from .sending import Sender

__all__ = [
    "BatchedFromGuest",
    "BatchedToGuest",
    "BetweenGuests",
    "FromGuest",
    "ToGuest",
]

# How many batches of a guest are sent before others get their turn.
_BATCHES = 4


class FromGuest(Direction):
    """Sends frames on an interface straight from the memory of a guest."""

    source: VhostUser

    def __init__(self, source: VhostUser, sink: SocketPort) -> None:
        super().__init__(source, sink)
        self._rings = source.rings
        self._send_from = sink.send_from
        self._sender = Sender(
            sink, FromRing(source.rings, sink), self._dropped, _no_batch
        )
        self._again_at = math.inf

    @property
    def room(self) -> int:
        return self._sender.room

    @property
    def due(self) -> float:
        return min(self._again_at, self._sender.due)

    @property
    def bytes_received(self) -> int:
        return self.source.bytes_received

    def forward(self) -> bool:
        rings, sender = self._rings, self._sender
        self._again_at = math.inf
        for _ in range(_BATCHES):
            if sender.is_calm:
                try:
                    if self._send_from(rings):
                        continue
                except OSError:
                    pass  # the sender gets the same error
            if not rings.pending and not rings.ask_for_kick(1):
                return False
            if not sender.send():
                self.accepts = False
                return True
        self._again_at = -math.inf
        return True

    def resume(self) -> None:
        if not self.accepts:
            if not self._sender.resume():
                return
            self.accepts = True
        self.forward()

    def wake(self) -> bool:
        return self.accepts and self.forward()

    def finish(self) -> None:
        """Nothing to do: what was not sent stays in the guest's ring."""


class ToGuest(Direction):
    """Receives frames from an interface straight into the memory of a guest.

    While the guest has no buffers, frames stay in the queue of the interface's
    socket, so that none of them is dropped here.
    """

    sink: VhostUser

    def __init__(self, source: SocketPort, sink: VhostUser) -> None:
        super().__init__(source, sink)
        self._rings = sink.rings
        self._receive_to = source.receive_to
        self._again_at = math.inf

    @property
    def room(self) -> int:
        return -1

    @property
    def due(self) -> float:
        return self._again_at

    @property
    def bytes_received(self) -> int:
        return self.sink.bytes_taken

    def forward(self) -> bool:
        rings = self._rings
        try:
            self._receive_to(rings)
        except OSError as error:
            self.source.can_receive_after(error)
            return False
        if not rings.is_full:
            return False
        self.accepts = False
        self._again_at = -math.inf if rings.ask_for_kick(0) else math.inf
        return True

    def resume(self) -> None:
        self.accepts = True
        self._again_at = math.inf
        self.forward()

    def wake(self) -> bool:
        if self.accepts:
            return False
        self.resume()
        return True

    def finish(self) -> None:
        self.sink.finish()


class BatchedToGuest(Batched):
    """Copies frames from batches into the memory of a guest.

    While the guest has no buffers, frames stay in the queue of the source, and
    those of one batch wait here.
    """

    sink: VhostUser

    def __init__(
        self,
        source: Port,
        sink: VhostUser,
        stacks: Stacks,
        merging: Merging | None = None,
    ) -> None:
        super().__init__(source, sink, stacks, merging)
        self._is_full = False
        self._room_at = math.inf

    @property
    def due(self) -> float:
        return min(self._room_at, super().due)

    def forward(self) -> bool:
        has_changed = super().forward()
        return self._wait_if_full() or has_changed

    def resume(self) -> None:
        self._room_at = math.inf
        self.sink.send_held()
        if self._wait_if_full():
            return
        super().resume()
        self._wait_if_full()

    def _wait_if_full(self) -> bool:
        """Some of the frames that were sent may wait for buffers, too."""
        rings = self.sink.rings
        self._is_full = rings.is_full
        if self._is_full:
            self.accepts = False
            self._room_at = -math.inf if rings.ask_for_kick(0) else math.inf
        return self._is_full

    def wake(self) -> bool:
        if not self._is_full:
            return False
        self.resume()
        return True


class BatchedFromGuest(Batched):
    """Copies frames from the memory of a guest into batches, and sends
    them."""

    source: VhostUser

    def __init__(
        self,
        source: VhostUser,
        sink: Port,
        stacks: Stacks,
        merging: Merging | None = None,
    ) -> None:
        super().__init__(source, sink, stacks, merging)
        self._is_empty = False

    def forward(self) -> bool:
        self._is_empty = False
        self._receive_again_at = math.inf
        for _ in range(_BATCHES):
            if super().forward():
                return True
            if self._is_empty:
                return False
        self._receive_again_at = -math.inf
        return True

    def _receive_failed(self, error: OSError) -> bool:
        if error.errno != errno.EAGAIN:
            raise error
        self._is_empty = not self.source.rings.ask_for_kick(1)
        return False

    def resume(self) -> None:
        super().resume()
        if self.accepts:
            self.forward()

    def wake(self) -> bool:
        return self.forward() if self.accepts else super().wake()


class BetweenGuests(BatchedFromGuest, BatchedToGuest):
    """Copies frames from the memory of a guest into batches, and from there
    into the memory of another guest."""

    sink: VhostUser

    def __init__(
        self, source: VhostUser, sink: VhostUser, stacks: Stacks
    ) -> None:
        super().__init__(source, sink, stacks)


def _no_batch() -> None:
    """There is none to look ahead at."""
