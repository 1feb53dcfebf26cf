"""What the fuzzer calls methods on and with: objects and arguments, valid,
invalid or at a limit."""

import array
import gc
import random
import socket
from collections.abc import Callable
from typing import Any, Final

from support.frames import LOCAL_EXPERIMENTAL
from support.programs import accept, keep_ethertype, program

from rawmmsg import SOL_PACKET, PacketBatch, RawSocket
from rawmmsg.constants import FanoutMode
from rawmmsg.testing import Veth

EDGES: Final = (
    *(-(2**63), -(2**31), -1, 0, 1, 2, 3, 4, 10, 12, 13, 14, 15, 60, 1023),
    *(1024, 1025, 65535, 65536, 2**20 + 1, 2**31, 2**32, 2**62, 2**63, 2**64),
)
SIZES: Final = (0, 1, 13, 14, 18, 60, 64, 1514, 1518, 2048, 9000, 69632)
WRONG: Final[tuple[Any, ...]] = (
    None,
    True,
    1.5,
    "text",
    b"",
    (),
    [],
    {},
    object(),
    1j,
    ...,
)
EXPRESSIONS: Final = (
    *("", "ip", "udp port 53", "vlan and tcp", "not", "ip[", "ether[0] & 1"),
    *("\0", "\ud800", "less 100", "greater 60 or arp"),
)
TIMEOUTS: Final = (0, 0.0, 1e-9, 0.001, 0.004, -1, 1e300, float("nan"), "1")
MODES: Final = (
    *("hash", "lb", "cpu", "rollover", "random", "queue", "cbpf", "ebpf"),
    *(FanoutMode.LB, FanoutMode.CBPF, FanoutMode.EBPF, "no", 1),
)
LINKS: Final = ("lo", "nothing", "", "a" * 16, 0, 1, -1, 2**31, None)
PEERS: Final = (
    *(
        "",
        "\0",
        "\0fuzz",
        b"\0fuzz",
        "/nothing",
        "a" * 107,
        "a" * 200,
        b"\xff",
    ),
    *(("127.0.0.1", 9), ("127.0.0.1", 65536), ("::1", 9), ("fe80::1", 9)),
    *(("fe80::1", 9, 0, 1), ("host", 9), ("::1", 9, 2**32, -1), ("\0", 1)),
)
HEADERS: Final = {
    "vnet_flags": (0, 1, 2, 3, 255),
    "gso_types": (0, 1, 3, 4, 5, 0x81, 0x84, 255),
    "header_lengths": (0, 14, 34, 54, 65535),
    "gso_sizes": (0, 1, 8, 100, 1448, 65534, 65535),
    "checksum_starts": (0, 14, 34, 38, 54, 1000, 65535),
    "checksum_offsets": (0, 6, 8, 16, 65535),
    "buffer_counts": (0, 1, 65535),
}
_PACKET_RX_RING, _PACKET_TX_RING = 5, 13  # they pin kernel memory
_SO_PEERPIDFD: Final = 77  # opens a descriptor
OPTIONS: Final = tuple(
    (level, name)
    for level in (socket.SOL_SOCKET, socket.SOL_IP, socket.SOL_UDP, SOL_PACKET)
    for name in range(80)
    if (level, name)
    not in (
        (SOL_PACKET, _PACKET_RX_RING),
        (SOL_PACKET, _PACKET_TX_RING),
        (socket.SOL_SOCKET, _SO_PEERPIDFD),
    )
)


class Disturbance(Exception):
    """The exception that a Sneak and the signal handler raise."""


class World:
    """The objects of the calls. Threads and the signal handler share them
    without a lock, and may close or replace any of them at any time."""

    def __init__(
        self, pairs: list[Veth], tap: str | None, *, forks: bool
    ) -> None:
        self.forks = forks
        self.interfaces = [name for pair in pairs for name in (pair.a, pair.b)]
        self.interfaces += ["lo"] if tap is None else ["lo", tap]
        self.unstable = pairs[-1]
        self.sockets = [RawSocket(name) for name in self.interfaces]
        for sock in self.sockets:
            sock.settimeout(0.001)
        self.senders = [
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            for _ in self.interfaces
        ]
        """Plain sockets, one for each interface."""
        self.peers: list[socket.socket] = []
        """Plain sockets, the other ends of adopted ones."""
        self.batches = [PacketBatch(8, 256), PacketBatch(2, 69632)]
        self.views = [memoryview(batch) for batch in self.batches]
        self.buffers = [bytearray(n) for n in (64, 2048, 2048, 10000)]
        self.failure: str | None = None
        self.calls = 0
        self.refused = 0

    def fail(self, text: str) -> None:
        if self.failure is None:
            self.failure = text

    def end(self) -> None:
        for sock in self.sockets:
            sock.close()
        for plain in (*self.senders, *self.peers):
            plain.close()
        self.sockets.clear()
        self.batches.clear()
        self.views.clear()
        self.buffers.clear()
        gc.collect()


