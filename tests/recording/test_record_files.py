"""`rawmmsg record` begins new files, deletes old ones, and leaves whole files
behind, whatever ends it."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support.calls import eventually
from support.frames import flood, numbered, numbered_frames, send
from support.recorder import (
    Recording,
    frames,
    recording,
)

from rawmmsg.pcap import Reader
from rawmmsg.testing import Veth

NAME = re.compile(r"trace_(\d{5})_\d{14}\.pcapng")


def files_in(folder: Path) -> list[Path]:
    """The files of a recording, by their numbers, which have no gaps."""
    found = sorted(folder.iterdir())
    numbers = [
        int(match[1]) for one in found if (match := NAME.fullmatch(one.name))
    ]
    assert len(numbers) == len(found), found
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return found


def test_new_file_begins_with_the_frame_after_the_size(
    pair: Veth, tmp_path: Path
) -> None:
    sent = numbered_frames(3000, 200)
    with recording(pair.b, tmp_path / "trace.pcapng", "-C", "0.1") as command:
        send(pair.a, *sent)
        summary = command.stop()
    files = files_in(tmp_path)
    assert len(files) == summary.files > 5
    assert [one for file in files for one in frames(file)] == sent
    assert summary.size == sum(file.stat().st_size for file in files)
    for file in files[:-1]:
        # Blocks of one frame and of the statistics may be beyond it.
        assert 100_000 <= file.stat().st_size < 100_500


def test_new_file_begins_after_a_time(pair: Veth, tmp_path: Path) -> None:
    with recording(pair.b, tmp_path / "trace.pcapng", "-G", "0.2") as command:
        for number in range(3):
            send(pair.a, numbered(number))
            time.sleep(0.3)
        command.stop()
    files = files_in(tmp_path)
    found = [one for file in files for one in frames(file)]
    assert found == [numbered(number) for number in range(3)]
    assert len(files) > 1


def test_no_file_begins_while_nothing_arrives(
    pair: Veth, tmp_path: Path
) -> None:
    """Otherwise a ring of files would lose what it has."""
    with recording(
        pair.b, tmp_path / "trace.pcapng", "-G", "0.05", "-W", "2"
    ) as command:
        send(pair.a, numbered(1))
        time.sleep(0.5)
        # The file is complete as soon as its time is over.
        (file,) = files_in(tmp_path)
        assert frames(file) == [numbered(1)]
        with Reader(file) as reader:
            list(reader)
            assert reader.interfaces[0].received == 1
        command.stop()
    assert files_in(tmp_path) == [file]


def test_only_the_newest_files_are_kept(pair: Veth, tmp_path: Path) -> None:
    sent = numbered_frames(3000, 200)
    with recording(
        pair.b, tmp_path / "trace.pcapng", "-C", "0.1", "-W", "3"
    ) as command:
        send(pair.a, *sent)
        summary = command.stop()
    files = files_in(tmp_path)
    assert len(files) == 3
    assert summary.files > 5
    kept = [one for file in files for one in frames(file)]
    assert kept == sent[-len(kept) :]
    assert summary.frames == len(sent)


def test_killed_recorder_leaves_all_whole_blocks(
    pair: Veth, tmp_path: Path
) -> None:
    file, count = tmp_path / "trace.pcapng", 1024
    sent = numbered_frames(count, 200)
    with recording(pair.b, file) as command:
        with flood(pair.a, sent):
            eventually(
                lambda: file.stat().st_size > 1_000_000, "nothing is written"
            )
            command.process.send_signal(signal.SIGKILL)
            command.process.wait()
    found = []
    with Reader(file) as reader:
        for batch in reader:
            found += batch.tolist()
        whole = reader.cut or file.stat().st_size
    assert file.stat().st_size - whole < 300, "more than one block is cut"
    assert set(found) <= set(sent)
    assert len(found) > 1000


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[int]:
    """In a mount namespace of its own, the folder is a file system of 256 KiB.
    Gives the id of a process inside."""
    mount = f"mount -t tmpfs -o size=256k none '{folder}' && echo && read _"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mount],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n", "mount(8) has failed"
        yield process.pid
        process.stdin.close()


def ends_with_an_error(command: Recording, file: Path, reason: str) -> None:
    """Asserts that the command ends because a write has failed, and that the
    file is whole."""
    outcome = command.outcome()
    assert outcome.code == 1
    assert f"{file.name}: {reason}" in outcome.text
    with Reader(file) as reader:
        packets = sum(map(len, reader))
        assert reader.cut is None
    assert packets == command.summary().frames > 0


def test_full_disk_ends_it_behind_a_whole_block(
    pair: Veth, tmp_path: Path
) -> None:
    file = tmp_path / "trace.pcapng"
    with small_disk(tmp_path) as pid:
        inside = ("nsenter", f"--mount=/proc/{pid}/ns/mnt", "--wdns=/")
        with Recording(pair.b, file, prefix=inside) as command:
            command.says("recording")
            send(pair.a, *numbered_frames(2000, 200))
            seen = Path(f"/proc/{pid}/root{file}")
            ends_with_an_error(command, seen, "No space left on device")


def test_limit_of_file_sizes_ends_it_behind_a_whole_block(
    pair: Veth, tmp_path: Path
) -> None:
    file = tmp_path / "trace.pcapng"
    with recording(pair.b, file) as command:
        limit = (100_001, 100_001)
        resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, limit)
        send(pair.a, *numbered_frames(2000, 200))
        ends_with_an_error(command, file, "File too large")


def test_ring_survives_that_somebody_deletes_a_file(
    pair: Veth, tmp_path: Path
) -> None:
    sent = numbered_frames(2000, 200)
    with recording(
        pair.b, tmp_path / "trace.pcapng", "-C", "0.1", "-W", "2"
    ) as command:
        send(pair.a, *sent[:700])
        eventually(lambda: len(os.listdir(tmp_path)) == 2, "no second file")
        files_in(tmp_path)[0].unlink()
        send(pair.a, *sent[700:])
        command.stop()
    assert len(files_in(tmp_path)) == 2
