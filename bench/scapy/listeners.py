"""Listening sockets of Scapy's make and of ours, filled and emptied.

Imports Scapy: only where that is known to be installed.
"""

import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Self, TypeAlias

from scapy.arch.linux import L2ListenSocket
from scapy.config import conf
from scapy.data import MTU
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.sendrecv import sniff
from scapy.supersocket import SuperSocket

from rawmmsg import RawSocket
from rawmmsg.scapy import RawSniffer, install
from rawmmsg.testing import veth_pair

from ..framework import GroundTruthError
from ..network.link import PACKET_STATISTICS, PATIENCE, SOL_PACKET
from ..network.scapy_frames import numbered

conf.verb = 0

CHUNK: Final = 256
"""Frames that wait at a time: they fit the receive buffer that anybody gets
(net.core.rmem_max), and fill our batches without a rest."""

DEFAULT_BUFFER: Final = conf.bufsize
LARGE_BUFFER: Final = 1 << 22


@contextlib.contextmanager
def _buffers_of(size: int) -> Iterator[None]:
    before = conf.bufsize
    conf.bufsize = size
    try:
        yield
    finally:
        conf.bufsize = before


def _listen(interface: str, ours: bool) -> Any:
    """The socket that sniff(iface=...) would open."""
    # Scapy has read the interfaces before there was this one.
    conf.ifaces.reload()
    if not ours:
        return L2ListenSocket(iface=interface)
    with install():
        return conf.L2listen(iface=interface)


class Inbox:
    """A listening socket, and who sends to it. A context manager.

    `buffer` is Scapy's conf.bufsize for it.
    """

    def __init__(self, ours: bool, buffer: int = LARGE_BUFFER) -> None:
        self._series = 0
        with contextlib.ExitStack() as stack:
            veth = stack.enter_context(veth_pair())
            self.far_end = veth.a
            self.sender = stack.enter_context(RawSocket(veth.a, protocol=0))
            with _buffers_of(buffer):
                self.listener = _listen(veth.b, ours)
            stack.callback(self.listener.close)
            copy = os.dup(self.listener.ins.fileno())
            self._counter = stack.enter_context(socket.socket(fileno=copy))
            self._stack = stack.pop_all()

    def numbered(self, prefix: bytes, count: int) -> list[bytes]:
        """Frames that nobody has seen yet."""
        self._series += 1
        return numbered(prefix, self._series, count)

    def arrived(self) -> tuple[int, int]:
        """How many frames have come since it was asked last, and how many of
        them were dropped because the receive buffer was full."""
        counts = self._counter.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        arrived, dropped = struct.unpack("II", counts)
        return arrived, dropped

    def fill(self, prefix: bytes) -> list[bytes]:
        """Sends CHUNK new frames; they wait when it returns."""
        frames = self.numbered(prefix, CHUNK)
        self.sender.sendmmsg_all(frames)
        arrived = 0
        deadline = time.monotonic() + PATIENCE
        while arrived < CHUNK:
            more, dropped = self.arrived()
            arrived += more
            if dropped or time.monotonic() > deadline:
                raise GroundTruthError(
                    f"{CHUNK} frames sent, {arrived} arrived of which"
                    f" {dropped} were dropped"
                )
        return frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Memory(SuperSocket):
    """An inbox whose frames cost nothing to receive."""

    def __init__(self) -> None:
        self.listener = self
        self._series = 0
        self._frames: deque[bytes] = deque()

    def fill(self, prefix: bytes) -> list[bytes]:
        self._series += 1
        frames = numbered(prefix, self._series, CHUNK)
        self._frames.extend(frames)
        return frames

    def recv_raw(self, x: int = MTU) -> tuple[type[Packet], bytes, float]:
        return Ether, self._frames.popleft(), 0.0

    @staticmethod
    def select(
        sockets: list[SuperSocket], remain: float | None = None
    ) -> list[SuperSocket]:
        return [one for one in sockets if isinstance(one, Memory)]


# A way to read so many frames, all of which wait. Returns what it keeps of
# each: its bytes, or its length.
Reader: TypeAlias = Callable[[int], Sequence[bytes] | Sequence[int]]


def sniffing(inbox: Inbox | Memory, session: Any = None) -> Reader:
    """sniff(), with a prn that counts: it keeps the bytes that the packet was
    made from, which are there anyway."""

    def read(count: int) -> list[bytes]:
        seen: list[bytes] = []

        def prn(packet: Packet) -> None:
            seen.append(packet.original)

        sniff(
            opened_socket=inbox.listener,
            count=count,
            store=False,
            prn=prn,
            session=session,
        )
        return seen

    return read


def looping(inbox: Inbox, keep: Callable[[Any], Any]) -> Reader:
    """A loop over recv_raw(), with no sniff() around it."""

    def read(count: int) -> list[Any]:
        recv_raw = inbox.listener.recv_raw
        return [keep(recv_raw()[1]) for _ in range(count)]

    return read


def iterating(inbox: Inbox, keep: Callable[[Any], Any]) -> Reader:
    """RawSniffer, one for all reads."""
    sniffer = iter(RawSniffer(opened_socket=inbox.listener))

    def read(count: int) -> list[Any]:
        return [keep(frame) for frame in islice(sniffer, count)]

    return read


def seconds_to_read(
    inbox: Inbox | Memory, read: Reader, prefix: bytes, chunks: int
) -> float:
    """How long it takes to read CHUNK frames so many times; all were waiting,
    and each was what was sent."""
    taken = 0.0
    for _ in range(chunks):
        sent = inbox.fill(prefix)
        begin = time.perf_counter()
        found = read(CHUNK)
        taken += time.perf_counter() - begin
        if found not in (sent, [len(frame) for frame in sent]):
            raise GroundTruthError("what was read is not what was sent")
    return taken
