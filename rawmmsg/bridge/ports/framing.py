"""Frames in a stream of bytes: four bytes of length (big-endian), then the
frame. QEMU's netdevs `stream` and `socket`, and passt, write frames so."""

import errno
import os
import socket
from collections.abc import Callable
from struct import Struct
from typing import Final

from ..._rawmmsg import PacketBatch
from ...constants import SUPER_FRAME
from ..drops import SHORTEST

__all__ = ["FrameReader", "FrameWriter", "WrongLengthError"]

_LENGTH: Final = Struct(">I")

# One system call receives at most so many bytes: 170 frames of a full MTU, or
# three of the longest.
_MEMORY: Final = 256 << 10

# Each frame is two parts of a message, and sendmsg(2) takes 1,024 parts
# (UIO_MAXIOV, linux/uio.h).
_AT_ONCE: Final = 512


class WrongLengthError(ValueError):
    """The stream has a length that no frame has, so nothing behind it can be
    understood."""


class FrameReader:
    """Receives bytes, and finds the frames in them."""

    def __init__(self, accepts: Callable[[memoryview], bool] | None) -> None:
        """`accepts`: leave out other frames."""
        self._accepts = accepts
        self._memory = memoryview(bytearray(_MEMORY))
        self._start = self._end = 0
        self.has_more = False
        """Whether take() has left a whole frame, or a wrong length."""

    def clear(self) -> None:
        """Forgets what was received."""
        self._start = self._end = 0
        self.has_more = False

    def receive(self, sock: socket.socket) -> bool:
        """Makes one system call. Returns whether the stream goes on."""
        memory = self._memory
        if self._start:
            left = self._end - self._start
            memory[:left] = memory[self._start : self._end]
            self._start, self._end = 0, left
        count = sock.recv_into(memory[self._end :])
        self._end += count
        return count > 0

    def take(self, batch: PacketBatch) -> int:
        """Copies frames into the batch and returns how many. Raises
        WrongLengthError if the first one cannot be found."""
        batch.clear()
        memory, start, end = self._memory, self._start, self._end
        room = batch.capacity
        self.has_more = False
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(memory, start)
            first = start + _LENGTH.size
            is_wrong = not SHORTEST <= length <= SUPER_FRAME
            if first + length > end and not is_wrong:
                break
            if is_wrong and not len(batch):
                raise WrongLengthError(length)
            if is_wrong or not room:
                self.has_more = True
                break
            start = first + length
            frame = memory[first:start]
            if self._accepts is None or self._accepts(frame):
                batch.append(frame)
                room -= 1
        self._start = start
        return len(batch)


class FrameWriter:
    """Sends frames. One that is begun is finished before the next."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_unfinished(self) -> bool:
        """Whether a frame is begun: call finish() when the socket has room."""
        return bool(self._rest)

    def clear(self) -> None:
        """Forgets the frame that is begun."""
        self._rest = b""

    def finish(self, sock: socket.socket) -> bool:
        """Sends the rest of the frame that is begun. Returns whether it is
        finished."""
        try:
            count = sock.send(self._rest)
        except BlockingIOError:
            return False
        self._rest = self._rest[count:]
        return not self._rest

    def send(self, sock: socket.socket, batch: PacketBatch, start: int) -> int:
        """Sends frames from index `start` on with one system call. Returns how
        many were sent or begun: at least one, if there are any. Raises OSError
        (EAGAIN) if the socket has no room, and ValueError if the first frame
        is marked as one that cannot be sent."""
        if self._rest and not self.finish(sock):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        stop = min(_unmarked(batch, start), start + _AT_ONCE)
        frames = [batch[i] for i in range(start, stop)]
        parts: list[bytes | memoryview] = []
        for frame in frames:
            parts += _LENGTH.pack(len(frame)), frame
        sent = sock.sendmsg(parts)
        for done, frame in enumerate(frames, 1):
            sent -= _LENGTH.size + len(frame)
            if sent <= 0:
                self._rest = _last_bytes(frame, -sent)
                return done
        return 0


def _unmarked(batch: PacketBatch, start: int) -> int:
    """Returns the index of the first frame that cannot be sent as it is.
    Raises ValueError if it is the one at `start`."""
    types = getattr(batch, "gso_types", None)
    stop = len(batch)
    if types is not None and any(types[start:stop]):
        stop = next(i for i in range(start, stop) if types[i])
    if stop == start < len(batch):
        raise ValueError(f"frame {start} cannot be sent on a stream")
    return stop


def _last_bytes(frame: memoryview, count: int) -> bytes:
    """Returns the last bytes of the frame behind its length."""
    return (_LENGTH.pack(len(frame)) + bytes(frame))[-count:] if count else b""
