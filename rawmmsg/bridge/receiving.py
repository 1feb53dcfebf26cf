"""Receives batches of frames, and finds those that are not to be sent."""

from .._rawmmsg import PacketBatch
from ..constants import SUPER_FRAME
from .batches import Slot, Stacks
from .drops import SHORTEST, Marked, foreign, short, truncated
from .ports import Port

__all__ = ["Receiver"]

# A batch of many frames fits in the CPU's cache if they have at most this many
# bytes on average.
_SMALL = 9216


class Receiver:
    """Receives into the batches of `stacks`. `_stack` has the next batch to
    receive into on its top."""

    def __init__(self, source: Port, stacks: Stacks) -> None:
        self._port = source
        self._recvmmsg_into = source.recvmmsg_into
        self._size_received = 0
        self._strangers = 0
        self._has_end = source.has_end
        self._ends = 0  # empty messages received
        self._may_be_cut = source.may_truncate
        self._gets_datagrams = source.may_truncate and not source.is_interface
        self._few, self._many = stacks
        self._few_are = self._few[-1][0].capacity
        self._stack = self._few

    @property
    def bytes_received(self) -> int:
        return self._size_received

    def _receive(self, slot: Slot) -> None:
        batch, lengths = slot
        count = self._recvmmsg_into(batch)
        sizes = lengths[:count]
        if self._has_end and 0 in sizes:
            sizes = self._cut_at_end(batch, sizes)
        size = sum(sizes)
        self._size_received += size
        marked: list[Marked] = []
        if size >= SUPER_FRAME and SUPER_FRAME in sizes and self._may_be_cut:
            marked += truncated(batch)
        if self._gets_datagrams:
            if min(sizes, default=SHORTEST) < SHORTEST:
                marked += short(batch)
            strangers = self._port.strangers
            if strangers != self._strangers:
                self._strangers = strangers
                marked += foreign(batch, self._port.is_peer)
        if marked:
            self._set_aside(batch, marked)
        if size > count * _SMALL:
            self._stack = self._few
        elif count == self._few_are:
            self._stack = self._many

    def _set_aside(self, batch: PacketBatch, marked: list[Marked]) -> None:
        """Makes sure that these frames are not sent, but counted."""
        raise NotImplementedError

    def _cut_at_end(
        self, batch: PacketBatch, sizes: "memoryview[int]"
    ) -> "memoryview[int]":
        """Keeps the frames before the empty message that ends the
        connection."""
        count = sizes.tolist().index(0)
        self._ends += len(sizes) - count
        batch.set_count(count)
        return sizes[:count]
