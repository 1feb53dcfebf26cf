"""UDP sockets."""

import array
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from ..._command.grammar import PortError
from ..._rawmmsg import RawSocket
from .. import filters
from .sockets import SocketPort

__all__ = ["UdpSocket"]

_RECEIVE_BUFFER: Final = 8 << 20

# asm-generic/socket.h, linux/bpf_common.h
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_RCVBUFFORCE: Final = 33
_RETURN: Final = 0x06


class UdpSocket(SocketPort):
    """udp:HOST:PORT,HOST:PORT: the local and the remote address."""

    def __init__(
        self, name: str, local: tuple[str, int], remote: tuple[str, int]
    ) -> None:
        super().__init__(name)
        self.local = local
        self.remote = remote

    def open(self, expression: str | None) -> None:
        program = filters.for_udp(expression)
        family, local, remote = self._resolve()
        with socket.socket(family, socket.SOCK_DGRAM) as plain:
            # Between bind() and connect(), the kernel would queue datagrams
            # from any sender, and they would stay in the queue.
            _reject_all(plain)
            plain.bind(local)
            plain.connect(remote)
            if plain.getsockname() == plain.getpeername():
                raise PortError(f"{self.name}: both addresses are the same")
            plain.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            _enlarge_receive_buffer(plain)
            self.take(RawSocket(fileno=plain.fileno(), filter=program))
            plain.detach()

    def _resolve(self) -> tuple[socket.AddressFamily, Any, Any]:
        """Returns the family, the local and the remote address."""
        remotes = {
            family: address
            for family, _, _, _, address in reversed(_look_up(*self.remote))
        }
        for family, _, _, _, address in _look_up(*self.local):
            if family in remotes:
                return family, address, remotes[family]
        raise PortError(f"{self.name}: one address is IPv4, the other IPv6")


def _enlarge_receive_buffer(sock: socket.socket) -> None:
    """Does not use rcvbuf=, which warns if the kernel gives less."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _look_up(
    host: str, port: int
) -> Sequence[tuple[socket.AddressFamily, int, int, str, Any]]:
    """Calls getaddrinfo(3). An empty host means any address."""
    try:
        return socket.getaddrinfo(
            host or None,
            port,
            type=socket.SOCK_DGRAM,
            flags=socket.AI_PASSIVE,
        )
    except UnicodeError:  # from IDNA: a label is empty or too long
        raise PortError(f"{host!r}: not a valid host name") from None


def _reject_all(sock: socket.socket) -> None:
    """Attaches a filter that accepts nothing."""
    program = array.array("B", struct.pack("HBBI", _RETURN, 0, 0, 0))
    address, _ = program.buffer_info()
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, address)
    )
