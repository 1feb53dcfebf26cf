"""Scapy's sockets on rawmmsg: one system call receives a batch of frames."""

import contextlib
import errno
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from scapy.config import conf
from scapy.data import ETH_P_ALL, MTU
from scapy.error import Scapy_Exception, warning
from scapy.interfaces import NetworkInterface, network_name
from scapy.layers.inet import IP
from scapy.packet import Packet
from scapy.sendrecv import debug
from scapy.supersocket import SuperSocket

from .events import Readiness, renew_after_fork
from .links import Link, whole_filter

# A socket that another thread closes, or whose interface is deleted, can leave
# a poll(2) without an event: look again this often, in seconds.
_SLICE: Final = 1.0

# Held while a socket gets its descriptor or another link. Reentrant, because a
# signal handler may do the same at that moment.
_opening = threading.RLock()


def _renew_lock() -> None:
    """In a forked child, where the thread that held the lock is missing."""
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)

_Frame: TypeAlias = tuple[Link, bytes, float]


class L2RawMmsgSocket(SuperSocket):
    """Sends and receives frames at layer 2, in place of conf.L2socket.

    The arguments are those of Scapy's own socket, and

    filter      an expression for rawmmsg.bpf, or a compiled program
    timestamps  have the kernel stamp each packet. Without, which costs less,
                `time` of a packet is when its batch arrived

    Received VLAN tags are in the frame, as on the wire. `type` other than
    ETH_P_ALL loses them, as in Scapy. Frames longer than Scapy's MTU are cut
    by recv(), to 65,535 bytes, as Scapy does.

    fileno() works in event loops. The packet sockets are `ins`, which
    receives, and `outs`, which sends: `ins` alone does not tell of packets
    that have been received in a batch and not given out yet.

    Raises OSError by errno, FilterError (a Scapy_Exception and a ValueError)
    for a filter: no packet that it rejects is ever received.
    """

    desc = "read/write packets at layer 2 using rawmmsg"

    _sends = True
    # Scapy sees what others send only through sockets that do not send.
    _ignore_outgoing: bool | None = True

    links: tuple[Link, ...] = ()
    _readiness: Readiness | None = None

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
            warning("rawmmsg does not switch monitor mode: use iw(8)")
        self.iface = network_name(iface or conf.iface)
        self.type = type
        self.promisc = bool(conf.sniff_promisc if promisc is None else promisc)
        self._filter = None if nofilter else whole_filter(filter)
        self._timestamps = timestamps
        self._frames: deque[_Frame] = deque()
        self._selected = False
        link = self._open(self.iface, type)
        # What Scapy calls for is fileno(), send() and close().
        self.ins = link.receiver  # type: ignore[assignment]
        self.outs = link.sender  # type: ignore[assignment]
        self.LL = link.layer
        self.lvl = link.level
        renew_after_fork(self)

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
        self.links += (link,)
        readiness = self._readiness
        if readiness is not None:
            readiness.add(link.receiver)
        if self.closed:  # meanwhile, by another thread or a signal handler
            link.close()
        return link

    # Receiving

    @property
    def holds(self) -> bool:
        """Whether packets of a batch have not been given out yet."""
        return bool(self._frames)

    def fill(self) -> bool:
        """Receives a batch where none is held, without waiting; False where
        nothing waits.

        A link that has gone down makes it True, with nothing held: to whom
        waited, that is an event.
        """
        return bool(self._frames) or self._receive()

    def _receive(self) -> bool:
        """Receives a batch of each link; False where nothing waits."""
        came = False
        try:
            for link in self.links:
                with contextlib.suppress(BlockingIOError):
                    self._frames.extend(link.receive())
                    came = True
        finally:
            if self._frames:  # also those of a link before one that fails
                self._note_held()
        return came

    def discard_until(self, wanted: Callable[[bytes], object]) -> bool:
        """Discards the frames that are held up to one that is wanted; False
        where none is."""
        while (frame := self.pop()) is not None:
            if wanted(frame[1]):
                self.put_back([frame])
                return True
        return False

    def put_back(self, frames: Sequence[_Frame]) -> None:
        """Has frames be the next to be given out."""
        self._frames.extendleft(reversed(frames))
        self._note_held()

    def pop(self) -> _Frame | None:
        """The next of the frames that are held."""
        # Not asked first: another thread may be taking the last one.
        try:
            frame = self._frames.popleft()
        except IndexError:
            return None
        if not self._frames:
            self._note_held()
        return frame

    def _take(self) -> _Frame | None:
        """The next frame: waits for one, unless select() has just said that
        there is one, or fileno() has O_NONBLOCK."""
        selected, self._selected = self._selected, False
        while not self._frames:
            if self.closed:
                raise EOFError("the socket is closed")
            if self._receive() or selected:
                break
            readiness = self._readiness
            if readiness is not None and not readiness.blocking:
                number = errno.EAGAIN
                raise BlockingIOError(number, os.strerror(number))
            self.select([self], None)
        frame = self.pop()
        if self._frames:
            # Edge-triggered waiters need an event for each packet left.
            self._note_held()
        return frame

    def _note_held(self) -> None:
        """Has fileno(), if anybody has asked for it, be readable while frames
        are held."""
        readiness = self._readiness
        if readiness is not None:
            readiness.follow(self._frames)

    def recv_raw(
        self, x: int = MTU
    ) -> tuple[type[Packet] | None, bytes | None, float | None]:
        """The next packet: the class that reads it, at most `x` of its bytes
        and its time; None three times where select() was wrong, or the link
        has gone down.

        Raises EOFError when the socket is closed, and BlockingIOError when
        there is no packet and fileno() has been made non-blocking
        (os.set_blocking()).
        """
        frame = self._take()
        if frame is None:
            return None, None, None
        link, data, when = frame
        return link.layer, data[:x], when

    def recv(self, x: int = MTU, **kwargs: Any) -> Packet | None:
        """The next packet, or None where recv_raw() has none. What cannot be
        dissected is a packet of conf.raw_layer."""
        frame = self._take()
        return None if frame is None else self._dissect(frame, x, kwargs)

    def _dissect(
        self, frame: _Frame, size: int, options: dict[str, Any]
    ) -> Packet:
        link, data, when = frame
        data = data[:size]
        try:
            packet = link.layer(data, **options)
        except Exception:
            # Dissectors meet malformed packets: Scapy's users decide by this
            # option whether that is an error.
            if conf.debug_dissector:
                debug.crashed_on = (link.layer, data)
                raise
            packet = conf.raw_layer(data)
        packet.time = when
        return packet

    # Waiting

    def fileno(self) -> int:
        """A descriptor that is readable while recv() has a packet, for
        asyncio, selectors, epoll and others; -1 when the socket is closed.

        It is the same one until then, and not that of a packet socket but an
        epoll(7) descriptor, which the first call makes. Sockets whose
        fileno() nobody calls do without it.
        """
        if self._readiness is None and not self.closed:
            with _opening:
                made = Readiness(link.receiver for link in self.links)
                if self._readiness is None:
                    self._readiness = made
            self._note_held()
            if self.closed:  # meanwhile
                self._readiness = None
        readiness = self._readiness
        return -1 if readiness is None else readiness.fileno()

    def _descriptors(self) -> list[int]:
        return [link.receiver.fileno() for link in self.links]

    def _has_news(self) -> bool:
        """Whether recv() would return, or raise, at once."""
        try:
            return self.fill()
        except (OSError, EOFError):
            return True

    @staticmethod
    def select(
        sockets: Sequence[Any], remain: float | None = conf.recv_poll_rate
    ) -> list[Any]:
        """Waits until some of the sockets, ours or others, can be read, for at
        most `remain` seconds (None: for ever), and returns those."""
        held = [
            one
            for one in sockets
            if isinstance(one, L2RawMmsgSocket) and one._frames
        ]
        return held or wait_for(sockets, remain)

    # Sending

    def send(self, x: Packet | bytes) -> int:
        """Sends a frame; returns its bytes. One shorter than the link header
        is padded to conf.min_pkt_size."""
        data = bytes(x)
        _note_sent(x)
        return self.links[0].send(data)

    # The end

    def close(self) -> None:
        """Closes the socket; a sniff that waits on it ends within a second."""
        if self.closed:
            return
        self.closed = True
        self._readiness = None
        for link in self.links:
            link.close()

    def renew_after_fork(self) -> None:
        """In a forked child: what it waits for is its own from now on."""
        readiness = self._readiness
        if readiness is not None:
            readiness.renew(link.receiver for link in self.links)
            readiness.follow(self._frames)


