"""The files of a recording: one, or a new one by size or time."""

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from .._rawmmsg import PacketBatch
from ..pcap import Writer

__all__ = ["Files", "Rotation"]


@dataclass(frozen=True)
class Rotation:
    """When a file ends: when it has `size` bytes, or after `seconds`. `keep`:
    how many of the newest files are kept; None: all."""

    size: float = math.inf
    seconds: float = math.inf
    keep: int | None = None

    @property
    def is_on(self) -> bool:
        return self.size < math.inf or self.seconds < math.inf


class Files:
    """Writes packets to the file `path`, or, if `rotation` is on, to one file
    after the other.

    These have names such as trace_00001_20261130235959.pcapng: Wireshark shows
    such files as a set. A file that ends by its time is closed even if no
    packets arrive; the next one is opened with the next packet.
    """

    def __init__(
        self,
        path: str,
        rotation: Rotation,
        open_writer: Callable[[str], Writer],
    ) -> None:
        self.opened = 0
        """How many files there have been."""
        self._packets = 0  # in the files that were closed
        self.size = 0
        """Bytes of all of them."""
        self.path = path
        """The last file."""
        self.due = math.inf
        """When tend() has something to do."""
        self._begin, self._end = os.path.splitext(path)
        self._rotation = rotation
        self._open_writer = open_writer
        self._writer: Writer | None = None
        self._dropped = 0  # that are in the present file
        self._kept: deque[str] = deque()

    @property
    def packets(self) -> int:
        """Packets in all files."""
        writer = self._writer
        return self._packets + (0 if writer is None else writer.packets)

    def open(self) -> Writer:
        """Opens the next file. Raises OSError."""
        rotation = self._rotation
        if rotation.is_on:
            number = self.opened + 1
            when = time.strftime("%Y%m%d%H%M%S")
            self.path = f"{self._begin}_{number:05}_{when}{self._end}"
        self._writer = self._open_writer(self.path)
        self.opened += 1
        self.size += self._writer.size
        self._dropped = 0
        self.due = monotonic() + rotation.seconds
        self._kept.append(self.path)
        if rotation.keep is not None and len(self._kept) > rotation.keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._kept.popleft())
        return self._writer

    def write(
        self,
        batch: PacketBatch,
        start: int,
        stop: int,
        times: Sequence[int] | None,
        dropped: int,
    ) -> None:
        """Writes packets, after `dropped` that were lost before them. A file
        ends with the packet that gives it the size at which it is to end."""
        writer = self._writer or self.open()
        left = self._rotation.size - writer.size
        if left < math.inf and left < _longest(batch, start, stop):
            self._write_one_by_one(batch, start, stop, times, dropped)
            return
        self.size += writer.write(
            batch, start, stop, times=times, dropped=dropped
        )
        self._dropped += dropped

    def _write_one_by_one(
        self,
        batch: PacketBatch,
        start: int,
        stop: int,
        times: Sequence[int] | None,
        dropped: int,
    ) -> None:
        for i in range(start, stop):
            writer = self._writer or self.open()
            self.size += writer.write(
                batch, i, i + 1, times=times, dropped=dropped
            )
            self._dropped += dropped
            dropped = 0
            if writer.size >= self._rotation.size:
                self.close()

    def tend(self, now: float) -> None:
        """Closes the file if its time is over. `now`: of monotonic()."""
        if now >= self.due:
            self.close()

    def close(self, dropped: int = 0) -> None:
        """Closes the file, if one is open. `dropped`: packets that were lost
        after the last one."""
        writer, self._writer = self._writer, None
        self.due = math.inf
        if writer is None:
            return
        self._packets += writer.packets
        self._dropped += dropped
        received = writer.packets + self._dropped
        size = writer.size
        try:
            writer.set_statistics(0, received=received, dropped=self._dropped)
        finally:
            writer.close()
            self.size += writer.size - size


# More than the bytes of a block without its packet.
_BLOCK = 128


def _longest(batch: PacketBatch, start: int, stop: int) -> int:
    """Returns at least as many bytes as the packets need in a file."""
    return sum(batch.lengths[start:stop]) + (stop - start) * _BLOCK
