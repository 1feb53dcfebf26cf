"""What interfaces and sockets have in common."""

import errno
import fcntl
import os
import socket
import struct
from typing import Final

from ..._command.grammar import PortError
from ..._queue import bytes_queued
from ..._rawmmsg import RawSocket, _GuestRings
from ...constants import PACKET_QDISC_BYPASS, SOL_PACKET
from .port import Port

__all__ = ["SocketPort"]

_ETHERNET: Final = 1  # ARPHRD_ETHER, linux/if_arp.h
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40


class SocketPort(Port):
    """A port with one socket, `sock`, from open() until close()."""

    sock: RawSocket

    # That of the interface when the port was opened or tended. 0: the port is
    # not an interface.
    mtu: int = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # Frames that the kernel did not deliver, because an offload header
        # cannot describe them (EINVAL).
        self.lost = 0

    @property
    def is_interface(self) -> bool:
        return self.sock.family == socket.AF_PACKET

    @property
    def has_offloads(self) -> bool:
        return bool(self.sock.vnet_hdr)

    @property
    def may_truncate(self) -> bool:
        return True

    @property
    def takes_super_frames(self) -> bool:
        """If its socket bypasses the queueing discipline, the kernel drops
        super-frames that the device cannot cut
        (net/core/dev.c:__dev_direct_xmit())."""
        return self.has_offloads and not self.sock.getsockopt(
            SOL_PACKET, PACKET_QDISC_BYPASS
        )

    @property
    def has_end(self) -> bool:
        return self.sock.type == socket.SOCK_SEQPACKET

    def missing(self) -> str | None:
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

    def is_same(self, other: Port) -> bool:
        if not isinstance(other, SocketPort):
            return False
        if not (self.is_interface and other.is_interface):
            # Duplicates of a descriptor have the same inode.
            return os.path.sameopenfile(
                self.sock.fileno(), other.sock.fileno()
            )
        if not self.index or self.index != other.index:
            return False
        return self._namespace() == other._namespace()

    @property
    def index(self) -> int:
        """That of the interface. 0: there is none."""
        return self.sock.ifindex or 0

    def _namespace(self) -> bytes:
        """Returns an identifier of the network namespace. An ifindex is
        unique only within one."""
        try:
            return self.sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return b""  # before Linux 5.14

    def receive_to(self, rings: _GuestRings) -> int:
        """Receives frames into the memory of a guest."""
        return rings.receive(self.sock)

    def send_from(self, rings: _GuestRings) -> int:
        """Sends frames from the memory of a guest."""
        return rings.send(self.sock)

    @property
    def descriptor(self) -> int:
        return self.sock.fileno()

    def room_descriptor(self) -> int:
        return self.sock.fileno()

    def bytes_queued(self) -> int:
        return bytes_queued(self.sock)

    def can_receive_after(self, error: OSError) -> bool:
        if not self.is_interface:
            return False
        if error.errno == errno.EINVAL:
            self.lost += 1
        elif error.errno == errno.EAGAIN:
            return False
        elif error.errno != errno.ENETDOWN:  # frames arrive when it is up
            raise error
        return True

    def tend(self) -> bool:
        if self.sock.interface is None:
            return False
        # poll(2) reports nothing if the interface was down before.
        if not self.sock.getsockname()[0]:
            raise OSError(
                errno.ENODEV, os.strerror(errno.ENODEV), self.sock.interface
            )
        self.mtu = self.sock.mtu or 0
        return False

    @property
    def strangers(self) -> int:
        return self.sock.strangers

    # The socket receives for one direction and sends for the other, so its
    # own counters are those of the directions.

    @property
    def received(self) -> int:
        return self.sock.statistics().packets_received

    @property
    def batches(self) -> int:
        return self.sock.statistics().batches_received

    @property
    def kernel_drops(self) -> int | None:
        dropped = self.sock.statistics().packets_dropped
        return None if dropped is None else dropped + self.lost

    @property
    def sent(self) -> int:
        return self.sock.statistics().packets_sent

    def finish(self) -> None:
        """Nothing to do: the kernel has all frames."""

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
        self.recvmmsg_into = sock.recvmmsg_into
        self.sendmmsg = sock.sendmmsg
