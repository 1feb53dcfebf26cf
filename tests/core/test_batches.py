"""PacketBatch: its packets, views and columns."""

import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from support import WAIT
from support.frames import (
    datagram_pair,
    frame,
    held,
    numbered,
    receive_all_columns,
    receive_unix,
)

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth

COLUMNS = {
    "lengths": "I",
    "wire_lengths": "I",
    "timestamps_ns": "q",
    "ifindexes": "i",
    "packet_types": "B",
    "flags": "H",
    "vlan_tcis": "H",
    "vlan_tpids": "H",
}
ONE_TWO_THREE = [b"one", b"two", b"three"]


def collected(batch: PacketBatch) -> set[str]:
    """The names of the columns that were collected."""
    return {name for name in COLUMNS if hasattr(batch, name)}


def column(batch: PacketBatch, name: str) -> memoryview:
    view: memoryview = getattr(batch, name)
    return view


# Sizes


def test_64_frames_of_2048_bytes_by_default() -> None:
    batch = PacketBatch()
    assert (batch.capacity, batch.frame_size) == (64, 2048)
    assert (PacketBatch(3).capacity, PacketBatch(3).frame_size) == (3, 2048)
    assert PacketBatch(frame_size=5).capacity == 64


@pytest.mark.parametrize("frame_size", [1, 63, 64, 65, 1514, 2048, 9018])
def test_sizes_are_those_asked_for(frame_size: int) -> None:
    batch = PacketBatch(3, frame_size)
    assert batch.capacity == 3
    assert batch.frame_size == frame_size
    batch.append(b"x" * frame_size)
    with pytest.raises(ValueError, match="does not fit"):
        batch.append(b"x" * (frame_size + 1))


def test_none_means_the_default() -> None:
    batch = PacketBatch(None, None, buffer=None, buffers=None)
    assert (batch.capacity, batch.frame_size) == (64, 2048)


def test_super_frame_holds_the_largest_gso_frame_and_its_tags() -> None:
    """A packet of 65,535 bytes behind an Ethernet header and two tags."""
    assert SUPER_FRAME == 69632
    largest = b"x" * (14 + 2 * 4 + 65535)
    assert held(largest, capacity=1, frame_size=SUPER_FRAME).tolist() == [
        largest
    ]


def test_sizes_cannot_be_assigned() -> None:
    batch = PacketBatch(2)
    for name in ["capacity", "frame_size", *COLUMNS]:
        with pytest.raises(AttributeError):
            setattr(batch, name, 1)


def test_repr_shows_count_and_capacity() -> None:
    batch = held(b"one", capacity=4, frame_size=128)
    assert repr(batch) == "<PacketBatch 1 of 4 packets of up to 128 bytes>"
    scattered = PacketBatch(buffers=[bytearray(1), bytearray(2)])
    assert repr(scattered) == "<PacketBatch 0 of 2 packets>"


# Sequence


def test_new_batch_is_empty() -> None:
    batch = PacketBatch(4)
    assert len(batch) == 0
    assert not batch
    assert list(batch) == batch.tolist() == []
    assert batch.lengths.tolist() == [0] * 4
    with pytest.raises(IndexError):
        batch[0]


def test_length_is_the_number_of_packets() -> None:
    assert len(held(*ONE_TWO_THREE)) == 3


@pytest.mark.parametrize("index", range(3))
def test_index_gives_exactly_the_bytes_of_the_packet(index: int) -> None:
    batch = held(*ONE_TWO_THREE)
    assert batch[index] == ONE_TWO_THREE[index]
    assert batch[index - 3] == ONE_TWO_THREE[index]


@pytest.mark.parametrize("index", [3, -4, 2**62, -(2**62), 2**70, -(2**70)])
def test_index_out_of_range_raises(index: int) -> None:
    """Both beyond the packets and beyond the memory."""
    with pytest.raises(IndexError):
        held(*ONE_TWO_THREE)[index]


@pytest.mark.parametrize("index", [slice(0, 1), "0", 0.0, None, (0, 0)])
def test_only_a_number_is_an_index(index: Any) -> None:
    with pytest.raises(TypeError):
        held(*ONE_TWO_THREE)[index]


