"""Super-frames cut in software: as the kernel cuts them, whatever they are
made of, and within the target's memory, whatever they claim to be."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.datagrams import (
    ACK,
    AD,
    CHECKSUM_OFFSETS,
    CWR,
    ECE,
    FIN,
    HEADER_COLUMNS,
    PSH,
    TAGS,
    UDP,
    Datagram,
    Q,
    add,
    columns,
    data,
    leave_checksums_to_software,
    write_header,
)
from support.frames import pending, receive

from rawmmsg import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth, veth_pair

MSS = 1400

KINDS = {
    "tcp4": Datagram(),
    "tcp6": Datagram(version=6),
    "udp4": Datagram(protocol=UDP),
    "udp6": Datagram(protocol=UDP, version=6),
}

HOP_BY_HOP = (0, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
DESTINATION = (60, bytes([0, 1, 1, 12, *bytes(12)]))
# Of an experimental type (RFC 4727), whose addresses nobody takes.
ROUTING = (43, bytes([0, 0, 253, 0, 0, 0, 0, 0]))
JUMBO = (0, bytes([0, 0, 0xC2, 4, 0, 1, 0x20, 0]))
TIMESTAMPS = bytes([1, 1, 8, 10, *range(8)])

SHAPES = {
    "IPv4 options": Datagram(options=bytes([1] * 40)),
    "IPv6 extension": Datagram(version=6, extensions=(HOP_BY_HOP,)),
    "IPv6 extensions": Datagram(
        version=6, extensions=(HOP_BY_HOP, DESTINATION)
    ),
    "IPv6 routing": Datagram(version=6, extensions=(ROUTING, DESTINATION)),
    "UDP behind an extension": Datagram(
        version=6, protocol=UDP, extensions=(DESTINATION,)
    ),
    "UDP behind options": Datagram(protocol=UDP, options=bytes([1] * 4)),
    "TCP options": Datagram(tcp_options=TIMESTAMPS),
    "most TCP options": Datagram(version=6, tcp_options=bytes([1] * 40)),
    "FIN and PSH": Datagram(flags=ACK | FIN | PSH),
    "CWR": Datagram(flags=ACK | CWR | ECE),
    "all flags": Datagram(version=6, flags=0xFF),
}


@pytest.fixture(scope="module")
def plain() -> Iterator[Veth]:
    """A pair whose end `a` leaves everything to the kernel's software."""
    with veth_pair() as made:
        leave_checksums_to_software(made.a)
        yield made


