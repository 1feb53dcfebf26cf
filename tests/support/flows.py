"""Frames of a flow, some of them changed in one place, and what merging makes
of them."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from rawmmsg import GSO_NONE, GSO_UDP_L4, SUPER_FRAME, PacketBatch
from support.datagrams import (
    CHECKSUM_OFFSETS,
    TCP,
    UDP,
    Datagram,
    checksum,
    data,
)

IP: Final = 14
"""Where the IP header begins in a frame without tags."""


def numbered_flow(first: Datagram, sizes: Sequence[int]) -> list[Datagram]:
    """Consecutive datagrams of a flow, with these sizes of payload."""
    made: list[Datagram] = []
    content, sent = data(sum(sizes)), 0
    for number, size in enumerate(sizes):
        made.append(
            replace(
                first,
                payload=content[sent : sent + size],
                ident=(first.ident + number) % 2**16,
                sequence=(first.sequence + sent) % 2**32,
            )
        )
        sent += size
    return made


def build(datagrams: Iterable[Datagram]) -> list[bytes]:
    return [one.build() for one in datagrams]


def repaired(frame: bytes) -> bytes:
    """The frame, which has no tags and no extension headers, with right
    checksums."""
    made = bytearray(frame)
    if made[IP] >> 4 == 4:
        transport = IP + (made[IP] & 15) * 4
        protocol = made[IP + 9]
        made[IP + 10 : IP + 12] = b"\0\0"
        value = checksum(bytes(made[IP:transport]))
        struct.pack_into("!H", made, IP + 10, value)
        addresses = made[IP + 12 : IP + 20]
    else:
        transport = IP + 40
        protocol = made[IP + 6]
        addresses = made[IP + 8 : IP + 40]
    at = transport + CHECKSUM_OFFSETS[protocol]
    struct.pack_into("!H", made, at, 0)
    size = len(made) - transport
    pseudo = addresses + struct.pack("!II", size, protocol)
    value = checksum(bytes(pseudo + made[transport:]))
    if value == 0 and protocol == UDP:
        value = 0xFFFF
    struct.pack_into("!H", made, at, value)
    return bytes(made)


def edited(frame: bytes, at: int, value: bytes) -> bytes:
    """The frame with other bytes there and nothing else changed."""
    return frame[:at] + value + frame[at + len(value) :]


def changed(frame: bytes, at: int, value: bytes) -> bytes:
    """The same, with checksums that are right for them."""
    return repaired(edited(frame, at, value))


def batch_with(frames: Sequence[bytes]) -> PacketBatch:
    """A batch that holds the frames, and has room for no more."""
    size = max((len(frame) for frame in frames), default=1)
    batch = PacketBatch(max(1, len(frames)), max(1, size))
    batch.extend(frames)
    return batch


def large_target(capacity: int = 64) -> PacketBatch:
    return PacketBatch(capacity, SUPER_FRAME)


def held(batch: PacketBatch, i: int) -> int:
    """How many frames a piece holds."""
    if batch.gso_types[i] == GSO_NONE:
        return 1
    start = batch.checksum_starts[i]
    is_udp = batch.gso_types[i] == GSO_UDP_L4
    size = 8 if is_udp else 4 * (batch[i][start + 12] >> 4)
    payload = batch.lengths[i] - start - size
    return -(-payload // batch.gso_sizes[i])


def pieces(batch: PacketBatch) -> list[int]:
    """How many frames each piece holds."""
    return [held(batch, i) for i in range(len(batch))]


def cut_again(batch: PacketBatch) -> list[bytes]:
    """What segment_into() makes of the whole batch."""
    target = PacketBatch(256, SUPER_FRAME)
    frames: list[bytes] = []
    at = 0, 0
    while at[0] < len(batch):
        at = batch.segment_into(target, *at)
        frames += target.tolist()
    return frames


def tuned(frame: bytes, transport: int, payload: int) -> bytes:
    """The frame with another payload, of which the checksum is 0 (which UDP
    writes as 0xffff)."""
    protocol = TCP if payload - transport >= 20 else UDP
    at = transport + CHECKSUM_OFFSETS[protocol]
    word = payload + (payload - transport) % 2
    zero = edited(frame, word, b"\0\0")
    value = repaired(zero)[at : at + 2]
    made = repaired(edited(zero, word, value))
    assert made[at : at + 2] in (b"\0\0", b"\xff\xff")
    return made
