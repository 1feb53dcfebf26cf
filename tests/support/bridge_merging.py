"""What the tests of the bridge's merging share: flows, what arrives of them,
and one direction of a bridge, step by step."""

import select
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.batched import Batched
from rawmmsg.bridge.batches import make_stacks
from rawmmsg.bridge.merging import Merging
from rawmmsg.bridge.ports import SocketPort, parse_port
from support import WAIT
from support.datagrams import KINDS, Datagram, columns, data
from support.frames import numbered

SIZE = 1_400
COUNT = 10
"""As many as the queue of a Unix datagram socket holds by default."""

TCP = KINDS["tcp4"]


def flow(
    kind: Datagram = TCP, count: int = COUNT, size: int = SIZE
) -> list[bytes]:
    """Consecutive frames of one flow."""
    return replace(kind, payload=data(count * size)).segments(size)


def chained(parts: Iterable[list[bytes]]) -> list[bytes]:
    return list(chain.from_iterable(parts))


def cut(batch: PacketBatch) -> list[bytes]:
    """The frames that segmentation makes of a batch."""
    segments = PacketBatch(64, SUPER_FRAME)
    frames: list[bytes] = []
    at = 0, 0
    while at != (len(batch), 0):
        at = batch.segment_into(segments, *at)
        frames += segments.tolist()
    return frames


def cut_frames(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for so many frames, which may arrive merged."""
    got: list[bytes] = []
    while len(got) < count:
        got += cut(arrived(sock))
    return got


def arrived(sock: RawSocket) -> PacketBatch:
    """What has arrived at a socket with vnet_hdr; waits for the first."""
    batch = PacketBatch(64, SUPER_FRAME)
    sock.settimeout(WAIT)
    sock.recvmmsg_into(batch)
    return batch


MARKER = numbered(1)
"""Comes behind all frames before it, because it closes all flows."""


def until_marker(sock: RawSocket) -> PacketBatch:
    """What arrives before the marker, as one batch."""
    got, batch = (PacketBatch(64, SUPER_FRAME) for _ in range(2))
    sock.settimeout(WAIT)
    while not len(got) or bytes(got[-1]) != MARKER:
        sock.recvmmsg_into(batch)
        for i, packet in enumerate(batch):
            got.append(packet)
            for name, column in columns(batch).items():
                columns(got)[name][len(got) - 1] = column[i]
    got.set_count(len(got) - 1)
    return got


class OneWay:
    """From a socket to an interface, one batch at each call."""

    def __init__(
        self,
        stack: ExitStack,
        interface: str,
        *,
        udp: bool = True,
        batch: int | None = None,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.guest = stack.enter_context(ours)
        self.said: list[str] = []
        self.source = self._opened(stack, f"fd:{theirs.detach()}")
        self.sink = self._opened(stack, interface)
        self._merging = Merging(udp, self.said.append)
        stacks, _ = make_stacks(self.source, self.sink, batch)
        self._make = partial(Batched, self.source, self.sink, stacks)
        self.direction = self._make(self._merging)

    def _opened(self, stack: ExitStack, name: str) -> SocketPort:
        port = parse_port(name)
        assert isinstance(port, SocketPort)
        port.open(None)
        stack.callback(port.close)
        return port

    def change_sending(
        self, change: Callable[[RawSocket, PacketBatch, int], int]
    ) -> None:
        """Lets the sink send with this function."""
        self.sink.sendmmsg = partial(change, self.sink.sock)
        self.direction = self._make(self._merging)

    def send(self, packets: Sequence[bytes]) -> None:
        """Forwards frames, in batches of 64, and waits until they are sent or
        dropped."""
        for packet in packets:
            self.guest.send(packet)
        while select.select([self.source.sock], [], [], 0)[0]:
            self.direction.forward()
            self.finish()

    def finish(self) -> None:
        while not self.direction.accepts:
            self.direction.resume()

    @property
    def dropped(self) -> dict[str, int]:
        dropped = self.direction.dropped
        counts = {name: getattr(dropped, name) for name in dropped.__slots__}
        return {name: count for name, count in counts.items() if count}
