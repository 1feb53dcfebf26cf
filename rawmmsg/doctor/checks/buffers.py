"""Does the kernel grant the buffers that a program asks for?"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..finding import Finding, problem

__all__ = ["check"]

NAME: Final = "buffers"

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


def check(rcvbuf: int, sndbuf: int | None) -> Iterator[Finding]:
    """Asks for them on a socket of its own, because not every kernel shows
    the limits in a private network."""
    yield _examine(_RECEIVE, rcvbuf)
    if sndbuf is not None:
        yield _examine(_SEND, sndbuf)


def _examine(buffer: _Buffer, wanted: int) -> Finding:
    got, forced = _try(buffer, wanted)
    values = {"asked": wanted, "granted": got, "forced": forced}
    asked = f"{buffer.argument}={wanted:,}"
    if got >= wanted:
        by = "CAP_NET_ADMIN" if forced else buffer.limit
        message = f"{buffer.argument} of {wanted:,} bytes is granted ({by})"
        return Finding(NAME, "ok", message, None, {**values})
    return problem(
        NAME,
        f"{asked}: the kernel grants {got:,} bytes, the limit"
        f" {buffer.limit}; bursts that do not fit are lost",
        f"sysctl -w {buffer.limit}={wanted}",
        **values,
    )


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
