"""One peer at a time, over a UNIX or TCP stream socket."""

import errno
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from ..._command.grammar import PortError
from ..._limited import Limited
from .paths import Access, OwnPath

__all__ = ["Address", "Connecting", "Connections", "Listening"]

# A TCP peer whose machine is gone says nothing. After 10 s of silence the
# kernel asks, three times, 5 s apart.
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
)

# It does not ask while bytes are not acknowledged: it sends them again, for a
# quarter of an hour (tcp(7), tcp_retries2). We give up after so many times,
# which are 25 s at least. TCP_USER_TIMEOUT would also end the connection with
# a virtual machine that is paused, and so takes no frames
# (net/ipv4/tcp_timer.c:tcp_probe_timer()).
RETRANSMISSIONS: Final = 7
_RETRANSMITS: Final = 2  # offset of tcpi_retransmits, linux/tcp.h

Address = str | tuple[str, int]
"""A path, or a host and a TCP port."""


def _text(address: Any) -> str:
    if isinstance(address, str):
        return address
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connections(ABC):
    """Has a connection, `sock`, while there is a peer. No call waits.

    `report` is called with problems, `notice` with what else the user may want
    to know. `begin` is called for a new connection.
    """

    def __init__(
        self,
        address: Address,
        report: Callable[[str], None],
        notice: Callable[[str], None],
        begin: Callable[[], None],
    ) -> None:
        self.address = address
        self.report = Limited(report)
        self.notice = Limited(notice)
        self._begin_frames = begin
        self.sock: socket.socket | None = None
        self._opened = ExitStack()

    @abstractmethod
    def open(self) -> None:
        """Raises OSError, or PortError for an address that is wrong."""

    def close(self) -> None:
        self.end()
        self._opened.close()

    @abstractmethod
    def missing(self) -> str:
        """Returns why there is no peer, if there is none."""

    @property
    @abstractmethod
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        """As `Port.readers`."""

    def tend(self) -> bool:
        """As `Port.tend`."""
        if self.sock is None or not _is_out_of_reach(self.sock):
            return False
        self.end()
        return True

    def end(self) -> None:
        """Closes the connection, if there is one."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()
            self.notice("the peer has disconnected")

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.sock = sock
        self._begin_frames()
        self.notice("a peer has connected")

    def _has_hung_up(self) -> bool:
        """Whether the peer has closed the connection, even if some of its
        frames were not read yet."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))


class Listening(Connections):
    """Peers connect to us. A second one is refused."""

    def __init__(
        self,
        address: Address,
        access: Access,
        report: Callable[[str], None],
        notice: Callable[[str], None],
        begin: Callable[[], None],
    ) -> None:
        super().__init__(address, report, notice, begin)
        self._access = access
        self._listener: socket.socket
        self._accepts = True

    def open(self) -> None:
        with ExitStack() as opened:
            family, address = _resolve(self.address, listens=True)
            self._listener = opened.enter_context(
                socket.socket(family, socket.SOCK_STREAM)
            )
            self._listener.setblocking(False)
            if family == socket.AF_UNIX:
                path = OwnPath(address, self._access)
                path.bind(self._listener)
                # Before the listener is closed: then another file could get
                # the number of its inode.
                opened.callback(path.unlink)
            else:
                # For a port that connections of an earlier bridge have used.
                self._listener.setsockopt(
                    socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                )
                self._listener.bind(address)
            self._listener.listen()
            self._opened = opened.pop_all()

    def missing(self) -> str:
        return f"no peer has connected to {_text(self.address)}"

    @property
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        return {self._listener.fileno(): self._accept} if self._accepts else {}

    def tend(self) -> bool:
        has_changed = super().tend() or not self._accepts
        self._accepts = True
        return has_changed

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return False
        except OSError as error:
            # Too many open files, for example. The listener stays readable.
            self.report(f"a connection was refused: {error.strerror}")
            self._accepts = False
            return True
        if self._has_hung_up():
            self.end()  # the peer was restarted: it is not a second one
        if self.sock is not None:
            sock.close()
            self.report(
                "a second connection was refused, because a peer is connected"
            )
            return False
        self._begin(sock)
        return True


class Connecting(Connections):
    """We connect to a peer that listens, again and again."""

    def __init__(
        self,
        address: Address,
        report: Callable[[str], None],
        notice: Callable[[str], None],
        begin: Callable[[], None],
    ) -> None:
        super().__init__(address, report, notice, begin)
        self._begun: socket.socket | None = None
        self._family: int = socket.AF_UNIX
        self._peer: Any = None
        # poll(2) tells when a connection has been made by POLLOUT, and
        # `readers` are those of POLLIN. An epoll is readable when one of its
        # events has happened.
        self._made: select.epoll

    def open(self) -> None:
        self._family, self._peer = _resolve(self.address, listens=False)
        with ExitStack() as opened:
            self._made = select.epoll()
            opened.callback(self._made.close)
            opened.callback(self._give_up)
            self._connect()
            self._opened = opened.pop_all()

    def missing(self) -> str:
        return f"no peer listens at {_text(self.address)}"

    @property
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        return {self._made.fileno(): self._finish}

    def tend(self) -> bool:
        if super().tend():
            return True
        if self.sock is not None or self._begun is not None:
            return False
        self._connect()
        return self.sock is not None

    def _connect(self) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        error = sock.connect_ex(self._peer)
        if not error:
            self._begin(sock)
        elif error == errno.EINPROGRESS:
            self._begun = sock
            self._made.register(sock, select.EPOLLOUT)
        else:
            # Nobody listens, or the queue of the listener is full (EAGAIN).
            sock.close()

    def _give_up(self) -> None:
        sock, self._begun = self._begun, None
        if sock is not None:
            sock.close()

    def _finish(self) -> bool:
        """Ends an attempt, with or without success."""
        sock = self._begun
        if sock is None or not self._made.poll(0):
            return False
        try:
            # If nobody listens on this machine, the kernel may choose the
            # peer's number as our own (a simultaneous open of TCP).
            is_peer = sock.getsockname() != sock.getpeername()
        except OSError:  # ENOTCONN: it was refused
            is_peer = False
        if not is_peer:
            self._give_up()
            return False
        self._made.unregister(sock)
        self._begun = None
        self._begin(sock)
        return True


def _is_out_of_reach(sock: socket.socket) -> bool:
    """Returns whether the peer has acknowledged nothing for long, although
    something was sent."""
    if sock.family == socket.AF_UNIX:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    return info[_RETRANSMITS] >= RETRANSMISSIONS


def _resolve(
    address: Address, listens: bool
) -> tuple[socket.AddressFamily, Any]:
    """Returns the family and the address for bind(2) or connect(2)."""
    if isinstance(address, str):
        return socket.AF_UNIX, address
    host, port = address
    try:
        found = socket.getaddrinfo(
            host or None,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE if listens else 0,
        )
    except UnicodeError:  # from IDNA: a label is empty or too long
        raise PortError(f"{host!r}: not a valid host name") from None
    family, _, _, _, first = found[0]
    return family, first
