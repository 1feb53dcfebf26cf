"""Offload headers: frames that travel as their sender made them, and what is
done for a sink that wants them whole."""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from frames import frame
from traffic import WAIT, datagram_pair

from rawmmsg import (
    CHECKSUM_NOT_READY,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    SUPER_FRAME,
    VLAN_RESTORED,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

SOL_PACKET = 263
PACKET_VNET_HDR = 15
MSS = 1448


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(
    payload: bytes,
    *,
    version: int = 4,
    protocol: int = socket.IPPROTO_TCP,
    tags: bytes = b"",
    sequence: int = 1000,
    flags: int = 0x10,
    ident: int = 7,
    whole: bool = True,
) -> bytes:
    """A frame of TCP or UDP; its checksum complete, or that of the pseudo
    header only, as a sender leaves it to the hardware."""
    if protocol == socket.IPPROTO_TCP:
        head = struct.pack(
            "!HHIIBBHHH", 1, 2, sequence, 9, 0x50, flags, 512, 0, 0
        )
        at = 16
    else:
        head = struct.pack("!HHHH", 1, 2, 8 + len(payload), 0)
        at = 6
    size = len(head) + len(payload)
    if version == 4:
        source, target = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
        pseudo = source + target + struct.pack("!BBH", 0, protocol, size)
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x45, 0, 20 + size, ident, 0x4000, 64, protocol, 0),
            *(source, target),
        )
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        ethertype = 0x0800
    else:
        source, target = bytes(15) + b"\1", bytes(15) + b"\2"
        pseudo = source + target + struct.pack("!II", size, protocol)
        ip = struct.pack("!IHBB", 6 << 28, size, protocol, 64)
        ip += source + target
        ethertype = 0x86DD
    if whole:
        value = checksum(pseudo + head + payload) or 0xFFFF
    else:
        value = ~checksum(pseudo) & 0xFFFF
    head = head[:at] + value.to_bytes(2, "big") + head[at + 2 :]
    made = frame(ip + head + payload, ethertype=ethertype)
    return made[:12] + tags + made[12:]


def add(
    batch: PacketBatch, packet: bytes, kind: int, gso_size: int = MSS
) -> None:
    """Appends a frame that `segment(whole=False)` made."""
    i = len(batch)
    batch.append(packet)
    tags = 0
    while packet[12 + tags : 14 + tags] in (b"\x81\0", b"\x88\xa8"):
        tags += 4
    version = packet[14 + tags] >> 4
    protocol = packet[23 + tags if version == 4 else 20 + tags]
    start = 14 + tags + (20 if version == 4 else 40)
    tcp = protocol == socket.IPPROTO_TCP
    columns(batch)["vnet_flags"][i] = VNET_NEEDS_CSUM
    columns(batch)["checksum_starts"][i] = start
    columns(batch)["checksum_offsets"][i] = 16 if tcp else 6
    if kind != GSO_NONE:
        columns(batch)["gso_types"][i] = kind
        columns(batch)["gso_sizes"][i] = gso_size
        columns(batch)["header_lengths"][i] = start + (20 if tcp else 8)


def columns(batch: PacketBatch) -> dict[str, Any]:
    names = [
        *("vnet_flags", "gso_types", "header_lengths", "gso_sizes"),
        *("checksum_starts", "checksum_offsets"),
    ]
    return {name: getattr(batch, name) for name in names}


def row(batch: PacketBatch, i: int) -> dict[str, int]:
    return {name: column[i] for name, column in columns(batch).items()}


def data(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


@pytest.fixture
def ends(pair: Veth) -> Iterator[tuple[RawSocket, RawSocket]]:
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                RawSocket(name, vnet_hdr=True, ignore_outgoing=True)
            )
            for name in (pair.a, pair.b)
        ]
        made[1].settimeout(WAIT)
        yield made[0], made[1]


def receive_one(sock: RawSocket, wanted: bytes) -> tuple[PacketBatch, int]:
    """Receives until a frame with this beginning is there."""
    batch = PacketBatch(8, SUPER_FRAME)
    while True:
        for i in range(sock.recvmmsg_into(batch)):
            if bytes(batch[i][: len(wanted)]) == wanted:
                return batch, i


def test_super_frame_travels_with_its_header(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    """And a batch that was received is sent again unchanged."""
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, segment(data(50_000), whole=False), GSO_TCPV4)
    assert ends[0].sendmmsg(batch) == 1
    got, i = receive_one(ends[1], bytes(batch[0][:60]))
    assert bytes(got[i]) == bytes(batch[0])
    assert row(got, i) == row(batch, 0)
    assert ends[1].sendmmsg(got, i) >= 1
    ends[0].settimeout(WAIT)
    again, k = receive_one(ends[0], bytes(batch[0][:60]))
    assert bytes(again[k]) == bytes(batch[0])
    assert row(again, k) == row(batch, 0)


