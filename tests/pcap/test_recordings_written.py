"""Writer: what was written is read again, to the byte and the nanosecond."""

import io
import os
import struct
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from support import recordings
from support.child import environment, tool
from support.datagrams import UDP, Datagram, data, super_frame
from support.frames import PACKET, frame, numbered_frames, until_stamped
from support.recordings import Packet
from support.scapy_recordings import by_scapy

from rawmmsg import (
    PACKET_BROADCAST,
    PACKET_HOST,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    PACKET_OUTGOING,
    SUPER_FRAME,
    PacketBatch,
    RawSocket,
)
from rawmmsg.pcap import (
    UNKNOWN_TYPE,
    Interface,
    Reader,
    Writer,
    link_type_of,
)
from rawmmsg.testing import Veth

Format = Literal["pcap", "pcapng"]
FORMATS: Final[tuple[Format, ...]] = ("pcap", "pcapng")
NOW: Final = 1_700_000_000_123_456_789


def batch_of(packets: list[bytes]) -> PacketBatch:
    """A batch of slices, without any other column."""
    offsets = [sum(map(len, packets[:i])) for i in range(len(packets))]
    return PacketBatch(
        buffer=b"".join(packets),
        offsets=offsets,
        lengths=[len(packet) for packet in packets],
    )


def read(path: Path) -> list[tuple[bytes, int, int]]:
    """The packets of a file, their times and lengths on the wire."""
    with Reader(path) as reader:
        return [
            (packet, batch.timestamps_ns[i], batch.wire_lengths[i])
            for batch in reader
            for i, packet in enumerate(batch.tolist())
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "written"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [0, 1, 60, 255, 256, 257, 1514, 65_000])
def test_packets_of_any_size(path: Path, format: Format, size: int) -> None:
    packets = [bytes([n % 256] * (size + n % 4)) for n in range(600)]
    times = array("q", [NOW + n for n in range(600)])
    batch = batch_of(packets)
    with Writer(path, format=format) as writer:
        assert writer.write(batch, 0, 599, times=times) > 599 * size
        writer.write(batch, 599, times=times)
        assert writer.packets == 600
    assert writer.size == path.stat().st_size
    wanted = [(p, t, len(p)) for p, t in zip(packets, times, strict=True)]
    assert read(path) == wanted


@pytest.mark.parametrize("format", FORMATS)
def test_scapy_reads_the_same(path: Path, format: Format) -> None:
    packets = numbered_frames(50)
    with Writer(path, format=format) as writer:
        times = [NOW + n for n in range(50)]
        writer.write(batch_of(packets), times=times)
    assert [(p, t) for p, t, _, _ in by_scapy(path)] == list(
        zip(packets, times, strict=True)
    )


def test_the_bytes_are_those_of_the_format(path: Path) -> None:
    order: recordings.Order = "<" if sys.byteorder == "little" else ">"
    packets = [bytes(61), bytes(300)]
    with Writer(path) as writer:
        before = writer.size
        writer.write(batch_of(packets), times=NOW, dropped=3)
        after = writer.size
    lost = [(recordings.EPB_DROPCOUNT, struct.pack("=Q", 3))]
    assert path.read_bytes()[before:after] == recordings.enhanced(
        Packet(packets[0], NOW), order, pairs=lost
    ) + recordings.enhanced(Packet(packets[1], NOW), order)


# Columns


def test_a_received_batch_needs_no_arguments(veth: Veth, path: Path) -> None:
    batch = PacketBatch()
    with (
        RawSocket(veth.b, timestamps="software", addresses=True) as receiver,
        RawSocket(veth.a, protocol=0) as sender,
        Writer(path, [veth.b]) as writer,
    ):
        until_stamped(sender, receiver, PACKET)
        sender.send(frame(bytes(100)))
        receiver.recvmmsg_into(batch)
        writer.write(batch)
        expected = (bytes(batch[0]), batch.timestamps_ns[0], 114)
    assert read(path) == [expected]
    with Reader(path) as reader:
        (again,) = reader
        assert again.packet_types.tolist() == [PACKET_BROADCAST]
        assert reader.interfaces[0].name == veth.b


@pytest.mark.parametrize(
    "kind",
    [
        PACKET_HOST,
        PACKET_BROADCAST,
        PACKET_MULTICAST,
        PACKET_OTHERHOST,
        PACKET_OUTGOING,
        UNKNOWN_TYPE,
    ],
)
def test_directions_are_kept(path: Path, kind: int) -> None:
    flags: dict[int, int] = {
        PACKET_HOST: 1 | 1 << 2,
        PACKET_MULTICAST: 1 | 2 << 2,
        PACKET_BROADCAST: 1 | 3 << 2,
        PACKET_OTHERHOST: 1 | 4 << 2,
        PACKET_OUTGOING: 2,
    }
    value = struct.pack("<I", flags.get(kind, 0))
    pairs = [(recordings.EPB_FLAGS, value)]
    source = recordings.section() + recordings.interface()
    source += recordings.enhanced(Packet(PACKET, 5, 1000), pairs=pairs)
    with Reader(io.BytesIO(source)) as reader, Writer(path) as writer:
        for batch in reader:
            writer.write(batch)
    with Reader(path) as reader:
        (batch,) = reader
    assert batch.packet_types.tolist() == [kind]
    assert batch.wire_lengths.tolist() == [1000]


