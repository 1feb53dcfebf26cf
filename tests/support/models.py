"""Other switches, which show what ours must do: each gets the same frames, one
after the other."""

import contextlib
import errno
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair
from support.frames import LOCAL_EXPERIMENTAL, frame
from support.linux import ip, run_iproute2
from support.switching import take

BROADCAST: Final = b"\xff" * 6
MARKING: Final = bytes.fromhex("020000000300")
"""The station that sends markers."""

# A switch is a host as well, which sends frames of its own. The EtherTypes of
# tags are among those that pass.
_SENT_BY_TESTS: Final = (
    "ether proto 0x88b5 or ether proto 0x8100 or ether proto 0x88a8"
    " or ether[12:2] < 1501"
)


@dataclass
class Ends:
    """The far ends of the ports of a switch. The last port only sends markers,
    one in each VLAN of `markers`: the VLAN in which an end gets its marker, by
    the number of the port. 0: without a tag."""

    sockets: list[RawSocket]
    markers: Sequence[int] = ()
    links: list[Veth] = field(default_factory=list)
    down: set[int] = field(default_factory=set)
    """Ends where nothing can arrive."""
    _count: int = 0

    def __post_init__(self) -> None:
        self.markers = self.markers or [0] * (len(self.sockets) - 1)

    def step(self, port: int, *packets: bytes) -> list[list[bytes]]:
        """Sends frames. Returns what arrives at each end."""
        self.sockets[port].sendmmsg_all(packets)
        # A switch may look at the ports in any order. When a first marker has
        # arrived, it has looked at the last port after the frames were sent.
        # Before it looks there again, it looks at all others.
        first, second = self._mark(), self._mark()
        return [a + b for a, b in zip(first, second, strict=True)]

    def _mark(self) -> list[list[bytes]]:
        """Sends markers. Returns what arrives at each end before them."""
        self._count += 1
        text = b"marker %d" % self._count
        marker = frame(text.ljust(46, b"."), BROADCAST, MARKING)
        for vlan in set(self.markers):
            tag = b"\x81\0" + vlan.to_bytes(2, "big") if vlan else b""
            sent = marker[:12] + tag + marker[12:]
            self.sockets[-1].sendmmsg_all([sent])
        return [
            [] if port in self.down else _take_until(end, text)
            for port, end in enumerate(self.sockets[:-1])
        ]


def _take_until(end: RawSocket, text: bytes) -> list[bytes]:
    """Takes frames until the marker, and returns those that are not
    markers."""
    arrived: list[bytes] = []
    while not any(text + b"." in packet for packet in arrived):
        try:
            arrived += take(end, 1)
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # it was down before
                raise
    return [packet for packet in arrived if packet[6:12] != MARKING]


@contextlib.contextmanager
def far_ends(count: int, markers: Sequence[int] = ()) -> Iterator[Ends]:
    """Makes veth pairs. A switch gets their ends `b`."""
    with contextlib.ExitStack() as opened:
        links = [opened.enter_context(veth_pair()) for _ in range(count)]
        sockets = [
            opened.enter_context(
                RawSocket(link.a, ignore_outgoing=True, filter=_SENT_BY_TESTS)
            )
            for link in links
        ]
        yield Ends(sockets, markers, links)


# ---- The kernel's bridge ----------------------------------------------------

# All groups 01:80:c2:00:00:0x except that of PAUSE, net/bridge/br_private.h.
_LINK_LOCAL: Final = "0xfffd"


class KernelBridge:
    """`ends`: those of its ports. Link-local groups pass; otherwise the bridge
    would take their frames."""

    def __init__(self, name: str, ends: Ends) -> None:
        self.name = name
        self.ends = ends

    def isolate(self, port: int) -> None:
        device = self.ends.links[port].b
        run_iproute2("bridge", "link", "set", "dev", device, "isolated", "on")

    def forward_link_local(self, mask: str) -> None:
        """Bit x: frames to 01:80:c2:00:00:0x."""
        for link in self.ends.links:
            slave = ("type", "bridge_slave", "group_fwd_mask", mask)
            ip("link", "set", "dev", link.b, *slave)

    def knows(self, address: bytes) -> bool:
        table = run_iproute2("bridge", "fdb", "show", "br", self.name)
        return address.hex(":") in table

    def is_forwarding(self, port: int) -> bool:
        shown = run_iproute2("bridge", "link", "show")
        device = f"{self.ends.links[port].b}@"
        return any(
            device in line and "state forwarding" in line
            for line in shown.splitlines()
        )


@contextlib.contextmanager
def kernel_bridge(ports: int, ageing: int = 300) -> Iterator[KernelBridge]:
    """A bridge of the kernel with one port more, for markers."""
    name = f"kbr{os.getpid()}"
    options = ("mcast_snooping", "0", "ageing_time", str(100 * ageing))
    ip("link", "add", "name", name, "type", "bridge", *options)
    try:
        ip("link", "set", "dev", name, "addrgenmode", "none", "up")
        with far_ends(ports + 1) as ends:
            for link in ends.links:
                ip("link", "set", "dev", link.b, "master", name)
            bridge = KernelBridge(name, ends)
            bridge.forward_link_local(_LINK_LOCAL)
            yield bridge
    finally:
        ip("link", "delete", "dev", name)


# ---- Random frames ----------------------------------------------------------

STATIONS: Final = [bytes((2, 0, 0, 0, 1, i)) for i in range(10)]
UNKNOWN: Final = [bytes((2, 0, 0, 0, 2, i)) for i in range(3)] + [bytes(6)]
GROUPS: Final = [
    BROADCAST,
    bytes.fromhex("01005e0a0b0c"),
    bytes.fromhex("33330000abcd"),
    bytes.fromhex("0180c2000000"),
    bytes.fromhex("0180c2000002"),
    bytes.fromhex("0180c200000e"),
    bytes.fromhex("0180c200000f"),
    bytes.fromhex("0180c2000010"),
]
BAD_SOURCES: Final = [bytes(6), bytes.fromhex("0300000000ff"), BROADCAST]
"""Not addresses of stations."""

# In place of an EtherType, a length: IEEE 802.3 with LLC.
ETHERTYPES: Final = (LOCAL_EXPERIMENTAL, LOCAL_EXPERIMENTAL, 38)
SIZES: Final = (0, 1, 46, 46, 46, 46, 400, 1500)
"""Of the payload: the shortest and the longest frames of an interface."""


def random_packet(
    rng: random.Random, number: int, ports: int, bad: float = 0.05
) -> tuple[int, bytes]:
    """A port, and a frame to send there. Stations move at times."""
    source = rng.randrange(len(STATIONS))
    port = source % ports if rng.random() < 0.9 else rng.randrange(ports)
    address = STATIONS[source]
    if rng.random() < bad:
        address = rng.choice(BAD_SOURCES)
    to = rng.choice(rng.choice([STATIONS, STATIONS, UNKNOWN, GROUPS]))
    text = (b"%d" % number).ljust(1500, b".")[: rng.choice(SIZES)]
    return port, frame(text, to, address, rng.choice(ETHERTYPES))


def shown(seen: Mapping[str, list[list[bytes]]]) -> str:
    """What each switch sent to which port, for a failure message."""
    return "; ".join(
        f"{name}: "
        + ", ".join(
            f"port {port} gets {packet[:22].hex()}"
            for port, packets in enumerate(arrived)
            for packet in packets
        )
        for name, arrived in seen.items()
    )