@pytest.mark.parametrize("size", [True, 10, 12])
def test_header_size_is_told(pair: Veth, size: Any) -> None:
    with RawSocket(pair.b, vnet_hdr=size) as sock:
        assert sock.vnet_hdr == (12 if size == 12 else 10)
        assert sock.getsockopt(SOL_PACKET, PACKET_VNET_HDR) == 1
        batch = PacketBatch(1)
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(frame(data(50)))
        sock.settimeout(WAIT)
        sock.recvmmsg_into(batch)
        assert (batch.buffer_counts is not None) == (size == 12)
        assert batch.gso_types is not None


def test_restored_tag_moves_what_the_header_points_at(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    tags = struct.pack("!HH", 0x8100, 42)
    batch = PacketBatch(1, SUPER_FRAME)
    packet = segment(data(9000), tags=tags, whole=False)
    add(batch, packet, GSO_TCPV4)
    assert ends[0].sendmmsg(batch) == 1
    got, i = receive_one(ends[1], packet[:60])
    assert bytes(got[i]) == packet
    assert got.flags is not None
    assert got.flags[i] & VLAN_RESTORED
    assert got.checksum_starts is not None
    assert got.header_lengths is not None
    assert got.checksum_starts[i] == 38
    assert got.header_lengths[i] >= 58


def test_adopted_descriptor_keeps_its_headers(pair: Veth) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as std:
        std.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        std.bind((pair.b, 3))
        sock = RawSocket(fileno=std.fileno())
        assert sock.vnet_hdr == 10
        sock.detach()
        sock = RawSocket(fileno=std.fileno(), vnet_hdr=False)
        assert sock.vnet_hdr == 0
        sock.detach()
        assert std.getsockopt(SOL_PACKET, PACKET_VNET_HDR) == 0


def test_plain_buffers_go_with_a_zero_header(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    packet = frame(data(100))
    sent = ends[0].sendmmsg([packet, (packet[:14], packet[14:])])
    assert sent == 2
    got, i = receive_one(ends[1], packet)
    assert set(row(got, i).values()) == {0}


def test_batch_without_headers_goes_with_zeroes(
    ends: tuple[RawSocket, RawSocket], pair: Veth
) -> None:
    """What a plain socket has received, after a super-frame was there."""
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, segment(data(9000), whole=False), GSO_TCPV4)
    with RawSocket(pair.a) as plain, RawSocket(pair.b, protocol=0) as peer:
        packet = frame(data(60))
        peer.send(packet)
        plain.settimeout(WAIT)
        plain.recvmmsg_into(batch)
        assert batch.gso_types is None
        assert ends[0].sendmmsg(batch) == 1
    got, i = receive_one(ends[1], packet)
    assert set(row(got, i).values()) == {0}


def test_single_packet_calls_are_refused(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    for call in (
        lambda: ends[0].recv(100),
        lambda: ends[0].recv_into(bytearray(100)),
        lambda: ends[0].send(frame()),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EOPNOTSUPP


# Filling a batch


def test_append_and_clear_zero_headers_and_set_count_keeps_them() -> None:
    batch = PacketBatch(2, 9000)
    add(batch, segment(data(4000), whole=False), GSO_TCPV4)
    batch.set_count(2)
    assert row(batch, 0)["gso_types"] == GSO_TCPV4
    batch.set_count(0)
    batch.append(b"x" * 60)
    assert set(row(batch, 0).values()) == {0}
    columns(batch)["gso_types"][1] = GSO_TCPV4
    batch.clear()
    assert set(row(batch, 1).values()) == {0}


# What cannot be sent


def test_frame_that_needs_its_header_is_refused_without() -> None:
    """By its index, after those before it went out."""
    peer, sock = datagram_pair()
    with peer, sock:
        for kind, reason in (
            (GSO_TCPV4, "super-frame"),
            (GSO_NONE, "checksum is missing"),
        ):
            batch = PacketBatch(3, 9000)
            batch.append(b"good")
            add(batch, segment(data(4000), whole=False), kind)
            batch.append(b"last")
            assert sock.sendmmsg(batch) == 1
            with pytest.raises(ValueError, match=r"packets\[1\].*" + reason):
                sock.sendmmsg(batch, 1)
            assert sock.sendmmsg(batch, 2) == 1
            with pytest.raises(ValueError, match=r"packets\[1\]") as caught:
                sock.sendall(batch)
            assert caught.value.packets_sent == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("gso_types", 77),
        ("gso_sizes", 0),
        ("header_lengths", 60000),
        ("checksum_starts", 60000),
        ("checksum_offsets", 60000),
    ],
)
def test_header_that_does_not_fit_is_refused(
    ends: tuple[RawSocket, RawSocket], column: str, value: int
) -> None:
    batch = PacketBatch(2, 9000)
    batch.append(frame(data(60)))
    add(batch, segment(data(4000), whole=False), GSO_TCPV4)
    columns(batch)[column][1] = value
    assert ends[0].sendmmsg(batch) == 1
    with pytest.raises(ValueError, match=r"packets\[1\]"):
        ends[0].sendmmsg(batch, 1)
    with pytest.raises(ValueError, match=r"packets\[1\]"):
        batch.segment_into(PacketBatch(64), 1)


# For sinks without offloads

KINDS = [
    (4, socket.IPPROTO_TCP, GSO_TCPV4),
    (6, socket.IPPROTO_TCP, GSO_TCPV6),
    (4, socket.IPPROTO_UDP, GSO_UDP_L4),
    (6, socket.IPPROTO_UDP, GSO_UDP_L4),
]
TAGS = [b"", b"\x81\0\0\x2a", b"\x88\xa8\0\1\x81\0\0\2"]


@pytest.mark.parametrize("tags", TAGS, ids=["plain", "tag", "two tags"])
@pytest.mark.parametrize(("version", "protocol", "kind"), KINDS)
def test_checksums_are_completed(
    version: int, protocol: int, kind: int, tags: bytes
) -> None:
    assert kind in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4)
    batch = PacketBatch(70, 9000)
    shape: dict[str, Any] = {
        "version": version,
        "protocol": protocol,
        "tags": tags,
    }
    sizes = [*range(64), 1000, 1447, 1448, 8000]
    for size in sizes:
        add(batch, segment(data(size), whole=False, **shape), GSO_NONE)
    assert batch.complete_checksums() == len(sizes)
    assert batch.tolist() == [segment(data(n), **shape) for n in sizes]
    assert batch.complete_checksums() == 0


