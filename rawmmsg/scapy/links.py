"""One interface of a Scapy socket: receives its frames in batches, and sends
them."""

import errno
import time
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import Final, TypeAlias

from scapy.config import conf
from scapy.data import ETH_P_ALL
from scapy.error import Scapy_Exception, warning
from scapy.packet import Packet

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf

BATCH_SIZE: Final = 128
"""How many frames one system call receives, at most."""

_DEFAULT_BUFFER: Final = 2**16  # conf.bufsize unless a user changes it

# Sockets share batches, because frames are copied out of a batch at once: 128
# frames of the largest size take 9 MB of address space.
_spare_batches: Final[deque[PacketBatch]] = deque(maxlen=4)


class FilterError(bpf.FilterError, Scapy_Exception):
    """The filter is wrong. Callers of rawmmsg and of Scapy both catch it by
    the name that they know."""


def whole_filter(filter: str | bytes | None) -> str | bytes | None:
    """Returns the filter, with conf.except_filter added, by which users hide
    their own traffic."""
    if not conf.except_filter:
        return filter
    if not filter:
        return f"not ({conf.except_filter})"
    if not isinstance(filter, str):
        raise ValueError(
            "conf.except_filter cannot be added to a compiled filter: pass an"
            " expression, or set conf.except_filter to None"
        )
    return f"({filter}) and not ({conf.except_filter})"


class Link:
    """The packet sockets on one interface. `layer` reads its frames, which
    begin at the link layer (`level` 2) or the network layer (3).

    There is one socket for receiving, which never waits, and one for sending,
    which does.
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
        self._timestamps = timestamps
        try:
            self.receiver = RawSocket(
                interface,
                protocol=protocol,
                filter=filter,
                promisc=promisc,
                ignore_outgoing=ignore_outgoing,
                # For any other protocol the kernel discards the tag.
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
        assert number is not None  # the socket is on one interface
        layer = conf.l2types.num2layer.get(number)
        if layer is not None:
            return layer, 2
        layer = conf.l3types.num2layer.get(self._protocol)
        if layer is not None:
            return layer, 3
        layer = conf.default_l2
        warning(
            "no layer is known for %s (link type %s, protocol %#x): using %s",
            self.interface,
            number,
            self._protocol,
            layer.name,
        )
        return layer, 2

    def covers(self, protocol: int) -> bool:
        """Whether a packet of the protocol may leave by this link, because
        the link also receives the answer. ETH_P_ALL stands for a protocol that
        is not known: such a packet may leave by any link, because one more
        link would receive packets twice."""
        return self._protocol in (protocol, ETH_P_ALL) or protocol == ETH_P_ALL

    def receive(self) -> "Iterable[Frame]":
        """Receives the frames that wait. Their time is the kernel's stamp, or
        when the batch arrived. Raises what receive_into() raises."""
        try:
            batch = _spare_batches.pop()
        except IndexError:
            batch = PacketBatch(BATCH_SIZE, SUPER_FRAME)
        try:
            count = self.receive_into(batch)
            if not count:
                return ()
            now = time.time()
            times: Iterable[float] = repeat(now)
            if self._timestamps:
                stamps = batch.timestamps_ns
                times = [ns / 1e9 if ns else now for ns in stamps[:count]]
            return zip(repeat(self), batch.tolist(), times, strict=False)
        finally:
            _spare_batches.append(batch)

    def receive_into(self, batch: PacketBatch) -> int:
        """Receives the frames that wait, and returns how many; 0 if the link
        has just gone down. (The socket works again when the link is up.)

        Raises BlockingIOError if no frame waits, EOFError if the socket is
        closed, and OSError otherwise.
        """
        try:
            return self.receiver.recvmmsg_into(batch)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.ENETDOWN:
                return 0
            if error.errno == errno.EBADF:
                raise EOFError("the socket is closed") from None
            raise

    def send(self, frame: bytes) -> int:
        """Sends a frame and returns its length. If it is shorter than the link
        header, it is padded, as in Scapy."""
        if self.sender is None:
            raise Scapy_Exception("a listening socket cannot send")
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


Frame: TypeAlias = tuple[Link, bytes, float]
"""The link that received a frame, the frame's bytes, and its time."""


def _receive_buffer() -> int | None:
    """Returns the size that a user has set. Scapy's default is not used: it
    holds only some 90 small frames."""
    return conf.bufsize if conf.bufsize > _DEFAULT_BUFFER else None
