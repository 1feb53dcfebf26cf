"""Capture: one CPU sends as fast as it can, another receives what it can.

The sender is C, sendmmsg(2) with 64 numbered frames a call. The receivers are
C with recvmmsg(2), bare, with what rawmmsg asks for by default (auxdata, for
VLAN tags) and with time stamps; rawmmsg; the socket module; the packet rings,
and libpcap in immediate mode, with the frames left where they are or moved to
the caller's memory; libpcap buffered, where frames come by the block; and
AF_XDP in copy mode. Queues and rings have 16 MiB where the system lets them.

The figure is what was received, until the last frame was, and its ratio to C
by recvmmsg. Beside it: what was sent at the same time, what of it was lost,
and the CPU time that sender and receiver spent on each packet, the kernel's
part included. With a ring the sender's context pays for the copy, with
recvmmsg(2) the receiver. What is received has grown in number, and what is
lost is what the kernel says it has dropped.
"""

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..framework import Context, GroundTruthError, Side, Table, available
from ..network.link import (
    PACKET_STATISTICS,
    PATIENCE,
    SOL_PACKET,
    Frames,
    Link,
)
from ..sides import receivers
from ..sides.c_side import Elsewhere
from ..sides.receivers import Receipt, Receiver, Start
from ..sides.ways import (
    AUXDATA,
    BUFFERED,
    COPY,
    STAMPS,
    V3,
    SharedLink,
    loop_setup,
)
from ..tools import cpus, native

SIZES: Final = (64, 1500)
BATCH: Final = 64

# Of a round of the mode, in full and quickly: there are many sides.
_PARTS: Final = (0.5, 0.4)

LIMIT: Final = "C"

CONTENDERS: Final[Mapping[str, Start]] = {
    LIMIT: receivers.limit(AUXDATA),
    "C, control": receivers.limit(AUXDATA),
    "C, stamps": receivers.limit(AUXDATA | STAMPS),
    "C, bare": receivers.limit(0),
    "rawmmsg": receivers.rawmmsg(lambda link: link.rx, AUXDATA),
    "rawmmsg, stamps": receivers.rawmmsg(
        lambda link: link.rx_stamped, AUXDATA | STAMPS
    ),
    "stdlib": receivers.stdlib,
    "TPACKET_V2": receivers.in_c("receive_ring.c"),
    "TPACKET_V2, copied": receivers.in_c("receive_ring.c", options=COPY),
    "TPACKET_V3": receivers.in_c("receive_ring.c", options=V3),
    "TPACKET_V3, copied": receivers.in_c("receive_ring.c", options=V3 | COPY),
    "libpcap": receivers.in_c("receive_pcap.c", "pcap"),
    "libpcap, copied": receivers.in_c("receive_pcap.c", "pcap", options=COPY),
    "libpcap, buffered": receivers.in_c(
        "receive_pcap.c", "pcap", options=BUFFERED
    ),
    "AF_XDP": receivers.xdp(),
}


class Flood(ctypes.Structure):
    """struct flood: what was sent."""

    sent: int
    begin_ns: int
    wall_ns: int
    cpu_ns: int

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("sent", "begin_ns", "wall_ns", "cpu_ns")
    )


class _Flooding:
    """Floods a receiver's link from another CPU, for a time."""

    def __init__(self, receiver: Receiver, seconds: float, cpu: int) -> None:
        self.flood = Flood()
        # The addresses in it are of the receiver's frames.
        self._setup = loop_setup(receiver.ends, -1, receiver.frames, 0)
        self._ns = ctypes.c_uint64(int(seconds * 1e9))
        self._library = native.library("flood.c")
        self.thread = Elsewhere("flood.c", cpu, self._run)

    def _run(self, over: ctypes.c_int) -> int:
        result: int = self._library.flood_run(
            ctypes.byref(self._setup),
            self._ns,
            ctypes.byref(over),
            ctypes.byref(self.flood),
        )
        return result