@pytest.fixture(scope="module")
def kernel(plain: Veth) -> Iterator[tuple[RawSocket, RawSocket]]:
    with (
        RawSocket(plain.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(plain.b, ignore_outgoing=True) as receiver,
    ):
        yield sender, receiver


def cut(batch: PacketBatch, capacity: int = 256) -> list[bytes]:
    """All of it, in targets of that capacity."""
    return cut_into(batch, PacketBatch(capacity, SUPER_FRAME))


def cut_into(batch: PacketBatch, target: PacketBatch) -> list[bytes]:
    """All of it, in the target, again and again."""
    packets: list[bytes] = []
    at = 0, 0
    while at[0] < len(batch):
        at = batch.segment_into(target, *at)
        assert len(target) > 0, f"no progress at {at}"
        packets += target.tolist()
    assert at == (len(batch), 0)
    return packets


def one(datagram: Datagram, gso_size: int) -> PacketBatch:
    """A batch that holds one super-frame."""
    batch = PacketBatch(1, 2 * SUPER_FRAME)
    add(batch, datagram, gso_size)
    return batch


def same(got: list[bytes], wanted: list[bytes]) -> None:
    assert [len(packet) for packet in got] == [len(p) for p in wanted]
    for i, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        assert ours.hex(" ") == theirs.hex(" "), f"segment {i} differs"


def matches_kernel(
    kernel: tuple[RawSocket, RawSocket], batch: PacketBatch
) -> list[bytes]:
    """What the kernel makes of it when the device can do nothing."""
    sender, receiver = kernel
    ours = cut(batch)
    assert sender.sendmmsg(batch) == len(batch)
    same(ours, receive(receiver, len(ours)))
    assert pending(receiver) == [], "the kernel made more of it"
    return ours


# As the kernel cuts them


@pytest.mark.parametrize("size", [2 * MSS, 2 * MSS + 1, 20_001])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_segments_are_the_kernels(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    tags: tuple[int, ...],
    size: int,
) -> None:
    datagram = replace(datagram, tags=tags, payload=data(size))
    ours = matches_kernel(kernel, one(datagram, MSS))
    same(ours, datagram.segments(MSS))


@pytest.mark.parametrize("tags", [(), (Q,)], ids=["plain", "tag"])
@pytest.mark.parametrize("datagram", SHAPES.values(), ids=SHAPES)
def test_segments_of_any_shape_are_the_kernels(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    tags: tuple[int, ...],
) -> None:
    datagram = replace(datagram, tags=tags, payload=data(4001))
    ours = matches_kernel(kernel, one(datagram, 1001))
    same(ours, datagram.segments(1001))


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_last_segment_of_any_length_is_the_kernels(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram
) -> None:
    for last in range(1, 34):
        payload = data(2 * 33 + last)
        matches_kernel(kernel, one(replace(datagram, payload=payload), 33))


@pytest.mark.parametrize("version", [4, 6])
def test_super_frame_with_ecn_is_cut(
    kernel: tuple[RawSocket, RawSocket], version: int
) -> None:
    """CWR on the first segment only."""
    datagram = Datagram(data(5000), version=version, flags=ACK | CWR | PSH)
    batch = one(datagram, MSS)
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
def test_tcp_that_does_not_need_its_checksum_gets_one_per_segment(
    kernel: tuple[RawSocket, RawSocket], version: int, tags: tuple[int, ...]
) -> None:
    """The kernel allows VNET_NEEDS_CSUM to be missing."""
    datagram = Datagram(data(5000), version=version, tags=tags)
    batch = one(datagram, MSS)
    write_header(batch, 0, vnet_flags=0, checksum_starts=0, checksum_offsets=0)
    same(cut(batch), datagram.segments(MSS))
    if not tags:
        matches_kernel(kernel, batch)


def test_address_of_a_source_route_counts(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    """The pseudo header is the one that the sender put in, whose address is
    not that of the IP header."""
    batch = one(Datagram(data(3000), version=6), 1000)
    batch[0][14 + 39] ^= 0x55
    matches_kernel(kernel, batch)


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_small_super_frame_stays_one(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram, size: int
) -> None:
    datagram = replace(datagram, payload=data(size), flags=0xFF)
    same(matches_kernel(kernel, one(datagram, 1000)), [datagram.build()])


def test_small_super_frame_keeps_its_padding(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    datagram = Datagram(b"abc")
    batch = one(datagram, 1000)
    batch.lengths[0] += 3
    same(matches_kernel(kernel, batch), [datagram.build() + bytes(3)])


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_checksum_of_zero_is_the_kernels(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram
) -> None:
    """It is 0 in TCP, and all ones in UDP, where 0 means none."""
    at = datagram.transport_offset + CHECKSUM_OFFSETS[datagram.protocol]
    payload = data(98) + b"\0\0"
    whole = replace(datagram, payload=payload + data(100)).segments(100)
    datagram = replace(
        datagram, payload=payload[:98] + whole[0][at : at + 2] + data(100)
    )
    first = matches_kernel(kernel, one(datagram, 100))[0]
    expected = b"\xff\xff" if datagram.protocol == UDP else b"\0\0"
    assert first[at : at + 2] == expected


# Beyond what the kernel is asked here


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", [*KINDS.values(), *SHAPES.values()])
def test_every_last_length_is_cut(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    for last in range(1, 60):
        made = replace(datagram, tags=tags, payload=data(59 + last))
        same(cut(one(made, 59)), made.segments(59))


@pytest.mark.parametrize("gso_size", [1, 2, 7, 8, 15, 16, 31, 33, 536, 8948])
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_any_segment_size_does(datagram: Datagram, gso_size: int) -> None:
    datagram = replace(datagram, payload=data(2000 + 7 * gso_size))
    same(cut(one(datagram, gso_size)), datagram.segments(gso_size))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("extensions", [(), (JUMBO,), (JUMBO, DESTINATION)])
def test_frame_of_more_than_64_kib_is_cut(
    version: int, extensions: tuple[tuple[int, bytes], ...]
) -> None:
    """Its IP length is 0, and the segments have no jumbo header
    (include/net/ipv6.h:ipv6_hopopt_jumbo_remove())."""
    if version == 4:
        extensions = ()
    datagram = Datagram(data(100_000), version=version, extensions=extensions)
    segments = replace(datagram, extensions=extensions[1:]).segments(MSS)
    same(cut(one(datagram, MSS)), segments)


def test_padding_is_not_payload() -> None:
    datagram = Datagram(data(3000))
    batch = one(datagram, MSS)
    batch.lengths[0] += 30
    same(cut(batch), datagram.segments(MSS))


@pytest.mark.parametrize("shift", range(16))
def test_frames_may_lie_anywhere(shift: int) -> None:
    datagram = Datagram(data(3001), tcp_options=TIMESTAMPS)
    size = len(datagram.build())
    memory = bytearray(size + 16)
    target = bytearray(4 * 2000 + 16)
    batch = PacketBatch(1, buffer=memoryview(memory)[shift : shift + size])
    into = PacketBatch(4, buffer=memoryview(target)[15 - shift : -1 - shift])
    add(batch, datagram, 900)
    assert batch.segment_into(into) == (1, 0)
    same(into.tolist(), datagram.segments(900))


# What is in the batch, and where to go on


def mixed() -> tuple[PacketBatch, list[bytes]]:
    """Frames of each sort, and what has to come out."""
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
def test_small_target_is_filled_again_and_again(capacity: int) -> None:
    batch, wanted = mixed()
    before = batch.tolist()
    same(cut(batch, capacity), wanted)
    assert batch.tolist() == before, "the batch itself has changed"


def test_any_segment_can_be_the_first() -> None:
    datagram = Datagram(data(10_000))
    wanted = datagram.segments(1000)
    batch = one(datagram, 1000)
    target = PacketBatch(4)
    for i in range(10):
        following = (1, 0) if i + 4 >= 10 else (0, i + 4)
        assert batch.segment_into(target, 0, i) == following
        same(target.tolist(), wanted[i : i + 4])


def test_segment_that_does_not_exist_is_an_error() -> None:
    batch = one(Datagram(data(10_000)), 1000)
    for segment in (10, 65535):
        with pytest.raises(ValueError, match=r"packets\[0\].*segment"):
            batch.segment_into(PacketBatch(4), 0, segment)
    with pytest.raises(ValueError, match="segment"):
        batch.segment_into(PacketBatch(4), 0, -1)
    with pytest.raises(ValueError, match="behind the last frame"):
        batch.segment_into(PacketBatch(4), 1, 1)


def test_target_needs_no_offloads_any_more() -> None:
    batch, _ = mixed()
    target = PacketBatch(64)
    target.append(b"x" * 60)
    write_header(target, 0, vnet_flags=1, gso_types=5, checksum_starts=9)
    batch.segment_into(target)
    for i in range(len(target)):
        assert {column[i] for column in columns(target).values()} == {0}


def test_target_that_is_too_small_names_the_frame() -> None:
    batch, _ = mixed()
    target = PacketBatch(64, 1000)
    with pytest.raises(ValueError, match=r"packets\[0\].*fit"):
        batch.segment_into(target)
    assert batch.segment_into(target, 1) == (2, 0)
    with pytest.raises(ValueError, match=r"packets\[2\].*fit"):
        batch.segment_into(target, 2)


def test_frame_that_is_too_small_ends_a_call_and_not_the_loop() -> None:
    """Segments before it are done, and the next call goes on from there."""
    datagram = Datagram(data(5000))
    wanted = datagram.segments(1000)
    batch = one(datagram, 1000)
    target = PacketBatch(buffers=[bytearray(2000), bytearray(500)])
    for i in range(5):
        following = (1, 0) if i == 4 else (0, i + 1)
        assert batch.segment_into(target, 0, i) == following
        same(target.tolist(), wanted[i : i + 1])
    same(cut_into(batch, target), wanted)


def test_segment_that_fits_no_frame_is_named_when_it_is_the_first() -> None:
    """A last segment of 554 bytes fits where the others do not."""
    datagram = Datagram(data(2500))
    batch = one(datagram, 1000)
    small = PacketBatch(buffers=[bytearray(600), bytearray(2000)])
    for segment in (0, 1):
        with pytest.raises(ValueError, match=r"packets\[0\].*fit"):
            batch.segment_into(small, 0, segment)
        assert len(small) == 0
    assert batch.segment_into(small, 0, 2) == (1, 0)
    large = PacketBatch(buffers=[bytearray(2000), bytearray(2000)])
    assert batch.segment_into(large) == (0, 2)


def test_loop_over_any_target_ends(scaled: Callable[[int], int]) -> None:
    """Each call fills a frame of the target, or raises."""
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
            same(cut_into(batch, target), wanted)
            ended += 1
        except ValueError as error:
            assert "fit" in str(error)
            assert sizes[0] < largest
            refused += 1
    assert ended > scaled(20)
    assert refused > scaled(20)


# Memory of both


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
    """Segments would be written over what is still to be cut."""
    for batch, target in (overlapping(kind), overlapping(kind)[::-1]):
        batch.append(b"x")
        with pytest.raises(ValueError, match="overlaps"):
            batch.segment_into(target)
        assert batch.tolist() == [b"x"]


def test_target_beside_it_in_the_same_memory_is_filled() -> None:
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
        same(cut_into(batch, target), wanted)


def test_header_that_needs_nothing_is_copied() -> None:
    batch = PacketBatch(2)
    batch.extend([b"a" * 60, b"b"])
    write_header(batch, 0, vnet_flags=VNET_DATA_VALID)
    assert cut(batch) == [b"a" * 60, b"b"]


# What cannot be cut


GOOD = Datagram(data(5000))
GOOD6 = Datagram(data(5000), version=6)
GOOD_UDP = Datagram(data(5000), protocol=UDP)

BAD_HEADERS = {
    "UFO": (GOOD_UDP, {"gso_types": 3}),
    "unknown type": (GOOD, {"gso_types": 77}),
    "ECN alone": (GOOD, {"gso_types": GSO_ECN}),
    "ECN with UDP": (GOOD_UDP, {"gso_types": GSO_UDP_L4 | GSO_ECN}),
    "no size": (GOOD, {"gso_sizes": 0}),
    "no possible size": (GOOD, {"gso_sizes": 65535}),
    "header beyond": (GOOD, {"header_lengths": 5055}),
    "checksum beyond": (GOOD, {"checksum_starts": 5040}),
    "checksum far beyond": (GOOD, {"checksum_offsets": 65535}),
    "checksum elsewhere": (GOOD, {"checksum_offsets": 6}),
    "checksum of a tunnel": (GOOD, {"checksum_starts": 54}),
    "checksum too early": (GOOD, {"checksum_starts": 14}),
    "UDP without checksum": (GOOD_UDP, {"vnet_flags": 0}),
    "IPv6 in IPv4": (
        GOOD,
        {"gso_types": GSO_TCPV6, "checksum_starts": 40},
    ),
    "IPv4 in IPv6": (GOOD6, {"gso_types": GSO_TCPV4}),
    "UDP in TCP": (GOOD, {"gso_types": GSO_UDP_L4, "checksum_offsets": 6}),
}

BAD_FRAMES = {
    "neither IPv4 nor IPv6": (GOOD, 12, b"\x88\xb5"),
    "IPv4 of version 5": (GOOD, 14, b"\x55"),
    "IPv6 of version 4": (GOOD6, 14, b"\x45"),
    "IPv4 header of 16 bytes": (GOOD, 14, b"\x44"),
    "IP length beyond": (GOOD, 16, (5041).to_bytes(2, "big")),
    "IP length within the header": (GOOD, 16, b"\0\x10"),
    "IP length within the TCP header": (GOOD, 16, b"\0\x27"),
    "IPv6 length within the TCP header": (GOOD6, 18, b"\0\x13"),
    "IPv6 length beyond": (GOOD6, 18, (5021).to_bytes(2, "big")),
    "TCP header of 16 bytes": (GOOD, 46, b"\x40"),
    "ICMP": (GOOD, 23, b"\1"),
    "fragment": (GOOD6, 20, b"\x2c"),
    "nine tags": (
        Datagram(data(5000), tags=(Q,) * 9),
        0,
        b"",
    ),
}


def refuses(batch: PacketBatch) -> None:
    """That the batch's frame is refused where it is the second of two, and
    named when it is the first to do."""
    both = PacketBatch(2, SUPER_FRAME)
    both.extend([b"good" * 20, batch[0]])
    fields = {name: column[0] for name, column in columns(batch).items()}
    write_header(both, 1, **fields)
    target = PacketBatch(64, SUPER_FRAME)
    assert both.segment_into(target) == (1, 0)
    assert target.tolist() == [b"good" * 20]
    with pytest.raises(ValueError, match=r"packets\[1\]"):
        both.segment_into(target, 1)
    assert len(target) == 0


@pytest.mark.parametrize(
    ("datagram", "fields"), BAD_HEADERS.values(), ids=BAD_HEADERS
)
def test_header_that_does_not_fit_is_named(
    datagram: Datagram, fields: dict[str, int]
) -> None:
    batch = one(datagram, MSS)
    write_header(batch, 0, **fields)
    refuses(batch)


@pytest.mark.parametrize(
    ("datagram", "at", "value"), BAD_FRAMES.values(), ids=BAD_FRAMES
)
def test_frame_that_is_not_what_it_says_is_named(
    datagram: Datagram, at: int, value: bytes
) -> None:
    batch = one(datagram, MSS)
    batch[0][at : at + len(value)] = value
    refuses(batch)


def test_malformed_ipv4_without_open_checksum_is_named() -> None:
    """Where no checksum_start tells where its transport header is."""
    batch = one(GOOD, MSS)
    write_header(batch, 0, vnet_flags=0)
    batch[0][14] = 0x44
    batch[0][30 + 12] = 0x50
    refuses(batch)


def test_tcp_options_beyond_the_ip_length_are_named() -> None:
    datagram = Datagram(data(5000), tcp_options=TIMESTAMPS)
    batch = one(datagram, MSS)
    batch[0][16:18] = (20 + 31).to_bytes(2, "big")
    refuses(batch)


def test_super_frame_too_short_for_its_type_is_not_sent(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    batch = one(GOOD, MSS)
    write_header(batch, 0, vnet_flags=0, header_lengths=0)
    batch.lengths[0] = 39
    with pytest.raises(ValueError, match=r"packets\[0\].*short"):
        kernel[0].sendmmsg(batch)


def test_segments_too_long_for_ip_are_refused() -> None:
    batch = one(Datagram(data(100_000)), 65_500)
    with pytest.raises(ValueError, match=r"packets\[0\].*too long"):
        batch.segment_into(PacketBatch(2, SUPER_FRAME))


def test_more_segments_than_can_be_told_are_refused() -> None:
    batch = one(Datagram(data(65_536)), 1)
    with pytest.raises(ValueError, match=r"packets\[0\].*segments"):
        batch.segment_into(PacketBatch(2))


@pytest.mark.parametrize("datagram", [*KINDS.values(), *SHAPES.values()])
def test_frame_cut_off_in_its_headers_is_refused(datagram: Datagram) -> None:
    datagram = replace(datagram, tags=(Q,), payload=data(500))
    for length in range(datagram.header_size):
        batch = one(datagram, 100)
        write_header(batch, 0, header_lengths=0)
        batch.lengths[0] = length
        with pytest.raises(ValueError, match=r"packets\[0\]"):
            batch.segment_into(PacketBatch(8))


def test_length_written_beyond_the_frame_is_named() -> None:
    batch = PacketBatch(2, 6000)
    batch.append(b"good" * 20)
    add(batch, GOOD, MSS)
    target = PacketBatch(8)
    for length in (6001, 2**31, 2**32 - 1):
        batch.lengths[1] = length
        assert batch.segment_into(target) == (1, 0)
        with pytest.raises(ValueError, match=r"packets\[1\]"):
            batch.segment_into(target, 1)


# Whatever the bytes


class Guarded:
    """A target with bytes before and behind each frame that nobody may
    touch."""

    GUARD = b"\xa5" * 32

    def __init__(self, capacity: int, frame_size: int) -> None:
        unit = self.GUARD + bytes(frame_size) + self.GUARD
        self.memory = bytearray(unit * capacity)
        view = memoryview(self.memory)
        starts = range(32, len(self.memory), len(unit))
        self.guards = [view[at - 32 : at] for at in starts]
        self.guards += [
            view[at + frame_size : at + frame_size + 32] for at in starts
        ]
        self.batch = PacketBatch(
            buffers=[view[at : at + frame_size] for at in starts]
        )

    def check(self) -> None:
        assert all(guard == self.GUARD for guard in self.guards), (
            "bytes outside of the target's frames were written"
        )


def hostile(rng: random.Random, batch: PacketBatch) -> None:
    """Fills the batch with one frame that is nearly right, or noise."""
    datagram = rng.choice([*KINDS.values(), *SHAPES.values()])
    datagram = replace(
        datagram,
        tags=rng.choice(list(TAGS.values())),
        payload=rng.randbytes(rng.randrange(600)),
    )
    batch.clear()
    add(batch, datagram, rng.choice([1, 50, 100, 600, 65535]))
    frame = batch[0]
    for _ in range(rng.randrange(6)):
        frame[rng.randrange(min(len(frame), 110))] = rng.randrange(256)
    for _ in range(rng.choice([0, 0, 1, 3])):
        name = rng.choice(HEADER_COLUMNS)
        limit = 256 if name in ("vnet_flags", "gso_types") else 65536
        values = [rng.randrange(limit), rng.randrange(10)]
        write_header(batch, 0, **{name: rng.choice(values)})
    if rng.randrange(4) == 0:
        batch.lengths[0] = rng.randrange(len(frame) + 1)


def test_hostile_frames_write_within_the_target(
    scaled: Callable[[int], int],
) -> None:
    """Every frame is done, or named; the batch itself stays as it is."""
    rng = random.Random(1)
    batch = PacketBatch(1, 1200)
    target = Guarded(8, 700)
    done = refused = 0
    for _ in range(scaled(3000)):
        hostile(rng, batch)
        before = bytes(batch[0])
        at = 0, 0
        try:
            while at[0] == 0:
                at = batch.segment_into(target.batch, *at)
                assert len(target.batch) > 0
            done += 1
        except ValueError as error:
            assert "packets[0]" in str(error)
            refused += 1
        target.check()
        assert bytes(batch[0]) == before
    assert done > scaled(500), "hardly any frame was cut"
    assert refused > scaled(500), "hardly any frame was refused"


def test_frames_written_meanwhile_write_within_the_target(
    scaled: Callable[[int], int],
) -> None:
    """Another thread changes frame and header all the time."""
    rng = random.Random(2)
    batch = one(Datagram(data(4000), version=6, extensions=(JUMBO,)), 500)
    frame, length = batch[0], len(batch[0])
    fields = columns(batch)
    good = {name: column[0] for name, column in fields.items()}
    target = Guarded(16, 700)
    stop = threading.Event()

    def scribble() -> None:
        places = [12, 13, 14, 18, 19, 20, 54, 55, 62, 74]
        while not stop.is_set():
            at = rng.choice(places)
            kept = frame[at]
            frame[at] = rng.randrange(256)
            batch.lengths[0] = rng.choice([0, 60, length, 2**32 - 1])
            fields["gso_sizes"][0] = rng.choice([0, 1, 400, 500, 65534])
            fields["checksum_starts"][0] = rng.choice([0, 62, 65535])
            frame[at] = kept
            batch.lengths[0] = length
            fields["gso_sizes"][0] = good["gso_sizes"]
            fields["checksum_starts"][0] = good["checksum_starts"]

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(scaled(2000)):
            try:
                batch.segment_into(target.batch)
            except ValueError as error:
                assert "packets[0]" in str(error)
    finally:
        stop.set()
        thread.join()
    target.check()
