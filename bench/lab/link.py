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

from ..framework import GroundTruthError, Unavailable
from ..tools.stamping import Probe

# <linux/if_packet.h>, <bits/socket.h>, <asm-generic/socket.h>
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
PACKET_AUXDATA: Final = 8
SO_TIMESTAMPNS: Final = 35

PATIENCE: Final = 5  # seconds without a frame before a measurement fails

# Bytes that the kernel counts for a packet in a queue beside its own, at most
# (skb->truesize).
OVERHEAD: Final = 832

# Seconds. What switches stamps on and off is a work queue
# (net/core/dev.c:net_enable_timestamp()).
SWITCHING: Final = 0.5

# An Ethernet header of addresses administered locally and the EtherType for
# local experiments, for which the kernel has no handler.
HEADER: Final = bytes.fromhex("02000000000b 02000000000a 88b5")
NUMBERS: Final = struct.Struct("!QI")  # of the slice, and in the batch
SHORTEST: Final = len(HEADER) + NUMBERS.size


class Ends:
    """A veth pair and the socket that sends on it, seen as RawSocket, as
    socket.socket and as a descriptor. A context manager.

    Nobody receives yet: each packet socket that listens costs every frame.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.veth: Veth = stack.enter_context(veth_pair())
            # protocol=0: it does not see what it sends
            self.tx = stack.enter_context(RawSocket(self.veth.a, protocol=0))
            self.tx.settimeout(PATIENCE)
            self.tx_stdlib = stack.enter_context(
                socket.socket(fileno=os.dup(self.tx.fileno()))
            )
            self._open(stack)
            self._stack = stack.pop_all()

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Opens what else there is to open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Link(Ends):
    """The same, and the socket that receives: rx as rawmmsg has it, rx_bare
    without VLAN tags, rx_stamped with time stamps as well."""

    def _open(self, stack: contextlib.ExitStack) -> None:
        self.rx = stack.enter_context(RawSocket(self.veth.b))
        descriptor = self.rx.fileno()
        self.rx_bare = stack.enter_context(adopt(descriptor, vlan=False))
        self.rx_stamped = stack.enter_context(
            adopt(descriptor, vlan=True, timestamps="software")
        )
        for sock in (self.rx, self.rx_bare, self.rx_stamped):
            sock.settimeout(PATIENCE)
        self.rx_stdlib = stack.enter_context(
            socket.socket(fileno=os.dup(descriptor))
        )
        # Not settimeout(), with which it would poll before each call.
        self.rx_stdlib.setsockopt(
            *(socket.SOL_SOCKET, socket.SO_RCVTIMEO),
            struct.pack("ll", PATIENCE, 0),
        )
        self._probe = stack.enter_context(Probe())
        self._patience = SWITCHING
        self._stamps = True  # which rx_stamped has asked for
        self.set_options(auxdata=True, stamps=False)
        self.counter = stack.enter_context(
            contextlib.closing(Counter(descriptor))
        )

    def set_options(self, *, auxdata: bool, stamps: bool) -> None:
        """Whether the kernel passes auxdata and time stamps to who receives;
        returns when it does, or when packets are no longer stamped."""
        self.rx_stdlib.setsockopt(SOL_PACKET, PACKET_AUXDATA, auxdata)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        self.rx_stdlib.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, stamps)
        if not self._probe.wait_for(stamps, self._patience):
            self._patience = 0  # others have it on, and once is enough

    def require_room(self, frames: "Frames") -> None:
        """Raises Unavailable where the receive buffer does not hold a batch:
        without privilege it is no larger than the system's rmem_max."""
        room = self.rx.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        wanted = frames.batch * (frames.size + OVERHEAD)
        if wanted > room:
            raise Unavailable(
                f"a receive buffer for {frames.batch:,} frames of"
                f" {frames.size:,} bytes",
                f"run as root, or sysctl -w net.core.rmem_max={wanted}",
            )


def adopt(descriptor: int, **options: object) -> RawSocket:
    """A RawSocket over a copy of the descriptor, which it owns."""
    copy = os.dup(descriptor)
    try:
        return RawSocket(fileno=copy, **options)  # type: ignore[arg-type]
    except BaseException:
        os.close(copy)
        raise


class Counter:
    """What the kernel has counted for a packet socket, of a ring too; over a
    copy of the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._sock = socket.socket(fileno=os.dup(descriptor))

    def reset(self) -> None:
        """Forgets what was counted so far."""
        self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)

    def check(self, count: int) -> None:
        """Asserts that `count` frames came since reset(), and none was dropped
        or is left."""
        counts = self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        arrived, dropped = struct.unpack("II", counts)
        if (arrived, dropped) != (count, 0):
            room = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            raise GroundTruthError(
                f"{count} frames sent, {arrived} arrived of which {dropped}"
                f" were dropped, with a receive buffer of {room} bytes"
            )
        with contextlib.suppress(BlockingIOError):
            left = self._sock.recv(65536, socket.MSG_DONTWAIT)
            raise GroundTruthError(f"{left!r} was never received")

    def close(self) -> None:
        self._sock.close()


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
