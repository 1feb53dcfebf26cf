"""A direction that receives batches of frames at one port, and sends them at
the other."""

import math
from time import monotonic

from .._rawmmsg import PacketBatch
from .batches import Slot, Stacks
from .direction import Direction
from .drops import Marked, mark
from .merging import Merged, Merging
from .outgoing import OutgoingBatches, Segmented, Unchanged
from .ports import Port, PortClosed
from .receiving import Receiver
from .sending import PAUSE, Sender

__all__ = ["Batched"]


def _outgoing_for(
    source: Port, sink: Port, merging: Merging | None
) -> OutgoingBatches:
    """Frames are cut into segments if only the source has offload headers,
    and merged if only the sink has."""
    if source.has_offloads:
        return Unchanged(sink) if sink.has_offloads else Segmented(sink)
    if merging is not None and sink.takes_super_frames:
        return Merged(sink, merging)
    return Unchanged(sink)


class Batched(Receiver, Direction):
    """`merging`: what it merges into super-frames if only the sink takes them.

    Both directions may share their stacks of batches. A batch is on its stack
    unless it holds frames that are still to be sent.
    """

    def __init__(
        self,
        source: Port,
        sink: Port,
        stacks: Stacks,
        merging: Merging | None = None,
    ) -> None:
        Direction.__init__(self, source, sink)
        Receiver.__init__(self, source, stacks)
        self._outgoing = _outgoing_for(source, sink, merging)
        self._load = self._outgoing.load
        self._sender = Sender(
            sink, self._outgoing, self._dropped, self._look_ahead
        )
        self._send = self._sender.send
        self._receive_again_at = math.inf
        self._used = self._few  # had the last batch
        # Batches that are not on their stacks: the one that is being sent, if
        # that has to wait, and one more that was received to look ahead.
        self._held: list[tuple[list[Slot], Slot]] = []

    @property
    def room(self) -> int:
        return self._sender.room

    @property
    def due(self) -> float:
        return min(self._receive_again_at, self._sender.due)

    @property
    def received(self) -> int:
        return super().received - self._ends

    @property
    def joined(self) -> int:
        return self._outgoing.joined

    @property
    def gained(self) -> int:
        return super().gained + self._outgoing.gained

    def forward(self) -> bool:
        """Receives one batch and sends it."""
        stack = self._stack
        slot = stack[-1]
        try:
            self._receive(slot)
        except OSError as error:
            return self._receive_failed(error)
        self._used = stack
        self._load(slot[0])
        if self._send():
            if self._held or self._ends:
                self._release()
            return False
        if not self._held:
            self._hold()
        self.accepts = False
        return True

    def resume(self) -> None:
        self._receive_again_at = math.inf
        if self._held:
            if not self._sender.resume():
                return
            self._release()
        self.accepts = True

    def wake(self) -> bool:
        return False

    def finish(self) -> None:
        if self._held:
            self._sender.abandon()
            self._held.clear()
        self.sink.finish()

    # Receiving

    def _set_aside(self, batch: PacketBatch, marked: list[Marked]) -> None:
        mark(batch, marked)

    def _receive_failed(self, error: OSError) -> bool:
        if self.source.can_receive_after(error):
            return False
        # The socket was readable but had no packet, or the error is about a
        # datagram that was sent earlier (ECONNREFUSED).
        self.accepts = False
        self._receive_again_at = monotonic() + PAUSE
        return True

    def _look_ahead(self) -> PacketBatch | None:
        """Receives what is queued at the source behind the batch that is
        being sent. Returns None if there is nothing, or no batch is free."""
        if not self._held:
            self._hold()
        elif len(self._held) > 1 and not self._release_first():
            return None
        stack = self._stack
        try:
            self._receive(stack[-1])
        except OSError as error:
            self.source.can_receive_after(error)
            return None
        self._used = stack
        self._hold()
        return self._held[-1][1][0]

    # Batches that are taken from their stacks

    def _hold(self) -> None:
        self._held.append((self._used, self._used.pop()))

    def _release(self) -> None:
        """Puts all batches back: every frame was sent or dropped."""
        while self._held:
            stack, slot = self._held.pop()
            stack.append(slot)
        if self._ends:
            raise PortClosed(f"{self.source.name}: the peer has closed")

    def _release_first(self) -> bool:
        """Puts the first of two batches back if all its frames were sent or
        dropped. Returns whether it did."""
        stack, slot = self._held[0]
        if self._outgoing.needs(slot[0]):
            return False
        stack.append(slot)
        del self._held[0]
        return True
