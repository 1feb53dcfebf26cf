"""What a bridge can be put between."""

import errno
import fcntl
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ..._rawmmsg import PacketBatch, RawSocket

__all__ = ["Port", "PortClosed", "PortError"]

_ETHERNET: Final = 1  # ARPHRD_ETHER, linux/if_arp.h
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40


class PortError(ValueError):
    """Words that name no port, or one that a bridge cannot use."""


class PortClosed(Exception):
    """The peer of a port has closed its socket, for good."""


class Port(ABC):
    """One side of the bridge. `sock` and `sendmmsg` are there from open() to
    close()."""

    sock: RawSocket
    sendmmsg: Callable[[PacketBatch, int], int]

    def __init__(self, name: str) -> None:
        self.name = name
        # Frames that the kernel could not hand over: no offload header tells
        # what they are (EINVAL).
        self.lost = 0

    @abstractmethod
    def open(self, expression: str | None) -> None:
        """Opens it, for frames that the filter accepts.

        OSError, FilterError, or PortError where it is no port for Ethernet
        frames; nothing is left open then.
        """

    @property
    def is_interface(self) -> bool:
        return self.sock.family == socket.AF_PACKET

    @property
    def has_end(self) -> bool:
        """Whether an empty message means that the peer has closed."""
        return self.sock.type == socket.SOCK_SEQPACKET

    def missing(self) -> str | None:
        """Why no frame passes yet, if that is known."""
        if not self.is_interface or self.sock.interface is None:
            return None
        flags = self._interface_flags()
        if not flags & _IFF_UP:
            return f"{self.sock.interface} is down"
        if not flags & _IFF_RUNNING:
            return f"{self.sock.interface} has no carrier"
        return None

    def _interface_flags(self) -> int:
        name = self.sock.getsockname()[0]
        request = struct.pack("16s24x", os.fsencode(name))
        answer = fcntl.ioctl(self.sock.fileno(), _SIOCGIFFLAGS, request)
        return int(struct.unpack_from("16xH", answer)[0])

    def is_same(self, other: "Port") -> bool:
        """Whether both are one socket, or sockets of one interface."""
        if not (self.is_interface and other.is_interface):
            # A socket has an inode of its own, a duplicate the same.
            return os.path.sameopenfile(
                self.sock.fileno(), other.sock.fileno()
            )
        return (
            self.sock.ifindex == other.sock.ifindex
            and self._namespace() == other._namespace()
        )

    def _namespace(self) -> bytes:
        """Tells network namespaces apart, each of which numbers interfaces
        from 1."""
        try:
            return self.sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return b""  # before Linux 5.14

    def is_peer(self, address: object) -> bool:
        """Whether the port takes frames of a sender that the kernel names in
        this way; asked for each that is flagged as FOREIGN."""
        return True

    def room_descriptor(self) -> int:
        """What can be written (POLLOUT) when it is worth sending again, after
        EAGAIN."""
        return self.sock.fileno()

    def tend(self) -> None:
        """What there is to do a few times a second. OSError ENODEV where an
        interface has disappeared."""
        # An interface that was down before leaves no event behind.
        if self.sock.interface is not None and not self.sock.getsockname()[0]:
            raise OSError(
                errno.ENODEV, os.strerror(errno.ENODEV), self.sock.interface
            )

    def close(self) -> None:
        self.sock.close()

    def take(self, sock: RawSocket) -> None:
        """Makes it the port's, or closes it."""
        if sock.family == socket.AF_PACKET and sock.link_type != _ETHERNET:
            sock.close()
            raise PortError(f"{self.name}: not an Ethernet interface")
        sock.setblocking(False)
        self.sock = sock
        self.sendmmsg = sock.sendmmsg
