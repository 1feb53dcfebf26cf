"""VLAN tags: restored in the frame byte by byte, and reported in columns."""

import os
import socket
import struct
from collections.abc import Callable

import pytest
from support import WAIT
from support.frames import LOCAL_EXPERIMENTAL, frame, receive
from support.programs import accept, keep_ethertype

from rawmmsg import TRUNCATED, VLAN_RESTORED, PacketBatch, RawSocket
from rawmmsg.testing import Veth

PLAIN = frame(bytes(range(1, 61)))

# Each tag, outermost first: EtherType and tag control information.
TAGS: dict[str, list[tuple[int, int]]] = {
    "802.1Q": [(0x8100, 0x0064)],
    "802.1Q, all bits set": [(0x8100, 0xFFFF)],
    "802.1Q, priority and DEI": [(0x8100, 0xB123)],
    "priority only, id 0": [(0x8100, 0xE000)],
    "id 0, priority 0": [(0x8100, 0x0000)],
    "802.1ad": [(0x88A8, 0x0065)],
    "802.1ad, id 0, priority 0": [(0x88A8, 0x0000)],
    "802.1ad over 802.1Q": [(0x88A8, 0x0066), (0x8100, 0x2067)],
    "802.1Q twice": [(0x8100, 0x0068), (0x8100, 0x0069)],
    "three tags": [(0x88A8, 0x0001), (0x8100, 0x0002), (0x8100, 0x0003)],
}


def tagged(*tags: tuple[int, int], plain: bytes = PLAIN) -> bytes:
    inner = b"".join(struct.pack(">HH", *tag) for tag in tags)
    return plain[:12] + inner + plain[12:]


def receive_one(sock: RawSocket, batch: PacketBatch) -> bytes:
    """Receives one packet into the batch."""
    sock.settimeout(WAIT)
    assert sock.recvmmsg_into(batch) == 1
    return batch.tolist()[0]


def columns(batch: PacketBatch) -> tuple[int, int, int, int]:
    """EtherType and control information of the outer tag, wire length and
    flags of the first packet."""
    return (
        batch.vlan_tpids[0],
        batch.vlan_tcis[0],
        batch.wire_lengths[0],
        batch.flags[0],
    )


# Restoring tags


@pytest.mark.parametrize("name", TAGS)
def test_received_frame_equals_the_sent_frame(
    pair: Veth, sender: RawSocket, name: str
) -> None:
    sent = tagged(*TAGS[name])
    batch = PacketBatch()
    with RawSocket(pair.b) as sock:
        sender.send(sent)
        assert receive_one(sock, batch) == sent
        tpid, tci, wire_length, flags = columns(batch)
        assert (tpid, tci) == TAGS[name][0]
        assert wire_length == len(sent)
        assert flags & VLAN_RESTORED
        assert not flags & TRUNCATED