def test_several_interfaces(path: Path) -> None:
    packets = numbered_frames(6)
    with Writer(path, ["eth0", Interface(1, 262144, "eth1")]) as writer:
        assert writer.add_interface("eth2") == 2
        numbers = array("i", [0, 1, 2, 0, 1, 2])
        writer.write(batch_of(packets), 1, interface=numbers, times=NOW)
        writer.write(batch_of(packets), 0, 1, interface=2, times=NOW)
    with Reader(path) as reader:
        (batch,) = reader
        assert batch.ifindexes.tolist() == [1, 2, 0, 1, 2, 2]
        assert [item.name for item in reader.interfaces] == [
            *("eth0", "eth1", "eth2")
        ]


def test_interfaces_describe_themselves(path: Path) -> None:
    described = Interface(101, 1000, "tun0", "the tunnel", "udp port 53")
    with Writer(path, [described], link_type=101, snap_length=1000):
        pass
    with Reader(path) as reader:
        assert list(reader) == []
        (found,) = reader.interfaces
    assert (found.received, found.dropped) == (0, 0)
    assert found == Interface(
        101, 1000, "tun0", "the tunnel", "udp port 53", 0, 0
    )


def test_statistics_follow_from_what_was_written(path: Path) -> None:
    packets = batch_of(numbered_frames(10))
    with Writer(path, ["a", "b", "c"]) as writer:
        writer.write(packets, times=NOW, dropped=5)
        writer.write(packets, interface=[1] * 10, times=NOW, dropped=1)
        writer.write(packets, 0, 0, times=NOW)
        writer.set_statistics(2, received=100, dropped=7)
    with Reader(path) as reader:
        list(reader)
        found = [(item.received, item.dropped) for item in reader.interfaces]
        assert found == [(15, 5), (11, 1), (100, 7)]
        assert reader.drops == 6


def test_segments_have_the_time_of_their_super_frame(
    veth: Veth, path: Path
) -> None:
    batch, target = PacketBatch(4, SUPER_FRAME), PacketBatch(64)
    sent = super_frame(Datagram(protocol=UDP, payload=data(3000)), 1000)
    with (
        RawSocket(
            veth.b, timestamps="software", addresses=True, vnet_hdr=True
        ) as receiver,
        RawSocket(veth.a, protocol=0) as plain,
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
    ):
        until_stamped(plain, receiver, PACKET)
        sender.sendmmsg(sent)
        receiver.recvmmsg_into(batch)
    assert batch.segment_into(target) == (1, 0)
    assert len(target) == 3
    assert set(target.timestamps_ns[:3]) == {batch.timestamps_ns[0]}
    assert set(target.ifindexes[:3]) == {batch.ifindexes[0]}
    assert set(target.packet_types[:3]) == {batch.packet_types[0]}
    assert target.address(2) == batch.address(0)
    with Writer(path) as writer:
        writer.write(target)
    assert [stamp for _, stamp, _ in read(path)] == [
        batch.timestamps_ns[0]
    ] * 3


# Lengths


def test_the_snap_length_cuts(path: Path) -> None:
    with Writer(path, snap_length=50) as writer:
        writer.write(batch_of([bytes(49), bytes(51), bytes(500)]), times=NOW)
    found = [(len(packet), wire) for packet, _, wire in read(path)]
    assert found == [(49, 49), (50, 51), (50, 500)]


def test_one_call_writes_a_batch(tmp_path: Path) -> None:
    script = """
from rawmmsg import PacketBatch
from rawmmsg.pcap import Writer
data = bytes(1514 * 600)
starts = range(0, 511 * 1514, 1514)
long = PacketBatch(buffer=data, offsets=starts, lengths=1514)
short = PacketBatch(buffer=data, offsets=range(1024), lengths=64)
with Writer("-") as writer:
    writer.write(long, times=1)
    writer.write(short, times=1)
"""
    trace = tmp_path / "trace"
    strace = (tool("strace"), "-f", "-o", trace, "-e", "trace=writev")
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(
            [*strace, sys.executable, "-c", script],
            check=True,
            stdout=out,
            env=environment(),
        )
    calls = trace.read_text().count("writev(1")
    assert calls == 2, trace.read_text()
    assert len(read(tmp_path / "out")) == 1535


# Arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda w, b: w.write(b),
            ValueError,
            "no time stamps: .*timestamps='software'.*times=",
        ),
        (
            lambda w, b: w.write(b, times=[NOW] * 2),
            ValueError,
            "times has 2 items for 3 packets",
        ),
        (
            lambda w, b: w.write(b, times=NOW, interface=[0]),
            ValueError,
            "interface has 1 items for 3 packets",
        ),
        (
            lambda w, b: w.write(b, times=NOW, interface=1),
            ValueError,
            "packet 0: the recording has no interface 1",
        ),
        (
            lambda w, b: w.write(b, times=NOW, interface=-1),
            ValueError,
            "packet 0: the recording has no interface -1",
        ),
        (
            lambda w, b: w.write(b, times=-1),
            ValueError,
            "packet 0: a time must not be negative: -1",
        ),
        (
            lambda w, b: w.write(b, 2, 1, times=NOW),
            ValueError,
            "start and stop must be in order, and 0 to 3, not 2 and 1",
        ),
        (
            lambda w, b: w.write(b, 0, 4, times=NOW),
            ValueError,
            "start and stop must be in order",
        ),
        (
            lambda w, b: w.write(b, times=NOW, dropped=-1),
            ValueError,
            "dropped must not be negative: -1",
        ),
        (
            lambda w, b: w.add_interface(Interface(101)),
            ValueError,
            "all interfaces of a file must have the same, 1 and 262144",
        ),
        (lambda w, b: w.write([PACKET], times=NOW), TypeError, "PacketBatch"),
        (lambda w, b: w.write(b, times="now"), TypeError, "str"),
        (lambda w, b: w.add_interface("x" * 65_536), ValueError, "too long"),
    ],
)
def test_arguments_that_do_not_fit_write_nothing(
    path: Path,
    call: Callable[[Writer, PacketBatch], object],
    error: type[Exception],
    message: str,
) -> None:
    with Writer(path) as writer:
        size = writer.size
        with pytest.raises(error, match=message):
            call(writer, batch_of([PACKET] * 3))
        assert path.stat().st_size == size
        writer.write(batch_of([PACKET]), times=NOW)
    assert read(path) == [(PACKET, NOW, 60)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "erf"}, "format must be pcapng or pcap, not 'erf'"),
        ({"snap_length": 0}, "snap_length must be 1 to"),
        ({"format": "pcap", "interfaces": ["a", "b"]}, "one interface, not 2"),
        ({"interfaces": [Interface(1, 96)]}, "must have the same"),
    ],
)
def test_a_file_that_cannot_be_is_not_made(
    path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Writer(path, **options)
    assert not path.exists()


def test_pcap_has_one_interface_and_32_bits_of_seconds(path: Path) -> None:
    with Writer(path, format="pcap") as writer:
        with pytest.raises(ValueError, match="use pcapng"):
            writer.add_interface("eth1")
        with pytest.raises(ValueError, match="no room for the time"):
            writer.write(batch_of([PACKET]), times=2**32 * 10**9)
        writer.write(batch_of([PACKET]), times=2**32 * 10**9 - 1)
    assert read(path) == [(PACKET, 2**32 * 10**9 - 1, 60)]


def test_a_closed_writer_says_so(path: Path) -> None:
    writer = Writer(path)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="the recording is closed"):
        writer.write(batch_of([PACKET]), times=NOW)


def test_a_file_of_the_caller_stays_open(path: Path) -> None:
    with path.open("wb") as file:
        with Writer(file) as writer:
            assert writer.fileno() == file.fileno()
        assert not file.closed
        with Writer(file.fileno(), format="pcapng") as writer:
            writer.write(batch_of([PACKET]), times=NOW)
        os.fstat(file.fileno())
    assert read(path) == [(PACKET, NOW, 60)], "two sections are one recording"


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    end, start = os.pipe()
    os.set_blocking(start, False)
    got: list[bytes] = []

    def collect() -> None:
        with os.fdopen(end, "rb") as file, Reader(file) as reader:
            got.extend(packet for batch in reader for packet in batch.tolist())

    thread = threading.Thread(target=collect)
    thread.start()
    packets = [bytes(5000)] * 500
    try:
        with os.fdopen(start, "wb", 0) as file, Writer(file) as writer:
            writer.write(batch_of(packets), times=NOW)
            # The pipe is full, so this waits as well.
            assert writer.add_interface("x" * 60_000) == 1
    finally:
        thread.join()
    assert got == packets


@pytest.mark.parametrize(
    ("hardware_type", "link_type"),
    [(1, 1), (772, 1), (65534, 101), (801, 105), (803, 127)],
)
def test_link_types(hardware_type: int, link_type: int) -> None:
    assert link_type_of(hardware_type) == link_type


def test_hardware_without_a_link_type_is_named() -> None:
    with pytest.raises(ValueError, match="hardware type 280"):
        link_type_of(280)
