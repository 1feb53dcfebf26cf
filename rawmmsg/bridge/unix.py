"""A port that is a datagram socket between two paths."""

import contextlib
import errno
import os
import socket
import stat
from typing import Final

from .._rawmmsg import RawSocket
from . import filters
from .port import Port, PortError

__all__ = ["UnixSocket"]

_PATH_SIZE: Final = 108  # sun_path, linux/un.h


class UnixSocket(Port):
    """unix:LOCAL,REMOTE, datagrams between two paths."""

    def __init__(self, name: str, local: str, remote: str) -> None:
        super().__init__(name)
        for path in (local, remote):
            if len(os.fsencode(path)) >= _PATH_SIZE:
                raise PortError(f"{name}: a path is too long for a socket")
        self.local = local
        self.remote = remote
        self._ours: os.stat_result | None = None
        self._connected: os.stat_result | None = None

    def open(self, expression: str | None) -> None:
        program = filters.for_datagrams(expression)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
            _bind_path(plain, self.local)
            self._ours = _look_at(self.local)
            try:
                if self._is_ours(self.remote):
                    raise PortError(f"{self.name}: its own peer")
                self.take(RawSocket(fileno=plain.fileno(), filter=program))
            except BaseException:
                self._unlink()
                raise
            plain.detach()
        self.tend()

    def tend(self) -> None:
        """Connects to who is at REMOTE now. Nothing tells that it is another
        one than before, and until then we would get nothing from it
        (net/unix/af_unix.c:unix_may_send())."""
        found = _look_at(self.remote)
        if found is None:
            return
        plain = socket.socket(fileno=self.sock.fileno())
        try:
            if not (_is_same(found, self._connected) and _has_peer(plain)):
                plain.connect(self.remote)
                self._connected = found
        except OSError:
            self._connected = None  # it will be tried again
        finally:
            plain.detach()

    def close(self) -> None:
        self._unlink()
        super().close()

    def _unlink(self) -> None:
        """Removes our end, if it is still ours."""
        if self._is_ours(self.local):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.local)

    def _is_ours(self, path: str) -> bool:
        """Whether it is what we have made at LOCAL, whatever its owner and
        mode by now: its number is not given away while we have it open."""
        found = _look_at(path)
        return (
            found is not None
            and self._ours is not None
            and os.path.samestat(found, self._ours)
        )


def _look_at(path: str) -> os.stat_result | None:
    """None where there is nothing to be seen."""
    try:
        return os.stat(path)
    except OSError:
        return None


def _is_same(one: os.stat_result, other: os.stat_result | None) -> bool:
    """Whether it is the same file. The number alone does not tell: a file
    system gives that of a removed one to the next."""
    return (
        other is not None
        and os.path.samestat(one, other)
        and one.st_ctime_ns == other.st_ctime_ns
    )


def _has_peer(sock: socket.socket) -> bool:
    """Whether it is connected. A frame that finds its peer dead ends that."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _bind_path(sock: socket.socket, path: str) -> None:
    """Binds it, in the place of a socket that nobody has open any more."""
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
