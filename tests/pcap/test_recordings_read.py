"""Reader: what a recording holds, whatever its format."""

import gzip
import io
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from support import recordings
from support.recordings import (
    EPB_DROPCOUNT,
    EPB_FLAGS,
    IF_DESCRIPTION,
    IF_FILTER,
    IF_NAME,
    IF_TSOFFSET,
    IF_TSRESOL,
    ISB_IFDROP,
    ISB_IFRECV,
    MICROSECONDS,
    NANOSECONDS,
    SECOND,
    Order,
    Packet,
)

from rawmmsg import (
    PACKET_BROADCAST,
    PACKET_HOST,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    PACKET_OUTGOING,
    TRUNCATED,
)
from rawmmsg.pcap import UNKNOWN_TYPE, Interface, Reader

ORDERS: Final[tuple[Order, ...]] = ("<", ">")
SECTION: Final = recordings.section()
ETHERNET: Final = recordings.interface()


def reader_of(content: bytes) -> Reader:
    return Reader(io.BytesIO(content))


def packets_of(reader: Reader) -> list[bytes]:
    return [packet for batch in reader for packet in batch.tolist()]


def column_of(reader: Reader, name: str) -> list[int]:
    return [
        item for batch in reader for item in getattr(batch, name)[: len(batch)]
    ]


def times_of(content: bytes) -> list[int]:
    return column_of(reader_of(content), "timestamps_ns")


def stamped(units: int, pairs: list[tuple[int, bytes]]) -> int:
    """The time of a packet with a time in these units."""
    interface = recordings.interface(pairs=pairs)
    packet = recordings.enhanced(Packet(b"x", units))
    (time,) = times_of(SECTION + interface + packet)
    return time


# pcap


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("magic", "unit"), [(MICROSECONDS, 1000), (NANOSECONDS, 1)]
)
def test_pcap_has_two_byte_orders_and_two_resolutions(
    order: Order, magic: int, unit: int
) -> None:
    packets = recordings.numbered(2000)
    content = recordings.pcap(packets, order, magic)
    reader = reader_of(content)
    assert reader.format == "pcap"
    assert reader.interfaces == [Interface(1, 65535)]
    assert packets_of(reader) == [packet.data for packet in packets]
    assert times_of(content) == [
        SECOND * 10**9 + packet.time * unit for packet in packets
    ]


def test_the_link_type_of_pcap_has_no_other_bits() -> None:
    content = recordings.pcap_header(link_type=0x30000000 | 101)
    assert reader_of(content).link_type == 101


def test_seconds_of_pcap_are_unsigned() -> None:
    record = recordings.pcap_record(2**32 - 1, 999_999, Packet(b"x"))
    content = recordings.pcap_header() + record
    assert times_of(content) == [(2**32 - 1) * 10**9 + 999_999_000]


def test_packets_that_the_recording_has_cut_are_marked() -> None:
    whole, cut = Packet(bytes(60)), Packet(bytes(60), wire_length=1500)
    (batch,) = reader_of(recordings.pcap([whole, cut]))
    assert batch.lengths.tolist() == [60, 60]
    assert batch.wire_lengths.tolist() == [60, 1500]
    assert batch.flags.tolist() == [0, TRUNCATED]


# pcapng


@pytest.mark.parametrize("order", ORDERS)
def test_enhanced_blocks(order: Order) -> None:
    packets = [Packet(bytes([n] * (60 + n)), n, 2000) for n in range(5)]
    content = recordings.section(order) + recordings.interface(order)
    content += b"".join(
        recordings.enhanced(packet, order) for packet in packets
    )
    (batch,) = reader_of(content)
    assert batch.tolist() == [packet.data for packet in packets]
    assert batch.timestamps_ns.tolist() == [n * 1000 for n in range(5)]
    assert set(batch.wire_lengths) == {2000}
    assert set(batch.packet_types) == {UNKNOWN_TYPE}


