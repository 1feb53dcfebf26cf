"""A guest's memory as a port of the bridge: what passes between it and every
other kind of port."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.bridge_merging import COUNT, SIZE, chained, cut, flow
from support.bridged_guests import frames_of, guest_and
from support.bridging import Running, stopped, take
from support.datagrams import (
    KINDS,
    TAGS,
    UDP,
    Datagram,
    data,
    super_frame,
    write_header,
)
from support.frames import frame, numbered, same_frames
from support.front_end import (
    NET_MTU,
    NET_SET_MTU,
    REPLY_ACK,
    SET_PROTOCOL_FEATURES,
    number,
)
from support.guest_cards import (
    NEGOTIATIONS,
    arrived,
    header_of,
    offload_header,
    same_offload,
)
from support.guest_driver import NEGOTIATED
from support.guest_links import VhostUserLink, guest_at
from support.peers import PEERS, Peer, fd_peer, open_peer, sending_as

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth
from rawmmsg.vhost import Feature

MSS = 1_400
LARGE = [
    replace(kind, tags=tags, payload=data(30_001))
    for kind in KINDS.values()
    for tags in TAGS.values()
]


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Peer]:
    with open_peer(request.param, short_path) as peer:
        yield peer


@pytest.fixture
def guest(short_path: Path) -> Path:
    """The path of a port."""
    return short_path / "guest"


# An interface


@pytest.mark.parametrize("negotiated", NEGOTIATIONS)
def test_frames_pass_between_a_guest_and_an_interface(
    pair: Veth,
    sender: RawSocket,
    far: RawSocket,
    guest: Path,
    negotiated: str,
) -> None:
    packets = [numbered(i, 60 + 47 * i) for i in range(30)]
    features = NEGOTIATIONS[negotiated]
    with guest_and(pair.b, guest, features=features) as (bridge, link):
        for packet in packets:
            sender.send(packet)
            same_frames(frames_of(link, 1), [packet])
            link.guest.send(packet)
            same_frames(take(far, 1), [packet])
        link.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (ba.received, ba.sent) == (30, 30)
    assert ab.bytes == ba.bytes == sum(map(len, packets))


def test_many_frames_pass_at_once(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """In order; many with each system call."""
    packets = [numbered(i) for i in range(200)]
    with guest_and(pair.b, guest) as (bridge, link):
        with stopped(bridge):
            sender.sendmmsg_all(packets)
            for packet in packets[:100]:
                link.guest.send(packet, layout=[76])
        same_frames(frames_of(link, 200), packets)
        same_frames(take(far, 100), packets[:100])
        ab, ba = bridge.end().directions
    assert ab.per_call >= 50
    assert ba.per_call == 50


def test_full_ring_of_a_guest_does_not_stop_the_other_direction(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """More frames than the bridge takes before it looks elsewhere."""
    packets = [numbered(i) for i in range(1000)]
    with guest_and(pair.b, guest, size=1024) as (bridge, link):
        with stopped(bridge):
            for packet in packets:
                link.guest.send(packet, layout=[76])
            sender.sendmmsg_all(packets[:200])
        same_frames(frames_of(link, 200), packets[:200])
        same_frames(take(far, 1000), packets)
        link.finish_sent()
        assert bridge.end().directions[1].sent == 1000


def test_packet_socket_and_guest(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """Like the interface to which the socket is bound."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as plain:
        plain.bind((pair.b, 3))
        number = plain.fileno()
        with guest_and(f"fd:{number}", guest, pass_fds=(number,)) as (_, link):
            sender.send(numbered(1))
            same_frames(frames_of(link, 1), [numbered(1)])
            link.guest.send(numbered(2))
            same_frames(take(far, 1), [numbered(2)])


def test_super_frames_of_a_guest_pass_in_one_piece(
    pair: Veth, end: RawSocket, guest: Path
) -> None:
    with guest_and(pair.b, guest) as (bridge, link):
        for large in LARGE:
            header = offload_header(large, MSS)
            link.guest.send(large.build(whole=False), header)
            ((got, packet),) = arrived(end, 1)
            same_frames([packet], [large.build(whole=False)])
            assert same_offload(got, header)
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (len(LARGE), len(LARGE))


def test_super_frames_reach_a_guest_in_one_piece(
    pair: Veth, guest: Path
) -> None:
    with (
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as left,
        guest_and(pair.b, guest) as (bridge, link),
    ):
        for large in LARGE:
            batch = super_frame(large, MSS)
            left.sendmmsg_all(batch)
            (got,) = link.receive(1)
            same_frames([got.frame], batch.tolist())
            assert same_offload(got.header, header_of(batch, 0))
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent) == (len(LARGE), len(LARGE))


