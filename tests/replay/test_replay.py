"""`rawmmsg replay` sends the packets of a recording."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import WAIT
from support.bridging import Running
from support.calls import eventually
from support.child import environment
from support.frames import numbered_frames, receive
from support.linux import ip, other_namespace
from support.pacing import arrived
from support.recorder import recording
from support.recordings import Packet, pcap_header, pcap_record
from support.replaying import (
    a_microsecond_apart,
    all_of,
    listening,
    replay,
    replayed,
    write,
    write_pcapng,
)

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

FRAMES = numbered_frames(100)

PACES = {
    "recorded": (),
    "faster": ("--speed", "10"),
    "slower": ("--speed", "0.5"),
    "pps": ("--pps", "50000"),
    "mbps": ("--mbps", "50"),
    "top speed": ("--top-speed",),
}


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return write(tmp_path / "trace.pcap", a_microsecond_apart(FRAMES))


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
def test_every_packet_is_sent_in_order(
    pair: Veth, recorded: Path, pace: tuple[str, ...]
) -> None:
    with listening(pair.b) as sock:
        result = replayed(recorded, pair.a, *pace)
        assert all_of(sock, 100) == FRAMES
    assert f"replaying {recorded} on {pair.a}\n" in result.text
    sent = result.only
    assert (sent.name, sent.sent, sent.refused) == (pair.a, 100, 0)
    assert sent.bytes == sum(map(len, FRAMES))


def test_pcapng_is_sent_as_pcap_is(pair: Veth, tmp_path: Path) -> None:
    packets = [(0, one) for one in a_microsecond_apart(FRAMES)]
    file = write_pcapng(tmp_path / "trace.pcapng", packets)
    with listening(pair.b) as sock:
        replayed(file, pair.a)
        assert all_of(sock, 100) == FRAMES


def test_packets_of_all_interfaces_are_sent(
    pair: Veth, tmp_path: Path
) -> None:
    packets = [
        (i % 2, one) for i, one in enumerate(a_microsecond_apart(FRAMES))
    ]
    file = write_pcapng(tmp_path / "trace.pcapng", packets, ("eth0", "eth1"))
    with listening(pair.b) as sock:
        replayed(file, pair.a)
        assert all_of(sock, 100) == FRAMES


def test_it_sends_what_rawmmsg_record_has_recorded(
    pair: Veth, recorded: Path, tmp_path: Path
) -> None:
    file = tmp_path / "again.pcapng"
    with recording(pair.b, file) as command:
        replayed(recorded, pair.a)
        assert command.stop().frames == 100
    with listening(pair.b) as sock:
        replayed(file, pair.a)
        assert all_of(sock, 100) == FRAMES


def test_a_file_of_many_batches_is_sent_completely(
    pair: Veth, tmp_path: Path
) -> None:
    frames = numbered_frames(5000, 200)
    file = write(tmp_path / "trace.pcap", frames)
    before = arrived(pair.b)
    replayed(file, pair.a, "--top-speed")
    after = arrived(pair.b)
    assert after[0] - before[0] == 5000
    assert after[1] - before[1] == 5000 * 200


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
def test_loop_repeats_the_recording(
    pair: Veth, recorded: Path, pace: tuple[str, ...]
) -> None:
    before = arrived(pair.b)[0]
    result = replayed(recorded, pair.a, "--loop", "37", *pace)
    assert result.only.sent == 3700
    assert arrived(pair.b)[0] - before == 3700


def test_loops_have_the_order_of_the_recording(
    pair: Veth, tmp_path: Path
) -> None:
    file = write(tmp_path / "trace.pcap", FRAMES[:30])
    with listening(pair.b) as sock:
        replayed(file, pair.a, "--loop", "3", "--top-speed")
        assert all_of(sock, 90) == FRAMES[:30] * 3


def test_a_file_too_large_to_be_kept_is_read_in_each_loop(
    pair: Veth, tmp_path: Path
) -> None:
    frame = bytes(12) + b"\x88\xb5" + bytes(1486)
    file = write(tmp_path / "trace.pcap", [frame] * 23_000)
    assert file.stat().st_size > 32 << 20
    before = arrived(pair.b)[0]
    replayed(file, pair.a, "--loop", "2", "--top-speed")
    assert arrived(pair.b)[0] - before == 46_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The file has 400 MB, mostly holes. It is sent at a pace, so that the
    memory can be seen at the end."""
    size, count = 60_000, 7000
    header = pcap_record(0, 0, Packet(bytes(size)))[:16]
    file = tmp_path / "trace.pcap"
    with file.open("wb") as made:
        made.write(pcap_header())
        for _ in range(count):
            made.write(header)
            made.seek(size - 1, os.SEEK_CUR)
            made.write(b"\0")
    with veth_pair() as link:
        for name in (link.a, link.b):
            ip("link", "set", name, "mtu", "65535")
        with Running(
            *(str(file), link.a, "--loop", "0", "--pps", "20000"),
            command="replay",
        ) as command:
            eventually(
                lambda: arrived(link.b)[0] >= count + 1000, "it is stuck"
            )
            status = Path(f"/proc/{command.process.pid}/status").read_text()
            command.end()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    assert int(found[1]) < 150_000


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 250, 1000])
@pytest.mark.parametrize("loop", [1, 4])
def test_limit_ends_it_within_a_round(
    pair: Veth, recorded: Path, limit: int, loop: int
) -> None:
    count = min(limit, loop * 100)
    before = arrived(pair.b)[0]
    result = replayed(
        recorded, pair.a, f"--limit={limit}", f"--loop={loop}", "--top-speed"
    )
    assert result.only.sent == count
    assert arrived(pair.b)[0] - before == count


