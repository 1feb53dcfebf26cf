"""Batches over the caller's memory: how it is divided into frames, and what is
received and sent there."""

import ctypes
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy
import pytest
from support import WAIT
from support.frames import datagram_pair, numbered, receive
from support.memory import resizable, shared_memory, zeros

from rawmmsg import TRUNCATED, PacketBatch, RawSocket
from rawmmsg.testing import Veth

COUNT = 4
SIZE = 256


def buffer_of(shared: SharedMemory) -> memoryview:
    assert shared.buf is not None
    return shared.buf


@contextmanager
def memory_of(kind: str) -> Iterator[Any]:
    """A buffer for COUNT frames of SIZE bytes."""
    size = COUNT * SIZE
    if kind == "bytearray":
        yield bytearray(size)
    elif kind == "mmap":
        with mmap.mmap(-1, size) as memory:
            yield memory
    elif kind == "shared_memory":
        # Its size is a multiple of a page.
        with shared_memory(size) as shared, buffer_of(shared)[:size] as part:
            yield part
    elif kind == "numpy 2-D":
        yield zeros((COUNT, SIZE), "u1")
    elif kind == "numpy flat":
        yield zeros(size, "u1")
    elif kind == "ctypes":
        yield (ctypes.c_ubyte * size)()
    else:
        assert kind == "part of a bytearray"
        yield memoryview(bytearray(64 + size))[64:]


KINDS = [
    "bytearray",
    "mmap",
    "shared_memory",
    "numpy 2-D",
    "numpy flat",
    "ctypes",
    "part of a bytearray",
]


# How memory is divided into frames


@pytest.mark.parametrize(
    ("bytes_", "capacity", "frame_size", "expected"),
    [
        (8192, None, None, (4, 2048)),
        (8191, None, None, (3, 2048)),
        (2048, None, None, (1, 2048)),
        (8192, None, 1024, (8, 1024)),
        (8192, None, 1000, (8, 1000)),
        (8192, None, 8192, (1, 8192)),
        (8192, 3, None, (3, 2730)),
        (8192, 8192, None, (8192, 1)),
        (8192, 2, 1024, (2, 1024)),
        (8192, 1, 1, (1, 1)),
    ],
)
def test_flat_buffer_is_divided(
    bytes_: int,
    capacity: int | None,
    frame_size: int | None,
    expected: tuple[int, int],
) -> None:
    batch = PacketBatch(capacity, frame_size, buffer=bytearray(bytes_))
    assert (batch.capacity, batch.frame_size) == expected
    assert memoryview(batch).shape == expected
    assert memoryview(batch).strides == (expected[1], 1), (
        "there are no gaps between frames"
    )


@pytest.mark.parametrize(
    ("bytes_", "capacity", "frame_size"),
    [
        (0, None, None),
        (2047, None, None),
        (8192, None, 8193),
        (8192, 8193, None),
        (8192, 2, 4097),
        (8192, 9, 1024),
        (8192, 0, None),
        (8192, None, 0),
        (8192, 2**62, 2),
        (8192, 2, 2**62),
        (8192, 2**62, None),
        (8192, None, 2**70),
        (2**20 + 1, None, 1),
    ],
)
def test_flat_buffer_that_does_not_hold_the_frames_is_refused(
    bytes_: int, capacity: int | None, frame_size: int | None
) -> None:
    memory = bytearray(bytes_)
    with pytest.raises(ValueError, match=r"capacity|frame_size|do not fit"):
        PacketBatch(capacity, frame_size, buffer=memory)
    assert resizable(memory), "the refused memory stays pinned"


@pytest.mark.parametrize(
    "sizes",
    [(), (COUNT,), (None, SIZE), (COUNT, SIZE)],
    ids=["none", "capacity", "frame_size", "both"],
)
def test_shape_of_two_dimensions_gives_the_sizes(
    sizes: tuple[int | None, ...],
) -> None:
    memory = zeros((COUNT, SIZE), "u1")
    batch = PacketBatch(*sizes, buffer=memory)
    assert (batch.capacity, batch.frame_size) == (COUNT, SIZE)


@pytest.mark.parametrize(
    "sizes",
    [(COUNT - 1,), (COUNT + 1,), (None, SIZE - 1), (SIZE, COUNT)],
)
def test_sizes_that_differ_from_the_shape_are_refused(
    sizes: tuple[int | None, ...],
) -> None:
    memory = zeros((COUNT, SIZE), "u1")
    with pytest.raises(ValueError, match=r"shape \(4, 256\)"):
        PacketBatch(*sizes, buffer=memory)


