"""Receives frames, and writes them to files."""

import errno
import math
import os
import select
import socket
import time
from array import array
from collections.abc import Callable
from time import monotonic
from typing import Final

from .._rawmmsg import PacketBatch, RawSocket
from ..constants import SUPER_FRAME
from .files import Files

__all__ = ["Recorder"]

_BATCH: Final = 64

# For how long, in milliseconds, frames are left in the queue of the socket, so
# that many of them share a system call. Without that, the recorder would wake
# up for nearly every frame.
_LONGEST_PAUSE: Final = 5

# A pause must not fill the queue. At this many bytes of the queue per
# millisecond, it fills an eighth.
_FASTEST: Final = 2_000_000

# How many batches are received without a look at the clock and at signals.
_UNBROKEN: Final = 64

# How often to look whether the interface still exists, in seconds.
_LOOK: Final = 1.0

# For how long, in seconds, what has arrived before the end is recorded.
_LAST: Final = 1.0

# After so many seconds, the kernel stamps every frame.
_STAMPS_ARE_SURE: Final = 5.0


class Recorder:
    """Writes what a socket receives to files, until `most` frames are written
    or it is to end.

    Rows of `snap_length` bytes receive the frames. If the socket has offload
    headers, super-frames are cut into segments.

    One thread receives and writes. With a thread for each, a frame cost a
    fifth more CPU time, and what the disk delays waits in the queue of the
    socket as well as in another one.
    """

    def __init__(
        self,
        sock: RawSocket,
        files: Files,
        *,
        snap_length: int,
        most: float = math.inf,
        clock_of_interface: bool = False,
    ) -> None:
        self.files = files
        self.size = 0
        """Bytes of the frames that were written."""
        self.gained = 0
        """How many more frames there are after cutting than before."""
        self.unstamped = 0
        """Frames without a time stamp. They get the time when they were
        received."""
        self.whole = 0
        """Frames that could not be cut."""
        self._sock = sock
        self._most = most
        self._lost = 0  # frames that an offload header cannot describe
        self._dropped = 0  # frames that were dropped, as the files say
        self._gone: OSError | None = None
        self._checks_stamps = True
        self._is_sure_at = math.inf
        if not clock_of_interface:
            self._is_sure_at = monotonic() + _STAMPS_ARE_SURE
        self._segments: PacketBatch | None = None
        if sock.vnet_hdr:
            self._batch = PacketBatch(_BATCH, SUPER_FRAME)
            self._segments = PacketBatch(_BATCH, SUPER_FRAME)
        else:
            self._batch = PacketBatch(_BATCH, min(snap_length, SUPER_FRAME))
        self._pause = _longest_pause(sock)
        self._calls: list[_Call] = [_Call(_LOOK, self._look)]

    # Statistics

    @property
    def frames(self) -> int:
        """Frames that were written."""
        return self.files.packets

    @property
    def dropped(self) -> int:
        """Frames that the kernel dropped."""
        return (self._sock.statistics().packets_dropped or 0) + self._lost

    @property
    def batches(self) -> int:
        """System calls that received frames."""
        return self._sock.statistics().batches_received

    # The loop

    def every(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls `call` every `seconds` seconds while run() runs."""
        self._calls.append(_Call(seconds, call))

    def run(self, wake: int, seconds: float = math.inf) -> None:
        """Records for so many seconds at most, or until a byte can be read
        from the descriptor `wake`. Closes the file at the end.

        Raises OSError: ENODEV if the interface is gone, and that of a file,
        with its name as `filename`.
        """
        end = monotonic() + seconds
        sleep, look = select.poll(), select.poll()
        sleep.register(self._sock.fileno(), select.POLLIN)
        sleep.register(wake, select.POLLIN)
        look.register(wake, select.POLLIN)
        try:
            while self.frames < self._most:
                is_empty = self._receive()
                if look.poll(self._pause if is_empty else 0):
                    break
                now = monotonic()
                if now >= end:
                    break
                due = min(end, self._attend(now))
                if is_empty:
                    sleep.poll(max(0, math.ceil((due - monotonic()) * 1000)))
            self._receive_last()
        finally:
            self.files.close(self._new_drops())

    def _attend(self, now: float) -> float:
        """Makes the calls that are due. Returns when the next one is."""
        self.files.tend(now)
        for call in self._calls:
            if now >= call.due:
                call.function()
                call.due = now + call.seconds
        return min(self.files.due, *(call.due for call in self._calls))

    def _look(self) -> None:
        """Finds out whether the interface is gone: poll(2) reports nothing if
        it was down before."""
        if not self._sock.getsockname()[0]:
            gone = errno.ENODEV
            name = self._sock.interface
            self._gone = OSError(gone, os.strerror(gone), name)

    # Receiving

    def _receive_last(self) -> None:
        """Records what has arrived before the end."""
        end = monotonic() + _LAST
        while self.frames < self._most and monotonic() < end:
            if self._receive():
                break

    def _receive(self) -> bool:
        """Records some batches. Returns whether no frame is waiting. Raises
        OSError (ENODEV) if the interface is gone and no frame is waiting."""
        batch, receive = self._batch, self._sock.recvmmsg_into
        for _ in range(_UNBROKEN):
            try:
                count = receive(batch)
            except BlockingIOError:
                if self._gone is not None:
                    raise self._gone from None
                return True
            except OSError as error:
                self._receive_failed(error)
                continue
            if self._segments is None:
                self._write(batch, 0, count)
            else:
                self._write_cut(batch, self._segments)
            if self.frames >= self._most:
                return False
            if count < _BATCH:
                return True
        return False

    def _receive_failed(self, error: OSError) -> None:
        """Raises the error, unless more frames can be received after it."""
        if error.errno == errno.EINVAL and self._sock.vnet_hdr:
            self._lost += 1
        elif error.errno == errno.ENODEV and self._gone is None:
            self._gone = error  # frames may still be in the queue
        elif error.errno != errno.ENETDOWN:  # it may come up again
            raise error

    def _write_cut(self, batch: PacketBatch, segments: PacketBatch) -> None:
        """Writes the frames, with super-frames cut into segments."""
        frame = segment = 0
        while frame < len(batch) and self.frames < self._most:
            before = frame
            try:
                frame, segment = batch.segment_into(segments, frame, segment)
            except ValueError:
                self._write(batch, frame, frame + 1)
                self.whole += 1
                frame, segment = frame + 1, 0
                continue
            self.gained += len(segments) - (frame - before)
            self._write(segments, 0, len(segments))

    def _write(self, batch: PacketBatch, start: int, stop: int) -> None:
        room = self._most - self.frames
        if stop - start > room:
            stop = start + int(room)
        times = None
        if self._checks_stamps:
            times = self._stamps(batch, start, stop)
        self.files.write(batch, start, stop, times, self._new_drops())
        self.size += sum(batch.lengths[start:stop])

    def _new_drops(self) -> int:
        """Returns how many frames were dropped since the last call."""
        dropped = self.dropped
        new, self._dropped = dropped - self._dropped, dropped
        return new

    def _stamps(
        self, batch: PacketBatch, start: int, stop: int
    ) -> "array[int] | None":
        """Returns the time stamps, if some are missing in the batch: the
        kernel starts to stamp some time after it was asked, and an interface
        may stamp only some frames."""
        stamps = batch.timestamps_ns
        missing = stamps[start:stop].tolist().count(0)
        if not missing:
            if monotonic() > self._is_sure_at:
                self._checks_stamps = False
            return None
        self.unstamped += missing
        now = time.time_ns()
        return array("q", [stamp or now for stamp in stamps])


class _Call:
    """A function that is called regularly."""

    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        self.seconds = seconds
        self.function = function
        self.due = monotonic() + seconds


def _longest_pause(sock: RawSocket) -> int:
    """For how many milliseconds frames can be left in the queue."""
    queue = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return min(_LONGEST_PAUSE, queue // 8 // _FASTEST)