def test_kernel_strips_the_outer_tag(pair: Veth, sender: RawSocket) -> None:
    """This is why rawmmsg restores it. A socket of the standard library
    receives the frame without it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as std:
        std.settimeout(WAIT)
        std.bind((pair.b, 3))
        sender.send(tagged(*TAGS["802.1ad over 802.1Q"]))
        assert std.recv(2048) == tagged((0x8100, 0x2067))


def test_frame_without_a_tag_gets_none(pair: Veth, sender: RawSocket) -> None:
    batch = PacketBatch()
    with RawSocket(pair.b) as sock:
        sender.send(PLAIN)
        assert receive_one(sock, batch) == PLAIN
        assert columns(batch) == (0, 0, len(PLAIN), 0)


def test_tags_of_one_batch_are_not_mixed_up(
    pair: Veth, sender: RawSocket
) -> None:
    """Frames without a tag follow in rows that had one."""
    outer = [tags[0] for tags in TAGS.values()]
    sent = [tagged(*tags) for tags in TAGS.values()]
    mixed = [packet for one in sent for packet in (one, PLAIN)]
    expected = [tag for one in outer for tag in (one, (0, 0))]
    batch = PacketBatch(3)
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sender.sendmmsg_all(mixed)
        got: list[bytes] = []
        tags: list[tuple[int, int]] = []
        while len(got) < len(mixed):
            count = sock.recvmmsg_into(batch)
            got += batch.tolist()
            tags += zip(
                batch.vlan_tpids[:count], batch.vlan_tcis[:count], strict=True
            )
        assert got == mixed
        assert tags == expected


@pytest.mark.parametrize("name", ["802.1Q", "802.1ad over 802.1Q"])
def test_tag_of_an_outgoing_frame_is_reported(
    pair: Veth, sender: RawSocket, name: str
) -> None:
    """The kernel leaves that tag in the frame."""
    sent = tagged(*TAGS[name])
    batch = PacketBatch()
    with RawSocket(pair.a) as tap:
        sender.send(sent)
        assert receive_one(tap, batch) == sent
        tpid, tci, wire_length, flags = columns(batch)
        assert (tpid, tci) == TAGS[name][0]
        assert wire_length == len(sent)
        assert not flags & VLAN_RESTORED, (
            "the kernel did not leave the tag in the frame"
        )


@pytest.mark.parametrize("name", TAGS)
def test_frame_on_loopback_equals_the_sent_frame(name: str) -> None:
    sent = tagged(*TAGS[name])
    batch = PacketBatch()
    with (
        RawSocket("lo", protocol=0) as sender,
        RawSocket("lo") as sock,
    ):
        sender.send(sent)
        assert receive_one(sock, batch) == sent
        assert columns(batch)[:2] == TAGS[name][0]


def test_socket_on_all_interfaces_restores_tags(
    pair: Veth, sender: RawSocket
) -> None:
    sent = tagged((0x8100, 0x0064))
    with RawSocket(ignore_outgoing=True) as sock:
        sender.send(sent)
        assert receive(sock, 1) == [sent]


def test_socket_of_one_protocol_never_gets_the_tag(
    pair: Veth, sender: RawSocket
) -> None:
    """The kernel drops the tag before it calls the handlers of one protocol
    (net/core/dev.c:__netif_receive_skb_core())."""
    batch = PacketBatch()
    with RawSocket(pair.b, protocol=LOCAL_EXPERIMENTAL) as sock:
        sender.send(tagged((0x8100, 0x0064)))
        assert receive_one(sock, batch) == PLAIN
        assert columns(batch) == (0, 0, len(PLAIN), 0)


# Restoring tags into short frames

SIZES = range(1, 81)


@pytest.mark.parametrize("name", ["802.1Q", "802.1ad over 802.1Q"])
def test_short_row_holds_the_beginning_of_the_sent_frame(
    pair: Veth, sender: RawSocket, name: str
) -> None:
    sent = tagged(*TAGS[name])
    with RawSocket(pair.b) as sock:
        for size in SIZES:
            batch = PacketBatch(1, size)
            sender.send(sent)
            assert receive_one(sock, batch) == sent[:size]
            _, _, wire_length, flags = columns(batch)
            assert wire_length == len(sent)
            assert bool(flags & TRUNCATED) == (size < len(sent))


def test_tags_are_restored_in_scattered_buffers_of_every_size(
    pair: Veth, sender: RawSocket
) -> None:
    """Nothing is written after a buffer's end."""
    sent = tagged((0x8100, 0x0064))
    memory = [bytearray(b"\xee" * (size + 8)) for size in SIZES]
    views = [memoryview(one)[:-8] for one in memory]
    batch = PacketBatch(buffers=views)
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sender.sendmmsg_all([sent] * len(SIZES))
        while (count := sock.recvmmsg_into(batch)) < len(SIZES):
            # They came in more than one batch, so this sends all of them
            # again.
            for _ in range(len(SIZES) - count):
                sock.recv(1)
            sender.sendmmsg_all([sent] * len(SIZES))
    for size, one, view in zip(SIZES, memory, batch, strict=True):
        assert view == sent[:size]
        assert one[:size] == sent[:size].ljust(size, b"\xee")
        assert one[size:] == b"\xee" * 8, (
            f"bytes were written after the end of {size} bytes"
        )