@pytest.mark.parametrize(
    ("memory", "match"),
    [
        (zeros((4, 64), "u2"), "one byte"),
        (zeros((2, 4, 64), "u1"), "dimension"),
        (zeros((0, 64), "u1"), "capacity"),
        (zeros((64, 0), "u1"), "frame_size"),
        (zeros((2**20 + 1, 1), "u1"), "capacity"),
        (zeros((), "u1"), "capacity"),
        (ctypes.c_int(), "capacity"),
    ],
    ids=["u2", "3-D", "no rows", "empty rows", "rows", "0-D", "int"],
)
def test_shape_that_is_not_rows_of_bytes_is_refused(
    memory: Any, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        PacketBatch(buffer=memory)


@pytest.mark.parametrize("dtype", ["u1", "i1", "S1", "?"])
def test_rows_of_any_item_of_one_byte_will_do(dtype: str) -> None:
    memory = zeros((COUNT, SIZE), dtype)
    assert PacketBatch(buffer=memory).frame_size == SIZE


def test_flat_buffer_of_larger_items_is_taken_as_bytes() -> None:
    memory = zeros(COUNT * SIZE // 4, "u4")
    batch = PacketBatch(COUNT, buffer=memory)
    assert batch.frame_size == SIZE
    batch.append(struct.pack("=2I", 1, 2))
    assert memory[:2].tolist() == [1, 2]


# Refused memory


def read_only_numpy() -> Any:
    array = zeros((COUNT, SIZE), "u1")
    array.flags.writeable = False
    return array


UNFIT: dict[str, tuple[Any, type[Exception] | tuple[type[Exception], ...]]] = {
    "bytes": (bytes(2048), BufferError),
    "read-only view": (memoryview(bytearray(2048)).toreadonly(), BufferError),
    "read-only numpy": (read_only_numpy(), (ValueError, BufferError)),
    "read-only mmap": (
        mmap.mmap(-1, 2048, access=mmap.ACCESS_READ),
        BufferError,
    ),
    "every other byte": (memoryview(bytearray(4096))[::2], BufferError),
    "backwards": (memoryview(bytearray(4096))[::-1], BufferError),
    "every other column": (
        zeros((COUNT, SIZE), "u1")[:, ::2],
        (ValueError, BufferError),
    ),
    "Fortran's order": (
        zeros((COUNT, SIZE), "u1", order="F"),
        (ValueError, BufferError),
    ),
    "frames of another batch": (PacketBatch(2), BufferError),
    "text": ("x" * 2048, TypeError),
    "number": (2048, TypeError),
    "list": ([0] * 2048, TypeError),
    "type": (bytearray, TypeError),
}


@pytest.mark.parametrize(("memory", "error"), UNFIT.values(), ids=UNFIT)
def test_read_only_or_scattered_memory_is_refused(
    memory: Any, error: Any
) -> None:
    with pytest.raises(error):
        PacketBatch(buffer=memory)


@pytest.mark.parametrize(("memory", "error"), UNFIT.values(), ids=UNFIT)
def test_one_unfit_buffer_of_many_releases_the_others(
    memory: Any, error: Any
) -> None:
    first, last = bytearray(2048), bytearray(2048)
    with pytest.raises(error):
        PacketBatch(buffers=[first, memory, last])
    assert resizable(first)
    assert resizable(last)


@pytest.mark.parametrize(
    ("buffers", "error", "match"),
    [
        ([], ValueError, "capacity must be 1"),
        ([bytearray(1), bytearray()], ValueError, r"buffers\[1\]"),
        ([bytearray(1)] * (2**20 + 1), ValueError, "capacity"),
        (bytearray(2048), TypeError, None),
        (2048, TypeError, None),
        ("text", TypeError, None),
    ],
    ids=["empty", "empty buffer", "too many", "bytearray", "int", "str"],
)
def test_buffers_must_be_a_sequence_of_memory(
    buffers: Any, error: type[Exception], match: str | None
) -> None:
    with pytest.raises(error, match=match):
        PacketBatch(buffers=buffers)


def test_buffers_must_not_overlap() -> None:
    """One packet would overwrite another."""
    view = memoryview(bytearray(300))
    other = bytearray(10)
    for first, second in (
        (view[:100], view[:100]),
        (view[100:200], view[199:]),
        (view[:101], view[100:]),
        (view, view[150:151]),
    ):
        for a, b in ((first, second), (second, first)):
            with pytest.raises(ValueError, match=r"buffers\[[02]\].*overlap"):
                PacketBatch(buffers=[a, other, b])
    batch = PacketBatch(buffers=[view[200:], view[:100], view[100:200]])
    assert batch.capacity == 3


@pytest.mark.parametrize(
    "others",
    [
        {"capacity": 1},
        {"frame_size": 64},
        {"buffer": bytearray(2048)},
    ],
    ids=["capacity", "frame_size", "buffer"],
)
def test_sizes_cannot_be_given_with_buffers(others: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="buffers="):
        PacketBatch(buffers=[bytearray(64)], **others)


# Receiving and sending


@pytest.mark.parametrize("kind", KINDS)
def test_frames_arrive_in_the_callers_memory(kind: str, veth: Veth) -> None:
    with memory_of(kind) as memory:
        batch = PacketBatch(COUNT, buffer=memory)
        packets = [numbered(i, 64 + i) for i in range(COUNT)]
        with (
            RawSocket(veth.b) as receiver,
            RawSocket(veth.a, protocol=0) as sender,
        ):
            receiver.settimeout(WAIT)
            sender.sendmmsg_all(packets)
            assert receiver.recvmmsg_into(batch) == COUNT
        with memoryview(memory).cast("B") as flat:
            for i, packet in enumerate(packets):
                start = i * SIZE
                assert flat[start : start + len(packet)] == packet
        assert batch.tolist() == packets
        del batch


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_sent_from_the_callers_memory(kind: str) -> None:
    """The contents at the time of the call are sent, even if the frame was
    prepared earlier."""
    with memory_of(kind) as memory:
        batch = PacketBatch(COUNT, buffer=memory)
        packets = [numbered(i, 64 + i) for i in range(COUNT)]
        with memoryview(memory).cast("B") as flat:
            for i, packet in enumerate(packets):
                flat[i * SIZE : i * SIZE + len(packet)] = packet
                batch.lengths[i] = len(packet)
        batch.set_count(COUNT)
        receiver, sender = datagram_pair()
        with sender, receiver:
            assert sender.sendmmsg(batch) == COUNT
            sender.setblocking(False)
            receiver.settimeout(WAIT)
            assert [receiver.recv(SIZE) for _ in packets] == packets
        del batch


def test_batch_over_memory_begins_with_full_rows(veth: Veth) -> None:
    """What is there can be sent at once."""
    frames = numpy.zeros((3, 64), "u1")
    frames[:] = numpy.frombuffer(numbered(7), "u1")
    batch = PacketBatch(buffer=frames)
    assert len(batch) == 0
    assert batch.lengths.tolist() == [64, 64, 64]
    batch.set_count(3)
    batch.lengths[1] = 60
    with RawSocket(veth.b) as sock, RawSocket(veth.a, protocol=0) as sender:
        sender.sendmmsg_all(batch)
        sent = numbered(7)
        assert receive(sock, 3) == [sent, sent[:60], sent]


def test_batch_over_buffers_begins_with_full_rows() -> None:
    batch = PacketBatch(buffers=[bytearray(b"one"), bytearray(b"three")])
    assert batch.lengths.tolist() == [3, 5]
    batch.set_count(2)
    assert batch.tolist() == [b"one", b"three"]


def test_divided_memory_begins_with_full_rows() -> None:
    batch = PacketBatch(2, 16, buffer=bytearray(64))
    assert batch.lengths.tolist() == [16, 16]


def test_batch_over_its_own_memory_begins_empty() -> None:
    batch = PacketBatch(2)
    assert batch.lengths.tolist() == [0, 0]


def test_frames_arrive_in_a_file(tmp_path: Path) -> None:
    """A shared mapping of a file works as memory, so every process that maps
    the file sees the frames."""
    path = tmp_path / "frames"
    path.write_bytes(bytes(COUNT * SIZE))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    batch = PacketBatch(COUNT, buffer=memory)
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.settimeout(WAIT)
        sender.send(b"packet")
        receiver.recvmmsg_into(batch)
    assert path.read_bytes()[:7] == b"packet\0"
    del batch
    memory.close()


def test_received_batch_is_sent_without_a_copy(veth: Veth) -> None:
    """One batch is the target of a receive and then the source of a send."""
    memory = zeros((COUNT, SIZE), "u1")
    batch = PacketBatch(buffer=memory)
    packets = [numbered(i) for i in range(COUNT)]
    with RawSocket(veth.a) as near, RawSocket(veth.b) as far:
        near.settimeout(WAIT)
        far.settimeout(WAIT)
        near.sendmmsg_all(packets)
        assert far.recvmmsg_into(batch) == COUNT
        memory[:, 20] ^= 0xFF
        changed = [memory[i, :64].tobytes() for i in range(COUNT)]
        assert far.sendmmsg(batch) == COUNT
        received = PacketBatch()
        near.recvmmsg_into(received)
        assert received.tolist() == changed


def test_longer_packet_is_cut_to_its_frame() -> None:
    memory = bytearray(b"." * 12)
    batch = PacketBatch(2, 4, buffer=memory)
    sender, receiver = datagram_pair()
    with sender, receiver:
        sender.send(b"longer")
        sender.send(b"four")
        receiver.settimeout(WAIT)
        assert receiver.recvmmsg_into(batch) == 2
    assert batch.tolist() == [b"long", b"four"]
    assert batch.flags[:2].tolist() == [TRUNCATED, 0]
    assert memory == b"longfour....", "written beyond the frames"


def test_recv_into_writes_nothing_but_the_packet() -> None:
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.settimeout(WAIT)
        memory = bytearray(b"." * 10)
        sender.send(b"longer")
        assert receiver.recv_into(memoryview(memory)[2:6]) == 4
        assert memory == b"..long...."


# Scattered buffers


def test_each_of_many_buffers_has_its_own_size() -> None:
    buffers: list[Any] = [
        bytearray(8),
        zeros((2, 64), "u1"),
        mmap.mmap(-1, 4096),
        memoryview(bytearray(10))[2:5],
    ]
    batch = PacketBatch(buffers=buffers)
    assert batch.capacity == 4
    assert batch.frame_size is None
    packets = [b"x" * 8, b"y" * 128, b"z" * 4096, b"abc"]
    batch.extend(packets)
    assert batch.tolist() == packets
    for buffer, packet in zip(buffers, packets, strict=True):
        assert memoryview(buffer).tobytes() == packet


def test_each_packet_is_cut_to_its_own_buffer() -> None:
    buffers = [bytearray(3), bytearray(6), bytearray(1)]
    batch = PacketBatch(buffers=tuple(buffers))
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.settimeout(WAIT)
        for _ in buffers:
            sender.send(b"packet")
        assert receiver.recvmmsg_into(batch) == 3
    assert buffers == [b"pac", b"packet", b"p"]
    assert batch.lengths.tolist() == [3, 6, 1]
    assert batch.flags.tolist() == [TRUNCATED, 0, TRUNCATED]


def test_append_is_limited_by_the_next_buffer() -> None:
    batch = PacketBatch(buffers=[bytearray(3), bytearray(6)])
    with pytest.raises(ValueError, match=r"6 bytes does not .* of 3 bytes"):
        batch.append(b"packet")
    batch.append(b"one")
    batch.append(b"packet")
    assert batch.tolist() == [b"one", b"packet"]


def test_scattered_frames_go_over_a_link_and_back(veth: Veth) -> None:
    buffers = [bytearray(2048) for _ in range(COUNT)]
    batch = PacketBatch(buffers=buffers)
    packets = [numbered(i, 100 + i) for i in range(COUNT)]
    with RawSocket(veth.a) as near, RawSocket(veth.b) as far:
        near.settimeout(WAIT)
        far.settimeout(WAIT)
        near.sendmmsg_all(packets)
        assert far.recvmmsg_into(batch) == COUNT
        assert [
            bytes(buffer[:length])
            for buffer, length in zip(buffers, batch.lengths, strict=True)
        ] == packets
        far.sendmmsg_all(batch)
        answer = PacketBatch()
        assert near.recvmmsg_into(answer) == COUNT
        assert answer.tolist() == packets


def test_scattered_frames_cannot_be_one_array() -> None:
    batch = PacketBatch(buffers=[bytearray(64), bytearray(64)])
    with pytest.raises(BufferError, match="not one two-dimensional buffer"):
        memoryview(batch)


def test_later_changes_of_the_list_of_buffers_have_no_effect() -> None:
    buffers = [bytearray(3), bytearray(3)]
    batch = PacketBatch(buffers=buffers)
    first = buffers[0]
    buffers.clear()
    batch.append(b"one")
    assert first == b"one"
    assert batch.capacity == 2