def test_iteration_gives_each_packet() -> None:
    batch = held(*ONE_TWO_THREE)
    assert [bytes(packet) for packet in batch] == ONE_TWO_THREE
    assert [bytes(packet) for packet in reversed(batch)] == [
        b"three",
        b"two",
        b"one",
    ]


def test_iterators_are_independent() -> None:
    batch = held(*ONE_TWO_THREE)
    pairs = [(bytes(a), bytes(b)) for a in batch for b in batch]
    assert pairs == [(a, b) for a in ONE_TWO_THREE for b in ONE_TWO_THREE]


def test_a_packet_is_a_flat_writable_view_of_bytes() -> None:
    view = held(b"packet")[0]
    assert (view.format, view.itemsize, view.ndim) == ("B", 1, 1)
    assert view.shape == (6,)
    assert view.contiguous
    assert not view.readonly


def test_views_of_a_packet_share_its_memory() -> None:
    batch = held(b"packet")
    batch[0][0] = ord("P")
    assert bytes(batch[-1]) == b"Packet"
    assert bytes(next(iter(batch))) == b"Packet"
    assert batch.tolist() == [b"Packet"]


def test_tolist_copies() -> None:
    batch = held(b"packet")
    (copy,) = batch.tolist()
    batch[0][0] = 0
    assert type(copy) is bytes
    assert copy == b"packet"


# Filling


