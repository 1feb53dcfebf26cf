"""What `rawmmsg record` does about frames that are lost, or that are
super-frames."""

from pathlib import Path

import pytest
from support.bridging import stopped
from support.datagrams import TCP, UDP, Datagram, data, send_open, super_frame
from support.frames import numbered, numbered_frames, send
from support.recorder import frames, read, recording

from rawmmsg import RawSocket
from rawmmsg.pcap import Reader
from rawmmsg.testing import Veth

# Super-frames are of IPv4, and the kernel sends none of its own.
IPV4 = "ip and (tcp or udp)"


def test_frames_that_the_kernel_drops_are_counted(
    pair: Veth, tmp_path: Path
) -> None:
    file, count = tmp_path / "trace.pcapng", 4000
    # In a queue of 64 KiB, not all of them have room.
    with recording(pair.b, file, "-B", "32") as command:
        with stopped(command):
            send(pair.a, *numbered_frames(count))
        summary = command.stop()
    found = frames(file)
    assert found == numbered_frames(count)[: len(found)]
    assert 0 < len(found) == summary.frames < count
    assert summary.dropped == count - summary.frames
    with Reader(file) as reader:
        list(reader)
        assert reader.interfaces[0].dropped == summary.dropped
        assert reader.interfaces[0].received == count


def test_frames_say_how_many_were_dropped_before_them(
    pair: Veth, tmp_path: Path
) -> None:
    file, count = tmp_path / "trace.pcapng", 4000
    with recording(pair.b, file, "-B", "256") as command:
        with stopped(command):
            send(pair.a, *numbered_frames(count))
        send(pair.a, *numbered_frames(10))
        summary = command.stop()
    with Reader(file) as reader:
        packets = sum(map(len, reader))
        assert reader.drops == summary.dropped > 0
    assert packets + summary.dropped == count + 10


def test_super_frames_are_recorded_whole(pair: Veth, tmp_path: Path) -> None:
    file, large = tmp_path / "trace.pcapng", Datagram(data(30_000))
    with (
        recording(pair.b, file, expression=IPV4) as command,
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as sender,
    ):
        sender.sendmmsg(super_frame(large, 1000))
        command.stop()
    (found,) = read(file)
    assert found.data == large.build(whole=False)
    assert found.wire_length == len(found.data)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_super_frames_can_be_cut(
    pair: Veth, protocol: int, tmp_path: Path
) -> None:
    file = tmp_path / "trace.pcapng"
    large = Datagram(data(30_001), protocol=protocol)
    small = Datagram(data(100), protocol=protocol)
    with recording(pair.b, file, "--cut", expression=IPV4) as command:
        with RawSocket(pair.a, protocol=0, vnet_hdr=True) as sender:
            sender.sendmmsg(super_frame(large, 1000))
        send_open(pair.a, [small])
        summary = command.stop()
    segments = large.segments(1000)
    assert frames(file) == [*segments, small.build()]
    assert summary.frames == len(segments) + 1
    assert summary.gained == len(segments) - 1
    assert summary.whole == 0
    found = read(file)
    assert len({one.time for one in found[: len(segments)]}) == 1
    assert [one.wire_length for one in found] == [
        len(one.data) for one in found
    ]


def test_segments_are_cut_by_the_snap_length(
    pair: Veth, tmp_path: Path
) -> None:
    file, large = tmp_path / "trace.pcapng", Datagram(data(30_000))
    options = ("--cut", "-s", "60")
    with recording(pair.b, file, *options, expression=IPV4) as command:
        with RawSocket(pair.a, protocol=0, vnet_hdr=True) as sender:
            sender.sendmmsg(super_frame(large, 1000))
        command.stop()
    segments = large.segments(1000)
    found = read(file)
    assert [one.data for one in found] == [one[:60] for one in segments]
    assert [one.wire_length for one in found] == list(map(len, segments))


def test_number_of_frames_counts_segments(pair: Veth, tmp_path: Path) -> None:
    file, large = tmp_path / "trace.pcapng", Datagram(data(30_000))
    options = ("--cut", "-c", "7")
    with recording(pair.b, file, *options, expression=IPV4) as command:
        with RawSocket(pair.a, protocol=0, vnet_hdr=True) as sender:
            sender.sendmmsg(super_frame(large, 1000))
        assert command.outcome().code == 0
    assert frames(file) == large.segments(1000)[:7]


def test_frames_that_need_no_cutting_stay_the_same(
    pair: Veth, tmp_path: Path
) -> None:
    file, sent = tmp_path / "trace.pcapng", [numbered(i) for i in range(200)]
    with recording(pair.b, file, "--cut") as command:
        send(pair.a, *sent)
        summary = command.stop()
    assert frames(file) == sent
    assert summary.gained == 0
