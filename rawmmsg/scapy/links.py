"""One interface of a Scapy socket: how its frames are received in batches,
sent, and read."""

import errno
import time
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import Final

from scapy.config import conf
from scapy.data import ETH_P_ALL
from scapy.error import Scapy_Exception, warning
from scapy.packet import Packet

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf

BATCH_SIZE: Final = 128
"""Frames that one system call receives."""

_DEFAULT_BUFFER: Final = 2**16  # conf.bufsize unless a user changes it

# Frames are copied out of a batch as soon as it is full, so that sockets can
# share: 128 frames of the largest size are 9 MB of address space.
_spare_batches: Final[deque[PacketBatch]] = deque(maxlen=4)


class FilterError(bpf.FilterError, Scapy_Exception):
    """A filter that cannot be, under both names that a caller may expect."""


def whole_filter(filter: str | bytes | None) -> str | bytes | None:
    """The filter with conf.except_filter, which hides a user's own traffic,
    taken into account."""
    if not conf.except_filter:
        return filter
    if not filter:
        return f"not ({conf.except_filter})"
    if not isinstance(filter, str):
        raise ValueError(
            "conf.except_filter cannot be joined to a compiled filter"
        )
    return f"({filter}) and not ({conf.except_filter})"


def receive(sock: RawSocket, batch: PacketBatch) -> int:
    """Receives what waits, without waiting, and returns how many.

    Raises BlockingIOError where nothing waits, EOFError where the socket is
    closed, OSError otherwise; 0: the link has just gone down. The socket works
    again when the link does.
    """
    try:
        return sock.recvmmsg_into(batch)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.ENETDOWN:
            return 0
        if error.errno == errno.EBADF:
            raise EOFError("the socket is closed") from None
        raise


class Link:
    """The sockets on one interface. `layer` reads its frames, which begin at
    the link layer (`level` 2) or the network layer (3).

    Receiving and sending have a socket each, so that the one never waits and
    the other does.
    """

    def __init__(
        self,
        interface: str,
        protocol: int,
        *,
        promisc: bool,
        filter: str | bytes | None,
        timestamps: bool,
        sends: bool,
        ignore_outgoing: bool | None,
    ) -> None:
        self.interface = interface
        self._protocol = protocol
        try:
            self.receiver = RawSocket(
                interface,
                protocol=protocol,
                filter=filter,
                promisc=promisc,
                ignore_outgoing=ignore_outgoing,
                # Only then does the kernel leave the tag to be restored.
                vlan=protocol == ETH_P_ALL,
                timestamps="software" if timestamps else None,
                rcvbuf=_receive_buffer(),
            )
        except bpf.FilterError as error:
            raise FilterError(
                error.reason, error.expression, error.position
            ) from error
        self.receiver.setblocking(False)
        self.sender: RawSocket | None = None
        try:
            if sends:
                self.sender = RawSocket(interface, protocol=0)
            self.layer, self.level = self._find_layer()
        except BaseException:
            self.close()
            raise

    def _find_layer(self) -> tuple[type[Packet], int]:
        number = self.receiver.link_type
        assert number is not None  # as of a socket on all interfaces
        layer = conf.l2types.num2layer.get(number)
        if layer is not None:
            return layer, 2
        layer = conf.l3types.num2layer.get(self._protocol)
        if layer is not None:
            return layer, 3
        layer = conf.default_l2
        warning(
            "Unable to guess the layer of %s (link type %s, protocol %#x):"
            " using %s",
            self.interface,
            number,
            self._protocol,
            layer.name,
        )
        return layer, 2

    def covers(self, protocol: int) -> bool:
        """Whether a packet of the protocol may leave here, and its answer be
        received. One of ETH_P_ALL, which no protocol of layer 3 stands for,
        may leave anywhere: another link would receive packets twice."""
        return self._protocol in (protocol, ETH_P_ALL) or protocol == ETH_P_ALL

    def receive(self) -> Iterable[tuple["Link", bytes, float]]:
        """What waits, each frame with its time: the kernel's stamp, or when
        the batch arrived. Raises as receive() does."""
        try:
            batch = _spare_batches.pop()
        except IndexError:
            batch = PacketBatch(BATCH_SIZE, SUPER_FRAME)
        try:
            count = receive(self.receiver, batch)
            if not count:
                return ()
            now = time.time()
            stamps = batch.timestamps_ns
            times = (
                repeat(now)
                if stamps is None
                else [ns / 1e9 if ns else now for ns in stamps[:count]]
            )
            return zip(repeat(self), batch.tolist(), times, strict=False)
        finally:
            _spare_batches.append(batch)

    def send(self, frame: bytes) -> int:
        """Sends a frame, padded where it is shorter than a link header, as
        Scapy does; returns the bytes sent."""
        if self.sender is None:
            raise Scapy_Exception("a socket that listens does not send")
        try:
            self.sender.sendmmsg_all([frame])
        except OSError as error:
            least = conf.min_pkt_size
            if error.errno != errno.EINVAL or len(frame) >= least:
                raise
            frame = frame.ljust(least, b"\0")
            self.sender.sendmmsg_all([frame])
        return len(frame)

    def close(self) -> None:
        self.receiver.close()
        if self.sender is not None:
            self.sender.close()


def _receive_buffer() -> int | None:
    """What a user has set; Scapy's own default holds some 90 small frames."""
    return conf.bufsize if conf.bufsize > _DEFAULT_BUFFER else None
