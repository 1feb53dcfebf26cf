"""The kernel's verdict, without privileges: the program is attached to one end
of a datagram socketpair.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from types import TracebackType

SO_ATTACH_FILTER = 26


def attach(sock: socket.socket, program: bytes) -> None:
    """SO_ATTACH_FILTER of an array of struct sock_filter."""
    memory = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HP", len(program) // 8, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)


class Filtered:
    """A socketpair whose reading end has a filter."""

    def __init__(self) -> None:
        self.writer, self.reader = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_DGRAM
        )
        self.reader.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.writer.setsockopt(socket.SOL_SOCKET, option, 1 << 20)

    def __enter__(self) -> Filtered:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.writer.close()
        self.reader.close()

    def attach(self, program: bytes) -> None:
        """Replace the filter."""
        attach(self.reader, program)

    def delivered(self, packet: bytes) -> bytes | None:
        """What the reader receives of ``packet``. None if it is rejected."""
        self.writer.send(packet)
        try:
            return self.reader.recv(1 << 17)
        except BlockingIOError:
            return None
