"""segment_into(): the segments are those that the kernel makes."""

import random
from collections.abc import Callable
from dataclasses import replace
from math import ceil

import pytest
from support.datagrams import (
    ACK,
    AD,
    CHECKSUM_OFFSETS,
    CWR,
    DESTINATION,
    JUMBO,
    KINDS,
    PSH,
    SHAPES,
    TAGS,
    TIMESTAMPS,
    UDP,
    Datagram,
    Q,
    add,
    columns,
    data,
    super_frame,
    write_header,
)
from support.frames import pending, receive, same_frames

from rawmmsg import (
    GSO_ECN,
    GSO_UDP_L4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    PacketBatch,
    RawSocket,
)

MSS = 1400


def cut(batch: PacketBatch, capacity: int = 256) -> list[bytes]:
    """Segments the whole batch into targets of that capacity."""
    return cut_into(batch, PacketBatch(capacity, SUPER_FRAME))


def cut_into(batch: PacketBatch, target: PacketBatch) -> list[bytes]:
    """Segments the whole batch into the target, again and again."""
    packets: list[bytes] = []
    at = 0, 0
    while at[0] < len(batch):
        at = batch.segment_into(target, *at)
        assert len(target) > 0, f"the target stays empty at {at}"
        packets += target.tolist()
    assert at == (len(batch), 0)
    return packets


def matches_kernel(
    kernel: tuple[RawSocket, RawSocket], batch: PacketBatch
) -> list[bytes]:
    """Asserts that the segments equal the kernel's, on a device without
    offloads."""
    sender, receiver = kernel
    ours = cut(batch)
    assert sender.sendmmsg(batch) == len(batch)
    same_frames(ours, receive(receiver, len(ours)))
    assert pending(receiver) == [], "the kernel made more segments"
    return ours


# Compared with the kernel


@pytest.mark.parametrize("size", [2 * MSS, 2 * MSS + 1, 20_001])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_segments_equal_the_kernels(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    tags: tuple[int, ...],
    size: int,
) -> None:
    datagram = replace(datagram, tags=tags, payload=data(size))
    ours = matches_kernel(kernel, super_frame(datagram, MSS))
    same_frames(ours, datagram.segments(MSS))


@pytest.mark.parametrize("size", [0, 1, MSS, 2 * MSS, 2 * MSS + 1, 20_001])
@pytest.mark.parametrize("datagram", SHAPES.values(), ids=SHAPES)
def test_number_of_segments_follows_from_the_columns(
    datagram: Datagram, size: int
) -> None:
    """By the formula that the description of `gso_sizes` gives."""
    batch = super_frame(replace(datagram, payload=data(size)), MSS)
    start = batch.checksum_starts[0]
    if batch.gso_types[0] & ~GSO_ECN == GSO_UDP_L4:
        headers = start + 8
    else:
        headers = start + 4 * (batch[0][start + 12] >> 4)
    payload = batch.lengths[0] - headers
    assert len(cut(batch)) == max(1, ceil(payload / batch.gso_sizes[0]))


@pytest.mark.parametrize("tags", [(), (Q,)], ids=["plain", "tag"])
@pytest.mark.parametrize("datagram", SHAPES.values(), ids=SHAPES)
def test_segments_of_any_shape_equal_the_kernels(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    tags: tuple[int, ...],
) -> None:
    datagram = replace(datagram, tags=tags, payload=data(4001))
    ours = matches_kernel(kernel, super_frame(datagram, 1001))
    same_frames(ours, datagram.segments(1001))


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_last_segment_of_any_length_equals_the_kernels(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram
) -> None:
    for last in range(1, 34):
        payload = data(2 * 33 + last)
        matches_kernel(
            kernel, super_frame(replace(datagram, payload=payload), 33)
        )


@pytest.mark.parametrize("version", [4, 6])
def test_super_frame_with_ecn_is_cut(
    kernel: tuple[RawSocket, RawSocket], version: int
) -> None:
    """CWR on the first segment only."""
    datagram = Datagram(data(5000), version=version, flags=ACK | CWR | PSH)
    batch = super_frame(datagram, MSS)
    write_header(batch, 0, gso_types=datagram.gso_type | GSO_ECN)
    segments = matches_kernel(kernel, batch)
    at = datagram.transport_offset + 13
    assert [packet[at] for packet in segments] == [
        ACK | CWR,
        ACK,
        ACK,
        ACK | PSH,
    ]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tags", [(), (AD, Q)], ids=["plain", "two tags"])
