"""A veth pair, its sockets, numbered frames, and the checks that every frame
sent is received as it was."""

import contextlib
import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

from .contender import AgainError, GroundTruthError, UnavailableError
from .environment import StampProbe

# <linux/if_packet.h>, <bits/socket.h>, <asm-generic/socket.h>
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
PACKET_AUXDATA: Final = 8
SO_TIMESTAMPNS: Final = 35

PATIENCE: Final = 5  # seconds without a frame before a measurement fails

# The most bytes that the kernel counts for a packet in a queue in addition to
# its own (skb->truesize).
_OVERHEAD: Final = 832

# Seconds. The kernel switches timestamps on and off in a work queue
# (net/core/dev.c:net_enable_timestamp()).
_SWITCHING: Final = 0.5

# An Ethernet header with locally administered addresses and the EtherType for
# local experiments, for which the kernel has no handler.
HEADER: Final = bytes.fromhex("02000000000b 02000000000a 88b5")
BACK: Final = HEADER[6:12] + HEADER[:6] + HEADER[12:]  # of the answer
# The number of the slice, and the number of the frame in its batch.
NUMBERS: Final = struct.Struct("!QI")
SHORTEST: Final = len(HEADER) + NUMBERS.size


# enum side_option of side.h
AUXDATA: Final = 1
STAMPS: Final = 2


class Ends(contextlib.ExitStack):
    """A veth pair and the socket that sends on it, in two classes. A context
    manager. No socket receives: each that listens makes frames expensive."""

    def __init__(self, *, vnet_hdr: bool = False) -> None:
        super().__init__()
        self.veth: Veth = self.enter_context(veth_pair())
        # protocol=0: it does not receive what it sends
        self.tx = self.enter_context(
            RawSocket(self.veth.a, protocol=0, vnet_hdr=vnet_hdr)
        )
        self.tx.settimeout(PATIENCE)
        self.tx_stdlib = self.enter_context(as_stdlib(self.tx))
        # The interfaces that frames leave from and arrive at.
        self.names = self.veth.a, self.veth.b


class Link(Ends):
    """A veth pair with a socket that receives, too: `rx` with the options that
    RawSocket has by default, `rx_bare` without VLAN tags, `rx_stamped` with
    timestamps. All of them share one descriptor."""

    def __init__(self, *, vnet_hdr: bool = False) -> None:
        super().__init__(vnet_hdr=vnet_hdr)
        self.rx = self.enter_context(RawSocket(self.veth.b, vnet_hdr=vnet_hdr))
        descriptor = self.rx.fileno()
        self.rx_bare = self.enter_context(
            RawSocket(fileno=os.dup(descriptor), vlan=False)
        )
        self.rx_stamped = self.enter_context(
            RawSocket(
                fileno=os.dup(descriptor), vlan=True, timestamps="software"
            )
        )
        for sock in (self.rx, self.rx_bare, self.rx_stamped):
            sock.settimeout(PATIENCE)
        self.rx_stdlib = self.enter_context(as_stdlib(self.rx))
        set_timeout(self.rx_stdlib, PATIENCE)
        self.counter = self.enter_context(Counter(descriptor))
        self._probe = self.enter_context(StampProbe())
        self._patience = _SWITCHING
        self._options: tuple[bool, bool] | None = None

    def set_options(self, options: int) -> None:
        """Chooses whether the kernel passes AUXDATA and STAMPS to the
        receiver. Returns when the choice has taken effect."""
        auxdata, stamps = bool(options & AUXDATA), bool(options & STAMPS)
        before, self._options = self._options, (auxdata, stamps)
        if before == self._options:
            return
        self.rx_stdlib.setsockopt(SOL_PACKET, PACKET_AUXDATA, auxdata)
        if before is not None and before[1] == stamps:
            return
        self.rx_stdlib.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, stamps)
        if not self._probe.wait_for(stamps, self._patience):
            # Another process keeps them on; to have waited once is enough.
            self._patience = 0

    def require_room(self, frames: "Frames") -> None:
        """Raises UnavailableError if the receive buffer is too small for a
        batch."""
        require_room(
            *(self.rx, frames.batch * (frames.size + _OVERHEAD)),
            f"a receive buffer for {frames.batch:,} frames of"
            f" {frames.size:,} bytes",
        )


