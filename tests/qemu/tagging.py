"""A VLAN of a trunk, as an interface of its own. The kernel's VLAN interfaces
would do the same, but not every kernel has them."""

import os
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from support.datagrams import Q

from rawmmsg import (
    GSO_NONE,
    SUPER_FRAME,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import veth_pair

_ADDRESSES: Final = 12  # bytes before the tag
_TAG: Final = 4


@contextmanager
def untagged(trunk: str, number: int, mtu: int) -> Iterator[str]:
    """Makes an interface that sends its frames to the trunk with the VLAN's
    tag, and receives those with the tag, without it. Super-frames and open
    checksums stay as they are."""
    with ExitStack() as stack:
        veth = stack.enter_context(veth_pair(mtu=mtu, ipv6=True))
        outside, inside = (
            stack.enter_context(
                RawSocket(
                    interface,
                    filter=expression,
                    promisc=True,
                    vlan=True,
                    vnet_hdr=True,
                    ignore_outgoing=True,
                )
            )
            for interface, expression in (
                (trunk, f"vlan {number}"),
                (veth.b, None),
            )
        )
        wake = os.eventfd(0)
        stack.callback(os.close, wake)
        thread = threading.Thread(
            target=_move, args=(outside, inside, number, wake)
        )
        thread.start()
        stack.callback(thread.join)
        stack.callback(os.eventfd_write, wake, 1)
        yield veth.a


class _Frames:
    """A batch with room to insert a tag into each of its frames."""

    _ROOM: Final = SUPER_FRAME + _TAG
    _COUNT: Final = 32

    def __init__(self, number: int) -> None:
        self._tag = Q.to_bytes(2, "big") + number.to_bytes(2, "big")
        self._memory = memoryview(bytearray(self._COUNT * self._ROOM))
        self.batch = PacketBatch(buffer=self._memory, frame_size=self._ROOM)

    def remove_tags(self) -> None:
        for i in range(len(self.batch)):
            after = self._from(i, _ADDRESSES + _TAG)
            self._from(i, _ADDRESSES)[: len(after)] = after
            self._resize(i, -_TAG)

    def add_tags(self) -> None:
        for i in range(len(self.batch)):
            after = self._from(i, _ADDRESSES)
            begin = i * self._ROOM + _ADDRESSES
            end = begin + _TAG + len(after)
            self._memory[begin + _TAG : end] = after
            self._memory[begin : begin + _TAG] = self._tag
            self._resize(i, _TAG)

    def _from(self, i: int, offset: int) -> memoryview:
        """The frame from this offset on."""
        begin = i * self._ROOM
        return self._memory[begin + offset : begin + self.batch.lengths[i]]

    def _resize(self, i: int, more: int) -> None:
        """Adds to the length of a frame, and to what its offload header says
        about its headers."""
        batch = self.batch
        batch.lengths[i] += more
        if batch.vnet_flags[i] & VNET_NEEDS_CSUM:
            batch.checksum_starts[i] += more
        if batch.gso_types[i] != GSO_NONE:
            batch.header_lengths[i] += more


def _move(
    outside: RawSocket, inside: RawSocket, number: int, wake: int
) -> None:
    frames = _Frames(number)
    directions = {
        outside.fileno(): (outside, frames.remove_tags, inside),
        inside.fileno(): (inside, frames.add_tags, outside),
    }
    poll = select.poll()
    for descriptor in (*directions, wake):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                return
            source, change, sink = directions[descriptor]
            source.recvmmsg_into(frames.batch)
            change()
            sink.sendmmsg_all(frames.batch)
