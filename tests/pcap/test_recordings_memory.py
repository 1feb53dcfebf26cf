"""Reader: a long file does not stay in memory."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from support import WAIT, recordings
from support.child import environment
from support.recordings import SECOND, Packet

SIZE: Final = 400 << 20
LENGTH: Final = 65_000
MOST: Final = 100 << 10
"""Kilobytes that are mapped around the place that is read."""

READ_STATISTICS: Final = """
import sys, tracemalloc
from rawmmsg.pcap import Reader

tracemalloc.start()
with Reader(sys.argv[1]) as reader:
    assert not list(reader)
    assert reader.interfaces[0].dropped is None
    assert reader.cut is None
print(tracemalloc.get_traced_memory()[1])
"""

READ: Final = """
import sys
from pathlib import Path
from rawmmsg.pcap import Reader

def mapped():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0])

found = peak = 0
with Reader(sys.argv[1]) as reader:
    for turn in range(2):
        for batch in reader:
            found += sum(len(bytes(packet)) for packet in batch)
            peak = max(peak, mapped())
        peak = max(peak, mapped())
        reader.rewind()
print(found, peak)
"""


@pytest.mark.parametrize("kind", ["packets", "blocks passed over"])
def test_a_long_file_does_not_stay_in_memory(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "long"
    packet = Packet(bytes(LENGTH))
    if kind == "packets":
        header = recordings.pcap_header()
        record = recordings.pcap_record(SECOND, 0, packet)
    else:
        header = recordings.section()
        record = recordings.block(0xBAD, bytes(4084))
    count = SIZE // len(record)
    with path.open("wb") as file:
        file.write(header)
        for _ in range(count):
            file.write(record)
    done = subprocess.run(
        [sys.executable, "-c", READ, path],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    found, peak = map(int, done.stdout.split())
    assert found == (2 * count * LENGTH if kind == "packets" else 0)
    assert peak < MOST, f"{peak} KiB of a file of {SIZE >> 10} KiB"


def test_many_blocks_of_statistics_need_little_memory(tmp_path: Path) -> None:
    """A hostile file may have nothing else."""
    path = tmp_path / "statistics"
    header = recordings.section() + recordings.interface()
    path.write_bytes(header + recordings.statistics() * 50_000)
    done = subprocess.run(
        [sys.executable, "-c", READ_STATISTICS, path],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=WAIT,
        check=True,
    )
    # A list of them all needs 3.7 MB.
    assert int(done.stdout) < 2_000_000
