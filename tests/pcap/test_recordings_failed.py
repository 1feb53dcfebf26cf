"""Writer: after a failed write, the file ends with a whole block."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from support import WAIT
from support.child import environment

from rawmmsg import PacketBatch
from rawmmsg.pcap import Reader, Writer

SIZE: Final = 1000
DATA: Final = bytes(range(256)) * 4
BATCH: Final = PacketBatch(buffer=DATA, offsets=[0] * 1000, lengths=SIZE)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process becomes longer: write(2) is short, then fails
    with EFBIG (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def packets_of(path: Path) -> int:
    """How many packets a file has, all of them whole."""
    with Reader(path) as reader:
        for batch in reader:
            assert set(batch.tolist()) == {DATA[:SIZE]}
        assert reader.cut is None, "the file ends with a whole block"
        return reader.packets


# From one byte of a block to the next, around the end of packets.
@pytest.mark.parametrize("limit", range(400_000, 401_040, 40))
def test_a_full_disk_leaves_whole_blocks(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.pcapng"
    with Writer(path) as writer:
        with file_limit(limit), pytest.raises(OSError) as caught:
            writer.write(BATCH, times=1)
        assert caught.value.errno == errno.EFBIG
        assert caught.value.filename == str(path)
        assert path.stat().st_size == writer.size
        assert limit - 1032 < writer.size <= limit
        written = writer.packets
        assert packets_of(path) == written
        # When there is room again, it goes on where it was.
        writer.write(BATCH, times=1)
    assert packets_of(path) == written + 1000


def test_statistics_that_do_not_fit_are_left_out_after_a_failure(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.pcapng"
    writer = Writer(path)
    with file_limit(400_000), pytest.raises(OSError):
        writer.write(BATCH, times=1)
    with file_limit(writer.size + 20):
        writer.close()
    assert path.stat().st_size == writer.size
    assert packets_of(path) == writer.packets


def test_statistics_that_do_not_fit_are_an_error_otherwise(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.pcapng"
    writer = Writer(path)
    writer.write(BATCH, times=1)
    with file_limit(writer.size + 20), pytest.raises(OSError) as caught:
        writer.close()
    assert caught.value.filename == str(path)
    assert packets_of(path) == 1000


def test_a_header_that_does_not_fit_leaves_an_empty_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.pcapng"
    with file_limit(20), pytest.raises(OSError, match=r"a\.pcapng"):
        Writer(path)
    assert path.stat().st_size == 0


def test_nothing_is_written_behind_a_part_that_cannot_be_removed(
    tmp_path: Path,
) -> None:
    """No program can shorten a file that is sealed against that."""
    file = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        writer = Writer(file)
        limit = os.fstat(file).st_size + 100
        with file_limit(limit), pytest.raises(OSError, match="not permitted"):
            writer.write(BATCH, times=1)
        with pytest.raises(ValueError, match="ends within a record"):
            writer.write(BATCH, times=1)
        writer.close()
        assert os.fstat(file).st_size == limit
    finally:
        os.close(file)


def test_an_exception_of_a_signal_handler_leaves_whole_blocks(
    tmp_path: Path,
) -> None:
    # The write into a full FIFO is interrupted.
    end, start = os.pipe()

    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    handler = signal.signal(signal.SIGALRM, ring)
    try:
        writer = Writer(start)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            writer.write(BATCH, times=1)
    finally:
        signal.signal(signal.SIGALRM, handler)
    with pytest.raises(ValueError, match="ends within a record"):
        writer.write(BATCH, times=1)
    writer.close()
    os.close(start)
    with os.fdopen(end, "rb") as file, Reader(file) as reader:
        assert sum(len(batch) for batch in reader) == writer.packets > 0
        assert reader.cut is not None


def test_a_reader_that_has_gone_is_an_error_that_names_the_pipe() -> None:
    end, start = os.pipe()
    writer = Writer(start)
    os.close(end)
    with pytest.raises(BrokenPipeError) as caught:
        writer.write(BATCH, times=1)
    assert caught.value.filename == f"descriptor {start}"
    writer.close()
    os.close(start)


SCRIPT: Final = """
import sys
from rawmmsg import PacketBatch
from rawmmsg.pcap import Writer
data = bytes(range(256)) * 4
batch = PacketBatch(buffer=data, offsets=[0] * 500, lengths=1000)
with Writer(sys.argv[1]) as writer:
    while writer.size < 1 << 28:
        writer.write(batch, times=1)
"""


def test_after_a_kill_all_whole_blocks_are_read(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / "a.pcapng"
        path.unlink(missing_ok=True)
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, path], env=environment()
        )
        until = time.monotonic() + WAIT
        while not path.exists() or path.stat().st_size < 1 << 20:
            assert time.monotonic() < until, "the child writes nothing"
            time.sleep(0.001)
        time.sleep(attempt / 1000)
        child.kill()
        child.wait()
        with Reader(path) as reader:
            for batch in reader:
                assert set(batch.tolist()) == {DATA[:SIZE]}
            assert reader.packets > 900
            left = path.stat().st_size - (reader.cut or path.stat().st_size)
            assert left < 1032, "only the last block is not whole"