def test_limit_takes_the_first_packets(pair: Veth, recorded: Path) -> None:
    with listening(pair.b) as sock:
        replayed(recorded, pair.a, "--limit", "130", "--loop", "0")
        assert all_of(sock, 130) == FRAMES + FRAMES[:30]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_a_summary(
    pair: Veth, recorded: Path, number: int
) -> None:
    before = arrived(pair.b)[0]
    options = ("--loop", "0", "--pps", "1000")
    with Running(str(recorded), pair.a, *options, command="replay") as command:
        eventually(lambda: arrived(pair.b)[0] > before, "nothing is sent")
        outcome = command.end(number)
    assert outcome.code == 0
    sent = arrived(pair.b)[0] - before
    assert f"  {sent:,} packets sent" in outcome.text


def test_duration_ends_it(pair: Veth, recorded: Path) -> None:
    begin = time.monotonic()
    replayed(recorded, pair.a, "--loop", "0", "--duration", "0.2")
    assert time.monotonic() - begin >= 0.2


def test_long_gaps_do_not_delay_a_signal(pair: Veth, tmp_path: Path) -> None:
    packets = [Packet(FRAMES[0]), Packet(FRAMES[1], 900_000)]
    file = write(tmp_path / "trace.pcap", packets)
    before = arrived(pair.b)[0]
    options = ("--speed", "0.001")
    with Running(str(file), pair.a, *options, command="replay") as command:
        eventually(lambda: arrived(pair.b)[0] > before, "nothing is sent")
        assert command.end().code == 0
    assert arrived(pair.b)[0] - before == 1


def test_standard_input_is_sent(pair: Veth, recorded: Path) -> None:
    with listening(pair.b) as sock:
        result = replay("-", pair.a, stdin=recorded.read_bytes())
        assert all_of(sock, 100) == FRAMES
    assert result.code == 0
    assert "replaying standard input" in result.text


def test_packets_of_a_pipe_are_sent_as_they_come(
    pair: Veth, recorded: Path
) -> None:
    data = recorded.read_bytes()
    middle = 24 + 50 * (16 + len(FRAMES[0]))
    reader, writer = os.pipe()
    with listening(pair.b) as sock, os.fdopen(writer, "wb", 0) as pipe:
        process = subprocess.Popen(
            [sys.executable, "-m", "rawmmsg", "replay", "-q", "-", pair.a],
            env=environment(),
            stdin=reader,
        )
        os.close(reader)
        pipe.write(data[:middle])
        assert all_of(sock, 50) == FRAMES[:50]
        pipe.write(data[middle:])
        pipe.close()
        assert all_of(sock, 50) == FRAMES[50:]
        assert process.wait(WAIT) == 0


def test_a_signal_ends_it_while_a_pipe_is_silent(pair: Veth) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "rawmmsg", "replay", "-", pair.a],
        env=environment(),
        stdin=reader,
    )
    os.close(reader)
    call = Path(f"/proc/{process.pid}/syscall")
    number = {"x86_64": 0, "aarch64": 63}.get(os.uname().machine, 3)
    read = f"{number} 0x0 "  # from standard input
    eventually(lambda: call.read_text().startswith(read), "it does not read")
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT) == 128 + signal.SIGINT
    os.close(writer)


def test_quiet_prints_nothing(pair: Veth, recorded: Path) -> None:
    assert replayed("-q", recorded, pair.a).text == ""


def test_statistics_are_printed_each_second_on_a_terminal(
    pair: Veth, recorded: Path
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "rawmmsg", "replay", str(recorded)),
            *(pair.a, "--loop", "0", "--pps", "1000"),
        ],
        env=environment(),
        stderr=theirs,
    )
    os.close(theirs)
    text = ""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while text.count("\n") < 4:
            text += os.read(ours, 4096).decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT) == 0
    os.close(ours)
    lines = text.replace("\r", "").splitlines()
    assert lines[1] == "packets/s    Mbit/s  refused         sent  file"
    rate, mbps, refused, sent, place = lines[2].split()
    assert float(rate.replace(",", "")) > 0
    assert float(mbps) > 0
    assert refused == "0"
    assert int(sent.replace(",", "")) > 0
    assert place == f"#{-(-int(sent.replace(',', '')) // 100)}"


def test_statistics_show_how_much_of_the_file_was_read(
    pair: Veth, recorded: Path
) -> None:
    result = replayed(recorded, pair.a, "--pps", "400", "--stats", "0.1")
    lines = result.text.splitlines()
    header = lines.index("packets/s    Mbit/s  refused         sent  file")
    assert lines[header + 1].endswith("  100 %")


def test_interface_may_be_in_another_namespace(recorded: Path) -> None:
    with other_namespace() as pid:
        netns = f"/proc/{pid}/ns/net"
        with RawSocket("lo", netns=netns) as sock:
            replayed(recorded, f"interface:lo,netns={netns}")
            assert receive(sock, 1)[0] == FRAMES[0]
