"""merge_into() makes no super-frame that the kernel would drop, or would
deliver with another meaning than its frames."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest
from support.datagrams import (
    ACK,
    AD,
    CWR,
    ECE,
    HOP_BY_HOP,
    Datagram,
    Q,
    checksum,
    leave_checksums_to_software,
)
from support.frames import pending, receive, same_frames
from support.merging import UDP4, UDP6, flow

from rawmmsg import (
    CHECKSUM_BAD,
    CHECKSUM_GOOD,
    GSO_NONE,
    SUPER_FRAME,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

TCP4: Final = Datagram()
TCP6: Final = Datagram(version=6)
ANOTHER: Final = bytes(15) + b"\x03"


def merged(frames: list[bytes]) -> PacketBatch:
    source = PacketBatch(len(frames), max(map(len, frames)))
    source.extend(frames)
    target = PacketBatch(len(frames), SUPER_FRAME)
    assert source.merge_into(target) == len(frames)
    return target


def with_low_bits(frames: list[bytes], bits: int) -> list[bytes]:
    """The frames of TCP, which have no tags and no options, with these bits
    beside the length of the header: accurate ECN has one there."""
    made = []
    for frame in frames:
        changed = bytearray(frame)
        changed[46] |= bits
        (old,) = struct.unpack_from("!H", frame, 50)
        value = checksum(struct.pack("!HH", old ^ 0xFFFF, bits << 8))
        struct.pack_into("!H", changed, 50, value)
        made.append(bytes(changed))
    return made


def first_with_cwr(first: Datagram) -> list[bytes]:
    rest = flow(replace(first, flags=ACK | ECE), 20)
    return [
        *flow(replace(first, flags=ACK | ECE | CWR), 1),
        *rest[1:],
    ]


FLOWS: Final[dict[str, list[bytes]]] = {
    "TCP by bytes": flow(TCP4, 64, 1),
    "TCP over IPv6 by bytes": flow(TCP6, 64, 1),
    "UDP by bytes": flow(UDP4, 64, 1),
    "UDP over IPv6 by bytes": flow(UDP6, 64, 1),
    "longest for IPv4": flow(UDP4, 46, 1423),
    "longest for IPv6": flow(UDP6, 46, 1422),
    "no flags": flow(replace(TCP4, flags=0), 20),
    "CWR": first_with_cwr(TCP4),
    "CWR over IPv6": first_with_cwr(TCP6),
    "accurate ECN": with_low_bits(flow(TCP4, 20), 1),
    "accurate ECN and CWR": with_low_bits(first_with_cwr(TCP4), 1),
    "reserved bits": with_low_bits(flow(TCP4, 20), 0b1110),
    "recorded route": flow(
        replace(TCP4, options=bytes([7, 39, 4, *bytes(37)])), 20
    ),
    "router alert": flow(replace(UDP4, options=bytes([148, 4, 0, 0])), 20),
    "used source route": flow(
        replace(UDP4, options=bytes([131, 7, 8, 10, 9, 0, 1, 0])), 20
    ),
    "many tags": flow(replace(TCP4, tags=(AD, *[Q] * 6)), 20),
    "many tags before UDP": flow(replace(UDP6, tags=(AD, *[Q] * 6)), 20),
    "tags and extension": flow(
        replace(TCP6, tags=(AD, Q), extensions=(HOP_BY_HOP,)), 20
    ),
}


@pytest.fixture
def software(veth: Veth) -> Iterator[tuple[RawSocket, RawSocket]]:
    """A socket whose super-frames the kernel cuts, and one that receives
    complete frames."""
    leave_checksums_to_software(veth.a)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(veth.b, ignore_outgoing=True) as receiver,
    ):
        yield sender, receiver


@pytest.mark.parametrize("frames", FLOWS.values(), ids=FLOWS)
def test_kernel_cuts_what_is_merged_into_the_same_frames(
    software: tuple[RawSocket, RawSocket], frames: list[bytes]
) -> None:
    sender, receiver = software
    batch = merged(frames)
    assert len(batch) == 1
    sender.sendmmsg_all(batch)
    same_frames(receive(receiver, len(frames)), frames)
    assert pending(receiver) == []


@pytest.mark.parametrize("first", [TCP4, TCP6, UDP4, UDP6])
@pytest.mark.parametrize("tags", [8, 9])
def test_more_tags_than_the_kernel_skips_are_not_merged(
    software: tuple[RawSocket, RawSocket], first: Datagram, tags: int
) -> None:
    """A super-frame with them gives ENOMEM, or is lost behind a qdisc."""
    sender, receiver = software
    frames = flow(replace(first, tags=(Q,) * tags), 5)
    batch = merged(frames)
    same_frames(batch.tolist(), frames)
    sender.sendmmsg_all(batch)
    same_frames(receive(receiver, 5), frames)


def routing(kind: int, left: int) -> tuple[int, bytes]:
    """A routing header with one address."""
    return 43, bytes([0, 2, kind, left, 0, 0, 0, 0]) + ANOTHER


ROUTED: Final = {
    "loose": replace(UDP4, options=bytes([131, 7, 4, 10, 9, 0, 3, 0])),
    "strict": replace(TCP4, options=bytes([137, 7, 4, 10, 9, 0, 3, 0])),
    "type 0": replace(UDP6, extensions=(routing(0, 1),)),
    "type 2": replace(TCP6, extensions=(routing(2, 1),)),
    "segments": replace(TCP6, extensions=(HOP_BY_HOP, routing(4, 1))),
}


@pytest.mark.parametrize("first", ROUTED.values(), ids=ROUTED)
def test_frame_on_its_way_along_a_source_route_is_not_merged(
    first: Datagram,
) -> None:
    """Its checksum covers the last destination. The receiver of a super-frame
    would take every checksum for right, also one that covers the next."""
    last = ANOTHER if first.version == 6 else bytes([10, 9, 0, 3])
    for final, status in ((b"", CHECKSUM_BAD), (last, CHECKSUM_GOOD)):
        frames = flow(replace(first, final=final), 5)
        batch = merged(frames)
        same_frames(batch.tolist(), frames)
        assert batch.gso_types[:5].tolist() == [GSO_NONE] * 5
        assert batch.verify_checksums().tolist() == [status] * 5


def test_route_of_an_unknown_type_is_not_merged() -> None:
    """Nobody knows which destination its checksum covers."""
    frames = flow(replace(UDP6, extensions=(routing(253, 1),)), 5)
    same_frames(merged(frames).tolist(), frames)
