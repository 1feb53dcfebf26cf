"""Unix datagram sockets."""

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..._rawmmsg import RawSocket
from .. import filters
from .port import Port, PortError

__all__ = ["Access", "UnixSocket"]

_PATH_SIZE: Final = 108  # sun_path, linux/un.h


@dataclass(frozen=True)
class Access:
    """Who may send to the path LOCAL. A mode of None leaves it to the umask;
    user or group -1 is that of the bridge's process."""

    mode: int | None = None
    user: int = -1
    group: int = -1


class UnixSocket(Port):
    """unix:LOCAL,REMOTE: datagrams between two paths."""

    def __init__(
        self, name: str, local: str, remote: str, access: Access
    ) -> None:
        super().__init__(name)
        for path in (local, remote):
            if len(os.fsencode(path)) >= _PATH_SIZE:
                raise PortError(
                    f"{name}: the path is too long for a socket (at most"
                    f" {_PATH_SIZE - 1} bytes)"
                )
        self.local = local
        self.remote = remote
        self.access = access
        self._ours: os.stat_result | None = None
        # Never sends. It is connected to the peer to see when the peer's queue
        # has room, and which path the peer has given to bind(2).
        self._room: socket.socket

    def open(self, expression: str | None) -> None:
        program = filters.for_datagrams(expression)
        with ExitStack() as opened:
            plain = opened.enter_context(_datagram_socket())
            with _creating(plain, self.access.mode):
                _bind_path(plain, self.local)
            self._ours = _look_at(self.local)
            opened.callback(self._unlink)
            self._give_away()
            if self._is_ours(self.remote):
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

    def _give_away(self) -> None:
        user, group = self.access.user, self.access.group
        if (user, group) != (-1, -1):
            os.chown(self.local, user, group, follow_symlinks=False)

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
            found = _look_at(address)
            remote = _look_at(self.remote)
            is_same = (
                found is not None
                and remote is not None
                and os.path.samestat(found, remote)
            )
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
        self._unlink()
        self._room.close()
        super().close()

    def _unlink(self) -> None:
        """Removes the path LOCAL, unless somebody has replaced it."""
        if self._is_ours(self.local):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.local)

    def _is_ours(self, path: str) -> bool:
        """Returns whether this path is the socket that open() made at LOCAL.
        Its inode number cannot be reused while the socket is open."""
        found = _look_at(path)
        return (
            found is not None
            and self._ours is not None
            and os.path.samestat(found, self._ours)
        )


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def _look_at(path: str) -> os.stat_result | None:
    """Returns None if the path cannot be found."""
    try:
        return os.stat(path)
    except OSError:
        return None


@contextlib.contextmanager
def _creating(sock: socket.socket, mode: int | None) -> Iterator[None]:
    """If the block binds the socket to a path, the path has this mode from the
    start: bind(2) gives it the mode of the socket's inode, less the umask
    (net/unix/af_unix.c:unix_bind_bsd())."""
    if mode is None:
        yield
        return
    os.fchmod(sock.fileno(), mode)
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _bind_path(sock: socket.socket, path: str) -> None:
    """Binds the socket. Replaces a path whose socket nobody has open."""
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_left_over(path):
            raise OSError(error.errno, error.strerror, path) from None
        os.unlink(path)
        sock.bind(path)


def _is_left_over(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False
