"""What a guest sends leaves as it is: sendmmsg(2) takes it from the guest's
buffers."""

import errno
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from support.bridging import Network
from support.calls import raises
from support.datagrams import (
    ACK,
    CWR,
    KINDS,
    Datagram,
    data,
    leave_checksums_to_software,
)
from support.frames import numbered, numbered_frames, receive
from support.guest_cards import (
    NEGOTIATIONS,
    Card,
    arrived,
    bytes_arrived,
    card,
    offload_header,
    same_offload,
)
from support.guest_driver import NEGOTIATED, TRANSMIT, OffloadHeader
from support.linux import tc

from rawmmsg import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    RawSocket,
)
from rawmmsg.testing import Veth
from rawmmsg.vhost import Feature

LEGACY_UDP_FRAGMENTS: Final = 3  # VIRTIO_NET_HDR_GSO_UDP

LAYOUTS: Final[dict[str, Callable[[int], list[int]]]] = {
    "header alone": lambda header: [header],
    "one descriptor": lambda header: [header + 2000],
    "header with data": lambda header: [header + 20],
    "header in two": lambda header: [4],
    "header byte by byte": lambda header: [1] * header,
    "data byte by byte": lambda header: [header] + [1] * 30,
    "all byte by byte": lambda header: [1] * 200,
}


@pytest.fixture
def guest() -> Iterator[Card]:
    with card() as made:
        yield made


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("negotiation", NEGOTIATIONS)
def test_frames_leave_whatever_their_descriptors(
    near: RawSocket,
    far: RawSocket,
    negotiation: str,
    layout: str,
    indirect: bool,
) -> None:
    features = NEGOTIATIONS[negotiation]
    if indirect:
        features |= Feature.INDIRECT_DESC
    frames = [numbered(i, size) for i, size in enumerate((60, 61, 1514))]
    with card(features, size=1024) as made:
        header = made.guest.header_size
        for frame in frames:
            made.guest.send(
                frame, layout=LAYOUTS[layout](header), indirect=indirect
            )
        assert made.rings.send(near) == 3
        assert made.guest.finish_sent() == 3
        assert receive(far, 3) == frames
        assert made.counted == {"received": 3, "batches": 1}


def test_a_batch_holds_as_many_frames_as_it_was_made_for(
    near: RawSocket, far: RawSocket
) -> None:
    frames = numbered_frames(10)
    with card(batch=4) as made:
        made.guest.send_all(frames)
        assert [made.rings.send(near) for _ in range(4)] == [4, 4, 2, 0]
        assert made.guest.finish_sent() == 10
        assert receive(far, 10) == frames
        assert made.count("batches") == 3


def test_buffers_return_in_the_order_in_which_they_came(
    near: RawSocket, guest: Card
) -> None:
    for i in range(20):
        guest.guest.send(numbered(i, 60 + i))
    guest.send(near)
    queue = guest.guest.transmit
    returned = [sent.content[12:] for sent, _ in queue.take_used()]
    assert returned == [numbered(i, 60 + i) for i in range(20)]


@pytest.mark.parametrize("kind", KINDS)
def test_super_frames_leave_in_one_piece(
    near: RawSocket, end: RawSocket, guest: Card, kind: str
) -> None:
    from_kind = KINDS[kind]
    datagram = Datagram(
        data(60_000), protocol=from_kind.protocol, version=from_kind.version
    )
    header = offload_header(datagram, 1400)
    frame = datagram.build(whole=False)
    guest.guest.send(frame, header)
    guest.guest.send(frame, header, layout=[12, 60, *[4096] * 16])
    assert guest.rings.send(near) == 2
    for got, content in arrived(end, 2):
        assert content == frame
        assert same_offload(got, header)