def test_segments_get_checksums_without_the_flag(
    kernel: tuple[RawSocket, RawSocket], version: int, tags: tuple[int, ...]
) -> None:
    """The kernel accepts TCP super-frames without VNET_NEEDS_CSUM."""
    datagram = Datagram(data(5000), version=version, tags=tags)
    batch = super_frame(datagram, MSS)
    write_header(batch, 0, vnet_flags=0, checksum_starts=0, checksum_offsets=0)
    same_frames(cut(batch), datagram.segments(MSS))
    if not tags:
        matches_kernel(kernel, batch)


def test_sum_of_the_senders_pseudo_header_is_used(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    """With a source route, its address differs from that in the IP header."""
    batch = super_frame(Datagram(data(3000), version=6), 1000)
    batch[0][14 + 39] ^= 0x55
    matches_kernel(kernel, batch)


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_super_frame_of_one_segment_stays_one_frame(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram, size: int
) -> None:
    datagram = replace(datagram, payload=data(size), flags=0xFF)
    same_frames(
        matches_kernel(kernel, super_frame(datagram, 1000)), [datagram.build()]
    )


def test_super_frame_of_one_segment_keeps_its_padding(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    datagram = Datagram(b"abc")
    batch = super_frame(datagram, 1000)
    batch.lengths[0] += 3
    same_frames(matches_kernel(kernel, batch), [datagram.build() + bytes(3)])


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_checksum_of_zero_equals_the_kernels(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram
) -> None:
    """It stays 0 in TCP. In UDP, where 0 means no checksum, it becomes all
    ones."""
    at = datagram.transport_offset + CHECKSUM_OFFSETS[datagram.protocol]
    payload = data(98) + b"\0\0"
    whole = replace(datagram, payload=payload + data(100)).segments(100)
    datagram = replace(
        datagram, payload=payload[:98] + whole[0][at : at + 2] + data(100)
    )
    first = matches_kernel(kernel, super_frame(datagram, 100))[0]
    expected = b"\xff\xff" if datagram.protocol == UDP else b"\0\0"
    assert first[at : at + 2] == expected


# Compared with the tests' own segmentation


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", [*KINDS.values(), *SHAPES.values()])
def test_every_last_length_is_cut(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    for last in range(1, 60):
        made = replace(datagram, tags=tags, payload=data(59 + last))
        same_frames(cut(super_frame(made, 59)), made.segments(59))


@pytest.mark.parametrize("gso_size", [1, 2, 7, 8, 15, 16, 31, 33, 536, 8948])
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_every_segment_size_works(datagram: Datagram, gso_size: int) -> None:
    datagram = replace(datagram, payload=data(2000 + 7 * gso_size))
    same_frames(
        cut(super_frame(datagram, gso_size)), datagram.segments(gso_size)
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("extensions", [(), (JUMBO,), (JUMBO, DESTINATION)])
def test_frame_of_more_than_64_kib_is_cut(
    version: int, extensions: tuple[tuple[int, bytes], ...]
) -> None:
    """Its IP length is 0. The segments have no jumbo option
    (include/net/ipv6.h:ipv6_hopopt_jumbo_remove())."""
    if version == 4:
        extensions = ()
    datagram = Datagram(data(100_000), version=version, extensions=extensions)
    segments = replace(datagram, extensions=extensions[1:]).segments(MSS)
    same_frames(cut(super_frame(datagram, MSS)), segments)


def test_padding_is_not_sent_as_payload() -> None:
    datagram = Datagram(data(3000))
    batch = super_frame(datagram, MSS)
    batch.lengths[0] += 30
    same_frames(cut(batch), datagram.segments(MSS))


@pytest.mark.parametrize("shift", range(16))
def test_frames_may_have_any_alignment(shift: int) -> None:
    datagram = Datagram(data(3001), tcp_options=TIMESTAMPS)
    size = len(datagram.build())
    memory = bytearray(size + 16)
    target = bytearray(4 * 2000 + 16)
    batch = PacketBatch(1, buffer=memoryview(memory)[shift : shift + size])
    into = PacketBatch(4, buffer=memoryview(target)[15 - shift : -1 - shift])
    add(batch, datagram, 900)
    assert batch.segment_into(into) == (1, 0)
    same_frames(into.tolist(), datagram.segments(900))


# Batches of several frames, and continuing


def mixed() -> tuple[PacketBatch, list[bytes]]:
    """A batch of all kinds of frames, and the expected result."""
    batch = PacketBatch(8, SUPER_FRAME)
    wanted: list[bytes] = []
    for datagram in KINDS.values():
        large = replace(datagram, payload=data(10_000), tags=(Q,))
        small = replace(datagram, payload=data(100))
        add(batch, large, MSS)
        add(batch, small)
        wanted += [*large.segments(MSS), small.build()]
    return batch, wanted


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 7, 8, 32, 36])
def test_small_target_is_filled_repeatedly(capacity: int) -> None:
    batch, wanted = mixed()
    before = batch.tolist()
    same_frames(cut(batch, capacity), wanted)
    assert batch.tolist() == before, "the source batch was changed"


def test_segmentation_can_start_at_any_segment() -> None:
    datagram = Datagram(data(10_000))
    wanted = datagram.segments(1000)
    batch = super_frame(datagram, 1000)
    target = PacketBatch(4)
    for i in range(10):
        following = (1, 0) if i + 4 >= 10 else (0, i + 4)
        assert batch.segment_into(target, 0, i) == following
        same_frames(target.tolist(), wanted[i : i + 4])


def test_segment_out_of_range_is_an_error() -> None:
    batch = super_frame(Datagram(data(10_000)), 1000)
    for segment in (10, 65535):
        with pytest.raises(ValueError, match=r"packet 0.*segment"):
            batch.segment_into(PacketBatch(4), 0, segment)
    with pytest.raises(ValueError, match="segment"):
        batch.segment_into(PacketBatch(4), 0, -1)
    with pytest.raises(ValueError, match="number of packets"):
        batch.segment_into(PacketBatch(4), 1, 1)


def test_segments_need_no_offload_headers() -> None:
    batch, _ = mixed()
    target = PacketBatch(64)
    target.append(b"x" * 60)
    write_header(target, 0, vnet_flags=1, gso_types=5, checksum_starts=9)
    batch.segment_into(target)
    for i in range(len(target)):
        assert {column[i] for column in columns(target).values()} == {0}


def test_error_of_a_small_target_names_the_frame() -> None:
    batch, _ = mixed()
    target = PacketBatch(64, 1000)
    with pytest.raises(ValueError, match=r"packet 0.*fit"):
        batch.segment_into(target)
    assert batch.segment_into(target, 1) == (2, 0)
    with pytest.raises(ValueError, match=r"packet 2.*fit"):
        batch.segment_into(target, 2)


def test_target_with_a_small_frame_is_filled_up_to_it() -> None:
    """The next call continues with the segment that did not fit."""
    datagram = Datagram(data(5000))
    wanted = datagram.segments(1000)
    batch = super_frame(datagram, 1000)
    target = PacketBatch(buffers=[bytearray(2000), bytearray(500)])
    for i in range(5):
        following = (1, 0) if i == 4 else (0, i + 1)
        assert batch.segment_into(target, 0, i) == following
        same_frames(target.tolist(), wanted[i : i + 1])
    same_frames(cut_into(batch, target), wanted)


def test_segment_that_fits_no_frame_is_an_error_if_first() -> None:
    """The last segment, of 554 bytes, fits a frame that the others do not
    fit."""
    datagram = Datagram(data(2500))
    batch = super_frame(datagram, 1000)
    small = PacketBatch(buffers=[bytearray(600), bytearray(2000)])
    for segment in (0, 1):
        with pytest.raises(ValueError, match=r"packet 0.*fit"):
            batch.segment_into(small, 0, segment)
        assert len(small) == 0
    assert batch.segment_into(small, 0, 2) == (1, 0)
    large = PacketBatch(buffers=[bytearray(2000), bytearray(2000)])
    assert batch.segment_into(large) == (0, 2)


def test_loop_over_any_target_ends(scaled: Callable[[int], int]) -> None:
    """Every call fills a frame of the target, or raises."""
    rng = random.Random(7)
    ended = refused = 0
    for _ in range(scaled(200)):
        batch = PacketBatch(4, SUPER_FRAME)
        wanted: list[bytes] = []
        for _ in range(rng.randrange(1, 5)):
            datagram = replace(
                rng.choice([*KINDS.values()]),
                payload=data(rng.randrange(1, 4000)),
            )
            gso_size = rng.choice([0, 300, 1000])
            add(batch, datagram, gso_size)
            wanted += datagram.segments(gso_size or 4000)
        sizes = [rng.choice([60, 500, 1100, 4100]) for _ in range(4)]
        target = PacketBatch(buffers=[bytearray(size) for size in sizes])
        largest = max(len(packet) for packet in wanted)
        try:
            same_frames(cut_into(batch, target), wanted)
            ended += 1
        except ValueError as error:
            assert "fit" in str(error)
            assert sizes[0] < largest
            refused += 1
    assert ended > scaled(20)
    assert refused > scaled(20)


# Memory shared by source and target


def overlapping(kind: str) -> tuple[PacketBatch, PacketBatch]:
    """A batch, and a target that shares some of its memory."""
    memory = bytearray(40_000)
    view = memoryview(memory)
    spread = [memoryview(bytearray(10_000)) for _ in range(8)]
    match kind:
        case "same":
            made = [PacketBatch(4, buffer=memory) for _ in range(2)]
        case "shifted":
            made = [PacketBatch(1, buffer=view[n:]) for n in (0, 39_999)]
        case "one scattered":
            made = [
                PacketBatch(4, buffer=memory),
                PacketBatch(buffers=[bytearray(10_000), view[39_999:]]),
            ]
        case "both scattered":
            made = [
                PacketBatch(buffers=[view[:9], *spread[:4], view[30:]]),
                PacketBatch(buffers=[*spread[4:], view[29:31]]),
            ]
        case "a batch's own":
            owner = PacketBatch(1, 20_000)
            made = [owner, PacketBatch(1, buffer=owner)]
        case _:
            owner = PacketBatch(1, 20_000)
            made = [owner, PacketBatch(1, buffer=owner.lengths)]
    return made[0], made[1]


@pytest.mark.parametrize(
    "kind",
    [
        "same",
        "shifted",
        "one scattered",
        "both scattered",
        "a batch's own",
        "its lengths",
    ],
)
def test_target_that_shares_memory_is_refused(kind: str) -> None:
    """Segments would overwrite frames that have not been cut."""
    for batch, target in (overlapping(kind), overlapping(kind)[::-1]):
        batch.append(b"x")
        with pytest.raises(ValueError, match="overlaps"):
            batch.segment_into(target)
        assert batch.tolist() == [b"x"]


def test_target_next_to_the_source_in_the_same_memory_works() -> None:
    memory = bytearray(40_000)
    view = memoryview(memory)
    datagram = Datagram(data(9000))
    wanted = datagram.segments(1000)
    batches = [
        PacketBatch(1, 10_000, buffer=memory),
        PacketBatch(1, buffer=view[10_000:20_000]),
        PacketBatch(buffers=[view[30_000:], view[:10_000]]),
    ]
    targets = [
        PacketBatch(15, 2000, buffer=view[10_000:]),
        PacketBatch(5, 2000, buffer=view[20_000:]),
        PacketBatch(buffers=[view[20_000:30_000], view[10_000:20_000]]),
    ]
    for batch, target in zip(batches, targets, strict=True):
        batch.clear()
        add(batch, datagram, 1000)
        same_frames(cut_into(batch, target), wanted)


def test_frame_without_offloads_is_copied() -> None:
    batch = PacketBatch(2)
    batch.extend([b"a" * 60, b"b"])
    write_header(batch, 0, vnet_flags=VNET_DATA_VALID)
    assert cut(batch) == [b"a" * 60, b"b"]
