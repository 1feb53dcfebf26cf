"""PacketBatch: all frames as one array, and what keeps the memory alive."""

import gc
import tracemalloc
import weakref
import zlib
from collections.abc import Callable
from typing import Any, cast

import numpy
import pytest
from support.frames import (
    datagram_pair,
    held,
    numbered,
    receive_all_columns,
    receive_unix,
)

from rawmmsg import PacketBatch
from rawmmsg.testing import Veth

ONE_TWO_THREE = [b"one", b"two", b"three"]


# All frames as one array


@pytest.mark.parametrize("frame_size", [1, 63, 64, 65, 128, 1514, 2048, 4096])
def test_batch_is_a_matrix_with_a_frame_per_row(frame_size: int) -> None:
    view = memoryview(PacketBatch(3, frame_size))
    assert (view.format, view.itemsize, view.ndim) == ("B", 1, 2)
    assert view.shape == (3, frame_size)
    assert view.nbytes == 3 * frame_size
    assert not view.readonly
    assert view.strides is not None
    assert view.strides[0] >= frame_size, "rows overlap"
    assert view.strides[1] == 1


def test_frames_are_not_a_large_power_of_two_apart() -> None:
    """Otherwise they would share a few cache sets."""
    for frame_size in (512, 1024, 2048, 4096, 65536):
        strides = memoryview(PacketBatch(2, frame_size)).strides
        assert strides is not None
        assert strides[0] & (strides[0] - 1), frame_size


@pytest.mark.parametrize("frame_size", [1, 63, 64, 65, 2048])
def test_row_is_the_memory_of_its_frame(frame_size: int) -> None:
    batch = PacketBatch(5, frame_size)
    frames = numpy.asarray(batch)
    assert frames.shape == (5, frame_size)
    for i in range(5):
        batch.lengths[i] = frame_size
        frames[i] = i + 1
    batch.set_count(5)
    assert batch.tolist() == [bytes([i + 1]) * frame_size for i in range(5)]
    batch[2][-1] = 0xFF
    assert frames[2, -1] == 0xFF
    assert numpy.count_nonzero(frames == 0xFF) == 1


def test_packets_begin_at_column_0(veth: Veth) -> None:
    batch = PacketBatch()
    receive_all_columns(veth, batch)
    assert numpy.asarray(batch)[0, :64].tobytes() == numbered(1)


def test_numpy_takes_the_batch_without_a_copy() -> None:
    batch = held(b"packet", capacity=2, frame_size=8)
    frames = numpy.asarray(batch)
    assert frames.dtype == numpy.uint8
    assert not frames.flags.owndata
    assert frames.flags.writeable
    frames[0, 0] = ord("P")
    assert bytes(batch[0]) == b"Packet"


def test_memoryview_of_two_dimensions_has_no_rows() -> None:
    """This is why batch[i] is a view of its own."""
    with pytest.raises(NotImplementedError):
        memoryview(PacketBatch())[0]


def test_memoryview_reads_a_strided_column() -> None:
    """Columns of the 10-byte virtio_net_hdr records depend on it."""
    records = numpy.arange(100, dtype="u1")
    fields = numpy.ndarray((9,), "u2", records, offset=2, strides=(10,))
    view = memoryview(cast(Any, fields))  # no Buffer for mypy until 3.12
    assert (view.format, view.strides) == ("H", (10,))
    assert [int(value) for value in view] == fields.tolist()


def test_consumer_without_strides_is_refused() -> None:
    """It would read the gaps between rows as packets."""
    batch = PacketBatch(2, 2048)
    with pytest.raises(BufferError, match="not contiguous"):
        zlib.crc32(batch)
    sender, receiver = datagram_pair()
    with sender, receiver, pytest.raises(BufferError, match="not contiguous"):
        receiver.send(batch)


def test_all_frames_can_be_copied_out() -> None:
    batch = held(b"one", b"two", capacity=2, frame_size=4)
    assert bytes(batch) == b"one\0two\0"
    assert memoryview(batch).tobytes() == b"one\0two\0"


# What keeps memory alive

VIEWS: dict[str, Callable[[PacketBatch], Any]] = {
    "packet": lambda batch: batch[0],
    "part": lambda batch: batch[0][:1],
    "lengths": lambda batch: batch.lengths,
    "flags": lambda batch: batch.flags,
    "matrix": lambda batch: memoryview(batch),
    "array": lambda batch: numpy.asarray(batch),
    "iterator's": lambda batch: next(iter(batch)),
}


@pytest.mark.parametrize("take", VIEWS.values(), ids=VIEWS)
def test_view_pins_the_memory_and_not_the_batch(
    take: Callable[[PacketBatch], Any],
) -> None:
    batch = PacketBatch()
    receive_unix(batch, b"received")
    view = take(batch)
    before = view.tobytes()
    reference = weakref.ref(batch)
    del batch
    assert reference() is None, "the view keeps the batch object alive"
    # If the memory were free, this would overwrite it.
    others = [PacketBatch() for _ in range(8)]
    for other in others:
        numpy.asarray(other)[:] = 0xFF
        numpy.asarray(other.lengths)[:] = 0xFF
    assert view.tobytes() == before
    with memoryview(view) as again:
        assert again.tobytes() == before


def test_iterator_pins_the_batch() -> None:
    iterator = iter(held(*ONE_TWO_THREE))
    assert [bytes(packet) for packet in iterator] == ONE_TWO_THREE


@pytest.mark.parametrize("take", VIEWS.values(), ids=VIEWS)
def test_memory_goes_with_the_last_view(
    take: Callable[[PacketBatch], Any],
) -> None:
    size = 1 << 22
    batch = PacketBatch(1, size)
    receive_unix(batch, b"received")
    del batch
    tracemalloc.start()
    try:
        batch = PacketBatch(1, size)
        receive_unix(batch, b"received")
        view = take(batch)
        del batch
        assert tracemalloc.get_traced_memory()[0] >= size
        del view
        assert tracemalloc.get_traced_memory()[0] < size, "memory is leaked"
    finally:
        tracemalloc.stop()


def test_view_stays_valid_when_the_batch_is_cleared() -> None:
    """The index is gone, but the memory stays."""
    batch = held(b"packet")
    view = batch[0]
    batch.clear()
    assert bytes(view) == b"packet"
    batch.append(b"PACKET")
    assert bytes(view) == b"PACKET", (
        "the view shows the current contents of the memory"
    )


def test_released_view_raises_and_the_batch_still_works() -> None:
    batch = held(b"packet")
    view = batch[0]
    view.release()
    with pytest.raises(ValueError, match="released"):
        view[0]
    assert batch.tolist() == [b"packet"]


def test_batch_in_a_cycle_is_collected_while_a_view_stays() -> None:
    class Holder:
        batch: PacketBatch
        me: "Holder"

    holder = Holder()
    holder.me = holder
    holder.batch = held(b"packet")
    view = holder.batch[0]
    reference = weakref.ref(holder.batch)
    del holder
    gc.collect()
    assert reference() is None
    assert bytes(view) == b"packet"


def test_batch_is_hashed_and_compared_by_identity() -> None:
    batch, other = held(b"one"), held(b"one")
    assert batch == batch
    assert batch != other
    assert {batch: "first", other: "second"}[batch] == "first"
    assert weakref.ref(batch)() is batch


def test_one_row_is_contiguous() -> None:
    """Whatever the distance to the next row."""
    batch = PacketBatch(1, 100)
    batch.append(b"packet")
    assert bytes(memoryview(batch).cast("B"))[:6] == b"packet"