def test_the_kernel_completes_checksums_that_the_guest_left_open(
    network: Network,
) -> None:
    leave_checksums_to_software(network.left.b)
    datagrams = [
        Datagram(
            data(size), protocol=one.protocol, version=one.version, tags=tags
        )
        for size in (1, 100, 1001)
        for tags in ((), (0x8100,))
        for one in KINDS.values()
    ]
    with (
        RawSocket(network.left.b, vnet_hdr=True) as near,
        RawSocket(network.left.a, ignore_outgoing=True) as far,
        card() as made,
    ):
        near.setblocking(False)
        for one in datagrams:
            made.guest.send(one.build(whole=False), offload_header(one))
        assert made.send(near) == len(datagrams)
        assert receive(far, len(datagrams)) == [d.build() for d in datagrams]


@pytest.mark.parametrize(
    ("missing", "header"),
    [
        (Feature.CSUM, OffloadHeader(VNET_NEEDS_CSUM)),
        (Feature.HOST_TSO4, OffloadHeader(0, GSO_TCPV4, 54, 1448)),
        (Feature.HOST_TSO6, OffloadHeader(0, GSO_TCPV6, 74, 1448)),
        (Feature.HOST_ECN, OffloadHeader(0, GSO_TCPV4 | GSO_ECN, 54, 1448)),
        (Feature.HOST_ECN, OffloadHeader(0, GSO_TCPV6 | GSO_ECN, 54, 1448)),
        (Feature.HOST_USO, OffloadHeader(0, GSO_UDP_L4, 42, 1448)),
        (Feature(0), OffloadHeader(0, LEGACY_UDP_FRAGMENTS, 42, 1448)),
        (Feature(0), OffloadHeader(0, GSO_ECN)),
        (Feature(0), OffloadHeader(0, GSO_UDP_L4 | GSO_ECN, 42, 1448)),
        (Feature(0), OffloadHeader(0, 2, 42, 1448)),
        (Feature(0), OffloadHeader(0, 0x7F, 42, 1448)),
    ],
)
def test_what_was_not_negotiated_is_dropped_and_counted(
    near: RawSocket, far: RawSocket, missing: Feature, header: OffloadHeader
) -> None:
    """The frames around it are sent."""
    with card(NEGOTIATED & ~missing) as made:
        made.guest.send(numbered(1))
        made.guest.send(numbered(2), header)
        made.guest.send(numbered(3))
        assert made.send(near) == 2
        assert made.guest.finish_sent() == 3
        assert receive(far, 2) == [numbered(1), numbered(3)]
        assert made.counted == {
            "received": 3,
            "batches": 1,
            "malformed": 1,
        }


