"""Fuzzes the offload code with libFuzzer: checksums, segments, merging.

    python tests/fuzz/offload.py --seconds 600

Builds two programs beside this file with clang, AddressSanitizer and
UndefinedBehaviorSanitizer, and runs each for that time. Inputs of offload.c
are frames, at first those of the tests. Inputs of merging.c are choices from
which it makes flows of frames. An input that breaks a promise is kept in the
working directory, and how to repeat it is printed.

Needs clang with libFuzzer (on Debian: apt install clang), but neither
privilege nor pytest.
"""

import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1]))

import libfuzzer
from support.datagrams import (
    CHECKSUM_OFFSETS,
    ICMP,
    ICMPV6,
    SCTP,
    TAGS,
    TCP,
    UDP,
    Datagram,
    Q,
    data,
    zeroing,
)

from rawmmsg import GSO_ECN, GSO_NONE, VNET_NEEDS_CSUM

ROW: Final = 17
"""The bytes before a frame: see offload.c."""

HOP_BY_HOP: Final = (0, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
DESTINATION: Final = (60, bytes([0, 1, 1, 12, *bytes(12)]))
JUMBO: Final = (0, bytes([0, 0, 0xC2, 4, 0, 1, 0x20, 0]))


def datagrams() -> Iterator[Datagram]:
    """Of each protocol and version; with tags, options and extensions."""
    payload = data(200)
    for protocol in (TCP, UDP, SCTP):
        for version in (4, 6):
            plain = Datagram(payload, protocol, version)
            # The kernel looks behind 8 tags at most.
            for tags in (*TAGS.values(), (Q,) * 8, (Q,) * 9):
                yield replace(plain, tags=tags)
            if version == 4:
                yield replace(plain, options=bytes([1] * 12))
            else:
                for extension in (HOP_BY_HOP, DESTINATION, JUMBO):
                    yield replace(plain, extensions=(extension,))
    yield Datagram(payload, tcp_options=bytes([1] * 12), flags=0xFF)


def complete_row(frame: bytes) -> bytes:
    """A frame of which nothing is left to hardware."""
    return bytes(12) + struct.pack("<HHB", len(frame), 0, 0) + frame


def routed() -> Iterator[Datagram]:
    """Echo requests, checksums of 0, and datagrams with source routes."""
    payload = data(200)
    yield Datagram(payload, ICMP)
    yield Datagram(payload, ICMPV6, version=6)
    yield zeroing(Datagram(payload, TCP))
    yield zeroing(Datagram(payload, UDP))
    for kind, used in ((131, 4), (137, 4), (131, 12)):
        route = bytes([1, kind, 11, used, *range(8)])
        yield Datagram(payload, UDP, options=route)
    for kind in (0, 2, 4, 253):
        segments = bytes([0, 2, kind, 1, *bytes(4), *range(16)])
        for protocol in (UDP, ICMPV6):
            yield Datagram(payload, protocol, 6, extensions=((43, segments),))


def row(
    datagram: Datagram,
    gso_size: int = 0,
    *,
    whole: bool = False,
    length: int | None = None,
    more: int = 0,
    stated: bool = True,
) -> bytes:
    """A frame and its header, as offload.c reads them. The frame is cut to
    `length` bytes, or followed by `more`. If not `stated`, the length in its
    IP header is 0, which stands for more than 64 KiB."""
    frame = bytearray(datagram.build(whole=whole)[:length])
    network = 14 + 4 * len(datagram.tags)
    at = network + (2 if datagram.version == 4 else 4)
    size = len(frame) - network - (0 if datagram.version == 4 else 40)
    if len(frame) >= at + 2:
        struct.pack_into("!H", frame, at, max(size, 0) if stated else 0)
    header = struct.pack(
        "=BBHHHHH",
        *(0 if whole else VNET_NEEDS_CSUM,),
        *(datagram.gso_type if gso_size else GSO_NONE,),
        *(0, gso_size, datagram.transport_offset),
        *(CHECKSUM_OFFSETS[datagram.protocol], 0),
    )
    return header + struct.pack("<HHB", len(frame), more // 2, 0) + frame


def settings(rows: int = 4, room: int = 2048) -> bytes:
    """The beginning of an input: the target, the first segment, 0, and how to
    merge: 4 flows, up to 64 segments, ids kept."""
    return struct.pack("<BHHBBH", rows - 1, room, 0, 255, 2, 0)


def inputs() -> Iterator[bytes]:
    """Each datagram with its checksum, without, as a super-frame, and as
    frames that can be merged, for rows that are just large enough or too
    short; some datagrams together; and one of more than 64 KiB."""
    for one in datagrams():
        size = len(one.build())
        yield settings() + row(one, whole=True)
        for room in (size, size - 1):
            yield settings(room=room) + row(one)
        if one.protocol != SCTP:
            yield settings() + row(one, 70, whole=one.protocol == TCP)
            for room in (one.header_size + 70, one.header_size + 69):
                yield settings(room=room) + row(one, 70) + row(one)
        if len(one.tags) in (0, 2):
            yield from cut_inputs(one)
        if one.protocol != SCTP:
            for room in (2048, one.header_size + 140):
                yield settings(room=room) + b"".join(
                    map(complete_row, one.segments(70))
                )
    for one in routed():
        yield settings() + row(one, whole=True)
        frame = bytearray(row(one, whole=True))
        if one.version == 4:  # the first of some fragments
            frame[ROW + 14 + 6] |= 0x20
            yield settings() + frame
    some = [row(one, 70) for one in datagrams() if one.protocol != SCTP]
    yield settings() + b"".join(some[:4])
    jumbo = Datagram(data(200), version=6, extensions=(JUMBO,))
    yield settings() + row(jumbo, 1400, more=70_000, stated=False)
    ecn = bytearray(row(Datagram(data(200)), 70))
    ecn[1] |= GSO_ECN
    yield settings() + ecn


def cut_inputs(one: Datagram) -> Iterator[bytes]:
    """The datagram, cut after each byte of its headers."""
    for length in range(13, one.header_size + 2):
        yield settings() + row(one, length=length)
        for stated in (True, False):
            cut = partial(row, one, 70, length=length, stated=stated)
            yield settings() + cut()
            yield settings() + cut(whole=True)


def choices() -> Iterator[bytes]:
    """What merging.c makes frames from."""
    rng = random.Random(1)
    for size in (20, 50, 100, 200, 400):
        for _ in range(20):
            yield rng.randbytes(size)


def main() -> None:
    libfuzzer.main(
        __doc__,
        "_rawmmsg_offload.c",
        {"offload": inputs, "merging": choices},
    )


if __name__ == "__main__":
    main()
