"""The kernel of a receiving host agrees: it accepts what compute_checksums()
has written, and refuses what verify_checksums() calls bad."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.calls import eventually
from support.datagrams import (
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Datagram,
    data,
)
from support.hosts import Host, host
from support.linux import ETHTOOL_SRXCSUM, ethtool, hardware_address, ip
from support.sums import batch_of

from rawmmsg import CHECKSUM_BAD, CHECKSUM_GOOD, PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

PORT = 9  # that of the test's datagrams
OTHER4, OTHER6 = "198.51.100.77", "2001:db8::77"
"""More addresses of the host."""

KINDS = {
    "tcp4": Datagram(),
    "tcp6": Datagram(version=6),
    "udp4": Datagram(protocol=UDP),
    "udp6": Datagram(protocol=UDP, version=6),
    "icmp": Datagram(protocol=ICMP),
    "icmpv6": Datagram(protocol=ICMPV6, version=6),
    "IPv4 options": Datagram(protocol=UDP, options=bytes([1] * 12)),
    "TCP options": Datagram(tcp_options=bytes([1] * 8)),
    "IPv6 extensions": Datagram(
        # It takes no more than 7 bytes of padding in one option.
        protocol=UDP,
        version=6,
        extensions=(HOP_BY_HOP, (60, HOP_BY_HOP[1])),
    ),
}
SIZES = [*range(24), 99, 100, 1399, 1400]

# What the kernel counts for a packet with a right checksum: a datagram that
# was delivered, the answer to a segment of no connection, an echo request.
ACCEPTED = {
    (UDP, 4): "Udp:InDatagrams",
    (UDP, 6): "Udp6InDatagrams",
    (TCP, 4): "Tcp:OutRsts",
    (TCP, 6): "Tcp:OutRsts",
    (ICMP, 4): "Icmp:InEchos",
    (ICMPV6, 6): "Icmp6InEchos",
}
# And for one with a wrong checksum.
REFUSED = {
    (UDP, 4): "Udp:InCsumErrors",
    (UDP, 6): "Udp6InCsumErrors",
    (TCP, 4): "Tcp:InCsumErrors",
    (TCP, 6): "Tcp:InCsumErrors",
    (ICMP, 4): "Icmp:InCsumErrors",
    (ICMPV6, 6): "Icmp6InCsumErrors",
}


@dataclass
class Lab:
    """A host that verifies every checksum, and the socket that leads to it."""

    host: Host
    address: bytes
    sender: RawSocket
    sockets: list[socket.socket]

    def aim(self, datagram: Datagram) -> bytes:
        """The datagram with the host's addresses and wrong checksums."""
        packet = bytearray(datagram.build())
        packet[:6] = self.address
        if datagram.version == 4:
            family, source, at = socket.AF_INET, "198.51.100.1", 26
        else:
            family, source, at = socket.AF_INET6, "2001:db8::1", 22
        addresses = socket.inet_pton(family, source)
        addresses += socket.inet_pton(family, self.host.address(family))
        packet[at : at + len(addresses)] = addresses
        return bytes(packet)

    def send(
        self, batch: PacketBatch, counters: dict[str, int]
    ) -> list[bytes]:
        """Sends the batch. Asserts that the host's counters increase by as
        much as they must, and returns the datagrams that it receives."""
        before = self.host.counters()
        self.sender.sendmmsg_all(batch)
        found = []

        def grown() -> dict[str, int]:
            # The kernel verifies a datagram when it is read.
            for sock in self.sockets:
                with suppress(BlockingIOError):
                    while True:
                        found.append(sock.recv(4000))
            now = self.host.counters()
            return {name: now[name] - before[name] for name in counters}

        eventually(
            lambda: sum(grown().values()) >= sum(counters.values()),
            "the host does not receive every packet",
        )
        assert grown() == counters
        return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        veth: Veth = stack.enter_context(veth_pair())
        address = hardware_address(veth.a)
        made = stack.enter_context(host(veth, 2))
        # Otherwise a veth device calls every packet of this machine right.
        made.call(ethtool, veth.a, ETHTOOL_SRXCSUM, 0)
        for other in (f"{OTHER4}/24", f"{OTHER6}/64"):
            made.call(ip, *f"addr add {other} dev {veth.a} nodad".split())
        sender = stack.enter_context(RawSocket(veth.b, protocol=0))
        sockets = []
        for family in (socket.AF_INET, socket.AF_INET6):
            sock = made.call(socket.socket, family, socket.SOCK_DGRAM)
            sockets.append(stack.enter_context(sock))
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", PORT))
        yield Lab(made, address, sender, sockets)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_kernel_accepts_what_was_computed(
    lab: Lab, datagram: Datagram
) -> None:
    made = [replace(datagram, payload=data(size)) for size in SIZES]
    key = datagram.protocol, datagram.version
    batch = batch_of([lab.aim(one) for one in made])
    assert batch.verify_checksums() == bytes([CHECKSUM_BAD] * len(made))
    assert batch.compute_checksums() == len(made)
    found = lab.send(batch, {ACCEPTED[key]: len(made), REFUSED[key]: 0})
    if datagram.protocol == UDP:
        assert found == [one.payload for one in made]


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_kernel_refuses_what_is_bad(lab: Lab, datagram: Datagram) -> None:
    """A change of each bit of the checksum and of the last byte."""
    one = replace(datagram, payload=data(33))
    right = batch_of([lab.aim(one)])
    right.compute_checksums()
    (packet,) = right.tolist()
    field = one.transport_offset + {TCP: 16, UDP: 6}.get(one.protocol, 2)
    wrong = []
    for at in (field, field + 1, len(packet) - 1):
        for bit in range(8):
            changed = bytearray(packet)
            changed[at] ^= 1 << bit
            wrong.append(bytes(changed))
    batch = batch_of([packet, *wrong])
    assert batch.verify_checksums().tolist() == (
        [CHECKSUM_GOOD] + [CHECKSUM_BAD] * len(wrong)
    )
    key = one.protocol, one.version
    lab.send(batch, {ACCEPTED[key]: 1, REFUSED[key]: len(wrong)})


