"""The sockets of rawmmsg receive what Scapy's own do. Both capture the same
packets at the same time."""

import os
from collections.abc import Iterator

import pytest
from scapy.config import conf
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from scapy.sendrecv import sendp
from scapy.sessions import IPSession, TCPSession
from support.frames import LOCAL_EXPERIMENTAL, frame, receive
from support.scapykit import (
    A4,
    A6,
    B4,
    B6,
    END,
    PAIRS,
    TRAFFIC,
    large_buffers,
    read,
    send,
    tunnel,
    until_end,
    wire,
)

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.scapy import BatchSession, L2RawMmsgSocket, RawSniffer
from rawmmsg.testing import Veth, veth_pair

LAST = frame(END.ljust(46, b"\0"))


@pytest.fixture(scope="module")
def wide() -> Iterator[Veth]:
    """A pair that carries frames of any size."""
    with veth_pair(mtu=65535) as made:
        yield made


@pytest.mark.parametrize("session", [None, BatchSession])
@pytest.mark.parametrize("outgoing", [False, True], ids=["in", "out"])
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("case", TRAFFIC)
def test_sockets_receive_the_same_packets(
    wide: Veth,
    case: str,
    kind: str,
    outgoing: bool,
    session: type[BatchSession] | None,
) -> None:
    """Bytes, order, count and layers are the same, whether the traffic comes
    from the wire or from another program on this machine."""
    theirs, ours = PAIRS[kind]
    sent = TRAFFIC[case]
    with (
        large_buffers(),
        theirs(iface=wide.a) as reference,
        ours(iface=wide.a) as sock,
    ):
        send(wide.a if outgoing else wide.b, [*sent, LAST])
        if outgoing:  # a two-way socket does not receive it
            send(wide.b, [LAST])
        expected = until_end(reference)
        found = until_end(sock, session=session)
    assert read(found) == read(expected)
    if kind == "listening" or not outgoing:
        assert [packet.original for packet in expected] == wire(sent), (
            "Scapy's own socket did not receive what was sent"
        )


@pytest.mark.parametrize("case", TRAFFIC)
def test_raw_sniffer_gives_the_same_bytes(wide: Veth, case: str) -> None:
    theirs, _ = PAIRS["listening"]
    sent = TRAFFIC[case]
    with (
        large_buffers(),
        theirs(iface=wide.a) as reference,
        RawSniffer(wide.a, count=len(sent)) as frames,
    ):
        send(wide.b, [*sent, LAST])
        expected = [packet.original for packet in until_end(reference)]
        assert [bytes(view) for view in frames] == expected


@pytest.mark.parametrize("case", TRAFFIC)
def test_sendp_sends_the_same_by_either_socket(wide: Veth, case: str) -> None:
    """Frame by frame."""
    sent = TRAFFIC[case][:20]
    seen = []
    for make in PAIRS["two-way"]:
        with (
            large_buffers(),
            RawSocket(wide.b) as wire_end,
            make(iface=wide.a) as sock,
        ):
            sendp(sent, socket=sock)
            wire_end.settimeout(30)
            batch = PacketBatch(64, SUPER_FRAME)
            arrived: list[bytes] = []
            while len(arrived) < len(sent):
                wire_end.recvmmsg_into(batch)
                arrived += batch.tolist()
            seen.append(arrived)
    assert seen[1] == seen[0] == wire(sent)


def test_fragments_are_reassembled_the_same(veth: Veth) -> None:
    """A batch of fragments goes through Scapy's own session."""

    class BatchIPSession(BatchSession, IPSession):
        """Defragments one batch at a time."""

    theirs, ours = PAIRS["listening"]
    sent = TRAFFIC["fragments"]
    with theirs(iface=veth.a) as reference, ours(iface=veth.a) as sock:
        send(veth.b, [*sent, *sent, LAST])
        expected = until_end(reference, session=IPSession)
        found = until_end(sock, session=BatchIPSession)
    assert wire(found) == wire(expected)
    assert len(found) == 2, "the fragments were not reassembled"


def test_tcp_session_reassembles_the_same_from_batches(veth: Veth) -> None:
    """This session defines its own recv()."""

    class BatchTCPSession(BatchSession, TCPSession):
        """Reassembles one batch at a time."""

    theirs, ours = PAIRS["listening"]
    with theirs(iface=veth.a) as reference, ours(iface=veth.a) as sock:
        send(veth.b, [*TRAFFIC["a TCP handshake"], LAST])
        expected = until_end(reference, session=TCPSession)
        found = until_end(sock, session=BatchTCPSession)
    assert wire(found) == wire(expected)
    assert found


@pytest.mark.parametrize("kind", PAIRS)
def test_loopback_gives_the_same_packets(kind: str) -> None:
    """A listening socket receives each packet twice, when it goes out and when
    it comes in."""
    theirs, ours = PAIRS[kind]
    sent = [bytes(one) for one in TRAFFIC["ARP"]]
    with theirs(iface="lo") as reference, ours(iface="lo") as sock:
        send("lo", [*sent, LAST])
        expected = until_end(reference)
        found = until_end(sock)
    assert read(found) == read(expected)
    assert found


@pytest.mark.parametrize("kind", PAIRS)
def test_tunnel_gives_the_same_packets(
    kind: str,
) -> None:
    """It has no link layer: packets begin with an IPv4 or IPv6 header."""
    sent: list[Packet] = [
        IP(src=A4, dst=B4) / UDP() / Raw(b"four"),
        IPv6(src=A6, dst=B6) / UDP() / Raw(b"six"),
        IP(src=A4, dst=B4) / UDP() / Raw(END),
    ]
    theirs, ours = PAIRS[kind]
    with (
        tunnel() as (name, descriptor),
        theirs(iface=name) as reference,
        ours(iface=name) as sock,
    ):
        for one in sent:
            os.write(descriptor, bytes(one))
        expected = until_end(reference)
        found = until_end(sock)
    assert read(found) == read(expected)
    assert wire(found) == wire(sent[:2])


def test_packets_are_sent_to_a_tunnel() -> None:
    packet = IP(src=A4, dst=B4) / UDP() / Raw(b"out")
    with (
        tunnel() as (name, descriptor),
        L2RawMmsgSocket(iface=name) as sock,
    ):
        sock.send(packet)
        assert os.read(descriptor, 2048) == bytes(packet)


@pytest.mark.parametrize("length", [1, 13])
def test_short_frames_are_padded_the_same(veth: Veth, length: int) -> None:
    """The kernel would refuse a frame that is shorter than its header."""
    arrived = []
    for make in PAIRS["two-way"]:
        with RawSocket(veth.b) as wire_end, make(iface=veth.a) as sock:
            sock.send(Raw(b"\xff" * length))
            arrived += receive(wire_end, 1)
    assert arrived[1] == arrived[0]
    assert len(arrived[1]) == conf.min_pkt_size


def test_one_protocol_gives_the_same_packets(veth: Veth) -> None:
    theirs, ours = PAIRS["two-way"]
    sent = [frame(bytes([i]) * 46) for i in range(3)]
    with (
        theirs(iface=veth.a, type=LOCAL_EXPERIMENTAL) as reference,
        ours(iface=veth.a, type=LOCAL_EXPERIMENTAL) as sock,
    ):
        send(veth.b, [*TRAFFIC["ARP"], *sent, LAST])
        expected = until_end(reference)
        found = until_end(sock)
    assert read(found) == read(expected)
    assert wire(found) == sent