@pytest.mark.parametrize(
    "data",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"0123456789")[1:9],
        array.array("I", [1, 2]),
        numpy.arange(8, dtype="u1").reshape(2, 4),
        held(b"12345678")[0],
    ],
    ids=lambda data: type(data).__name__,
)
def test_append_copies_any_contiguous_buffer(data: Any) -> None:
    batch = held(b"first")
    batch.append(data)
    assert batch.tolist() == [b"first", bytes(data)]
    assert batch.lengths[1] == 8


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("text", TypeError),
        (8, TypeError),
        (None, TypeError),
        ([1, 2], TypeError),
        (memoryview(b"12345678")[::2], BufferError),
        (numpy.zeros((4, 4), "u1")[:, ::2], (ValueError, BufferError)),
    ],
)
def test_append_refuses_other_objects(
    data: Any, error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    batch = held(b"first")
    with pytest.raises(error):
        batch.append(data)
    assert batch.tolist() == [b"first"]


def test_append_to_a_full_batch_raises_and_changes_nothing() -> None:
    batch = held(b"one", b"two", capacity=2)
    with pytest.raises(ValueError, match="full"):
        batch.append(b"three")
    assert batch.tolist() == [b"one", b"two"]


def test_append_of_a_longer_packet_raises_and_changes_nothing() -> None:
    batch = held(b"one", capacity=2, frame_size=3)
    with pytest.raises(ValueError, match="4 bytes does not fit"):
        batch.append(b"four")
    assert batch.tolist() == [b"one"]


def test_append_accepts_an_empty_packet() -> None:
    batch = held(b"", b"x", b"")
    assert batch.tolist() == [b"", b"x", b""]
    assert len(batch[0]) == 0


def test_append_accepts_a_frame_of_the_batch_itself() -> None:
    batch = held(b"packet")
    batch.append(batch[0])
    batch[0][0] = 0
    assert batch.tolist() == [b"\0acket", b"packet"]


def test_append_accepts_memory_that_overlaps_the_frame() -> None:
    memory = bytearray(b"0123456789")
    batch = PacketBatch(2, 5, buffer=memory)
    batch.append(memoryview(memory)[2:7])
    assert batch.tolist() == [b"23456"]
    batch.append(memoryview(memory)[4:9])
    assert batch.tolist() == [b"23456", b"65678"]


def test_append_adds_after_received_packets() -> None:
    batch = PacketBatch()
    receive_unix(batch, b"received")
    batch.append(b"appended")
    assert batch.tolist() == [b"received", b"appended"]


def test_extend_takes_any_iterable() -> None:
    batch = held(b"one")
    batch.extend(bytearray(data) for data in (b"two", b"three"))
    batch.extend([])
    batch.extend(held(b"four", b"five"))
    assert batch.tolist() == [b"one", b"two", b"three", b"four", b"five"]


def test_extend_keeps_the_packets_before_a_failure() -> None:
    batch = PacketBatch(3, 5)
    with pytest.raises(TypeError):
        batch.extend([b"one", None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="does not fit"):
        batch.extend([b"two", b"longer"])
    with pytest.raises(ValueError, match="full"):
        batch.extend([b"three", b"four"])
    assert batch.tolist() == [b"one", b"two", b"three"]


def test_extend_raises_what_the_iterable_raises() -> None:
    def packets() -> Iterator[bytes]:
        yield b"one"
        raise KeyError("iterable")

    batch = PacketBatch()
    with pytest.raises(KeyError, match="iterable"):
        batch.extend(packets())
    assert batch.tolist() == [b"one"]


def test_extend_by_the_batch_itself_ends_when_it_is_full() -> None:
    batch = held(b"one", capacity=4)
    with pytest.raises(ValueError, match="full"):
        batch.extend(batch)
    assert batch.tolist() == [b"one"] * 4


def test_extend_lets_the_iterable_use_the_batch() -> None:
    batch = PacketBatch()

    def packets() -> Iterator[bytes]:
        batch.append(b"one")
        yield b"two"
        batch.clear()
        yield b"three"

    batch.extend(packets())
    assert batch.tolist() == [b"three"]


def test_clear_removes_all_packets() -> None:
    batch = held(*ONE_TWO_THREE)
    batch.clear()
    assert len(batch) == 0
    assert batch.tolist() == []
    batch.append(b"again")
    assert batch.tolist() == [b"again"]


def test_set_count_declares_packets_written_in_place() -> None:
    batch = PacketBatch(4, 16)
    frames = numpy.asarray(batch)
    frames[0, :3] = list(b"one")
    frames[1, :4] = list(b"four")
    batch.lengths[0], batch.lengths[1] = 3, 4
    assert len(batch) == 0
    batch.set_count(2)
    assert batch.tolist() == [b"one", b"four"]
    batch.set_count(1)
    assert batch.tolist() == [b"one"]


def test_set_count_keeps_the_lengths() -> None:
    batch = held(*ONE_TWO_THREE, capacity=4)
    batch.set_count(4)
    assert batch.tolist() == [*ONE_TWO_THREE, b""]
    batch.clear()
    batch.set_count(3)
    assert batch.tolist() == ONE_TWO_THREE


@pytest.mark.parametrize("count", [-1, 5, 2**62, 2**70, -(2**70)])
def test_set_count_refuses_more_than_the_capacity(count: int) -> None:
    batch = held(b"one", capacity=4)
    with pytest.raises(ValueError, match="count must be 0 to 4"):
        batch.set_count(count)
    assert batch.tolist() == [b"one"]


def test_receive_replaces_earlier_packets() -> None:
    batch = held(*ONE_TWO_THREE)
    receive_unix(batch, b"received")
    assert batch.tolist() == [b"received"]


def test_receive_that_raises_leaves_the_batch_unchanged(veth: Veth) -> None:
    batch = PacketBatch()
    receive_all_columns(veth, batch)
    before = {name: bytes(column(batch, name)) for name in COLUMNS}
    packets = batch.tolist()
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recvmmsg_into(batch)
    assert batch.tolist() == packets
    assert {name: bytes(column(batch, name)) for name in COLUMNS} == before


# Columns


def test_columns_have_their_type_and_an_entry_per_frame(veth: Veth) -> None:
    batch = PacketBatch(5)
    receive_all_columns(veth, batch)
    for name, code in COLUMNS.items():
        view = column(batch, name)
        assert (view.format, view.ndim, view.shape) == (code, 1, (5,)), name
        assert view.itemsize == array.array(code).itemsize, name
        assert view.readonly == (name != "lengths"), name


def test_only_lengths_is_writable(veth: Veth) -> None:
    batch = PacketBatch()
    receive_all_columns(veth, batch)
    for name in set(COLUMNS) - {"lengths"}:
        with pytest.raises(TypeError, match="read-only"):
            column(batch, name)[0] = 0
    batch.lengths[0] = 5
    assert batch.tolist() == [numbered(1)[:5]]


def test_columns_hold_the_metadata_of_the_packet(veth: Veth) -> None:
    batch = PacketBatch()
    receiver = receive_all_columns(veth, batch)
    values = {name: column(batch, name)[0] for name in COLUMNS}
    assert values.pop("timestamps_ns") > 10**18, (
        "the timestamp is of this century"
    )
    assert values == {
        "lengths": 64,
        "wire_lengths": 64,
        "ifindexes": receiver.ifindex,
        "packet_types": 1,
        "flags": 0,
        "vlan_tcis": 0,
        "vlan_tpids": 0,
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "wire_lengths vlan_tcis vlan_tpids",
            "no wire lengths and tags: RawSocket(..., vlan=True)",
        ),
        (
            "timestamps_ns",
            "no time stamps: RawSocket(..., timestamps='software')",
        ),
        (
            "ifindexes packet_types",
            "no addresses: RawSocket(..., addresses=True)",
        ),
        ("flags", "no flags: the batch does not hold what was received"),
    ],
)
def test_missing_column_names_the_option(names: str, message: str) -> None:
    batch = held(b"packet")
    for name in names.split():
        with pytest.raises(AttributeError) as caught:
            getattr(batch, name)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"wire_lengths", "vlan_tcis", "vlan_tpids"}),
        ({"vlan": False}, set()),
        ({"vlan": False, "addresses": True}, {"ifindexes", "packet_types"}),
        ({"vlan": False, "timestamps": "software"}, {"timestamps_ns"}),
    ],
    ids=["default", "bare", "addresses", "timestamps"],
)
def test_column_that_the_socket_does_not_collect_is_missing(
    veth: Veth, options: dict[str, Any], expected: set[str]
) -> None:
    batch = PacketBatch()
    receive_all_columns(veth, batch)
    assert collected(batch) == set(COLUMNS)
    with (
        RawSocket(veth.b, **options) as receiver,
        RawSocket(veth.a, protocol=0) as sender,
    ):
        receiver.settimeout(WAIT)
        sender.send(frame())
        receiver.recvmmsg_into(batch)
    assert collected(batch) == {"lengths", "flags"} | expected


