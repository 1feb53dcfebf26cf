"""Recordings in plain Python: what the formats say, block by block.

The byte order is that of struct: "<" or ">".
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Order: TypeAlias = Literal["<", ">"]

ETHERNET: Final = 1
SECOND: Final = 1_700_000_000
MICROSECONDS: Final = 0xA1B2C3D4
NANOSECONDS: Final = 0xA1B23C4D

# Codes of options.
IF_NAME, IF_DESCRIPTION, IF_TSRESOL, IF_FILTER, IF_TSOFFSET = 2, 3, 9, 11, 14
EPB_FLAGS, EPB_DROPCOUNT = 2, 4
ISB_IFRECV, ISB_IFDROP = 4, 5


@dataclass(frozen=True)
class Packet:
    """A packet, its time in units of the file, and its length on the wire
    if it was cut."""

    data: bytes
    time: int = 0
    wire_length: int | None = None

    @property
    def wire(self) -> int:
        return len(self.data) if self.wire_length is None else self.wire_length


def pcap_header(
    order: Order = "<",
    magic: int = MICROSECONDS,
    snap_length: int = 65535,
    link_type: int = ETHERNET,
    version: tuple[int, int] = (2, 4),
) -> bytes:
    fields = (*version, 0, 0, snap_length, link_type)
    return struct.pack(f"{order}IHHiIII", magic, *fields)


def pcap_record(
    seconds: int, fraction: int, packet: Packet, order: Order = "<"
) -> bytes:
    lengths = (len(packet.data), packet.wire)
    header = struct.pack(f"{order}IIII", seconds, fraction, *lengths)
    return header + packet.data


def pcap(
    packets: Iterable[Packet],
    order: Order = "<",
    magic: int = MICROSECONDS,
    snap_length: int = 65535,
) -> bytes:
    """A whole file; times are fractions of a second, after SECOND."""
    return pcap_header(order, magic, snap_length) + b"".join(
        pcap_record(SECOND, packet.time, packet, order) for packet in packets
    )


def options(
    pairs: Iterable[tuple[int, bytes]], order: Order = "<", end: bool = True
) -> bytes:
    found = b""
    for code, value in pairs:
        found += struct.pack(f"{order}HH", code, len(value)) + value
        found += bytes(-len(value) % 4)
    return found + (bytes(4) if found and end else b"")


def block(kind: int, body: bytes, order: Order = "<") -> bytes:
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(
    order: Order = "<",
    version: tuple[int, int] = (1, 0),
    pairs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    fields = struct.pack(f"{order}IHHq", 0x1A2B3C4D, *version, -1)
    return block(0x0A0D0D0A, fields + options(pairs, order), order)


def interface(
    order: Order = "<",
    link_type: int = ETHERNET,
    snap_length: int = 0,
    pairs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    fields = struct.pack(f"{order}HHI", link_type, 0, snap_length)
    return block(1, fields + options(pairs, order), order)


def enhanced(
    packet: Packet,
    order: Order = "<",
    number: int = 0,
    pairs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    fields = struct.pack(
        f"{order}IIIII",
        *(number, packet.time >> 32, packet.time & 0xFFFFFFFF),
        *(len(packet.data), packet.wire),
    )
    body = fields + packet.data + bytes(-len(packet.data) % 4)
    return block(6, body + options(pairs, order), order)


def old_packet(
    packet: Packet,
    order: Order = "<",
    number: int = 0,
    drops: int = 0xFFFF,
    pairs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    fields = struct.pack(
        f"{order}HHIIII",
        *(number, drops, packet.time >> 32, packet.time & 0xFFFFFFFF),
        *(len(packet.data), packet.wire),
    )
    body = fields + packet.data + bytes(-len(packet.data) % 4)
    return block(2, body + options(pairs, order), order)


def simple(packet: Packet, order: Order = "<") -> bytes:
    body = struct.pack(f"{order}I", packet.wire) + packet.data
    return block(3, body + bytes(-len(packet.data) % 4), order)


def statistics(
    order: Order = "<",
    number: int = 0,
    pairs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    fields = struct.pack(f"{order}III", number, 0, 0)
    return block(5, fields + options(pairs, order), order)


def numbered(count: int, size: int = 60) -> list[Packet]:
    """Packets that differ, a microsecond apart."""
    return [
        Packet(number.to_bytes(4, "big") + bytes(size - 4), number)
        for number in range(count)
    ]


def _pcapng(order: Order) -> bytes:
    """A file with all kinds of blocks."""
    packet = Packet(bytes(range(61)), 1 << 40 | 7, 99)
    flags = struct.pack(f"{order}I", 2)
    lost = struct.pack(f"{order}Q", 3)
    pairs = [(EPB_FLAGS, flags), (EPB_DROPCOUNT, lost), (1, b"comment")]
    resolution = [(IF_NAME, b"eth0"), (IF_TSRESOL, b"\x8a")]
    offset = [(IF_TSOFFSET, struct.pack(f"{order}q", -5))]
    return b"".join(
        [
            section(order, pairs=[(1, b"a comment")]),
            interface(order),
            enhanced(packet, order),
            block(0xBAD, b"unknown!", order),
            interface(order, 101, 40, resolution + offset),
            enhanced(packet, order, 1, pairs),
            old_packet(packet, order, 1, 2),
            simple(Packet(bytes(40), 0, 60), order),
            statistics(order, 1, [(ISB_IFRECV, lost), (ISB_IFDROP, lost)]),
            section(">" if order == "<" else "<"),
        ]
    )


SAMPLES: Final = {
    "pcap": pcap(numbered(3)),
    "pcap, big-endian": pcap(numbered(3), ">"),
    "pcap, ns": pcap(numbered(3), "<", NANOSECONDS),
    "pcap, big-endian, ns": pcap(numbered(3), ">", NANOSECONDS),
    "pcapng": _pcapng("<"),
    "pcapng, big-endian": _pcapng(">"),
}
"""A small file of each kind."""
