"""What a guest receives: recvmmsg(2) writes it into the guest's buffers. Only
what needs more of them than expected is copied."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

import pytest
from support.calls import eventually
from support.datagrams import (
    ACK,
    CWR,
    KINDS,
    TAGS,
    Datagram,
    data,
    super_frame,
)
from support.frames import numbered, numbered_frames, send
from support.guest_cards import (
    NEGOTIATIONS,
    Card,
    Received,
    card,
    offload_header,
    same_offload,
)
from support.guest_driver import NEGOTIATED, RECEIVE, OffloadHeader

from rawmmsg import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    VNET_NEEDS_CSUM,
    RawSocket,
)
from rawmmsg.testing import Veth
from rawmmsg.vhost import Feature

PAGE_BUFFER: Final = 1536  # what Linux posts
BIG_BUFFER: Final = 65_562  # and without mergeable buffers
GUEST_TSO: Final = (
    Feature.GUEST_TSO4
    | Feature.GUEST_TSO6
    | Feature.GUEST_ECN
    | Feature.GUEST_USO4
    | Feature.GUEST_USO6
)


@pytest.fixture
def guest() -> Iterator[Card]:
    """A card with the buffers of Linux."""
    with card() as made:
        made.guest.post([PAGE_BUFFER] * 256)
        yield made


def like(kind: str, size: int, tags: tuple[int, ...] = ()) -> Datagram:
    one = KINDS[kind]
    return Datagram(
        data(size), protocol=one.protocol, version=one.version, tags=tags
    )


def frames_of(received: Sequence[Received]) -> list[bytes]:
    return [one.frame for one in received]


def needed(size: int, buffer: int = PAGE_BUFFER) -> int:
    """How many buffers a frame of this size fills."""
    return -(-(12 + size) // buffer)


# Frames


@pytest.mark.parametrize("negotiation", NEGOTIATIONS)
def test_small_frames_arrive_with_an_empty_header(
    near: RawSocket, end: RawSocket, negotiation: str
) -> None:
    features = NEGOTIATIONS[negotiation]
    frames = [numbered(i, 60 + i * 22) for i in range(64)]
    with card(features) as made:
        made.guest.post([BIG_BUFFER] * 64)
        end.sendmmsg_all(frames)
        got = made.give(near, 64)
        assert frames_of(got) == frames
        count = 1 if made.guest.header_size == 12 else 0
        for one in got:
            assert one.header.gso_type == GSO_NONE
            assert not one.header.flags & VNET_NEEDS_CSUM
            assert one.header.buffer_count == count
            assert one.buffers == (made.guest.header_size + len(one.frame),)
        assert made.count("sent") == 64
        assert made.count("moved") == made.count("spilled") == 0


@pytest.mark.parametrize("sizes", [[12, 1524], [1] * 40 + [1500], [5, 3000]])
@pytest.mark.parametrize("indirect", [False, True])
def test_a_buffer_may_consist_of_any_parts(
    near: RawSocket, end: RawSocket, sizes: list[int], indirect: bool
) -> None:
    frames = [numbered(i, size) for i, size in enumerate((60, 1000, 1514))]
    with card() as made:
        made.guest.post([sizes] * 6, indirect=indirect)
        end.sendmmsg_all(frames)
        assert frames_of(made.give(near, 3)) == frames


@pytest.mark.parametrize("size", [1514, 1524, 1525, 3060, 3061, 9014])
def test_a_long_frame_fills_as_many_buffers_as_it_needs(
    jumbo: tuple[RawSocket, RawSocket], guest: Card, size: int
) -> None:
    near, far = jumbo
    frames = numbered_frames(20, size)
    far.sendmmsg_all(frames)
    got = guest.give(near, 20)
    assert frames_of(got) == frames
    for one in got:
        assert one.header.buffer_count == needed(size)
        *full, last = one.buffers
        assert full == [PAGE_BUFFER] * (needed(size) - 1)
        assert last == 12 + size - sum(full)


@pytest.mark.parametrize("kind", KINDS)
def test_super_frames_arrive_in_one_piece(
    near: RawSocket, end: RawSocket, guest: Card, kind: str
) -> None:
    datagram = like(kind, 62_000)
    for _ in range(5):
        end.sendmmsg(super_frame(datagram, 1400))
    whole = datagram.build(whole=False)
    for one in guest.give(near, 5):
        assert one.frame == whole
        assert same_offload(one.header, offload_header(datagram, 1400))
        assert one.header.buffer_count == needed(len(whole)) >= 41


def test_the_longest_super_frame_needs_43_buffers(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    """The kernel cuts longer ones (net/core/dev.c:gso_features_check())."""
    datagram = Datagram(data(65_535 - 54))
    end.sendmmsg(super_frame(datagram, 1448))
    (one,) = guest.give(near, 1)
    assert one.frame == datagram.build(whole=False)
    assert one.header.buffer_count == 43


def test_super_frames_fit_big_buffers_of_a_guest_without_mergeable_ones(
    near: RawSocket, end: RawSocket
) -> None:
    datagram = Datagram(data(65_000))
    with card(NEGOTIATED & ~Feature.MRG_RXBUF) as made:
        made.guest.post([[12, BIG_BUFFER - 12]] * 8)
        end.sendmmsg(super_frame(datagram, 1448))
        end.sendmmsg([numbered(1)])
        first, second = made.give(near, 2)
        assert first.frame == datagram.build(whole=False)
        assert same_offload(first.header, offload_header(datagram, 1448))
        assert second.frame == numbered(1)
        assert made.count("moved") == made.count("spilled") == 0


@pytest.mark.parametrize(
    "features", [NEGOTIATED & ~Feature.MRG_RXBUF, Feature(0)]
)
def test_what_fits_no_buffer_is_dropped_and_counted(
    jumbo: tuple[RawSocket, RawSocket], features: Feature
) -> None:
    """The frames around it arrive, in the same buffers."""
    near, far = jumbo
    with card(features) as made:
        room = PAGE_BUFFER - made.guest.header_size
        made.guest.post([PAGE_BUFFER] * 3)
        frames = [
            numbered(1),
            numbered(2, room + 1),
            numbered(3, room),
            numbered(4, 9000),
            numbered(5),
        ]
        far.sendmmsg_all(frames)
        got = made.give(near, 3)
        assert frames_of(got) == [frames[0], frames[2], frames[4]]
        assert made.count("no_room") == 2
        assert made.count("sent") == 3


def test_a_frame_longer_than_all_buffers_together_does_not_block_the_ring(
    jumbo: tuple[RawSocket, RawSocket],
) -> None:
    near, far = jumbo
    with card(size=4) as made:
        made.guest.post([1000] * 4)
        far.sendmmsg_all([numbered(1), numbered(2, 9000), numbered(3)])
        assert frames_of(made.give(near, 2)) == [numbered(1), numbered(3)]
        assert made.count("no_room") == 1


# What the guest has not negotiated


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tags", TAGS.values())
def test_without_guest_csum_checksums_are_complete(
    near: RawSocket, end: RawSocket, kind: str, tags: tuple[int, ...]
) -> None:
    datagrams = [like(kind, size, tags) for size in (1, 50, 1001)]
    with card(NEGOTIATED & ~(Feature.GUEST_CSUM | GUEST_TSO)) as made:
        made.guest.post([PAGE_BUFFER] * 16)
        for one in datagrams:
            end.sendmmsg(super_frame(one, 0))
        end.sendmmsg([datagrams[0].build()])
        got = made.give(near, 4)
        whole = [one.build() for one in datagrams]
        assert frames_of(got) == [*whole, whole[0]]
        assert {one.header for one in got} == {OffloadHeader(buffer_count=1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checksums", [Feature(0), Feature.GUEST_CSUM])
def test_without_guest_tso_super_frames_are_cut(
    near: RawSocket, end: RawSocket, kind: str, checksums: Feature
) -> None:
    datagram = like(kind, 40_000)
    segments = datagram.segments(1400)
    features = NEGOTIATED & ~(Feature.GUEST_CSUM | GUEST_TSO) | checksums
    with card(features) as made:
        made.guest.post([PAGE_BUFFER] * 256)
        end.sendmmsg([numbered(1)])
        for _ in range(3):
            end.sendmmsg(super_frame(datagram, 1400))
        end.sendmmsg([numbered(2)])
        got = made.give(near, 2 + 3 * len(segments))
        assert frames_of(got) == [
            numbered(1),
            *segments * 3,
            numbered(2),
        ]
        for one in got:
            assert one.header.gso_type == GSO_NONE
            assert not one.header.flags & VNET_NEEDS_CSUM
            assert checksums or one.header.flags == 0
        assert made.count("cut") == 3 * (len(segments) - 1)
        assert made.count("sent") == len(got)


@pytest.mark.parametrize(
    ("missing", "kind"),
    [
        (Feature.GUEST_TSO4, "tcp4"),
        (Feature.GUEST_TSO6, "tcp6"),
        (Feature.GUEST_USO4 | Feature.GUEST_USO6, "udp4"),
        (Feature.GUEST_USO4 | Feature.GUEST_USO6, "udp6"),
    ],
)
def test_only_the_kind_that_is_missing_is_cut(
    near: RawSocket, end: RawSocket, missing: Feature, kind: str
) -> None:
    with card(NEGOTIATED & ~missing) as made:
        made.guest.post([PAGE_BUFFER] * 256)
        cut = like(kind, 20_000)
        other = like("tcp6" if kind == "tcp4" else "tcp4", 20_000)
        end.sendmmsg(super_frame(cut, 1400))
        end.sendmmsg(super_frame(other, 1400))
        segments = cut.segments(1400)
        got = made.give(near, len(segments) + 1)
        assert frames_of(got) == [*segments, other.build(whole=False)]


@pytest.mark.parametrize("version", [4, 6])
def test_congestion_marks_need_guest_ecn(
    near: RawSocket, end: RawSocket, version: int
) -> None:
    datagram = Datagram(data(20_000), version=version, flags=ACK | CWR)
    batch = super_frame(datagram, 1448)
    batch.gso_types[0] |= GSO_ECN
    segments = datagram.segments(1448)
    with card() as made:
        made.guest.post([PAGE_BUFFER] * 256)
        end.sendmmsg(batch)
        (one,) = made.give(near, 1)
        kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
        assert one.header.gso_type == kind | GSO_ECN
        assert one.frame == datagram.build(whole=False)
    with card(NEGOTIATED & ~Feature.GUEST_ECN) as made:
        made.guest.post([PAGE_BUFFER] * 256)
        end.sendmmsg(batch)
        assert frames_of(made.give(near, len(segments))) == segments


def test_segments_for_which_there_is_no_buffer_wait(
    near: RawSocket, end: RawSocket
) -> None:
    """A super-frame is cut into more segments than the ring has buffers, and
    the frames behind it wait, too."""
    datagram = Datagram(data(60_000))
    segments = datagram.segments(500)
    frames = numbered_frames(70)
    with card(NEGOTIATED & ~GUEST_TSO, size=16) as made:
        made.guest.post([PAGE_BUFFER] * 16)
        end.sendmmsg(super_frame(datagram, 500))
        end.sendmmsg_all(frames)
        end.sendmmsg(super_frame(datagram, 500))
        got = made.give(near, 2 * len(segments) + 70)
        assert frames_of(got) == [*segments, *frames, *segments]


# Tags


@pytest.mark.parametrize("tags", TAGS.values())
@pytest.mark.parametrize("size", [46, 1400, 1484])
def test_tags_are_put_back(
    near: RawSocket,
    end: RawSocket,
    guest: Card,
    tags: tuple[int, ...],
    size: int,
) -> None:
    datagram = like("udp4", size - 28, tags)
    end.sendmmsg([datagram.build()] * 3 + [numbered(1)])
    end.sendmmsg(super_frame(datagram, 0))
    *whole, other, last = guest.give(near, 5)
    assert frames_of(whole) == [datagram.build()] * 3
    assert other.frame == numbered(1)
    assert last.frame == datagram.build(whole=False)
    assert same_offload(last.header, offload_header(datagram))


@pytest.mark.parametrize("tags", TAGS.values())
@pytest.mark.parametrize("kind", KINDS)
def test_tags_are_put_back_into_super_frames(
    near: RawSocket,
    end: RawSocket,
    guest: Card,
    tags: tuple[int, ...],
    kind: str,
) -> None:
    """The offsets in the header count the tags, too."""
    datagram = like(kind, 30_000, tags)
    end.sendmmsg(super_frame(datagram, 1400))
    end.sendmmsg([numbered(1)])
    got, other = guest.give(near, 2)
    assert got.frame == datagram.build(whole=False)
    assert same_offload(got.header, offload_header(datagram, 1400))
    assert other.frame == numbered(1)


def test_tagged_super_frames_are_cut_with_their_tags(
    near: RawSocket, end: RawSocket
) -> None:
    datagram = like("tcp4", 30_000, (0x8100,))
    segments = datagram.segments(1400)
    with card(NEGOTIATED & ~GUEST_TSO) as made:
        made.guest.post([PAGE_BUFFER] * 256)
        end.sendmmsg(super_frame(datagram, 1400))
        assert frames_of(made.give(near, len(segments))) == segments


# Copies


@pytest.mark.parametrize("size", [60, 1514, 1524, 1525, 4000, 9014])
def test_steady_traffic_of_one_size_is_not_copied(
    jumbo: tuple[RawSocket, RawSocket], guest: Card, size: int
) -> None:
    near, far = jumbo
    far.sendmmsg_all([numbered(0, size)])
    guest.give(near, 1)
    before = guest.count("spilled"), guest.count("moved")
    for i in range(20):
        frames = [numbered(i * 16 + k, size) for k in range(16)]
        far.sendmmsg_all(frames)
        assert frames_of(guest.give(near, 16)) == frames
    assert (guest.count("spilled"), guest.count("moved")) == before
    if size <= PAGE_BUFFER - 12:
        assert before == (0, 0)


def test_steady_super_frames_are_not_copied(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    datagram = Datagram(data(64_000))
    end.sendmmsg(super_frame(datagram, 1448))
    guest.give(near, 1)
    before = guest.count("spilled"), guest.count("moved")
    for _ in range(20):
        for _ in range(4):
            end.sendmmsg(super_frame(datagram, 1448))
        for one in guest.give(near, 4):
            assert one.frame == datagram.build(whole=False)
    assert (guest.count("spilled"), guest.count("moved")) == before


def test_what_spills_is_counted(
    jumbo: tuple[RawSocket, RawSocket], guest: Card
) -> None:
    """This shows that the tests above would see copies."""
    near, far = jumbo
    far.sendmmsg_all([numbered(1), numbered(2, 9000), numbered(3)])
    assert len(guest.give(near, 3)) == 3
    assert guest.count("spilled") + guest.count("moved") > 0


@pytest.mark.parametrize("buffer", [64, 200, PAGE_BUFFER, 4096, 9100])
def test_mixed_sizes_are_right_to_the_byte(
    jumbo: tuple[RawSocket, RawSocket], buffer: int
) -> None:
    near, far = jumbo
    rng = random.Random(buffer)
    with card(size=1024, batch=32) as made:
        made.guest.post([buffer] * 1024)
        for i in range(0, 600, 20):
            frames = [
                numbered(i + k, rng.choice((60, 1514, 9014, 26 + k * 400)))
                for k in range(20)
            ]
            far.sendmmsg_all(frames)
            assert frames_of(made.give(near, 20)) == frames
        assert made.count("sent") == 600


# A ring that is full


def test_a_full_ring_loses_nothing(near: RawSocket, end: RawSocket) -> None:
    frames = numbered_frames(100, 1000)
    with card() as made:
        made.guest.post([PAGE_BUFFER] * 10)
        end.sendmmsg_all(frames)
        made.until_queued(near, 10)
        eventually(
            lambda: made.receive(near) == 0 and made.rings.is_full,
            "the ring is never full",
        )
        got = made.guest.received(again=False)
        assert frames_of(got) == frames[:10]
        assert made.rings.receive(near) == 0
        assert made.rings.is_full
        assert made.guest.received() == []
        kicks = made.guest.kicks[RECEIVE]
        made.guest.post([PAGE_BUFFER] * 30)
        assert made.guest.kicks[RECEIVE] == kicks + 1, "no kick was asked for"
        assert frames_of(made.give(near, 90)) == frames[10:]
        assert not made.rings.is_full
        assert made.count("missed") == made.count("no_room") == 0


def test_nothing_is_taken_from_the_socket_without_a_buffer(
    near: RawSocket, end: RawSocket
) -> None:
    with card() as made:
        end.sendmmsg_all(numbered_frames(5))
        for _ in range(3):
            assert made.rings.receive(near) == 0
            assert made.rings.is_full
        made.guest.post([PAGE_BUFFER] * 5)
        assert frames_of(made.give(near, 5)) == numbered_frames(5)


def test_a_frame_waits_until_all_of_its_buffers_are_there(
    jumbo: tuple[RawSocket, RawSocket],
) -> None:
    near, far = jumbo
    with card() as made:
        made.guest.post([PAGE_BUFFER] * 3)
        far.sendmmsg_all([numbered(1, 9000), numbered(2)])
        made.until_queued(near, 1)
        for _ in range(3):
            assert made.receive(near) == 0
            assert made.rings.is_full
            assert made.guest.received() == []
            kicks = made.guest.kicks[RECEIVE]
            made.guest.post([PAGE_BUFFER])
            assert made.guest.kicks[RECEIVE] == kicks + 1
        assert frames_of(made.give(near, 2)) == [
            numbered(1, 9000),
            numbered(2),
        ]


def test_asking_for_kicks_does_not_find_old_buffers_again(
    jumbo: tuple[RawSocket, RawSocket],
) -> None:
    """Those that are too few must not keep the caller busy."""
    near, far = jumbo
    with card() as made:
        made.guest.post([PAGE_BUFFER] * 3)
        far.sendmmsg_all([numbered(1, 9000)])
        made.until_queued(near, 1)
        assert made.rings.is_full
        assert not made.rings.ask_for_kick(RECEIVE)
        made.guest.post([PAGE_BUFFER], flush=False)
        made.guest.receive.publish()
        assert made.rings.ask_for_kick(RECEIVE)


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_ring_wraps_around(
    near: RawSocket, end: RawSocket, size: int
) -> None:
    with card(size=size, base=65_400) as made:
        made.guest.post([PAGE_BUFFER] * size)
        for i in range(0, 400, 40):
            frames = [numbered(i + k, 60 + k) for k in range(40)]
            end.sendmmsg_all(frames)
            assert frames_of(made.give(near, 40)) == frames
        assert made.guest.receive.used_index == (65_400 + 400) % 65_536


def test_frames_that_need_many_buffers_wrap_around(
    jumbo: tuple[RawSocket, RawSocket],
) -> None:
    near, far = jumbo
    with card(size=8, base=65_500) as made:
        made.guest.post([PAGE_BUFFER] * 8)
        frames = [numbered(i, 100 + i * 80) for i in range(110)]
        far.sendmmsg_all(frames)
        assert frames_of(made.give(near, 110)) == frames


def test_batches_larger_than_the_ring_are_received_in_parts(
    near: RawSocket, end: RawSocket
) -> None:
    with card(batch=1024, size=32) as made:
        made.guest.post([PAGE_BUFFER] * 32)
        frames = numbered_frames(500)
        end.sendmmsg_all(frames)
        assert frames_of(made.give(near, 500)) == frames


# A ring that is not ready


def test_frames_for_a_guest_that_is_not_ready_are_counted_as_missed(
    near: RawSocket, end: RawSocket
) -> None:
    with card() as made:
        made.guest.post([PAGE_BUFFER] * 32)
        made.rings.set_enabled(RECEIVE, False)
        assert not made.rings.is_ready(RECEIVE)
        frames = numbered_frames(20)
        end.sendmmsg_all(frames)
        eventually(
            lambda: made.receive(near) >= 0 and made.count("missed") == 20,
            "the frames are not received",
        )
        assert made.count("taken_bytes") == sum(map(len, frames))
        assert not made.rings.is_full
        made.rings.set_enabled(RECEIVE, True)
        assert made.rings.is_ready(RECEIVE)
        end.sendmmsg_all([numbered(30)])
        assert frames_of(made.give(near, 1)) == [numbered(30)]
        assert made.count("missed") == 20


def test_a_socket_without_frames_raises(near: RawSocket, guest: Card) -> None:
    with pytest.raises(BlockingIOError):
        guest.rings.receive(near)
    assert not guest.rings.is_full
    assert guest.guest.receive.used_index == 0


def test_a_kernel_that_writes_headers_of_12_bytes_serves_as_well(
    pair: Veth, end: RawSocket, guest: Card
) -> None:
    """The kernel writes num_buffers 0, which is replaced."""
    datagram = Datagram(data(20_000))
    with RawSocket(pair.b, ignore_outgoing=True, vnet_hdr=12) as near:
        near.setblocking(False)
        end.sendmmsg(super_frame(datagram, 1448))
        (one,) = guest.give(near, 1)
    assert one.frame == datagram.build(whole=False)
    assert one.header.buffer_count == needed(len(one.frame))
    assert same_offload(one.header, offload_header(datagram, 1448))


def test_several_sockets_may_fill_one_guest(
    pair: Veth, end: RawSocket, guest: Card, veth: Veth
) -> None:
    """Each has its frames in order."""
    with (
        RawSocket(pair.b, vnet_hdr=True) as one,
        RawSocket(veth.b, vnet_hdr=12) as two,
    ):
        for sock in (one, two):
            sock.setblocking(False)
        for i in range(10):
            end.sendmmsg_all([numbered(2 * i, 1000)])
            send(veth.a, numbered(2 * i + 1, 100))
            assert frames_of(guest.give(one, 1)) == [numbered(2 * i, 1000)]
            assert frames_of(guest.give(two, 1)) == [numbered(2 * i + 1, 100)]
