"""Between a guest and ports that have no packet socket: frames are copied to a
batch and from one, with their offload headers."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest
from support.datagrams import KINDS, TAGS, Datagram, add, data, super_frame
from support.frames import held, numbered, numbered_frames
from support.guest_cards import (
    NEGOTIATIONS,
    Card,
    Received,
    card,
    header_of,
    offload_header,
    same_offload,
)
from support.guest_driver import (
    NEGOTIATED,
    RECEIVE,
    TRANSMIT,
    OffloadHeader,
)
from support.programs import keep_ethertype

from rawmmsg import (
    GSO_NONE,
    GSO_TCPV4,
    SUPER_FRAME,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.vhost import Feature

BUFFER: Final = 1536
OFFLOADS: Final = (
    Feature.GUEST_CSUM
    | Feature.GUEST_TSO4
    | Feature.GUEST_TSO6
    | Feature.GUEST_ECN
    | Feature.GUEST_USO4
    | Feature.GUEST_USO6
)


@pytest.fixture
def guest() -> Iterator[Card]:
    with card() as made:
        made.guest.post([BUFFER] * 256)
        yield made


@pytest.fixture
def batch() -> PacketBatch:
    return PacketBatch(64, SUPER_FRAME)


def like(kind: str, size: int, tags: tuple[int, ...] = ()) -> Datagram:
    one = KINDS[kind]
    return Datagram(
        data(size), protocol=one.protocol, version=one.version, tags=tags
    )


def give(made: Card, batch: PacketBatch) -> list[Received]:
    """Gives all of the batch to the guest, which takes what it was given and
    makes its buffers available again whenever the ring is full."""
    got: list[Received] = []
    start = 0
    while start < len(batch) or made.rings.is_full:
        try:
            start += made.rings.sendmmsg(batch, start)
        except BlockingIOError:
            assert made.rings.is_full
        taken = made.guest.received()
        assert taken or start == len(batch), "nothing moves"
        got += taken
    return got


def frames_of(received: Sequence[Received]) -> list[bytes]:
    return [one.frame for one in received]


# From the guest


LAYOUTS: Final[dict[str, Callable[[int], list[int]]]] = {
    "header alone": lambda header: [header],
    "one descriptor": lambda header: [header + 2000],
    "byte by byte": lambda header: [1] * 200,
    "blocks": lambda header: [header + 14, 20, 20, 500],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("negotiation", NEGOTIATIONS)
def test_frames_are_copied_whatever_their_descriptors(
    batch: PacketBatch, negotiation: str, layout: str
) -> None:
    frames = [numbered(i, size) for i, size in enumerate((60, 61, 9000))]
    with card(NEGOTIATIONS[negotiation], size=1024) as made:
        sizes = LAYOUTS[layout](made.guest.header_size)
        for frame in frames:
            made.guest.send(frame, layout=sizes)
        assert made.rings.recvmmsg_into(batch) == 3
        assert batch.tolist() == frames
        assert made.guest.finish_sent() == 3
        assert made.counted == {"received": 3, "batches": 1}
        assert made.count("received_bytes") == 60 + 61 + 9000
        with pytest.raises(BlockingIOError):
            made.rings.recvmmsg_into(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_super_frames_are_copied_with_their_headers(
    guest: Card, batch: PacketBatch, kind: str
) -> None:
    datagram = like(kind, 60_000)
    header = offload_header(datagram, 1400)
    frame = datagram.build(whole=False)
    guest.guest.send(numbered(1))
    guest.guest.send(frame, header, layout=[12, 60, *[4096] * 16])
    guest.guest.send(
        like(kind, 100).build(whole=False), offload_header(datagram)
    )
    assert guest.rings.recvmmsg_into(batch) == 3
    assert [header_of(batch, i) for i in range(3)] == [
        OffloadHeader(),
        header,
        offload_header(datagram),
    ]
    assert bytes(batch[1]) == frame


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_can_be_cut_for_a_port_without_offloads(
    guest: Card, batch: PacketBatch, kind: str
) -> None:
    datagram = like(kind, 60_000)
    guest.guest.send(
        datagram.build(whole=False), offload_header(datagram, 1400)
    )
    assert guest.rings.recvmmsg_into(batch) == 1
    target = PacketBatch(64, 2048)
    assert batch.segment_into(target) == (1, 0)
    assert target.tolist() == datagram.segments(1400)


def test_the_longest_frame_fits(guest: Card, batch: PacketBatch) -> None:
    guest.guest.send(numbered(1, 65_000))
    guest.guest.send(bytes(SUPER_FRAME))
    guest.guest.send(bytes(SUPER_FRAME + 1))
    assert guest.rings.recvmmsg_into(batch) == 2
    assert batch.tolist() == [numbered(1, 65_000), bytes(SUPER_FRAME)]
    assert guest.counted == {"received": 3, "batches": 1, "too_long": 1}


def test_rows_that_are_too_short_are_an_error(guest: Card) -> None:
    guest.guest.send(numbered(1))
    with pytest.raises(ValueError, match="must have 69632 bytes"):
        guest.rings.recvmmsg_into(PacketBatch(4, SUPER_FRAME - 1))
    batch = PacketBatch(4, SUPER_FRAME)
    assert guest.rings.recvmmsg_into(batch) == 1
    assert batch.tolist() == [numbered(1)]


def test_a_small_batch_leaves_the_rest_pending(guest: Card) -> None:
    frames = numbered_frames(10)
    guest.guest.send_all(frames)
    batch = PacketBatch(4, SUPER_FRAME)
    got = []
    for expected, pending in ((4, 6), (4, 2), (2, 0)):
        assert guest.rings.recvmmsg_into(batch) == expected
        assert guest.rings.pending == pending
        assert guest.guest.finish_sent() == expected
        got += batch.tolist()
    assert got == frames


def test_a_filter_sees_copied_frames_too(batch: PacketBatch) -> None:
    with card(filter=keep_ethertype(0x88B5)) as made:
        frames = [
            numbered(i, 60 + i, ethertype=0x88B5 + i % 2) for i in range(8)
        ]
        for frame in frames:
            made.guest.send(frame, layout=[3] * 30)
        assert made.rings.recvmmsg_into(batch) == 4
        assert batch.tolist() == frames[::2]
        assert made.counted == {"received": 4, "batches": 1, "rejected": 4}


def test_what_was_not_negotiated_is_not_copied(batch: PacketBatch) -> None:
    with card(NEGOTIATED & ~Feature.HOST_TSO4) as made:
        made.guest.send(numbered(1), OffloadHeader(0, GSO_TCPV4, 54, 1448))
        made.guest.send(numbered(2), OffloadHeader(0, 0x55))
        made.guest.send(numbered(3))
        assert made.rings.recvmmsg_into(batch) == 1
        assert batch.tolist() == [numbered(3)]
        assert made.counted == {"received": 3, "batches": 1, "malformed": 2}


@pytest.mark.parametrize("features", [NEGOTIATED, Feature.VERSION_1])
def test_flags_for_received_frames_are_not_copied(
    batch: PacketBatch, features: Feature
) -> None:
    """With DATA_VALID, a guest would vouch for its checksums."""
    flags = 0xFF & ~VNET_NEEDS_CSUM
    with card(features) as made:
        made.guest.send(numbered(1), OffloadHeader(flags, buffer_count=9))
        assert made.rings.recvmmsg_into(batch) == 1
        assert header_of(batch, 0) == OffloadHeader()
        assert batch.tolist() == [numbered(1)]


def test_frames_pending_for_a_socket_can_go_to_a_batch(
    near: RawSocket, guest: Card, batch: PacketBatch
) -> None:
    """A port that was replaced loses nothing."""
    guest.guest.send(numbered(1, 3000))
    guest.guest.send(numbered(2))
    with pytest.raises(OSError, match="3,000 bytes"):
        guest.rings.send(near)
    assert guest.rings.recvmmsg_into(batch) == 2
    assert batch.tolist() == [numbered(1, 3000), numbered(2)]
    assert guest.guest.finish_sent() == 2


def test_a_disabled_ring_drops_what_the_guest_sends(
    guest: Card, batch: PacketBatch
) -> None:
    guest.rings.set_enabled(TRANSMIT, False)
    guest.guest.send_all(numbered_frames(5))
    with pytest.raises(BlockingIOError):
        guest.rings.recvmmsg_into(batch)
    assert guest.guest.finish_sent() == 5
    assert guest.counted == {"received": 5, "batches": 1, "disabled": 5}
    guest.rings.set_enabled(TRANSMIT, True)
    guest.guest.send(numbered(6))
    assert guest.rings.recvmmsg_into(batch) == 1
    assert batch.tolist() == [numbered(6)]


# To the guest


@pytest.mark.parametrize("negotiation", NEGOTIATIONS)
def test_frames_of_a_batch_reach_the_guest(negotiation: str) -> None:
    frames = [numbered(i, 60 + 30 * i) for i in range(32)]
    with card(NEGOTIATIONS[negotiation]) as made:
        made.guest.post([1600] * 32)
        assert made.rings.sendmmsg(held(*frames)) == 32
        got = made.guest.received()
        assert frames_of(got) == frames
        count = 1 if made.guest.header_size == 12 else 0
        assert {one.header for one in got} == {
            OffloadHeader(buffer_count=count)
        }
        assert made.count("sent") == 32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tags", TAGS.values())
def test_super_frames_of_a_batch_reach_the_guest(
    guest: Card, kind: str, tags: tuple[int, ...]
) -> None:
    datagram = like(kind, 60_000, tags)
    assert guest.rings.sendmmsg(super_frame(datagram, 1400)) == 1
    (one,) = guest.guest.received()
    assert one.frame == datagram.build(whole=False)
    assert same_offload(one.header, offload_header(datagram, 1400))
    assert one.header.buffer_count == -(-(12 + len(one.frame)) // BUFFER)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tags", TAGS.values())
def test_what_the_guest_does_not_take_is_completed_and_cut(
    kind: str, tags: tuple[int, ...]
) -> None:
    long, short = like(kind, 50_000, tags), like(kind, 333, tags)
    batch = PacketBatch(4, SUPER_FRAME)
    batch.append(numbered(1))
    add(batch, long, 1400)
    add(batch, short)
    batch.append(numbered(2))
    with card(NEGOTIATED & ~OFFLOADS) as made:
        made.guest.post([BUFFER] * 256)
        assert made.rings.sendmmsg(batch) == 4
        got = made.guest.received()
        segments = long.segments(1400)
        assert frames_of(got) == [
            numbered(1),
            *segments,
            short.build(),
            numbered(2),
        ]
        assert {one.header for one in got} == {OffloadHeader(buffer_count=1)}
        assert made.count("cut") == len(segments) - 1


def test_the_batch_is_not_changed(guest: Card) -> None:
    datagram = like("tcp4", 5000)
    batch = super_frame(datagram, 1400)
    with card(NEGOTIATED & ~OFFLOADS) as made:
        made.guest.post([BUFFER] * 16)
        assert made.rings.sendmmsg(batch) == 1
    assert bytes(batch[0]) == datagram.build(whole=False)
    assert header_of(batch, 0) == offload_header(datagram, 1400)


def test_it_begins_where_it_is_told(guest: Card) -> None:
    batch = held(*numbered_frames(10))
    assert guest.rings.sendmmsg(batch, 7) == 3
    assert frames_of(guest.guest.received()) == numbered_frames(10)[7:]
    assert guest.rings.sendmmsg(batch, 10) == 0
    with pytest.raises(ValueError, match="start must be 0 to 10, not 11"):
        guest.rings.sendmmsg(batch, 11)


def test_a_header_that_does_not_fit_is_an_error(guest: Card) -> None:
    batch = held(*numbered_frames(3))
    batch.vnet_flags[1] = VNET_NEEDS_CSUM
    batch.checksum_starts[1] = 1000
    assert guest.rings.sendmmsg(batch) == 1, "the frame before it was not sent"
    with pytest.raises(ValueError, match="packet 1: "):
        guest.rings.sendmmsg(batch, 1)


def test_an_unknown_kind_of_super_frame_is_an_error(guest: Card) -> None:
    batch = held(numbered(1), numbered(2))
    batch.gso_types[0] = 0x55
    with pytest.raises(ValueError, match="packet 0: its gso_type is unknown"):
        guest.rings.sendmmsg(batch)
    assert guest.rings.sendmmsg(batch, 1) == 1
    assert frames_of(guest.guest.received()) == [numbered(2)]


def test_what_cannot_be_cut_is_dropped_and_counted() -> None:
    """It is not TCP. Every frame is counted once."""
    batch = PacketBatch(3, SUPER_FRAME)
    batch.append(numbered(1))
    batch.append(numbered(2, 5000))
    batch.append(numbered(3))
    batch.vnet_flags[1] = VNET_NEEDS_CSUM
    batch.gso_types[1] = GSO_TCPV4
    batch.gso_sizes[1] = 1000
    batch.checksum_starts[1] = 34
    batch.checksum_offsets[1] = 16
    with card(NEGOTIATED & ~OFFLOADS) as made:
        made.guest.post([BUFFER] * 16)
        assert made.rings.sendmmsg(batch) == 3
        got = made.guest.received()
        assert frames_of(got) == [numbered(1), numbered(3)]
        assert made.count("bad") == 1
        counts = made.rings.statistics()
        assert 3 + counts["cut"] == counts["sent"] + counts["bad"]


def test_a_full_ring_takes_what_fits() -> None:
    frames = numbered_frames(20)
    batch = held(*frames)
    with card() as made:
        made.guest.post([BUFFER] * 8)
        assert made.rings.sendmmsg(batch) == 8
        assert made.rings.is_full
        with pytest.raises(BlockingIOError):
            made.rings.sendmmsg(batch, 8)
        assert frames_of(made.guest.received(again=False)) == frames[:8]
        kicks = made.guest.kicks[RECEIVE]
        made.guest.post([BUFFER] * 12)
        assert made.guest.kicks[RECEIVE] == kicks + 1
        assert made.rings.sendmmsg(batch, 8) == 12
        assert not made.rings.is_full
        assert frames_of(made.guest.received()) == frames[8:]


def test_segments_that_wait_come_before_all_else(
    near: RawSocket, end: RawSocket
) -> None:
    datagram = like("tcp4", 60_000)
    segments = datagram.segments(500)
    with card(NEGOTIATED & ~OFFLOADS, size=16) as made:
        made.guest.post([BUFFER] * 16)
        assert made.rings.sendmmsg(super_frame(datagram, 500)) == 1
        assert made.rings.is_full
        end.sendmmsg([numbered(1)])
        got = made.guest.received()
        got += made.give(near, len(segments) + 1 - len(got))
        assert frames_of(got) == [*segments, numbered(1)]


def test_frames_that_wait_do_not_depend_on_their_batch() -> None:
    """A batch that was taken may be filled anew at once."""
    datagram = like("udp6", 60_000)
    segments = datagram.segments(1000)
    batch = super_frame(datagram, 1000)
    with card(NEGOTIATED & ~OFFLOADS, size=4) as made:
        made.guest.post([BUFFER] * 4)
        assert made.rings.sendmmsg(batch) == 1
        got = made.guest.received()
        batch.clear()
        batch.append(numbered(1))
        got += give(made, batch)
        assert frames_of(got) == [*segments, numbered(1)]


def test_a_ring_that_is_not_ready_drops_all(guest: Card) -> None:
    batch = held(*numbered_frames(20))
    guest.rings.set_enabled(RECEIVE, False)
    assert guest.rings.sendmmsg(batch, 4) == 16
    assert guest.counted == {"missed": 16}
    guest.rings.set_enabled(RECEIVE, True)
    assert guest.rings.sendmmsg(batch) == 20
    assert frames_of(guest.guest.received()) == numbered_frames(20)


def test_frames_that_fit_no_buffer_are_dropped_and_counted() -> None:
    batch = held(
        numbered(1), numbered(2, 3000), numbered(3), frame_size=SUPER_FRAME
    )
    with card(NEGOTIATED & ~Feature.MRG_RXBUF) as made:
        made.guest.post([BUFFER] * 3)
        assert made.rings.sendmmsg(batch) == 3
        assert frames_of(made.guest.received()) == [numbered(1), numbered(3)]
        assert made.count("no_room") == 1


@pytest.mark.parametrize("buffer", [64, 300, BUFFER, 9100])
def test_mixed_sizes_are_right_to_the_byte(buffer: int) -> None:
    rng = random.Random(buffer)
    with card(size=512) as made:
        made.guest.post([buffer] * 512)
        for i in range(0, 640, 32):
            frames = [
                numbered(i + k, rng.choice((26, 60, 1514, 9014, 20_000)))
                for k in range(32)
            ]
            batch = held(*frames, frame_size=SUPER_FRAME)
            assert frames_of(give(made, batch)) == frames


def test_between_two_guests_super_frames_stay_whole(
    batch: PacketBatch,
) -> None:
    datagram = like("tcp6", 60_000)
    frame = datagram.build(whole=False)
    with card() as one, card() as other:
        other.guest.post([BUFFER] * 256)
        for _ in range(3):
            one.guest.send(frame, offload_header(datagram, 1400))
        assert one.rings.recvmmsg_into(batch) == 3
        assert other.rings.sendmmsg(batch) == 3
        for got in other.guest.received():
            assert got.frame == frame
            assert same_offload(got.header, offload_header(datagram, 1400))


def test_between_two_guests_a_super_frame_is_cut_for_one_that_takes_none(
    batch: PacketBatch,
) -> None:
    datagram = like("tcp4", 60_000)
    with card() as one, card(NEGOTIATED & ~OFFLOADS) as other:
        other.guest.post([BUFFER] * 256)
        one.guest.send(
            datagram.build(whole=False), offload_header(datagram, 1400)
        )
        assert one.rings.recvmmsg_into(batch) == 1
        assert other.rings.sendmmsg(batch) == 1
        got = other.guest.received()
        assert frames_of(got) == datagram.segments(1400)
        assert {one.header.gso_type for one in got} == {GSO_NONE}
