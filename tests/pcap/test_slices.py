"""PacketBatch(buffer=, offsets=, lengths=): a batch of slices."""

import array
import mmap
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy
import pytest
from support.datagrams import UDP, Datagram
from support.flows import build, numbered_flow
from support.frames import PACKET, numbered_frames, receive

from rawmmsg import CHECKSUM_GOOD, PacketBatch, RawSocket
from rawmmsg.testing import Veth

DATA: Final = bytes(range(200))


def slices(
    data: Any = DATA,
    offsets: Any = (0, 50, 10),
    lengths: Any = (20, 30, 60),
) -> PacketBatch:
    return PacketBatch(buffer=data, offsets=offsets, lengths=lengths)


def test_slices_are_the_packets() -> None:
    batch = slices()
    assert batch.tolist() == [DATA[:20], DATA[50:80], DATA[10:70]]
    assert (len(batch), batch.capacity, batch.frame_size) == (3, 3, None)
    assert batch.lengths.tolist() == [20, 30, 60]


@pytest.mark.parametrize(
    "column",
    [
        lambda items: items,
        tuple,
        lambda items: array.array("q", items),
        lambda items: array.array("H", items),
        lambda items: array.array("b", items),
        lambda items: numpy.array(items),
        lambda items: numpy.array(items, "u8"),
        bytes,
    ],
    ids=["list", "tuple", "q", "H", "b", "numpy", "numpy u8", "bytes"],
)
def test_columns_are_any_integers(
    column: Callable[[list[int]], Any],
) -> None:
    batch = slices(offsets=column([0, 50]), lengths=column([20, 30]))
    assert batch.tolist() == [DATA[:20], DATA[50:80]]


def test_one_length_may_be_for_all() -> None:
    batch = slices(offsets=range(0, 200, 50), lengths=50)
    assert batch.tolist() == [DATA[i : i + 50] for i in range(0, 200, 50)]


def test_frames_are_read_only_even_in_writable_memory() -> None:
    memory = bytearray(DATA)
    batch = slices(memory)
    assert batch[0].readonly
    memory[0] = 99
    assert batch[0][0] == 99, "the batch shows the memory, not a copy"


def test_a_map_of_a_file_is_kept_by_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    batch = slices(mapped)
    view = batch[1]
    with pytest.raises(BufferError):
        mapped.close()
    del mapped, batch
    assert bytes(view) == DATA[50:80]


def test_slices_are_sent_without_a_copy(veth: Veth) -> None:
    packets = numbered_frames(300)
    data = b"".join(packets)
    batch = slices(data, range(0, len(data), 64), 64)
    with (
        RawSocket(veth.b) as receiver,
        RawSocket(veth.a, protocol=0) as sender,
    ):
        assert sender.sendmmsg(batch, 0, 256) == 256
        assert receive(receiver, 256) == packets[:256]


def test_fewer_bytes_and_fewer_packets_can_be_sent() -> None:
    batch = slices()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with RawSocket(fileno=near.detach()) as sock, far:
        batch.lengths[1] = 5
        batch.set_count(2)
        assert sock.sendmmsg(batch) == 2
        assert [far.recv(100), far.recv(100)] == [DATA[:20], DATA[50:55]]


def test_slices_are_merged_and_verified() -> None:
    frames = build(numbered_flow(Datagram(protocol=UDP), [100] * 4))
    data = b"".join(frames)
    batch = slices(data, range(0, len(data), len(frames[0])), len(frames[0]))
    assert set(batch.verify_checksums()) == {CHECKSUM_GOOD}
    target = PacketBatch(2, 2048)
    assert batch.merge_into(target) == 4
    assert len(target) == 1, "four frames have become one super-frame"


@pytest.mark.parametrize(
    "call",
    [
        lambda batch: batch.append(PACKET),
        lambda batch: batch.extend([PACKET]),
        lambda batch: batch.complete_checksums(),
        lambda batch: batch.compute_checksums(),
        lambda batch: PacketBatch(2).segment_into(batch),
        lambda batch: PacketBatch(2).merge_into(batch),
    ],
    ids=["append", "extend", "complete", "compute", "segment", "merge"],
)
def test_nothing_is_written_to_slices(
    call: Callable[[PacketBatch], object],
) -> None:
    memory = bytearray(DATA)
    batch = slices(memory)
    with pytest.raises(BufferError, match="is read-only: copy its frames"):
        call(batch)
    assert (bytes(memory), len(batch)) == (DATA, 3)


def test_nothing_is_received_into_slices() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with RawSocket(fileno=near.detach()) as sock, far:
        far.send(PACKET)
        with pytest.raises(BufferError, match="is read-only"):
            sock.recvmmsg_into(slices(bytearray(DATA)))
        assert sock.recv(100) == PACKET, "the packet is still there"


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [
        ([-1], [1]),
        ([0], [-1]),
        ([0], [201]),
        ([200], [1]),
        ([201], [0]),
        ([2**63 - 1], [2**63 - 1]),
        ([0, 190], [10, 11]),
    ],
)
def test_slices_outside_of_the_buffer_are_refused(
    offsets: list[int], lengths: list[int]
) -> None:
    with pytest.raises(ValueError, match="is not in the buffer of 200 bytes"):
        slices(offsets=offsets, lengths=lengths)


def test_an_empty_slice_may_be_at_the_end() -> None:
    assert slices(offsets=[200, 0], lengths=[0, 200]).tolist() == [b"", DATA]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"offsets": [0]}, TypeError, "needs buffer=, offsets= and lengths="),
        (
            {"offsets": [0], "lengths": [1], "capacity": 1, "buffer": DATA},
            TypeError,
            "nothing else",
        ),
        (
            {"offsets": [0], "lengths": [1, 2], "buffer": DATA},
            ValueError,
            "one item for each packet, not 1 and 2",
        ),
        (
            {"offsets": 0, "lengths": 1, "buffer": DATA},
            ValueError,
            "one item for each packet",
        ),
        (
            {"offsets": [], "lengths": [], "buffer": DATA},
            ValueError,
            "capacity must be 1 to",
        ),
        (
            {"offsets": [2**64], "lengths": [1], "buffer": DATA},
            ValueError,
            "offsets: .* is too large",
        ),
        (
            {
                "offsets": numpy.array([2**63], "u8"),
                "lengths": [1],
                "buffer": DATA,
            },
            ValueError,
            r"offsets\[0\] is too large",
        ),
        (
            {"offsets": array.array("d", [0]), "lengths": 1, "buffer": DATA},
            TypeError,
            "offsets must be a one-dimensional column of integers",
        ),
        (
            {
                "offsets": numpy.zeros((1, 1), "i8"),
                "lengths": 1,
                "buffer": DATA,
            },
            TypeError,
            "one-dimensional",
        ),
        (
            {
                "offsets": numpy.array([1], ">i8").view(">i8"),
                "lengths": 1,
                "buffer": DATA,
            },
            TypeError,
            "column of integers",
        ),
        ({"offsets": ["0"], "lengths": 1, "buffer": DATA}, TypeError, "str"),
        ({"offsets": [0], "lengths": 1, "buffer": [1]}, TypeError, "bytes"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PacketBatch(**arguments)


def test_a_batch_of_slices_is_not_one_buffer() -> None:
    with pytest.raises(BufferError, match="offsets="):
        memoryview(slices())


def test_columns_of_a_receive_are_missing() -> None:
    batch = slices()
    names: Sequence[str] = ("timestamps_ns", "ifindexes", "vlan_tcis", "flags")
    assert not any(hasattr(batch, name) for name in names)
    assert batch.gso_types.tolist() == [0, 0, 0]
