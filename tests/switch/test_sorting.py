"""Sorting the frames of a batch by their keys, and showing some of them with
other tags."""

import random
import struct
from array import array
from collections.abc import Sequence
from typing import Final

import pytest
from support.datagrams import Datagram, add, data
from support.frames import frame

from rawmmsg import SUPER_FRAME, PacketBatch
from rawmmsg._rawmmsg import _copy_frames, _FrameSorter

NO_TAG: Final = 0xFFFF
LEFT_OUT: Final = 0xFFFF
UNCHANGED: Final = 0xFFFE
WITHOUT_TAG: Final = 0

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(3))


def key(dst: bytes, src: bytes, tag: int = NO_TAG) -> bytes:
    return struct.pack("=6s6sH", dst, src, tag)


def tagged(tci: int, packet: bytes) -> bytes:
    return packet[:12] + struct.pack("!HH", 0x8100, tci) + packet[12:]


def held(packets: Sequence[bytes], frame_size: int = 2048) -> PacketBatch:
    batch = PacketBatch(len(packets), frame_size)
    batch.extend(packets)
    return batch


def choices(*values: int) -> "array[int]":
    return array("H", values)


def test_keys_are_distinct_and_in_order_of_arrival() -> None:
    ab, ba = frame(b"1", A, B), frame(b"2", B, A)
    sorter = _FrameSorter(held([ab, ba, ab, tagged(0x2005, ab), ba, ab]))
    assert sorter.sort() == [key(A, B), key(B, A), key(A, B, 5)]
    assert sorter.counts() == [3, 2, 1]


def test_only_8100_is_a_tag() -> None:
    outer = A + B + bytes.fromhex("88a8000781000009") + b"payload"
    inner = A + B + bytes.fromhex("8100000788a80009") + b"payload"
    sorter = _FrameSorter(held([outer, inner]))
    assert sorter.sort() == [key(A, B), key(A, B, 7)]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(frame(b"", A, B)[:13], id="header cut"),
        pytest.param(b"", id="empty"),
        pytest.param(tagged(5, frame(b"", A, B))[:17], id="tag cut"),
    ],
)
def test_malformed_frames_have_no_addresses_and_are_not_shown(
    packet: bytes,
) -> None:
    good = frame(b"1", A, B)
    sorter = _FrameSorter(held([packet, good]))
    assert sorter.sort() == [key(bytes(6), bytes(6)), key(A, B)]
    for choice in (UNCHANGED, WITHOUT_TAG):
        assert sorter.show(choices(choice, choice)).tolist() == [good]


def test_skipped_frames_have_no_key() -> None:
    first, second = frame(b"1", A, B), frame(b"2", B, A)
    sorter = _FrameSorter(held([first, second, first]))
    assert sorter.sort([0, 2]) == [key(B, A)]
    assert sorter.counts() == [1]
    assert sorter.show(choices(UNCHANGED)).tolist() == [second]
    assert sorter.sort() == [key(A, B), key(B, A)]
    with pytest.raises(IndexError, match="the batch holds no packet 3"):
        sorter.sort([3])
    assert sorter.counts() == []


def test_chosen_frames_are_shown_in_order_and_not_copied() -> None:
    packets = [frame(bytes([i]), A, (A, B, C)[i % 3]) for i in range(9)]
    batch = held(packets)
    sorter = _FrameSorter(batch)
    assert len(sorter.sort()) == 3
    view = sorter.show(choices(UNCHANGED, LEFT_OUT, UNCHANGED))
    assert view.tolist() == [packets[i] for i in range(9) if i % 3 != 1]
    view[1][14] = 0x55
    assert batch[2][14] == 0x55


def test_tags_are_put_in_and_taken_out_for_one_port_after_another() -> None:
    """The forms of a frame do not depend on those that other ports got."""
    plain = frame(b"payload", A, B)
    packets = [plain, tagged(0xE005, plain), tagged(0x6000, plain)]
    forms = {
        UNCHANGED: packets,
        WITHOUT_TAG: [plain, plain, plain],
        7: [tagged(n, plain) for n in (0x0007, 0xE007, 0x6007)],
        4094: [tagged(n, plain) for n in (0x0FFE, 0xEFFE, 0x6FFE)],
    }
    sorter = _FrameSorter(held(packets))
    assert len(sorter.sort()) == 3
    rng = random.Random(1)
    for _ in range(100):
        chosen = [rng.choice([*forms, LEFT_OUT]) for _ in packets]
        shown = sorter.show(choices(*chosen)).tolist()
        assert shown == [
            forms[choice][i]
            for i, choice in enumerate(chosen)
            if choice != LEFT_OUT
        ]


def test_inner_tags_stay() -> None:
    inner = tagged(9, frame(b"payload", A, B))
    sorter = _FrameSorter(held([tagged(5, inner)]))
    sorter.sort()
    assert sorter.show(choices(WITHOUT_TAG)).tolist() == [inner]


