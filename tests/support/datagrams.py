"""Ethernet frames that hold TCP, UDP, SCTP or an ICMP echo request, before and
after the work of offload hardware. Plain Python, independent of the C code and
the kernel."""

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from rawmmsg import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    PACKET_VNET_HDR,
    SOL_PACKET,
    SUPER_FRAME,
    VNET_NEEDS_CSUM,
    PacketBatch,
)
from support.frames import BROADCAST, SOURCE
from support.linux import ETHTOOL_STXCSUM, ethtool

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132
CHECKSUM_OFFSETS: Final = {TCP: 16, UDP: 6, SCTP: 8, ICMP: 2, ICMPV6: 2}

FIN: Final = 0x01
PSH: Final = 0x08
ACK: Final = 0x10
ECE: Final = 0x40
CWR: Final = 0x80

Q: Final = 0x8100
AD: Final = 0x88A8
TAGS: Final[dict[str, tuple[int, ...]]] = {
    "plain": (),
    "tag": (Q,),
    "two tags": (AD, Q),
    "three": (AD, Q, Q),
}

HEADER_COLUMNS: Final = (
    "vnet_flags",
    "gso_types",
    "header_lengths",
    "gso_sizes",
    "checksum_starts",
    "checksum_offsets",
)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def data(size: int) -> bytes:
    """Bytes without a pattern that repeats within the size of the headers."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@dataclass(frozen=True)
class Datagram:
    """The fields of a frame. Options and extension headers are given as bytes;
    the next header, the first byte of an extension, is filled in. `final` is
    the address at the end of a source route in them."""

    payload: bytes = b""
    protocol: int = TCP
    version: int = 4
    tags: tuple[int, ...] = ()
    options: bytes = b""
    extensions: tuple[tuple[int, bytes], ...] = ()
    ident: int = 0xFFFE
    sequence: int = 0xFFFFF000
    flags: int = ACK
    tcp_options: bytes = b""
    final: bytes = b""
    port: int = 7
    """The source port of TCP and UDP."""

    @property
    def transport_offset(self) -> int:
        extensions = sum(len(one) for _, one in self.extensions)
        network = 20 + len(self.options) if self.version == 4 else 40
        return 14 + 4 * len(self.tags) + network + extensions

    @property
    def header_size(self) -> int:
        transport = len(self._transport())
        return self.transport_offset + transport

    @property
    def gso_type(self) -> int:
        if self.protocol == UDP:
            return GSO_UDP_L4
        return GSO_TCPV4 if self.version == 4 else GSO_TCPV6

    def build(self, *, whole: bool = True) -> bytes:
        """Returns the frame. If not `whole`, the checksum field holds only the
        sum of the pseudo header (0 for SCTP, which has none), as a sender
        leaves it to the hardware."""
        head = self._transport()
        size = len(head) + len(self.payload)
        network, pseudo = self._network(size)
        if self.protocol == SCTP:
            crc = crc32c(head + self.payload) if whole else 0
            head = head[:8] + crc.to_bytes(4, "little")
            return self._link() + network + head + self.payload
        if whole:
            value = checksum(pseudo + head + self.payload)
            if value == 0 and self.protocol == UDP:
                value = 0xFFFF
        else:
            value = ~checksum(pseudo) & 0xFFFF
        at = CHECKSUM_OFFSETS[self.protocol]
        head = head[:at] + value.to_bytes(2, "big") + head[at + 2 :]
        return self._link() + network + head + self.payload

    def segments(self, gso_size: int) -> list[bytes]:
        """The frames that segmentation makes of it, with complete
        checksums."""
        count = -(-len(self.payload) // gso_size)
        return [
            self._segment(i, count, gso_size).build() for i in range(count)
        ]

    def _segment(self, i: int, count: int, gso_size: int) -> "Datagram":
        flags = self.flags
        if i > 0:
            flags &= ~CWR
        if i < count - 1:
            flags &= ~(FIN | PSH)
        return replace(
            self,
            payload=self.payload[i * gso_size : (i + 1) * gso_size],
            ident=(self.ident + i) % 2**16,
            sequence=(self.sequence + i * gso_size) % 2**32,
            flags=flags,
        )

    def _link(self) -> bytes:
        tags = b"".join(
            struct.pack("!HH", tpid, 0x2000 + number)
            for number, tpid in enumerate(self.tags, 1)
        )
        ethertype = 0x0800 if self.version == 4 else 0x86DD
        return BROADCAST + SOURCE + tags + struct.pack("!H", ethertype)

    def _network(self, size: int) -> tuple[bytes, bytes]:
        """The IP header and the pseudo header. A length that needs more than
        16 bits is written as 0, as in frames of more than 64 KiB."""
        if self.version == 4:
            source, target = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
            header = 20 + len(self.options)
            total = header + size if header + size <= 0xFFFF else 0
            ip = struct.pack(
                "!BBHHHBBH4s4s",
                *(0x40 | header // 4, 1, total, self.ident, 0x4000, 64),
                *(self.protocol, 0, source, target),
            )
            ip += self.options
            ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        else:
            source, target = bytes(15) + b"\1", bytes(15) + b"\2"
            first, extensions = self._extensions()
            total = size + len(extensions)
            total = total if total <= 0xFFFF else 0
            ip = struct.pack("!IHBB", 0x61234567, total, first, 64)
            ip += source + target + extensions
        if self.protocol == ICMP:
            return ip, b""
        pseudo = source + (self.final or target)
        return ip, pseudo + struct.pack("!II", size, self.protocol)

    def _extensions(self) -> tuple[int, bytes]:
        following, chain = self.protocol, b""
        for number, content in reversed(self.extensions):
            chain = bytes([following]) + content[1:] + chain
            following = number
        return following, chain

    def _transport(self) -> bytes:
        if self.protocol == UDP:
            return struct.pack("!HHHH", self.port, 9, 8 + len(self.payload), 0)
        if self.protocol == SCTP:
            return struct.pack("!HHII", 7, 9, 0x12345678, 0)
        if self.protocol in (ICMP, ICMPV6):
            kind = 8 if self.protocol == ICMP else 128  # echo request
            return struct.pack("!BBHHH", kind, 0, 0, 0x1234, 1)
        words = 5 + len(self.tcp_options) // 4
        head = struct.pack(
            "!HHIIBBHHH",
            *(self.port, 9, self.sequence, 0x12345678, words << 4),
            *(self.flags, 512, 0, 0),
        )
        return head + self.tcp_options


def zeroing(datagram: Datagram) -> Datagram:
    """The same datagram, with two bytes of payload more that make its checksum
    0. (In UDP, it is then sent as 0xffff.)"""
    longer = replace(datagram, payload=datagram.payload + b"\0\0")
    at = datagram.transport_offset + CHECKSUM_OFFSETS[datagram.protocol]
    value = longer.build()[at : at + 2]
    return replace(datagram, payload=datagram.payload + value)


def columns(batch: PacketBatch) -> dict[str, Any]:
    """The columns of the offload header by name."""
    return {name: getattr(batch, name) for name in HEADER_COLUMNS}


def add(batch: PacketBatch, datagram: Datagram, gso_size: int = 0) -> None:
    """Appends the datagram with an open checksum, as a super-frame if
    `gso_size` is given."""
    i = len(batch)
    batch.append(datagram.build(whole=False))
    write_header(
        batch,
        i,
        vnet_flags=VNET_NEEDS_CSUM,
        gso_types=datagram.gso_type if gso_size else GSO_NONE,
        gso_sizes=gso_size,
        header_lengths=datagram.header_size if gso_size else 0,
        checksum_starts=datagram.transport_offset,
        checksum_offsets=CHECKSUM_OFFSETS[datagram.protocol],
    )


def write_header(batch: PacketBatch, i: int, **fields: int) -> None:
    for name, value in fields.items():
        columns(batch)[name][i] = value


def send_open(interface: str, datagrams: Iterable[Datagram]) -> None:
    """Sends each datagram with an open checksum, as the kernel does on a
    device with checksum offload. Without rawmmsg, which would complete SCTP's
    checksum itself."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.bind((interface, 0))
        for one in datagrams:
            header = struct.pack(
                "=BBHHHH",
                *(VNET_NEEDS_CSUM, GSO_NONE, 0, 0),
                *(one.transport_offset, CHECKSUM_OFFSETS[one.protocol]),
            )
            sock.send(header + one.build(whole=False))