def test_recv_restores_tags_at_every_size(
    pair: Veth, sender: RawSocket
) -> None:
    sent = tagged(*TAGS["802.1ad over 802.1Q"])
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        for size in (0, *SIZES, 2048):
            sender.send(sent)
            assert sock.recv(size) == sent[:size]


def test_recv_into_restores_tags_at_every_size(
    pair: Veth, sender: RawSocket
) -> None:
    sent = tagged((0x8100, 0x0064))
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        for size in SIZES:
            sender.send(sent)
            memory = bytearray(b"\xee" * 100)
            written = sock.recv_into(memory, size)
            assert written == min(size, len(sent))
            assert memory == sent[:written].ljust(100, b"\xee")


@pytest.mark.parametrize("kept", [1, 11, 12, 13, 14, 20])
def test_tag_is_restored_in_a_frame_cut_by_a_filter(
    pair: Veth, sender: RawSocket, kept: int
) -> None:
    """The filter's length does not include the tag."""
    sent = tagged((0x8100, 0x0064))
    batch = PacketBatch()
    with RawSocket(pair.b, filter=accept(kept)) as sock:
        sender.send(sent)
        got = receive_one(sock, batch)
        assert got == sent[: kept + 4 if kept >= 12 else kept]
        tpid, tci, wire_length, flags = columns(batch)
        assert (tpid, tci) == (0x8100, 0x0064)
        assert wire_length == len(sent)
        assert flags & TRUNCATED
        assert bool(flags & VLAN_RESTORED) == (kept >= 12)


@pytest.mark.parametrize("size", [12, 13, 14, 15, 16, 17])
def test_tag_of_a_cut_outgoing_frame_is_reported_if_present(
    pair: Veth, sender: RawSocket, size: int
) -> None:
    """It is read from the bytes that the frame has."""
    sent = tagged((0x8100, 0x0064))
    batch = PacketBatch(1, size)
    with RawSocket(pair.a) as tap:
        sender.send(sent)
        assert receive_one(tap, batch) == sent[:size]
        expected = (0x8100, 0x0064) if size >= 16 else (0, 0)
        assert columns(batch)[:2] == expected


# Without tags


def test_vlan_false_leaves_the_tag_out(pair: Veth, sender: RawSocket) -> None:
    batch = PacketBatch()
    with RawSocket(pair.b, vlan=False) as sock:
        sender.send(tagged((0x8100, 0x0064)))
        assert receive_one(sock, batch) == PLAIN
        assert not hasattr(batch, "vlan_tcis")
        assert not hasattr(batch, "vlan_tpids")
        assert not hasattr(batch, "wire_lengths")
        assert batch.flags[0] == 0


def test_columns_are_those_of_the_last_receive(
    pair: Veth, sender: RawSocket
) -> None:
    """Several sockets fill one batch in turn."""
    batch = PacketBatch()
    sent = tagged((0x8100, 0x0064))
    with (
        RawSocket(pair.b) as on,
        RawSocket(pair.b, vlan=False) as off,
    ):
        for _ in range(3):
            sender.send(sent)
            assert receive_one(on, batch) == sent
            assert columns(batch)[:2] == (0x8100, 0x0064)
            assert receive_one(off, batch) == PLAIN
            assert not hasattr(batch, "vlan_tcis")


# Frames that do not begin with an Ethernet header