def require_room(sock: RawSocket, wanted: int, what: str) -> None:
    """Raises UnavailableError if the receive buffer is too small: an
    unprivileged user gets no more than the system's rmem_max."""
    if wanted > sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF):
        remedy = f"run as root, or sysctl -w net.core.rmem_max={wanted}"
        raise UnavailableError(what, remedy)


def set_timeout(sock: socket.socket, seconds: float) -> None:
    """Sets SO_RCVTIMEO. With settimeout() the socket module would call poll(2)
    before each call."""
    whole, part = divmod(seconds, 1)
    sock.setsockopt(
        *(socket.SOL_SOCKET, socket.SO_RCVTIMEO),
        struct.pack("ll", int(whole), int(part * 1e6)),
    )


def as_stdlib(sock: RawSocket) -> socket.socket:
    """A socket of the socket module over a copy of the descriptor."""
    return socket.socket(fileno=os.dup(sock.fileno()))


class Counter(socket.socket):
    """The kernel's counts for a packet socket or ring, read from a copy of its
    descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=os.dup(descriptor))

    def read(self) -> tuple[int, int]:
        """How many frames have arrived since the last read(), and how many of
        these were dropped."""
        counts = self.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        arrived, dropped = struct.unpack("II", counts)
        return arrived, dropped

    def check(self, count: int) -> None:
        """Checks that `count` frames have arrived since the last read(), that
        none was dropped, and that none is left in the queue."""
        arrived, dropped = self.read()
        if (arrived, dropped) != (count, 0):
            room = self.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            raise GroundTruthError(
                f"{count} frames sent, {arrived} arrived, {dropped} of these"
                f" dropped, with a receive buffer of {room} bytes"
            )
        with contextlib.suppress(BlockingIOError):
            left = self.recv(65536, socket.MSG_DONTWAIT)
            raise GroundTruthError(f"{left!r} was never received")


def numbered(size: int, header: bytes = HEADER) -> Callable[[int, int], bytes]:
    """Makes frames of `size` bytes with two numbers after their header."""
    if size < SHORTEST:
        raise ValueError(f"frames have at least {SHORTEST} bytes")
    body = bytes(i & 0xFF for i in range(size - SHORTEST))
    return lambda *numbers: header + NUMBERS.pack(*numbers) + body


class Frames:
    """A batch of numbered frames to send (`out`; the same as bytes in
    `packets`), and a batch to receive them in (`into`).

    `stride` is the distance between frames in memory, by default that of
    PacketBatch; `room` the bytes for each. `make` returns a frame, given the
    number of the slice and its index; after `head` bytes, each byte is one
    more than the byte before it.
    """

    def __init__(
        self,
        batch: int,
        size: int,
        *,
        stride: int | None = None,
        room: int = 2048,
        make: Callable[[int, int], bytes] | None = None,
        head: int = SHORTEST,
    ) -> None:
        self.batch = batch
        self.head = head
        self.size = size
        self._make = numbered(size) if make is None else make
        self.out, self.into = (
            PacketBatch(*(batch, stride), buffer=mmap.mmap(-1, batch * stride))
            if stride
            else PacketBatch(batch, room)
            for _ in range(2)
        )
        all_frames: Any = memoryview(self.into)
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
        """The address of the first frame of `out` or `into`."""
        first = self.out_views if packets is self.out else self.into_views
        return ctypes.addressof(ctypes.c_char.from_buffer(first[0]))

    def number(self) -> None:
        """Gives the frames to send new numbers, and overwrites those
        received with zeros."""
        self._slice += 1
        self.packets[:] = [
            self._make(self._slice, i) for i in range(self.batch)
        ]
        zeros = bytes(self.size)
        for i, packet in enumerate(self.packets):
            self.out_views[i][:] = packet
            self.into_views[i][:] = zeros

    def check(self, lengths: Sequence[int]) -> None:
        """Checks that the last call, which received frames of these lengths,
        received what was sent, in order and to the byte.

        Raises AgainError if it received only a part of the batch: the frames
        of the other calls were overwritten.
        """
        if len(lengths) != self.batch:
            raise AgainError
        for i, length in enumerate(lengths):
            if length != self.size:
                raise GroundTruthError(
                    f"frame {i} has {length} bytes instead of {self.size}"
                )
        received = [bytes(view) for view in self.into_views]
        wrong = [
            i for i, packet in enumerate(self.packets) if received[i] != packet
        ]
        if wrong:
            raise GroundTruthError(
                f"frames {wrong} of slice {self._slice} differ from those sent"
            )