def test_guest_without_offloads_gets_segments(pair: Veth, guest: Path) -> None:
    """With complete checksums. They are counted as more frames."""
    wanted = [large.segments(MSS) for large in LARGE]
    features = Feature.MRG_RXBUF | Feature.VERSION_1
    with (
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as left,
        guest_and(pair.b, guest, features=features) as (bridge, link),
    ):
        for large, segments in zip(LARGE, wanted, strict=True):
            left.sendmmsg_all(super_frame(large, MSS))
            same_frames(frames_of(link, len(segments)), segments)
        ab, _ = bridge.end().directions
    count = sum(map(len, wanted))
    assert (ab.received, ab.sent) == (len(LARGE), count)
    assert ab.gained == count - len(LARGE)


def test_filter_applies_to_what_a_guest_sends(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """Tags are in the frame. Frames that are rejected are not counted."""
    tagged = frame(b"\0\5\x88\xb5" + bytes(46), ethertype=0x8100)
    udp = Datagram(data(60), protocol=UDP).build()
    options = ("--filter-ba", "udp dst port 9 and less 110 or vlan 5")
    with guest_and(pair.b, guest, *options) as (bridge, link):
        sender.send(numbered(1))
        same_frames(frames_of(link, 1), [numbered(1)])
        for packet in (numbered(2), udp + bytes(9), tagged, udp):
            link.guest.send(packet)
        same_frames(take(far, 2), [tagged, udp])
        link.finish_sent()
        assert bridge.end().directions[1].received == 2


def test_filter_applies_to_what_a_guest_gets(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    options = ("--filter-ab", "less 100")
    with guest_and(pair.b, guest, *options) as (bridge, link):
        for i, size in enumerate([60, 200, 61]):
            sender.send(numbered(i, size))
        same_frames(frames_of(link, 2), [numbered(0, 60), numbered(2, 61)])
        link.guest.send(numbered(3, 200))
        same_frames(take(far, 1), [numbered(3, 200)])
        assert bridge.end().directions[0].received == 2


# A socket


@contextmanager
def guest_and_peer(
    peer: Peer, path: Path, *options: str, features: Feature = NEGOTIATED
) -> Iterator[tuple[Running, VhostUserLink, Callable[[bytes], object]]]:
    """A bridge from the peer to a guest, and a function that sends as the
    peer."""
    with guest_and(
        peer.port, path, *options, features=features, pass_fds=peer.pass_fds
    ) as (bridge, link):
        yield bridge, link, sending_as(peer)


def test_frames_pass_between_a_guest_and_a_socket(
    peer: Peer, guest: Path
) -> None:
    packets = [numbered(i, 60 + 50 * i) for i in range(30)]
    with guest_and_peer(peer, guest) as (bridge, link, send):
        for packet in packets:
            send(packet)
            same_frames(frames_of(link, 1), [packet])
            link.guest.send(packet)
            same_frames(peer.receive(1), [packet])
        link.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (ba.received, ba.sent) == (30, 30)
    assert ab.bytes == ba.bytes == sum(map(len, packets))


def test_super_frames_from_a_guest_to_a_socket_are_cut(
    peer: Peer, guest: Path
) -> None:
    """With complete checksums, short frames as well."""
    sent = segments = 0
    with guest_and_peer(peer, guest) as (bridge, link, _):
        for large in LARGE:
            wanted = large.segments(MSS)
            link.guest.send(
                large.build(whole=False), offload_header(large, MSS)
            )
            same_frames(peer.receive(len(wanted)), wanted)
            short = replace(large, payload=data(333))
            link.guest.send(short.build(whole=False), offload_header(short))
            same_frames(peer.receive(1), [short.build()])
            sent += 2
            segments += len(wanted) + 1
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (sent, segments)
    assert ba.gained == segments - sent


def test_filter_applies_to_what_a_guest_sends_to_a_socket(
    guest: Path,
) -> None:
    with (
        fd_peer(socket.SOCK_DGRAM) as peer,
        guest_and_peer(peer, guest, "--filter-ba", "less 100") as (
            bridge,
            link,
            _,
        ),
    ):
        for i, size in enumerate([60, 200, 61]):
            link.guest.send(numbered(i, size))
        same_frames(peer.receive(2), [numbered(0, 60), numbered(2, 61)])
        link.finish_sent()
        assert bridge.end().directions[1].received == 2


def test_tcp_from_a_socket_to_a_guest_is_merged(guest: Path) -> None:
    packets = chained(flow(KINDS[name]) for name in ("tcp4", "tcp6"))
    with (
        fd_peer(socket.SOCK_SEQPACKET) as peer,
        guest_and_peer(peer, guest) as (bridge, link, send),
    ):
        with stopped(bridge):
            for packet in packets:
                send(packet)
        merged = link.receive(2)
        ab, _ = bridge.end().directions
    batch = PacketBatch(2, SUPER_FRAME)
    for i, one in enumerate(merged):
        assert one.header.gso_size == SIZE
        batch.append(one.frame)
        write_header(
            batch,
            i,
            vnet_flags=one.header.flags,
            gso_types=one.header.gso_type,
            gso_sizes=one.header.gso_size,
            header_lengths=one.header.header_length,
            checksum_starts=one.header.checksum_start,
            checksum_offsets=one.header.checksum_offset,
        )
    same_frames(cut(batch), packets)
    assert (ab.received, ab.sent, ab.merged) == (2 * COUNT, 2 * COUNT, 2)


@pytest.mark.parametrize("why", ["option", "guest", "MTU"])
def test_nothing_is_merged_that_a_guest_does_not_take(
    guest: Path, why: str
) -> None:
    """Or that is longer than the MTU that the front end has told."""
    features = NEGOTIATED
    options = ["--no-merge"] if why == "option" else []
    if why == "guest":
        features &= ~(Feature.GUEST_TSO4 | Feature.GUEST_TSO6)
    packets = flow()
    with (
        fd_peer(socket.SOCK_SEQPACKET) as peer,
        guest_and_peer(peer, guest, *options, features=features) as (
            bridge,
            link,
            send,
        ),
    ):
        if why == "MTU":
            link.tell(SET_PROTOCOL_FEATURES, number(REPLY_ACK | NET_MTU))
            link.tell(NET_SET_MTU, number(SIZE))
        with stopped(bridge):
            for packet in packets:
                send(packet)
        same_frames(frames_of(link, COUNT), packets)
        ab, _ = bridge.end().directions
    assert (ab.sent, ab.merged) == (COUNT, 0)


def test_udp_may_be_merged_for_a_guest_that_does_not_take_it(
    guest: Path,
) -> None:
    """It gets the datagrams one by one."""
    features = NEGOTIATED & ~(Feature.GUEST_USO4 | Feature.GUEST_USO6)
    packets = flow(KINDS["udp4"])
    with (
        fd_peer(socket.SOCK_SEQPACKET) as peer,
        guest_and_peer(
            peer, guest, "--merge", "tcp,udp", features=features
        ) as (bridge, link, send),
    ):
        with stopped(bridge):
            for packet in packets:
                send(packet)
        same_frames(frames_of(link, COUNT), packets)
        assert bridge.end().directions[0].received == COUNT


# Another guest


def test_frames_pass_between_two_guests(guest: Path, short_path: Path) -> None:
    packets = [numbered(i, 60 + 47 * i) for i in range(30)]
    with guests(guest, short_path / "other") as (bridge, one, other):
        for packet in packets:
            one.guest.send(packet)
            same_frames(frames_of(other, 1), [packet])
            other.guest.send(packet)
            same_frames(frames_of(one, 1), [packet])
        one.finish_sent()
        other.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (ba.received, ba.sent) == (30, 30)


@contextmanager
def guests(
    path: Path, other: Path, features: Feature = NEGOTIATED
) -> Iterator[tuple[Running, VhostUserLink, VhostUserLink]]:
    """A bridge between two guests. `features`: of the second one."""
    with (
        guest_and(f"vhost-user:{other}", path) as (bridge, link),
        guest_at(other, features) as second,
    ):
        yield bridge, link, second


def test_many_frames_pass_between_guests(
    guest: Path, short_path: Path
) -> None:
    """More than the bridge takes before it looks elsewhere, and more than the
    other guest has buffers."""
    packets = [numbered(i) for i in range(1000)]
    other = short_path / "other"
    with (
        guest_and(f"vhost-user:{other}", guest, size=1024) as (bridge, one),
        guest_at(other) as second,
    ):
        with stopped(bridge):
            for packet in packets:
                one.guest.send(packet, layout=[76])
            second.guest.send_all(packets[:100])
        same_frames(frames_of(one, 100), packets[:100])
        same_frames(frames_of(second, 1000), packets)
        ab, ba = bridge.end().directions
    assert (ab.sent, ba.sent) == (100, 1000)


def test_super_frames_pass_between_guests(
    guest: Path, short_path: Path
) -> None:
    with guests(guest, short_path / "other") as (bridge, one, other):
        for large in LARGE:
            header = offload_header(large, MSS)
            one.guest.send(large.build(whole=False), header)
            (got,) = other.receive(1)
            same_frames([got.frame], [large.build(whole=False)])
            assert same_offload(got.header, header)
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (len(LARGE), len(LARGE))


def test_super_frames_are_cut_for_a_guest_without_offloads(
    guest: Path, short_path: Path
) -> None:
    features = Feature.MRG_RXBUF | Feature.VERSION_1
    count = 0
    with guests(guest, short_path / "other", features) as (bridge, one, other):
        for large in LARGE:
            wanted = large.segments(MSS)
            one.guest.send(
                large.build(whole=False), offload_header(large, MSS)
            )
            same_frames(frames_of(other, len(wanted)), wanted)
            count += len(wanted)
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (len(LARGE), count)