def test_new_batch_has_lengths_only() -> None:
    assert collected(PacketBatch()) == {"lengths"}


@pytest.mark.parametrize(
    "fill",
    [
        lambda batch: batch.append(b"x"),
        lambda batch: batch.extend([b"x"]),
        lambda batch: batch.clear(),
        lambda batch: batch.set_count(1),
    ],
    ids=["append", "extend", "clear", "set_count"],
)
def test_append_drops_the_columns_of_the_last_receive(
    veth: Veth, fill: Callable[[PacketBatch], None]
) -> None:
    batch = PacketBatch()
    receive_all_columns(veth, batch)
    fill(batch)
    assert collected(batch) == {"lengths"}


def test_column_taken_before_shows_the_next_receive() -> None:
    batch = held(b"longer")
    lengths = batch.lengths
    receive_unix(batch, b"one", b"four")
    assert lengths.tolist()[:2] == [3, 4]


def test_column_is_an_array_for_numpy() -> None:
    batch = held(*ONE_TWO_THREE)
    lengths = numpy.asarray(batch.lengths)
    assert lengths.dtype == numpy.uint32
    assert lengths[:3].tolist() == [3, 3, 5]
    lengths[:3] -= 1
    assert batch.tolist() == [b"on", b"tw", b"thre"]


@pytest.mark.parametrize("value", [-1, 2**32, "1", 1.0, None])
def test_lengths_accepts_only_32_bit_numbers(value: Any) -> None:
    batch = held(b"one")
    with pytest.raises((ValueError, TypeError)):
        batch.lengths[0] = value
    assert batch.lengths[0] == 3
