"""Contenders that send UDP datagrams: merged into super-frames, and not."""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from typing import Final

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth

from ..forward.hosts import run
from ..lab import peers
from ..lab.contender import GroundTruthError, Ready, UnavailableError
from ..lab.far_side import FarSide
from ..lab.link import PATIENCE, Ends, Frames
from ..lab.native import Side
from ..lab.packets import DESTINATION, ETHERNET
from ..send import sides
from .frames import HEAD, HEADERS, PORT, Datagrams, joined

# Super-frames that are merged before a call sends them: few enough that they
# are still in the CPU's cache. The same in side.c.
AT_ONCE: Final = 16

_LONGEST: Final = 2048  # bytes of a datagram; a super-frame is longer
_ROOM: Final = 1 << 23  # of a receive buffer, as RawSocket asks for
_SO_RCVBUFFORCE: Final = 33  # <asm-generic/socket.h>
_THEIR_ADDRESS: Final = ETHERNET[:6].hex(":")
_OTHER_ADDRESS: Final = "02:00:00:00:00:0c"


class Place(sides.Place):
    """A veth pair and the datagrams that contenders send on it. Without
    `segments` the sending interface cannot segment UDP, so that the kernel
    cuts super-frames before it. `proof` is how many datagrams a contender
    sends before it is timed."""

    def __init__(
        self, batch: int, size: int, proof: int, *, segments: bool = True
    ) -> None:
        ethtool = None if segments else peers.program("ethtool")
        super().__init__(batch, size)
        name = self.shared.veth.a
        self.tx = self.enter_context(
            RawSocket(name, protocol=0, vnet_hdr=True)
        )
        self.tx.settimeout(PATIENCE)
        self.joined = joined(size)
        self._proof = proof
        if ethtool is not None:
            run([ethtool, "-K", name, "tx-udp-segmentation", "off"])
            self.joined = 1

    def make_frames(self, batch: int, size: int) -> Frames:
        make = Datagrams(size)
        return Frames(batch, size, room=size, make=make, head=HEAD)

    def make_far_side(self, veth: Veth) -> FarSide:
        return FarSide(veth, HEADERS, vnet_hdr=True)

    def prove(self, ends: Ends, send: Callable[[int], object]) -> None:
        """Every datagram is compared, by a packet socket after super-frames
        have been cut, and by a UDP socket. Each time as many are sent as their
        queues can keep."""
        fitting = max(1, self.far_side(ends).capacity // self.frames.batch)
        left = -(-self._proof // self.frames.batch)
        with _udp(ends.veth) as sock:
            while left > 0:
                times = min(left, fitting)
                left -= times
                send(times)
                _compare(sock, self.frames.packets * times)


@contextlib.contextmanager
def _udp(veth: Veth) -> Iterator[socket.socket]:
    """A UDP socket that the datagrams are addressed to. It does not ask for
    UDP_GRO, so the kernel cuts super-frames for it.

    Outside of this context the datagrams are addressed to another machine, and
    the kernel discards them as soon as packet sockets have seen them.
    """
    ip, name = peers.program("ip"), veth.b
    address = socket.inet_ntoa(DESTINATION)
    run([ip, "address", "add", f"{address}/24", "dev", name])
    try:
        run([ip, "link", "set", "dev", name, "address", _THEIR_ADDRESS])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, PORT))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            yield sock
    finally:
        run([ip, "link", "set", "dev", name, "address", _OTHER_ADDRESS])
        run([ip, "address", "flush", "dev", name])


def _compare(sock: socket.socket, packets: list[bytes]) -> None:
    """Checks that the socket has received the payload of these packets."""
    received = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(sock.recv(_LONGEST))
    if received != [packet[HEADERS:] for packet in packets]:
        raise GroundTruthError(
            f"of {len(packets)} datagrams a UDP socket received"
            f" {len(received)}, or they were changed"
        )


def send_in_c(place: Place) -> Callable[[int], None]:
    """Merges the batch in C and sends it, so many times."""
    setup = ("merging/side.c", place.shared.names, place.frames)
    side = Side(place, *setup, tx=place.tx.fileno())

    def send(times: int) -> None:
        side.call("run", times)

    return send


def send_merged(frames: Frames, tx: RawSocket) -> Callable[[int], None]:
    """The same with merge_into()."""
    target = PacketBatch(AT_ONCE, SUPER_FRAME)
    merge, size = frames.out.merge_into, frames.batch
    send_all = tx.sendmmsg_all

    def send(times: int) -> None:
        for _ in range(times):
            at = 0
            while at < size:
                at = merge(target, at)
                send_all(target)

    return send


def require_super_frames() -> None:
    """Raises UnavailableError if the kernel takes no UDP super-frames."""
    with Ends(vnet_hdr=True) as ends:
        try:
            send_merged(Frames(2, HEAD, make=Datagrams(HEAD)), ends.tx)(1)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            what = "a kernel that takes UDP super-frames"
            raise UnavailableError(what, "Linux 6.2") from error


def in_c(place: Place) -> Ready:
    return _ready(place, send_in_c(place))


def rawmmsg(place: Place) -> Ready:
    return _ready(place, send_merged(place.frames, place.tx))


def _ready(place: Place, send: Callable[[int], None]) -> Ready:
    return sides.ready(place, place.shared, send, joined=place.joined)
