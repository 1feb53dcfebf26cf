"""When each packet of a recording is due, and where its bytes are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.frames import numbered, numbered_frames
from support.recordings import (
    Packet,
    enhanced,
    interface,
    pcap_header,
    pcap_record,
    section,
    simple,
)
from support.replaying import a_microsecond_apart, write, write_pcapng

from rawmmsg import PacketBatch
from rawmmsg.pacing.loads import Load
from rawmmsg.pacing.pace import choose_pace
from rawmmsg.pcap import Reader
from rawmmsg.replay.edits import Editor, Edits
from rawmmsg.replay.packets import Packets, SplitLoad, time_since_first
from rawmmsg.replay.passes import Limit, in_passes
from rawmmsg.replay.sides import NEITHER, ByRecording


def packets_of(
    reader: Reader, editor: Editor | None = None, **pace: Any
) -> Packets:
    """At the times of the recording, unless another pace is given."""
    pace = {"pps": None, "mbps": None, "inter": None, **pace}
    if not any(pace.values()):
        pace["realtime"] = 1
    chosen = choose_pace(**pace, time_of=time_since_first(reader))
    return Packets(reader, chosen, [editor])


def positions_of(file: Path, **pace: Any) -> list[float]:
    """The positions of all packets; that of a load begins where the load
    before ends."""
    found: list[float] = []
    with Reader(file) as reader:
        for load in packets_of(reader, **pace).loads():
            found += load.positions[:-1]
    return found


def test_packets_are_due_at_the_times_of_the_recording(
    tmp_path: Path,
) -> None:
    times = [7, 8, 1000, 1000, 999_999]
    packets = [Packet(numbered(i), time) for i, time in enumerate(times)]
    found = positions_of(write(tmp_path / "trace.pcap", packets))
    assert found == pytest.approx([(time - 7) * 1e-6 for time in times])


def test_times_are_exact_to_the_nanosecond_in_long_recordings(
    tmp_path: Path,
) -> None:
    day = 86_400 * 10**9
    blocks = [section(), interface(pairs=[(9, b"\x09")])]
    times = [10**18, 10**18 + 1, 10**18 + day, 10**18 + day + 250]
    blocks += [enhanced(Packet(numbered(1), time)) for time in times]
    file = tmp_path / "trace.pcapng"
    file.write_bytes(b"".join(blocks))
    wanted = [0, 1e-9, 86_400, 86_400 + 250e-9]
    assert positions_of(file) == pytest.approx(wanted, rel=0, abs=1e-11)


def test_times_go_on_from_batch_to_batch(tmp_path: Path) -> None:
    packets = a_microsecond_apart(numbered_frames(2500))
    file = write(tmp_path / "trace.pcap", packets)
    found = positions_of(file)
    assert found == pytest.approx([i * 1e-6 for i in range(2500)])


def test_a_packet_with_an_earlier_time_is_due_with_the_one_before(
    tmp_path: Path,
) -> None:
    times = [100, 300, 200, 50, 310]
    packets = [Packet(numbered(i), time) for i, time in enumerate(times)]
    found = positions_of(write(tmp_path / "trace.pcap", packets))
    assert found == pytest.approx([0, 2e-4, 2e-4, 2e-4, 2.1e-4])


def test_a_packet_without_a_time_is_due_with_the_one_before(
    tmp_path: Path,
) -> None:
    blocks = [section(), interface(), simple(Packet(numbered(0)))]
    for time in (5_000_000, 5_000_400):
        blocks.append(enhanced(Packet(numbered(1), time)))
        blocks.append(simple(Packet(numbered(2))))
    file = tmp_path / "trace.pcapng"
    file.write_bytes(b"".join(blocks))
    assert positions_of(file) == pytest.approx([0, 0, 0, 4e-4, 4e-4])


def test_a_pcap_file_may_begin_at_time_0(tmp_path: Path) -> None:
    blocks = [pcap_header()]
    for seconds in (0, 1, 3):
        blocks.append(pcap_record(seconds, 0, Packet(numbered(1))))
    file = tmp_path / "trace.pcap"
    file.write_bytes(b"".join(blocks))
    assert positions_of(file) == pytest.approx([0, 1, 3])


def test_skipped_packets_leave_the_times_of_the_others(tmp_path: Path) -> None:
    packets = [Packet(numbered(i), 10 * i) for i in range(6)]
    for i in (0, 3):
        packets[i] = Packet(packets[i].data[:20], 10 * i, 64)
    found = positions_of(write(tmp_path / "trace.pcap", packets))
    assert found == pytest.approx([1e-5, 2e-5, 4e-5, 5e-5])


@pytest.mark.parametrize(
    ("pace", "step"), [({"pps": 10}, 1), ({"mbps": 10}, 8 * 64)]
)
def test_rates_do_not_depend_on_the_times(
    tmp_path: Path, pace: dict[str, int], step: int
) -> None:
    packets = [Packet(numbered(i), 100 * i) for i in range(1500)]
    file = write(tmp_path / "trace.pcap", packets)
    assert positions_of(file, **pace) == [i * step for i in range(1500)]


def test_the_packets_of_a_load_are_slices_of_the_file(tmp_path: Path) -> None:
    """Not copies: what is written to the file later is sent."""
    file = write(tmp_path / "trace.pcap", numbered_frames(3))
    with Reader(file) as reader:
        (load,) = packets_of(reader).loads()
        assert isinstance(load, Load)
        with file.open("r+b") as writer:
            writer.seek(24 + 16)
            writer.write(b"\x77" * 6)
        assert load.batch.tolist()[0][:6] == b"\x77" * 6


def test_chosen_packets_are_slices_of_the_file(tmp_path: Path) -> None:
    packets = [Packet(one) for one in numbered_frames(3)]
    packets[0] = Packet(packets[0].data[:20], 0, 64)
    file = write(tmp_path / "trace.pcap", packets)
    with Reader(file) as reader:
        (load,) = packets_of(reader).loads()
        assert isinstance(load, Load)
        assert load.frames == len(load.batch) == 2
        assert load.size == 128
        with file.open("r+b") as writer:
            writer.seek(24 + 16 + 20 + 16)
            writer.write(b"\x77" * 6)
        assert load.batch.tolist()[0][:6] == b"\x77" * 6


def test_kept_copies_are_as_large_as_their_packets(tmp_path: Path) -> None:
    """A short packet does not need as much memory as a long one."""
    frames = [numbered(0, 9000), *numbered_frames(1000, 60)]
    file = write(tmp_path / "trace.pcap", frames)
    editor = Editor(Edits(destination=bytes(6)), keep=True)
    with Reader(file) as reader:
        (load,) = packets_of(reader, editor).loads()
        assert isinstance(load, Load)
        assert load.batch.tolist() == [bytes(6) + one[6:] for one in frames]
        assert load.batch.frame_size is None


def test_kept_copies_stay_and_others_are_overwritten(tmp_path: Path) -> None:
    frames = numbered_frames(1100)
    file = write(tmp_path / "trace.pcap", frames)
    for keep in (True, False):
        editor = Editor(Edits(source=bytes(6), vlan=3), keep=keep)
        with Reader(file) as reader:
            first, second = packets_of(reader, editor).loads()
        assert isinstance(first, Load)
        assert isinstance(second, Load)
        assert (first.batch is second.batch) is not keep
        assert second.batch[0][8:].tobytes()[-4:] == frames[1024][-4:]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("loop", [1, 2, 3])
def test_passes_have_all_packets_each_time(
    tmp_path: Path, keep: bool, loop: int
) -> None:
    frames = numbered_frames(1500)
    file = write(tmp_path / "trace.pcap", frames)
    found: list[bytes] = []
    with Reader(file) as reader:
        for loads in in_passes(packets_of(reader), loop, keep=keep):
            for load in loads:
                assert isinstance(load, Load)
                found += load.batch.tolist()
    assert found == frames * loop


def test_skipped_packets_are_counted_in_the_first_pass_only(
    tmp_path: Path,
) -> None:
    packets = [Packet(one) for one in numbered_frames(5)]
    packets[2] = Packet(packets[2].data[:20], 0, 64)
    file = write(tmp_path / "trace.pcap", packets)
    for keep in (True, False):
        with Reader(file) as reader:
            source = packets_of(reader)
            for loads in in_passes(source, 3, keep=keep):
                list(loads)
            assert source.skipped.cut == 1


@pytest.mark.parametrize("limit", [1, 1023, 1024, 1025, 1500, 1501, 2999])
def test_limit_shortens_a_load(tmp_path: Path, limit: int) -> None:
    frames = numbered_frames(1500)
    file = write(tmp_path / "trace.pcap", frames)
    found: list[bytes] = []
    with Reader(file) as reader:
        passes = in_passes(packets_of(reader), 2, keep=False)
        for loads in Limit(limit).apply(passes):
            for load in loads:
                assert isinstance(load, Load)
                assert len(load.batch) == load.frames
                assert load.size == 64 * load.frames
                found += load.batch.tolist()
    assert found == (frames * 2)[:limit]


def splitter_of(
    write_file: Callable[[Path], Path], tmp_path: Path
) -> tuple[ByRecording, PacketBatch]:
    reader = Reader(write_file(tmp_path / "trace.pcapng"))
    return ByRecording(reader), next(reader)


def test_interfaces_without_names_are_different(tmp_path: Path) -> None:
    packets = [(i, Packet(numbered(i))) for i in (2, 0, 1, 0)]
    splitter, batch = splitter_of(
        lambda file: write_pcapng(file, packets, ("", "", "")), tmp_path
    )
    assert splitter.sides(batch) == bytes([NEITHER, 0, 1, 0])


def test_both_parts_have_the_order_of_all(tmp_path: Path) -> None:
    packets = [
        (i % 2, one)
        for i, one in enumerate(a_microsecond_apart(numbered_frames(4)))
    ]
    file = write_pcapng(tmp_path / "two.pcapng", packets, ("a", "b"))
    pace = choose_pace(pps=10, mbps=None, inter=None)
    with Reader(file) as reader:
        source = Packets(reader, pace, [None, None], ByRecording(reader))
        (load,) = source.loads()
        assert isinstance(load, SplitLoad)
        assert load.sides == bytes([0, 1, 0, 1])
        assert list(load.positions) == [0, 1, 2, 3, 4]
        for side, part in enumerate(load.parts):
            assert part is not None
            wanted = [packets[i][1].data for i in (side, side + 2)]
            assert part.batch.tolist() == wanted