@pytest.mark.parametrize("name", TAGS)
def test_dgram_reports_the_tag_in_columns(
    pair: Veth, sender: RawSocket, name: str
) -> None:
    batch = PacketBatch()
    with RawSocket(pair.b, type=socket.SOCK_DGRAM) as sock:
        sender.send(tagged(*TAGS[name]))
        got = receive_one(sock, batch)
        # The bytes after the outer tag and the EtherType that follows it.
        assert got == tagged(*TAGS[name])[18:]
        tpid, tci, _, flags = columns(batch)
        assert (tpid, tci) == TAGS[name][0]
        assert not flags & VLAN_RESTORED


def test_dgram_payload_that_looks_like_a_tag_is_payload(
    pair: Veth, sender: RawSocket
) -> None:
    batch = PacketBatch()
    payload = bytes(12) + bytes.fromhex("81000064") + bytes(30)
    with RawSocket(pair.b, type=socket.SOCK_DGRAM) as sock:
        sender.send(frame(payload))
        assert receive_one(sock, batch) == payload
        assert columns(batch) == (0, 0, len(payload), 0)


# An IPv4 packet. Its source address, 129.0.0.1, looks like the EtherType of a
# tag at the place of an Ethernet header's.
LOOKS_TAGGED = struct.pack(
    ">BBHHHBBH4s4s",
    *(0x45, 0, 60, 0, 0, 64, 253, 0),
    *(bytes([129, 0, 0, 1]), bytes([192, 0, 2, 1])),
) + bytes(40)


def test_frames_of_a_device_without_ethernet_are_unchanged(
    tun: tuple[int, str],
) -> None:
    descriptor, interface = tun
    batch = PacketBatch()
    with RawSocket(interface) as sock:
        assert sock.link_type == 65534  # ARPHRD_NONE
        os.write(descriptor, LOOKS_TAGGED)
        assert receive_one(sock, batch) == LOOKS_TAGGED
        assert columns(batch) == (0, 0, len(LOOKS_TAGGED), 0)


def test_tags_are_restored_only_on_ethernet_interfaces(
    tun: tuple[int, str], pair: Veth, sender: RawSocket
) -> None:
    descriptor, _ = tun
    sent = tagged((0x8100, 0x0064))
    batch = PacketBatch()
    for addresses in (True, False):
        with RawSocket(ignore_outgoing=True, addresses=addresses) as sock:
            os.write(descriptor, LOOKS_TAGGED)
            assert receive_one(sock, batch) == LOOKS_TAGGED
            assert columns(batch)[:2] == (0, 0)
            sender.send(sent)
            assert receive_one(sock, batch) == sent
            assert columns(batch)[:2] == (0x8100, 0x0064)


# Sending


@pytest.mark.parametrize("name", TAGS)
def test_received_batch_is_sent_unchanged(
    pair: Veth,
    sender: RawSocket,
    veth_factory: Callable[[], Veth],
    name: str,
) -> None:
    sent = [tagged(*TAGS[name]), PLAIN]
    second = veth_factory()
    batch = PacketBatch()
    with (
        RawSocket(pair.b) as sock,
        RawSocket(second.a, protocol=0) as out,
        RawSocket(second.b) as last,
    ):
        sock.settimeout(WAIT)
        sender.sendmmsg_all(sent)
        forwarded = 0
        while forwarded < 2:
            forwarded += sock.recvmmsg_into(batch)
            out.sendmmsg_all(batch)
        assert receive(last, 2) == sent


def test_tagged_frame_may_be_four_bytes_longer(
    pair: Veth, sender: RawSocket
) -> None:
    """MTU, header and tag: 1,518 bytes, which fit a frame of that size."""
    sent = tagged((0x8100, 0x0064), plain=frame(b"x" * 1500))
    batch = PacketBatch(1, 1518)
    with RawSocket(pair.b, filter=keep_ethertype(LOCAL_EXPERIMENTAL)) as sock:
        sender.send(sent)
        assert receive_one(sock, batch) == sent
        assert not columns(batch)[3] & TRUNCATED
