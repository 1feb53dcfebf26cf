"""Scapy's sockets on rawmmsg: one system call receives a batch of frames.

Link.receive()  ->  Inbox.take()  ->  L2RawMmsgSocket.recv()
"""

import contextlib
import errno
import time
from collections.abc import Sequence
from typing import Any

from scapy.config import conf
from scapy.data import ETH_P_ALL, MTU
from scapy.error import Scapy_Exception, warning
from scapy.interfaces import NetworkInterface, network_name
from scapy.layers.inet import IP
from scapy.packet import Packet
from scapy.sendrecv import debug
from scapy.supersocket import SuperSocket

from .inbox import Inbox, wait_for
from .links import Frame, Link, whole_filter


class L2RawMmsgSocket(SuperSocket):
    """Sends and receives frames at layer 2, in place of conf.L2socket.

    The arguments are those of Scapy's own socket, and also:

    filter      an expression for rawmmsg.bpf, or a compiled program
    timestamps  True: the kernel stamps each packet. False, which costs less:
                `time` of a packet is when its batch arrived

    Received frames contain their VLAN tags, as on the wire. If `type` is not
    ETH_P_ALL, the tags are lost, as in Scapy. recv() cuts frames that are
    longer than Scapy's MTU, 65,535 bytes, as Scapy does.

    fileno() works in event loops. The packet sockets are `ins`, which
    receives, and `outs`, which sends. Do not wait for `ins` alone: packets of
    a batch that are still to be given out do not make it readable.

    Raises OSError by errno, and FilterError (a Scapy_Exception and a
    ValueError) for a filter. No packet that the filter rejects is ever
    received.
    """

    desc = "read/write packets at layer 2 using rawmmsg"

    _sends = True
    # In Scapy, only sockets that cannot send receive what this machine sends.
    _ignore_outgoing: bool | None = True

    closed = True
    """Whether the socket is closed; true until the constructor opens it."""

    def __init__(
        self,
        iface: str | NetworkInterface | None = None,
        type: int = ETH_P_ALL,
        promisc: bool | None = None,
        filter: str | bytes | None = None,
        nofilter: int = 0,
        monitor: bool | None = None,
        *,
        timestamps: bool = False,
    ) -> None:
        if monitor:
            warning("rawmmsg does not switch on monitor mode: use iw(8)")
        self.iface = network_name(iface or conf.iface)
        self.type = type
        self.promisc = bool(conf.sniff_promisc if promisc is None else promisc)
        self._filter = None if nofilter else whole_filter(filter)
        self._timestamps = timestamps
        self.inbox = Inbox()
        self.closed = False
        link = self._open(self.iface, type)
        # Scapy calls only their fileno(), send() and close().
        self.ins = link.receiver  # type: ignore[assignment]
        self.outs = link.sender  # type: ignore[assignment]
        self.LL = link.layer
        self.lvl = link.level

    def _open(self, interface: str, protocol: int) -> Link:
        link = Link(
            interface,
            protocol,
            promisc=self.promisc,
            filter=self._filter,
            timestamps=self._timestamps,
            sends=self._sends,
            ignore_outgoing=self._ignore_outgoing,
        )
        self.inbox.add(link)
        return link

    def recv_raw(
        self, x: int = MTU
    ) -> tuple[type[Packet] | None, bytes | None, float | None]:
        """Returns the next packet: the class that reads it, at most `x` of its
        bytes and its time. Returns (None, None, None) if there is no packet
        after all, as when a link has gone down.

        Raises EOFError if the socket is closed, and BlockingIOError if there
        is no packet and os.set_blocking() has made fileno() non-blocking.
        """
        frame = self.inbox.take()
        if frame is None:
            return None, None, None
        link, data, when = frame
        return link.layer, data[:x], when

    def recv(self, x: int = MTU, **kwargs: Any) -> Packet | None:
        """Returns the next packet, or None if recv_raw() finds none. If a
        packet cannot be dissected, it is of conf.raw_layer."""
        frame = self.inbox.take()
        return None if frame is None else self._dissect(frame, x, kwargs)

    def _dissect(
        self, frame: Frame, size: int, options: dict[str, Any]
    ) -> Packet:
        link, data, when = frame
        data = data[:size]
        try:
            packet = link.layer(data, **options)
        except Exception:
            # A dissector may raise anything for a malformed packet. Scapy's
            # users decide by this option whether that is an error.
            if conf.debug_dissector:
                debug.crashed_on = (link.layer, data)
                raise
            packet = conf.raw_layer(data)
        packet.time = when
        return packet

    def fileno(self) -> int:
        """Returns a descriptor that is readable while recv() has a packet, for
        asyncio, selectors, epoll and others; -1 if the socket is closed.

        It stays the same until then. It is not that of a packet socket but an
        epoll(7) descriptor, which the first call makes: a socket whose
        fileno() nobody calls has none.
        """
        return self.inbox.fileno()

    @staticmethod
    def select(
        sockets: Sequence[Any], remain: float | None = conf.recv_poll_rate
    ) -> list[Any]:
        """Waits until some of the sockets, of this or another class, can be
        read, for at most `remain` seconds (None: for ever); returns those."""
        held = [
            one
            for one in sockets
            if isinstance(one, L2RawMmsgSocket) and one.inbox.frames
        ]
        return held or wait_for(sockets, remain)

    def send(self, x: Packet | bytes) -> int:
        """Sends a frame and returns its length. If it is shorter than the link
        header, it is padded to conf.min_pkt_size."""
        data = bytes(x)
        _note_sent(x)
        return self.inbox.links[0].send(data)

    def close(self) -> None:
        """Closes the socket. A sniff that waits on it ends within a second."""
        if not self.closed:
            self.closed = True
            self.inbox.close()


