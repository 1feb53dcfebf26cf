"""Recordings of other programs are read, and other programs read ours."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter
from support import WAIT
from support.frames import numbered_frames, until_stamped
from support.scapy_recordings import by_rawmmsg, by_scapy

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.pcap import Interface, Reader, Writer
from rawmmsg.testing import Veth

Format = Literal["pcap", "pcapng"]
FORMATS: Final[tuple[Format, ...]] = ("pcap", "pcapng")
NOW: Final = 1_700_000_000_123_456_789
SIZES: Final = (26, 60, 61, 62, 63, 256, 257, 1514, 65_000)
FRAMES: Final = [numbered_frames(1, size)[0] for size in SIZES]


def output_of(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark(path: Path, *fields: str) -> list[list[str]]:
    """The fields of each packet, as tshark prints them."""
    chosen = [part for field in fields for part in ("-e", field)]
    text = output_of("tshark", "-n", "-r", path, "-T", "fields", *chosen)
    return [line.split("\t") for line in text.splitlines()]


def hex_of(path: Path) -> list[str]:
    """The bytes of each packet, by tshark."""
    text = output_of("tshark", "-n", "-r", path, "-x")
    found, current = [], ""
    for line in text.splitlines():
        match = re.match(r"[0-9a-f]{4,}  ((?:[0-9a-f]{2} )+)", line)
        if match:
            current += match[1].replace(" ", "")
        elif current:
            found.append(current)
            current = ""
    return [*found, current] if current else found


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> Format:
    chosen: Format = request.param
    return chosen


@pytest.fixture
def ours(tmp_path: Path, format: Format) -> Path:
    """A file of ours, with a packet of each size, a nanosecond apart."""
    path = tmp_path / "ours"
    batch = PacketBatch(2 * len(FRAMES), 65_536)
    batch.extend(FRAMES)
    interface = Interface(1, 65_000, "eth7", filter="udp port 53")
    with Writer(path, [interface], format=format, snap_length=65_000) as out:
        times = [NOW + n for n in range(len(FRAMES))]
        out.write(batch, times=times, dropped=4)
    return path


def test_tshark_reads_ours(ours: Path, format: Format) -> None:
    assert hex_of(ours) == [packet.hex() for packet in FRAMES]
    found = tshark(ours, "frame.time_epoch", "frame.len", "frame.cap_len")
    assert found == [
        [f"{NOW // 10**9}.{NOW % 10**9 + n:09}", f"{size}", f"{size}"]
        for n, size in enumerate(SIZES)
    ]
    if format == "pcapng":
        names = tshark(ours, "frame.interface_name")
        assert names == [["eth7"]] * len(SIZES)


def test_capinfos_reads_ours(ours: Path, format: Format) -> None:
    text = output_of("capinfos", "-M", ours)
    lines: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" = " if " = " in line else ":")
        lines[name.strip()] = value.strip()
    assert lines["Number of packets"] == str(len(SIZES))
    assert lines["Data size"] == f"{sum(SIZES)} bytes"
    assert lines["File timestamp precision"] == "nanoseconds (9)"
    assert lines["First packet time"].endswith(".123456789")
    if format == "pcapng":
        assert lines["Name"] == "eth7"
        assert lines["Filter string"] == "udp port 53"
        assert lines["Capture application"].startswith("rawmmsg ")
        assert lines["Number of stat entries"] == "1"


def test_tcpdump_reads_ours(ours: Path) -> None:
    text = output_of("tcpdump", "-r", ours, "-n", "-tt", "--nano", "-xx")
    times = re.findall(r"^(\d+\.\d+) ", text, re.MULTILINE)
    assert times == [
        f"{NOW // 10**9}.{NOW % 10**9 + n:09}" for n in range(len(SIZES))
    ]
    packets = re.split(r"^\d.*\n", text, flags=re.MULTILINE)[1:]
    digits = [
        "".join(re.findall(r"^\t0x\w+:  (.*)$", packet, re.MULTILINE))
        for packet in packets
    ]
    assert [re.sub(r"\s", "", packet) for packet in digits] == [
        packet.hex() for packet in FRAMES
    ]


def test_scapy_reads_ours(ours: Path) -> None:
    assert by_scapy(ours) == by_rawmmsg(ours)


def test_tshark_reads_directions(tmp_path: Path, veth: Veth) -> None:
    path = tmp_path / "ours"
    batch = PacketBatch()
    with (
        RawSocket(veth.a, timestamps="software", addresses=True) as sock,
        RawSocket(veth.a, protocol=0) as near,
        RawSocket(veth.b, protocol=0) as far,
        Writer(path, [veth.a]) as out,
    ):
        until_stamped(far, sock, FRAMES[1])
        for sender in (near, far, near):
            sender.send(FRAMES[2])
            sock.recvmmsg_into(batch)
            out.write(batch)
    rows = tshark(
        *(path, "frame.packet_flags_direction"),
        "frame.packet_flags_reception_type",
    )
    numbers = [tuple(int(number, 16) for number in row) for row in rows]
    assert numbers == [(2, 0), (1, 3), (2, 0)], "out, a broadcast in, out"


# Files of others


def recorded(command: Sequence[str], veth: Veth) -> None:
    """Runs a program that records 9 packets of side b."""
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    until = time.monotonic() + WAIT
    try:
        with RawSocket(veth.a, protocol=0) as sender:
            # It does not say when it begins to record.
            while child.poll() is None:
                assert time.monotonic() < until, "it does not end"
                for packet in FRAMES[:-1]:
                    sender.send(packet)
                time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        _, errors = child.communicate()
    assert child.returncode == 0, errors.decode()


@pytest.mark.parametrize(
    "options",
    [
        ("tcpdump", "-Z", "root", "-i", "{}", "-c", "9", "-w", "{}"),
        (
            *("tcpdump", "-Z", "root", "-i", "{}", "-c", "9", "-s", "70"),
            *("--nano", "-w", "{}"),
        ),
        ("dumpcap", "-q", "-i", "{}", "-c", "9", "-w", "{}"),
        ("dumpcap", "-q", "-P", "-i", "{}", "-c", "9", "-w", "{}"),
        ("tshark", "-q", "-i", "{}", "-c", "9", "-s", "70", "-w", "{}"),
    ],
    ids=["tcpdump", "tcpdump ns", "dumpcap", "dumpcap pcap", "tshark"],
)
def test_recordings_of_programs_are_read_as_scapy_reads_them(
    tmp_path: Path, veth: Veth, options: Sequence[str]
) -> None:
    path = tmp_path / "theirs"
    places = iter([veth.b, str(path)])
    command = [next(places) if part == "{}" else part for part in options]
    recorded(command, veth)
    found = by_rawmmsg(path)
    assert len(found) >= 9
    assert found == by_scapy(path)
    assert {data for data, _, _, _ in found} <= {
        packet[:length] for packet in FRAMES for length in (70, 65_536)
    }


@pytest.mark.parametrize("nano", [False, True])
def test_pcap_files_of_scapy(tmp_path: Path, nano: bool) -> None:
    path = tmp_path / "theirs.pcap"
    with PcapWriter(str(path), nano=nano, linktype=1) as writer:
        for packet in FRAMES:
            writer.write(Ether(packet))
    found = by_rawmmsg(path)
    assert [data for data, _, _, _ in found] == FRAMES
    assert found == by_scapy(path)


def test_pcapng_files_of_scapy(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pcapng"
    with PcapNgWriter(str(path)) as writer:
        for number, packet in enumerate(FRAMES):
            made = Ether(packet) if number % 2 else Raw(packet)
            made.sniffed_on = f"eth{number % 3}"
            made.direction = 2
            made.comment = b"a comment"
            writer.write(made)
    found = by_rawmmsg(path)
    assert [data for data, _, _, _ in found] == FRAMES
    assert found == by_scapy(path)


@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "pcapng", "modpcap"])
def test_files_that_editcap_converts(ours: Path, kind: str) -> None:
    theirs = ours.with_name("theirs")
    output_of("editcap", "-F", kind, ours, theirs)
    if kind == "modpcap":
        with pytest.raises(ValueError, match="not a pcap or pcapng file"):
            Reader(theirs)
        return
    assert by_rawmmsg(theirs) == by_scapy(theirs)
    assert [data for data, _, _, _ in by_rawmmsg(theirs)] == FRAMES


def test_files_that_mergecap_joins(ours: Path) -> None:
    theirs, again = ours.with_name("theirs"), ours.with_name("again")
    shutil.copy(ours, again)
    output_of("mergecap", "-F", "pcapng", "-w", theirs, ours, again)
    assert by_rawmmsg(theirs) == by_scapy(theirs)
    assert len(by_rawmmsg(theirs)) == 2 * len(FRAMES)