class Sneak:
    """A number, flag, sequence and iterator. When it is used it makes another
    call, and may raise."""

    def __init__(self, caller: "Arguments") -> None:
        self._caller = caller

    def _disturb(self) -> None:
        if self._caller.depth < 3:
            self._caller.step()
        if self._caller.chance(8):
            raise Disturbance

    def __index__(self) -> int:
        self._disturb()
        return self._caller.random.choice(SIZES)

    def __bool__(self) -> bool:
        self._disturb()
        return False

    def __len__(self) -> int:
        self._disturb()
        return 3

    def __getitem__(self, i: int) -> Any:
        self._disturb()
        if i > 3:
            raise IndexError
        return self._caller.buffer()

    def __repr__(self) -> str:
        return "Sneak"


class Arguments:
    """Makes arguments. The tables of calls use the names of the methods."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.depth = 0

    def step(self) -> None:
        """Makes a call of any kind, for a Sneak."""
        raise NotImplementedError

    def chance(self, n: int) -> bool:
        return self.random.randrange(n) == 0

    def batch(self) -> Any:
        return self.random.choice(tuple(self.world.batches))

    def number(self) -> Any:
        kind = self.random.randrange(8)
        if kind == 0:
            return self.random.choice(EDGES)
        if kind == 1:
            return Sneak(self)
        return self.random.randrange(10)

    def size(self) -> Any:
        if self.chance(10):
            return self.random.choice((-1, 2**62, 2**63, Sneak(self)))
        return self.random.choice(SIZES)

    def flag(self) -> Any:
        return self.random.choice((None, False, True, Sneak(self)))

    def timeout(self) -> Any:
        return self.random.choice(TIMEOUTS)

    def mode(self) -> Any:
        return self.random.choice(MODES)

    def option(self) -> Any:
        return self.random.choice(OPTIONS)

    def value(self) -> Any:
        if self.chance(3):
            return self.random.randbytes(self.random.randrange(40))
        return self.random.choice((0, 1, 2, 4096, self.number()))

    def payload(self) -> bytes:
        size = self.random.choice(SIZES)
        start = bytes.fromhex("ffffffffffff02000000000188b5")
        return (start + self.random.randbytes(64)).ljust(size)[:size]

    def buffer(self) -> Any:
        kind = self.random.randrange(8)
        if kind < 3:
            return self.payload()
        if kind == 3:
            return self.random.choice(tuple(self.world.buffers))
        if kind == 4:
            return array.array("H", range(self.random.randrange(40)))
        view = self.random.choice(tuple(self.world.views))
        if kind == 5 and view.ndim == 1:
            step = self.random.choice((1, 1, 2, -1))
            return view[self.random.randrange(20) :: step]
        return view

    def packets(self) -> Any:
        kind = self.random.randrange(8)
        if kind < 3:
            return self.batch()
        if kind == 3:
            return Sneak(self)
        if kind == 4:
            return self.buffer()
        count = self.random.choice((0, 1, 2, 3, 8, 8, 1030))
        packets = [self.buffer() for _ in range(min(count, 8))]
        if self.chance(2):
            packets += [tuple(packets[: self.random.randrange(4)])]
        return packets * (count // 8 or 1)

    def filter(self) -> Any:
        kind = self.random.randrange(10)
        if kind == 0:
            return self.random.choice(EXPRESSIONS)
        if kind == 1:
            return self.random.choice((-1, 0, 1, 2**31))
        if kind == 2:
            return self.random.randbytes(8 * self.random.randrange(8))
        if kind == 3:
            codes = (0x28, 0x30, 0x15, 0x06, 0x16, 0xB1, 0x40, 0x05)
            return program(
                *(
                    (self.random.choice(codes), 0, self.random.randrange(3), n)
                    for n in range(self.random.randrange(1, 6))
                ),
                (6, 0, 0, self.random.choice(SIZES)),
            )
        if kind == 4:
            return self.buffer()
        if kind == 5:
            return accept(0)
        return self.random.choice(
            (accept(), keep_ethertype(LOCAL_EXPERIMENTAL))
        )

    def fanout(self) -> Any:
        mode = self.mode()
        if self.chance(2):
            return mode
        given = (self.number(), self.number(), self.filter())
        return (mode, *given[: self.random.randrange(4)])

    def interface(self) -> Any:
        if self.chance(8):
            return self.random.choice(LINKS)
        return self.random.choice(self.world.interfaces)

    def hardware(self) -> Any:
        if self.chance(4):
            return self.buffer()
        return b"\1" + self.random.randbytes(5)

    def address(self) -> Any:
        """An address of AF_PACKET or of another family."""
        kind = self.random.randrange(6)
        if kind == 0:
            return self.random.choice(PEERS)
        if kind < 3 and self.world.peers:
            return self.random.choice(tuple(self.world.peers)).getsockname()
        if kind == 3:
            return (
                self.random.choice(self.world.interfaces),
                LOCAL_EXPERIMENTAL,
            )
        hardware = self.random.randbytes(self.random.choice((6, 6, 0, 8, 30)))
        fields = (self.interface(), self.random.choice((0, 3, 0x800, -1)))
        return (*fields, 0, 1, hardware)[: self.random.choice((1, 2, 5, 5))]

    def addresses(self) -> Any:
        kind = self.random.randrange(4)
        if kind == 0:
            return True
        if kind == 1:
            return Sneak(self)
        if kind == 2:
            return self.address()
        return [self.address()] * self.random.randrange(5)

    def maybe_wrong(self, make: Callable[[], Any]) -> Any:
        return self.random.choice(WRONG) if self.chance(25) else make()
