"""tshark and tcpdump read what `rawmmsg record` writes."""

import signal
import subprocess
from pathlib import Path

from support import WAIT
from support.calls import eventually
from support.frames import flood, numbered_frames, send
from support.recorder import Recording, read, recording

from rawmmsg.pcap import Reader
from rawmmsg.testing import Veth

# As root, it becomes a user who may not exist here, or may not read the file.
NOT_ROOT = ("unshare", "--user")


def read_by_tshark(file: Path | str, *fields: str) -> list[list[str]]:
    """These fields of each frame, as tshark reads the file."""
    wanted = [part for field in fields for part in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", str(file), "-T", "fields", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_other_programs_read_the_same(pair: Veth, tmp_path: Path) -> None:
    file, sent = tmp_path / "trace.pcapng", numbered_frames(100, 200)
    with recording(pair.b, file) as command:
        send(pair.a, *sent)
        command.stop()
    fields = ("frame.len", "frame.time_epoch", "frame.interface_name")
    assert read_by_tshark(file, *fields) == [
        [
            str(len(one.data)),
            f"{one.time // 10**9}.{one.time % 10**9:09}",
            pair.b,
        ]
        for one in read(file)
    ]
    done = subprocess.run(
        [*NOT_ROOT, "tcpdump", "-n", "-r", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) >= len(sent)


def test_standard_output_can_be_read_while_it_records(pair: Veth) -> None:
    sent = numbered_frames(50)
    command = Recording(*(pair.b, "-", "-c", "50"), stdout=subprocess.PIPE)
    with command:
        command.says("recording")
        stdout = command.process.stdout
        assert stdout is not None
        with subprocess.Popen(
            [*NOT_ROOT, "tcpdump", "-n", "-r", "-", "-c", "50"],
            stdin=stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as reader:
            stdout.close()
            send(pair.a, *sent)
            printed, _ = reader.communicate(timeout=WAIT)
        assert len(printed.splitlines()) >= 50
        assert command.outcome().code == 0


def test_whole_blocks_of_a_killed_recorder_are_read(
    pair: Veth, tmp_path: Path
) -> None:
    file, sent = tmp_path / "trace.pcapng", numbered_frames(1024, 200)
    with recording(pair.b, file) as command, flood(pair.a, sent):
        eventually(
            lambda: file.stat().st_size > 1_000_000, "nothing is written"
        )
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
    with Reader(file) as reader:
        packets = sum(map(len, reader))
        whole = reader.cut
    # tshark reads a last block that is cut as an error, after all others.
    if whole is not None:
        with file.open("r+b") as opened:
            opened.truncate(whole)
    assert len(read_by_tshark(file, "frame.len")) == packets