class L2RawMmsgListenSocket(L2RawMmsgSocket):
    """Receives frames at layer 2, including those that this machine sends, in
    place of conf.L2listen."""

    desc = (
        "read packets at layer 2 using rawmmsg. Also receives the packets"
        " going OUT"
    )

    _sends = False
    _ignore_outgoing: bool | None = False

    def send(self, x: Packet | bytes) -> int:
        raise Scapy_Exception("Can't send anything with L2RawMmsgListenSocket")


class L3RawMmsgSocket(L2RawMmsgSocket):
    """Sends and receives packets at layer 3, in place of conf.L3socket.

    A packet leaves by the interface that Scapy's routes name. The socket
    receives everything that comes in by `iface`. By another interface it
    receives the protocols that it has sent there, IPv4 or IPv6: the answers
    to its packets.
    """

    desc = "read/write packets at layer 3 using rawmmsg"

    def send(self, x: Packet | bytes) -> int:
        """Sends a packet and returns the number of bytes sent. If it is too
        long for the interface and conf.auto_fragment is set, it is sent in
        fragments."""
        if not isinstance(x, Packet):
            raise TypeError(
                "a layer 3 socket sends Packet objects, which have a route,"
                f" not {type(x).__name__}"
            )
        link = self._link_for(x)
        data = _with_header(link, x)
        _note_sent(x)
        try:
            return link.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or not conf.auto_fragment:
                raise
            if not isinstance(x, IP):  # only the sender may fragment IPv6
                raise
            pieces: list[Packet] = x.fragment()  # type: ignore[no-untyped-call]
            return sum(link.send(_with_header(link, one)) for one in pieces)

    def _link_for(self, packet: Packet) -> Link:
        """Returns the link by which the packet leaves and its answer comes;
        opens one if there is none."""
        interface = packet.route()[0]
        interface = network_name(interface or conf.iface)
        layer3 = conf.l3types.layer2num
        protocol = layer3.get(type(packet), self.type)
        with self.inbox.opening:
            first = self.inbox.links[0]
            for link in self.inbox.links:
                if link.interface == interface and (
                    # The first link receives what the socket was opened for.
                    link is first or link.covers(protocol)
                ):
                    return link
            return self._open(interface, protocol)

    def _dissect(
        self, frame: Frame, size: int, options: dict[str, Any]
    ) -> Packet:
        packet = super()._dissect(frame, size, options)
        if frame[0].level == 3:
            return packet
        packet.payload.time = packet.time
        return packet.payload


def _with_header(link: Link, packet: Packet) -> bytes:
    """Returns the bytes of a layer 3 packet as they go on the wire."""
    return bytes(packet if link.level == 3 else link.layer() / packet)


def _note_sent(packet: Packet | bytes) -> None:
    """Sets the attribute from which Scapy computes round-trip times."""
    with contextlib.suppress(AttributeError):  # bytes have none
        packet.sent_time = time.time()  # type: ignore[union-attr]