@pytest.mark.parametrize("size", [64, 124, 2048, SUPER_FRAME])
def test_a_tag_fits_before_a_frame_that_fills_its_row(size: int) -> None:
    packets = [frame(bytes([i]) * (size - 14), A, B) for i in range(3)]
    sorter = _FrameSorter(held(packets, size))
    sorter.sort()
    for choice in (7, WITHOUT_TAG, 7, UNCHANGED):
        shown = sorter.show(choices(choice)).tolist()
        assert shown == (
            [tagged(7, packet) for packet in packets]
            if choice == 7
            else packets
        )


def test_offload_headers_follow_the_tag() -> None:
    """Segments of a super-frame have the tag that was chosen."""
    plain = Datagram(payload=data(5000))
    batch, cut = PacketBatch(1, SUPER_FRAME), PacketBatch(8)
    add(batch, plain, 1400)
    sorter = _FrameSorter(batch)
    sorter.sort()
    for choice in (7, WITHOUT_TAG, 7):
        assert sorter.show(choices(choice)).segment_into(cut) == (1, 0)
        segments = plain.segments(1400)
        assert cut.tolist() == [
            tagged(7, one) if choice else one for one in segments
        ]


def test_a_batch_of_foreign_memory_gets_no_tags() -> None:
    batch = PacketBatch(buffer=bytearray(4096))
    batch.append(frame(b"1", A, B))
    sorter = _FrameSorter(batch)
    sorter.sort()
    assert sorter.show(choices(UNCHANGED)).tolist() == batch.tolist()
    with pytest.raises(ValueError, match="no room for a tag"):
        sorter.show(choices(7))


def test_choices_are_checked() -> None:
    sorter = _FrameSorter(held([frame(b"1", A, B), frame(b"1", B, A)]))
    sorter.sort()
    with pytest.raises(ValueError, match="a choice of 16 bits for each of 2"):
        sorter.show(choices(UNCHANGED))
    with pytest.raises(ValueError, match="4096 is not the id of a VLAN"):
        sorter.show(choices(UNCHANGED, 4096))


def test_lengths_that_user_code_has_written_are_checked() -> None:
    batch = held([frame(b"1", A, B), frame(b"2", B, A)])
    batch.lengths[0] = 4096
    sorter = _FrameSorter(batch)
    assert sorter.sort() == [key(bytes(6), bytes(6)), key(B, A)]
    assert len(sorter.show(choices(UNCHANGED, UNCHANGED))) == 1


def test_a_batch_of_more_rows_than_a_call_sends_is_refused() -> None:
    with pytest.raises(ValueError, match="2048 rows, more than 1024"):
        _FrameSorter(PacketBatch(2048, 64))


def test_frames_are_not_copied_behind_themselves() -> None:
    batch = held([frame(b"1", A, B)])
    with pytest.raises(BufferError, match="the target must be another batch"):
        _copy_frames(batch, 0, 1, batch)


def test_many_keys_are_found() -> None:
    rng = random.Random(2)
    packets = [
        frame(b"1", A, b"\2" + rng.randbytes(4) + bytes([i % 2]))
        for i in range(1024)
    ]
    sorter = _FrameSorter(held(packets, 64))
    assert sorter.sort() == [key(A, packet[6:12]) for packet in packets]
    assert sorter.counts() == [1] * 1024


def test_a_view_keeps_the_frames_alive() -> None:
    packets = [frame(b"1", A, B)]
    sorter = _FrameSorter(held(packets))
    sorter.sort()
    view = sorter.show(choices(7))
    del sorter
    assert view.tolist() == [tagged(7, packets[0])]


def test_copies_are_added_until_the_target_is_full() -> None:
    packets = [frame(bytes([i]), A, B) for i in range(5)]
    target = PacketBatch(4, 64)
    target.append(packets[0])
    assert _copy_frames(held(packets), 1, 3, target) == 3
    assert target.tolist() == packets[:3]
    assert _copy_frames(held(packets), 3, 5, target) == 4
    assert target.tolist() == packets[:4]
    assert _copy_frames(held(packets), 4, 5, target) == 4
    target.clear()
    assert _copy_frames(held([bytes(65)]), 0, 1, target) == 0
    for start, stop in ((0, 6), (-1, 1), (3, 2)):
        with pytest.raises(ValueError, match="start and stop must be in"):
            _copy_frames(held(packets), start, stop, target)


def test_copies_have_the_offload_headers() -> None:
    plain = Datagram(payload=data(5000))
    batch, cut = PacketBatch(1, SUPER_FRAME), PacketBatch(8)
    target = PacketBatch(4, SUPER_FRAME)
    add(batch, plain, 1400)
    for _ in range(2):
        _copy_frames(batch, 0, 1, target)
    target.segment_into(cut)
    assert cut.tolist()[:4] == plain.segments(1400)
