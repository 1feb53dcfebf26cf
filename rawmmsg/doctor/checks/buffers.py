"""Does the kernel grant the buffers that a program asks for?"""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ..finding import Finding, note, ok, problem

__all__ = ["DEFAULT_RCVBUF", "check"]

NAME: Final = "buffers"
DEFAULT_RCVBUF: Final = 8 << 20  # of RawSocket

# asm-generic/socket.h
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


@dataclass(frozen=True)
class _Buffer:
    argument: str
    option: int
    forced: int
    limit: str


_RECEIVE: Final = _Buffer(
    "rcvbuf", socket.SO_RCVBUF, _SO_RCVBUFFORCE, "net.core.rmem_max"
)
_SEND: Final = _Buffer(
    "sndbuf", socket.SO_SNDBUF, _SO_SNDBUFFORCE, "net.core.wmem_max"
)


def check(rcvbuf: int | None, sndbuf: int | None) -> Iterator[Finding]:
    """Asks for them on a socket of its own, because not every kernel shows
    the limits in a private network. Less than the default, which few kernels
    grant to everybody, is no problem."""
    if rcvbuf is None:
        yield _examine(_RECEIVE, DEFAULT_RCVBUF, note)
    else:
        yield _examine(_RECEIVE, rcvbuf, problem)
    if sndbuf is not None:
        yield _examine(_SEND, sndbuf, problem)


def _examine(
    buffer: _Buffer, wanted: int, less: Callable[..., Finding]
) -> Finding:
    got, forced = _try(buffer, wanted)
    values = {"asked": wanted, "granted": got, "forced": forced}
    if got >= wanted:
        by = "CAP_NET_ADMIN" if forced else buffer.limit
        message = f"{buffer.argument} of {wanted:,} bytes is granted ({by})"
        return ok(NAME, message, **values)
    return less(
        NAME,
        f"{buffer.argument}={wanted:,}: the kernel grants {got:,} bytes, the"
        f" limit {buffer.limit}; bursts that do not fit are lost",
        f"sysctl -w {buffer.limit}={wanted}{_where(buffer.limit)}",
        **values,
    )


def _where(limit: str) -> str:
    """Says so if the limit cannot be set in this network namespace. There is
    then no file for it, or one that nobody may write to."""
    try:
        mode = os.stat(f"/proc/sys/{limit.replace('.', '/')}").st_mode
    except OSError:
        mode = 0
    return "" if mode & stat.S_IWUSR else " (outside of this private network)"


def _try(buffer: _Buffer, wanted: int) -> tuple[int, bool]:
    """Returns the size granted, and whether privilege exceeded the limit."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        forced = True
        try:
            sock.setsockopt(socket.SOL_SOCKET, buffer.forced, wanted)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, buffer.option, wanted)
            forced = False
        # The kernel doubles the value (socket(7)).
        return sock.getsockopt(socket.SOL_SOCKET, buffer.option) // 2, forced