@dataclass
class Round:
    """Floods a receiver, and checks what it received."""

    receiver: Receiver
    seconds: float
    cpu: int
    extra: dict[str, float] = field(default_factory=dict)

    def run(self) -> float:
        """A round: million packets received a second."""
        self.prepare()
        receipt = Receipt()
        flooding = _Flooding(self.receiver, self.seconds, self.cpu)
        flood, over = flooding.flood, flooding.thread.over
        try:
            self.receiver.run(over, False, receipt)
        finally:
            flooding.thread.finish()
        self.check(flood, receipt, over)
        sent, received = flood.sent, receipt.frames
        self.extra = {
            "sent, Mpps": sent / flood.wall_ns * 1e3,
            "lost, %": 100 * (sent - received) / sent,
            "sender CPU, ns": flood.cpu_ns / sent,
            "receiver CPU, ns": receipt.cpu_ns / received,
        }
        return received / (receipt.last_ns - flood.begin_ns) * 1e3

    def prepare(self) -> None:
        """Has the receiver ready, and forgets what it counted so far."""
        self.receiver.prepare()
        self._counts()

    def check(
        self, flood: Flood, receipt: Receipt, over: ctypes.c_int
    ) -> None:
        """Asserts that each frame was received once, in order, as it was sent,
        or dropped by the kernel, which counts that where it can."""
        arrived, dropped = self._counts()
        deadline = time.monotonic() + PATIENCE
        # The kernel may still be busy with some.
        while (
            arrived >= 0
            and receipt.frames + dropped < flood.sent
            and time.monotonic() < deadline
        ):
            self.receiver.run(over, True, receipt)
            more_arrived, more_dropped = self._counts()
            arrived, dropped = arrived + more_arrived, dropped + more_dropped
        told = f"{flood.sent} frames sent, {receipt.frames} received"
        if arrived >= 0 and (
            arrived != flood.sent or arrived != receipt.frames + dropped
        ):
            raise GroundTruthError(
                f"{told}, of {arrived} that arrived {dropped} dropped"
            )
        if not 0 < receipt.frames <= flood.sent:
            raise GroundTruthError(told)
        if receipt.disordered or receipt.changed:
            raise GroundTruthError(
                f"{told}, {receipt.disordered} out of order,"
                f" {receipt.changed} changed"
            )

    def _counts(self) -> tuple[int, int]:
        """What the kernel says arrived, and what of that it dropped, since it
        was asked last; -1 where it does not say."""
        if self.receiver.counted < 0:
            return -1, 0
        descriptor = os.dup(self.receiver.counted)
        with socket.socket(fileno=descriptor) as sock:
            counts = sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        arrived, dropped = struct.unpack("II", counts)
        return arrived, dropped


def _side(
    name: str,
    start: Start,
    context: Context,
    shared: SharedLink,
    size: int,
    stack: contextlib.ExitStack,
) -> Side:
    receiver = start(shared, Frames(BATCH, size), stack)
    full, quick = _PARTS
    seconds = context.round_seconds * context.pick(full, quick, full)
    contest = Round(receiver, seconds, context.senders_cpu)
    return Side(
        name,
        contest.run,
        limit=None if name == LIMIT else LIMIT,
        extra=lambda: contest.extra,
    )


def measure(context: Context) -> Iterator[Table]:
    for size in context.pick(SIZES, SIZES, SIZES[-1:]):
        with (
            cpus.pinned(context.receivers_cpu),
            contextlib.ExitStack() as stack,
        ):
            shared = SharedLink(stack.enter_context(Link()))
            sides, missing = available(
                partial(_side, name, start, context, shared, size, stack)
                for name, start in CONTENDERS.items()
            )
            yield Table(
                f"capture/{size}B",
                f"Receiving {size}-byte frames at full blast",
                "Mpps",
                context.rounds(sides),
                sides,
                missing,
            )
