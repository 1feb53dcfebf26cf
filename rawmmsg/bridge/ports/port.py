"""What all kinds of ports have in common."""

import errno
import fcntl
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ..._rawmmsg import PacketBatch, RawSocket
from ...constants import PACKET_QDISC_BYPASS, SOL_PACKET

__all__ = ["Port", "PortClosed", "PortError"]

_ETHERNET: Final = 1  # ARPHRD_ETHER, linux/if_arp.h
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40


class PortError(ValueError):
    """The name is not that of a port, or the bridge cannot use the port."""


class PortClosed(Exception):
    """The peer of a port has closed the connection."""


class Port(ABC):
    """One side of a bridge. It has `sock` and `sendmmsg` from open() until
    close()."""

    sock: RawSocket
    sendmmsg: Callable[[PacketBatch, int], int]

    def __init__(self, name: str) -> None:
        self.name = name
        # That of the interface when the port was opened or tended. 0: the port
        # is not an interface.
        self.mtu = 0
        # Frames that the kernel did not deliver, because an offload header
        # cannot describe them (EINVAL).
        self.lost = 0

    @abstractmethod
    def open(self, expression: str | None) -> None:
        """Opens the port for frames that match the filter expression.

        Raises OSError, FilterError, or PortError if the port does not carry
        Ethernet frames. Nothing is left open then.
        """

    @property
    def is_interface(self) -> bool:
        return self.sock.family == socket.AF_PACKET

    @property
    def takes_super_frames(self) -> bool:
        """Whether the port takes super-frames. If its socket bypasses the
        queueing discipline, the kernel drops those that the device cannot cut
        (net/core/dev.c:__dev_direct_xmit())."""
        return bool(self.sock.vnet_hdr) and not self.sock.getsockopt(
            SOL_PACKET, PACKET_QDISC_BYPASS
        )

    @property
    def has_end(self) -> bool:
        """Whether an empty message means that the peer has closed the
        connection."""
        return self.sock.type == socket.SOCK_SEQPACKET

    def missing(self) -> str | None:
        """Returns why no frame can pass yet, if that is known."""
        if not self.is_interface or self.sock.interface is None:
            return None
        try:
            flags = self._interface_flags()
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None  # it was deleted, which tend() reports
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
        """Returns whether both ports are the same socket or interface."""
        if not (self.is_interface and other.is_interface):
            # Duplicates of a descriptor have the same inode.
            return os.path.sameopenfile(
                self.sock.fileno(), other.sock.fileno()
            )
        return (
            self.sock.ifindex == other.sock.ifindex
            and self._namespace() == other._namespace()
        )

    def _namespace(self) -> bytes:
        """Returns an identifier of the network namespace. An ifindex is
        unique only within one."""
        try:
            return self.sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return b""  # before Linux 5.14

    def is_peer(self, address: object) -> bool:
        """Returns whether the port takes frames from this address. It is
        called for each frame with the flag FOREIGN."""
        return True

    def room_descriptor(self) -> int:
        """Returns the descriptor to poll for POLLOUT after EAGAIN."""
        return self.sock.fileno()

    def tend(self) -> None:
        """Checks the port and reads its MTU, a few times each second. Raises
        OSError (ENODEV) if an interface has disappeared."""
        if self.sock.interface is None:
            return
        # poll(2) reports nothing if the interface was down before.
        if not self.sock.getsockname()[0]:
            raise OSError(
                errno.ENODEV, os.strerror(errno.ENODEV), self.sock.interface
            )
        self.mtu = self.sock.mtu or 0

    def close(self) -> None:
        self.sock.close()

    def take(self, sock: RawSocket) -> None:
        """Makes this the socket of the port. Closes it if the port cannot use
        it."""
        if sock.family == socket.AF_PACKET and sock.link_type != _ETHERNET:
            sock.close()
            raise PortError(f"{self.name}: not an Ethernet interface")
        try:
            self.mtu = sock.mtu or 0
        except OSError:  # the interface has just been deleted
            sock.close()
            raise
        sock.setblocking(False)
        self.sock = sock
        self.sendmmsg = sock.sendmmsg
