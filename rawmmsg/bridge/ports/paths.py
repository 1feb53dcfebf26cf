"""Paths that the bridge's own sockets are bound to."""

import contextlib
import errno
import grp
import os
import pwd
import re
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ..._command.grammar import PortError

__all__ = [
    "Access",
    "OwnPath",
    "check_path",
    "parse_mode",
    "parse_owner",
    "same_socket",
]

_PATH_SIZE: Final = 108  # sun_path, linux/un.h


@dataclass(frozen=True)
class Access:
    """Who may use the path. A mode of None leaves it to the umask; user or
    group -1 is that of the bridge's process."""

    mode: int | None = None
    user: int = -1
    group: int = -1


def parse_mode(text: str) -> int:
    """Converts octal digits. Raises ValueError."""
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ValueError(f"{text!r} is not an octal mode, such as 660")
    return int(text, 8)


def parse_owner(text: str) -> tuple[int, int]:
    """Converts USER, USER:GROUP or :GROUP to a uid and a gid. -1 means that
    one is not given. Raises ValueError."""
    user, _, group = text.partition(":")
    try:
        if not (user or group):
            raise KeyError
        return (
            _look_up(user, lambda: pwd.getpwnam(user).pw_uid),
            _look_up(group, lambda: grp.getgrnam(group).gr_gid),
        )
    except KeyError:
        raise ValueError(
            f"{text!r}: this machine has no such user or group"
        ) from None


def _look_up(name: str, find: Callable[[], int]) -> int:
    if not name:
        return -1
    return int(name) if re.fullmatch(r"[0-9]{1,9}", name) else find()


def check_path(name: str, path: str) -> None:
    """Raises PortError if no socket can have this path. `name`: of the
    port."""
    if len(os.fsencode(path)) >= _PATH_SIZE:
        raise PortError(
            f"{name}: the path is too long for a socket (at most"
            f" {_PATH_SIZE - 1} bytes)"
        )


class OwnPath:
    """A path that exists from bind() until unlink()."""

    def __init__(self, path: str, access: Access) -> None:
        self._path = path
        self._access = access
        self._ours: os.stat_result | None = None

    def bind(self, sock: socket.socket) -> None:
        """Binds the socket. Replaces a path whose socket nobody has open.
        Leaves no path behind if it raises OSError."""
        with _creating(sock, self._access.mode):
            _bind_path(sock, self._path)
        self._ours = _look_at(self._path)
        try:
            self._give_away()
        except OSError:
            self.unlink()
            raise

    def _give_away(self) -> None:
        user, group = self._access.user, self._access.group
        if (user, group) != (-1, -1):
            os.chown(self._path, user, group, follow_symlinks=False)

    def is_at(self, path: str) -> bool:
        """Returns whether this path is the socket that bind() made. Its inode
        number cannot be reused while the socket is open."""
        found = _look_at(path)
        return (
            found is not None
            and self._ours is not None
            and os.path.samestat(found, self._ours)
        )

    def unlink(self) -> None:
        """Removes the path, unless somebody has replaced it."""
        if self.is_at(self._path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def same_socket(path: str, other: str) -> bool:
    """Returns whether both paths exist and are the same."""
    found, second = _look_at(path), _look_at(other)
    return (
        found is not None
        and second is not None
        and os.path.samestat(found, second)
    )


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
