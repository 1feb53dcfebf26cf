"""`rawmmsg record` writes what an interface receives and sends."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import WAIT
from support.bridging import stopped
from support.calls import eventually
from support.child import environment
from support.frames import (
    OTHER_EXPERIMENTAL,
    frame,
    numbered,
    numbered_frames,
    send,
)
from support.linux import ip, other_namespace
from support.recorder import (
    OURS,
    Recording,
    frames,
    read,
    recording,
)

from rawmmsg import RawSocket
from rawmmsg.constants import PacketType
from rawmmsg.pcap import Reader
from rawmmsg.testing import Veth


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rawmmsg", "record", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def test_every_frame_is_in_the_file_with_the_time_of_its_arrival(
    pair: Veth, tmp_path: Path
) -> None:
    file, sent = tmp_path / "trace.pcapng", numbered_frames(1000)
    with recording(pair.b, file) as command:
        begin = time.time_ns()
        send(pair.a, *sent)
        end = time.time_ns()
        summary = command.stop()
    found = read(file)
    assert [one.data for one in found] == sent
    times = [one.time for one in found]
    assert times == sorted(times)
    # Frames that the kernel had not stamped have the time of their receipt.
    assert begin <= times[0]
    assert times[-1] <= end + 10**9
    assert summary.name == f"{pair.b} > {file}"
    assert summary.frames == 1000
    assert summary.bytes == sum(map(len, sent))
    assert summary.dropped == 0
    assert summary.files == 1
    assert summary.size == file.stat().st_size


def test_file_names_the_interface_the_filter_and_the_directions(
    pair: Veth, tmp_path: Path
) -> None:
    file = tmp_path / "trace.pcapng"
    with recording(pair.b, file) as command:
        send(pair.a, numbered(1))
        send(pair.b, numbered(2))
        command.stop()
    with Reader(file) as reader:
        list(reader)
        (interface,) = reader.interfaces
    assert interface.name == pair.b
    assert interface.filter == OURS
    assert interface.received == 2
    assert interface.dropped == 0
    kinds = [one.packet_type for one in read(file)]
    assert kinds == [PacketType.BROADCAST, PacketType.OUTGOING]


def test_only_frames_that_match_the_filter_are_recorded(
    pair: Veth, tmp_path: Path
) -> None:
    file = tmp_path / "trace.pcapng"
    with recording(
        pair.b, file, expression=f"ether proto {OTHER_EXPERIMENTAL:#x}"
    ) as command:
        wanted = frame(b"wanted", ethertype=OTHER_EXPERIMENTAL)
        send(pair.a, numbered(1), wanted, numbered(2))
        command.stop()
    assert frames(file) == [wanted]


def test_it_ends_after_a_number_of_frames(pair: Veth, tmp_path: Path) -> None:
    file, sent = tmp_path / "trace.pcapng", numbered_frames(300)
    with recording(pair.b, file, "-c", "100") as command:
        send(pair.a, *sent)
        assert command.outcome().code == 0
        assert command.summary().frames == 100
    assert frames(file) == sent[:100]


def test_it_ends_after_a_time(pair: Veth, tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    begin = time.monotonic()
    with recording(pair.b, file, "--duration", "0.3") as command:
        assert command.outcome().code == 0
    assert time.monotonic() - begin >= 0.3
    assert frames(file) == []


def test_what_arrived_before_the_signal_is_recorded(
    pair: Veth, tmp_path: Path
) -> None:
    file, sent = tmp_path / "trace.pcapng", numbered_frames(2000)
    with recording(pair.b, file) as command:
        command.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, command.process.pid, os.WSTOPPED)
        send(pair.a, *sent)
        command.process.send_signal(signal.SIGTERM)
        command.process.send_signal(signal.SIGCONT)
        assert command.outcome().code == 0
    assert frames(file) == sent


def test_snap_length_cuts_frames_and_keeps_their_lengths(
    pair: Veth, tmp_path: Path
) -> None:
    file, sent = tmp_path / "trace.pcapng", [numbered(1, 64), numbered(2, 900)]
    with recording(pair.b, file, "-s", "96") as command:
        send(pair.a, *sent)
        command.stop()
    found = read(file)
    assert [one.data for one in found] == [packet[:96] for packet in sent]
    assert [one.wire_length for one in found] == [64, 900]
    with Reader(file) as reader:
        assert reader.interfaces[0].snap_length == 96


def test_tags_are_in_the_frames(pair: Veth, tmp_path: Path) -> None:
    """The kernel strips them."""
    file = tmp_path / "trace.pcapng"
    tagged = frame(bytes.fromhex("0005 88b5") + bytes(46), ethertype=0x8100)
    with recording(pair.b, file, expression="vlan 5") as command:
        send(pair.a, tagged)
        command.stop()
    (found,) = read(file)
    assert found.data == tagged
    assert found.wire_length == len(tagged)


def test_pcap_format(pair: Veth, tmp_path: Path) -> None:
    file, sent = tmp_path / "trace.pcap", numbered_frames(10)
    with recording(pair.b, file, "--format", "pcap") as command:
        send(pair.a, *sent)
        command.stop()
    with Reader(file) as reader:
        assert reader.format == "pcap"
    assert frames(file) == sent


def test_link_without_header(tun: tuple[int, str], tmp_path: Path) -> None:
    descriptor, interface = tun
    file = tmp_path / "trace.pcapng"
    packet = bytes.fromhex("45000014000000004011") + bytes(10)
    with recording(interface, file, expression="ip") as command:
        os.write(descriptor, packet)
        command.stop()
    assert frames(file) == [packet]
    with Reader(file) as reader:
        assert reader.link_type == 101


def test_standard_output_can_be_read_while_it_records(pair: Veth) -> None:
    sent = numbered_frames(50)
    with Recording(pair.b, "-", stdout=subprocess.PIPE) as command:
        command.says("recording")
        assert command.process.stdout is not None
        with (
            command.process.stdout as stdout,
            Reader(stdout.fileno()) as reader,
        ):
            send(pair.a, *sent)
            found: list[bytes] = []
            while len(found) < len(sent):
                found += next(reader).tolist()
            assert found == sent
            command.stop()
            assert list(reader) == []
            assert reader.cut is None


def test_reader_of_standard_output_may_go(pair: Veth) -> None:
    command = Recording(pair.b, "-", stdout=subprocess.PIPE)
    with command:
        command.says("recording")
        assert command.process.stdout is not None
        command.process.stdout.close()
        send(pair.a, numbered(1))
        assert command.outcome().code == 1
        assert "Broken pipe" not in command.text


def test_reader_that_stalls_does_not_keep_it_from_ending(pair: Veth) -> None:
    """The signal arrives while a write waits for the reader."""
    end, start = os.pipe()
    room = select.poll()
    room.register(start, select.POLLOUT)
    try:
        with Recording(pair.b, "-", stdout=start) as command:
            command.says("recording")
            send(pair.a, *[frame(bytes(1400))] * 100)
            eventually(lambda: not room.poll(0), "the pipe is not full")
            command.process.terminate()
            assert command.outcome().code == 1
            assert "standard output: its reader takes nothing" in command.text
    finally:
        os.close(start)
        os.close(end)


def test_pipe_without_a_reader_does_not_keep_it_from_ending(
    pair: Veth, tmp_path: Path
) -> None:
    """The signal arrives while it waits for a reader."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    packet_sockets = Path("/proc/net/packet")
    before = len(packet_sockets.read_text().splitlines())
    with Recording(pair.b, str(pipe)) as command:
        # Then it opens the pipe.
        eventually(
            lambda: len(packet_sockets.read_text().splitlines()) > before,
            "it does not open the interface",
        )
        command.process.terminate()
        assert command.outcome().code == 1
        assert f"{pipe}: its reader takes nothing" in command.text


