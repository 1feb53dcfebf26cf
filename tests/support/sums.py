"""Frames whose checksums are computed or verified from scratch."""

from collections.abc import Sequence
from typing import Final

from rawmmsg import PacketBatch
from support.datagrams import (
    CHECKSUM_OFFSETS,
    DESTINATION,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    ROUTING,
    SCTP,
    UDP,
    Datagram,
    checksum,
)

CHECKED: Final = {
    "tcp4": Datagram(),
    "tcp6": Datagram(version=6),
    "udp4": Datagram(protocol=UDP),
    "udp6": Datagram(protocol=UDP, version=6),
    "icmp": Datagram(protocol=ICMP),
    "icmpv6": Datagram(protocol=ICMPV6, version=6),
    "sctp4": Datagram(protocol=SCTP),
    "sctp6": Datagram(protocol=SCTP, version=6),
    "IPv4 options": Datagram(protocol=UDP, options=bytes([1] * 40)),
    "TCP options": Datagram(tcp_options=bytes([1] * 40)),
    "ICMP options": Datagram(protocol=ICMP, options=bytes([1] * 4)),
    "IPv6 extensions": Datagram(
        version=6, extensions=(HOP_BY_HOP, ROUTING, DESTINATION)
    ),
    "ICMPv6 extension": Datagram(
        protocol=ICMPV6, version=6, extensions=(HOP_BY_HOP,)
    ),
}
"""Every protocol that has a checksum, in every form."""


def network_of(datagram: Datagram) -> int:
    """The offset of the IP header."""
    return 14 + 4 * len(datagram.tags)


def header_field(datagram: Datagram) -> slice:
    """Where the checksum of the IPv4 header is in a frame."""
    at = network_of(datagram) + 10
    return slice(at, at + 2)


def transport_field(datagram: Datagram) -> slice:
    """Where the checksum of the transport header is in a frame."""
    at = datagram.transport_offset + CHECKSUM_OFFSETS[datagram.protocol]
    return slice(at, at + (4 if datagram.protocol == SCTP else 2))


def overwritten(datagram: Datagram, byte: int) -> bytes:
    """The frame, with this byte in place of its checksums."""
    frame = bytearray(datagram.build())
    fields = [transport_field(datagram)]
    if datagram.version == 4:
        fields.append(header_field(datagram))
    for field in fields:
        frame[field] = bytes([byte]) * (field.stop - field.start)
    return bytes(frame)


def with_header_checksum(frame: bytes | bytearray, network: int) -> bytes:
    """The frame with a right checksum in its IPv4 header, and with all else as
    it is."""
    changed = bytearray(frame)
    end = network + (changed[network] & 15) * 4
    changed[network + 10 : network + 12] = bytes(2)
    value = checksum(bytes(changed[network:end]))
    changed[network + 10 : network + 12] = value.to_bytes(2, "big")
    return bytes(changed)


def batch_of(frames: Sequence[bytes | bytearray]) -> PacketBatch:
    """A batch that holds the frames."""
    size = max((len(frame) for frame in frames), default=1)
    batch = PacketBatch(max(1, len(frames)), max(1, size))
    batch.extend(frames)
    return batch


def computed(frame: bytes | bytearray) -> bytes:
    """The frame after compute_checksums()."""
    batch = batch_of([frame])
    batch.compute_checksums()
    return batch.tolist()[0]


def status(frame: bytes | bytearray) -> int:
    """What verify_checksums() says of the frame."""
    (value,) = batch_of([frame]).verify_checksums()
    return value