def test_flags_for_received_frames_do_not_reach_the_kernel(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    """DATA_VALID would let a guest vouch for checksums of its own."""
    header = OffloadHeader(flags=0xFE & ~VNET_NEEDS_CSUM, buffer_count=9)
    assert header.flags & VNET_DATA_VALID
    guest.guest.send(numbered(1), header)
    assert guest.rings.send(near) == 1
    ((got, frame),) = arrived(end, 1)
    assert frame == numbered(1)
    assert got == OffloadHeader()


@pytest.mark.parametrize(
    ("size", "counter"),
    [(0, "malformed"), (1, "malformed"), (13, "malformed")]
    + [(size, "too_long") for size in (69_633, 100_000)],
)
def test_frames_of_impossible_length_are_dropped_and_counted(
    near: RawSocket, far: RawSocket, guest: Card, size: int, counter: str
) -> None:
    guest.guest.send(bytes(size))
    guest.guest.send(numbered(2))
    assert guest.send(near) == 1
    assert guest.guest.finish_sent() == 2
    assert receive(far, 1) == [numbered(2)]
    assert guest.counted == {"received": 2, "batches": 1, counter: 1}


def test_a_frame_that_the_kernel_refuses_stays_the_next_one(
    near: RawSocket, far: RawSocket, guest: Card
) -> None:
    guest.guest.send(numbered(1))
    guest.guest.send(numbered(2, 3000))
    guest.guest.send(numbered(3))
    assert guest.rings.send(near) == 1
    assert guest.rings.pending == 2
    for _ in range(2):
        with raises(errno.EMSGSIZE, "3,000 bytes"):
            guest.rings.send(near)
    assert guest.rings.pending == 2
    assert guest.guest.finish_sent() == 1
    guest.rings.refuse()
    assert guest.rings.pending == 1
    assert guest.guest.finish_sent() == 1
    assert guest.rings.send(near) == 1
    assert guest.rings.pending == 0
    assert guest.guest.finish_sent() == 1
    assert receive(far, 2) == [numbered(1), numbered(3)]
    assert guest.count("received") == 3


def test_a_full_queue_loses_nothing(
    network: Network,
) -> None:
    """tc-tbf(8) has room for 3,000 bytes; then the kernel reports ENOBUFS."""
    tc(
        *("qdisc", "replace", "dev", network.left.b, "root"),
        *("tbf", "burst", "2000", "rate", "20mbit", "limit", "3000"),
    )
    frames = numbered_frames(200, 500)
    sent = full = 0
    with (
        RawSocket(network.left.b, vnet_hdr=True) as near,
        RawSocket(network.left.a, ignore_outgoing=True) as far,
        card() as made,
    ):
        near.setblocking(False)
        for frame in frames:
            made.guest.send(frame, flush=False, layout=[600])
        made.guest.flush(TRANSMIT)
        while sent < len(frames):
            try:
                sent += made.rings.send(near)
            except OSError as error:
                assert error.errno == errno.ENOBUFS
                full += 1
        assert full > 0, "the queue was never full"
        assert made.guest.finish_sent() == len(frames)
        assert receive(far, len(frames)) == frames


def test_nothing_leaves_while_the_guest_has_sent_nothing(
    near: RawSocket, guest: Card
) -> None:
    assert guest.rings.send(near) == 0
    assert guest.rings.pending == 0
    guest.guest.send(numbered(1), flush=False)
    assert guest.rings.send(near) == 0
    guest.guest.flush(TRANSMIT)
    assert guest.rings.send(near) == 1


def test_super_frames_with_ecn_leave_in_one_piece(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    datagram = Datagram(data(20_000), flags=ACK | CWR)
    header = offload_header(datagram, 1448)
    header = OffloadHeader(**{**vars(header), "gso_type": GSO_TCPV4 | GSO_ECN})
    guest.guest.send(datagram.build(whole=False), header)
    assert guest.rings.send(near) == 1
    ((got, frame),) = arrived(end, 1)
    assert frame == datagram.build(whole=False)
    assert same_offload(got, header)


@pytest.mark.parametrize("size", [1, 2, 4, 64])
def test_a_ring_of_any_size_wraps_around(
    near: RawSocket, far: RawSocket, size: int
) -> None:
    frames = numbered_frames(300)
    with card(size=size, base=65_500) as made:
        for at in range(0, 300, size):
            for frame in frames[at : at + size]:
                made.guest.send(frame, layout=[200], flush=False)
            made.guest.flush(TRANSMIT)
            expected = len(frames[at : at + size])
            assert made.send(near) == expected
            assert made.guest.finish_sent() == expected
        assert made.guest.transmit.used_index == (65_500 + 300) % 65_536
        assert receive(far, 300) == frames


def test_a_socket_with_offload_headers_of_12_bytes_serves_as_well(
    pair: Veth, end: RawSocket, guest: Card
) -> None:
    datagram = Datagram(data(20_000))
    header = offload_header(datagram, 1448)
    with RawSocket(pair.b, vnet_hdr=12) as near:
        near.setblocking(False)
        guest.guest.send(datagram.build(whole=False), header)
        assert guest.rings.send(near) == 1
    ((got, frame),) = arrived(end, 1)
    assert frame == datagram.build(whole=False)
    assert same_offload(got, header)


def test_bytes_do_not_change_between_guest_and_wire(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    """Every size from a header without payload to a full frame, on one
    card."""
    sizes = [14 + 12, *range(27, 1514, 13), 1514]
    frames = [numbered(i, size) for i, size in enumerate(sizes)]
    for frame in frames:
        guest.guest.send(frame)
    assert guest.send(near) == len(frames)
    assert bytes_arrived(end, len(frames)) == frames
    assert guest.guest.finish_sent() == len(frames)