@pytest.mark.parametrize("order", ORDERS)
def test_old_packet_blocks_have_drop_counts(order: Order) -> None:
    content = recordings.section(order) + recordings.interface(order) * 2
    for drops in (3, 0xFFFF, 4):
        packet = Packet(bytes(61), 1 << 33)
        content += recordings.old_packet(packet, order, 1, drops)
    reader = reader_of(content)
    (batch,) = reader
    assert batch.tolist() == [bytes(61)] * 3
    assert set(batch.timestamps_ns) == {(1 << 33) * 1000}
    assert set(batch.ifindexes) == {1}
    assert reader.drops == 7, "65,535 stands for an unknown number"


@pytest.mark.parametrize("order", ORDERS)
def test_simple_blocks_have_no_time_and_the_snap_length_of_interface_0(
    order: Order,
) -> None:
    content = recordings.section(order)
    content += recordings.interface(order, snap_length=50)
    content += recordings.interface(order, snap_length=10)
    content += recordings.simple(Packet(bytes(33)), order)
    content += recordings.simple(Packet(bytes(50), wire_length=99), order)
    (batch,) = reader_of(content)
    assert batch.tolist() == [bytes(33), bytes(50)]
    assert batch.wire_lengths.tolist() == [33, 99]
    assert batch.timestamps_ns.tolist() == [0, 0]
    assert batch.ifindexes.tolist() == [0, 0]


def test_sections_may_have_different_byte_orders() -> None:
    content = b""
    for order in (">", "<", ">"):
        content += recordings.section(order)
        content += recordings.interface(order, snap_length=100)
        content += recordings.enhanced(Packet(order.encode()), order)
    reader = reader_of(content)
    (batch,) = reader
    assert batch.tolist() == [b">", b"<", b">"]
    assert batch.ifindexes.tolist() == [0, 1, 2], (
        "numbers of interfaces go on from section to section"
    )
    assert reader.interfaces == [Interface(1, 100)] * 3


def test_interfaces_have_names_filters_and_link_types() -> None:
    first = [
        (IF_NAME, b"eth0"),
        (IF_DESCRIPTION, "Büro".encode()),
        (IF_FILTER, b"\0udp port 53"),
    ]
    content = SECTION + recordings.interface(snap_length=96, pairs=first)
    content += recordings.enhanced(Packet(b"a"))
    # Not UTF-8, and a filter that is a program.
    second = [(IF_NAME, b"\xff"), (IF_FILTER, b"\x01\0\0\0")]
    content += recordings.interface(link_type=101, pairs=second)
    content += recordings.enhanced(Packet(b"b"), number=1)
    reader = reader_of(content)
    assert reader.link_type == 1
    assert packets_of(reader) == [b"a", b"b"]
    assert reader.interfaces == [
        Interface(1, 96, "eth0", "Büro", "udp port 53"),
        Interface(101, 0, "\ufffd"),
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_statistics_are_those_of_the_last_block(order: Order) -> None:
    content = recordings.section(order) + recordings.interface(order) * 2
    for number in (5, 2**40):
        count = struct.pack(f"{order}Q", number)
        pairs = [(ISB_IFRECV, count), (ISB_IFDROP, count)]
        content += recordings.statistics(order, 1, pairs)
    content += recordings.statistics(order)
    reader = reader_of(content)
    assert packets_of(reader) == []
    first, second = reader.interfaces
    assert (first.received, first.dropped) == (None, None)
    assert (second.received, second.dropped) == (2**40, 2**40)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, UNKNOWN_TYPE),
        (1, PACKET_HOST),
        (1 | 1 << 2, PACKET_HOST),
        (1 | 2 << 2, PACKET_MULTICAST),
        (1 | 3 << 2, PACKET_BROADCAST),
        (1 | 4 << 2, PACKET_OTHERHOST),
        (2, PACKET_OUTGOING),
        (2 | 3 << 2, PACKET_OUTGOING),
        (0x12340000 | 3 << 2, UNKNOWN_TYPE),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_directions_become_packet_types(
    order: Order, flags: int, expected: int
) -> None:
    lost = struct.pack(f"{order}Q", 2**40)
    pairs = [
        (1, b"a comment"),
        (EPB_FLAGS, struct.pack(f"{order}I", flags)),
        (EPB_DROPCOUNT, lost),
    ]
    content = recordings.section(order) + recordings.interface(order)
    content += recordings.enhanced(Packet(bytes(3)), order, pairs=pairs)
    reader = reader_of(content)
    assert column_of(reader, "packet_types") == [expected]
    assert reader.drops == 2**40