def test_kernel_refuses_headers_that_are_bad(lab: Lab) -> None:
    one = Datagram(data(33), UDP, options=bytes([1] * 4))
    right = batch_of([lab.aim(one)])
    right.compute_checksums()
    (packet,) = right.tolist()
    wrong = []
    for at in (18, 22, 24, 25, 26, 37):
        changed = bytearray(packet)
        changed[at] ^= 0x10
        wrong.append(bytes(changed))
    batch = batch_of([packet, *wrong])
    assert batch.verify_checksums().tolist() == (
        [CHECKSUM_GOOD] + [CHECKSUM_BAD] * len(wrong)
    )
    lab.send(batch, {"Udp:InDatagrams": 1, "Ip:InHdrErrors": len(wrong)})


def test_kernel_assembles_fragments_with_computed_headers(lab: Lab) -> None:
    """The transport checksum in the first one was computed before."""
    one = Datagram(data(2000), UDP)
    whole = batch_of([lab.aim(one)])
    whole.compute_checksums()
    (packet,) = whole.tolist()
    fragments = []
    for start in range(0, len(packet) - 34, 800):
        body = packet[34 + start : 34 + start + 800]
        more = 34 + start + len(body) < len(packet)
        header = bytearray(packet[:34])
        header[16:18] = (20 + len(body)).to_bytes(2, "big")
        word = start // 8 | (0x2000 if more else 0)
        header[20:22] = word.to_bytes(2, "big")
        fragments.append(bytes(header) + body)
    batch = batch_of(fragments)
    assert batch.compute_checksums() == len(fragments)
    counters = {"Ip:ReasmOKs": 1, "Udp:InDatagrams": 1}
    assert lab.send(batch, counters) == [one.payload]


def set_option(version: int, names: list[str], interface: str) -> None:
    """Sets options of the interface, and those of all, to 1."""
    for name in names:
        for which in ("all", interface):
            path = f"/proc/sys/net/ipv{version}/conf/{which}/{name}"
            Path(path).write_text("1")


@pytest.mark.parametrize("version", [4, 6])
def test_kernel_accepts_packets_with_a_source_route(
    lab: Lab, version: int
) -> None:
    """It passes the packet on to another of its addresses, and takes that for
    the pseudo-header."""
    if version == 4:
        final = socket.inet_pton(socket.AF_INET, OTHER4)
        route = bytes([1, 131, 7, 4]) + final
        one = Datagram(data(50), UDP, options=route)
        names = ["accept_source_route"]
    else:
        final = socket.inet_pton(socket.AF_INET6, OTHER6)
        near = socket.inet_pton(socket.AF_INET6, "2001:db8::2")
        segments = bytes([0, 4, 4, 1, 1, 0, 0, 0]) + final + near
        one = Datagram(data(50), UDP, 6, extensions=((43, segments),))
        names = ["seg6_enabled"]
    lab.host.call(set_option, version, names, lab.host.interface)
    batch = batch_of([lab.aim(one)])
    batch.compute_checksums()
    assert batch.verify_checksums() == bytes([CHECKSUM_GOOD])
    counters = {ACCEPTED[UDP, version]: 1, REFUSED[UDP, version]: 0}
    assert lab.send(batch, counters) == [one.payload]
