"""A port for PTF, p4lang's packet test framework, that receives in batches.

PTF opens its ports with the class that its configuration names:

    config["dataplane"] = {"portclass": RawMmsgPort}

send_packet(), verify_packet() and all others give the same results as on
PTF's own ports. Needs PTF 0.12 or later (the extra `ptf`), which imports it.
"""

import errno
import fcntl
import select
import struct
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Self

from . import VLAN_RESTORED, PacketBatch, RawSocket
from ._events import Readiness

__all__ = ["RawMmsgPort"]

_TAG: Final = 4  # bytes of a VLAN tag

# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_IFREQ: Final = struct.Struct("16sH14x")


class RawMmsgPort:
    """One interface of PTF's data plane, in place of DataPlanePortLinux.

    Two entries of `config` count. `socket_recv_size` (4096): a longer frame is
    cut to so many bytes, and 4 more if the kernel had stripped its VLAN tag.
    `qlen` (100): the port holds about as many frames; further ones stay in the
    socket, whose buffer is 8 MiB, or net.core.rmem_max without CAP_NET_ADMIN.

    The interface may be down. Raises what RawSocket() raises.
    """

    def __init__(
        self, interface: str, device: int, port: int, config: Mapping[str, Any]
    ) -> None:
        self._interface = interface
        self._numbers = device, port
        self._size: int = config.get("socket_recv_size", 4096)
        self._limit: int = config.get("qlen", 100)
        self._batch = PacketBatch(128, self._size + _TAG)
        self._frames: deque[tuple[bytes, float]] = deque()
        # A single one, because two would receive what each other sends.
        self._socket = RawSocket(
            interface, promisc=True, timestamps="software", allow_down=True
        )
        weakref.finalize(self, self._socket.close)  # PTF only forgets a port
        self._socket.setblocking(False)
        self._readiness = Readiness([self._socket])

    def fileno(self) -> int:
        """Returns a descriptor that is readable while recv() has frames."""
        return self._readiness.fileno()

    def get_packet_source(self) -> Self:
        """Returns the port itself: PTF calls its fileno() and recv()."""
        return self

    def recv(self) -> tuple[int, int, bytes, float] | None:
        """Returns the next frame: the numbers of device and port, the bytes,
        and the time when the kernel received it. Never waits: returns None if
        there is no frame. Raises OSError ENODEV if the interface is gone."""
        if len(self._frames) < self._limit:
            self._receive()
        frame = self._frames.popleft() if self._frames else None
        self._readiness.follow(self._frames)
        return frame and (*self._numbers, *frame)

    def _receive(self) -> None:
        batch, size, now = self._batch, self._size, time.time()
        try:
            self._socket.recvmmsg_into(batch)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENETDOWN):
                return
            raise
        columns = batch.tolist(), batch.flags, batch.timestamps_ns
        for data, flags, stamp in zip(*columns, strict=False):
            end = size + _TAG if flags & VLAN_RESTORED else size
            self._frames.append((data[:end], stamp / 1e9 if stamp else now))

    def send(self, packet: bytes) -> int:
        """Sends a frame, and returns its length. Waits while the send buffer
        is full; raises what RawSocket.send() raises otherwise."""
        while True:
            try:
                return self._socket.send(packet)
            except BlockingIOError:
                select.select([], [self._socket], [])

    def down(self) -> None:
        """Takes the link down; needs CAP_NET_ADMIN (else OSError EPERM)."""
        self._set_link(up=False)

    def up(self) -> None:
        """Brings the link up; needs CAP_NET_ADMIN (else OSError EPERM)."""
        self._set_link(up=True)

    def _set_link(self, *, up: bool) -> None:
        request = _IFREQ.pack(self._interface.encode(), 0)
        answer = fcntl.ioctl(self._socket, _SIOCGIFFLAGS, request)
        name, flags = _IFREQ.unpack(answer)
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(self._socket, _SIOCSIFFLAGS, _IFREQ.pack(name, flags))

    def mac(self) -> str:
        """Returns the hardware address, such as "02:00:00:00:00:01"."""
        return self._socket.getsockname()[4].hex(":")