@pytest.mark.parametrize(
    ("resolution", "units", "expected"),
    [
        (0, 7, 7 * 10**9),
        (3, 1234, 1_234_000_000),
        (6, 2**50, 2**50 * 1000),
        (9, 2**62 + 1, 2**62 + 1),
        (12, 2**63 + 999, (2**63 + 999) // 1000),
        (19, 2**64 - 1, (2**64 - 1) // 10**10),
        (20, 2**64 - 1, (2**64 - 1) // 10**11),
        (28, 2**64 - 1, (2**64 - 1) // 10**19),
        (29, 2**64 - 1, 0),
        (127, 2**64 - 1, 0),
        (0x80, 7, 7 * 10**9),
        (0x80 | 10, 1025, 1_000_976_562),
        (0x80 | 31, 2**63 - 1, (2**63 - 1) * 10**9 >> 31),
        (0x80 | 32, 2**64 - 1, (2**64 - 1) * 10**9 >> 32),
        (0x80 | 33, 2**64 - 1, (2**64 - 1) * 10**9 >> 33),
        (0x80 | 63, 2**64 - 1, (2**64 - 1) * 10**9 >> 63),
        (0x80 | 64, 2**64 - 1, (2**64 - 1) * 10**9 >> 64),
        (0x80 | 95, 2**64 - 1, 0),
        (0x80 | 127, 2**64 - 1, 0),
        # Too late for 64 bits.
        (0, 2**64 - 1, 2**63 - 1),
        (9, 2**63, 2**63 - 1),
        (0x80, 2**60, 2**63 - 1),
    ],
)
def test_times_of_any_resolution(
    resolution: int, units: int, expected: int
) -> None:
    assert stamped(units, [(IF_TSRESOL, bytes([resolution]))]) == expected


@pytest.mark.parametrize(
    ("offset", "units", "expected"),
    [
        (SECOND, 5, SECOND * 10**9 + 5000),
        (-1, 1_000_001, 1000),
        (-1, 1, -(10**9) + 1000),
        (2**62, 0, 2**63 - 1),
        (-(2**63), 5, -(2**63)),
    ],
)
def test_offsets_of_times(offset: int, units: int, expected: int) -> None:
    pairs = [(IF_TSOFFSET, struct.pack("<q", offset))]
    assert stamped(units, pairs) == expected


def test_blocks_and_options_of_other_kinds_are_passed_over() -> None:
    comment = [(1, b"odd"), (2988, b"custom")]
    content = recordings.section(pairs=comment)
    content += recordings.block(0x80000BAD, b"x" * 4000)
    content += recordings.interface(pairs=comment)
    content += recordings.block(4, b"")
    content += recordings.enhanced(Packet(b"a"), pairs=comment)
    content += recordings.block(10, bytes(8)) * 2000
    content += recordings.enhanced(Packet(b"b"))
    assert packets_of(reader_of(content)) == [b"a", b"b"]


def test_options_may_end_without_their_end() -> None:
    fields = struct.pack("<HHI", 1, 0, 0)
    body = fields + recordings.options([(IF_NAME, b"eth0")], end=False)
    reader = reader_of(SECTION + recordings.block(1, body))
    assert [item.name for item in reader.interfaces] == ["eth0"]


# Batches


def test_batches_have_at_most_the_capacity() -> None:
    content = recordings.pcap(recordings.numbered(1000))
    sizes = [len(batch) for batch in Reader(io.BytesIO(content), capacity=300)]
    assert sizes == [300, 300, 300, 100]


@pytest.mark.parametrize("capacity", [0, -1, 1025])
def test_capacity_has_limits(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be 1 to 1024"):
        Reader(io.BytesIO(), capacity=capacity)


def test_counts_are_those_of_the_packets_found() -> None:
    packets = [Packet(bytes(60)), Packet(bytes(40), wire_length=1500)]
    reader = reader_of(recordings.pcap(packets))
    list(reader)
    assert (reader.packets, reader.bytes, reader.wire_bytes) == (2, 100, 1560)


def test_batches_stay_valid_when_the_reader_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    packets = recordings.numbered(2500)
    path.write_bytes(recordings.pcap(packets))
    with Reader(path) as reader:
        batches = list(reader)
    assert [packet for batch in batches for packet in batch.tolist()] == [
        packet.data for packet in packets
    ]
    assert next(reader, None) is None, "a closed reader has no more batches"


# Where the bytes come from


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.pcapng"
    content = SECTION + ETHERNET
    for packet in recordings.numbered(5000, 300):
        content += recordings.enhanced(packet)
    path.write_bytes(content)
    return path


EXPECTED: Final = [packet.data for packet in recordings.numbered(5000, 300)]


@pytest.mark.parametrize("kind", ["path", "str", "descriptor"])
def test_a_file_is_mapped(path: Path, kind: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    files = {"path": path, "str": str(path), "descriptor": descriptor}
    try:
        with Reader(files[kind]) as reader:  # type: ignore[arg-type]
            assert reader.is_mapped
            assert reader.size == path.stat().st_size
            assert packets_of(reader) == EXPECTED
            assert reader.offset == reader.size
            assert reader.cut is None
    finally:
        os.close(descriptor)  # it is still open


def test_rewinding_gives_the_same_again(path: Path) -> None:
    with Reader(path) as reader:
        for _ in range(3):
            assert packets_of(reader) == EXPECTED
            assert reader.packets == len(EXPECTED)
            assert len(reader.interfaces) == 1
            assert list(reader) == [], "there is nothing behind the end"
            reader.rewind()
        next(reader)
        reader.rewind()
        assert packets_of(reader) == EXPECTED


def test_a_descriptor_is_read_from_its_position_on(path: Path) -> None:
    with path.open("r+b") as file:
        content = file.read()
        file.seek(0)
        file.write(b"before it" + content)
        file.flush()
        os.lseek(file.fileno(), 9, os.SEEK_SET)
        with Reader(file.fileno()) as reader:
            assert packets_of(reader) == EXPECTED
            reader.rewind()
            assert packets_of(reader) == EXPECTED


@pytest.fixture
def pipe(path: Path) -> Iterator[int]:
    """A pipe that the recording comes out of, byte by byte at first."""
    end, start = os.pipe()
    content = path.read_bytes()

    def write() -> None:
        with os.fdopen(start, "wb", buffering=0) as file:
            for at in range(400):
                file.write(content[at : at + 1])
            left = memoryview(content)[400:]
            while left:
                left = left[file.write(left[:70_001]) :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield end
    finally:
        os.close(end)
        thread.join()


def test_a_pipe_is_read_in_pieces(pipe: int) -> None:
    with Reader(pipe) as reader:
        assert not reader.is_mapped
        assert packets_of(reader) == EXPECTED
        with pytest.raises(io.UnsupportedOperation):
            reader.rewind()


def test_a_pipe_that_does_not_block_is_waited_for(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with Reader(pipe) as reader:
        assert packets_of(reader) == EXPECTED


def test_a_packet_of_a_pipe_does_not_wait_for_the_next() -> None:
    end, start = os.pipe()
    packets = recordings.numbered(3)
    with os.fdopen(end, "rb") as near, os.fdopen(start, "wb", 0) as far:
        far.write(recordings.pcap_header())
        with Reader(near.fileno()) as reader:
            for packet in packets:
                far.write(recordings.pcap_record(SECOND, 0, packet))
                assert next(reader).tolist() == [packet.data]


def test_a_compressed_file(path: Path, tmp_path: Path) -> None:
    compressed = tmp_path / "a.pcapng.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    with gzip.open(compressed) as file, Reader(file) as reader:
        assert packets_of(reader) == EXPECTED


def test_standard_input(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = os.dup(0)
    descriptor = os.open(path, os.O_RDONLY)
    os.dup2(descriptor, 0)
    os.close(descriptor)
    try:
        with Reader("-") as reader:
            assert packets_of(reader) == EXPECTED
        os.fstat(0)  # it is still open
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_long_blocks_come_in_pieces() -> None:
    long = Packet(bytes(5_000_000))
    content = SECTION + ETHERNET
    content += recordings.block(0xBAD, bytes(9_000_000))
    content += recordings.enhanced(long)
    content += recordings.enhanced(Packet(b"short"))
    assert packets_of(reader_of(content)) == [long.data, b"short"]
