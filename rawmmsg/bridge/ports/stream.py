"""Stream sockets, which carry the length before each frame."""

import errno
import os
import select
import socket
from collections.abc import Callable, Mapping

from ..._rawmmsg import PacketBatch
from .. import filters
from ..drops import Dropped
from .connections import Address, Connecting, Listening
from .framing import FrameReader, FrameWriter, WrongLengthError
from .paths import Access, check_path
from .port import Port

__all__ = ["StreamSocket"]


class StreamSocket(Port):
    """stream:unix:PATH or stream:HOST:PORT. We connect to this address, or
    listen there if `listens`. The peer may go and come back.

    `report` is called with problems, `notice` with other news.
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
        self.address = address
        self.listens = listens
        self._is_closing = False
        self._tell = report
        self._tell_news = notice
        self._peer: Listening | Connecting = (
            Listening(address, access, self._report, self._notice, self._begin)
            if listens
            else Connecting(address, self._report, self._notice, self._begin)
        )
        self._writer = FrameWriter()
        self._reader: FrameReader
        # poll(2) tells that a frame which is begun can be finished by POLLOUT,
        # and `readers` are those of POLLIN. An epoll is readable when one of
        # its events has happened.
        self._room: select.epoll
        self._watched: socket.socket | None = None
        self._received = self._batches = self._sent = self._missed = 0

    def open(self, expression: str | None) -> None:
        program = filters.for_datagrams(expression)
        self._reader = FrameReader(program.matches if program else None)
        self._room = select.epoll()
        try:
            self._peer.open()
        except BaseException:
            self._room.close()
            raise
        self.recvmmsg_into = self._receive
        self.sendmmsg = self._send

    def close(self) -> None:
        self._is_closing = True
        self._peer.close()
        self._room.close()

    def _report(self, text: str) -> None:
        self._tell(f"{self.name}: {text}")

    def _notice(self, text: str) -> None:
        if not self._is_closing:
            self._tell_news(f"{self.name}: {text}")

    def _begin(self) -> None:
        """A peer has connected."""
        self._reader.clear()
        self._writer.clear()
        self._watched = None  # the kernel has removed a closed socket

    # Receiving

    @property
    def descriptor(self) -> int:
        sock = self._peer.sock
        return -1 if sock is None else sock.fileno()

    @property
    def has_frames(self) -> bool:
        """Whether it has received frames which poll(2) does not tell of."""
        return self._peer.sock is not None and self._reader.has_more

    def _receive(self, batch: PacketBatch) -> int:
        """Raises OSError (EAGAIN) if there is no frame."""
        sock = self._peer.sock
        try:
            if sock is not None and not self._reader.has_more:
                if not self._reader.receive(sock):
                    self._peer.end()
                self._batches += 1
            count = self._reader.take(batch)
        except WrongLengthError as error:
            self._peer.report(
                f"the peer was disconnected: {error} is not the length of a"
                " frame"
            )
            self._peer.end()
            count = 0
        except BlockingIOError:
            count = 0
        except OSError:  # ECONNRESET, ETIMEDOUT
            self._peer.end()
            count = 0
        if not count:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._received += count
        return count

    # Sending

    def _send(self, batch: PacketBatch, start: int = 0) -> int:
        """Takes all frames while no peer is connected."""
        sock = self._peer.sock
        if sock is None:
            return self._miss(len(batch) - start)
        try:
            count = self._writer.send(sock, batch, start)
        except BlockingIOError:
            raise
        except OSError:  # EPIPE, ECONNRESET, ETIMEDOUT
            self._break(sock)
            return self._miss(len(batch) - start)
        finally:
            self._watch_room(sock)
        self._sent += count
        return count

    def _miss(self, count: int) -> int:
        self._missed += count
        return count

    def _break(self, sock: socket.socket) -> None:
        """Makes the connection readable, so that the end is found there, after
        the frames that were received."""
        self._writer.clear()
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def _watch_room(self, sock: socket.socket) -> None:
        """Waits for room if a frame is begun."""
        if self._writer.is_unfinished and self._watched is None:
            self._room.register(sock, select.EPOLLOUT)
            self._watched = sock
        elif self._watched is sock and not self._writer.is_unfinished:
            self._room.unregister(sock)
            self._watched = None

    def _finish_frame(self) -> bool:
        sock = self._peer.sock
        if sock is not None and self._writer.is_unfinished:
            try:
                self._writer.finish(sock)
            except OSError:  # EPIPE, ECONNRESET, ETIMEDOUT
                self._break(sock)
            self._watch_room(sock)
        return False

    def room_descriptor(self) -> int:
        return self.descriptor

    def bytes_queued(self) -> int:
        return 0

    # What kind of port it is

    def is_same(self, other: Port) -> bool:
        if not isinstance(other, StreamSocket):
            return False
        if isinstance(self.address, str) and isinstance(other.address, str):
            path, second = self.address, other.address
            return os.path.realpath(path) == os.path.realpath(second)
        return self.address == other.address

    @property
    def makes_path(self) -> bool:
        return self.listens and isinstance(self.address, str)

    @property
    def tells_of_peers(self) -> bool:
        return True

    @property
    def mtu(self) -> int:
        """0: no super-frames."""
        return 0

    def missing(self) -> str | None:
        return self._peer.missing() if self._peer.sock is None else None

    def tend(self) -> bool:
        return self._peer.tend()

    @property
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        return {
            **self._peer.readers,
            self._room.fileno(): self._finish_frame,
        }

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

    def finish(self) -> None:
        """Nothing to do: the kernel has all frames, except for the rest of
        one, which the peer cannot get any more."""
