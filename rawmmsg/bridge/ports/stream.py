"""Stream sockets on which each frame follows its length, as QEMU's netdevs of
type stream and socket, and passt, use them."""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from ..._rawmmsg import PacketBatch, _join_frames, _split_frames
from ..drops import Dropped
from .paths import Access, OwnPath, check_path
from .port import Port, PortError

__all__ = ["StreamPort"]

Address = str | tuple[str, int]
"""A path, or a host and a port."""

# Room for several super-frames, which have 69,632 bytes at most.
_BUFFER: Final = 256 << 10


class StreamPort(Port):
    """Connects to a peer, again and again, or, if it `listens`, waits for one.
    It has one peer at a time.

    `report` is called with a line about a problem, `notice` with other news.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        listens: bool,
        access: Access,
        report: Callable[[str], object],
        notice: Callable[[str], object],
    ) -> None:
        super().__init__(name)
        if isinstance(address, str):
            check_path(name, address)
            self._own_path = OwnPath(address, access)
        self.address = address
        self.listens = listens
        self._report = report
        self._notice = notice
        self._opened = ExitStack()
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        # A connection that is being made.
        self._connecting: socket.socket | None = None
        self._in = bytearray(_BUFFER)
        self._in_start = self._in_end = 0  # what was read, but not used
        self._out = bytearray(_BUFFER)
        self._out_start = self._out_end = 0  # what is still to be written
        self._is_broken = False  # a length was read that no frame has
        self._received = self._batches = self._sent = self._missed = 0
        self.recvmmsg_into = self._receive
        self.sendmmsg = self._send

    # Connections

    def open(self, expression: str | None) -> None:
        if expression is not None:
            raise PortError(f"{self.name}: a stream port has no filter")
        if self.listens:
            with ExitStack() as opened:
                self._listen(opened)
                self._opened = opened.pop_all()
        else:
            self._connect()

    def _listen(self, opened: ExitStack) -> None:
        sock, address = self._make_socket(socket.AI_PASSIVE)
        opened.callback(sock.close)
        if isinstance(self.address, str):
            self._own_path.bind(sock)
            opened.callback(self._own_path.unlink)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        sock.listen()
        self._listener = sock

    def _make_socket(self, flags: int) -> tuple[socket.socket, Any]:
        """Returns a socket that does not block, and the address for it."""
        if isinstance(self.address, str):
            family, address = socket.AF_UNIX, self.address
            return _make(family), address
        host, port = self.address
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=flags
        )
        return _make(found[0][0]), found[0][4]

    def _connect(self) -> None:
        """Begins to connect, or looks whether it has connected."""
        if self._connecting is None:
            self._connecting, address = self._make_socket(0)
            failed = self._connecting.connect_ex(address)
        else:
            if not _is_writable(self._connecting):
                return
            failed = self._connecting.getsockopt(
                socket.SOL_SOCKET, socket.SO_ERROR
            )
        if failed == errno.EINPROGRESS:
            return
        sock, self._connecting = self._connecting, None
        if failed:
            sock.close()  # tend() tries again
        else:
            self._begin(sock)

    def _accept(self) -> bool:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:  # the peer has gone already
            return False
        # The one before may have ended just now.
        if self._peer is not None and not self._read():
            sock.close()
            self._report(
                f"{self.name}: a second peer was refused; the port has one"
            )
            return False
        sock.setblocking(False)
        self._begin(sock)
        return True

    def _begin(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = sock
        self._is_broken = False
        self._in_start = self._in_end = 0
        self._out_start = self._out_end = 0
        self._notice(f"{self.name}: a peer has connected")

    def _end(self, why: str) -> None:
        """Closes the connection. Frames that were not written whole are
        lost."""
        assert self._peer is not None
        self._peer.close()
        self._peer = None
        self._report(f"{self.name}: {why}")

    def tend(self) -> bool:
        if self._peer is not None or self.listens:
            return False
        with contextlib.suppress(OSError):  # the name cannot be looked up
            self._connect()
        return self._peer is not None

    def close(self) -> None:
        for sock in (self._peer, self._connecting):
            if sock is not None:
                sock.close()
        self._peer = self._connecting = None
        self._opened.close()

    def is_same(self, other: Port) -> bool:
        return (
            isinstance(other, StreamPort)
            and self.address == other.address
            and self.listens
            and other.listens
        )

    def missing(self) -> str | None:
        if self._peer is not None:
            return None
        if isinstance(self.address, str):
            where = self.address
        else:
            where = f"{self.address[0]}:{self.address[1]}"
        if self.listens:
            return f"nobody has connected to {where}"
        return f"nobody listens at {where}"

    # What kind of port it is

    @property
    def has_readers(self) -> bool:
        return True

    @property
    def mtu(self) -> int:
        return 0

    # Waiting

    @property
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        readers = {}
        if self._listener is not None:
            readers[self._listener.fileno()] = self._accept
        if self._peer is not None:
            readers[self._peer.fileno()] = self._read
        return readers

    def room_descriptor(self) -> int:
        return -1 if self._peer is None else self._peer.fileno()

    def bytes_queued(self) -> int:
        return self._out_end - self._out_start

    # Receiving

    def _read(self) -> bool:
        """Reads what has arrived, unless there are whole frames already.
        Returns whether the connection has ended."""
        if self._peer is None:
            return False
        if self._is_broken:
            self._end("the connection was closed")
            return True
        if self._in_end == len(self._in):
            return False
        try:
            count = self._peer.recv_into(memoryview(self._in)[self._in_end :])
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(f"the connection was lost: {error.strerror}")
            return True
        if not count:
            self._end("the peer has closed the connection")
            return True
        self._in_end += count
        return False

    def _receive(self, batch: PacketBatch) -> int:
        """Takes frames that have been read."""
        with memoryview(self._in) as view:
            data = view[self._in_start : self._in_end]
            try:
                used = _split_frames(data, batch)
            except ValueError as error:
                self._break(str(error))
                used = 0
        self._in_start += used
        if not len(batch):
            self._move_to_front()
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._received += len(batch)
        self._batches += 1
        return len(batch)

    def _break(self, why: str) -> None:
        """Where the next frame begins is not known any more."""
        self._report(f"{self.name}: {why}")
        self._in_start = self._in_end = 0
        if self._peer is not None:
            self._is_broken = True
            # The loop sees that, and calls _read().
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)

    def _move_to_front(self) -> None:
        """Moves the beginning of a frame, so that the rest fits behind it."""
        rest = self._in[self._in_start : self._in_end]
        self._in[: len(rest)] = rest
        self._in_start, self._in_end = 0, len(rest)

    # Sending

    def _send(self, batch: PacketBatch, start: int) -> int:
        """Takes frames, and writes them as far as the socket has room."""
        if self._peer is None:
            left = len(batch) - start
            self._missed += left
            return left
        if not self.write():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        taken, self._out_end = _join_frames(batch, start, self._out)
        self._out_start = 0
        self._sent += taken
        self.write()
        return taken

    @property
    def has_rest(self) -> bool:
        """Whether `sendmmsg` has taken frames that are not written yet. Call
        write() when the room descriptor is writable."""
        return self._peer is not None and self._out_start < self._out_end

    def write(self) -> bool:
        """Writes what is left. Returns whether all was written, or the
        connection has ended."""
        while self._peer is not None and self.has_rest:
            with memoryview(self._out) as view:
                rest = view[self._out_start : self._out_end]
                try:
                    self._out_start += self._peer.send(rest)
                except BlockingIOError:
                    return False
                except OSError:
                    # The loop finds out when it reads.
                    self._out_start = self._out_end
        return True

    def finish(self) -> None:
        """Frames of which only a part was written are lost."""

    # Counters

    @property
    def received(self) -> int:
        return self._received

    @property
    def batches(self) -> int:
        return self._batches

    @property
    def sent(self) -> int:
        return self._sent

    def dropped_sent(self) -> Dropped:
        return Dropped(link_down=self._missed)


def _make(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def _is_writable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))
