"""Unix datagram sockets."""

import errno
import select
import socket
from contextlib import ExitStack
from functools import partial

from ..._command.grammar import PortError
from ..._rawmmsg import RawSocket
from .. import filters
from .paths import Access, OwnPath, check_path, same_socket
from .sockets import SocketPort

__all__ = ["UnixSocket"]


class UnixSocket(SocketPort):
    """unix:LOCAL,REMOTE: datagrams between two paths."""

    def __init__(
        self, name: str, local: str, remote: str, access: Access
    ) -> None:
        super().__init__(name)
        for path in (local, remote):
            check_path(name, path)
        self.remote = remote
        self._local = OwnPath(local, access)
        # Never sends. It is connected to the peer to see when the peer's queue
        # has room, and which path the peer has given to bind(2).
        self._room: socket.socket

    def open(self, expression: str | None) -> None:
        program = filters.for_datagrams(expression)
        with ExitStack() as opened:
            plain = opened.enter_context(_datagram_socket())
            self._local.bind(plain)
            opened.callback(self._local.unlink)
            if self._local.is_at(self.remote):
                raise PortError(f"{self.name}: both paths are the same")
            self._room = opened.enter_context(_datagram_socket())
            self.take(
                RawSocket(
                    fileno=plain.fileno(), filter=program, addresses=True
                )
            )
            plain.detach()
            opened.pop_all()
        # The socket is never connected: if it were, a peer that has been
        # restarted would get EPERM (net/unix/af_unix.c:unix_may_send()).
        self.sock.peer = self.remote
        self.sendmmsg = partial(self.sock.sendmmsg, addresses=self.remote)

    @property
    def makes_path(self) -> bool:
        return True

    def missing(self) -> str | None:
        try:
            self._room.connect(self.remote)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return f"nobody has opened {self.remote}"
            if error.errno != errno.EPERM:  # it is connected to LOCAL
                return f"{self.remote}: {error.strerror}"
        return None

    def is_peer(self, address: object) -> bool:
        """Returns whether the sender's socket is at REMOTE.

        Its address is the path that it has given to bind(2), which may be
        relative to its working directory. REMOTE can be another path to the
        same socket.
        """
        if not isinstance(address, str):
            return False
        try:
            self._room.connect(self.remote)
            is_same = bool(self._room.getpeername() == address)
        except OSError:
            # The peer has gone, or accepts messages only from LOCAL.
            is_same = same_socket(address, self.remote)
        if is_same:
            self.sock.peer = address
        return is_same

    def room_descriptor(self) -> int:
        """A socket that is not connected is writable even if the peer's queue
        is full. A socket that is connected to the peer is writable only if the
        queue has room."""
        own = self.sock.fileno()
        poll = select.poll()
        poll.register(own, select.POLLOUT)
        if not poll.poll(0):
            return own
        try:
            # To the socket that is at REMOTE now.
            self._room.connect(self.remote)
        except OSError:
            # The peer has gone, or accepts messages only from LOCAL. Then the
            # only limit is the send buffer of LOCAL.
            return own
        return self._room.fileno()

    def close(self) -> None:
        self._local.unlink()
        self._room.close()
        super().close()


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
