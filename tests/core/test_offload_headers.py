"""Offload headers (virtio_net_hdr): frames that are sent and received with
them, and frames completed in software for sockets without them."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from support import WAIT
from support.calls import packets_sent, raises
from support.datagrams import (
    ACK,
    CWR,
    FIN,
    HEADER_COLUMNS,
    KINDS,
    PSH,
    TAGS,
    Datagram,
    Q,
    add,
    columns,
    data,
    write_header,
)
from support.frames import datagram_pair, frame, number_of, numbered

from rawmmsg import (
    CHECKSUM_NOT_READY,
    GSO_TCPV4,
    PACKET_VNET_HDR,
    SOL_PACKET,
    SUPER_FRAME,
    VLAN_RESTORED,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

MSS = 1448


def row(batch: PacketBatch, i: int) -> dict[str, int]:
    return {name: column[i] for name, column in columns(batch).items()}


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
    """Receives until a frame that begins with `wanted` arrives."""
    batch = PacketBatch(8, SUPER_FRAME)
    while True:
        for i in range(sock.recvmmsg_into(batch)):
            if bytes(batch[i][: len(wanted)]) == wanted:
                return batch, i


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_super_frame_is_received_with_its_header(
    ends: tuple[RawSocket, RawSocket], datagram: Datagram
) -> None:
    """A received batch is sent on unchanged."""
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, replace(datagram, payload=data(50_000)), MSS)
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
def test_vnet_hdr_is_the_size_of_the_header(pair: Veth, size: Any) -> None:
    with RawSocket(pair.b, vnet_hdr=size) as sock:
        assert sock.vnet_hdr == (12 if size == 12 else 10)
        assert sock.getsockopt(SOL_PACKET, PACKET_VNET_HDR) == 1
        batch = PacketBatch(1)
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(frame(data(50)))
        sock.settimeout(WAIT)
        sock.recvmmsg_into(batch)
        assert hasattr(batch, "buffer_counts") == (size == 12)


def test_offsets_in_the_header_include_a_restored_tag(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(data(9000), tags=(Q,)), MSS)
    packet = bytes(batch[0])
    assert ends[0].sendmmsg(batch) == 1
    got, i = receive_one(ends[1], packet[:60])
    assert bytes(got[i]) == packet
    assert got.flags[i] & VLAN_RESTORED
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


def test_plain_buffers_are_sent_with_a_zero_header(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    packet = frame(data(100))
    sent = ends[0].sendmmsg([packet, (packet[:14], packet[14:])])
    assert sent == 2
    got, i = receive_one(ends[1], packet)
    assert set(row(got, i).values()) == {0}


def test_batch_without_headers_is_sent_with_zero_headers(
    ends: tuple[RawSocket, RawSocket], pair: Veth
) -> None:
    """The batch was filled by a plain socket after it had held a
    super-frame."""
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(data(9000)), MSS)
    with RawSocket(pair.a) as plain, RawSocket(pair.b, protocol=0) as peer:
        packet = frame(data(60))
        peer.send(packet)
        plain.settimeout(WAIT)
        plain.recvmmsg_into(batch)
        assert not hasattr(batch, "gso_types")
        assert ends[0].sendmmsg(batch) == 1
    got, i = receive_one(ends[1], packet)
    assert set(row(got, i).values()) == {0}


def test_calls_for_one_packet_are_refused(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    for instead, call in (
        ("recvmmsg_into", lambda: ends[0].recv(100)),
        ("recvmmsg_into", lambda: ends[0].recv_into(bytearray(100))),
        ("sendmmsg", lambda: ends[0].send(frame())),
    ):
        with raises(errno.EOPNOTSUPP, f"vnet_hdr; use {instead}"):
            call()


# Filling a batch


def test_append_and_clear_zero_headers_and_set_count_keeps_them() -> None:
    batch = PacketBatch(2, 9000)
    add(batch, Datagram(data(4000)), MSS)
    batch.set_count(2)
    assert row(batch, 0)["gso_types"] == GSO_TCPV4
    batch.set_count(0)
    batch.append(b"x" * 60)
    assert set(row(batch, 0).values()) == {0}
    columns(batch)["gso_types"][1] = GSO_TCPV4
    batch.clear()
    assert set(row(batch, 1).values()) == {0}


def hide_headers(batch: PacketBatch) -> None:
    """Fills the batch with headers, then receives on a socket without them."""
    batch.clear()
    for i in range(batch.capacity):
        batch.append(b"x" * 60)
        write_header(batch, i, **dict.fromkeys(HEADER_COLUMNS, 1))
        batch.buffer_counts[i] = 1
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.settimeout(WAIT)
        sender.send(b"packet")
        assert receiver.recvmmsg_into(batch) == 1
    assert not hasattr(batch, "gso_types")


def shown(batch: PacketBatch) -> set[int]:
    """Every row of every header column."""
    values = [*columns(batch).values(), batch.buffer_counts]
    return {value for column in values for value in column}


def cut_a_frame_into(target: PacketBatch) -> None:
    source = PacketBatch(1)
    source.append(b"x" * 60)
    source.segment_into(target)


FILLS: dict[str, Callable[[PacketBatch], object]] = {
    "set_count": lambda batch: batch.set_count(1),
    "set_count to 0": lambda batch: batch.set_count(0),
    "append": lambda batch: batch.append(b"x"),
    "extend": lambda batch: batch.extend([b"x", b"y"]),
    "clear": PacketBatch.clear,
    "segment_into": cut_a_frame_into,
}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_hidden_headers_do_not_reappear(
    fill: Callable[[PacketBatch], object],
) -> None:
    """In no row, however many frames are declared later."""
    batch = PacketBatch(4)
    hide_headers(batch)
    fill(batch)
    assert shown(batch) == {0}
    batch.set_count(4)
    assert shown(batch) == {0}


def test_target_of_segments_has_no_old_headers() -> None:
    """Not even those of frames that it held before."""
    target = PacketBatch(4)
    target.set_count(4)
    write_header(target, 3, **dict.fromkeys(HEADER_COLUMNS, 1))
    cut_a_frame_into(target)
    target.set_count(4)
    assert shown(target) == {0}


def test_buffer_counts_need_a_header_that_has_them(
    pair: Veth,
) -> None:
    """A header of 10 bytes has none."""
    batch = PacketBatch(2)
    batch.set_count(2)
    batch.buffer_counts[0] = batch.buffer_counts[1] = 7
    with (
        RawSocket(pair.a, protocol=0) as sender,
        RawSocket(pair.b, vnet_hdr=10) as receiver,
    ):
        receiver.settimeout(WAIT)
        sender.send(frame(data(60)))
        receiver.recvmmsg_into(batch)
    batch.set_count(1)
    assert not hasattr(batch, "buffer_counts")
    batch.append(b"x")
    assert not hasattr(batch, "buffer_counts")
    batch.clear()
    assert shown(batch) == {0}


# Frames that cannot be sent


def test_frame_that_needs_its_header_is_refused_without_one() -> None:
    """The error names its index, after the frames before it were sent."""
    peer, sock = datagram_pair()
    with peer, sock:
        for gso_size, reason in (
            (MSS, "super-frame"),
            (0, "checksum is missing"),
        ):
            batch = PacketBatch(3, 9000)
            batch.append(b"good")
            add(batch, Datagram(data(4000)), gso_size)
            batch.append(b"last")
            assert sock.sendmmsg(batch) == 1
            with pytest.raises(ValueError, match=r"packet 1.*" + reason):
                sock.sendmmsg(batch, 1)
            assert sock.sendmmsg(batch, 2) == 1
            with pytest.raises(ValueError, match=r"packet 1") as caught:
                sock.sendmmsg_all(batch)
            assert packets_sent(caught.value) == 1


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_super_frame_bypasses_the_queue_if_hardware_cuts_it(
    ends: tuple[RawSocket, RawSocket], pair: Veth, datagram: Datagram
) -> None:
    """A veth pair says that its hardware does."""
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, replace(datagram, payload=data(50_000)), MSS)
    with RawSocket(
        pair.a, protocol=0, vnet_hdr=True, qdisc_bypass=True
    ) as sender:
        assert sender.sendmmsg(batch) == 1
    got, i = receive_one(ends[1], bytes(batch[0][:60]))
    assert bytes(got[i]) == bytes(batch[0])
    assert row(got, i) == row(batch, 0)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_super_frame_cannot_bypass_the_queue_otherwise(
    tap: tuple[int, str], datagram: Datagram
) -> None:
    """The kernel returns ENOBUFS, as for a full queue. Plain frames are
    sent."""
    descriptor, interface = tap
    batch = PacketBatch(3, SUPER_FRAME)
    batch.append(numbered(1))
    add(batch, replace(datagram, payload=data(20_000)), MSS)
    batch.append(numbered(2))
    with RawSocket(
        interface, protocol=0, vnet_hdr=True, qdisc_bypass=True
    ) as sock:
        sock.settimeout(0)
        assert sock.sendmmsg(batch) == 1
        with pytest.raises(OSError) as caught:
            sock.sendmmsg(batch, 1)
        assert caught.value.errno == errno.ENOBUFS
        assert sock.sendmmsg(batch, 2) == 1
        with pytest.raises(OSError) as caught:
            sock.sendmmsg_all(batch)
        assert caught.value.errno == errno.ENOBUFS
        assert packets_sent(caught.value) == 1
        found = [number_of(os.read(descriptor, SUPER_FRAME)) for _ in range(3)]
    assert found == [1, 2, 1]


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
    add(batch, Datagram(data(4000)), MSS)
    columns(batch)[column][1] = value
    assert ends[0].sendmmsg(batch) == 1
    with pytest.raises(ValueError, match=r"packet 1"):
        ends[0].sendmmsg(batch, 1)
    with pytest.raises(ValueError, match=r"packet 1"):
        batch.segment_into(PacketBatch(64), 1)


# Completing in software


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_checksums_are_completed(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    batch = PacketBatch(70, 9000)
    sizes = [*range(64), 1000, 1447, 1448, 8000]
    made = [replace(datagram, tags=tags, payload=data(n)) for n in sizes]
    for each in made:
        add(batch, each)
    assert batch.complete_checksums() == len(sizes)
    assert batch.tolist() == [each.build() for each in made]
    assert batch.complete_checksums() == 0


def test_received_frame_can_be_completed(
    ends: tuple[RawSocket, RawSocket],
) -> None:
    batch = PacketBatch(1)
    add(batch, Datagram(data(500)))
    ends[0].sendmmsg(batch)
    got, i = receive_one(ends[1], bytes(batch[0][:60]))
    assert got.flags[i] & CHECKSUM_NOT_READY
    assert got.complete_checksums() >= 1
    assert bytes(got[i]) == Datagram(data(500)).build()
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


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("size", "gso_size"), [(20_000, MSS), (2897, MSS), (4344, MSS), (999, 100)]
)
def test_super_frame_is_cut_into_complete_frames(
    datagram: Datagram, tags: tuple[int, ...], size: int, gso_size: int
) -> None:
    """If the target is small, segmentation continues from any point."""
    whole = replace(datagram, tags=tags, payload=b"before").build()
    big = replace(
        datagram, tags=tags, payload=data(size), flags=FIN | PSH | ACK | CWR
    )
    batch = PacketBatch(3, SUPER_FRAME)
    batch.append(whole)
    add(batch, big, gso_size)
    batch.append(whole)
    target = PacketBatch(4)
    cut: list[bytes] = []
    position = (0, 0)
    while position != (3, 0):
        position = batch.segment_into(target, *position)
        assert len(target) > 0
        assert set(row(target, 0).values()) == {0}
        cut += target.tolist()
    assert cut == [whole, *big.segments(gso_size), whole]


def test_segmentation_stops_before_an_invalid_frame() -> None:
    batch = PacketBatch(3, SUPER_FRAME)
    batch.append(b"a" * 60)
    batch.append(b"b" * 3000)
    batch.append(b"c" * 60)
    target = PacketBatch(8, 2048)
    assert batch.segment_into(target) == (1, 0)
    assert target.tolist() == [b"a" * 60]
    with pytest.raises(ValueError, match=r"packet 1"):
        batch.segment_into(target, 1)
    assert batch.segment_into(target, start=2) == (3, 0)
    assert target.tolist() == [b"c" * 60]


def test_batch_cannot_be_segmented_into_itself() -> None:
    batch = PacketBatch(1)
    with pytest.raises(BufferError):
        batch.segment_into(batch)
