"""Small frames: the ends of two hosts, the ports of a forwarder between them,
and the contenders that forward in this process.

    end a ------- veth ------- port a   port b ------- veth ------- end b
"""

import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from rawmmsg import RawSocket
from rawmmsg.bridge.direction import Direction
from rawmmsg.bridge.loop import Bridge
from rawmmsg.bridge.ports import SocketPort, parse_port
from rawmmsg.bridge.switching.fabric import Fabric
from rawmmsg.bridge.switching.members import Member
from rawmmsg.testing import veth_pair

from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.link import BACK, HEADER, PATIENCE, Counter, Frames, numbered
from .sides import Ports, Start, kernel_bridge, wait


@dataclass(frozen=True)
class Place:
    """The frames that every forwarder moves: `count` of `size` bytes in each
    burst, in one direction or both."""

    stack: ExitStack
    two_way: bool
    count: int
    size: int


class Stream:
    """Frames from one end to the other."""

    def __init__(
        self, place: Place, source: str, sink: str, header: bytes
    ) -> None:
        keep = place.stack.enter_context
        # protocol=0: it does not receive what it sends
        self._tx = keep(RawSocket(source, protocol=0))
        self._rx = keep(RawSocket(sink, ignore_outgoing=True))
        self._tx.settimeout(PATIENCE)
        self._rx.settimeout(PATIENCE)
        self.counter = keep(Counter(self._rx.fileno()))
        make = numbered(place.size, header)
        self.frames = Frames(place.count, place.size, make=make)

    @property
    def bytes(self) -> int:
        """In a burst."""
        return self.frames.batch * self.frames.size

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
        there = Stream(place, a.a, b.a, HEADER)
        self.back = Stream(place, b.a, a.a, BACK)
        self._streams = [there, self.back] if place.two_way else [there]
        # In a burst:
        self.frames = place.count * len(self._streams)
        self.bytes = sum(stream.bytes for stream in self._streams)

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


def moved_by(start: Start) -> Prepare:
    """A forwarder that moves a burst when it is called."""
    return prepared(
        lambda arena: partial(
            start(arena.stack, arena.ports).run, arena.frames, -1
        )
    )


def bridge_ports(stack: ExitStack, ports: Ports) -> list[SocketPort]:
    """Ports opened by the code of `rawmmsg bridge`."""
    opened = []
    for name in ports:
        port = parse_port(name)
        assert isinstance(port, SocketPort)
        port.open(None)
        stack.callback(port.close)
        opened.append(port)
    return opened


@prepared
def with_the_bridge(arena: Arena) -> Callable[[], object]:
    """The two directions of `rawmmsg bridge`, called as its loop does."""
    a, b = bridge_ports(arena.stack, arena.ports)
    move = _as_a_loop(Bridge(a, b).directions)
    return partial(move, arena.bytes)


@prepared
def with_the_switch(arena: Arena) -> Callable[[], object]:
    """The two ports of `rawmmsg switch`, called as its loop does."""
    switch = Fabric()
    for port in bridge_ports(arena.stack, arena.ports):
        switch.add(port.name, port)
    move = _as_a_loop(switch.members)
    # It learns where both addresses are.
    arena.back.send()
    move(arena.back.bytes)
    arena.back.receive()
    return partial(move, arena.bytes)


def _as_a_loop(
    movers: Sequence[Direction | Member],
) -> Callable[[int], None]:
    """Returns a function that moves so many bytes."""
    ready = select.poll()
    readers = {}
    for mover in movers:
        assert isinstance(mover.source, SocketPort)
        descriptor = mover.source.sock.fileno()
        readers[descriptor] = mover.forward
        ready.register(descriptor, select.POLLIN)

    def move(size: int) -> None:
        end = size + sum(one.bytes_received for one in movers)
        while sum(one.bytes_received for one in movers) < end:
            for descriptor in wait(ready, PATIENCE):
                if readers[descriptor]():
                    raise GroundTruthError("the forwarder would wait")

    return move


@prepared
def with_the_kernel(arena: Arena) -> Callable[[], object]:
    """The kernel's bridge, which forwards while the frames are sent."""
    arena.stack.enter_context(kernel_bridge(*arena.ports))
    # It learns where both addresses are.
    arena.back.send()
    arena.back.receive()
    return lambda: None