def test_terminal_is_refused_as_standard_output(pair: Veth) -> None:
    controller, terminal = pty.openpty()
    try:
        with Recording(pair.b, "-", stdout=terminal) as command:
            assert command.outcome().code == 2
            assert "not a terminal" in command.text
    finally:
        os.close(controller)
        os.close(terminal)


def test_statistics_are_printed_regularly(pair: Veth, tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    with recording(pair.b, file, "--stats", "0.05") as command:
        command.says("frames/s    Mbit/s  dropped  frames/call  file")
        send(pair.a, *numbered_frames(100))
        command.says("0.0 MB")
        command.stop()


def test_interface_may_be_down(pair: Veth, tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    ip("link", "set", pair.b, "down")
    try:
        with recording(pair.b, file) as command:
            pair.up()
            send(pair.a, numbered(1))
            ip("link", "set", pair.b, "down")
            pair.up()
            send(pair.a, numbered(2))
            command.stop()
    finally:
        pair.up()
    assert frames(file) == [numbered(1), numbered(2)]


@pytest.mark.parametrize("down", [False, True])
def test_interface_that_disappears_ends_it(down: bool, tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    ip("link", "add", "gone0", "type", "veth", "peer", "name", "gone1")
    veth = Veth("gone0", "gone1")
    veth.up()
    with recording("gone1", file) as command:
        with stopped(command):
            send("gone0", numbered(1))
            if down:
                ip("link", "set", "gone1", "down")
            ip("link", "delete", "gone0")
        outcome = command.outcome()
    assert outcome.code == 1
    assert "gone1 has disappeared" in outcome.text
    assert frames(file) == [numbered(1)], "a frame in the queue is lost"


def test_interface_in_another_namespace(tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    with other_namespace() as pid:
        where = f"interface:lo,netns=/proc/{pid}/ns/net"
        with recording(where, file, expression="") as command:
            with RawSocket("lo", netns=f"/proc/{pid}/ns/net") as sock:
                sock.send(numbered(1))
            command.stop()
    # The loopback interface receives what it sends.
    assert numbered(1) in frames(file)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("{b}", "{new}", "tcp", "prot", "80"), 2, "did you mean 'port'"),
        (("missing", "{new}"), 1, "missing: No such device"),
        (("{b}", "/missing/f"), 1, "/missing/f: No such file or directory"),
        (("udp:{b}", "{new}"), 2, "not an interface or interface:NAME"),
        (("{b}", "-", "-C", "1"), 2, "-C and -G need a FILE"),
        (("{b}", ""), 2, "the name of FILE must not be empty"),
        (("{b}", "{new}", "-W", "3"), 2, "-W needs -C or -G"),
        (("{b}", "{new}", "-s", "0"), 2, "0 must be greater than 0"),
        (("{b}", "{new}", "--user", "no one"), 2, "no such user"),
        (
            ("{b}", "{new}", "--time", "hardware"),
            1,
            "the interface has no hardware time stamps",
        ),
    ],
)
def test_errors_say_what_is_wrong(
    pair: Veth,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    new = tmp_path / "new"
    done = run(*(one.format(b=pair.b, new=new) for one in arguments))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not new.exists(), "a file was created"
