"""Small frames: the ends of two hosts, the ports of a forwarder between them,
and the contenders that forward in this process.

    end a ------- veth ------- port a   port b ------- veth ------- end b
"""

import contextlib
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.bridge.loop import Bridge
from rawmmsg.bridge.ports import Port, parse_port
from rawmmsg.testing import veth_pair

from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.link import AUXDATA, PATIENCE, Counter, Frames, numbered
from ..lab.native import VNET_HDR, Side
from .sides import (
    SMALL_CAPACITY,
    calls,
    kernel_bridge,
    libpcap,
    open_ports,
)

# Locally administered addresses, and the EtherType for local experiments, for
# which the kernel has no handler.
_ADDRESSES: Final = (
    bytes.fromhex("02000000000a"),
    bytes.fromhex("02000000000b"),
)
_ETHERTYPE: Final = bytes.fromhex("88b5")


@dataclass(frozen=True)
class Place:
    """The frames that every forwarder moves: `count` of `size` bytes in each
    burst, in one direction or both."""

    stack: contextlib.ExitStack
    two_way: bool
    count: int
    size: int


class Stream:
    """Frames from one end to the other."""

    def __init__(
        self, place: Place, source: str, sink: str, addresses: bytes
    ) -> None:
        keep = place.stack.enter_context
        # protocol=0: it does not receive what it sends
        self._tx = keep(RawSocket(source, protocol=0))
        self._rx = keep(RawSocket(sink, ignore_outgoing=True))
        self._tx.settimeout(PATIENCE)
        self._rx.settimeout(PATIENCE)
        self.counter = keep(contextlib.closing(Counter(self._rx.fileno())))
        make = numbered(place.size, addresses + _ETHERTYPE)
        self.frames = Frames(place.count, place.size, make=make)

    def send(self) -> None:
        self._tx.sendmmsg_all(self.frames.out)

    def receive(self) -> None:
        """Receives what was sent."""
        done, count = 0, self.frames.batch
        while done < count:
            try:
                done += self._rx.recvmmsg_into(self.frames.into)
            except TimeoutError:
                raise GroundTruthError(
                    f"{count} frames sent, {done} arrived"
                ) from None

    def check(self, times: int) -> None:
        """Checks that all frames have arrived, `times` times, and that the
        last ones are unchanged."""
        self.counter.check(times * self.frames.batch)
        into = self.frames.into
        self.frames.check(into.lengths[: len(into)])


class Arena:
    """The ends and ports for one forwarder. Each has its own, because a second
    packet socket on a port would slow every frame down."""

    def __init__(self, place: Place) -> None:
        a, b = (place.stack.enter_context(veth_pair()) for _ in range(2))
        self.stack = place.stack
        self.ports = a.b, b.b
        first, second = _ADDRESSES
        there = Stream(place, a.a, b.a, second + first)
        self._back = Stream(place, b.a, a.a, first + second)
        self._streams = [there, self._back] if place.two_way else [there]
        # In a burst:
        self.frames = place.count * len(self._streams)
        self.bytes = self.frames * place.size

    def teach(self) -> None:
        """Shows a learning bridge where both addresses are."""
        self._back.send()
        self._back.receive()

    def run(self, forward: Callable[[], object], times: int) -> Slice:
        """Sends a burst, calls `forward`, which moves it, and receives it, so
        many times. Checks that every frame arrived, and that the frames of the
        last burst are unchanged."""
        for stream in self._streams:
            stream.frames.number()
            stream.counter.read()
        sending = forwarding = 0
        for _ in range(times):
            begin = time.perf_counter_ns()
            for stream in self._streams:
                stream.send()
            middle = time.perf_counter_ns()
            forward()
            sending += middle - begin
            forwarding += time.perf_counter_ns() - middle
            for stream in self._streams:
                stream.receive()
        for stream in self._streams:
            stream.check(times)
        frames, ns = times * self.frames, sending + forwarding
        return Slice(
            frames * 1e3 / ns, ns, {"forwarding, ns": forwarding / frames}
        )


Prepare: TypeAlias = Callable[[Place], Ready]


def prepared(start: Callable[[Arena], Callable[[], object]]) -> Prepare:
    """Makes a forwarder ready to run. `start(arena)` returns a function
    that moves a burst."""

    def prepare(place: Place) -> Ready:
        arena = Arena(place)
        forward = start(arena)
        return Ready(lambda times: arena.run(forward, times), arena.frames)

    return prepare


@prepared
def in_c(arena: Arena) -> Callable[[], object]:
    """C, with batches of 64 frames of 2,048 bytes."""
    sockets = open_ports(arena.stack, arena.ports, AUXDATA)
    return _call(arena, calls(arena.stack, sockets, AUXDATA))


@prepared
def in_c_as_the_bridge(arena: Arena) -> Callable[[], object]:
    """C with the sockets and batches of `rawmmsg bridge`."""
    sockets = [port.sock for port in _bridge_ports(arena)]
    options = VNET_HDR | AUXDATA
    return _call(arena, calls(arena.stack, sockets, options))


@prepared
def with_libpcap(arena: Arena) -> Callable[[], object]:
    return _call(arena, libpcap(arena.stack, arena.ports))


@prepared
def with_rawmmsg(arena: Arena) -> Callable[[], object]:
    """A loop that calls the library."""
    a, b = open_ports(arena.stack, arena.ports, AUXDATA)
    batch = PacketBatch(SMALL_CAPACITY)
    ready = select.poll()
    directions = {
        a.fileno(): (a.recvmmsg_into, b.sendmmsg_all),
        b.fileno(): (b.recvmmsg_into, a.sendmmsg_all),
    }
    for descriptor in directions:
        ready.register(descriptor, select.POLLIN)

    def forward() -> None:
        left = arena.frames
        while left > 0:
            for descriptor in _wait(ready):
                receive, send = directions[descriptor]
                left -= receive(batch)
                send(batch)

    return forward


@prepared
def with_the_bridge(arena: Arena) -> Callable[[], object]:
    """The two directions of `rawmmsg bridge`, called as its loop does."""
    there, back = Bridge(*_bridge_ports(arena)).directions
    ready = select.poll()
    readers = {}
    for direction in (there, back):
        descriptor = direction.source.sock.fileno()
        readers[descriptor] = direction.forward
        ready.register(descriptor, select.POLLIN)

    def forward() -> None:
        end = there.bytes_received + back.bytes_received + arena.bytes
        while there.bytes_received + back.bytes_received < end:
            for descriptor in _wait(ready):
                if readers[descriptor]():
                    raise GroundTruthError("rawmmsg bridge would wait")

    return forward


@prepared
def with_the_kernel(arena: Arena) -> Callable[[], object]:
    """The kernel's bridge, which forwards while the frames are sent."""
    arena.stack.enter_context(kernel_bridge()(*arena.ports))
    arena.teach()
    return lambda: None


def _call(arena: Arena, side: Side) -> Callable[[], object]:
    def forward() -> None:
        try:
            side.call("run", arena.frames, -1)
        except OSError as error:
            raise GroundTruthError(str(error)) from error

    return forward


def _wait(ready: select.poll) -> list[int]:
    """The descriptors at which frames wait."""
    events = ready.poll(PATIENCE * 1000)
    if not events:
        raise GroundTruthError("no frame arrived at the forwarder")
    return [descriptor for descriptor, _ in events]


def _bridge_ports(arena: Arena) -> tuple[Port, Port]:
    """Ports opened by the code of `rawmmsg bridge`."""
    a, b = (parse_port(name) for name in arena.ports)
    for port in (a, b):
        port.open(None)
        arena.stack.callback(port.close)
    return a, b
