"""merge_into(): frames that a cut super-frame would not give back are copied,
and wrong arguments are refused."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.calls import Call, eventually, outcomes, repeating
from support.datagrams import (
    ACK,
    CWR,
    ECE,
    KINDS,
    PSH,
    SHAPES,
    TAGS,
    TIMESTAMPS,
    Datagram,
    Q,
    add,
    columns,
    data,
    write_header,
)
from support.flows import (
    IP,
    batch_with,
    build,
    changed,
    cut_again,
    edited,
    large_target,
    numbered_flow,
    pieces,
    tuned,
)
from support.frames import same_frames

from rawmmsg import (
    GSO_ECN,
    GSO_NONE,
    SUPER_FRAME,
    VNET_NEEDS_CSUM,
    PacketBatch,
)

SIZE = 60

# Frames that are nearly the next of their flow


def flow_with(
    kind: str, change: Callable[[Datagram], Datagram | bytes]
) -> list[bytes]:
    """Five frames of a flow, the third changed."""
    flow = numbered_flow(KINDS[kind], [SIZE] * 5)
    third = change(flow[2])
    frames = build(flow)
    frames[2] = third.build() if isinstance(third, Datagram) else third
    return frames


def is_copied(frames: Sequence[bytes], wanted: Sequence[int]) -> None:
    """Asserts which pieces are made, that nothing is changed, and that the
    third frame is not in the first piece."""
    assert wanted[0] == 2
    for flows in (1, 4):
        target = large_target()
        assert batch_with(frames).merge_into(target, flows=flows) == 5
        assert pieces(target) == wanted
        same_frames(cut_again(target), frames)


def fields(**changes: Any) -> Callable[[Datagram], Datagram]:
    return lambda datagram: replace(datagram, **changes)


def at(offset: int, value: bytes) -> Callable[[Datagram], bytes]:
    """Changes bytes, and completes the checksums."""
    return lambda datagram: changed(datagram.build(), offset, value)


def in_transport(offset: int, value: bytes) -> Callable[[Datagram], bytes]:
    return lambda datagram: changed(
        datagram.build(), datagram.transport_offset + offset, value
    )


def wrong(offset: int, bit: int = 1) -> Callable[[Datagram], bytes]:
    """Changes one bit, and no checksum."""

    def change(datagram: Datagram) -> bytes:
        frame = bytearray(datagram.build())
        frame[offset] ^= bit
        return bytes(frame)

    return change


LONELY = [2, 1, 2]
"""The third frame stays alone."""
JOINED = [2, 3]
"""The third frame is the first of a super-frame."""

EVERY = {
    "other destination": (at(0, b"\2"), LONELY),
    "other source": (at(11, b"\xee"), LONELY),
    "empty": (fields(payload=b""), LONELY),
    "padded": (lambda one: one.build() + b"\0", LONELY),
    "one tag more": (fields(tags=(Q,)), LONELY),
}
IPV4 = {
    "id gap": (lambda one: replace(one, ident=one.ident + 1), LONELY),
    "id again": (lambda one: replace(one, ident=0xFFFF), LONELY),
    "TOS": (at(IP + 1, b"\x10"), LONELY),
    "ECN mark": (at(IP + 1, b"\3"), LONELY),
    "TTL": (at(IP + 8, b"\x3f"), LONELY),
    "no DF": (at(IP + 6, b"\0"), LONELY),
    "reserved bit": (at(IP + 6, b"\xc0"), LONELY),
    "first fragment": (at(IP + 6, b"\x20"), LONELY),
    "later fragment": (at(IP + 6, b"\0\5"), LONELY),
    "options": (fields(options=bytes([1] * 4)), LONELY),
    "wrong IP checksum": (wrong(IP + 10), LONELY),
    "wrong IP length": (wrong(IP + 3), LONELY),
}
IPV6 = {
    "traffic class": (at(IP, b"\x61\x33"), LONELY),
    "ECN mark": (at(IP + 1, b"\x13"), LONELY),
    "flow label": (at(IP + 3, b"\x68"), LONELY),
    "hop limit": (at(IP + 7, b"\x3f"), LONELY),
    "extension header": (
        fields(extensions=((60, bytes([0, 0, 1, 4, 0, 0, 0, 0])),)),
        LONELY,
    ),
    "wrong IP length": (wrong(IP + 5), LONELY),
}
ALL_TCP = {
    "longer": (fields(payload=data(SIZE + 1)), LONELY),
    "SYN": (fields(flags=ACK | 2), LONELY),
    "RST": (fields(flags=ACK | 4), LONELY),
    "URG": (fields(flags=ACK | 0x20), LONELY),
    "no ACK": (fields(flags=0), LONELY),
    "ECE": (fields(flags=ACK | ECE), LONELY),
    "CWR": (fields(flags=ACK | CWR), JOINED),
    "reserved bit": (in_transport(12, b"\x51"), LONELY),
    "acknowledgement": (in_transport(11, b"\x79"), LONELY),
    "window": (in_transport(15, b"\1"), LONELY),
    "urgent pointer": (in_transport(18, b"\0\1"), LONELY),
    "options": (fields(tcp_options=TIMESTAMPS), LONELY),
    "sequence gap": (
        lambda one: replace(one, sequence=one.sequence + 1),
        LONELY,
    ),
    "sequence again": (
        lambda one: replace(one, sequence=one.sequence - SIZE),
        LONELY,
    ),
}
ALL_UDP = {
    "longer": (fields(payload=data(SIZE + 1)), [2, 2, 1]),
    "wrong UDP length": (in_transport(5, b"\x43"), LONELY),
    "no checksum": (
        lambda one: edited(one.build(), one.transport_offset + 6, b"\0\0"),
        LONELY,
    ),
}


def misses(kind: str) -> dict[str, Any]:
    return {
        **EVERY,
        **(IPV4 if kind.endswith("4") else IPV6),
        **(ALL_TCP if kind.startswith("tcp") else ALL_UDP),
    }


CASES = [
    pytest.param(kind, change, wanted, id=f"{kind}, {name}")
    for kind in KINDS
    for name, (change, wanted) in misses(kind).items()
]


@pytest.mark.parametrize(("kind", "change", "wanted"), CASES)
def test_frame_that_differs_is_copied(
    kind: str,
    change: Callable[[Datagram], Datagram | bytes],
    wanted: list[int],
) -> None:
    is_copied(flow_with(kind, change), wanted)


@pytest.mark.parametrize("version", [4, 6])
def test_psh_in_the_middle_separates(version: int) -> None:
    flow = numbered_flow(Datagram(version=version), [SIZE] * 5)
    flow[1] = replace(flow[1], flags=ACK | PSH)
    is_copied(build(flow), JOINED)


@pytest.mark.parametrize("bit", [0x02, 0x04, 0x20, 0x22])
@pytest.mark.parametrize("version", [4, 6])
def test_syn_rst_and_urg_are_not_merged_even_if_all_frames_have_them(
    version: int, bit: int
) -> None:
    flow = numbered_flow(
        Datagram(version=version, flags=ACK | bit), [SIZE] * 4
    )
    target = large_target()
    batch_with(build(flow)).merge_into(target)
    assert pieces(target) == [1] * 4
    assert target.tolist() == build(flow)


def other_options(datagram: Datagram) -> Datagram:
    return replace(datagram, options=bytes([1] * 7 + [0]))


def other_tcp_options(datagram: Datagram) -> Datagram:
    return replace(datagram, tcp_options=bytes([1] * 7 + [0]))


@pytest.mark.parametrize(
    ("first", "change"),
    [
        (Datagram(options=bytes([1] * 8)), other_options),
        (Datagram(tcp_options=bytes([1] * 8)), other_tcp_options),
    ],
)
@pytest.mark.parametrize("place", [2, 3])
def test_other_options_of_the_same_length_separate(
    place: int, first: Datagram, change: Callable[[Datagram], Datagram]
) -> None:
    flow = numbered_flow(first, [SIZE] * 5)
    flow[place] = change(flow[place])
    target = large_target()
    batch_with(build(flow)).merge_into(target)
    assert pieces(target)[:2] == [place, 1]
    same_frames(cut_again(target), build(flow))


def test_other_timestamps_separate() -> None:
    def stamped(datagram: Datagram, stamp: int) -> Datagram:
        options = TIMESTAMPS[:4] + stamp.to_bytes(4, "big") + bytes(4)
        return replace(datagram, tcp_options=options)

    flow = numbered_flow(KINDS["tcp4"], [SIZE] * 6)
    flow = [stamped(one, i // 3) for i, one in enumerate(flow)]
    target = large_target()
    batch_with(build(flow)).merge_into(target)
    assert pieces(target) == [3, 3]
    same_frames(cut_again(target), build(flow))


def test_other_extension_header_of_the_same_length_separates() -> None:
    flow = numbered_flow(SHAPES["IPv6 extensions"], [SIZE] * 5)
    name, content = flow[0].extensions[1]
    other = content[:-1] + b"\7"
    flow[2] = replace(
        flow[2], extensions=(flow[2].extensions[0], (name, other))
    )
    target = large_target()
    batch_with(build(flow)).merge_into(target)
    assert pieces(target) == [2, 1, 2]
    same_frames(cut_again(target), build(flow))


def test_other_tag_separates() -> None:
    flow = numbered_flow(replace(KINDS["udp4"], tags=(Q,)), [SIZE] * 5)
    frames = build(flow)
    frames[2] = edited(frames[2], 14, b"\x40\1")
    is_copied(frames, LONELY)


# Checksums


@pytest.mark.parametrize("bit", [1, 0x80])
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_frame_with_a_wrong_checksum_is_copied(
    datagram: Datagram, bit: int
) -> None:
    """Wherever the wrong bit is: a receiver must see that it is wrong."""
    frames = build(numbered_flow(datagram, [SIZE] * 5))
    places = [*range(datagram.transport_offset, len(frames[2]))]
    if datagram.version == 4:
        places += range(IP, IP + 20)
    for place in places:
        frame = bytearray(frames[2])
        frame[place] ^= bit
        damaged = [*frames[:2], bytes(frame), *frames[3:]]
        target = large_target()
        batch_with(damaged).merge_into(target)
        assert pieces(target) == LONELY
        same_frames(cut_again(target), damaged)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_first_frame_with_a_wrong_checksum_is_copied(
    datagram: Datagram,
) -> None:
    frames = build(numbered_flow(datagram, [SIZE] * 4))
    for place in range(datagram.transport_offset, len(frames[0])):
        damaged = bytearray(frames[0])
        damaged[place] ^= 1
        target = large_target()
        batch_with([bytes(damaged), *frames[1:]]).merge_into(target)
        assert pieces(target) == [1, 3]
        assert target.tolist()[0] == damaged


@pytest.mark.parametrize("version", [4, 6])
def test_other_form_of_a_zero_checksum_is_copied(version: int) -> None:
    """0xffff says the same as 0, but nobody who computes the checksum of TCP
    writes it."""
    datagram = Datagram(version=version)
    frames = build(numbered_flow(datagram, [SIZE] * 5))
    place = datagram.transport_offset
    zero = tuned(frames[2], place, datagram.header_size)
    frames[2] = edited(zero, place + 16, b"\xff\xff")
    is_copied(frames, LONELY)
    frames[2] = zero
    target = large_target()
    batch_with(frames).merge_into(target)
    assert pieces(target) == [5]


def test_other_form_of_a_zero_ip_checksum_is_copied() -> None:
    flow = numbered_flow(KINDS["udp4"], [SIZE] * 5)
    third = flow[2].build()
    source = int.from_bytes(third[IP + 14 : IP + 16], "big")
    source += int.from_bytes(third[IP + 10 : IP + 12], "big")
    source = source % 0xFFFF
    frames = [
        changed(frame, IP + 14, source.to_bytes(2, "big"))
        for frame in build(flow)
    ]
    assert frames[2][IP + 10 : IP + 12] == b"\0\0"
    target = large_target()
    batch_with(frames).merge_into(target)
    assert pieces(target) == [5]
    frames[2] = edited(frames[2], IP + 10, b"\xff\xff")
    is_copied(frames, LONELY)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_frame_is_copied_if_its_missing_checksum_is_another(
    datagram: Datagram,
) -> None:
    """Its field holds another sum, or its header names another place: then the
    sender means something else, such as a tunnel."""
    flow = numbered_flow(datagram, [SIZE] * 5)
    good = large_target(5)
    for one in flow:
        add(good, one)
    start = datagram.transport_offset
    for change in (
        {"checksum_starts": start - 2},
        {"checksum_starts": start + 2},
        {"checksum_offsets": 2},
        {"checksum_starts": start - 2, "checksum_offsets": 18},
    ):
        write_header(good, 2, **change)
        target = large_target()
        good.merge_into(target)
        assert pieces(target) == LONELY
        for name in change:
            assert columns(target)[name][1] == change[name]
        same_frames(cut_again(target), cut_again(good))
        write_header(
            good,
            2,
            checksum_starts=start,
            checksum_offsets=good.checksum_offsets[0],
        )
    good[2][start + good.checksum_offsets[0]] ^= 1
    target = large_target()
    good.merge_into(target)
    assert pieces(target) == LONELY
    assert target.vnet_flags[1] == VNET_NEEDS_CSUM
    same_frames(cut_again(target), cut_again(good))


@pytest.mark.parametrize("version", [4, 6])
def test_missing_checksum_that_completes_to_0xffff_is_copied(
    version: int,
) -> None:
    """complete_checksums() writes 0xffff for TCP where segment_into() writes
    0, as the kernel does."""
    flow = numbered_flow(Datagram(version=version), [SIZE] * 5)
    header = flow[2].header_size
    zero = tuned(flow[2].build(), flow[2].transport_offset, header)
    flow[2] = replace(flow[2], payload=zero[header:])
    source = large_target(5)
    for one in flow:
        add(source, one)
    target = large_target()
    source.merge_into(target)
    assert pieces(target) == LONELY
    same_frames(cut_again(target), cut_again(source))


BAD_HEADERS = {
    "header beyond": {"header_lengths": 2000},
    "checksum beyond": {
        "vnet_flags": VNET_NEEDS_CSUM,
        "checksum_starts": 2000,
    },
    "checksum too early": {
        "vnet_flags": VNET_NEEDS_CSUM,
        "checksum_starts": 3,
    },
    "unknown type": {"gso_types": 77, "gso_sizes": 10},
    "ECN alone": {"gso_types": GSO_ECN},
}


@pytest.mark.parametrize("change", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_frame_with_a_wrong_header_is_copied_with_it(
    change: dict[str, int],
) -> None:
    """Whoever sends it gets the same error as without merging."""
    source = batch_with(build(numbered_flow(KINDS["tcp4"], [SIZE] * 5)))
    write_header(source, 2, **change)
    target = large_target()
    assert source.merge_into(target) == 5
    assert len(target) == 3
    assert target.tolist()[1] == source.tolist()[2]
    for name, column in columns(source).items():
        assert columns(target)[name][1] == column[2]


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", [*KINDS.values(), *SHAPES.values()])
def test_frame_cut_anywhere_is_copied(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    flow = numbered_flow(replace(datagram, tags=tags, flags=ACK), [9] * 2)
    frames = build(flow)
    for length in range(len(frames[1])):
        shorter = [frames[0], frames[1][:length], frames[1]]
        target = large_target()
        assert batch_with(shorter).merge_into(target) == 3
        assert target.tolist() == shorter


@pytest.mark.parametrize("protocol", [1, 2, 47, 50, 51, 58, 59, 132])
@pytest.mark.parametrize("version", [4, 6])
def test_other_protocols_are_copied(version: int, protocol: int) -> None:
    frame = edited(
        Datagram(data(64), version=version).build(),
        IP + (9 if version == 4 else 6),
        bytes([protocol]),
    )
    target = large_target()
    batch_with([frame] * 3).merge_into(target, flows=8)
    assert target.tolist() == [frame] * 3
    assert set(target.gso_types[:3]) == {GSO_NONE}


# Frames that are too long


def test_frame_longer_than_the_target_is_an_error_if_first() -> None:
    frames = build(numbered_flow(KINDS["udp4"], [SIZE, SIZE, 3000, SIZE]))
    source, target = batch_with(frames), PacketBatch(8, 2048)
    assert source.merge_into(target) == 2
    assert pieces(target) == [2]
    with pytest.raises(ValueError, match=r"packet 2\b.*fit"):
        source.merge_into(target, 2)
    assert len(target) == 0
    assert source.merge_into(target, 3) == 4
    same_frames(target.tolist(), frames[3:])


def test_next_frame_of_the_target_decides() -> None:
    frames = [b"a" * 100, b"b" * 200, b"c" * 100]
    target = PacketBatch(buffers=[bytearray(200), bytearray(100)])
    source = batch_with(frames)
    assert source.merge_into(target) == 1
    assert source.merge_into(target, 1) == 3
    assert target.tolist() == frames[1:]
    small = PacketBatch(buffers=[bytearray(99), bytearray(2000)])
    for start in range(3):
        with pytest.raises(ValueError, match=f"packet {start}\\b.*fit"):
            source.merge_into(small, start)


def test_length_beyond_the_frames_memory_is_an_error() -> None:
    source = batch_with(build(numbered_flow(KINDS["tcp4"], [SIZE] * 4)))
    target = large_target()
    good = source.lengths[2]
    for length in (good + 1, 2**31, 2**32 - 1):
        source.lengths[2] = length
        assert source.merge_into(target) == 2
        assert pieces(target) == [2]
        with pytest.raises(ValueError, match=r"packet 2\b"):
            source.merge_into(target, 2)


# Arguments


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("flows", [0, -1, 257, 2**40]),
        ("segments", [0, -1, 129, 2**40]),
        ("max_length", [-1, -(2**40)]),
    ],
)
def test_argument_out_of_range_is_an_error(
    name: str, values: list[int]
) -> None:
    source = batch_with([b"x" * 60])
    target = batch_with([b"y" * 60])
    for value in values:
        with pytest.raises(ValueError, match=name):
            source.merge_into(target, **{name: value})  # type: ignore[arg-type]
        assert target.tolist() == [b"y" * 60]


@pytest.mark.parametrize("name", ["start", "flows", "segments"])
@pytest.mark.parametrize("value", [2**70, -(2**70)])
def test_argument_beyond_64_bits_is_an_error(name: str, value: int) -> None:
    with pytest.raises((OverflowError, ValueError)):
        PacketBatch(1).merge_into(PacketBatch(1), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["flows", "segments", "max_length"])
@pytest.mark.parametrize("value", ["1", 1.0, b"1"])
def test_argument_that_is_no_number_is_an_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError):
        PacketBatch(1).merge_into(PacketBatch(1), **{name: value})


@pytest.mark.parametrize("name", ["flows", "segments", "keep_ids", "udp"])
def test_options_are_given_by_name(name: str) -> None:
    wrong: Any = PacketBatch(1).merge_into
    with pytest.raises(TypeError):
        wrong(PacketBatch(1), 0, 0, 1)
    with pytest.raises(TypeError):
        wrong(target=PacketBatch(1))
    wrong(PacketBatch(1), **{name: 1})


def test_target_must_be_a_batch() -> None:
    wrong: Any
    for wrong in (None, bytearray(64), [bytearray(64)]):
        with pytest.raises(TypeError):
            PacketBatch(1).merge_into(wrong)


@pytest.mark.parametrize("start", [-1, 2, 2**40])
def test_start_must_be_within_the_batch(start: int) -> None:
    source = batch_with([b"x" * 60])
    with pytest.raises(ValueError, match="start"):
        source.merge_into(PacketBatch(1), start)


@pytest.mark.parametrize("stop", [-1, 0, 4, 2**40])
def test_stop_must_be_between_start_and_the_end(stop: int) -> None:
    source = batch_with([b"x" * 60] * 3)
    with pytest.raises(ValueError, match=r"stop must be 1 \(start\) to 3"):
        source.merge_into(PacketBatch(3), 1, stop)


def test_batch_cannot_be_merged_into_itself() -> None:
    source = batch_with([b"x" * 60])
    with pytest.raises(BufferError):
        source.merge_into(source)
    assert source.tolist() == [b"x" * 60]


def test_target_that_shares_memory_is_refused() -> None:
    memory = memoryview(bytearray(20_000))
    other = memoryview(bytearray(4000))
    shared = (
        ([memory[:10_000]], [memory[9_999:]]),
        ([memory[:1], other], [memory[:10]]),
    )
    for pair in shared:
        for one, two in (pair, pair[::-1]):
            source = PacketBatch(buffers=one)
            source.append(b"x")
            target = PacketBatch(buffers=two)
            with pytest.raises(ValueError, match="overlaps"):
                source.merge_into(target)
            assert source.tolist() == [b"x"]


def test_target_next_to_the_source_in_the_same_memory_works() -> None:
    memory = memoryview(bytearray(20_000))
    frames = build(numbered_flow(KINDS["tcp6"], [900] * 8))
    source = PacketBatch(8, 1000, buffer=memory[:8000])
    source.extend(frames)
    target = PacketBatch(1, 12_000, buffer=memory[8000:])
    assert source.merge_into(target) == 8
    assert pieces(target) == [8]
    same_frames(cut_again(target), frames)


# Memory


class Guarded:
    """A target with guard bytes before and after each frame."""

    GUARD = b"\xa5" * 32

    def __init__(self, sizes: Sequence[int]) -> None:
        self.batch = PacketBatch(buffers=[self._frame(size) for size in sizes])

    def _frame(self, size: int) -> memoryview:
        memory = memoryview(bytearray(self.GUARD + bytes(size) + self.GUARD))
        self.guards = [*getattr(self, "guards", []), memory[:32], memory[-32:]]
        return memory[32:-32]

    def check(self) -> None:
        assert all(guard == self.GUARD for guard in self.guards), (
            "bytes outside the target's frames were written"
        )


def test_frames_that_change_during_the_call_write_within_the_target(
    busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """Another thread writes into frames, headers and lengths all the time."""
    rng = random.Random(3)
    flows = [
        build(numbered_flow(datagram, [100] * 8))
        for datagram in (*KINDS.values(), SHAPES["IPv6 extensions"])
    ]
    frames = [frame for step in zip(*flows, strict=True) for frame in step]
    source = batch_with(frames)
    rows, lengths, tables = [*source], source.lengths, columns(source)
    target = Guarded([700, 300, 60, 2000, 150, 1000])
    places = [12, 13, 14, 16, 17, 18, 20, 23, 46, 54, 66]

    def scribble() -> None:
        i, place = rng.randrange(len(frames)), rng.choice(places)
        row = rows[i]
        kept, length = row[place], len(row)
        row[place] = rng.randrange(256)
        lengths[i] = rng.choice([0, 13, 60, length, 2**32 - 1])
        tables["vnet_flags"][i] = rng.randrange(8)
        tables["gso_types"][i] = rng.choice([0, 0, 1, 5])
        tables["checksum_starts"][i] = rng.choice([0, 34, 54, 65535])
        row[place] = kept
        lengths[i] = length
        for table in tables.values():
            table[i] = 0

    def merge() -> None:
        start = 0
        while start < len(frames):
            start = source.merge_into(target.batch, start, flows=4)

    with repeating(scribble):
        for _ in outcomes(merge, "packet", scaled(2000)):
            pass
    target.check()


def test_target_that_changes_during_the_call_is_written_within_its_frames(
    busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """User code can write to the target, too."""
    rng = random.Random(4)
    frames = build(numbered_flow(KINDS["tcp4"], [100] * 30))
    source = batch_with(frames)
    target = Guarded([160, 1000, 450, 2000])
    target.batch.extend([b"x" * 60] * 4)
    rows, lengths = [*target.batch], target.batch.lengths

    def scribble() -> None:
        rng.choice(rows)[rng.randrange(12, 54)] = rng.randrange(256)
        lengths[rng.randrange(4)] = rng.choice([0, 2**32 - 1])

    with repeating(scribble):
        for _ in range(scaled(2000)):
            start = 0
            while start < len(frames):
                start = source.merge_into(target.batch, start)
    target.check()


def test_batch_in_use_by_another_thread_is_refused(
    busy_threads: None,
) -> None:
    frames = build(numbered_flow(KINDS["udp4"], [1000] * 64))
    source, target = batch_with(frames), large_target(2)
    stop = threading.Event()
    refused = 0

    def work() -> int:
        merged = 0
        while not stop.is_set():
            try:
                assert source.merge_into(target) == 64
                merged += 1
            except BufferError:
                nonlocal refused
                refused += 1
        return merged

    calls = [Call(work) for _ in range(3)]
    eventually(
        lambda: refused > 10 or not all(call.pending for call in calls),
        "no call was refused",
    )
    stop.set()
    assert sum(call.result() for call in calls) > 0
    source.merge_into(target)
    same_frames(cut_again(target), frames)


def test_target_of_one_frame_as_long_as_a_super_frame_takes_all() -> None:
    frames = build(numbered_flow(KINDS["tcp4"], [1000] * 65))
    target = PacketBatch(1, SUPER_FRAME)
    assert batch_with(frames).merge_into(target) == 64
    same_frames(cut_again(target), frames[:64])