def test_received_frame_is_completed(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    batch = PacketBatch(1)
    add(batch, segment(data(500), whole=False), GSO_NONE)
    ends[0].sendmmsg(batch)
    got, i = receive_one(ends[1], bytes(batch[0][:60]))
    assert got.flags is not None
    assert got.flags[i] & CHECKSUM_NOT_READY
    assert got.complete_checksums() >= 1
    assert bytes(got[i]) == segment(data(500))
    assert not got.flags[i] & CHECKSUM_NOT_READY


def test_batch_without_headers_has_nothing_to_complete(pair: Veth) -> None:
    batch = PacketBatch(1)
    with RawSocket(pair.a, protocol=0) as sender, RawSocket(pair.b) as sock:
        sender.send(frame(data(60)))
        sock.settimeout(WAIT)
        sock.recvmmsg_into(batch)
    with pytest.raises(ValueError, match="no offload headers"):
        batch.complete_checksums()
    with pytest.raises(ValueError, match="no offload headers"):
        batch.segment_into(PacketBatch(1))


def expected(
    payload: bytes, protocol: int, gso_size: int, **shape: Any
) -> list[bytes]:
    """What the wire gets of a super-frame."""
    made = []
    for i, at in enumerate(range(0, len(payload), gso_size)):
        last = at + gso_size >= len(payload)
        # FIN and PSH belong to the last segment, CWR to the first.
        flags = 0x10 | (0x09 if last else 0) | (0x80 if i == 0 else 0)
        made.append(
            segment(
                payload[at : at + gso_size],
                protocol=protocol,
                sequence=(1000 + at) % 2**32,
                flags=flags,
                ident=7 + i,
                **shape,
            )
        )
    return made


@pytest.mark.parametrize("tags", TAGS, ids=["plain", "tag", "two tags"])
@pytest.mark.parametrize(("version", "protocol", "kind"), KINDS)
@pytest.mark.parametrize(
    ("size", "gso_size"), [(20_000, MSS), (2897, MSS), (4344, MSS), (999, 100)]
)
def test_super_frame_is_cut(
    version: int,
    protocol: int,
    kind: int,
    tags: bytes,
    size: int,
    gso_size: int,
) -> None:
    """Byte by byte, and from anywhere in it when the target is small."""
    payload = data(size)
    shape: dict[str, Any] = {"version": version, "tags": tags}
    batch = PacketBatch(3, SUPER_FRAME)
    whole = segment(b"before", protocol=protocol, **shape)
    batch.append(whole)
    big = segment(payload, protocol=protocol, whole=False, flags=0x99, **shape)
    add(batch, big, kind, gso_size)
    batch.append(whole)
    target = PacketBatch(4)
    cut: list[bytes] = []
    position = (0, 0)
    while position != (3, 0):
        position = batch.segment_into(target, *position)
        assert len(target) > 0
        assert set(row(target, 0).values()) == {0}
        cut += target.tolist()
    assert cut == [
        whole,
        *expected(payload, protocol, gso_size, **shape),
        whole,
    ]


def test_segmentation_stops_before_what_cannot_be_done() -> None:
    batch = PacketBatch(3, SUPER_FRAME)
    batch.append(b"a" * 60)
    batch.append(b"b" * 3000)
    batch.append(b"c" * 60)
    target = PacketBatch(8, 2048)
    assert batch.segment_into(target) == (1, 0)
    assert target.tolist() == [b"a" * 60]
    with pytest.raises(ValueError, match=r"packets\[1\]"):
        batch.segment_into(target, 1)
    assert batch.segment_into(target, start=2) == (3, 0)
    assert target.tolist() == [b"c" * 60]


def test_batch_is_not_segmented_into_itself() -> None:
    batch = PacketBatch(1)
    with pytest.raises(BufferError):
        batch.segment_into(batch)
