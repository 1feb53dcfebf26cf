"""Frames on a stream: each is written behind its length."""

import random

import pytest
from support.datagrams import Datagram, add, data
from support.frames import numbered

from rawmmsg import SUPER_FRAME, PacketBatch
from rawmmsg._rawmmsg import _join_frames, _split_frames

SIZES = (14, 60, 1514, SUPER_FRAME)


def on_stream(packet: bytes) -> bytes:
    return len(packet).to_bytes(4, "big") + packet


@pytest.fixture
def packets() -> list[bytes]:
    rng = random.Random(1)
    return [rng.randbytes(size) for size in SIZES]


def test_frames_are_written_as_far_as_they_fit(packets: list[bytes]) -> None:
    batch = PacketBatch(4, SUPER_FRAME)
    batch.extend(packets)
    stream = b"".join(map(on_stream, packets))
    buffer = bytearray(len(stream))
    assert _join_frames(batch, 0, buffer) == (4, len(stream))
    assert buffer == stream
    for size in (0, 3, 17, 18, 81, 82, 83, len(stream) - 1):
        buffer = bytearray(size)
        count, used = _join_frames(batch, 0, buffer)
        assert used == sum(4 + len(one) for one in packets[:count])
        assert buffer[:used] == stream[:used]
        assert used + 4 + len(packets[count]) > size
    assert _join_frames(batch, 3, bytearray(1 << 17)) == (1, 4 + SUPER_FRAME)
    assert _join_frames(batch, 4, bytearray(9)) == (0, 0)
    with pytest.raises(ValueError, match="start must be 0 to 4, not 5"):
        _join_frames(batch, 5, bytearray(9))


def test_super_frames_are_not_written() -> None:
    batch = PacketBatch(2, SUPER_FRAME)
    batch.append(numbered(1))
    add(batch, Datagram(payload=data(5000)), 1400)
    assert _join_frames(batch, 0, bytearray(9000))[0] == 1
    with pytest.raises(ValueError, match="packet 1: a super-frame"):
        _join_frames(batch, 1, bytearray(9000))


def test_frames_are_read_when_they_are_complete(packets: list[bytes]) -> None:
    batch = PacketBatch(3, SUPER_FRAME)
    stream = b"".join(map(on_stream, packets[:3]))
    for size in (0, 3, 4, 17, 18, 81, 82, len(stream)):
        used = _split_frames(stream[:size], batch)
        count = len(batch)
        assert batch.tolist() == packets[:count]
        assert used == sum(4 + len(one) for one in packets[:count])
        assert count == 3 or used + 4 + len(packets[count]) > size


def test_no_more_frames_are_read_than_fit(packets: list[bytes]) -> None:
    batch = PacketBatch(1, SUPER_FRAME)
    stream = on_stream(packets[0]) + on_stream(packets[3])
    assert _split_frames(stream, batch) == 18
    assert _split_frames(stream[18:], batch) == 4 + SUPER_FRAME
    assert batch.tolist() == [packets[3]]


@pytest.mark.parametrize("length", [0, 13, SUPER_FRAME + 1, 0xFFFFFFFF])
def test_impossible_lengths_are_errors_when_they_are_next(
    packets: list[bytes], length: int
) -> None:
    batch = PacketBatch(4, SUPER_FRAME)
    wrong = length.to_bytes(4, "big") + bytes(100)
    used = _split_frames(on_stream(packets[1]) + wrong, batch)
    assert (used, batch.tolist()) == (64, [packets[1]])
    with pytest.raises(ValueError, match=f"a frame of {length} bytes"):
        _split_frames(wrong, batch)
    assert len(batch) == 0


def test_what_is_read_has_no_offload_headers(packets: list[bytes]) -> None:
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(payload=data(5000)), 1400)
    _split_frames(on_stream(packets[2]), batch)
    assert batch.gso_types[0] == batch.vnet_flags[0] == 0