class L2RawMmsgListenSocket(L2RawMmsgSocket):
    """Receives frames at layer 2, also those that this machine sends, in
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
        """Sends a packet; returns the bytes sent. One that is too long for the
        interface is fragmented where conf.auto_fragment says so."""
        if not isinstance(x, Packet):
            raise TypeError("layer 3 needs a packet, for its route")
        link = self._link_for(x)
        data = _with_header(link, x)
        _note_sent(x)
        try:
            return link.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or not conf.auto_fragment:
                raise
            if not isinstance(x, IP):  # only IPv4 is cut on the way
                raise
            pieces: list[Packet] = x.fragment()  # type: ignore[no-untyped-call]
            return sum(link.send(_with_header(link, one)) for one in pieces)

    def _link_for(self, packet: Packet) -> Link:
        interface = packet.route()[0]
        interface = network_name(interface or conf.iface)
        layer3 = conf.l3types.layer2num
        protocol = layer3.get(type(packet), self.type)
        with _opening:
            for link in self.links:
                if link.interface == interface and (
                    # The first link receives what the socket was opened for.
                    link is self.links[0] or link.covers(protocol)
                ):
                    return link
            return self._open(interface, protocol)

    def _dissect(
        self, frame: _Frame, size: int, options: dict[str, Any]
    ) -> Packet:
        packet = super()._dissect(frame, size, options)
        if frame[0].level == 3:
            return packet
        packet.payload.time = packet.time
        return packet.payload


def _with_header(link: Link, packet: Packet) -> bytes:
    """A packet of layer 3 as it goes on the wire."""
    return bytes(packet if link.level == 3 else link.layer() / packet)


def _note_sent(packet: Packet | bytes) -> None:
    """Scapy reckons round-trip times from this attribute."""
    with contextlib.suppress(AttributeError):  # bytes have none
        packet.sent_time = time.time()  # type: ignore[union-attr]


def wait_for(sockets: Sequence[Any], remain: float | None) -> list[Any]:
    """Waits until some of the sockets can be read and returns those; select()
    where nothing is held."""
    own = [one for one in sockets if isinstance(one, L2RawMmsgSocket)]
    deadline = math.inf if remain is None else time.monotonic() + remain
    while True:
        rest = max(0.0, min(_SLICE, deadline - time.monotonic()))
        ready = _poll(sockets, rest)
        if not ready and rest == _SLICE:
            ready = [one for one in own if one._has_news()]
        for one in own:
            one._selected = one in ready
        if ready or time.monotonic() >= deadline:
            return ready


def _poll(sockets: Sequence[Any], seconds: float) -> list[Any]:
    """Those with an event, in their order."""
    # poll(2), for select(2) knows no descriptor beyond 1,023.
    poller = select.poll()
    owners: dict[int, Any] = {}
    for one in sockets:
        ours = isinstance(one, L2RawMmsgSocket)
        for number in one._descriptors() if ours else [one.fileno()]:
            if number < 0:  # closed, which reading it will say
                return [one]
            owners[number] = one
            poller.register(number, select.POLLIN)
    events = poller.poll(math.ceil(seconds * 1000))
    return list(dict.fromkeys(owners[number] for number, _ in events))
