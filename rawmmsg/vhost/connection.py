"""One connection to a front end: whole messages with their descriptors."""

import array
import errno
import fcntl
import socket
import termios
from contextlib import suppress
from typing import Final, NamedTuple

from .descriptors import Closer
from .messages import (
    HEADER_SIZE,
    MAX_REGIONS,
    Header,
    ProtocolError,
    parse_header,
)

__all__ = ["Connection", "Disconnected", "Message"]

# The most descriptors that one message of a UNIX socket carries (SCM_MAX_FD,
# net/scm.h). With less space, recvmsg(2) would close the others, and wait for
# that as long as another process likes.
_SPACE: Final = socket.CMSG_SPACE(253 * array.array("i").itemsize)


class Disconnected(Exception):
    """The peer has closed the connection, but not in a message."""


class Message(NamedTuple):
    """`descriptors` belong to the receiver of the message, which empties the
    list as it takes them."""

    header: Header
    payload: bytes
    descriptors: list[int]


class Connection:
    """Reads and writes without waiting. Makes the socket non-blocking.

    `closer` closes what the peer has passed.
    """

    def __init__(self, sock: socket.socket, closer: Closer) -> None:
        sock.setblocking(False)
        # Otherwise, recvmsg(2) would skip urgent data and close their
        # descriptors itself (net/unix/af_unix.c:manage_oob()), and wait for
        # that as long as another process likes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._sock = sock
        self.closer = closer
        self._header: Header | None = None
        self._data = bytearray()
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> Message | None:
        """Returns a message when it is complete. Reads at most one.

        Raises ProtocolError and Disconnected.
        """
        if self._header is None:
            if not self._fill(HEADER_SIZE):
                return None
            self._header = parse_header(self._data)
            self._data.clear()
        header = self._header
        if not self._fill(header.size):
            return None
        message = Message(header, bytes(self._data), self._descriptors)
        self._header = None
        self._data.clear()
        self._descriptors = []
        return message

    def _fill(self, size: int) -> bool:
        """Reads up to `size` bytes of a header or a payload. Returns whether
        it has all of them.

        It never reads beyond, because the kernel would hand over descriptors
        of the next message together with the end of this one.
        """
        wanted = size - len(self._data)
        if not wanted:
            return True
        try:
            data = self._read(wanted)
        except BlockingIOError:
            return False
        except ConnectionError:  # it did not read all our replies
            raise Disconnected from None
        except OSError as error:
            raise ProtocolError(f"recvmsg: {error.strerror}") from None
        if len(self._descriptors) > MAX_REGIONS:
            raise ProtocolError(
                f"a message with {len(self._descriptors)} file descriptors; no"
                f" request has more than {MAX_REGIONS}"
            )
        if not data:
            raise self._end()
        self._data += data
        return len(self._data) == size

    def _read(self, size: int) -> bytes:
        """Reads bytes, and the descriptors that came with them.

        recvmsg(2) closes those for which this process has no free number, and
        waits for that as long as another process likes. So this peeks, which
        makes copies of them, and then reads without them.
        """
        data, ancillary, flags, _ = self._sock.recvmsg(
            size, _SPACE, socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
        )
        count = len(self._descriptors)
        self._descriptors += _descriptors_in(ancillary)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(
                "the descriptors of a message cannot be received: this process"
                " has too many open files (see ulimit -n)"
            )
        flags = self._sock.recvmsg(len(data))[2]
        if not flags & socket.MSG_CTRUNC:
            # Peeking has looked at the next message, too
            # (net/unix/af_unix.c:unix_stream_read_generic()).
            self.closer.close(self._descriptors[count:])
            del self._descriptors[count:]
        return data

    def _end(self) -> Exception:
        if self._data or self._header is not None:
            return ProtocolError("the connection ended in a message")
        return Disconnected()

    def send(self, reply: bytes) -> None:
        """Sends a reply. A peer that lets replies fill its queue is one that
        does not read them."""
        try:
            sent = self._sock.send(reply, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            raise Disconnected from None
        except OSError as error:
            raise ProtocolError(f"send: {error.strerror}") from None
        if sent != len(reply):
            raise ProtocolError("the peer does not read the replies")

    @property
    def has_hung_up(self) -> bool:
        """Whether the peer has closed the connection, even if some of its
        messages were not read yet."""
        try:
            self._sock.send(b"", socket.MSG_NOSIGNAL)
        except OSError as error:
            return error.errno == errno.EPIPE
        return False

    def close(self) -> None:
        """Closes the connection, and the descriptors of an incomplete
        message.

        Messages that are still in the queue may have descriptors whose
        closing waits. The peer sees the end at once, and adds no message, but
        then the socket is closed aside.
        """
        if self._sock.fileno() < 0:
            return
        self.closer.close(self._descriptors)
        self._descriptors = []
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        queued = fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4))
        if any(queued):
            self.closer.close([self._sock.detach()])
        else:
            self._sock.close()


def _descriptors_in(
    ancillary: list[tuple[int, int, bytes]],
) -> "array.array[int]":
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(data) // numbers.itemsize * numbers.itemsize
            numbers.frombytes(data[:whole])
    return numbers