def leave_checksums_to_software(interface: str) -> None:
    """Disables transmit checksum offload, like `ethtool -K tx off`. The kernel
    then completes checksums and cuts super-frames in software
    (net/core/dev.c:validate_xmit_skb()) before the device sees them."""
    ethtool(interface, ETHTOOL_STXCSUM, 0)


KINDS: Final = {
    "tcp4": Datagram(),
    "tcp6": Datagram(version=6),
    "udp4": Datagram(protocol=UDP),
    "udp6": Datagram(protocol=UDP, version=6),
}

HOP_BY_HOP: Final = (0, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
DESTINATION: Final = (60, bytes([0, 1, 1, 12, *bytes(12)]))
# An experimental routing type (RFC 4727): no host uses its addresses.
ROUTING: Final = (43, bytes([0, 0, 253, 0, 0, 0, 0, 0]))
JUMBO: Final = (0, bytes([0, 0, 0xC2, 4, 0, 1, 0x20, 0]))
TIMESTAMPS: Final = bytes([1, 1, 8, 10, *range(8)])

SHAPES: Final = {
    "IPv4 options": Datagram(options=bytes([1] * 40)),
    "IPv6 extension": Datagram(version=6, extensions=(HOP_BY_HOP,)),
    "IPv6 extensions": Datagram(
        version=6, extensions=(HOP_BY_HOP, DESTINATION)
    ),
    "IPv6 routing": Datagram(version=6, extensions=(ROUTING, DESTINATION)),
    "UDP behind an extension": Datagram(
        version=6, protocol=UDP, extensions=(DESTINATION,)
    ),
    "UDP behind options": Datagram(protocol=UDP, options=bytes([1] * 4)),
    "TCP options": Datagram(tcp_options=TIMESTAMPS),
    "most TCP options": Datagram(version=6, tcp_options=bytes([1] * 40)),
    "FIN and PSH": Datagram(flags=ACK | FIN | PSH),
    "CWR": Datagram(flags=ACK | CWR | ECE),
    "all flags": Datagram(version=6, flags=0xFF),
}


def super_frame(datagram: Datagram, gso_size: int) -> PacketBatch:
    """A batch that holds one super-frame."""
    batch = PacketBatch(1, 2 * SUPER_FRAME)
    add(batch, datagram, gso_size)
    return batch
