"""Listening sockets of Scapy and of rawmmsg, and functions that read from
them. Import it only if Scapy is installed."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Self, TypeAlias

from scapy.config import conf
from scapy.data import MTU
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.sendrecv import sniff
from scapy.supersocket import SuperSocket

from rawmmsg import RawSocket
from rawmmsg.scapy import RawSniffer, install
from rawmmsg.testing import veth_pair

from ..lab.contender import GroundTruthError
from ..lab.link import HEADER, NUMBERS, PATIENCE, Counter

conf.verb = 0

SIZE: Final = 64  # bytes of a frame

# The first bytes of each kind of frame; its numbers follow. UDP has no
# checksum, as IPv4 allows.
_IP: Final = "0800 4500 0032 00000000 4011 f6b7 c0000201 c0000202"
_UDP: Final = "9c40 9c41 001e 0000"
PREFIXES: Final = {
    "unknown EtherType": HEADER,
    "UDP": HEADER[:12] + bytes.fromhex(_IP + _UDP),
}

# Frames that wait at a time. They fit into the receive buffer that any user
# gets (net.core.rmem_max), and fill whole batches of rawmmsg.
CHUNK: Final = 256

DEFAULT_BUFFER: Final = conf.bufsize
LARGE_BUFFER: Final = 1 << 22


def numbered(prefix: bytes, series: int, count: int) -> list[bytes]:
    """Frames of a series, each with its number."""
    padding = bytes(SIZE - len(prefix) - NUMBERS.size)
    return [prefix + NUMBERS.pack(series, i) + padding for i in range(count)]


class Inbox:
    """The listening socket that sniff(iface=...) would open, Scapy's or
    `ours`, and a socket that sends to it. A context manager. `buffer` is
    Scapy's conf.bufsize for it."""

    def __init__(self, ours: bool, buffer: int = LARGE_BUFFER) -> None:
        self._series = 0
        with contextlib.ExitStack() as stack:
            veth = stack.enter_context(veth_pair())
            self.far_end = veth.a
            self.sender = stack.enter_context(RawSocket(veth.a, protocol=0))
            # Scapy read the list of interfaces before this one existed.
            conf.ifaces.reload()
            before, conf.bufsize = conf.bufsize, buffer
            try:
                with install() if ours else contextlib.nullcontext():
                    self.listener: Any = conf.L2listen(iface=veth.b)
            finally:
                conf.bufsize = before
            stack.callback(self.listener.close)
            self.counter = Counter(self.listener.ins.fileno())
            stack.callback(self.counter.close)
            self._stack = stack.pop_all()

    def numbered(self, prefix: bytes, count: int) -> list[bytes]:
        """Frames of a new series."""
        self._series += 1
        return numbered(prefix, self._series, count)

    def fill(self, prefix: bytes) -> list[bytes]:
        """Sends CHUNK new frames, which are waiting when it returns."""
        frames = self.numbered(prefix, CHUNK)
        self.sender.sendmmsg_all(frames)
        arrived = 0
        deadline = time.monotonic() + PATIENCE
        while arrived < CHUNK:
            more, dropped = self.counter.read()
            arrived += more
            if dropped or time.monotonic() > deadline:
                raise GroundTruthError(
                    f"{CHUNK} frames sent, {arrived} arrived, {dropped} of"
                    " these dropped"
                )
        return frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Memory(SuperSocket):
    """An inbox from which it costs nothing to receive."""

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


# reader(count) reads `count` frames, all of which are waiting. It returns what
# it keeps of each: its bytes or its length.
Reader: TypeAlias = Callable[[int], Sequence[bytes] | Sequence[int]]


def sniffing(inbox: Inbox | Memory, session: Any = None) -> Reader:
    """sniff() with a prn that counts: it keeps the bytes that the packet was
    made from, which cost nothing."""

    def read(count: int) -> list[bytes]:
        seen: list[bytes] = []
        sniff(
            opened_socket=inbox.listener,
            count=count,
            store=False,
            prn=lambda packet: seen.append(packet.original),
            session=session,
        )
        return seen

    return read


def looping(inbox: Inbox, keep: Callable[[Any], Any]) -> Reader:
    """A loop over recv_raw(), without sniff()."""
    recv_raw = inbox.listener.recv_raw
    return lambda count: [keep(recv_raw()[1]) for _ in range(count)]


def iterating(inbox: Inbox, keep: Callable[[Any], Any]) -> Reader:
    """RawSniffer, the same one for all calls."""
    sniffer: Iterator[Any] = iter(RawSniffer(opened_socket=inbox.listener))
    return lambda count: [keep(frame) for frame in islice(sniffer, count)]


def seconds_to_read(
    inbox: Inbox | Memory, read: Reader, prefix: bytes, times: int
) -> float:
    """The seconds that it takes to read CHUNK waiting frames, `times` times.
    Checks that they are those sent."""
    taken = 0.0
    for _ in range(times):
        sent = inbox.fill(prefix)
        begin = time.perf_counter()
        found = read(CHUNK)
        taken += time.perf_counter() - begin
        if found not in (sent, [len(frame) for frame in sent]):
            raise GroundTruthError("frames read differ from those sent")
    return taken
