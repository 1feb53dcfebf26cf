"""A veth pair, its sockets and the frames that go over it, and the ground
truth: what was sent is what was received."""

import contextlib
import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, Self

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

# <linux/if_packet.h>, <bits/socket.h>
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
PACKET_AUXDATA: Final = 8

PATIENCE: Final = 5  # seconds without a frame before a measurement fails

# An Ethernet header of addresses administered locally and the EtherType for
# local experiments, for which the kernel has no handler.
HEADER: Final = bytes.fromhex("02000000000b 02000000000a 88b5")
NUMBERS: Final = struct.Struct("!QI")  # of the slice, and in the batch
SHORTEST: Final = len(HEADER) + NUMBERS.size


class GroundTruthError(AssertionError):
    """A frame was lost, doubled or changed: the measurement is void."""


class Link:
    """One socket that sends and one that receives, each seen as RawSocket, as
    socket.socket and as a descriptor. A context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        with self._stack:
            keep = self._stack.enter_context
            veth: Veth = keep(veth_pair())
            # protocol=0: it does not see what it sends
            self.tx = keep(RawSocket(veth.a, protocol=0))
            self.rx = keep(RawSocket(veth.b))
            self.tx_stdlib = keep(
                socket.socket(fileno=os.dup(self.tx.fileno()))
            )
            self.rx_stdlib = keep(
                socket.socket(fileno=os.dup(self.rx.fileno()))
            )
            copy = os.dup(self.rx.fileno())
            try:
                self.rx_bare = keep(RawSocket(fileno=copy, vlan=False))
            except BaseException:
                os.close(copy)
                raise
            for sock in (self.tx, self.rx, self.rx_bare):
                sock.settimeout(PATIENCE)
            # Not settimeout(), with which it would poll before each call.
            self.rx_stdlib.setsockopt(
                *(socket.SOL_SOCKET, socket.SO_RCVTIMEO),
                struct.pack("ll", PATIENCE, 0),
            )
            self._stack = self._stack.pop_all()

    def set_auxdata(self, on: bool) -> None:
        """Whether the kernel passes auxdata to who receives."""
        self.rx_stdlib.setsockopt(SOL_PACKET, PACKET_AUXDATA, on)

    def reset(self) -> None:
        """Forgets what the kernel has counted."""
        self.rx_stdlib.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)

    def check(self, count: int) -> None:
        """Asserts that `count` frames came since reset(), and none was dropped
        or is left."""
        counts = self.rx_stdlib.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        arrived, dropped = struct.unpack("II", counts)
        if (arrived, dropped) != (count, 0):
            room = self.rx.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            raise GroundTruthError(
                f"{count} frames sent, {arrived} arrived of which {dropped}"
                f" were dropped, with a receive buffer of {room} bytes"
            )
        with contextlib.suppress(BlockingIOError):
            left = self.rx_stdlib.recv(65536, socket.MSG_DONTWAIT)
            raise GroundTruthError(f"{left!r} was never received")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Frames:
    """A batch of numbered frames to send, and one to receive them into.

    With `stride` they are that far apart in memory, otherwise as PacketBatch
    sees fit.
    """

    def __init__(
        self, batch: int, size: int, stride: int | None = None
    ) -> None:
        if size < SHORTEST:
            raise ValueError(f"frames have at least {SHORTEST} bytes")
        self.batch = batch
        self.size = size
        self.out = _new_batch(batch, stride)
        self.into = _new_batch(batch, stride)
        all_frames = memoryview(self.into)
        assert all_frames.strides is not None
        assert all_frames.shape is not None
        self.stride = all_frames.strides[0]
        self.room = all_frames.shape[1]
        for packets in (self.out, self.into):
            for i in range(batch):
                packets.lengths[i] = size
            packets.set_count(batch)
        self.out_views = list(self.out)
        self.into_views = list(self.into)
        self.packets: list[bytes] = []
        self._slice = 0
        self.number()

    def address(self, packets: PacketBatch) -> int:
        """Where the first frame of `out` or `into` is."""
        first = self.out_views if packets is self.out else self.into_views
        return ctypes.addressof(ctypes.c_char.from_buffer(first[0]))

    def number(self) -> None:
        """Gives the frames to send new numbers, also in `packets`, and wipes
        those received."""
        self._slice += 1
        body = bytes(i & 0xFF for i in range(self.size - SHORTEST))
        self.packets[:] = [
            HEADER + NUMBERS.pack(self._slice, i) + body
            for i in range(self.batch)
        ]
        wiped = bytes(self.size)
        for i, packet in enumerate(self.packets):
            self.out_views[i][:] = packet
            self.into_views[i][:] = wiped

    def is_whole(self, lengths: Sequence[int]) -> bool:
        """Whether the last call received the whole batch. A part of one, which
        is no fault, lies where other frames of it were."""
        return len(lengths) == self.batch

    def check(self, lengths: Sequence[int]) -> None:
        """Asserts that what the last call received, a whole batch with these
        lengths, is what was sent, in order and to the byte."""
        for i, length in enumerate(lengths):
            if length != self.size:
                raise GroundTruthError(
                    f"frame {i} came with {length} bytes of {self.size}"
                )
        received = [bytes(view) for view in self.into_views]
        if received != self.packets:
            wrong = [
                i
                for i, packet in enumerate(self.packets)
                if received[i] != packet
            ]
            raise GroundTruthError(
                f"frames {wrong} of slice {self._slice} are not what was sent"
            )


def _new_batch(batch: int, stride: int | None) -> PacketBatch:
    if stride is None:
        return PacketBatch(batch)
    memory = mmap.mmap(-1, batch * stride)
    return PacketBatch(batch, stride, buffer=memory)
